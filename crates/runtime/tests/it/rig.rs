//! Virtual time: the same machines, the same log, no waiting.

use std::time::Duration;

use holmes_kernel::ports::Journal as _;
use holmes_kernel::{At, Call, Handle as _, Id, Machine as _, Origin, Time};
use holmes_runtime::{Rig, Seat};
use holmes_store::journal::memory;

use crate::ear::{self, Ear};
use crate::support::{Fault, Faulty, START, breathe, deposit, poke, reason};
use crate::till::{self, Command, Failure, Manner, Refused, Till};

type TillSeat = Seat<Till, memory::Journal>;

struct Town {
    rig: Rig<memory::Journal>,
    tills: Vec<TillSeat>,
    journal: memory::Journal,
    asked: u64,
}

impl Town {
    fn new() -> Town {
        let journal = memory::Journal::new();
        let mut rig = Rig::new(journal.clone(), START);
        let tills = [1, 2].map(|cell| rig.add::<Till>(till::log(cell), till::opened(cell)).unwrap()).to_vec();
        Town { rig, tills, journal, asked: 0 }
    }

    fn ask(&mut self, till: usize, command: Command) -> Result<till::Reply, String> {
        self.asked += 1;
        let mut random = [0; 10];
        random[3..].copy_from_slice(&self.asked.to_be_bytes()[1..]);
        let id = Id::v7(self.rig.now().millis(), random);
        let asked = self.tills[till].submit(Call::request(till::owner(1), id), command);
        match poke(&mut Box::pin(asked)) {
            std::task::Poll::Ready(answer) => answer.map(|a| a.value).map_err(|why| why.reason.into_owned()),
            std::task::Poll::Pending => panic!("a rig never waits"),
        }
    }

    /// A day in town, drawn from a seed; the digests in the evening.
    fn live(&mut self, mut seed: u64) -> Vec<[u8; 16]> {
        let mut draw = move |below: u64| {
            seed = seed.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
            (seed >> 33) % below
        };
        for n in 0..300 {
            let (at, from) = (draw(2) as usize, till::account(draw(4) as u8));
            let command = match draw(8) {
                0..3 => Command::Deposit { to: from, units: draw(900) },
                3 => Command::Pay { from, to: till::account(draw(4) as u8), units: draw(300) },
                4 | 5 => Command::Pay { from, to: till::ABROAD, units: draw(100) },
                6 => {
                    let id = Id::from_bytes([n as u8; 16]);
                    Command::SetAlarm {
                        id,
                        after_ms: draw(5_000),
                        rings: 1 + draw(3) as u32,
                        manner: Manner::Well,
                    }
                }
                _ => Command::Fail { how: Failure::Evolve, n: draw(3) },
            };
            let _ = self.ask(at, command); // many are refused, and that is part of the day
            self.rig.advance(Duration::from_micros(draw(400_000)));
        }
        self.rig.advance(Duration::from_secs(60));
        self.tills.iter().map(Seat::digest).collect()
    }
}

#[test]
#[should_panic(expected = "never rest")]
fn a_machine_that_is_always_due_is_told_and_not_waited_for() {
    let mut town = Town::new();
    let id = Id::from_bytes([1; 16]);
    town.ask(0, Command::SetAlarm { id, after_ms: 0, rings: u32::MAX, manner: Manner::Well }).unwrap();
    town.rig.advance(Duration::from_secs(1));
}

#[test]
fn the_same_seed_gives_the_same_day_and_a_restart_changes_nothing() {
    let mut days = Vec::new();
    for seed in [1, 1, 2] {
        let mut town = Town::new();
        days.push(town.live(seed));
        assert_eq!(town.rig.check(), vec![]);
        assert_eq!(town.rig.restart().unwrap(), Vec::<&str>::new());
        assert_eq!(town.tills.iter().map(Seat::digest).collect::<Vec<_>>(), *days.last().unwrap());
        assert!(town.tills.iter().all(|till| till.look(|state| state.alarms.is_empty())));
    }
    assert_eq!(days[0], days[1]);
    assert_ne!(days[0], days[2]);
}

#[test]
fn every_payment_abroad_is_heard_once_on_virtual_time_too() {
    let mut town = Town::new();
    town.ask(0, deposit(1, 1_000)).unwrap();
    for n in 1..=20 {
        town.ask(0, Command::Pay { from: till::account(1), to: till::ABROAD, units: n }).unwrap();
        if n % 5 == 0 {
            town.rig.settle();
            town.rig.restart().unwrap();
        }
    }
    town.rig.settle();
    assert_eq!(town.tills[1].look(|state| state.balance(till::account(1))), 210);
    assert!(!town.rig.settle(), "all is heard");
}

#[test]
fn time_stops_at_every_moment_at_which_something_is_due() {
    let mut town = Town::new();
    let alarm =
        |n, after_ms| Command::SetAlarm { id: till::account(n), after_ms, rings: 1, manner: Manner::Well };
    for (n, after) in [(1, 1_000), (2, 2_500), (3, 2_500), (4, 90_000)] {
        town.ask(0, alarm(n, after)).unwrap();
    }
    let due: Vec<Time> = town.tills[0].look(|state| state.alarms.keys().map(|(at, _)| *at).collect());
    town.rig.advance(Duration::from_secs(10));
    assert_eq!(town.rig.now(), START.after_millis(10_000));
    let mut frames = Box::pin(town.journal.read(till::log(1), 0, usize::MAX));
    let std::task::Poll::Ready(Ok(frames)) = poke(&mut frames) else { panic!("memory answers at once") };
    let rang = frames.iter().filter(|frame| {
        frame.entries().unwrap().iter().any(|(_, entry)| matches!(entry.origin, Some(Origin::Due(_))))
    });
    let rang: Vec<Time> = rang.map(|frame| frame.header().ts).collect();
    assert_eq!(rang.first(), due.first());
    assert!(
        rang.contains(&due[1]) && rang.iter().all(|at| at.micros() <= due[2].micros()),
        "{rang:?} {due:?}"
    );
    assert_eq!(town.tills[0].look(|state| state.alarms.len()), 1);
    assert_eq!(town.rig.check(), vec![]);
}

#[test]
fn what_a_rig_answers_is_what_the_driver_would_answer() {
    let mut town = Town::new();
    let call = Call::request(till::owner(1), Id::v7(START.millis(), [1; 10]));
    let ask = |town: &Town, command| match poke(&mut Box::pin(town.tills[0].submit(call.clone(), command))) {
        std::task::Poll::Ready(answer) => answer,
        std::task::Poll::Pending => panic!("a rig never waits"),
    };
    let first = ask(&town, deposit(1, 5)).unwrap();
    assert_eq!(ask(&town, deposit(1, 5)).unwrap(), first);
    town.rig.restart().unwrap();
    assert_eq!(ask(&town, deposit(1, 5)).unwrap(), first);
    assert_eq!(reason(ask(&town, deposit(1, 6))), "REQUEST_ID_REUSED");
    assert_eq!(town.ask(0, Command::Fail { how: Failure::Evolve, n: 1 }), Err("POISONED".into()));
    let poor = Command::Pay { from: till::account(9), to: till::account(1), units: 1 };
    let why = holmes_kernel::Refusal::of(&Refused::NoFunds { has: 0 });
    assert_eq!(town.ask(0, poor), Err(why.reason.into_owned()));
    assert_eq!(town.rig.check(), vec![]);
}

#[test]
fn in_a_rig_too_a_delivery_that_panics_is_refused_and_a_reaction_that_panics_parks_its_source() {
    let mut town = Town::new();
    let ear = town.rig.add::<Ear>(ear::LOG, ear::opened()).unwrap();
    let heard = || ear.look(|state| state.heard.clone());
    town.ask(0, deposit(1, 100_000)).unwrap();
    let pay = |units| Command::Pay { from: till::account(1), to: till::account(2), units };
    for units in [1, ear::PAINFUL, 2, 3] {
        town.ask(0, pay(units)).unwrap();
    }
    town.rig.settle();
    assert_eq!(heard(), [1, 2, 3]);
    assert_eq!(town.rig.check(), vec![]);
    town.ask(0, pay(ear::DEAFENING)).unwrap();
    town.ask(0, pay(4)).unwrap();
    town.rig.settle();
    assert_eq!(heard(), [1, 2, 3]);
    let broken = town.rig.check();
    assert!(broken.len() == 1 && broken[0].0.contains("parked"), "{broken:?}");
    let asked = ear.submit(
        Call::request(till::owner(1), Id::v7(START.millis(), [1; 10])),
        ear::Command::Hear { units: 9 },
    );
    assert!(matches!(poke(&mut Box::pin(asked)), std::task::Poll::Ready(Ok(_))), "the ear itself goes on");
}

#[tokio::test]
async fn a_rig_whose_journal_failed_shows_nothing_of_what_was_not_durable() {
    let journal = Faulty::over(memory::Journal::new().into());
    let mut rig = Rig::new(journal.clone(), START);
    let till = rig.add::<Till>(till::log(1), till::opened(1)).unwrap();
    journal.fail_next(Fault::Fails(holmes_kernel::ports::JournalError::Full("full".into())));
    let call = Call::request(till::owner(1), Id::v7(START.millis(), [1; 10]));
    assert_eq!(reason(till.submit(call, deposit(1, 1)).await), "LOG_HALTED");
    assert_eq!(reason(till.read(At::Latest, |state| state.balance(till::account(1))).await), "LOG_HALTED");
    breathe().await;
    assert_eq!(rig.check().len(), 1);
    // It comes back as a process would: from what is durable. Others are not touched.
    assert_eq!(rig.restart_where(|name| name != Till::NAME).unwrap(), Vec::<&str>::new());
    assert_eq!(rig.check().len(), 1);
    assert_eq!(rig.restart_where(|name| name == Till::NAME).unwrap(), Vec::<&str>::new());
    assert_eq!(rig.check(), vec![]);
    let call = Call::request(till::owner(1), Id::v7(START.millis(), [2; 10]));
    assert!(till.submit(call, deposit(1, 1)).await.is_ok());
}

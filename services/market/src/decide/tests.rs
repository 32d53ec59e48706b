//! Given, when, then: what the real ledger's tests cannot reach.

use holmes_kernel::machine::Rejection as _;
use holmes_kernel::{Ctx, Id, LogId, Machine, Meta, Opened, Principal, PrincipalKind, ServiceId, Time};
use holmes_proto::heard::Refused;
use holmes_proto::market::v1::event::Event as Kind;
use holmes_proto::market::v1::{Event, WorkCredit};

use super::bytes;
use crate::command::{Metered, OpenSession};
use crate::state::{Session, Stage};
use crate::{Command, LEDGER, Market, SCHEDULING, State, params};

const USD: u32 = 2;
const DOLLAR: u64 = 1_000_000;
const ALICE: Principal = Principal::new(PrincipalKind::Account, Id::from_bytes([1; 16]));
const OWNER: Principal = Principal::new(PrincipalKind::Account, Id::from_bytes([11; 16]));
const STAFF: Principal = Principal::new(PrincipalKind::Staff, Id::from_bytes([7; 16]));
const TELLER: Principal = Principal::service(LEDGER);
const SESSION: Id = Id::from_bytes([5; 16]);

/// A market whose accounts are open, in which Alice and an owner of nodes have named an account.
struct Given {
    state: State,
    now: Time,
    seq: u64,
}

/// The account that somebody names.
fn account(of: Principal) -> Id {
    Id::v7(1, [of.id.to_bytes()[0]; 10])
}

impl Given {
    fn new() -> Given {
        let opened = Opened { params: params::encoded_defaults(), ..Opened::default() };
        let state = Market::init(&opened).unwrap();
        let mut given = Given { state, now: Time::from_millis(20_832 * 86_400_000), seq: 1 };
        given.done(Principal::SYSTEM, Command::Begin);
        while given.state.purses.iter().any(|purse| !purse.open) {
            given.done(Principal::SYSTEM, Command::OpenAccounts);
            given.answer(None);
        }
        for who in [ALICE, OWNER] {
            given.done(who, Command::SetAccount { asset: USD, account: account(who) });
        }
        given
    }

    /// With a session of a dollar, on which so many micro-dollars were metered.
    fn metered(micro: u64) -> Given {
        let mut given = Given::new();
        given.done(ALICE, open());
        given.answer(None);
        given.done(Principal::service(SCHEDULING), calls(micro));
        given
    }

    fn when(&mut self, principal: Principal, command: Command) -> Result<Vec<Kind>, &'static str> {
        self.now = self.now.next();
        let ctx = Ctx { now: self.now, principal, log: LogId::new(1, ServiceId(5)), term: 1, seq: self.seq };
        let mut events: Vec<Event> = Vec::new();
        Market::decide(&self.state, &command, &ctx, &mut events).map_err(|why| why.reason())?;
        for event in &events {
            let meta = Meta { ts: self.now, principal, term: 1, seq: self.seq };
            Market::evolve(&mut self.state, event, &meta);
            self.seq += 1;
        }
        assert_eq!(Market::check_step(&self.state, &events), Ok(()), "{command:?}");
        assert_eq!(Market::check(&self.state), [], "{command:?}");
        Ok(events.into_iter().filter_map(|event| event.event).collect())
    }

    fn done(&mut self, principal: Principal, command: Command) -> Vec<Kind> {
        let kinds = self.when(principal, command).unwrap();
        assert!(!kinds.is_empty());
        kinds
    }

    /// The ledger answers what is awaited last.
    fn answer(&mut self, refused: Option<(&str, u32)>) -> Vec<Kind> {
        let seq = *self.state.awaited.keys().next_back().unwrap();
        let refused = refused.map(|(reason, at)| Refused { reason: reason.into(), at: Some(at) });
        self.done(TELLER, Command::Answered { seq, refused })
    }

    /// Time passes, and what is due is done once.
    fn attend(&mut self, ms: u64) -> Vec<Kind> {
        self.now = self.now.after_millis(ms);
        self.done(Principal::SYSTEM, Command::Attend)
    }

    fn session(&self) -> &Session {
        self.state.sessions.get(&SESSION).unwrap()
    }
}

fn open() -> Command {
    Command::OpenSession(OpenSession { session: SESSION, renter: None, asset: None, budget: Some(DOLLAR) })
}

fn calls(micro: u64) -> Command {
    let metered = Metered {
        session: SESSION,
        node: Id::from_bytes([9; 16]),
        owner: OWNER,
        credit: WorkCredit::Full as u8,
        calls: 1,
        input_tokens: 1,
        output_tokens: 2,
        pico: u128::from(micro) * 1_000_000,
        micro_units: u128::from(micro) * 1_000_000,
    };
    Command::NoteCalls { metered: vec![metered], drained: Vec::new(), leased: Vec::new() }
}

#[test]
fn nobody_speaks_for_time_for_the_ledger_or_for_scheduling() {
    let mut given = Given::metered(1);
    let of_time = [Command::Begin, Command::OpenAccounts, Command::Attend, Command::PayOwed, Command::Seal];
    let of_others = [calls(1), Command::Answered { seq: 1, refused: None }];
    for command in of_time.into_iter().chain(of_others) {
        for who in [ALICE, STAFF, Principal::service(ServiceId(9))] {
            assert_eq!(given.when(who, command.clone()), Err("FORBIDDEN"), "{command:?}");
        }
    }
    assert_eq!(given.when(TELLER, calls(1)), Err("FORBIDDEN"));
}

#[test]
fn a_hold_that_is_gone_pays_nobody_and_the_session_closes_with_the_ledgers_reason() {
    // E-9.1: nothing is billed that no hold covers; what was metered is on the record.
    let mut given = Given::metered(1_000);
    given.attend(60_000);
    let kinds = given.answer(Some(("HOLD_ENDED", 0)));
    assert!(matches!(kinds.as_slice(), [Kind::HoldLost(_), Kind::SessionClosing(_)]), "{kinds:?}");
    assert_eq!((given.session().metered, given.state.unbilled.pico), (0, 1_000_000_000));
    let late = given.done(Principal::service(SCHEDULING), calls(7));
    assert!(matches!(late.as_slice(), [Kind::CallsUnbilled(e)] if e.reason == "SESSION_CLOSED"), "{late:?}");
    let kinds = given.attend(60_000);
    assert!(matches!(kinds.as_slice(), [Kind::SessionClosed(e)] if e.reason == "HOLD_ENDED"), "{kinds:?}");
}

#[test]
fn what_is_asked_again_has_other_ids_and_the_same_amounts() {
    // E-2.3: the ledger would give a refusal again under its id.
    let mut given = Given::metered(1_000);
    let send = |kinds: &[Kind]| match kinds.last() {
        Some(Kind::SettlementSent(e)) => (e.send.clone(), e.hold.clone(), e.hold_units),
        other => panic!("{other:?}"),
    };
    let first = send(&given.attend(60_000));
    given.answer(Some(("INTERNAL", 3)));
    let second = send(&given.attend(60_000));
    assert!(first.0 != second.0 && first.1 != second.1 && first.2 == second.2);
    given.answer(Some(("INTERNAL", 3)));
    let due = Market::due(&given.state).unwrap().0;
    assert_eq!(due, given.now.after_millis(120_000)); // with back-off
    send(&given.attend(120_000));
    let settled = given.answer(None);
    assert!(matches!(settled.as_slice(), [Kind::Settled(_), Kind::SessionFunded(_)]), "{settled:?}");
    let late = given.when(TELLER, Command::Answered { seq: 3, refused: None });
    assert_eq!(late, Ok(vec![])); // an answer to none is dropped
}

#[test]
fn a_transfer_id_that_somebody_has_taken_costs_nobody_anything() {
    // E-2.3: ids can be guessed; neither an owner's account nor the renter's funds are at fault.
    let mut given = Given::new();
    let kinds = given.done(ALICE, open());
    let [Kind::SessionOpened(opened)] = kinds.as_slice() else { panic!() };
    let again = given.answer(Some(("EXISTS_DIFFERENT", 0)));
    let [Kind::HoldSent(sent)] = again.as_slice() else { panic!("{again:?}") };
    assert!(sent.hold != opened.hold && sent.send != opened.send);
    given.answer(None);
    assert_eq!(given.session().hold.map(|hold| bytes(hold.id)), Some(sent.hold.clone()));
    given.done(Principal::service(SCHEDULING), calls(1_000));
    given.attend(60_000);
    for at in [0, 1, 2, 3, 4] {
        let refused = given.answer(Some(("EXISTS_DIFFERENT", at)));
        let [Kind::SettlementRefused(refused)] = refused.as_slice() else { panic!("{refused:?}") };
        assert!(refused.owner.is_empty() && !refused.hold_refused, "transfer {at}");
        assert!(matches!(given.attend(0).as_slice(), [Kind::SettlementSent(_)]), "at once, with other ids");
    }
    let settled = given.answer(None);
    assert!(matches!(settled.as_slice(), [Kind::Settled(_), Kind::SessionFunded(_)]), "{settled:?}");
    assert!(given.state.accounts.contains(&(OWNER, USD)) && given.state.owed.is_empty());
}

#[test]
fn a_session_is_closed_as_soon_as_nothing_more_is_metered_on_it() {
    // E-10.2
    let mut given = Given::metered(1_000);
    given.done(ALICE, Command::CloseSession { session: SESSION });
    let drained = Command::NoteCalls { metered: Vec::new(), drained: vec![SESSION], leased: Vec::new() };
    let ended = given.done(Principal::service(SCHEDULING), drained.clone());
    assert!(matches!(ended.as_slice(), [Kind::CallsEnded(_)]), "{ended:?}");
    assert!(matches!(given.attend(0).as_slice(), [Kind::WindowEnded(_), Kind::SettlementSent(_)]));
    assert_eq!(given.when(Principal::service(SCHEDULING), drained), Ok(vec![]), "it closes already");
    given.answer(None);
    assert_eq!(given.session().stage, Stage::Closed);
}

#[test]
fn a_hold_stands_until_scheduling_has_said_that_nothing_follows_or_said_nothing_for_a_day() {
    let mut given = Given::metered(1_000);
    given.done(ALICE, Command::CloseSession { session: SESSION });
    let wait = given.state.params.drain_ms + given.state.params.silence_ms;
    assert!(wait < given.state.params.hold_grace_ms);
    given.now = given.now.after_millis(wait - 1_000);
    assert!(given.session().hold.is_some());
    let late = given.done(Principal::service(SCHEDULING), calls(7));
    assert!(matches!(late.as_slice(), [Kind::CallsNoted(_)]), "it was metered in time: {late:?}");
    assert_eq!(given.when(Principal::SYSTEM, Command::Attend), Ok(vec![]));
    assert!(matches!(given.attend(1_000).as_slice(), [Kind::WindowEnded(_), Kind::SettlementSent(_)]));
}

#[test]
fn of_calls_that_pass_the_cap_the_part_below_it_is_billed_and_as_much_of_their_work_counts() {
    // E-9.1
    let mut given = Given::metered(0);
    let cap = given.session().cap;
    let Command::NoteCalls { metered, drained, leased } = calls(2 * DOLLAR) else { panic!() };
    let twice = Command::NoteCalls { metered: vec![metered[0], metered[0]], drained, leased };
    let kinds = given.done(Principal::service(SCHEDULING), twice);
    let wide = |bytes: &[u8]| u128::from_be_bytes(bytes.try_into().unwrap());
    let told: Vec<(u128, u128, u128)> = kinds
        .iter()
        .map(|kind| match kind {
            Kind::CallsNoted(e) => {
                (wide(&e.billed_pico_usd), wide(&e.billed_micro_units), wide(&e.unbilled_pico_usd))
            }
            other => panic!("{other:?}"),
        })
        .collect();
    let all = 2_000_000_000_000;
    assert_eq!(told, [(cap, cap, all - cap), (0, 0, all)]);
    // It is settled at once, and the hold extended.
    given.attend(0);
    given.answer(None);
    assert!(given.session().cap > cap && !given.session().capped);
}

#[test]
fn numbers_beyond_all_measure_are_not_billed() {
    // E-0.1
    let mut given = Given::metered(0);
    let Command::NoteCalls { mut metered, drained, leased } = calls(1) else { panic!() };
    (metered[0].pico, metered[0].micro_units, metered[0].output_tokens) = (u128::MAX, u128::MAX, u64::MAX);
    metered.push(metered[0]);
    given.done(Principal::service(SCHEDULING), Command::NoteCalls { metered, drained, leased });
    assert_eq!(given.session().metered, given.session().cap);
    given.attend(0);
    given.answer(None);
    assert_eq!(given.session().stage, Stage::Open);
}

#[test]
fn a_refused_account_of_the_market_is_asked_for_again_with_back_off() {
    let opened = Opened { params: params::encoded_defaults(), ..Opened::default() };
    let state = Market::init(&opened).unwrap();
    let mut given = Given { state, now: Time::from_millis(20_832 * 86_400_000), seq: 1 };
    given.done(Principal::SYSTEM, Command::Begin);
    given.done(Principal::SYSTEM, Command::OpenAccounts);
    given.answer(Some(("INTERNAL", 0)));
    assert_eq!(given.state.purses[0].ask_at, Some(given.now.after_millis(60_000)));
    given.now = given.now.after_millis(60_000);
    given.done(Principal::SYSTEM, Command::OpenAccounts);
    given.answer(None);
    assert!(given.state.purses[0].open);
    given.done(ALICE, Command::SetAccount { asset: USD, account: account(ALICE) });
    assert_eq!(given.when(ALICE, open()), Err("NOT_READY"));
}

#[test]
fn models_of_genesis_are_published_and_missed_epochs_are_sealed_one_by_one() {
    // E-0.5, E-14.1
    let opened = Opened { params: params::encoded_defaults(), ..Opened::default() };
    let state = Market::init(&opened).unwrap();
    let mut given = Given { state, now: Time::from_millis(20_832 * 86_400_000 + 3), seq: 1 };
    let kinds = given.done(Principal::SYSTEM, Command::Begin);
    let [Kind::ModelPriced(_), Kind::ModelPriced(_), Kind::MarketOpened(begun)] = kinds.as_slice() else {
        panic!("{kinds:?}")
    };
    assert_eq!(begun.tge_at_us, 0, "0 is the Unix epoch, as everywhere");
    assert_eq!(given.when(Principal::SYSTEM, Command::Seal), Ok(vec![]));
    given.now = Time::from_millis((20_832 + 3) * 86_400_000 + 5_000);
    for epoch in 20_833..=20_835 {
        let kinds = given.done(Principal::SYSTEM, Command::Seal);
        let [Kind::PriceSealed(price), Kind::EpochSealed(sealed)] = kinds.as_slice() else {
            panic!("{kinds:?}")
        };
        assert_eq!((price.epoch, price.token_price_micro_usd, sealed.epoch), (epoch, 100_000, epoch));
    }
    assert_eq!(given.when(Principal::SYSTEM, Command::Seal), Ok(vec![]));
}

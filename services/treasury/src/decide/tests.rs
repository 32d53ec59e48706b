use holmes_kernel::{Id, LogId, Meta, Opened, Time};
use holmes_proto::ledger::v1 as ledger;
use holmes_proto::treasury::v1 as proto;
use prost::Message;

use super::*;
use crate::params::{defaults, encoded_defaults};
use crate::state;

const NOON: Time = Time::from_millis(1_800_014_400_000);
const MIDNIGHT_US: u64 = 1_799_971_200_000_000;
const DAY_MS: u64 = 86_400_000;
const STAFF: Principal = Principal::new(PrincipalKind::Staff, Id::from_bytes([7; 16]));
const LEDGERS: Principal = Principal::service(LEDGER);

/// A state and its log's next place.
struct Given {
    state: State,
    now: Time,
    seq: u64,
}

impl Given {
    fn opened(params: &[u8]) -> Given {
        let opened = Opened { cell: 1, params: params.to_vec(), ..Opened::default() };
        Given { state: state::init(&opened).expect("the parameters are good"), now: NOON, seq: 1 }
    }

    fn when(&mut self, principal: Principal, command: Command) -> Result<Vec<Kind>, Rejection> {
        let ctx = Ctx { now: self.now, principal, log: LogId::default(), term: 1, seq: self.seq + 1 };
        let mut events = Vec::new();
        decide(&self.state, &command, &ctx, &mut events)?;
        for event in &events {
            self.seq += 1;
            state::evolve(&mut self.state, event, &Meta { ts: self.now, principal, term: 1, seq: self.seq });
        }
        state::check_step(&self.state, &events).expect("a step keeps the invariants");
        assert_eq!(state::check(&self.state), []);
        Ok(events.into_iter().filter_map(|event| event.event).collect())
    }

    /// Lets what is due happen, as far as its time has come.
    fn due(&mut self) -> Vec<Kind> {
        match state::due(&self.state) {
            Some((at, command)) if at <= self.now => {
                let events = self.when(Principal::SYSTEM, command).expect("time may");
                assert!(!events.is_empty(), "a due command had no effect");
                events
            }
            _ => Vec::new(),
        }
    }

    fn answer(&mut self, outcome: Outcome) -> Vec<Kind> {
        let sent = self.seq;
        self.when(LEDGERS, Command::Answered { sent, outcome }).expect("the ledger may answer")
    }

    /// Lets genesis go on until something else than a step is due.
    fn completed() -> Given {
        let mut given = Given::opened(&encoded_defaults());
        while given.state.genesis.completed_at.is_none() {
            given.due();
            given.answer(Outcome::Done);
        }
        given
    }
}

fn refused(reason: &str) -> Outcome {
    Outcome::Refused(reason.into())
}

fn transfers(command: &[u8]) -> Vec<ledger::Transfer> {
    match ledger::Command::decode(command).expect("a send is the ledger's command").command {
        Some(ledger::command::Command::CreateTransfers(request)) => request.transfers,
        _ => Vec::new(),
    }
}

#[test]
fn days_count_from_the_midnight_before_unless_the_profile_names_another() {
    // E-0.5
    let begun = |params: &[u8]| match Given::opened(params).due().remove(0) {
        Kind::GenesisBegun(begun) => begun.tge_at_us,
        other => panic!("{other:?}"),
    };
    assert_eq!(begun(&encoded_defaults()), MIDNIGHT_US);
    let tge_at_ms = 1_799_884_800_000;
    let named = proto::Params { tge_at_ms, ..defaults() };
    assert_eq!(begun(&named.encode_to_vec()), tge_at_ms * 1_000);
}

#[test]
fn a_step_is_sent_when_the_one_before_it_is_done() {
    let mut given = Given::opened(&encoded_defaults());
    given.due();
    for step in 0..genesis::steps(&given.state.params) {
        let sent = given.due();
        assert!(matches!(sent.as_slice(), [Kind::GenesisStepSent(e)] if e.step == step && e.attempt == 0));
        assert_eq!(given.due(), [], "nothing is due while the ledger has not answered");
        let done = given.answer(Outcome::Done);
        assert!(matches!(&done[0], Kind::GenesisStepDone(e) if e.step == step));
    }
    assert_eq!(given.state.genesis.completed_at, Some(given.now));
}

#[test]
fn the_cap_is_shared_out_in_one_chain_to_the_unit() {
    // E-0.4, E-1.1, E-2.2
    let mut given = Given::opened(&encoded_defaults());
    let mut chains = Vec::new();
    let mut completed = Vec::new();
    while given.state.genesis.completed_at.is_none() {
        if let [Kind::GenesisStepSent(e)] = given.due().as_slice() {
            chains.extend(Some(transfers(&e.command)).filter(|row| !row.is_empty()));
        }
        completed = given.answer(Outcome::Done);
    }
    let [chain] = chains.as_slice() else { panic!("{} chains", chains.len()) };
    assert_eq!(chain.iter().map(|transfer| transfer.amount_units).sum::<u64>(), 1_000_000_000_000_000_000);
    let (last, others) = chain.split_last().unwrap();
    assert!(others.iter().all(|transfer| transfer.linked) && !last.linked);
    let Some(Kind::GenesisCompleted(e)) = completed.last() else { panic!("{completed:?}") };
    assert_eq!(e.allocations.iter().map(|allocated| allocated.amount_units).sum::<u64>(), e.cap_units);
}

#[test]
fn a_refusal_that_may_pass_is_tried_again_ever_later_and_under_another_id() {
    let mut given = Given::opened(&encoded_defaults());
    given.due();
    while given.state.genesis.step < 13 {
        given.due();
        given.answer(Outcome::Done);
    }
    let mut ids = Vec::new();
    for attempt in 0..14u32 {
        let sent = given.due();
        let [Kind::GenesisStepSent(e)] = sent.as_slice() else { panic!("{sent:?}") };
        ids.push(transfers(&e.command)[0].transfer_id.clone());
        let reason = if attempt % 2 == 0 { "ACCOUNT_FROZEN" } else { "EXISTS_DIFFERENT" };
        let refused = given.answer(refused(reason));
        let [Kind::GenesisStepRefused(e)] = refused.as_slice() else { panic!("{refused:?}") };
        let pause_ms = (1_000 << attempt).min(3_600_000);
        assert_eq!(Time::from_micros(e.retry_at_us), given.now.after_millis(pause_ms));
        assert_eq!(given.due(), [], "it waits");
        given.now = Time::from_micros(e.retry_at_us);
    }
    ids.sort_unstable();
    ids.dedup();
    assert_eq!(ids.len(), 14);
}

#[test]
fn a_refusal_that_time_does_not_heal_waits_for_staff() {
    let mut given = Given::opened(&encoded_defaults());
    given.due();
    given.due();
    let retry = |given: &mut Given, who| given.when(who, Command::RetryGenesis);
    assert_eq!(retry(&mut given, STAFF), Err(Rejection::GenesisUnderWay));
    let stalled = given.answer(refused("ACCOUNT_EXISTS"));
    assert!(matches!(stalled.as_slice(), [Kind::GenesisStalled(e)] if e.reason == "ACCOUNT_EXISTS"));
    given.now = given.now.after_millis(1_000 * DAY_MS);
    assert_eq!(given.due(), [], "time does not heal it");
    assert!(matches!(retry(&mut given, LEDGERS), Err(Rejection::Forbidden { .. })));
    assert!(matches!(retry(&mut given, STAFF).as_deref(), Ok([Kind::GenesisResumed(_)])));
    assert!(matches!(given.due().as_slice(), [Kind::GenesisStepSent(e)] if e.step == 0 && e.attempt == 1));
    given.answer(Outcome::Done);
    assert_eq!(given.state.genesis.step, 1);
    assert_eq!(retry(&mut Given::completed(), STAFF), Err(Rejection::GenesisCompleted));
}

#[test]
fn only_time_asks_for_what_is_due_and_only_the_ledger_answers() {
    let mut given = Given::opened(&encoded_defaults());
    let done = || Command::Answered { sent: 1, outcome: Outcome::Done };
    for command in [Command::Begin, Command::Continue, Command::Release { allocation: 0 }] {
        assert!(matches!(given.when(STAFF, command), Err(Rejection::Forbidden { .. })));
    }
    for who in [STAFF, Principal::SYSTEM, Principal::service(crate::wire::US)] {
        assert!(matches!(given.when(who, done()), Err(Rejection::Forbidden { .. })));
    }
}

#[test]
fn an_answer_that_nobody_waits_for_changes_nothing() {
    let mut given = Given::opened(&encoded_defaults());
    given.due();
    given.due();
    let sent = given.seq;
    given.answer(Outcome::Done);
    for outcome in [Outcome::Done, refused("ACCOUNT_FROZEN")] {
        assert_eq!(given.when(LEDGERS, Command::Answered { sent, outcome }), Ok(Vec::new()));
    }
    assert_eq!(given.state.genesis.step, 1);
}

#[test]
fn nothing_is_released_before_the_cliff_and_a_quarter_on_it() {
    // E-1.2, E-1.5
    let mut given = Given::completed();
    let midnight = Time::from_micros(MIDNIGHT_US);
    given.now = midnight.after_millis(365 * DAY_MS - 1);
    assert_eq!(given.due(), []);
    given.now = midnight.after_millis(365 * DAY_MS);
    for allocation in [0, 1] {
        let sent = given.due();
        let [Kind::VestingSent(e)] = sent.as_slice() else { panic!("{sent:?}") };
        assert_eq!((e.allocation, e.day, e.amount_units), (allocation, 365, 37_500_000_000_000_000));
        assert!(matches!(given.answer(Outcome::Done).as_slice(), [Kind::VestingReleased(_)]));
    }
    assert_eq!(given.due(), []);
}

#[test]
fn missed_days_come_as_one_release_of_what_the_formula_says() {
    // E-1.5
    let mut given = Given::completed();
    given.now = Time::from_micros(MIDNIGHT_US).after_millis(1_000 * DAY_MS);
    let sent = given.due();
    let vested = 102_739_726_027_397_260; // floor(150,000,000,000,000,000 · 1000 / 1460)
    assert!(matches!(sent.as_slice(), [Kind::VestingSent(e)] if e.day == 1_000 && e.amount_units == vested));
}

#[test]
fn a_refused_release_is_owed_with_what_has_vested_since_and_holds_up_no_other() {
    // E-1.5
    let mut given = Given::completed();
    let midnight = Time::from_micros(MIDNIGHT_US);
    given.now = midnight.after_millis(1_459 * DAY_MS);
    assert!(matches!(given.due().as_slice(), [Kind::VestingSent(e)] if e.allocation == 0));
    let refused = given.answer(refused("ACCOUNT_CLOSED"));
    assert!(matches!(refused.as_slice(), [Kind::VestingRefused(e)] if e.reason == "ACCOUNT_CLOSED"));
    assert!(matches!(given.due().as_slice(), [Kind::VestingSent(e)] if e.allocation == 1));
    given.answer(Outcome::Done);
    assert_eq!(given.due(), [], "the refused one waits");
    given.now = midnight.after_millis(1_460 * DAY_MS);
    let granted = 150_000_000_000_000_000;
    let sent = given.due();
    assert!(matches!(sent.as_slice(), [Kind::VestingSent(e)] if e.amount_units == granted && e.attempt == 1));
    let released = given.answer(Outcome::Done);
    assert!(matches!(released.as_slice(), [Kind::VestingReleased(e)] if e.released_units == granted));
}

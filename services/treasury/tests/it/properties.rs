//! Whatever the ledger answers, in whatever order and however often: the invariants hold, what is owed is paid, and the
//! log tells it all again.

use holmes_kernel::Amount;
use holmes_treasury::{Command, Outcome};
use proptest::prelude::*;

use crate::harness::{Driver, STAFF, answer, awaited, driver, with_grants};

const DAY_MS: u64 = 86_400_000;

#[derive(Clone, Debug)]
enum Op {
    /// Answers one of the awaited sends; which one, and whether with a refusal.
    Answer(usize, Option<&'static str>),
    /// Answers a send that nobody waits for any more, or never did.
    Stray(u64, Option<&'static str>),
    Wait(u64),
    Retry,
}

fn reason() -> impl Strategy<Value = Option<&'static str>> {
    const REFUSALS: [&str; 5] =
        ["ACCOUNT_FROZEN", "INSUFFICIENT_FUNDS", "ACCOUNT_EXISTS", "POISONED", "NEVER_HEARD_OF"];
    prop_oneof![3 => Just(None), 1 => proptest::sample::select(&REFUSALS[..]).prop_map(Some)]
}

fn op() -> impl Strategy<Value = Op> {
    prop_oneof![
        8 => (0usize..4, reason()).prop_map(|(which, reason)| Op::Answer(which, reason)),
        2 => (0u64..200, reason()).prop_map(|(sent, reason)| Op::Stray(sent, reason)),
        3 => prop_oneof![0..5_000u64, 0..3 * DAY_MS, 0..500 * DAY_MS].prop_map(Op::Wait),
        2 => Just(Op::Retry),
    ]
}

fn outcome(reason: Option<&str>) -> Outcome {
    reason.map_or(Outcome::Done, |reason| Outcome::Refused(reason.into()))
}

fn apply(driver: &mut Driver, op: &Op) {
    match op {
        Op::Answer(which, reason) => {
            let awaited = awaited(driver);
            if let Some(sent) = awaited.get(which % awaited.len().max(1)) {
                answer(driver, *sent, outcome(*reason));
            }
        }
        Op::Stray(sent, reason) => {
            if !awaited(driver).contains(sent) {
                answer(driver, *sent, outcome(*reason));
            }
        }
        Op::Wait(ms) => driver.wait(*ms),
        Op::Retry => {
            let may = driver.state().genesis.completed_at.is_none()
                && driver.state().genesis.errand.attempt > 0
                && driver.state().genesis.errand.awaits.is_none();
            assert_eq!(driver.ask(STAFF, Command::RetryGenesis).is_ok(), may);
        }
    }
    driver.check();
}

/// A ledger that says yes from now on.
fn finish(driver: &mut Driver) {
    for _ in 0..200 {
        if driver.state().genesis.stalled {
            driver.ask(STAFF, Command::RetryGenesis).unwrap();
        }
        driver.wait(10 * DAY_MS);
        for sent in awaited(driver) {
            answer(driver, sent, Outcome::Done);
        }
    }
    driver.wait(2_000 * DAY_MS);
    for sent in awaited(driver) {
        answer(driver, sent, Outcome::Done);
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]
    #[test]
    fn the_invariants_hold_and_the_log_tells_all(ops in proptest::collection::vec(op(), 1..120)) {
        let mut driver = driver(&with_grants());
        ops.iter().for_each(|op| apply(&mut driver, op));
        driver.check_replay();
        finish(&mut driver);
        driver.check();
        driver.check_replay();
        prop_assert!(driver.state().genesis.completed_at.is_some());
        for vesting in &driver.state().vestings {
            prop_assert_eq!(vesting.released, vesting.granted);
            prop_assert!(vesting.granted > Amount::ZERO);
        }
    }
}

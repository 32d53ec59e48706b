//! What a rig does when its journal does not answer, and when its lines are not whole.

use holmes_kernel::{Call, ServiceId};
use holmes_ledger::command::{Command, Transfer, Via};
use holmes_market::state::Stage;
use holmes_sim::bus::Trouble;
use holmes_sim::journal::Append;
use holmes_sim::world::{COIN, DOLLAR, HOL, USD, World, account, log, party};

/// A payment of one token from 4 to 5, and the call that brings it.
fn payment(world: &mut World) -> (Call, Command) {
    let kind = world.single(account(4, HOL), account(5, HOL), COIN);
    let transfers = vec![Transfer { id: world.fresh(), linked: false, tag: 0, kind }];
    (Call::request(party(4), world.fresh()), Command::CreateTransfers { via: Via::Call, transfers })
}

#[test]
fn nobody_is_answered_while_an_outcome_is_not_known_and_the_same_frame_is_sent_again() {
    for append in [Append::LostBefore, Append::LostAfter, Append::Late] {
        let mut world = World::peopled();
        let before = world.balance(account(4, HOL));
        world.journal.will(log(1), append, 1);
        let (call, command) = payment(&mut world);
        let first = world.ledger.post(call, command);
        let (call, command) = payment(&mut world);
        let second = world.ledger.post(call, command);
        assert!(world.ledger.answer(first).is_none() && world.ledger.answer(second).is_none());
        assert!(!world.ledger.rests());
        world.rig.settle();
        assert!(world.ledger.answer(first).is_some_and(|answer| answer.is_ok()), "{append:?}");
        assert!(world.ledger.answer(second).is_some_and(|answer| answer.is_ok()), "{append:?}");
        world.journal.arrive();
        assert_eq!(world.balance(account(4, HOL)), before - 2 * COIN);
        assert_eq!(world.rig.restart().expect("it starts"), Vec::<&str>::new());
    }
}

#[test]
fn who_is_started_again_forgets_what_was_not_durable_and_answers_nobody() {
    let mut world = World::peopled();
    let before = world.balance(account(4, HOL));
    world.journal.will(log(1), Append::LostBefore, 1);
    let (call, command) = payment(&mut world);
    let ticket = world.ledger.post(call, command);
    assert!(world.ledger.restart(false).is_ok());
    assert!(world.ledger.answer(ticket).is_none());
    assert_eq!(world.balance(account(4, HOL)), before);
}

#[test]
fn a_disk_that_fails_halts_its_service_until_it_is_started_again() {
    let mut world = World::peopled();
    world.journal.will(log(1), Append::FailsAfter, 1);
    let (call, command) = payment(&mut world);
    let ticket = world.ledger.post(call.clone(), command.clone());
    assert!(world.ledger.halted().is_some() && world.ledger.answer(ticket).is_none());
    assert!(world.ledger.restart(true).is_ok());
    let ticket = world.ledger.post(call, command);
    assert!(world.ledger.answer(ticket).is_some_and(|answer| answer.is_ok()), "it had applied: recalled");
}

#[test]
fn what_a_silent_line_keeps_back_is_heard_when_it_speaks() {
    let mut world = World::peopled();
    world.lines.trouble(ServiceId(5), ServiceId(1), Trouble::Silent(1_000));
    world.open_alone(4, USD, DOLLAR);
    world.rig.settle();
    let is_open = |world: &World| {
        world.market.look(|state| state.sessions.values().any(|session| session.stage == Stage::Open))
    };
    assert!(!is_open(&world), "the ledger's answer is kept back");
    world.lines.mend();
    world.rig.settle();
    assert!(is_open(&world));
}

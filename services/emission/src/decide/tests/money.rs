//! Grants, payments and movements between accounts.

use super::*;

#[test]
fn a_grant_unlocks_by_work_and_never_faster_than_in_thirty_days() {
    // E-5.1: N is 18 days of full capacity; 86.4 million units a day are that.
    let mut given = Given::new();
    let full = 86_400_000;
    let day = |given: &mut Given| given.close(vec![worked(ONE, ALICE, true, full, RICH)], vec![(ONE, 1)]);
    day(&mut given);
    let epoch = given.epoch() - 1;
    let first = given.node(ONE).grants[&epoch];
    assert_eq!(first.full_work, 180 * u128::from(full), "the class's median is this node's work");
    day(&mut given);
    let grant = given.node(ONE).grants[&epoch];
    assert_eq!(grant.unlocked, first.amount / 180);
    (0..28).for_each(|_| drop(day(&mut given)));
    let grant = given.node(ONE).grants[&epoch];
    assert_eq!(grant.unlocked, (u128::from(first.amount) * 29 / 180) as u64);
    // Without being there nothing unlocks.
    given.close(vec![worked(ONE, ALICE, true, full, RICH)], vec![]);
    assert_eq!(given.node(ONE).grants[&epoch].unlocked, grant.unlocked);
}

#[test]
fn who_was_away_for_three_days_unlocks_nothing_until_it_was_there_for_seven() {
    // E-5.3
    let mut given = Given::new();
    let day = |given: &mut Given, there: bool| {
        let work = if there { vec![worked(ONE, ALICE, true, 86_400_000, RICH)] } else { Vec::new() };
        given.close(work, if there { vec![(ONE, 1)] } else { Vec::new() });
        given.node(ONE).days
    };
    assert_eq!([true, true].map(|there| day(&mut given, there)), [1, 2]);
    assert_eq!([false, false, true].map(|there| day(&mut given, there)), [2, 2, 3], "two days are not three");
    assert_eq!([false; 3].map(|there| day(&mut given, there)), [3; 3]);
    let unlocked = given.node(ONE).totals.unlocked;
    assert_eq!([true; 7].map(|there| day(&mut given, there)), [3; 7]);
    assert_eq!((given.node(ONE).totals.unlocked, given.node(ONE).frozen_days), (unlocked, 0));
    assert_eq!(day(&mut given, true), 4);
    assert!(given.node(ONE).totals.unlocked > unlocked);
}

#[test]
fn an_exit_pays_what_is_locked_less_the_burn_to_its_owner_alone() {
    // E-5.2: on the first day half of it is burnt, rounded up.
    let mut given = Given::new();
    given.close(vec![worked(ONE, ALICE, true, 300, RICH)], vec![(ONE, 1)]);
    let epoch = given.epoch() - 1;
    let exit = |epoch| Command::ExitGrant { node: ONE, epoch };
    assert_eq!(given.when(BOB, exit(epoch)), Err("FORBIDDEN"));
    assert_eq!(given.when(ALICE, exit(epoch + 1)), Err("GRANT_NOT_FOUND"));
    let unknown = Command::ExitGrant { node: Id::default(), epoch };
    assert_eq!(given.when(ALICE, unknown), Err("NODE_NOT_FOUND"));
    let (locked, paid) = (given.node(ONE).totals.locked, given.node(ONE).totals.paid);
    let kinds = given.when(ALICE, exit(epoch)).unwrap();
    let events: Vec<Event> = kinds.into_iter().map(|kind| Event { event: Some(kind) }).collect();
    let burned = Amount::new(locked.div_ceil(2));
    let reply = Reply::Exited { paid: Amount::new(locked / 2), burned };
    assert_eq!(Emission::reply(&exit(epoch), &events), reply);
    assert_eq!(given.when(ALICE, exit(epoch)), Err("GRANT_NOT_FOUND"), "a grant is left once");
    given.run();
    assert_eq!(given.node(ONE).totals.paid - paid, locked / 2);
    assert_eq!(given.state.held[5], burned.units());
}

#[test]
fn a_tombstone_burns_what_is_locked_and_earns_nothing_more() {
    // E-5.2
    let mut given = Given::new();
    given.close(vec![worked(ONE, ALICE, true, 300, RICH)], vec![(ONE, 1)]);
    let locked = given.node(ONE).totals.locked;
    given.note(STAKING, vec![Fact::Barred(vec![ONE])]);
    assert_eq!(
        given.when(ALICE, Command::ExitGrant { node: ONE, epoch: given.epoch() - 1 }),
        Err("OWNER_TOMBSTONED")
    );
    given.run();
    assert_eq!((given.node(ONE).totals.burned, given.state.held[5]), (locked, locked));
    given.close(vec![worked(ONE, ALICE, true, 300, RICH)], vec![(ONE, 1)]);
    assert_eq!(given.shares(ONE), [0, 0]);
}

#[test]
fn what_is_owed_waits_in_the_pot_until_an_account_is_known_and_a_refused_payment_is_sent_again() {
    let mut given = Given::new();
    let third = Id::from_bytes([13; 16]);
    given.note(STAKING, vec![bonded(third, BOB, 1_000)]);
    given.close(vec![], vec![]);
    given.close(vec![], vec![(third, 1)]);
    assert_eq!((given.node(third).owed, given.state.held[4]), (DAY_ONE_BR, DAY_ONE_BR));
    given.note(STAKING, vec![payout(third)]);
    given.run_with(Some("ACCOUNT_CLOSED"));
    let node = given.node(third);
    assert_eq!((node.owed, node.refused.as_str(), node.refusals), (DAY_ONE_BR, "ACCOUNT_CLOSED", 1));
    let retry = node.pays_at.unwrap();
    assert_eq!(retry, given.now.after_millis(60_000));
    given.run();
    assert_eq!(given.node(third).owed, DAY_ONE_BR, "not before its time");
    // E-2.3: an id that somebody has guessed and taken is no payment, and not used again.
    let sent = |kinds: Vec<Kind>| match kinds.as_slice() {
        [Kind::PaymentsSent(sent)] => sent.send.clone(),
        other => panic!("{other:?}"),
    };
    given.now = retry;
    let first = sent(given.when(Principal::SYSTEM, Command::Pay).unwrap());
    let seq = *given.state.awaited.keys().next_back().unwrap();
    given.answer(seq, Some("EXISTS_DIFFERENT"));
    assert_eq!((given.node(third).owed, given.node(third).totals.paid), (DAY_ONE_BR, 0));
    given.now = given.node(third).pays_at.unwrap();
    let second = sent(given.when(Principal::SYSTEM, Command::Pay).unwrap());
    assert_ne!(first, second);
    let seq = *given.state.awaited.keys().next_back().unwrap();
    given.answer(seq, None);
    let node = given.node(third);
    assert_eq!((node.owed, node.totals.paid, node.refused.as_str()), (0, DAY_ONE_BR, ""));
}

#[test]
fn a_later_bond_does_not_change_a_named_account_and_another_name_does() {
    // E-6.5 as staking has it
    let mut given = Given::new();
    let (a, b) = (Id::from_bytes([90; 16]), Id::from_bytes([91; 16]));
    let named = |account, posted| Fact::Payout { node: ONE, account, posted };
    assert_eq!(given.note(STAKING, vec![named(a, true)]), vec![]);
    given.note(STAKING, vec![named(b, false)]);
    assert_eq!(given.node(ONE).payout, Some(b));
    let mut again = bonded(ONE, ALICE, 0);
    if let Fact::Node { registered, .. } = &mut again {
        *registered = true;
    }
    given.note(STAKING, vec![again]);
    given.note(STAKING, vec![named(a, true)]);
    assert_eq!(given.node(ONE).payout, Some(a), "a node that came back is paid where its new bond came from");
}

#[test]
fn a_movement_that_the_ledger_refuses_is_asked_again_with_other_ids_and_payments_wait_for_it() {
    let mut given = Given::new();
    let epoch = given.epoch();
    given.note(SCHEDULING, vec![Fact::Attendance { epoch, rows: vec![(ONE, 1, true)] }]);
    given.seal();
    given.run_with(Some("ACCOUNT_FROZEN"));
    let (number, waits) = given.state.moves.iter().next().map(|(n, m)| (*n, m.clone())).unwrap();
    assert_eq!((waits.refusals, waits.refused.as_str()), (1, "ACCOUNT_FROZEN"));
    assert_eq!(given.node(ONE).totals.paid, 0);
    given.now = waits.ask_at.unwrap();
    let kinds = given.when(Principal::SYSTEM, Command::Move).unwrap();
    let [Kind::MoveSent(sent)] = kinds.as_slice() else { panic!("{kinds:?}") };
    assert_eq!(sent.number, number);
    given.run();
    assert_eq!(given.node(ONE).totals.paid, DAY_ONE_BR);
}

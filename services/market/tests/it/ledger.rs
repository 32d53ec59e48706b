//! Beside a real ledger: sessions are held, metered, paid and closed, and the ledger agrees at every rest.

use std::time::Duration;

use holmes_kernel::{Id, Principal};
use holmes_ledger::command as ledger;
use holmes_market::Command;
use holmes_market::command::OpenSession;
use holmes_market::state::{Purse, Stage};
use holmes_proto::market::v1::event::Event as Happened;
use holmes_proto::market::v1::{SessionState, WorkCredit};
use holmes_testing::ask;

use crate::harness::{
    Calls, GATEWAY, HOL, MINUTE, SECOND, STAFF, USD, WEALTH, World, account, node, one, party, with,
};

const DOLLAR: u64 = 1_000_000;

fn defaults() -> World {
    World::new(&with(|_| {}))
}

fn frozen(world: &mut World, n: u8, asset: u32, frozen_out: bool) {
    let command = ledger::Command::SetFrozen { account: account(n, asset), frozen_out };
    world.ask_ledger(STAFF, command).unwrap();
}

#[test]
fn a_session_in_dollars_pays_owner_fees_and_surcharge_and_gives_the_rest_back() {
    // E-9.1: of 10,000: 2 % + 2.5 % on top, 3 % less for the owner.
    let mut world = defaults();
    let session = world.open(1, USD, DOLLAR);
    assert_eq!(world.see(session, |s| s.state()), SessionState::Active);
    world.agrees();
    world.meter(session, &[one(1, 11, 10_000)]);
    world.wait(2 * MINUTE);
    assert_eq!(world.has(11, USD), 9_700);
    assert_eq!(world.balance(Purse::Fees.account("USD")), 500);
    assert_eq!(world.balance(Purse::Surcharges.account("USD")), 250);
    assert_eq!(world.has(1, USD), WEALTH[1] - 10_450);
    world.close(1, session);
    world.wait(2 * MINUTE);
    let (stage, reason, hold) = world.see(session, |s| (s.stage, s.reason.clone(), s.hold));
    assert_eq!((stage, reason.as_str(), hold), (Stage::Closed, "CLOSED_BY_RENTER", None));
    assert_eq!(world.has(1, USD), WEALTH[1] - 10_450);
}

#[test]
fn a_session_in_the_token_pays_no_surcharge_and_rounds_for_nobody_but_rounding() {
    // E-9.1: at 0.07 USD a token nothing is a whole number of base units.
    let mut world = World::new(&with(|params| params.token_price_micro_usd = 70_001));
    let session = world.open(1, HOL, DOLLAR);
    for _ in 0..50 {
        world.meter(session, &[one(1, 11, 1), one(2, 12, 2)]);
        world.wait(MINUTE + SECOND);
    }
    world.close(1, session);
    world.wait(2 * MINUTE);
    let (totals, bill) = world.see(session, |s| (s.totals, s.bill()));
    assert_eq!((bill.price, bill.buyer_fee, bill.seller_fee, bill.surcharge), (150, 3, 5, 0));
    assert_eq!(totals.charged, (153u128 * 1_000_000_000).div_ceil(70_001));
    assert_eq!(totals.paid, 145 * 1_000_000_000 / 70_001);
    assert_eq!(totals.fees, 8 * 1_000_000_000 / 70_001);
    assert!(totals.rounding <= 2);
    assert_eq!(u128::from(world.balance(Purse::Rounding.account("HOL"))), totals.rounding);
    assert_eq!(u128::from(world.has(11, HOL) + world.has(12, HOL)), totals.paid);
    assert_eq!(world.balance(Purse::Market.account("HOL")), 0);
}

#[test]
fn what_is_posted_is_the_floor_of_what_was_metered_however_small_the_calls_are() {
    // E-9.2: 700,001 pico-dollars a call, window by window.
    let mut world = defaults();
    let session = world.open(1, USD, DOLLAR);
    let tiny = Calls { tokens: 1, pico: 700_001, micro_units: 400_000, ..one(1, 11, 0) };
    for n in 1..=20u128 {
        world.meter(session, &[tiny]);
        world.wait(MINUTE + SECOND);
        assert_eq!(world.see(session, |s| s.totals.price), n * 700_001 / 1_000_000);
    }
    // E-3.2: work below a unit is carried from window to window: 20 · 0.4.
    assert_eq!(world.see(session, |s| s.lines.iter().map(|line| line.row.units).sum::<u64>()), 8);
}

#[test]
fn a_hold_is_extended_at_eighty_per_cent_and_the_cap_never_falls() {
    // E-9.1
    let mut world = defaults();
    let session = world.open(1, USD, DOLLAR);
    let cap = world.see(session, |s| s.cap);
    assert_eq!(cap, 956_937_000_000); // 956,937 + 19,139 + 23,924 = 1,000,000
    world.meter(session, &[one(1, 11, 700_000)]);
    world.rig.advance(SECOND);
    assert_eq!(world.see(session, |s| s.totals.price), 0); // 73 % of it: not yet
    world.meter(session, &[one(1, 11, 100_000)]);
    world.wait(SECOND);
    let (price, after) = world.see(session, |s| (s.totals.price, s.cap));
    assert_eq!(price, 800_000);
    assert!(after > cap + 700_000_000_000);
    assert_eq!(world.see(session, |s| s.hold.map(|hold| hold.units)), Some(DOLLAR));
}

#[test]
fn who_cannot_extend_is_served_as_far_as_the_hold_goes_and_everything_metered_is_paid() {
    // E-9.1
    let mut world = defaults();
    let budget = 60 * DOLLAR; // of 100
    let session = world.open(1, USD, budget);
    world.meter(session, &[one(1, 11, 50 * DOLLAR)]);
    world.wait(SECOND);
    assert_eq!(world.see(session, |s| s.state()), SessionState::InsufficientFunds);
    assert_eq!(world.has(11, USD), 48_500_000);
    let cap = world.see(session, |s| s.cap);
    world.meter(session, &[one(2, 12, 50 * DOLLAR)]); // far beyond what is left
    world.wait(SECOND);
    let (state, metered, unbilled) = world.see(session, |s| (s.state(), s.metered, s.unbilled));
    assert_eq!((state, metered), (SessionState::Closing, cap));
    assert_eq!(unbilled, 100_000_000_000_000 - cap);
    assert_eq!(world.look(|s| s.unbilled.pico), unbilled);
    world.wait(2 * MINUTE);
    let (stage, reason) = world.see(session, |s| (s.stage, s.reason.clone()));
    assert_eq!((stage, reason.as_str()), (Stage::Closed, "INSUFFICIENT_FUNDS"));
    let paid = world.see(session, |s| s.totals.charged);
    let most = u128::from(budget);
    assert!(paid <= most && paid + 3 > most, "{paid}");
    assert_eq!(world.has(1, USD), WEALTH[1] - paid as u64);
}

#[test]
fn a_renter_that_pays_in_again_is_active_again() {
    let mut world = defaults();
    let session = world.open(1, USD, 60 * DOLLAR);
    world.meter(session, &[one(1, 11, 50 * DOLLAR)]);
    world.wait(SECOND);
    assert_eq!(world.see(session, |s| s.state()), SessionState::InsufficientFunds);
    world.transfer(party(2), account(2, USD), account(1, USD), 80 * DOLLAR);
    world.meter(session, &[one(1, 11, DOLLAR)]);
    world.wait(2 * MINUTE);
    assert_eq!(world.see(session, |s| s.state()), SessionState::Active);
}

#[test]
fn a_frozen_renter_pays_what_was_metered_and_its_session_closes() {
    // E-2.5: nothing new can be held, what is held can be posted.
    let mut world = defaults();
    let session = world.open(1, USD, DOLLAR);
    let half = Calls { tokens: 1, pico: 0, micro_units: 500_000, ..one(1, 11, 0) }; // of a unit, for nothing
    world.meter(session, &[one(1, 11, 10_000), half]);
    frozen(&mut world, 1, USD, true);
    world.wait(MINUTE + SECOND);
    assert_eq!(world.see(session, |s| (s.state(), s.totals.price)), (SessionState::Closing, 0));
    world.meter(session, &[one(1, 12, 20_000), half]); // calls that still ran
    world.wait(2 * MINUTE);
    let (stage, reason, price) = world.see(session, |s| (s.stage, s.reason.clone(), s.totals.price));
    assert_eq!((stage, reason.as_str(), price), (Stage::Closed, "ACCOUNT_FROZEN", 30_000));
    assert_eq!((world.has(11, USD), world.has(12, USD)), (9_700, 19_400));
    // E-3.2: the window was settled together with the next, and its half unit was not lost.
    let units = world.see(session, |s| s.lines.iter().map(|line| line.row.units).collect::<Vec<_>>());
    assert_eq!(units, [10_001, 20_000]);
}

#[test]
fn an_owner_without_an_account_is_owed_and_is_paid_when_it_names_one() {
    let mut world = defaults();
    let session = world.open(1, USD, DOLLAR);
    world.meter(session, &[one(1, 13, 10_000), one(2, 11, 10_000)]);
    world.wait(2 * MINUTE);
    assert_eq!(world.balance(Purse::Unclaimed.account("USD")), 9_700);
    world.ask(party(13), Command::SetAccount { asset: USD, account: account(13, USD) }).unwrap();
    world.wait(SECOND);
    assert_eq!((world.has(13, USD), world.balance(Purse::Unclaimed.account("USD"))), (9_700, 0));
    assert!(world.look(|s| s.owed.is_empty()));
}

#[test]
fn an_account_that_cannot_be_paid_to_is_forgotten_and_others_do_not_wait_for_it() {
    let mut world = defaults();
    let own = Command::SetAccount { asset: USD, account: Purse::Market.account("USD") };
    assert_eq!(world.refused(party(13), own), "ACCOUNT_RESERVED");
    for name in ["external/USD", "trr_pool/HOL", "bonds/HOL"] {
        let platforms = Command::SetAccount { asset: USD, account: holmes_ledger::system_account(name) };
        assert_eq!(world.refused(party(13), platforms), "ACCOUNT_RESERVED", "{name}");
    }
    // Nobody's, one of another asset, and nobody's again.
    let astray = [Id::v7(1, [99; 10]), account(13, HOL), Id::v7(2, [99; 10])];
    for account in astray {
        world.ask(party(13), Command::SetAccount { asset: USD, account }).unwrap();
        let session = world.open(1, USD, DOLLAR);
        world.meter(session, &[one(1, 11, 1_000), one(2, 13, 1_000), one(3, 12, 1_000)]);
        world.wait(2 * MINUTE);
        assert_eq!(world.see(session, |s| s.totals.price), 3_000);
        assert_eq!(world.look(|s| s.accounts.get(&(party(13), USD)).copied()), None);
        world.close(1, session);
    }
    assert_eq!(world.has(11, USD), 3 * 970);
    assert_eq!(world.balance(Purse::Unclaimed.account("USD")), 3 * 970);
}

#[test]
fn a_renter_without_the_money_or_with_anothers_account_has_no_session() {
    let mut world = defaults();
    let poor = world.open(1, USD, 101 * DOLLAR);
    let closed = |world: &World, id: Id| world.see(id, |s| (s.stage, s.reason.clone()));
    assert_eq!(closed(&world, poor), (Stage::Closed, "INSUFFICIENT_FUNDS".into()));
    world.ask(party(1), Command::SetAccount { asset: USD, account: account(2, USD) }).unwrap();
    let thief = world.open(1, USD, DOLLAR);
    assert_eq!(closed(&world, thief), (Stage::Closed, "FORBIDDEN".into()));
    assert_eq!(world.has(2, USD), WEALTH[1]);
    world.agrees();
}

#[test]
fn sessions_end_when_idle_and_when_they_are_old_and_are_forgotten_later() {
    // E-10.2
    let mut world = World::new(&with(|params| {
        params.longest_session_ms = 3_600_000;
        params.keep_closed_ms = 7_200_000;
    }));
    let (idle, old) = (world.open(1, USD, DOLLAR), world.open(2, USD, DOLLAR));
    for _ in 0..11 {
        world.wait(Duration::from_secs(330));
        world.meter(old, &[one(1, 11, 10)]);
    }
    world.wait(2 * MINUTE);
    assert_eq!(world.see(idle, |s| (s.stage, s.reason.clone())), (Stage::Closed, "IDLE".into()));
    assert_eq!(world.see(old, |s| (s.stage, s.reason.clone())), (Stage::Closed, "EXPIRED".into()));
    assert_eq!(world.see(old, |s| (s.totals.price, s.totals.charged)), (110, 110 + 3 + 3));
    let fees = |world: &World| world.balance(Purse::Fees.account("USD"));
    assert_eq!(fees(&world), 3 + 4);
    world.rig.advance(Duration::from_secs(7_200));
    assert_eq!(world.look(|s| (s.sessions.len(), s.renters.len(), s.by_time.len())), (0, 0, 0));
    assert_eq!(world.rig.check(), []);
}

#[test]
fn a_session_whose_call_runs_for_longer_than_a_session_may_be_idle_stays_open_until_its_lease_ends() {
    // E-10.2
    let mut world = defaults();
    let session = world.open(1, USD, DOLLAR);
    let stage = |world: &World| world.see(session, |s| (s.stage, s.reason.clone()));
    for _ in 0..40 {
        world.renew(session); // a call of 33 minutes
        world.wait(Duration::from_secs(50));
        assert_eq!(stage(&world).0, Stage::Open);
    }
    let leased = world.events().iter().filter(|event| matches!(event, Happened::SessionLeased(_))).count();
    assert!((28..=30).contains(&leased), "{leased}: a lease is noted only where it keeps the session open");
    world.wait(Duration::from_secs(9));
    assert_eq!(stage(&world).0, Stage::Open, "its lease lasts for a second more");
    world.wait(Duration::from_secs(1));
    assert_eq!(stage(&world), (Stage::Closing, "IDLE".into()), "its gateway has gone without a word");
}

#[test]
fn a_call_that_begins_just_before_its_session_would_be_idle_is_not_cut() {
    // E-10.2
    let mut world = defaults();
    let session = world.open(1, USD, DOLLAR);
    let stage = |world: &World| world.see(session, |s| s.stage);
    world.wait(Duration::from_secs(595));
    world.renew(session);
    world.wait(Duration::from_secs(30));
    assert_eq!(stage(&world), Stage::Open);
    world.meter(session, &[one(1, 11, 10)]);
    world.wait(Duration::from_secs(599));
    assert_eq!(stage(&world), Stage::Open, "as long as after any call");
    world.wait(Duration::from_secs(1));
    assert_eq!(stage(&world), Stage::Closing);
}

#[test]
fn calls_of_no_session_or_of_a_closed_one_are_on_the_record_and_nobody_pays_them() {
    // E-9.2
    let mut world = defaults();
    let session = world.open(1, USD, DOLLAR);
    world.close(1, session);
    world.meter(session, &[one(1, 11, 5)]); // it still ran
    world.wait(2 * MINUTE);
    assert_eq!(world.has(11, USD), 4);
    world.meter(session, &[one(1, 11, 7)]);
    world.meter(Id::from_bytes([77; 16]), &[one(1, 11, 11), one(2, 12, 13)]);
    let unbilled = world.look(|s| s.unbilled);
    assert_eq!((unbilled.calls, unbilled.pico), (3, 31_000_000));
    assert_eq!(world.has(11, USD), 4);
    world.agrees();
}

#[test]
fn a_session_closed_before_its_hold_stands_gives_it_back() {
    let mut world = defaults();
    let session = world.fresh();
    let open = OpenSession { session, renter: Some(party(1)), asset: None, budget: None };
    // Nobody has heard anything yet: the ledger answers behind the close.
    ask(&world.market, GATEWAY, session, Command::OpenSession(open)).unwrap();
    let close = Command::CloseSession { session };
    let id = world.fresh();
    ask(&world.market, GATEWAY, id, close).unwrap();
    world.rig.settle();
    world.wait(SECOND);
    assert_eq!(world.see(session, |s| (s.stage, s.funded_seq)), (Stage::Closed, 0));
}

#[test]
fn a_window_with_more_rows_than_a_chain_holds_goes_on_in_the_next() {
    // E-2.2: at most 256 transfers.
    let mut world = defaults();
    let session = world.open(1, USD, DOLLAR);
    for n in 0..250 {
        world.meter(session, &[one(n, 11 + n % 3, 100)]);
    }
    world.wait(MINUTE + SECOND);
    assert_eq!(world.see(session, |s| (s.totals.price, s.rows.len())), (24_000, 10));
    world.close(1, session);
    world.wait(2 * MINUTE);
    assert_eq!(world.see(session, |s| (s.totals.price, s.window, s.lines.len())), (25_000, 2, 250));
}

#[test]
fn an_epoch_is_sealed_after_its_end_and_its_windows_are_paid_before() {
    // E-0.5
    let params =
        with(|params| (params.epoch_s, params.seal_after_ms, params.window_ms) = (45, 5_000, 3_600_000));
    let mut world = World::new(&params);
    let session = world.open(1, USD, DOLLAR);
    world.meter(session, &[one(1, 11, 100)]);
    world.wait(Duration::from_secs(38)); // second 39 of 45
    assert_eq!(world.see(session, |s| s.totals.price), 0);
    world.wait(Duration::from_secs(2));
    assert_eq!(world.see(session, |s| s.totals.price), 100);
    world.meter(session, &[one(1, 11, 50)]); // within 5 seconds of the end: the next epoch's
    world.wait(Duration::from_secs(8));
    assert_eq!(world.look(|s| s.next_seal), 1);
    world.wait(Duration::from_secs(3));
    assert_eq!(world.look(|s| s.next_seal), 2);
    assert_eq!(world.see(session, |s| s.totals.price), 100);
    world.close(1, session);
    world.wait(Duration::from_secs(3 * 45));
    assert_eq!(world.look(|s| s.next_seal), 5);
    let epochs = world.look(|s| s.params.calendar);
    let at = world.see(session, |s| s.lines.iter().map(|line| line.at).collect::<Vec<_>>());
    assert_eq!(epochs.epoch(at[0]), 1);
    assert!(epochs.epoch(at[1]) > 1 && at.len() == 2);
    let told = world.settled_epochs();
    assert_eq!(told, at.iter().map(|at| epochs.epoch(*at)).collect::<Vec<_>>());
}

#[test]
fn what_waits_at_a_restart_goes_on_behind_it() {
    let mut world = defaults();
    let sessions = [world.open(1, USD, DOLLAR), world.open(2, HOL, DOLLAR)];
    for session in sessions {
        world.meter(session, &[one(1, 11, 12_345), one(2, 13, 54_321)]);
    }
    for _ in 0..6 {
        assert_eq!(world.rig.restart().unwrap(), Vec::<&str>::new());
        world.wait(MINUTE);
    }
    assert_eq!(sessions.map(|id| world.see(id, |s| s.totals.price)), [66_666; 2]);
}

#[test]
fn credits_of_one_node_are_rows_of_their_own() {
    // E-3.2
    let mut world = defaults();
    let session = world.open(1, USD, DOLLAR);
    let quarter = Calls { credit: WorkCredit::Quarter, ..one(1, 11, 300) };
    world.meter(session, &[one(1, 11, 100), quarter, one(1, 11, 5)]);
    world.wait(2 * MINUTE);
    let rows = world.see(session, |s| {
        s.lines.iter().map(|line| (line.row.key.0, line.row.key.2, line.row.price)).collect::<Vec<_>>()
    });
    assert_eq!(rows, [(node(1), WorkCredit::Full as u8, 105), (node(1), WorkCredit::Quarter as u8, 300)]);
}

#[test]
fn limits_on_sessions_hold() {
    let mut world = World::new(&with(|params| {
        (params.most_sessions, params.most_sessions_per_renter) = (10, 4);
    }));
    let asked = |world: &mut World, n: u8| {
        let session = world.fresh();
        Command::OpenSession(OpenSession { session, renter: Some(party(n)), asset: None, budget: None })
    };
    for n in [1, 1, 1, 1, 2, 2, 2, 2, 3, 3] {
        let command = asked(&mut world, n);
        world.ask(STAFF, command).unwrap();
    }
    let (third, first) = (asked(&mut world, 3), asked(&mut world, 1));
    assert_eq!(world.refused(STAFF, third), "TOO_MANY_SESSIONS");
    assert_eq!(world.refused(party(1), first), "TOO_MANY_SESSIONS_OF_RENTER");
    let nobody = Principal::new(holmes_kernel::PrincipalKind::Account, Id::from_bytes([55; 16]));
    let command =
        Command::OpenSession(OpenSession { session: Id::default(), renter: None, asset: None, budget: None });
    assert_eq!(world.refused(nobody, command), "SESSION_NO_ACCOUNT");
}

#[test]
fn a_chain_pays_as_many_owners_as_a_window_has_rows_and_an_invoice_keeps_its_newest_lines() {
    // E-2.2, E-9.2
    let mut world = defaults();
    for n in 14..=253 {
        world.open_account(n, USD);
        world.ask(party(n), Command::SetAccount { asset: USD, account: account(n, USD) }).unwrap();
    }
    let session = world.open(1, USD, DOLLAR);
    for window in 1..=5 {
        let calls: Vec<Calls> = (14..=253).map(|n| one(n, n, 100)).collect();
        world.meter(session, &calls);
        world.wait(MINUTE + SECOND);
        assert_eq!(world.see(session, |s| (s.window, s.totals.price)), (window, u128::from(window) * 24_000));
    }
    assert!((14..=253).all(|n| world.has(n, USD) == 5 * 97));
    let lines = world.see(session, |s| (s.lines.len(), s.lines.front().unwrap().window));
    assert_eq!(lines, (1_000, 1)); // 200 of the first window's 240 gave way
}

#[test]
fn of_closed_sessions_the_newest_thousand_of_a_renter_are_remembered() {
    let mut world = defaults();
    let first = world.open(1, USD, 101 * DOLLAR); // more than there is: closed at once
    let open = world.open(1, USD, DOLLAR);
    for _ in 0..1_000 {
        world.open(1, USD, 101 * DOLLAR);
    }
    assert_eq!(world.look(|s| (s.sessions.len(), s.open_sessions)), (1_001, 1));
    assert!(world.look(|s| !s.sessions.contains(&first) && s.sessions.contains(&open)));
    assert_eq!(world.rig.check(), []);
}

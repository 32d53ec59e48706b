//! Each guard of the product is switched off in turn, and the days must then go wrong: what the simulation would not miss
//! it does not test. With all guards on, the same days go well. Built with the feature `weakened` alone.

use holmes_kernel::weak::{Guard, switch_off};
use holmes_sim::deed::{Deed, day};
use holmes_sim::run::Failure;
use holmes_sim::{case, guards, run, shrink};

/// How many days may pass before a guard that is off is missed.
const SEEDS: u64 = 60;
const STEPS: usize = 120;

/// The first day that goes wrong without a guard, and what is said of it.
fn missed(guard: Guard) -> Option<(u64, Vec<String>)> {
    switch_off(Some(guard));
    let found = (1..=SEEDS).find_map(|seed| {
        let failure = run(&day(seed, STEPS), |_, _, _| {}).failure?;
        Some((seed, failure.wrong))
    });
    switch_off(None);
    found
}

/// A guard is missed, for a reason that it is there for; and the day that missed it goes well with the guard on.
fn is_missed(guard: Guard, reasons: &[&str]) {
    let (seed, wrong) = missed(guard).unwrap_or_else(|| panic!("{SEEDS} days do not miss {guard:?}"));
    println!("without {guard:?}: seed {seed}: {}", wrong[0]);
    let known = |what: &String| reasons.iter().any(|reason| what.contains(reason));
    assert!(wrong.iter().any(known), "without {guard:?}, seed {seed}: {wrong:#?}");
    let with = run(&day(seed, STEPS), |_, _, _| {}).failure;
    assert_eq!(with, None, "seed {seed} with all guards on");
}

#[test]
fn the_kept_day_of_each_guard_goes_wrong_without_it_alone() {
    for (name, guard) in guards::ALL {
        let kept = case::read(&case::dir().join(format!("without-{name}.json")));
        let kept = kept.expect("`cargo xtask sim --without GUARD` keeps one where there is none");
        switch_off(Some(guard));
        let without = run(&kept.deeds, |_, _, _| {}).failure;
        switch_off(None);
        let without = without.unwrap_or_else(|| panic!("{name} is off, and its day goes well"));
        let noted = shrink::kind(&kept.note);
        let same = without.wrong.iter().any(|wrong| shrink::kind(wrong) == noted);
        assert!(
            same,
            "{name} is off, and its day goes wrong otherwise than {:?}: {:#?}",
            kept.note, without.wrong
        );
        assert_eq!(run(&kept.deeds, |_, _, _| {}).failure, None, "{name} is on");
    }
}

#[test]
fn without_the_inbox_check_something_is_taken_in_twice() {
    is_missed(Guard::Inbox, &["has taken in"]);
}

#[test]
fn without_the_chain_check_a_changed_log_is_started_from() {
    is_missed(Guard::Chain, &["started from a log that was changed"]);
}

#[test]
fn without_the_request_window_a_request_runs_twice() {
    is_missed(Guard::Window, &["ran twice"]);
}

#[test]
fn without_the_age_of_ids_a_forgotten_request_runs_twice() {
    is_missed(Guard::Age, &["ran twice", "acknowledged, then refused"]);
}

#[test]
fn without_conservation_in_each_step_a_forged_log_is_started_from() {
    is_missed(Guard::Step, &["E-1.1"]);
}

#[test]
fn without_conservation_in_each_step_a_forged_log_is_started_from_by_a_snapshot_and_without() {
    for snapshots in [false, true] {
        let kept = Deed::Snapshot { service: 1, rots: false };
        let forged = [kept, Deed::Forge { snapshots }];
        switch_off(Some(Guard::Step));
        let without = run(&forged, |_, _, _| {}).failure;
        switch_off(None);
        assert!(without.is_some_and(|failure| failure.wrong[0].contains("E-1.1")), "snapshots: {snapshots}");
        assert_eq!(run(&forged, |_, _, _| {}).failure, None, "snapshots: {snapshots}, with the guard");
    }
}

#[test]
fn without_the_chain_check_a_log_that_was_changed_behind_a_snapshot_is_started_from() {
    let pay = |units| Deed::Pay { from: 4, to: 5, token: true, units, balancing: false };
    let kept = Deed::Snapshot { service: 1, rots: false };
    let changed = Deed::Tamper { service: 1, at: 0, snapshots: true };
    let deeds = [pay(1), kept, pay(2), pay(3), pay(4), changed];
    switch_off(Some(Guard::Chain));
    let without = run(&deeds, |_, _, _| {}).failure;
    switch_off(None);
    let missed = |failure: &Failure| failure.wrong[0].contains("started from a log that was changed");
    assert!(without.as_ref().is_some_and(missed), "{without:?}");
    assert_eq!(run(&deeds, |_, _, _| {}).failure, None, "with the guard");
}

#[test]
fn without_the_fence_a_late_append_of_a_former_owner_applies() {
    is_missed(Guard::Fence, &["the frame does not follow", "its events come to", "is another than it was"]);
}

#[test]
fn without_dense_numbers_a_submission_runs_twice() {
    is_missed(Guard::Numbers, &["ran twice", "follows"]);
}

#[test]
fn without_waiting_for_the_journal_something_is_acknowledged_that_is_not_there() {
    is_missed(Guard::Durable, &["acknowledged and is not in the log"]);
}

#[test]
fn without_holds_that_end_once_one_ends_twice() {
    is_missed(Guard::Hold, &["ended, and was not open"]);
}

#[test]
fn without_the_moment_of_its_frame_an_event_happens_otherwise_at_replay() {
    is_missed(Guard::Moment, &["is another than it was"]);
}

#[test]
fn without_refusals_on_record_what_was_refused_is_acknowledged() {
    is_missed(Guard::Refused, &["the log says that it was refused", "a machine failed over it"]);
}

#[test]
fn without_owners_anybody_moves_anybodys_money() {
    is_missed(Guard::Owner, &["which is not its own"]);
}

#[test]
fn without_those_who_may_end_it_a_hold_is_ended_by_another() {
    is_missed(Guard::End, &["ended hold"]);
}

#[test]
fn without_whole_chains_a_part_of_one_happens() {
    is_missed(Guard::Whole, &["E-2.2: of linked transfers only some happened"]);
}

#[test]
fn without_looking_for_its_leases_a_node_unbonds_with_one() {
    is_missed(Guard::Leased, &["unbonds with the lease of"]);
}

#[test]
fn without_its_standing_a_node_that_may_not_serve_gets_a_lease() {
    is_missed(Guard::Serves, &["E-6.1"]);
}

#[test]
fn without_kappa_an_operator_earns_more_than_its_work_allows() {
    is_missed(Guard::Kappa, &["may earn"]);
}

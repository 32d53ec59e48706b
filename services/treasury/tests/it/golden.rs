//! The bytes of every event ever released; [`golden`] says how they are kept.

use holmes_kernel::Event as _;
use holmes_proto::treasury::v1::event::Event as Kinds;
use holmes_proto::treasury::v1::{
    Allocated, Event, GenesisBegun, GenesisCompleted, GenesisResumed, GenesisStalled, GenesisStepDone,
    GenesisStepRefused, GenesisStepSent, VestingRefused, VestingReleased, VestingSent,
};
use holmes_testing::golden;

use crate::harness::LEDGER;

fn every_event() -> Vec<Event> {
    let (reason, retry_at_us) = ("ACCOUNT_FROZEN".to_owned(), 1_800_000_000_000_000);
    let command = || vec![0x0a, 0x02, 0x18, 0x01].into();
    let allocated = Allocated { name: "team".into(), account: vec![5; 16].into(), amount_units: u64::MAX };
    let kinds = [
        Kinds::GenesisBegun(GenesisBegun { asset: 1, tge_at_us: 1_799_971_200_000_000, epoch_s: 86_400 }),
        Kinds::GenesisStepSent(GenesisStepSent { step: 2, attempt: 3, command: command() }),
        Kinds::GenesisStepDone(GenesisStepDone { step: 2 }),
        Kinds::GenesisStepRefused(GenesisStepRefused { step: 2, reason: reason.clone(), retry_at_us }),
        Kinds::GenesisStalled(GenesisStalled { step: 2, reason: reason.clone() }),
        Kinds::GenesisResumed(GenesisResumed { step: 2 }),
        Kinds::GenesisCompleted(GenesisCompleted {
            asset: 1,
            cap_units: u64::MAX,
            allocations: vec![allocated.clone(), allocated],
            granted_units: 4,
        }),
        Kinds::VestingSent(VestingSent {
            allocation: 1,
            day: 365,
            amount_units: 6,
            attempt: 2,
            command: command(),
        }),
        Kinds::VestingReleased(VestingReleased {
            allocation: 1,
            name: "team".into(),
            day: 365,
            amount_units: 6,
            released_units: 7,
        }),
        Kinds::VestingRefused(VestingRefused { allocation: 1, reason, retry_at_us }),
    ];
    kinds.map(|kind| Event { event: Some(kind) }).to_vec()
}

#[test]
fn every_event_has_the_bytes_that_it_was_released_with() {
    golden::check(concat!(env!("CARGO_MANIFEST_DIR"), "/tests/golden"), &every_event());
}

#[test]
fn only_what_others_need_leaves_the_treasury_and_two_events_carry_sends() {
    let events = every_event();
    let public = ["GenesisBegun", "GenesisStalled", "GenesisResumed", "GenesisCompleted", "VestingReleased"];
    assert_eq!(golden::named(&events, Event::is_public), public);
    assert_eq!(golden::sends(&events), ["GenesisStepSent", "VestingSent"].map(|name| (name, LEDGER)));
}

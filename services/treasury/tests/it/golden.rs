//! The bytes of every event ever released. A file of tests/golden is never edited: a new version of an event gets a new
//! file, and the old one must still be read as it was.

use std::path::Path;

use holmes_kernel::Event as _;
use holmes_proto::treasury::v1::event::Event as Kinds;
use holmes_proto::treasury::v1::{
    Allocated, Event, GenesisBegun, GenesisCompleted, GenesisResumed, GenesisStalled, GenesisStepDone,
    GenesisStepRefused, GenesisStepSent, VestingRefused, VestingReleased, VestingSent,
};
use prost::Message;

fn every_event() -> Vec<Kinds> {
    let (reason, retry_at_us) = ("ACCOUNT_FROZEN".to_owned(), 1_800_000_000_000_000);
    let command = || vec![0x0a, 0x02, 0x18, 0x01].into();
    let allocated = Allocated { name: "team".into(), account: vec![5; 16].into(), amount_units: u64::MAX };
    vec![
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
    ]
}

fn hex(bytes: &[u8]) -> String {
    let digits: String = bytes.iter().map(|byte| format!("{byte:02x}")).collect();
    let lines: Vec<String> =
        digits.as_bytes().chunks(100).map(|line| String::from_utf8_lossy(line).into_owned()).collect();
    lines.join("\n") + "\n"
}

#[test]
fn every_event_has_the_bytes_that_it_was_released_with() {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/golden");
    for kind in every_event() {
        let event = Event { event: Some(kind) };
        let bytes = event.encode_to_vec();
        let name = event.name().unwrap();
        let golden = std::fs::read_to_string(folder.join(format!("{name}.hex")));
        let golden = golden.unwrap_or_else(|why| panic!("{name}.hex: {why}; it would be\n{}", hex(&bytes)));
        assert_eq!(hex(&bytes), golden, "{name}");
        assert_eq!(Event::decode(bytes.as_slice()).unwrap(), event);
    }
}

#[test]
fn only_what_others_need_leaves_the_treasury_and_two_events_carry_sends() {
    let named = |keep: fn(&Event) -> bool| -> Vec<&str> {
        let events = every_event().into_iter().map(|kind| Event { event: Some(kind) });
        events.filter(keep).filter_map(|event| event.name()).collect()
    };
    let public = ["GenesisBegun", "GenesisStalled", "GenesisResumed", "GenesisCompleted", "VestingReleased"];
    assert_eq!(named(Event::is_public), public);
    assert_eq!(named(|event| event.send().is_some()), ["GenesisStepSent", "VestingSent"]);
}

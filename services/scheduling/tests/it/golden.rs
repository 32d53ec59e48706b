//! The bytes of every event ever released; [`golden`] says how they are kept.

use holmes_kernel::{Event as _, Id};
use holmes_proto::scheduling::v1::event::Event as Kinds;
use holmes_proto::scheduling::v1::*;
use holmes_testing::golden;
use prost::bytes::Bytes;

use crate::harness::owner;

const UNITS: u64 = u64::MAX;
const AT: u64 = 1_800_000_000_000_000;

fn id(n: u8) -> Bytes {
    Id::v7(1, [n; 10]).to_bytes().to_vec().into()
}

fn owned(n: u8) -> Bytes {
    owner(n).to_bytes().to_vec().into()
}

fn placement() -> Placement {
    let candidate =
        Candidate { node: id(1), used: 1, slots: 2, score: 488, rating_milli_cu: 1_000, last_lease_seq: 7 };
    Placement {
        matcher_version: 1,
        serving: 9,
        able: 8,
        owners: 3,
        largest_owner_ppb: 400_000_000,
        best: vec![candidate],
        named_node: id(1),
        avoided_nodes: id(2),
        context: 8_192,
    }
}

fn of_leases() -> Vec<Kinds> {
    let (lease, session, node, model) = (Bytes::from(vec![6; 20]), id(3), id(1), "smollm2".to_owned());
    let line = CallLine {
        call: id(4),
        input_tokens: UNITS,
        output_tokens: 2,
        finish: Finish::Stop.into(),
        prompt_commitment: vec![1; 32].into(),
        output_commitment: vec![2; 32].into(),
        node_signature: vec![3; 64].into(),
        gateway_signature: vec![4; 64].into(),
    };
    let granted = LeaseGranted {
        session: session.clone(),
        renter: owned(9),
        node: node.clone(),
        owner: owned(1),
        gateway: id(5),
        generation: 11,
        model: model.clone(),
        input_pico_usd: 1,
        output_pico_usd: 2,
        input_micro_units: 3,
        output_micro_units: 4,
        credit: 2,
        allowance_pico_usd: UNITS,
        expires_at_us: AT,
        placement: Some(placement()),
        lease: lease.clone(),
    };
    let renewed = Lease {
        lease: lease.clone(),
        session: session.clone(),
        node: node.clone(),
        gateway: id(5),
        generation: 11,
        model: model.clone(),
        expires_at_us: AT,
        allowance_pico_usd: UNITS,
        input_pico_usd: 1,
        output_pico_usd: 2,
    };
    let metered = CallsMetered {
        lease: lease.clone(),
        session: session.clone(),
        renter: owned(9),
        node: node.clone(),
        owner: owned(1),
        model,
        input_pico_usd: 1,
        output_pico_usd: 2,
        input_micro_units: 3,
        output_micro_units: 4,
        credit: 1,
        lines: vec![line.clone()],
        gateway: id(5),
    };
    let checkpointed = CallsCheckpointed { gateway: id(5), leases: lease.clone(), lines: vec![line] };
    let reason = LeaseEnd::NodeLost.into();
    vec![
        Kinds::LeaseGranted(granted),
        Kinds::LeaseRenewed(LeaseRenewed { renewed: Some(renewed) }),
        Kinds::LeaseEnded(LeaseEnded { lease: lease.clone(), session, node, reason }),
        Kinds::CallsMetered(metered),
        Kinds::CallsCheckpointed(checkpointed),
        Kinds::LinesAnswered(LinesAnswered {
            lease,
            positions: vec![0, 3],
            receipt_seqs: vec![7, 0],
            receipt_lines: vec![1, 0],
            reasons: vec![String::new(), "ALLOWANCE_EXCEEDED".into()],
            metered_seq: 8,
        }),
    ]
}

fn of_nodes() -> Vec<Kinds> {
    let noted = NodeNoted {
        node: id(1),
        owner: owned(1),
        public_key: vec![2; 32].into(),
        qualified: true,
        rating_milli_cu: 1_000,
        required_units: UNITS,
    };
    vec![
        Kinds::NodeAttached(NodeAttached {
            node: id(1),
            gateway: id(5),
            capabilities: vec![1, 2].into(),
            nonce: vec![3; 16].into(),
            signature: vec![4; 64].into(),
            generation: 11,
        }),
        Kinds::NodeDetached(NodeDetached {
            node: id(1),
            generation: 11,
            reason: DetachReason::Silent.into(),
        }),
        Kinds::GatewayStarted(GatewayStarted { gateway: id(5), public_key: vec![2; 32].into() }),
        Kinds::GatewayHeard(GatewayHeard { gateway: id(5) }),
        Kinds::GatewayLost(GatewayLost { gateway: id(5) }),
        Kinds::NodesNoted(NodesNoted { nodes: vec![noted], unqualified: id(2) }),
    ]
}

fn of_epochs_and_the_market() -> Vec<Kinds> {
    vec![
        Kinds::PresenceRecorded(PresenceRecorded {
            epoch: 3,
            first_beat: 240,
            beats: 12,
            nodes: id(1),
            bitmaps: vec![0xff, 0x0f].into(),
        }),
        Kinds::BeatsWeighed(BeatsWeighed { epoch: 3, nodes: 255 }),
        Kinds::EpochAttendance(EpochAttendance {
            epoch: 3,
            nodes: id(1),
            beats_seen: vec![12],
            active: vec![true],
        }),
        Kinds::EpochSealed(EpochSealed { epoch: 3, beats: 5_760 }),
        Kinds::ModelNoted(ModelNoted {
            model: "smollm2".into(),
            input_pico_usd: 1,
            output_pico_usd: 2,
            input_micro_units: 3,
            output_micro_units: 4,
            withdrawn: true,
        }),
        Kinds::SessionNoted(SessionNoted {
            session: id(3),
            renter: owned(9),
            cap_pico_usd: vec![7; 16].into(),
            expires_at_us: AT,
        }),
        Kinds::SessionEnded(SessionEnded { session: id(3) }),
        Kinds::SessionDraining(SessionDraining { session: id(3), drains_until_us: AT }),
        Kinds::SessionDrained(SessionDrained { session: id(3) }),
    ]
}

fn every_event() -> Vec<Event> {
    let kinds = of_leases().into_iter().chain(of_nodes()).chain(of_epochs_and_the_market());
    kinds.map(|kind| Event { event: Some(kind) }).collect()
}

#[test]
fn every_event_has_the_bytes_that_it_was_released_with() {
    golden::check(concat!(env!("CARGO_MANIFEST_DIR"), "/tests/golden"), &every_event());
}

#[test]
fn only_what_others_need_leaves_scheduling_and_it_sends_nothing() {
    let events = every_event();
    let public = golden::named(&events, Event::is_public);
    let expected = [
        "LeaseGranted",
        "LeaseRenewed",
        "LeaseEnded",
        "CallsMetered",
        "NodeAttached",
        "NodeDetached",
        "PresenceRecorded",
        "EpochAttendance",
        "EpochSealed",
        "SessionDrained",
    ];
    assert_eq!(public, expected);
    assert_eq!(golden::sends(&events), []);
}

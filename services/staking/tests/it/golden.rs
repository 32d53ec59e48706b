//! The bytes of every event ever released; [`golden`] says how they are kept.

use holmes_kernel::{Event as _, Id, ServiceId};
use holmes_proto::staking::v1::event::Event as Kinds;
use holmes_proto::staking::v1::{
    BondCause, BondChanged, BondPosted, BondRefused, BondRequested, CollateralInputs, EmissionNoted,
    EpochSealed, Event, HoldsOffered, LeasesNoted, NodeKind, NodeRegistered, NodeState, OwnerTombstoned,
    PayoutAccountSet, PayoutMade, PayoutRefused, PayoutSent, RecomputeStarted, RequiredRecomputed,
    UnbondingStarted, VaultOpened, VaultRefused, VaultRequested,
};
use holmes_testing::golden;
use prost::bytes::Bytes;

use crate::harness::{key, node_id, owner};

const UNITS: u64 = u64::MAX;
const AT: u64 = 1_800_000_000_000_000;

fn bytes(id: Id) -> Bytes {
    id.to_bytes().to_vec().into()
}

fn owned() -> Bytes {
    owner(1).to_bytes().to_vec().into()
}

fn of_bonds() -> Vec<Kinds> {
    let (node, hold, account) = (bytes(node_id(1)), bytes(Id::v7(1, [2; 10])), bytes(Id::v7(1, [3; 10])));
    let (send, reason) = (Bytes::from(vec![9; 5]), "HOLD_ENDED".to_owned());
    vec![
        Kinds::VaultRequested(VaultRequested { send: send.clone() }),
        Kinds::VaultOpened(VaultOpened {}),
        Kinds::VaultRefused(VaultRefused { reason: reason.clone(), retry_at_us: AT }),
        Kinds::HoldsOffered(HoldsOffered {
            holds: hold.clone(),
            nodes: node.clone(),
            accounts: account.clone(),
            amounts_units: vec![UNITS],
        }),
        Kinds::BondRequested(BondRequested {
            node: node.clone(),
            hold: hold.clone(),
            account: account.clone(),
            amount_units: UNITS,
            send,
        }),
        Kinds::BondPosted(BondPosted {
            node: node.clone(),
            hold: hold.clone(),
            account: account.clone(),
            amount_units: UNITS,
            cause_seq: 7,
        }),
        Kinds::BondRefused(BondRefused { node: node.clone(), hold, reason, cause_seq: 7 }),
        Kinds::PayoutAccountSet(PayoutAccountSet { node, account }),
    ]
}

fn of_nodes() -> Vec<Kinds> {
    let node = bytes(node_id(1));
    vec![
        Kinds::NodeRegistered(NodeRegistered {
            node: node.clone(),
            owner: owned(),
            public_key: key(1).verifying_key().to_bytes().to_vec().into(),
            kind: NodeKind::Compute.into(),
            claim_milli_cu: 1_000,
        }),
        Kinds::BondChanged(BondChanged {
            node: node.clone(),
            owner: owned(),
            kind: NodeKind::Verifier.into(),
            state: NodeState::Jailed.into(),
            bond_units: UNITS,
            unbonding_units: 2,
            required_units: 3,
            rating_milli_cu: 4,
            hardware_until_us: AT,
            qualified: true,
            cause: BondCause::Jailed.into(),
            note: "evidence 7".into(),
        }),
        Kinds::OwnerTombstoned(OwnerTombstoned { owner: owned(), nodes: node, cause: "evidence 7".into() }),
    ]
}

fn of_exits_and_requirements() -> Vec<Kinds> {
    let (node, account, send) = (bytes(node_id(1)), bytes(Id::v7(1, [3; 10])), Bytes::from(vec![9; 5]));
    let leased = [node.clone(), bytes(node_id(2))].concat();
    let (unbonding, amount_units, cause_seq) = (5, UNITS, 7);
    let reason = "CREDIT_NOT_FOUND".to_owned();
    let inputs = CollateralInputs {
        next_emission_units: 1,
        circulating_units: 2,
        bonded_units: 3,
        nodes: 4,
        network_milli_cu: 5,
        bonded_share_ppb: 6,
        reward_days: 7,
        target_nodes: 8,
        target_milli_cu: 9,
    };
    vec![
        Kinds::UnbondingStarted(UnbondingStarted {
            unbonding,
            node: node.clone(),
            amount_units,
            ready_at_us: AT,
            account,
        }),
        Kinds::PayoutSent(PayoutSent { unbonding, amount_units, send }),
        Kinds::PayoutMade(PayoutMade { unbonding, node: node.clone(), amount_units, cause_seq }),
        Kinds::PayoutRefused(PayoutRefused {
            unbonding,
            node: node.clone(),
            reason,
            retry_at_us: AT,
            cause_seq,
        }),
        Kinds::RecomputeStarted(RecomputeStarted {
            inputs: Some(inputs),
            formula_units: 10,
            base_units: 11,
            nodes: 12,
            rise_at_us: AT,
            period: 13,
        }),
        Kinds::RequiredRecomputed(RequiredRecomputed { nodes: node, required_units: vec![UNITS] }),
        Kinds::EpochSealed(EpochSealed { epoch: 14 }),
        Kinds::EmissionNoted(EmissionNoted { next_emission_units: UNITS, circulating_units: 15 }),
        Kinds::LeasesNoted(LeasesNoted {
            grants: vec![16, 17],
            nodes: leased.into(),
            granted_until_us: vec![AT, 0],
        }),
    ]
}

fn every_event() -> Vec<Event> {
    let kinds = of_bonds().into_iter().chain(of_nodes()).chain(of_exits_and_requirements());
    kinds.map(|kind| Event { event: Some(kind) }).collect()
}

#[test]
fn every_event_has_the_bytes_that_it_was_released_with() {
    golden::check(concat!(env!("CARGO_MANIFEST_DIR"), "/tests/golden"), &every_event());
}

#[test]
fn only_what_others_need_leaves_staking() {
    let public = golden::named(&every_event(), Event::is_public);
    let expected = [
        "BondPosted",
        "BondRefused",
        "PayoutAccountSet",
        "NodeRegistered",
        "BondChanged",
        "OwnerTombstoned",
        "UnbondingStarted",
        "PayoutMade",
        "PayoutRefused",
        "RecomputeStarted",
        "RequiredRecomputed",
        "EpochSealed",
    ];
    assert_eq!(public, expected);
}

#[test]
fn what_staking_sends_goes_to_the_ledger() {
    let expected = ["VaultRequested", "BondRequested", "PayoutSent"].map(|name| (name, ServiceId(1)));
    assert_eq!(golden::sends(&every_event()), expected);
}

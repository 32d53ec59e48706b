//! The bytes of every event ever released; [`golden`] says how they are kept.

use holmes_kernel::{Event as _, Id, ServiceId};
use holmes_proto::emission::v1::event::Event as Kinds;
use holmes_proto::emission::v1::{
    AccountOpened, AccountRefused, AccountRequested, AttendanceNoted, CloseBegun, CloseEnded, EpochClosed,
    Event, GrantExited, GrantsUnlocked, LockedBurned, MoveMade, MoveRefused, MoveSent, NodeNoted,
    NodesBarred, NodesWeighed, OwnerCut, OwnersChecked, PaymentsAnswered, PaymentsSent, PayoutNoted, Pool,
    PoolClose, PriceNoted, RequiredNoted, RewardsGranted, SharesFloored, SharesRounded, SourceSealed,
    SourceSkipped, WorkNoted,
};
use holmes_proto::market::v1::WorkCredit;
use holmes_proto::staking::v1::NodeKind;
use holmes_testing::golden;
use prost::bytes::Bytes;

const UNITS: u64 = u64::MAX;
const AT: u64 = 1_800_000_000_000_000;

fn node() -> Bytes {
    Id::from_bytes([7; 16]).to_bytes().to_vec().into()
}

fn owner() -> Bytes {
    vec![2; 17].into()
}

fn wide(number: u128) -> Bytes {
    number.to_be_bytes().to_vec().into()
}

fn closed() -> Kinds {
    let pool = PoolClose {
        pool: Pool::Br.into(),
        target_units: UNITS,
        m_numerator: 2,
        m_denominator: 3,
        actual_units: 4,
        paid_units: 5,
        remaining_units: 6,
        weights: wide(u128::MAX),
    };
    Kinds::EpochClosed(EpochClosed {
        epoch: 1,
        pools: vec![pool],
        scheduled_units: UNITS,
        next_scheduled_units: 2,
        ceiling_units: 3,
        active_nodes: 4,
        token_price_micro_usd: 5,
        circulating_units: 6,
        full_units: wide(7),
        quarter_units: wide(8),
        cut_units: 9,
        nodes: 10,
    })
}

fn of_sources() -> Vec<Kinds> {
    vec![
        Kinds::NodeNoted(NodeNoted {
            epoch: 1,
            node: node(),
            owner: owner(),
            kind: NodeKind::Compute.into(),
            slashable_units: UNITS,
            required_units: 2,
            rating_milli_cu: 3,
            barred: true,
            registered: true,
        }),
        Kinds::RequiredNoted(RequiredNoted { epoch: 1, nodes: node(), required_units: vec![UNITS] }),
        Kinds::PayoutNoted(PayoutNoted { node: node(), account: node() }),
        Kinds::NodesBarred(NodesBarred { nodes: node() }),
        Kinds::WorkNoted(WorkNoted {
            epoch: 1,
            nodes: node(),
            owners: owner(),
            credits: vec![WorkCredit::Quarter.into()],
            units: vec![UNITS],
            fees_micro_usd: vec![2],
        }),
        Kinds::AttendanceNoted(AttendanceNoted {
            epoch: 1,
            nodes: node(),
            beats_seen: vec![5_760],
            active: vec![true],
        }),
        Kinds::PriceNoted(PriceNoted { epoch: 1, token_price_micro_usd: UNITS }),
        Kinds::SourceSealed(SourceSealed { service: 4, epoch: 1 }),
        Kinds::SourceSkipped(SourceSkipped { service: 4, epoch: 1 }),
    ]
}

fn of_closes() -> Vec<Kinds> {
    vec![
        Kinds::CloseBegun(CloseBegun { epoch: 1 }),
        Kinds::NodesWeighed(NodesWeighed {
            nodes: node(),
            trr_weights: wide(1),
            br_weights: wide(2),
            units: wide(3),
            classes: vec![4],
        }),
        Kinds::SharesFloored(SharesFloored {
            nodes: node(),
            trr_units: vec![UNITS],
            trr_remainders: wide(1),
            br_units: vec![2],
            br_remainders: wide(3),
        }),
        Kinds::SharesRounded(SharesRounded { trr_nodes: node(), br_nodes: node() }),
        Kinds::OwnerCut(OwnerCut { owner: owner(), bound_units: 1, nodes: node(), cut_units: vec![UNITS] }),
        Kinds::OwnersChecked(OwnersChecked { owners: 255 }),
        Kinds::RewardsGranted(RewardsGranted {
            nodes: node(),
            liquid_units: vec![UNITS],
            locked_units: vec![2],
            full_work_units: wide(3),
        }),
        Kinds::GrantsUnlocked(GrantsUnlocked {
            looked_at: 256,
            nodes: node(),
            epochs: vec![1],
            units: vec![UNITS],
        }),
        Kinds::CloseEnded(CloseEnded { epoch: 1 }),
        Kinds::GrantExited(GrantExited { node: node(), epoch: 1, paid_units: UNITS, burned_units: 2 }),
        Kinds::LockedBurned(LockedBurned { nodes: node(), units: vec![UNITS] }),
    ]
}

fn of_the_ledger() -> Vec<Kinds> {
    let (name, reason, send) =
        ("emission_pot/HOL".to_owned(), "ACCOUNT_FROZEN".to_owned(), Bytes::from(vec![9; 5]));
    vec![
        Kinds::AccountRequested(AccountRequested { name: name.clone(), send: send.clone() }),
        Kinds::AccountOpened(AccountOpened { name: name.clone() }),
        Kinds::AccountRefused(AccountRefused { name, reason: reason.clone(), retry_at_us: AT }),
        Kinds::MoveSent(MoveSent { number: 1, send: send.clone() }),
        Kinds::MoveMade(MoveMade { number: 1 }),
        Kinds::MoveRefused(MoveRefused { number: 1, reason: reason.clone(), retry_at_us: AT }),
        Kinds::PaymentsSent(PaymentsSent { nodes: node(), units: vec![UNITS], send }),
        Kinds::PaymentsAnswered(PaymentsAnswered {
            cause_seq: 7,
            reasons: vec![String::new(), reason],
            retry_at_us: AT,
        }),
    ]
}

fn every_event() -> Vec<Event> {
    let kinds = std::iter::once(closed()).chain(of_sources()).chain(of_closes()).chain(of_the_ledger());
    kinds.map(|kind| Event { event: Some(kind) }).collect()
}

#[test]
fn every_event_has_the_bytes_that_it_was_released_with() {
    golden::check(concat!(env!("CARGO_MANIFEST_DIR"), "/tests/golden"), &every_event());
}

#[test]
fn only_what_others_need_leaves_emission() {
    assert_eq!(golden::named(&every_event(), Event::is_public), ["EpochClosed"]);
}

#[test]
fn what_emission_sends_goes_to_the_ledger() {
    let expected = ["AccountRequested", "MoveSent", "PaymentsSent"].map(|name| (name, ServiceId(1)));
    assert_eq!(golden::sends(&every_event()), expected);
}

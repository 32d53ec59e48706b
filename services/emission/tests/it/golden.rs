//! The bytes of every event ever released. A file of tests/golden is never edited: a new version of an event gets a new
//! file, and the old one must still be read as it was.

use std::path::Path;

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
use prost::Message;
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

fn hex(bytes: &[u8]) -> String {
    let digits: String = bytes.iter().map(|byte| format!("{byte:02x}")).collect();
    let lines: Vec<String> =
        digits.as_bytes().chunks(100).map(|line| String::from_utf8_lossy(line).into_owned()).collect();
    lines.join("\n") + "\n"
}

#[test]
fn every_event_has_the_bytes_that_it_was_released_with() {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/golden");
    for event in every_event() {
        let bytes = event.encode_to_vec();
        let name = event.name().unwrap();
        let golden = std::fs::read_to_string(folder.join(format!("{name}.hex")));
        let golden = golden.unwrap_or_else(|why| panic!("{name}.hex: {why}; it would be\n{}", hex(&bytes)));
        assert_eq!(hex(&bytes), golden, "{name}");
        assert_eq!(Event::decode(bytes.as_slice()).unwrap(), event);
    }
    let files = std::fs::read_dir(folder).unwrap().filter_map(Result::ok);
    let golden = files.filter(|file| file.path().extension().is_some_and(|kind| kind == "hex")).count();
    assert_eq!(golden, every_event().len(), "an event has no golden bytes, or bytes have no event");
}

#[test]
fn only_what_others_need_leaves_emission() {
    let events = every_event();
    let public = events.iter().filter(|event| event.is_public()).filter_map(|event| event.name());
    assert_eq!(public.collect::<Vec<_>>(), ["EpochClosed"]);
}

#[test]
fn what_emission_sends_goes_to_the_ledger() {
    let events = every_event();
    let sends = events.iter().filter_map(|event| Some((event.name()?, event.send()?.to)));
    let expected = ["AccountRequested", "MoveSent", "PaymentsSent"].map(|name| (name, ServiceId(1)));
    assert_eq!(sends.collect::<Vec<_>>(), expected);
}

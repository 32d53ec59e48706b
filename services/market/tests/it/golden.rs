//! The bytes of every event ever released; [`golden`] says how they are kept.

use holmes_kernel::{Event as _, Id, ServiceId};
use holmes_proto::market::v1::event::Event as Kinds;
use holmes_proto::market::v1::{
    AccountSet, CallsEnded, CallsNoted, CallsUnbilled, EpochSealed, Event, HoldLost, HoldMade, HoldSent,
    MarketOpened, ModelKind, ModelPriced, OwedPaid, OwedRefused, OwedSent, PriceSealed, SessionClosed,
    SessionClosing, SessionForgotten, SessionFunded, SessionLeased, SessionLimited, SessionOpened, Settled,
    SettlementRefused, SettlementSent, SystemAccountOpened, SystemAccountRefused, SystemAccountRequested,
    WindowEnded, WorkCredit,
};
use holmes_testing::golden;
use prost::bytes::Bytes;

use crate::harness::{node, party};

const MOST: u64 = u64::MAX;
const AT: u64 = 1_800_000_000_000_000;

fn bytes(id: Id) -> Bytes {
    id.to_bytes().to_vec().into()
}

fn session() -> Bytes {
    bytes(Id::v7(1, [2; 10]))
}

fn who(n: u8) -> Bytes {
    party(n).to_bytes().to_vec().into()
}

fn wide(number: u128) -> Bytes {
    number.to_be_bytes().to_vec().into()
}

fn send() -> Bytes {
    vec![9; 5].into()
}

fn of_offers_and_epochs() -> Vec<Kinds> {
    let (name, reason) = (String::from("market/HOL"), String::from("INTERNAL"));
    vec![
        Kinds::ModelPriced(ModelPriced {
            model: "smollm2-135m-instruct".into(),
            kind: ModelKind::Embed.into(),
            input_pico_usd: 1,
            output_pico_usd: 2,
            input_micro_units: 3,
            output_micro_units: MOST,
            withdrawn: true,
        }),
        Kinds::MarketOpened(MarketOpened { tge_at_us: AT }),
        Kinds::SystemAccountRequested(SystemAccountRequested { name: name.clone(), send: send() }),
        Kinds::SystemAccountOpened(SystemAccountOpened { name: name.clone() }),
        Kinds::SystemAccountRefused(SystemAccountRefused { name, reason: reason.clone(), retry_at_us: AT }),
        Kinds::AccountSet(AccountSet { principal: who(1), asset: 2, account: bytes(Id::v7(1, [5; 10])) }),
        Kinds::OwedSent(OwedSent { owner: who(11), asset: 2, units: MOST, send: send() }),
        Kinds::OwedPaid(OwedPaid { owner: who(11), asset: 2 }),
        Kinds::OwedRefused(OwedRefused { owner: who(11), asset: 2, reason, retry_at_us: AT }),
        Kinds::PriceSealed(PriceSealed { epoch: 7, token_price_micro_usd: MOST }),
        Kinds::EpochSealed(EpochSealed { epoch: 7 }),
    ]
}

fn of_sessions() -> Vec<Kinds> {
    let reason = String::from("INSUFFICIENT_FUNDS");
    vec![
        Kinds::SessionOpened(SessionOpened {
            session: session(),
            renter: who(1),
            asset: 1,
            account: bytes(Id::v7(1, [5; 10])),
            budget_micro_usd: 2,
            token_price_micro_usd: 3,
            buyer_fee_ppb: 4,
            seller_fee_ppb: 5,
            surcharge_ppb: 6,
            expires_at_us: AT,
            hold: bytes(Id::v7(1, [3; 10])),
            hold_units: MOST,
            send: send(),
        }),
        Kinds::HoldMade(HoldMade { session: session() }),
        Kinds::SessionFunded(SessionFunded {
            session: session(),
            renter: who(1),
            cap_pico_usd: wide(u128::MAX),
            expires_at_us: AT,
        }),
        Kinds::SessionLimited(SessionLimited { session: session(), reason: reason.clone() }),
        Kinds::SessionClosing(SessionClosing {
            session: session(),
            renter: who(1),
            reason: reason.clone(),
            drains_until_us: AT,
        }),
        Kinds::SessionClosed(SessionClosed { session: session(), renter: who(1), reason }),
        Kinds::SessionForgotten(SessionForgotten { session: session() }),
        Kinds::CallsEnded(CallsEnded { session: session() }),
        Kinds::SessionLeased(SessionLeased { session: session(), until_us: AT }),
        Kinds::HoldSent(HoldSent { session: session(), hold: bytes(Id::v7(1, [3; 10])), send: send() }),
        Kinds::CallsNoted(CallsNoted {
            session: session(),
            node: bytes(node(1)),
            owner: who(11),
            credit: WorkCredit::Quarter.into(),
            calls: 1,
            input_tokens: 2,
            output_tokens: 3,
            billed_pico_usd: wide(4),
            billed_micro_units: wide(5),
            unbilled_pico_usd: wide(6),
        }),
        Kinds::CallsUnbilled(CallsUnbilled {
            session: session(),
            node: bytes(node(1)),
            owner: who(11),
            calls: 1,
            unbilled_pico_usd: wide(u128::MAX),
            reason: "SESSION_NOT_FOUND".into(),
        }),
    ]
}

fn of_settlements() -> Vec<Kinds> {
    let (nodes, owners) = (bytes(node(1)), who(11));
    let credits = vec![WorkCredit::Full.into()];
    vec![
        Kinds::WindowEnded(WindowEnded {
            session: session(),
            window: 1,
            nodes: nodes.clone(),
            owners: owners.clone(),
            credits: credits.clone(),
            calls: vec![2],
            input_tokens: vec![3],
            output_tokens: vec![4],
            units: vec![5],
            price_micro_usd: vec![6],
            buyer_fee_micro_usd: vec![7],
            seller_fee_micro_usd: vec![8],
            paid_units: vec![MOST],
            surcharge_micro_usd: 9,
            charged_units: 10,
            fee_units: 11,
            surcharge_units: 12,
        }),
        Kinds::SettlementSent(SettlementSent {
            session: session(),
            payees: owners.clone(),
            accounts: bytes(Id::v7(1, [5; 10])),
            hold: bytes(Id::v7(1, [4; 10])),
            hold_units: MOST,
            covers_micro_usd: wide(1),
            transfers: 256,
            last: true,
            send: send(),
        }),
        Kinds::SettlementRefused(SettlementRefused {
            session: session(),
            reason: "CREDIT_NOT_FOUND".into(),
            owner: owners.clone(),
            hold_refused: true,
            retry_at_us: AT,
        }),
        Kinds::Settled(Settled {
            epoch: 1,
            session: session(),
            renter: who(1),
            asset: 2,
            window: 3,
            nodes,
            owners,
            credits,
            units: vec![4],
            price_micro_usd: vec![5],
            fees_micro_usd: vec![6],
            paid_units: vec![MOST],
            charged_units: 7,
            surcharge_micro_usd: 8,
            calls: 9,
        }),
        Kinds::HoldLost(HoldLost { session: session(), reason: "HOLD_ENDED".into() }),
    ]
}

fn every_event() -> Vec<Event> {
    let kinds = of_offers_and_epochs().into_iter().chain(of_sessions()).chain(of_settlements());
    kinds.map(|kind| Event { event: Some(kind) }).collect()
}

#[test]
fn every_event_has_the_bytes_that_it_was_released_with() {
    golden::check(concat!(env!("CARGO_MANIFEST_DIR"), "/tests/golden"), &every_event());
}

#[test]
fn only_what_others_need_leaves_the_market() {
    let public = golden::named(&every_event(), Event::is_public);
    let expected = [
        "ModelPriced",
        "PriceSealed",
        "EpochSealed",
        "SessionFunded",
        "SessionClosing",
        "SessionClosed",
        "Settled",
    ];
    assert_eq!(public, expected);
}

#[test]
fn what_the_market_sends_goes_to_the_ledger() {
    let expected = ["SystemAccountRequested", "OwedSent", "SessionOpened", "HoldSent", "SettlementSent"];
    assert_eq!(golden::sends(&every_event()), expected.map(|name| (name, ServiceId(1))));
}

//! The gRPC service, and bad input: each case has its stable reason and leaves the state as it was.

use holmes_kernel::{Id, Principal, canon};
use holmes_market::Market;
use holmes_market::api::Api;
use holmes_proto::edge::{Roles, Scope};
use holmes_proto::market::v1 as wire;
use holmes_proto::market::v1::market_server::Market as _;
use holmes_proto::market::v1::{ModelKind, SessionState};
use holmes_runtime::rig::Seat;
use holmes_store::journal::memory::Journal;
use holmes_testing::call;
use holmes_testing::grpc::{answer, request};
use tonic::Request;

use crate::harness::{GATEWAY, HOL, MINUTE, STAFF, USD, WEALTH, World, account, node, one, party, with};

struct Desk {
    world: World,
    api: Api<Seat<Market, Journal>>,
}

impl Desk {
    fn new() -> Desk {
        let world = World::new(&with(|_| {}));
        let api = Api::new(world.market.clone());
        Desk { world, api }
    }

    fn settle(&mut self) {
        self.world.rig.settle();
    }

    fn id(&mut self) -> String {
        self.world.fresh().to_string()
    }

    fn digest(&self) -> canon::Digest {
        self.world.look(canon::digest)
    }

    fn asks(&mut self, change: impl FnOnce(&mut wire::OpenSessionRequest)) -> wire::OpenSessionRequest {
        let mut request = wire::OpenSessionRequest { request_id: self.id(), ..Default::default() };
        change(&mut request);
        request
    }

    fn open(&mut self, n: u8) -> wire::Session {
        let request = self.asks(|_| {});
        let opened = call!(self.open_session, party(n), request);
        opened.expect("a session opens").session.expect("an answer has the session")
    }

    fn get(&mut self, who: Principal, session_id: &str) -> Result<wire::Session, String> {
        let message = wire::GetSessionRequest { session_id: session_id.into() };
        call!(self.get_session, who, message).map(|answer| answer.session.expect("an answer has the session"))
    }
}

fn model(change: impl FnOnce(&mut wire::Model)) -> wire::Model {
    let mut model = wire::Model {
        name: "big-model".into(),
        kind: ModelKind::Generate.into(),
        input_pico_usd: 1_500_000,
        output_pico_usd: 2_500_001,
        input_micro_units: 1,
        output_micro_units: 2,
        withdrawn: false,
    };
    change(&mut model);
    model
}

#[test]
fn a_gateway_opens_a_session_for_a_renter_who_reads_its_invoice_and_closes_it() {
    // E-9.1, E-9.2
    let mut desk = Desk::new();
    let ask = desk.asks(|r| {
        (r.renter, r.asset, r.budget_micro_usd) = (party(1).to_string(), HOL, 1_000_000);
    });
    let opened = call!(desk.open_session, GATEWAY, ask.clone()).unwrap().session.unwrap();
    assert_eq!(
        (opened.session_id.as_str(), opened.state()),
        (ask.request_id.as_str(), SessionState::Opening)
    );
    let again = call!(desk.open_session, GATEWAY, ask).unwrap().session.unwrap();
    assert_eq!(again.session_id, opened.session_id);
    let id = opened.session_id;
    let active = desk.get(party(1), &id).unwrap();
    assert_eq!((active.state(), active.token_price_micro_usd), (SessionState::Active, 100_000));
    assert_eq!(active.cap_pico_usd, "980392000000"); // and 2 % of it, ceiled: 1,000,000
    assert!(active.funded_seq > 0 && active.charged_units == 0 && active.expires_at_us > active.opened_at_us);

    desk.world.meter(id.parse().unwrap(), &[one(1, 11, 10_001)]);
    let invoice =
        call!(desk.get_invoice, party(1), wire::GetInvoiceRequest { session_id: id.clone() }).unwrap();
    assert_eq!((invoice.lines.len(), invoice.open_pico_usd.as_str()), (0, "10001000000"));
    desk.world.wait(2 * MINUTE);
    let invoice =
        call!(desk.get_invoice, GATEWAY, wire::GetInvoiceRequest { session_id: id.clone() }).unwrap();
    assert_eq!(
        (invoice.price_micro_usd, invoice.buyer_fee_micro_usd, invoice.surcharge_micro_usd),
        (10_001, 201, 0)
    );
    let [line] = invoice.lines.as_slice() else { panic!("{:?}", invoice.lines) };
    assert_eq!((line.window, line.calls, line.input_tokens, line.output_tokens), (1, 1, 1, 10_001));
    // 10,001 less 301 of seller's fee, at 0.10 USD a token.
    assert_eq!((line.node_id.as_str(), line.paid_units), (node(1).to_string().as_str(), 97_000_000));
    assert_eq!((desk.world.has(11, HOL), desk.world.has(1, HOL)), (97_000_000, WEALTH[0] - 102_020_000));

    let request_id = desk.id();
    let close = wire::CloseSessionRequest { request_id, session_id: id.clone() };
    let closing = call!(desk.close_session, party(1), close).unwrap().session.unwrap();
    assert_eq!(closing.state(), SessionState::Closing);
    desk.world.wait(2 * MINUTE);
    let closed = desk.get(party(1), &id).unwrap();
    assert_eq!((closed.state(), closed.reason.as_str()), (SessionState::Closed, "CLOSED_BY_RENTER"));
    assert_eq!(closed.charged_units, 102_020_000);
}

#[test]
fn a_quote_is_the_bill_of_what_it_asks_for() {
    // E-9.1
    let mut desk = Desk::new();
    let request_id = desk.id();
    call!(desk.set_model, STAFF, wire::SetModelRequest { request_id, model: Some(model(|_| {})) }).unwrap();
    let ask = |asset, output_tokens| wire::QuoteRequest {
        model: "big-model".into(),
        input_tokens: 2,
        output_tokens,
        asset,
    };
    // 2 · 1.5 + 3 · 2.500001 = 10.500003: 11 micro-dollars, 1 of fee, 1 of surcharge.
    let usd = call!(desk.quote, party(3), ask(0, 3)).unwrap();
    assert_eq!((usd.price_micro_usd, usd.buyer_fee_micro_usd, usd.surcharge_micro_usd), (11, 1, 1));
    assert_eq!((usd.total_micro_usd, usd.total_units, usd.token_price_micro_usd), (13, 13, 0));
    let hol = call!(desk.quote, party(3), ask(HOL, 3)).unwrap();
    assert_eq!((hol.total_micro_usd, hol.total_units, hol.token_price_micro_usd), (12, 120_000, 100_000));
    assert_eq!(call!(desk.quote, party(3), ask(9, 3)), Err("ASSET_NOT_FOUND".into()));
    assert_eq!(call!(desk.quote, party(3), ask(0, u64::MAX)), Err("FIELD_INVALID".into()));
    let none = wire::QuoteRequest { model: "none".into(), ..Default::default() };
    assert_eq!(call!(desk.quote, party(3), none), Err("MODEL_NOT_FOUND".into()));
    let request_id = desk.id();
    let gone = wire::SetModelRequest { request_id, model: Some(model(|m| m.withdrawn = true)) };
    call!(desk.set_model, STAFF, gone).unwrap();
    assert_eq!(call!(desk.quote, party(3), ask(0, 3)), Err("MODEL_NOT_FOUND".into()));
    let names = |models: Vec<wire::Model>| models.into_iter().map(|model| model.name).collect::<Vec<_>>();
    let list = |withdrawn| wire::ListModelsRequest { withdrawn };
    let offered = names(call!(desk.list_models, party(3), list(false)).unwrap().models);
    assert_eq!(offered, ["all-minilm-l6-v2", "smollm2-135m-instruct"]);
    assert_eq!(call!(desk.list_models, party(3), list(true)).unwrap().models.len(), 3);
    let price = call!(desk.get_price, party(3), wire::GetPriceRequest {}).unwrap();
    assert_eq!((price.token_price_micro_usd, price.sources[0].name.as_str()), (100_000, "fixed"));
}

#[test]
fn a_session_that_cannot_be_is_refused() {
    let mut desk = Desk::new();
    let nobody = Principal::new(holmes_kernel::PrincipalKind::Account, Id::from_bytes([55; 16]));
    let taken = desk.open(1).session_id;
    let digest = desk.digest();
    let cases: Vec<(Principal, wire::OpenSessionRequest, &str)> = vec![
        (party(1), desk.asks(|r| r.request_id.clear()), "FIELD_INVALID"),
        (party(1), desk.asks(|r| r.renter = "alice".into()), "FIELD_INVALID"),
        (STAFF, desk.asks(|r| r.renter = STAFF.to_string()), "FIELD_INVALID"),
        (party(1), desk.asks(|r| r.renter = party(2).to_string()), "FORBIDDEN"),
        (STAFF, desk.asks(|_| {}), "FORBIDDEN"),
        (GATEWAY, desk.asks(|_| {}), "FORBIDDEN"),
        (party(1), desk.asks(|r| r.asset = 9), "ASSET_NOT_FOUND"),
        (party(1), desk.asks(|r| r.budget_micro_usd = 49_999), "BUDGET_OUT_OF_RANGE"),
        (party(1), desk.asks(|r| r.budget_micro_usd = 1_000_000_001), "BUDGET_OUT_OF_RANGE"),
        (nobody, desk.asks(|_| {}), "SESSION_NO_ACCOUNT"),
        (party(2), desk.asks(|r| r.request_id = taken), "SESSION_EXISTS"),
    ];
    for (who, message, expected) in cases {
        assert_eq!(call!(desk.open_session, who, message.clone()), Err(expected.into()), "{message:?}");
    }
    assert_eq!(desk.digest(), digest);
    let message = desk.asks(|_| {});
    let unknown = answer(desk.api.open_session(Request::new(message))).unwrap_err();
    assert_eq!(unknown, "UNAUTHENTICATED");
}

#[test]
fn models_and_accounts_that_cannot_be_are_refused() {
    let mut desk = Desk::new();
    let digest = desk.digest();
    let wrong: Vec<(Principal, Option<wire::Model>, &str)> = vec![
        (party(1), Some(model(|_| {})), "FORBIDDEN"),
        (GATEWAY, Some(model(|_| {})), "FORBIDDEN"),
        (STAFF, None, "FIELD_INVALID"),
        (STAFF, Some(model(|m| m.name.clear())), "FIELD_INVALID"),
        (STAFF, Some(model(|m| m.name = "x".repeat(65))), "FIELD_INVALID"),
        (STAFF, Some(model(|m| m.name = "Big".into())), "FIELD_INVALID"),
        (STAFF, Some(model(|m| m.kind = 0)), "FIELD_INVALID"),
        (STAFF, Some(model(|m| m.kind = 7)), "FIELD_INVALID"),
        (STAFF, Some(model(|m| m.kind = ModelKind::Embed.into())), "FIELD_INVALID"),
        (STAFF, Some(model(|m| m.output_pico_usd = u64::MAX)), "FIELD_INVALID"),
        (STAFF, Some(model(|m| m.withdrawn = true)), "MODEL_NOT_FOUND"),
    ];
    for (who, model, expected) in wrong {
        let message = wire::SetModelRequest { request_id: desk.id(), model };
        assert_eq!(call!(desk.set_model, who, message.clone()), Err(expected.into()), "{message:?}");
    }
    let own = holmes_ledger::system_account("fees/USD").to_string();
    let good = account(1, USD).to_string();
    for (who, asset, account_id, expected) in [
        (party(1), USD, "account", "FIELD_INVALID"),
        (party(1), 9, good.as_str(), "ASSET_NOT_FOUND"),
        (party(1), USD, own.as_str(), "ACCOUNT_RESERVED"),
        (GATEWAY, USD, good.as_str(), "FORBIDDEN"),
        (STAFF, USD, good.as_str(), "FORBIDDEN"),
    ] {
        let message = wire::SetAccountRequest { request_id: desk.id(), asset, account_id: account_id.into() };
        assert_eq!(call!(desk.set_account, who, message), Err(expected.into()));
    }
    assert_eq!(desk.digest(), digest);
}

#[test]
fn a_renter_sees_its_own_sessions_and_nobody_elses() {
    let mut desk = Desk::new();
    let mine: Vec<String> = (0..5).map(|_| desk.open(1).session_id).collect();
    let other = desk.open(2).session_id;
    assert_eq!(desk.get(party(1), &other), Err("SESSION_NOT_FOUND".into()));
    assert_eq!(desk.get(party(1), "x"), Err("FIELD_INVALID".into()));
    for who in [party(2), GATEWAY, STAFF] {
        assert_eq!(desk.get(who, &other).unwrap().session_id, other);
    }
    let request_id = desk.id();
    let close = wire::CloseSessionRequest { request_id, session_id: other.clone() };
    assert_eq!(call!(desk.close_session, party(1), close), Err("SESSION_NOT_FOUND".into()));
    let invoice = wire::GetInvoiceRequest { session_id: other };
    assert_eq!(call!(desk.get_invoice, party(1), invoice), Err("SESSION_NOT_FOUND".into()));

    let list = |renter: &str, page_token: &str| wire::ListSessionsRequest {
        renter: renter.into(),
        page_size: 2,
        page_token: page_token.into(),
    };
    let (mut seen, mut token) = (Vec::new(), String::new());
    loop {
        let page = call!(desk.list_sessions, party(1), list("", &token)).unwrap();
        assert!(page.sessions.len() <= 2);
        seen.extend(page.sessions.into_iter().map(|session| session.session_id));
        token = page.next_page_token;
        if token.is_empty() {
            break;
        }
    }
    assert_eq!(seen, mine.into_iter().rev().collect::<Vec<_>>());
    let two = party(2).to_string();
    assert_eq!(call!(desk.list_sessions, party(1), list(&two, "")), Err("FORBIDDEN".into()));
    for who in [party(1), GATEWAY] {
        assert_eq!(call!(desk.list_sessions, who, list("*", "")), Err("FORBIDDEN".into()));
    }
    assert_eq!(call!(desk.list_sessions, GATEWAY, list(&two, "")).unwrap().sessions.len(), 1);
    let all =
        wire::ListSessionsRequest { renter: "*".into(), page_size: u32::MAX, page_token: String::new() };
    assert_eq!(call!(desk.list_sessions, STAFF, all).unwrap().sessions.len(), 6);
    assert_eq!(call!(desk.list_sessions, STAFF, list("bank", "")), Err("FIELD_INVALID".into()));
    assert_eq!(call!(desk.list_sessions, STAFF, list("*", "7")), Err("FIELD_INVALID".into()));
}

#[test]
fn only_a_proof_that_moves_money_names_another_account_in_place_of_one() {
    let mut desk = Desk::new();
    let new = Id::v7(1, [7; 10]).to_string();
    let named = desk.world.look(|state| state.accounts.get(&(party(1), USD)).copied()).expect("it is named");
    let mut asked = |who: Principal, account_id: &str, scope: Scope| {
        let message =
            wire::SetAccountRequest { request_id: desk.id(), asset: USD, account_id: account_id.into() };
        let mut request = request(who, message);
        request.extensions_mut().insert(scope);
        answer(desk.api.set_account(request)).map(|_| ())
    };
    let key = Scope::key(Roles::RENTER, false);
    assert_eq!(asked(party(1), &named.to_string(), key), Ok(()), "the same again");
    assert_eq!(asked(party(1), &new, key), Err("ADMIN_NEEDED".into()));
    assert_eq!(asked(party(99), &new, key), Ok(()), "there was none");
    assert_eq!(asked(party(1), &new, Scope::key(Roles::RENTER, true)), Ok(()));
    assert_eq!(asked(party(1), &named.to_string(), Scope::signature(Roles::RENTER)), Ok(()));
}

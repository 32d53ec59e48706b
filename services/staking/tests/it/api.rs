//! The gRPC service, and bad input: each case has its stable reason and leaves the state as it was.

use holmes_kernel::{Id, Principal, canon};
use holmes_proto::edge::{Roles, Scope};
use holmes_proto::staking::v1 as wire;
use holmes_proto::staking::v1::staking_server::Staking as _;
use holmes_proto::staking::v1::{NodeKind, NodeState};
use holmes_runtime::rig::Seat;
use holmes_staking::Staking;
use holmes_staking::api::Api;
use holmes_store::journal::memory::Journal;
use holmes_testing::call;
use holmes_testing::grpc::{answer, request};
use tonic::Request;

use crate::harness::{HOL, STAFF, World, node_id, owner, registration, with};

struct Desk {
    world: World,
    api: Api<Seat<Staking, Journal>>,
    asked: u32,
}

impl Desk {
    /// Node 1 of owner 1 is rated and has 1,000 HOL bonded.
    fn new() -> Desk {
        let mut world = World::new(&with(|_| {}));
        let node = world.node(1, 1, NodeKind::Compute, 1_000);
        world.bond(1, node, 1_000 * HOL);
        let api = Api::new(world.staking.clone());
        Desk { world, api, asked: 0 }
    }

    fn settle(&mut self) {
        self.world.rig.settle();
    }

    fn id(&mut self) -> String {
        self.asked += 1;
        Id::derive(self.world.rig.now(), b"desk", self.asked).to_string()
    }

    fn digest(&self) -> canon::Digest {
        self.world.look(canon::digest)
    }

    fn unbond(&mut self, change: impl FnOnce(&mut wire::UnbondRequest)) -> wire::UnbondRequest {
        let (request_id, node_id) = (self.id(), node_id(1).to_string());
        let mut request = wire::UnbondRequest { request_id, node_id, all: true, ..Default::default() };
        change(&mut request);
        request
    }

    fn register(&mut self, change: impl FnOnce(&mut wire::RegisterNodeRequest)) -> wire::RegisterNodeRequest {
        let node = registration(2, owner(1), NodeKind::Compute, 1_000);
        let mut request = wire::RegisterNodeRequest {
            request_id: self.id(),
            public_key: node.public_key.to_vec().into(),
            kind: NodeKind::Compute.into(),
            rating_milli_cu: 1_000,
            possession: node.possession.concat().into(),
        };
        change(&mut request);
        request
    }

    fn get(&mut self, node: Id) -> wire::Node {
        let found = call!(self.get_node, owner(3), wire::GetNodeRequest { node_id: node.to_string() });
        found.expect("everybody sees nodes").node.expect("an answer has a node")
    }
}

#[test]
fn each_kind_of_node_is_registered_by_a_proof_that_acts_as_what_runs_it() {
    let mut desk = Desk::new();
    for (kind, acts, lacks) in [
        (NodeKind::Compute, Roles::OPERATOR, Roles::VERIFIER),
        (NodeKind::Verifier, Roles::VERIFIER, Roles::OPERATOR),
    ] {
        let mut asked = |scope: Scope| {
            let mut request = request(owner(1), desk.register(|wanted| wanted.kind = kind.into()));
            request.extensions_mut().insert(scope);
            answer(desk.api.register_node(request)).map(|_| ())
        };
        assert_eq!(asked(Scope::key(lacks, true)), Err("KEY_SCOPE".into()), "{kind:?}");
        assert_eq!(asked(Scope::signature(lacks)), Err("ROLE_NEEDED".into()), "{kind:?}");
        let other = asked(Scope::key(acts, false));
        assert!(
            !matches!(other.as_ref().map_err(String::as_str), Err("KEY_SCOPE" | "ROLE_NEEDED")),
            "{other:?}"
        );
    }
}

#[test]
fn a_node_registers_bonds_serves_and_leaves_over_the_service() {
    let mut desk = Desk::new();
    let request = desk.register(|_| {});
    let answer = call!(desk.register_node, owner(1), request.clone()).unwrap();
    assert_eq!(answer.node_id, node_id(2).to_string());
    assert_eq!(call!(desk.register_node, owner(1), request).unwrap(), answer);
    let rating = wire::SetRatingRequest {
        request_id: desk.id(),
        node_id: answer.node_id.clone(),
        rating_milli_cu: 700,
    };
    call!(desk.set_rating, STAFF, rating).unwrap();
    let hold_id = desk.world.hold(1, node_id(2), 9_000 * HOL).to_string();
    assert_eq!(desk.get(node_id(2)).offers[0].hold_id, hold_id);
    let (request_id, node_id_text) = (desk.id(), answer.node_id);
    let bond = wire::BondRequest { request_id, node_id: node_id_text, hold_id, validate_only: false };
    let before = desk.digest();
    let said = call!(desk.bond, owner(1), wire::BondRequest { validate_only: true, ..bond.clone() }).unwrap();
    assert_eq!((said.amount_units, desk.digest()), (9_000 * HOL, before));
    assert_eq!(call!(desk.bond, owner(1), bond).unwrap().amount_units, 9_000 * HOL);
    let node = desk.get(node_id(2));
    assert_eq!((node.state(), node.bond_units, node.qualified), (NodeState::Active, 9_000 * HOL, true));
    assert_eq!(node.payout_account_id, desk.world.account(1).to_string());
    let leave = desk.unbond(|request| request.node_id = node.node_id);
    let left = call!(desk.unbond, owner(1), leave).unwrap();
    let node = desk.get(node_id(2));
    assert_eq!((node.state(), node.unbonding_units), (NodeState::Unbonding, 9_000 * HOL));
    assert_eq!(
        (node.unbondings[0].unbonding, node.unbondings[0].ready_at_us),
        (left.unbonding, left.ready_at_us)
    );
}

#[test]
fn required_collateral_comes_with_every_factor() {
    // E-6.2: computed again by hand from what is told.
    let mut desk = Desk::new();
    let message = wire::GetRequiredRequest { node_id: node_id(1).to_string(), rating_milli_cu: 0 };
    let told = call!(desk.get_required, owner(3), message).unwrap();
    assert_eq!(told.bonds_account_id, holmes_ledger::system_account("bonds/HOL").to_string());
    let formula = told.formula.unwrap();
    let inputs = formula.inputs.unwrap();
    let number = |text: &str| text.parse::<u128>().unwrap();
    let (mn, md) = (number(&formula.m_numerator), number(&formula.m_denominator));
    let ppb = 1_000_000_000;
    let rewards = u128::from(inputs.reward_days) * u128::from(inputs.next_emission_units) * ppb * md;
    let wanted = u128::from(inputs.bonded_share_ppb) * u128::from(inputs.circulating_units) * mn;
    let whole = (rewards + wanted) * u128::from(formula.g_numerator) * 1_000;
    let parts = ppb * md * u128::from(formula.power_milli_cu) * u128::from(formula.g_denominator);
    assert_eq!(u128::from(formula.formula_units), whole.div_ceil(parts));
    assert_eq!(formula.base_units, formula.formula_units); // the first is free
    assert_eq!(told.required_units, told.base_units.max(told.least_per_cu_units)); // of 1 CU
    let of_rating = wire::GetRequiredRequest { node_id: String::new(), rating_milli_cu: 1_000 };
    assert_eq!(call!(desk.get_required, owner(3), of_rating).unwrap().required_units, told.required_units);
    assert_eq!(told.now.unwrap().inputs.unwrap().nodes, 1);
}

#[test]
fn nodes_are_listed_by_owner_and_state_in_pages() {
    let mut desk = Desk::new();
    for n in 10..15 {
        desk.world.node(n, 2, NodeKind::Verifier, 0);
    }
    let list = |owner: &str, state: NodeState, page_token: &str| wire::ListNodesRequest {
        owner: owner.into(),
        state: state.into(),
        page_size: 2,
        page_token: page_token.into(),
    };
    let (mut seen, mut token) = (Vec::new(), String::new());
    loop {
        let page = call!(desk.list_nodes, owner(2), list("", NodeState::Unspecified, &token)).unwrap();
        seen.extend(page.nodes.into_iter().map(|node| node.node_id));
        token = page.next_page_token;
        if token.is_empty() {
            break;
        }
    }
    assert_eq!(seen, (10..15).map(|n| node_id(n).to_string()).collect::<Vec<_>>());
    let active = call!(desk.list_nodes, owner(2), list("*", NodeState::Active, "")).unwrap();
    assert_eq!(active.nodes.len(), 1);
    let whose = owner(1).to_string();
    assert_eq!(
        call!(desk.list_nodes, STAFF, list(&whose, NodeState::Unspecified, "")).unwrap().nodes.len(),
        1
    );
    assert_eq!(
        call!(desk.list_nodes, STAFF, list("bank", NodeState::Active, "")),
        Err("FIELD_INVALID".into())
    );
    assert_eq!(call!(desk.list_nodes, STAFF, list("*", NodeState::Active, "x")), Err("FIELD_INVALID".into()));
}

#[test]
fn a_registration_that_is_none_is_refused() {
    let mut desk = Desk::new();
    let digest = desk.digest();
    let cases: Vec<(Principal, wire::RegisterNodeRequest, &str)> = vec![
        (owner(1), desk.register(|r| r.request_id.clear()), "FIELD_INVALID"),
        (owner(1), desk.register(|r| r.public_key = vec![1; 31].into()), "FIELD_INVALID"),
        (owner(1), desk.register(|r| r.public_key = vec![2; 32].into()), "KEY_INVALID"),
        (owner(1), desk.register(|r| r.kind = 0), "FIELD_INVALID"),
        (owner(1), desk.register(|r| r.kind = 9), "FIELD_INVALID"),
        (owner(1), desk.register(|r| r.kind = NodeKind::Verifier.into()), "RATING_OUT_OF_RANGE"),
        (owner(1), desk.register(|r| r.rating_milli_cu = 499), "RATING_OUT_OF_RANGE"),
        (owner(1), desk.register(|r| r.rating_milli_cu = u32::MAX), "RATING_OUT_OF_RANGE"),
        (owner(1), desk.register(|r| r.possession = vec![0; 63].into()), "FIELD_INVALID"),
        (owner(1), desk.register(|r| r.possession = vec![0; 64].into()), "POSSESSION_INVALID"),
        (owner(2), desk.register(|_| {}), "POSSESSION_INVALID"),
        (STAFF, desk.register(|_| {}), "FORBIDDEN"),
    ];
    for (who, message, expected) in cases {
        assert_eq!(call!(desk.register_node, who, message.clone()), Err(expected.into()), "{message:?}");
    }
    assert_eq!(desk.digest(), digest);
}

#[test]
fn an_unbonding_that_is_none_is_refused() {
    let mut desk = Desk::new();
    let digest = desk.digest();
    let nobody = Id::from_bytes([8; 16]).to_string();
    let some = |units| move |r: &mut wire::UnbondRequest| (r.all, r.amount_units) = (false, units);
    let cases: Vec<(Principal, wire::UnbondRequest, &str)> = vec![
        (owner(1), desk.unbond(|r| r.request_id = "7".into()), "FIELD_INVALID"),
        (owner(1), desk.unbond(|r| r.node_id = "node".into()), "FIELD_INVALID"),
        (owner(1), desk.unbond(|r| r.node_id = nobody), "NODE_NOT_FOUND"),
        (owner(1), desk.unbond(|r| r.account_id = "?".into()), "FIELD_INVALID"),
        (owner(1), desk.unbond(|r| r.amount_units = 1), "FIELD_INVALID"),
        (owner(1), desk.unbond(some(0)), "FIELD_INVALID"),
        (owner(1), desk.unbond(some(u64::MAX)), "EXCEEDS_BOND"),
        (owner(1), desk.unbond(some(999 * HOL)), "BELOW_REQUIRED"),
        (owner(2), desk.unbond(|_| {}), "FORBIDDEN"),
        (STAFF, desk.unbond(|_| {}), "FORBIDDEN"),
    ];
    for (who, message, expected) in cases {
        assert_eq!(call!(desk.unbond, who, message.clone()), Err(expected.into()), "{message:?}");
        let only = wire::UnbondRequest { validate_only: true, ..message };
        assert_eq!(call!(desk.unbond, who, only), Err(expected.into()));
    }
    assert_eq!(desk.digest(), digest);
}

#[test]
fn what_only_staff_may_is_refused_to_others_and_only_where_it_leads_somewhere() {
    // E-6.1
    let mut desk = Desk::new();
    let node = node_id(1).to_string();
    let jail = |desk: &mut Desk, cause: &str| {
        let (request_id, cause) = (desk.id(), cause.to_owned());
        wire::JailRequest { request_id, node_id: node_id(1).to_string(), cause }
    };
    let unjail =
        |desk: &mut Desk| wire::UnjailRequest { request_id: desk.id(), node_id: node_id(1).to_string() };
    let message = jail(&mut desk, "late");
    assert_eq!(call!(desk.jail, owner(1), message), Err("FORBIDDEN".into()));
    for cause in [String::new(), "x".repeat(129)] {
        let message = jail(&mut desk, &cause);
        assert_eq!(call!(desk.jail, STAFF, message), Err("CAUSE_INVALID".into()));
    }
    let message = unjail(&mut desk);
    assert_eq!(call!(desk.unjail, STAFF, message), Err("WRONG_STATE".into()));
    let message = jail(&mut desk, "late");
    call!(desk.jail, STAFF, message).unwrap();
    let jailed = desk.get(node_id(1));
    assert_eq!((jailed.state(), jailed.note.as_str()), (NodeState::Jailed, "late"));
    desk.world.wait(8 * crate::harness::DAY);
    let message = unjail(&mut desk);
    assert_eq!(call!(desk.unjail, STAFF, message), Err("NOT_QUALIFIED".into()));
    desk.world.rate(1, NodeKind::Compute, 1_000);
    let message = unjail(&mut desk);
    call!(desk.unjail, STAFF, message).unwrap();
    assert_eq!(desk.get(node_id(1)).state(), NodeState::Active);
    let message = wire::TombstoneRequest { request_id: desk.id(), node_id: node, cause: "evidence 7".into() };
    call!(desk.tombstone, STAFF, message).unwrap();
    let rating = wire::SetRatingRequest {
        request_id: desk.id(),
        node_id: node_id(1).to_string(),
        rating_milli_cu: 700,
    };
    assert_eq!(call!(desk.set_rating, STAFF, rating), Err("WRONG_STATE".into()));
}

#[test]
fn reads_of_what_is_not_there_are_refused() {
    let mut desk = Desk::new();
    let nobody = Id::from_bytes([8; 16]).to_string();
    let get = |node_id: &str| wire::GetNodeRequest { node_id: node_id.into() };
    assert_eq!(call!(desk.get_node, STAFF, get(&nobody)), Err("NODE_NOT_FOUND".into()));
    assert_eq!(call!(desk.get_node, STAFF, get("")), Err("FIELD_INVALID".into()));
    let required = |node_id: &str, rating_milli_cu| wire::GetRequiredRequest {
        node_id: node_id.into(),
        rating_milli_cu,
    };
    assert_eq!(call!(desk.get_required, STAFF, required(&nobody, 0)), Err("NODE_NOT_FOUND".into()));
    assert_eq!(call!(desk.get_required, STAFF, required("", 0)), Err("FIELD_INVALID".into()));
    assert_eq!(call!(desk.get_required, STAFF, required(&nobody, 1)), Err("FIELD_INVALID".into()));
    let unknown = answer(desk.api.get_node(Request::new(get(&nobody)))).unwrap_err();
    assert_eq!(unknown, "UNAUTHENTICATED");
}

#[test]
fn a_bond_goes_elsewhere_only_by_a_proof_that_moves_money() {
    let mut desk = Desk::new();
    let (elsewhere, node) = (Id::v7(1, [7; 10]).to_string(), node_id(1).to_string());
    let key = Scope::key(Roles::OPERATOR, false);
    let admin = Scope::key(Roles::OPERATOR, true);
    let mut unbond = |account_id: &str, scope: Scope| {
        let mut request = request(owner(1), desk.unbond(|wanted| wanted.account_id = account_id.to_owned()));
        request.get_mut().validate_only = true;
        request.extensions_mut().insert(scope);
        answer(desk.api.unbond(request)).map(|_| ())
    };
    assert_eq!(unbond(&elsewhere, key), Err("ADMIN_NEEDED".into()));
    assert_eq!((unbond("", key), unbond(&elsewhere, admin)), (Ok(()), Ok(())));
    let mut payout = |scope: Scope| {
        let (request_id, account_id) = (desk.id(), elsewhere.clone());
        let message = wire::SetPayoutAccountRequest { request_id, node_id: node.clone(), account_id };
        let mut request = request(owner(1), message);
        request.extensions_mut().insert(scope);
        answer(desk.api.set_payout_account(request)).map(|_| ())
    };
    assert_eq!((payout(key), payout(admin)), (Err("ADMIN_NEEDED".into()), Ok(())));
}

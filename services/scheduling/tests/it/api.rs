//! The gRPC service, and bad input: each case has its stable reason and leaves the state as it was.

use ed25519_dalek::{Signature, Verifier as _};
use holmes_kernel::{Id, Principal, PrincipalKind};
use holmes_proto::scheduling::v1 as wire;
use holmes_proto::scheduling::v1::scheduling_server::Scheduling as _;
use holmes_proto::scheduling::v1::{DetachReason, LeaseEnd};
use holmes_proto::statements;
use holmes_runtime::rig::Seat;
use holmes_scheduling::Scheduling;
use holmes_scheduling::api::Api;
use holmes_store::journal::memory::Journal;
use holmes_testing::grpc::{reason, request};
use holmes_testing::{call, now};
use prost::Message;
use tonic::Request;

use crate::harness::{
    GENESIS, MODEL, STAFF, World, attach_request, gateway, key, node, owner, public, session, signed_line,
    signed_running, with,
};

struct Desk {
    world: World,
    api: Api<Seat<Scheduling, Journal>>,
}

/// The reason of a call that is refused, which changes nothing.
macro_rules! refused {
    ($desk:ident.$rpc:ident, $who:expr, $message:expr) => {{
        let (message, before) = ($message, $desk.world.digest());
        let why = call!($desk.$rpc, $who, message).unwrap_err();
        assert_eq!($desk.world.digest(), before);
        why
    }};
}

impl Desk {
    /// Nodes 1 to 3 of three owners are bonded and attached to gateway 100.
    fn new() -> Desk {
        let mut world = World::new(&with(|_| {}));
        (1..=3).for_each(|n| world.register(n, n));
        let api = Api::new(world.scheduling.clone(), key(200), GENESIS, 1);
        let mut desk = Desk { world, api };
        let start =
            wire::StartGatewayRequest { request_id: desk.id(), public_key: public(100).to_vec().into() };
        let told = call!(desk.start_gateway, gateway(100), start).unwrap();
        assert_eq!((told.epoch_s, told.public_key.as_ref()), (45, public(200).as_slice()));
        for n in 1..=3 {
            for nonce in [1, 2] {
                let request = attach_request(n, 100, nonce, desk.world.fresh());
                let attached = call!(desk.attach, gateway(100), request.clone()).unwrap();
                let known = desk.world.look(|state| state.nodes.get(&node(n)).and_then(|node| node.attached));
                assert_eq!(known.unwrap().generation, attached.generation);
                if nonce == 2 {
                    let again = call!(desk.attach, gateway(100), request).unwrap();
                    assert_eq!(again, attached, "the same request: the same answer");
                }
            }
        }
        desk
    }

    fn settle(&mut self) {
        self.world.rig.settle();
    }

    fn id(&mut self) -> String {
        self.world.fresh().to_string()
    }

    fn wish(&mut self) -> wire::PlaceRequest {
        wire::PlaceRequest {
            request_id: self.id(),
            session_id: session().to_string(),
            model: MODEL.into(),
            allowance_pico_usd: 1_000,
            ..Default::default()
        }
    }

    /// A lease in text, and the number of its node.
    fn place(&mut self) -> (String, u8) {
        let wish = self.wish();
        let placed = call!(self.place, gateway(100), wish).unwrap();
        let lease = wire::Lease::decode(placed.token.unwrap().lease).unwrap();
        let number = (1..=3).find(|n| node(*n).to_bytes() == lease.node.as_ref()).unwrap();
        (placed.lease_id, number)
    }

    fn report(&mut self, lease: &str, lines: Vec<wire::CallLine>) -> wire::ReportCallsRequest {
        wire::ReportCallsRequest { request_id: self.id(), lease_id: lease.to_owned(), lines }
    }
}

#[test]
fn a_session_is_placed_metered_and_ended_over_the_service() {
    let mut desk = Desk::new();
    let wish = desk.wish();
    let placed = call!(desk.place, gateway(100), wish.clone()).unwrap();
    assert_eq!(call!(desk.place, gateway(100), wish).unwrap(), placed, "the same request: the same answer");
    let token = placed.token.unwrap();
    let said = statements::lease(&GENESIS, 1, &token.lease);
    let signature = Signature::from_slice(&token.signature).unwrap();
    key(200).verifying_key().verify(&said, &signature).unwrap();
    let lease = wire::Lease::decode(token.lease).unwrap();
    let id: [u8; 20] = lease.lease.as_ref().try_into().unwrap();
    assert_eq!(statements::lease_text(&id), placed.lease_id);
    let on = (1..=3).find(|n| node(*n).to_bytes() == lease.node.as_ref()).unwrap();

    let first = signed_line(&placed.lease_id, 1, (2, 3), on, 100);
    let dear = signed_line(&placed.lease_id, 2, (1_000, 0), on, 100);
    let report = desk.report(&placed.lease_id, vec![dear, first.clone()]);
    let told = call!(desk.report_calls, gateway(100), report.clone()).unwrap();
    assert!(told.receipts[0].is_empty() && told.receipts[1].ends_with(".0"), "{told:?}");
    assert_eq!((told.refused[0].line, told.refused[0].reason.as_str()), (0, "ALLOWANCE_EXCEEDED"));
    assert_eq!(call!(desk.report_calls, gateway(100), report).unwrap(), told);
    let report = desk.report(&placed.lease_id, vec![first]);
    let again = call!(desk.report_calls, gateway(100), report).unwrap();
    assert_eq!(again.receipts, [told.receipts[1].clone()], "a call counts once");

    let renew = wire::RenewLeaseRequest {
        request_id: desk.id(),
        lease_id: placed.lease_id.clone(),
        allowance_pico_usd: 2_000,
        duration_ms: 0,
    };
    let renewed = call!(desk.renew_lease, gateway(100), renew).unwrap().token.unwrap();
    assert_eq!(wire::Lease::decode(renewed.lease).unwrap().allowance_pico_usd, 2_000);
    let end = wire::EndLeaseRequest {
        request_id: desk.id(),
        lease_id: placed.lease_id.clone(),
        reason: LeaseEnd::Released.into(),
    };
    call!(desk.end_lease, gateway(100), end).unwrap();
    let get = wire::GetLeaseRequest { lease_id: placed.lease_id };
    let seen = call!(desk.get_lease, owner(9), get).unwrap();
    assert_eq!((seen.open, seen.reason(), seen.metered_pico_usd), (false, LeaseEnd::Released, 80));
    assert_eq!(seen.placement.unwrap().best.len(), 3);
    assert!(desk.world.rig.restart().unwrap().is_empty(), "the rebuilt states have the same digests");
    assert_eq!(desk.world.rig.check(), []);
}

#[test]
fn a_node_serves_as_long_as_staking_says_so() {
    let mut desk = Desk::new();
    let get = |n| wire::GetNodeRequest { node_id: node(n).to_string() };
    let seen = call!(desk.get_node, owner(9), get(1)).unwrap().node.unwrap();
    assert!(seen.qualified && seen.attached && seen.required_units > 0);
    assert_eq!((seen.rating_milli_cu, seen.owner), (1_000, owner(1).to_string()));
    let (lease, on) = desk.place();
    let jail = holmes_staking::Command::Jail { node: node(on), cause: "evidence 7".into() };
    desk.world.ask_staking(STAFF, jail);
    desk.world.wait(1);
    let seen = call!(desk.get_node, owner(9), get(on)).unwrap().node.unwrap();
    assert!(!seen.qualified && seen.attached && seen.used == 0);
    let seen = call!(desk.get_lease, STAFF, wire::GetLeaseRequest { lease_id: lease }).unwrap();
    assert_eq!(seen.reason(), LeaseEnd::NodeUnqualified);
}

#[test]
fn an_attachment_counts_only_with_the_nodes_signature_for_this_gateway() {
    let mut desk = Desk::new();
    let fresh = |desk: &mut Desk, change: fn(&mut wire::AttachRequest)| {
        let mut request = attach_request(1, 100, 9, desk.world.fresh());
        change(&mut request);
        request
    };
    let other_gateway = attach_request(1, 101, 9, desk.world.fresh());
    let of_another_node =
        wire::AttachRequest { node_id: node(2).to_string(), ..attach_request(1, 100, 9, desk.world.fresh()) };
    let cases = [
        (other_gateway, "SIGNATURE_INVALID"),
        (of_another_node, "SIGNATURE_INVALID"),
        (fresh(&mut desk, |r| r.nonce = vec![8; 16].into()), "SIGNATURE_INVALID"),
        (fresh(&mut desk, |r| r.capabilities = crate::harness::capabilities(3).into()), "SIGNATURE_INVALID"),
        (fresh(&mut desk, |r| r.nonce = vec![9; 15].into()), "FIELD_INVALID"),
        (fresh(&mut desk, |r| r.signature = vec![9; 63].into()), "FIELD_INVALID"),
        (fresh(&mut desk, |r| r.capabilities = vec![0xff].into()), "FIELD_INVALID"),
        (fresh(&mut desk, |r| r.node_id = "x".into()), "FIELD_INVALID"),
        (fresh(&mut desk, |r| r.request_id = "x".into()), "FIELD_INVALID"),
        (attach_request(1, 100, 2, desk.world.fresh()), "NONCE_REUSED"),
        (attach_request(50, 100, 1, desk.world.fresh()), "NODE_UNKNOWN"),
    ];
    for (request, expected) in cases {
        assert_eq!(refused!(desk.attach, gateway(100), request), expected);
    }
    let request = attach_request(1, 100, 9, desk.world.fresh());
    assert_eq!(refused!(desk.attach, owner(1), request), "FORBIDDEN");
    let elsewhere = attach_request(1, 101, 9, desk.world.fresh());
    assert_eq!(refused!(desk.attach, gateway(101), elsewhere), "GATEWAY_UNKNOWN");
}

#[test]
fn a_call_counts_only_with_both_signatures() {
    let mut desk = Desk::new();
    let (lease, on) = desk.place();
    let good = |call| signed_line(&lease, call, (1, 1), on, 100);
    let other = on % 3 + 1;
    let cases = [
        (vec![signed_line(&lease, 1, (1, 1), other, 100)], "SIGNATURE_INVALID"),
        (vec![good(1), signed_line(&lease, 2, (1, 1), on, 101)], "SIGNATURE_INVALID"),
        (vec![wire::CallLine { output_tokens: 2, ..good(1) }], "SIGNATURE_INVALID"),
        (vec![signed_line("1.4.1.1", 1, (1, 1), on, 100)], "SIGNATURE_INVALID"),
        (vec![], "FIELD_INVALID"),
        (vec![good(1); 257], "FIELD_INVALID"),
        (vec![good(1), good(1)], "FIELD_INVALID"),
        (vec![wire::CallLine { finish: 0, ..good(1) }], "FIELD_INVALID"),
        (vec![wire::CallLine { call: vec![1; 16].into(), ..good(1) }], "FIELD_INVALID"),
        (vec![wire::CallLine { prompt_commitment: vec![].into(), ..good(1) }], "FIELD_INVALID"),
        (vec![wire::CallLine { gateway_signature: vec![].into(), ..good(1) }], "FIELD_INVALID"),
    ];
    for (lines, expected) in cases {
        let report = desk.report(&lease, lines);
        assert_eq!(refused!(desk.report_calls, gateway(100), report), expected);
    }
    for (id, expected) in
        [("1.4.1.999999", "LEASE_NOT_FOUND"), ("1.5.1.2", "FIELD_INVALID"), ("", "FIELD_INVALID")]
    {
        let report = desk.report(id, vec![good(1)]);
        assert_eq!(refused!(desk.report_calls, gateway(100), report), expected);
    }
    let report = desk.report(&lease, vec![good(1)]);
    assert_eq!(refused!(desk.report_calls, owner(9), report), "FORBIDDEN");
}

#[test]
fn what_runs_is_checkpointed_with_both_signatures_and_a_gateway_hears_what_ends() {
    let mut desk = Desk::new();
    let (lease, on) = desk.place();
    let running = |lease: &str, lines| wire::RunningLease { lease_id: lease.to_owned(), lines };
    let report = |desk: &mut Desk, leases| wire::ReportRunningRequest { request_id: desk.id(), leases };
    let good = signed_running(&lease, 1, (1, 1), on, 100);
    let stopped = signed_line(&lease, 2, (1, 1), on, 100);
    let cases = [
        (
            vec![running(&lease, vec![signed_running(&lease, 1, (1, 1), on % 3 + 1, 100)])],
            "SIGNATURE_INVALID",
        ),
        (
            vec![running(&lease, vec![wire::CallLine { output_tokens: 9, ..good.clone() }])],
            "SIGNATURE_INVALID",
        ),
        (vec![running(&lease, vec![stopped])], "FIELD_INVALID"),
        (vec![running(&lease, vec![good.clone(), good.clone()])], "FIELD_INVALID"),
        (vec![running(&lease, vec![]), running(&lease, vec![])], "FIELD_INVALID"),
        (vec![running("x", vec![])], "FIELD_INVALID"),
    ];
    for (leases, expected) in cases {
        let request = report(&mut desk, leases);
        assert_eq!(refused!(desk.report_running, gateway(100), request), expected);
    }
    let request = report(&mut desk, vec![]);
    assert_eq!(refused!(desk.report_running, owner(9), request), "FORBIDDEN");

    let find = wire::FindCallRequest {
        call_id: Id::from_slice(&good.call).unwrap().to_string(),
        ..Default::default()
    };
    assert_eq!(refused!(desk.find_call, gateway(100), find.clone()), "CALL_NOT_FOUND");
    let request = report(&mut desk, vec![running("1.4.1.9999", vec![]), running(&lease, vec![good])]);
    let told = call!(desk.report_running, gateway(100), request).unwrap().ending;
    assert_eq!((told.len(), told[0].lease_id.as_str(), told[0].ends_at_us), (1, "1.4.1.9999", 0));
    assert_eq!(told[0].reason(), LeaseEnd::Unspecified);
    assert_eq!(call!(desk.find_call, gateway(100), find.clone()).unwrap().receipt, "", "it runs");
    let waits = wire::FindCallRequest { lease_id: lease.clone(), ..find.clone() };
    assert_eq!(call!(desk.find_call, gateway(100), waits).unwrap().receipt, "", "its checkpoint waits");
    let line = signed_line(&lease, 1, (1, 2), on, 100);
    let request = desk.report(&lease, vec![line]);
    let receipts = call!(desk.report_calls, gateway(100), request).unwrap().receipts;
    assert_eq!(call!(desk.find_call, gateway(100), find.clone()).unwrap().receipt, receipts[0]);
    assert_eq!(refused!(desk.find_call, owner(9), find.clone()), "FORBIDDEN");
    let under = |lease: &str| wire::FindCallRequest { lease_id: lease.to_owned(), ..find.clone() };
    assert_eq!(call!(desk.find_call, gateway(100), under(&lease)).unwrap().receipt, receipts[0]);
    assert_eq!(call!(desk.find_call, gateway(100), under("1.4.1.9999")).unwrap().receipt, receipts[0]);
    assert_eq!(refused!(desk.find_call, gateway(100), under("x")), "FIELD_INVALID");
    let (other, _) = desk.place();
    assert_eq!(refused!(desk.find_call, gateway(100), under(&other)), "CALL_NOT_FOUND");
    let end = wire::EndLeaseRequest {
        request_id: desk.id(),
        lease_id: lease.clone(),
        reason: LeaseEnd::NodeLost.into(),
    };
    call!(desk.end_lease, gateway(100), end).unwrap();
    let request = report(&mut desk, vec![running(&lease, vec![])]);
    let told = only_heard(&mut desk, request);
    assert_eq!((told[0].ends_at_us, told[0].reason()), (0, LeaseEnd::NodeLost));
    assert!(desk.world.rig.restart().unwrap().is_empty(), "the rebuilt states have the same digests");
}

/// What a report without checkpoints hears: it changes nothing.
fn only_heard(desk: &mut Desk, request: wire::ReportRunningRequest) -> Vec<wire::EndingLease> {
    let before = desk.world.digest();
    let told = call!(desk.report_running, gateway(100), request).unwrap().ending;
    assert_eq!(desk.world.digest(), before);
    told
}

#[test]
fn no_lease_is_given_that_the_networks_key_does_not_sign() {
    let mut desk = Desk::new();
    for (signer, cell) in [(201, 1), (200, 2)] {
        desk.api = Api::new(desk.world.scheduling.clone(), key(signer), GENESIS, cell);
        let wish = desk.wish();
        let status = now(desk.api.place(request(gateway(100), wish))).unwrap_err();
        assert_eq!(
            (status.code(), reason(&status).as_str()),
            (tonic::Code::FailedPrecondition, "SIGNING_KEY_MISMATCH")
        );
    }
}

#[test]
fn malformed_requests_are_refused_with_the_field() {
    let mut desk = Desk::new();
    let wishes: [fn(&mut wire::PlaceRequest); 5] = [
        |r| r.session_id = "x".into(),
        |r| r.model = String::new(),
        |r| r.node_id = "x".into(),
        |r| r.avoid_node_ids = vec![Id::from_bytes([1; 16]).to_string(); 9],
        |r| r.avoid_node_ids = vec!["x".into()],
    ];
    for change in wishes {
        let mut wish = desk.wish();
        change(&mut wish);
        assert_eq!(refused!(desk.place, gateway(100), wish), "FIELD_INVALID");
    }
    let beats =
        |n: u8, bitmap: Vec<u8>| wire::NodeBeats { node_id: node(n).to_string(), bitmap: bitmap.into() };
    let reports = [
        (8, vec![beats(1, vec![])]),
        (7, vec![beats(1, vec![0x80])]),
        (8, vec![beats(1, vec![1]), beats(1, vec![1])]),
        (0, vec![beats(1, vec![])]),
        (1_025, vec![beats(1, vec![0; 129])]),
        (8, (0..=255).chain([0]).map(|n| beats(n, vec![1])).collect()),
    ];
    for (beats, nodes) in reports {
        let report =
            wire::ReportPresenceRequest { request_id: desk.id(), epoch: 1, first_beat: 0, beats, nodes };
        assert_eq!(refused!(desk.report_presence, gateway(100), report), "FIELD_INVALID");
    }
    let reason = DetachReason::Superseded.into();
    let detach =
        wire::DetachRequest { request_id: desk.id(), node_id: node(1).to_string(), generation: 1, reason };
    assert_eq!(refused!(desk.detach, gateway(100), detach), "FIELD_INVALID");
    let weak = wire::StartGatewayRequest { request_id: desk.id(), public_key: vec![0; 32].into() };
    assert_eq!(refused!(desk.start_gateway, gateway(100), weak), "KEY_INVALID");
    let other = wire::StartGatewayRequest { request_id: desk.id(), public_key: public(101).to_vec().into() };
    assert_eq!(refused!(desk.start_gateway, gateway(100), other), "FORBIDDEN");
    let list = wire::ListNodesRequest { page_token: "x".into(), ..Default::default() };
    assert_eq!(refused!(desk.list_nodes, owner(9), list), "FIELD_INVALID");
    let get = wire::GetNodeRequest { node_id: node(50).to_string() };
    assert_eq!(refused!(desk.get_node, owner(9), get), "NODE_NOT_FOUND");
    let nobody = now(desk.api.get_node(Request::new(wire::GetNodeRequest { node_id: node(1).to_string() })));
    assert_eq!(nobody.unwrap_err().code(), tonic::Code::Unauthenticated);
}

#[test]
fn nodes_are_listed_page_by_page() {
    let mut desk = Desk::new();
    let mut seen = Vec::new();
    let mut page_token = String::new();
    loop {
        let list = wire::ListNodesRequest { attached: true, model: MODEL.into(), page_size: 2, page_token };
        let page = call!(desk.list_nodes, owner(9), list).unwrap();
        assert!(page.nodes.len() <= 2);
        seen.extend(page.nodes.into_iter().map(|node| node.node_id));
        page_token = page.next_page_token;
        if page_token.is_empty() {
            break;
        }
    }
    assert_eq!(seen, [1, 2, 3].map(|n| node(n).to_string()));
    let other = wire::ListNodesRequest { model: "other".into(), ..Default::default() };
    assert_eq!(call!(desk.list_nodes, owner(9), other).unwrap().nodes, []);
}

#[test]
fn only_those_whom_a_lease_concerns_see_it_or_ask_why() {
    // E-10.4
    let mut desk = Desk::new();
    let (lease_id, on) = desk.place();
    let other = on % 3 + 1;
    let as_node = |n| Principal::new(PrincipalKind::Node, node(n));
    let get = || wire::GetLeaseRequest { lease_id: lease_id.clone() };
    for who in [owner(9), owner(on), as_node(on), gateway(100), STAFF] {
        assert!(call!(desk.get_lease, who, get()).is_ok(), "{who}");
    }
    for who in [owner(other), as_node(other)] {
        assert_eq!(
            refused!(desk.get_lease, who, get()),
            "LEASE_NOT_FOUND",
            "{who}: as of one that is not there"
        );
    }
    let explain = |n: u8| wire::ExplainRequest { lease_id: lease_id.clone(), node_id: node(n).to_string() };
    let told = call!(desk.explain, as_node(other), explain(other)).unwrap();
    assert_eq!((told.reason.as_str(), told.changed_since), ("RANKED_LOWER", false));
    assert_eq!(call!(desk.explain, owner(other), explain(other)).unwrap().reason, "RANKED_LOWER");
    assert_eq!(call!(desk.explain, owner(9), explain(on)).unwrap().reason, "WON");
    assert_eq!(refused!(desk.explain, as_node(on), explain(other)), "FORBIDDEN", "it knows the lease");
    assert_eq!(refused!(desk.explain, as_node(other), explain(on)), "LEASE_NOT_FOUND");
    assert_eq!(refused!(desk.explain, owner(other), explain(on)), "LEASE_NOT_FOUND");
    assert_eq!(refused!(desk.explain, STAFF, explain(50)), "NODE_NOT_FOUND");
}

#[test]
fn presence_over_the_service_makes_nodes_active() {
    // E-0.6
    let mut desk = Desk::new();
    for epoch in 1..=2u64 {
        for quarter in 0..4 {
            desk.world.wait(11_250);
            let hello = wire::ReportPresenceRequest { request_id: desk.id(), epoch, ..Default::default() };
            call!(desk.report_presence, gateway(100), hello).unwrap();
            if quarter == 3 {
                let beats =
                    |n, byte| wire::NodeBeats { node_id: node(n).to_string(), bitmap: vec![byte; 3].into() };
                let nodes = vec![beats(1, 0xff), beats(2, 0x0f), beats(50, 1)];
                let report = wire::ReportPresenceRequest {
                    request_id: desk.id(),
                    epoch,
                    first_beat: 0,
                    beats: 24,
                    nodes,
                };
                let told = call!(desk.report_presence, gateway(100), report).unwrap();
                assert_eq!(told.not_attached_node_ids, [node(50).to_string()]);
            }
        }
    }
    let get = |n| wire::GetNodeRequest { node_id: node(n).to_string() };
    let seen = [1, 2, 3].map(|n| call!(desk.get_node, owner(9), get(n)).unwrap().node.unwrap());
    assert_eq!(seen.map(|node| node.active), [true, false, false]);
    assert_eq!(desk.world.look(|state| state.sealed), Some(1));
    assert!(desk.world.rig.restart().unwrap().is_empty());
}

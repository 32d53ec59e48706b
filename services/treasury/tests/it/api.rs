//! The gRPC service over a treasury.

use holmes_kernel::{Id, Principal, Time};
use holmes_proto::treasury::v1 as wire;
use holmes_proto::treasury::v1::treasury_server::Treasury as _;
use holmes_proto::treasury::v1::{GenesisState, Params};
use holmes_testing::grpc::request;
use holmes_testing::now;
use holmes_treasury::api::Api;
use holmes_treasury::params;
use tonic::{Code, Request};

use crate::harness::{HOL, STAFF, TGE, operator, with_grants};
use crate::network::Network;

const CAP: u64 = 1_000_000_000_000_000_000;

fn genesis(network: &Network) -> wire::GetGenesisResponse {
    let api = Api::new(network.treasury.clone());
    now(api.get_genesis(request(operator(1), wire::GetGenesisRequest {}))).unwrap().into_inner()
}

fn retry(network: &Network, who: Principal, request_id: &str) -> Result<(), (Code, String)> {
    let api = Api::new(network.treasury.clone());
    let asked = wire::RetryGenesisRequest { request_id: request_id.into() };
    let refused = |status: tonic::Status| (status.code(), status.message().to_owned());
    now(api.retry_genesis(request(who, asked))).map(|_| ()).map_err(refused)
}

fn fresh(network: &Network, n: u32) -> String {
    Id::derive(network.rig.now(), b"api", n).to_string()
}

#[test]
fn the_allocations_and_grants_are_told_with_their_accounts() {
    let mut network = Network::new(&with_grants());
    network.add_ledger(CAP);
    network.wait_s(1);
    let api = Api::new(network.treasury.clone());
    let asked = request(operator(9), wire::GetAllocationsRequest {});
    let told = now(api.get_allocations(asked)).unwrap().into_inner();
    assert_eq!((told.asset, told.cap_units), (HOL, CAP));
    assert_eq!(told.allocations.iter().map(|allocation| allocation.amount_units).sum::<u64>(), CAP);
    let team = &told.allocations[0];
    assert_eq!((team.name.as_str(), team.share_ppb), ("team", 150_000_000));
    assert!(!team.vesting_account_id.is_empty() && team.vesting_account_id != team.account_id);
    assert!(told.allocations[2].vesting_account_id.is_empty());
    let [a, b, c] = told.grants.as_slice() else { panic!("{:?}", told.grants) };
    assert_eq!((&a.account_id, a.amount_units), (&c.account_id, 1_000));
    assert_ne!(a.account_id, b.account_id);
}

#[test]
fn vesting_tells_the_next_release_and_how_much_it_will_be() {
    // E-1.5
    let mut network = Network::new(&params::defaults());
    let api = Api::new(network.treasury.clone());
    let told = || {
        let asked = request(operator(1), wire::GetVestingRequest {});
        now(api.get_vesting(asked)).unwrap().into_inner()
    };
    assert_eq!(told().vestings[0].next_release_at_us, 0, "nothing is released before genesis");
    network.add_ledger(CAP);
    network.wait_s(1);
    let after = told();
    assert_eq!((after.tge_at_us, after.epoch_s), (TGE.micros(), 86_400));
    let [team, fundraising] = after.vestings.as_slice() else { panic!("{:?}", after.vestings) };
    assert_eq!((team.name.as_str(), fundraising.name.as_str()), ("team", "fundraising"));
    assert_eq!((team.granted_units, team.vested_units, team.released_units), (CAP / 100 * 15, 0, 0));
    let cliff = Time::from_micros(TGE.micros() + 365 * 86_400_000_000);
    assert_eq!((team.next_release_at_us, team.next_release_units), (cliff.micros(), CAP / 400 * 15));
}

#[test]
fn genesis_tells_where_it_stands() {
    let mut network = Network::new(&params::defaults());
    assert_eq!(genesis(&network).state(), GenesisState::NotBegun);
    network.wait_s(1);
    let running = genesis(&network);
    assert_eq!((running.state(), running.steps_done, running.steps), (GenesisState::Running, 0, 14));
    assert_eq!(running.step, "open account vesting_team/HOL");
    network.add_ledger(CAP);
    network.wait_s(1);
    let completed = genesis(&network);
    assert_eq!((completed.state(), completed.steps_done), (GenesisState::Completed, 14));
    assert!(completed.step.is_empty() && completed.completed_at_us > 0);
}

#[test]
fn staff_have_a_stalled_genesis_tried_again() {
    let mut network = Network::new(&params::defaults());
    let books = network.add_ledger(CAP);
    books.open(&network.rig, "trr_pool/HOL", STAFF); // with another owner than genesis asks for
    network.wait_s(1);
    let stalled = genesis(&network);
    assert_eq!((stalled.state(), stalled.refusals), (GenesisState::Stalled, 1));
    assert_eq!(
        (stalled.step.as_str(), stalled.refused_reason.as_str()),
        ("open account trr_pool/HOL", "ACCOUNT_EXISTS")
    );
    assert_eq!(retry(&network, operator(1), &fresh(&network, 1)).unwrap_err().0, Code::PermissionDenied);
    let again = fresh(&network, 2);
    retry(&network, STAFF, &again).unwrap();
    retry(&network, STAFF, &again).unwrap(); // the same request once more
    network.wait_s(1);
    let stalled = genesis(&network);
    assert_eq!((stalled.state(), stalled.refusals), (GenesisState::Stalled, 2));
    assert_eq!(network.rig.restart().unwrap(), Vec::<&str>::new());
}

#[test]
fn bad_requests_are_refused_with_what_to_do() {
    let mut network = Network::new(&Params { tge_at_ms: 86_400_000, ..params::defaults() });
    for request_id in ["", "soon", "0192f3a0"] {
        assert_eq!(retry(&network, STAFF, request_id).unwrap_err().0, Code::InvalidArgument);
    }
    let (code, message) = retry(&network, STAFF, &fresh(&network, 1)).unwrap_err();
    assert_eq!(code, Code::FailedPrecondition);
    assert!(message.contains("GetGenesis"), "{message}");
    network.add_ledger(CAP);
    network.wait_s(1);
    let (code, message) = retry(&network, STAFF, &fresh(&network, 2)).unwrap_err();
    assert_eq!((code, message.contains("complete")), (Code::FailedPrecondition, true));
    let api = Api::new(network.treasury.clone());
    let unknown = Request::new(wire::GetGenesisRequest {});
    assert_eq!(now(api.get_genesis(unknown)).unwrap_err().code(), Code::Unauthenticated);
}

//! The gRPC service, and bad input: each case has its stable reason and leaves the state as it was.

use holmes_emission::api::Api;
use holmes_emission::command::{Fact, WorkRow};
use holmes_emission::{Command, Emission, MARKET, SCHEDULING, STAKING};
use holmes_kernel::{Id, LogId, Principal, ServiceId, canon};
use holmes_proto::emission::v1 as wire;
use holmes_proto::emission::v1::emission_server::Emission as _;
use holmes_runtime::rig::{Rig, Seat};
use holmes_store::journal::memory::Journal;
use holmes_testing::ask;
use holmes_testing::grpc::{answer, request};
use tonic::Request;

use crate::harness::{HOL, SOURCES, STAFF, START, account, bonded, node_id, opened, owner, with, worked};

/// Emission alone: nobody answers its sends, and the test speaks for the sources.
struct Desk {
    rig: Rig<Journal>,
    seat: Seat<Emission, Journal>,
    api: Api<Seat<Emission, Journal>>,
    asked: u32,
}

/// Calls the service and answers the message, or the reason of the refusal.
macro_rules! call {
    ($desk:ident.$rpc:ident, $who:expr, $message:expr) => {
        answer($desk.api.$rpc(request($who, $message)))
    };
}

impl Desk {
    /// Nodes 1 and 2 of owners 2 and 1; five epochs are closed, in each of which both worked.
    fn new() -> Desk {
        let mut rig = Rig::new(Journal::default(), START);
        let seat: Seat<Emission, Journal> =
            rig.add(LogId::new(1, ServiceId(6)), opened(&with(|params| params.keep_epochs = 4))).unwrap();
        let api = Api::new(seat.clone());
        let mut desk = Desk { rig, seat, api, asked: 0 };
        desk.rig.advance(std::time::Duration::from_secs(1));
        desk.note(STAKING, vec![bonded(1, 2, 1_000 * HOL, 1_000), bonded(2, 1, 1_000 * HOL, 1_000)]);
        desk.note(STAKING, vec![Fact::Payout { node: node_id(1), account: account(1), posted: true }]);
        for epoch in 1..=5 {
            let rows = vec![worked(1, 2, true, 10, 1_000_000), worked(2, 1, false, 8, 1_000_000)];
            desk.close(epoch, rows, 1);
        }
        assert_eq!(desk.seat.look(|state| state.next), 6);
        desk
    }

    /// Closes an epoch in which this was done, and one node was there.
    fn close(&mut self, epoch: u64, rows: Vec<WorkRow>, there: u8) {
        self.note(MARKET, vec![Fact::Price { epoch, micro_usd: 1_000_000 }]);
        self.note(MARKET, vec![Fact::Work { epoch, rows }]);
        self.note(SCHEDULING, vec![Fact::Attendance { epoch, rows: vec![(node_id(there), 3, true)] }]);
        self.rig.advance(std::time::Duration::from_secs(45));
        SOURCES.iter().for_each(|source| self.note(*source, vec![Fact::Sealed(epoch)]));
        self.rig.advance(std::time::Duration::from_millis(10));
    }

    fn note(&mut self, source: ServiceId, facts: Vec<Fact>) {
        let (id, at) = (self.id().parse().unwrap(), self.rig.now());
        let note = Command::Note { source, at, facts };
        ask(&self.seat, Principal::service(source), id, note).unwrap();
    }

    fn id(&mut self) -> String {
        self.asked += 1;
        Id::derive(self.rig.now(), b"desk", self.asked).to_string()
    }

    fn digest(&self) -> canon::Digest {
        self.seat.look(canon::digest)
    }

    fn exit(&mut self, change: impl FnOnce(&mut wire::ExitGrantRequest)) -> wire::ExitGrantRequest {
        let (request_id, node_id) = (self.id(), node_id(1).to_string());
        let mut request = wire::ExitGrantRequest { request_id, node_id, epoch: 3, validate_only: false };
        change(&mut request);
        request
    }
}

#[test]
fn closed_epochs_are_told_with_everything_that_went_in() {
    // E-4.1, E-3.2
    let desk = Desk::new();
    let epoch = |epoch| wire::GetEpochRequest { epoch };
    let told = call!(desk.get_epoch, owner(1), epoch(5)).unwrap().epoch.unwrap();
    assert_eq!(call!(desk.get_epoch, owner(1), epoch(0)).unwrap().epoch, Some(told.clone()));
    let number = |bytes: &[u8]| u128::from_be_bytes(bytes.try_into().unwrap());
    assert_eq!((number(&told.full_units), number(&told.quarter_units)), (10, 8));
    assert_eq!((told.active_nodes, told.nodes, told.token_price_micro_usd), (1, 2, 1_000_000));
    // $1 of full fees is 5 HOL at most, $1 of other fees half of one.
    assert_eq!(told.pools[0].paid_units, 5 * HOL + HOL / 2);
    assert_eq!(told.pools[0].actual_units, told.pools[0].paid_units + told.cut_units);
    assert_eq!(told.ceiling_units, told.scheduled_units / 5 + told.scheduled_units);
    for unknown in [1, 6] {
        assert_eq!(call!(desk.get_epoch, owner(1), epoch(unknown)), Err("EPOCH_NOT_FOUND".into()));
    }
    let pools = call!(desk.get_pools, owner(1), wire::GetPoolsRequest {}).unwrap();
    assert_eq!((pools.next_epoch, pools.closing_epoch, pools.sources.len()), (6, 0, 3));
    assert_eq!(pools.scheduled_units, told.next_scheduled_units);
    let initial: u64 = pools.pools.iter().map(|pool| pool.initial_units).sum();
    let remaining: u64 = pools.pools.iter().map(|pool| pool.remaining_units).sum();
    assert_eq!(
        initial - remaining,
        pools.owed_units + pools.locked_units + pools.paid_units + pools.burned_units
    );
}

#[test]
fn epochs_are_listed_newest_first_in_pages() {
    let desk = Desk::new();
    let list =
        |page_size, page_token: &str| wire::ListEpochsRequest { page_size, page_token: page_token.into() };
    let (mut seen, mut token) = (Vec::new(), String::new());
    loop {
        let page = call!(desk.list_epochs, owner(1), list(3, &token)).unwrap();
        assert!(page.epochs.len() <= 3);
        seen.extend(page.epochs.into_iter().map(|epoch| epoch.epoch));
        token = page.next_page_token;
        if token.is_empty() {
            break;
        }
    }
    assert_eq!(seen, [5, 4, 3, 2], "four are kept");
    assert_eq!(call!(desk.list_epochs, owner(1), list(0, "x")), Err("FIELD_INVALID".into()));
}

#[test]
fn a_node_is_told_what_it_earned_and_why_nothing() {
    // E-4.6
    let desk = Desk::new();
    let rewards = |n| wire::GetNodeRewardsRequest { node_id: node_id(n).to_string() };
    let one = call!(desk.get_node_rewards, owner(1), rewards(1)).unwrap();
    assert_eq!(one.rewards.iter().map(|reward| reward.epoch).collect::<Vec<_>>(), [5, 4, 3, 2]);
    assert_eq!((one.rewards[0].trr_units, one.rewards[0].no_trr_reason.as_str()), (5 * HOL, ""));
    assert!(one.rewards[0].br_units > 0 && one.rewards[0].no_br_reason.is_empty());
    assert_eq!(one.payout_account_id, account(1).to_string());
    let two = call!(desk.get_node_rewards, owner(1), rewards(2)).unwrap();
    assert_eq!((two.rewards[0].trr_units, two.rewards[0].no_br_reason.as_str()), (HOL / 2, "NOT_ACTIVE"));
    assert_eq!((two.rewards[0].quarter_units.as_str(), two.payout_account_id.as_str()), ("8", ""));
    assert!(two.owed_units > 0 && two.paid_units == 0);
    assert_eq!(call!(desk.get_node_rewards, owner(1), rewards(9)), Err("NODE_NOT_FOUND".into()));
    let bad = wire::GetNodeRewardsRequest { node_id: "node".into() };
    assert_eq!(call!(desk.get_node_rewards, owner(1), bad), Err("FIELD_INVALID".into()));
}

#[test]
fn work_too_small_for_a_reward_is_not_called_no_work() {
    // E-3.2: three units of work that counts a quarter are less than one.
    let mut desk = Desk::new();
    desk.note(STAKING, vec![bonded(3, 1, 1_000 * HOL, 1_000)]);
    desk.close(6, vec![worked(3, 1, false, 3, 1_000_000)], 1);
    desk.close(7, vec![], 3);
    let rewards = wire::GetNodeRewardsRequest { node_id: node_id(3).to_string() };
    let told = call!(desk.get_node_rewards, owner(1), rewards).unwrap().rewards;
    let told = told.iter().map(|reward| (reward.quarter_units.as_str(), reward.no_trr_reason.as_str()));
    assert_eq!(told.collect::<Vec<_>>(), [("0", "NO_WORK"), ("3", "TOO_SMALL")]);
}

#[test]
fn grants_are_listed_by_node_and_owner_in_pages_and_can_be_left() {
    // E-5.2
    let mut desk = Desk::new();
    let list = |node_id: &str, owner: &str, page_token: &str| wire::ListGrantsRequest {
        node_id: node_id.into(),
        owner: owner.into(),
        page_size: 2,
        page_token: page_token.into(),
    };
    let (mut seen, mut token) = (Vec::new(), String::new());
    loop {
        let page = call!(desk.list_grants, owner(2), list("", "", &token)).unwrap();
        seen.extend(page.grants.into_iter().map(|grant| grant.epoch));
        token = page.next_page_token;
        if token.is_empty() {
            break;
        }
    }
    assert_eq!(seen, [1, 2, 3, 4, 5]);
    let theirs = call!(desk.list_grants, STAFF, list(&node_id(1).to_string(), "", "")).unwrap();
    assert_eq!(theirs.grants.len(), 2);
    let whose = call!(desk.list_grants, STAFF, list("", &owner(1).to_string(), "")).unwrap();
    assert_eq!(whose.grants[0].node_id, node_id(2).to_string());
    let get = |epoch| wire::GetGrantRequest { node_id: node_id(1).to_string(), epoch };
    let grant = call!(desk.get_grant, owner(1), get(3)).unwrap().grant.unwrap();
    assert_eq!(grant.amount_units, 5 * HOL - 5 * HOL / 4);
    assert_eq!((grant.days, grant.work_units.as_str()), (2, "20"));
    let before = desk.digest();
    let only = desk.exit(|request| request.validate_only = true);
    let said = call!(desk.exit_grant, owner(2), only).unwrap();
    assert_eq!((said.burned_units, desk.digest()), (grant.exit_burn_units, before));
    assert_eq!(said.paid_units + said.burned_units, grant.locked_units);
    let request = desk.exit(|_| {});
    assert_eq!(call!(desk.exit_grant, owner(2), request.clone()).unwrap(), said);
    assert_eq!(call!(desk.exit_grant, owner(2), request).unwrap(), said, "the same request, the same answer");
    assert_eq!(call!(desk.get_grant, owner(1), get(3)), Err("GRANT_NOT_FOUND".into()));
}

#[test]
fn an_exit_that_is_none_is_refused() {
    let mut desk = Desk::new();
    let digest = desk.digest();
    let nobody = Id::from_bytes([8; 16]).to_string();
    let cases: Vec<(Principal, wire::ExitGrantRequest, &str)> = vec![
        (owner(2), desk.exit(|r| r.request_id = "7".into()), "FIELD_INVALID"),
        (owner(2), desk.exit(|r| r.node_id = "node".into()), "FIELD_INVALID"),
        (owner(2), desk.exit(|r| r.epoch = 0), "FIELD_INVALID"),
        (owner(2), desk.exit(|r| r.epoch = 6), "GRANT_NOT_FOUND"),
        (owner(2), desk.exit(|r| r.node_id = nobody), "NODE_NOT_FOUND"),
        (owner(1), desk.exit(|_| {}), "FORBIDDEN"),
        (STAFF, desk.exit(|_| {}), "FORBIDDEN"),
    ];
    for (who, message, expected) in cases {
        assert_eq!(call!(desk.exit_grant, who, message.clone()), Err(expected.into()), "{message:?}");
        let only = wire::ExitGrantRequest { validate_only: true, ..message };
        assert_eq!(call!(desk.exit_grant, who, only), Err(expected.into()));
    }
    assert_eq!(desk.digest(), digest);
}

#[test]
fn a_close_without_a_source_is_staffs_and_not_before_its_time() {
    // E-0.5
    let mut desk = Desk::new();
    let ask = |desk: &mut Desk, epoch, service| wire::CloseEpochWithoutRequest {
        request_id: desk.id(),
        epoch,
        service,
    };
    let digest = desk.digest();
    for (who, epoch, service, expected) in [
        (owner(1), 6, 4, "FORBIDDEN"),
        (STAFF, 0, 4, "FIELD_INVALID"),
        (STAFF, 6, 70_000, "FIELD_INVALID"),
        (STAFF, 6, 9, "SOURCE_UNKNOWN"),
        (STAFF, 7, 4, "NOT_NEXT_EPOCH"),
        (STAFF, 6, 4, "TOO_EARLY"),
    ] {
        let message = ask(&mut desk, epoch, service);
        assert_eq!(call!(desk.close_epoch_without, who, message), Err(expected.into()), "{epoch} {service}");
    }
    assert_eq!(desk.digest(), digest);
    desk.rig.advance(std::time::Duration::from_secs(6 * 3_600 + 45));
    for service in [3, 4, 5] {
        let message = ask(&mut desk, 6, service);
        call!(desk.close_epoch_without, STAFF, message).unwrap();
    }
    desk.rig.advance(std::time::Duration::from_millis(10));
    assert_eq!(desk.seat.look(|state| state.next), 7);
}

#[test]
fn reads_of_what_is_not_there_or_by_nobody_are_refused() {
    let desk = Desk::new();
    let list = |node_id: &str, owner: &str, page_token: &str| wire::ListGrantsRequest {
        node_id: node_id.into(),
        owner: owner.into(),
        page_token: page_token.into(),
        ..Default::default()
    };
    let (node, nobody) = (node_id(1).to_string(), Id::from_bytes([8; 16]).to_string());
    for (message, expected) in [
        (list("node", "", ""), "FIELD_INVALID"),
        (list("", "bank", ""), "FIELD_INVALID"),
        (list(&node, &owner(1).to_string(), ""), "FIELD_INVALID"),
        (list(&node, "", "7"), "FIELD_INVALID"),
        (list(&nobody, "", ""), "NODE_NOT_FOUND"),
    ] {
        assert_eq!(call!(desk.list_grants, STAFF, message.clone()), Err(expected.into()), "{message:?}");
    }
    let get = |node_id: &str, epoch| wire::GetGrantRequest { node_id: node_id.into(), epoch };
    assert_eq!(call!(desk.get_grant, STAFF, get(&node, 0)), Err("FIELD_INVALID".into()));
    assert_eq!(call!(desk.get_grant, STAFF, get(&nobody, 1)), Err("NODE_NOT_FOUND".into()));
    assert_eq!(call!(desk.get_grant, STAFF, get(&node, 9)), Err("GRANT_NOT_FOUND".into()));
    let unknown = answer(desk.api.get_pools(Request::new(wire::GetPoolsRequest {}))).unwrap_err();
    assert_eq!(unknown, "UNAUTHENTICATED");
}

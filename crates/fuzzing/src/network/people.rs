//! Who is there when the requests begin.

use arbitrary::Unstructured;
use ed25519_dalek::{Signer as _, SigningKey};
use holmes_accounts::command::{self as accounts, By, Change, NewAccount};
use holmes_accounts::possession as keys;
use holmes_kernel::{Amount, Id, Principal, PrincipalKind, ServiceId};
use holmes_ledger::command::{self as ledger, Coordinator, Kind, Move, Movement, OpenAccount, Transfer, Via};
use holmes_ledger::system_account;
use holmes_market::command::OpenSession;
use holmes_proto::edge::Roles;
use holmes_proto::ledger::v1::Asset;
use holmes_proto::market::v1::{Model, ModelKind, SetModelRequest};
use holmes_proto::scheduling::v1 as scheduling;
use holmes_proto::staking::v1::NodeKind;
use holmes_scheduling::command::{Attach, Command as Ask};
use holmes_scheduling::offer::Offer;
use holmes_staking::command::{Command as Stake, RegisterNode};
use holmes_staking::possession::{self, statement};
use prost_reflect::prost::Message as _;

use super::{Network, account};

pub(super) const GENESIS: [u8; 16] = [5; 16];
pub(super) const MODEL: &str = "a-model";
/// Parties 1 and 2 own nodes, 3 and 4 rent.
pub(super) const PARTIES: u8 = 4;
pub(super) const OWNERS: u8 = 2;
/// Numbers of keys that are no party's.
pub(super) const STAFF: u8 = 90;
pub(super) const SCHEDULER: u8 = 91;
pub(super) const GATEWAY: u8 = 100;
const COIN: u64 = 1_000_000_000;
/// What every party has at first, base units of HOL and of the dollar.
const WEALTH: [u64; 2] = [100_000 * COIN, 100_000_000];
const BOND: u64 = 5_000 * COIN;
const BANK: Principal = Principal::service(ServiceId(9));
const TREASURER: Principal = Principal::service(ServiceId(7));

pub(super) fn assets() -> Vec<Asset> {
    let hol = Asset { id: 1, name: "HOL".into(), decimals: 9, cap_units: 1_000_000_000 * COIN };
    vec![hol, Asset { id: 2, name: "USD".into(), decimals: 6, cap_units: 0 }]
}

pub(super) fn key(n: u8) -> SigningKey {
    SigningKey::from_bytes(&[n; 32])
}

pub(super) fn public(n: u8) -> [u8; 32] {
    key(n).verifying_key().to_bytes()
}

/// The id that follows from a key.
pub(super) fn id(n: u8) -> Id {
    Id::of_key(&public(n))
}

/// The key of the n-th party's node.
pub(super) const fn node_of(n: u8) -> u8 {
    n + 10
}

pub(super) fn party(n: u8) -> Principal {
    Principal::new(PrincipalKind::Account, id(n))
}

pub(super) fn staff() -> Principal {
    Principal::new(PrincipalKind::Staff, id(STAFF))
}

pub(super) fn gateway() -> Principal {
    Principal::new(PrincipalKind::Gateway, id(GATEWAY))
}

/// Mostly one of those whom a method is for, by their numbers in `holmes.Caller`; parties where it is for all.
pub(super) fn caller(meant: Vec<i32>, u: &mut Unstructured<'_>) -> arbitrary::Result<Principal> {
    let any = u.int_in_range(0..=11u8)?;
    if any < 10 && !meant.is_empty() {
        return Ok(match u.choose(&meant)? {
            2 => party(1 + any % PARTIES),
            3 => staff(),
            4 => BANK,
            5 => gateway(),
            _ => Principal::new(PrincipalKind::Node, id(node_of(1))),
        });
    }
    Ok(match any {
        0..=6 => party(1 + any % PARTIES),
        7 => party(5), // who is not known anywhere
        8 => staff(),
        9 => gateway(),
        10 => Principal::new(PrincipalKind::Node, id(node_of(1))),
        _ => BANK,
    })
}

/// A signature in the halves in which machines take it.
pub(super) fn signed(n: u8, said: &[u8]) -> [[u8; 32]; 2] {
    let signature = key(n).sign(said);
    [*signature.r_bytes(), *signature.s_bytes()]
}

/// That party `n`'s node is there, said to staking.
pub(super) fn of_staking(n: u8) -> [[u8; 32]; 2] {
    let network = possession::Network { genesis: GENESIS, cell: 1 };
    signed(node_of(n), &statement(&network, party(n), &public(node_of(n))))
}

pub(super) fn offer() -> Vec<u8> {
    let model = scheduling::ServedModel { name: MODEL.into(), digest: vec![1; 32].into(), context: 8_192 };
    scheduling::Capabilities { models: vec![model], slots: 4, ..Default::default() }.encode_to_vec()
}

fn transfer(network: &mut Network, who: Principal, kind: Kind) -> Id {
    let id = network.fresh();
    let transfers = vec![Transfer { id, linked: false, tag: 0, kind }];
    let door = network.ledger.clone();
    let reply = network.ask(&door, who, ledger::Command::CreateTransfers { via: Via::Call, transfers });
    assert!(reply.is_ok());
    id
}

pub(super) fn come(network: &mut Network) {
    for n in 1..=PARTIES {
        register(network, n);
        for asset in [1, 2] {
            let door = network.ledger.clone();
            let (account, owner, name) = (account(n, asset), party(n), String::new());
            let open = OpenAccount { account, asset, owner, name, history: false, via: Via::Call };
            network.ask(&door, owner, ledger::Command::OpenAccount(open)).unwrap();
            let door = network.market.clone();
            let set = holmes_market::Command::SetAccount { asset, account };
            network.ask(&door, owner, set).unwrap();
        }
        let (debit, credit) = (system_account("ecosystem/HOL"), account(n, 1));
        let of = Move { debit, credit, amount: Amount::new(WEALTH[0]), balancing: false, debit_owner: None };
        transfer(network, TREASURER, Kind::Single(of));
        let (amount, reference) = (Amount::new(WEALTH[1]), format!("bank {n}"));
        let deposit = Movement { account: account(n, 2), amount, reference };
        let door = network.ledger.clone();
        network.ask(&door, BANK, ledger::Command::RecordDeposit(deposit)).unwrap();
    }
    (1..=OWNERS).for_each(|n| bond(network, n));
    let door = network.scheduling.clone();
    network.ask(&door, gateway(), Ask::StartGateway { public_key: public(GATEWAY) }).unwrap();
    for n in 1..=OWNERS {
        let attach = Attach {
            node: id(node_of(n)),
            offer: Offer::read(&offer()).unwrap(),
            nonce: [n; 16],
            signature: [[0; 32]; 2],
        };
        network.ask(&door, gateway(), Ask::Attach(attach)).unwrap();
    }
    let door = network.market.clone();
    let (kind, input_pico_usd) = (ModelKind::Generate, 5_000_000);
    let model = Model {
        name: MODEL.into(),
        kind: kind.into(),
        input_pico_usd,
        output_pico_usd: 4 * input_pico_usd,
        input_micro_units: 1,
        output_micro_units: 4,
        ..Model::default()
    };
    let set = holmes_market::wire::set_model(&SetModelRequest { model: Some(model), ..Default::default() });
    network.ask(&door, staff(), set.unwrap()).unwrap();
    let session = network.fresh();
    let open = OpenSession { session, renter: None, asset: Some(2), budget: Some(5_000_000) };
    network.ask(&door, party(3), holmes_market::Command::OpenSession(open)).unwrap();
}

/// A wallet makes its account by itself.
fn register(network: &mut Network, n: u8) {
    let of = keys::Network { genesis: GENESIS, cell: 1 };
    let possession = signed(n, &keys::statement(&of, party(n), Some(id(n)), &public(n)));
    let key = keys::OfferedKey { public_key: public(n), label: String::new(), possession };
    let roles = Roles::RENTER | Roles::OPERATOR;
    let new = NewAccount { account: id(n), name: format!("party {n}"), roles, key: Some(key) };
    let door = network.accounts.clone();
    let command = accounts::Command { by: By::OfferedKey, change: Change::CreateAccount(new) };
    network.ask(&door, party(n), command).unwrap();
}

fn bond(network: &mut Network, n: u8) {
    let (staking, node) = (network.staking.clone(), id(node_of(n)));
    let (public_key, kind, claim_milli_cu) = (public(node_of(n)), NodeKind::Compute as u8, 1_000);
    let register = RegisterNode { public_key, kind, claim_milli_cu, possession: of_staking(n) };
    network.ask(&staking, party(n), Stake::RegisterNode(register)).unwrap();
    network.ask(&staking, staff(), Stake::SetRating { node, rating_milli_cu: 1_000 }).unwrap();
    let (debit, credit) = (account(n, 1), system_account("bonds/HOL"));
    let of = Move { debit, credit, amount: Amount::new(BOND), balancing: false, debit_owner: None };
    let coordinator = Some(Coordinator { service: ServiceId(3), id: node });
    let hold = transfer(network, party(n), Kind::Hold { of, timeout_ms: Some(3_600_000), coordinator });
    network.ask(&staking, party(n), Stake::Bond { node, hold }).unwrap();
}

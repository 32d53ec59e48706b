//! Staking and a real ledger on virtual time.

use std::time::Duration;

use ed25519_dalek::{Signer as _, SigningKey};
use holmes_kernel::{Amount, Id, LogId, Opened, Principal, PrincipalKind, Refusal, ServiceId, Time};
use holmes_ledger::command::{self as ledger, Coordinator, Kind, Move, OpenAccount, Transfer, Via};
use holmes_ledger::{Ledger, system_account};
use holmes_proto::ledger::v1::{Asset, TransferCode};
use holmes_proto::staking::v1::{NodeKind, Params};
use holmes_runtime::rig::{Rig, Seat};
use holmes_staking::command::RegisterNode;
use holmes_staking::possession::{Network, statement};
use holmes_staking::state::{Node, due};
use holmes_staking::{Command, Reply, Staking, State, params};
use holmes_store::journal::memory::Journal;
use holmes_testing::ask;
use prost::Message;

pub(crate) const HOL: u64 = 1_000_000_000;
pub(crate) const DAY: Duration = Duration::from_secs(86_400);
/// A midnight at which a period of seven days begins.
pub(crate) const START: Time = Time::from_millis(20_832 * 86_400_000);
pub(crate) const STAFF: Principal = Principal::new(PrincipalKind::Staff, Id::from_bytes([7; 16]));
pub(crate) const NETWORK: Network = Network { genesis: [5; 16], cell: 1 };
const TREASURY: Principal = Principal::service(ServiceId(5));
const ASSET: u32 = 1;

/// The n-th owner.
pub(crate) fn owner(n: u8) -> Principal {
    Principal::new(PrincipalKind::Account, Id::from_bytes([n; 16]))
}

/// The key of the n-th node.
pub(crate) fn key(n: u16) -> SigningKey {
    let mut seed = [1; 32];
    seed[..2].copy_from_slice(&n.to_le_bytes());
    SigningKey::from_bytes(&seed)
}

/// The n-th node.
pub(crate) fn node_id(n: u16) -> Id {
    Id::of_key(&key(n).verifying_key().to_bytes())
}

/// The registration of the n-th node.
pub(crate) fn registration(n: u16, owner: Principal, kind: NodeKind, claim_milli_cu: u32) -> RegisterNode {
    let public_key = key(n).verifying_key().to_bytes();
    let signature = key(n).sign(&statement(&NETWORK, owner, &public_key));
    let possession = [*signature.r_bytes(), *signature.s_bytes()];
    RegisterNode { public_key, kind: kind as u8, claim_milli_cu, possession }
}

pub(crate) fn opened(params: &Params) -> Opened {
    Opened { cell: 1, shard: 0, profile_hash: NETWORK.genesis.to_vec(), params: params.encode_to_vec() }
}

/// A ledger in which every owner has an account with 10 million HOL, and staking.
pub(crate) struct World {
    pub(crate) rig: Rig<Journal>,
    pub(crate) ledger: Seat<Ledger, Journal>,
    pub(crate) staking: Seat<Staking, Journal>,
    asked: u32,
}

impl World {
    pub(crate) fn new(params: &Params) -> World {
        let mut rig = Rig::new(Journal::default(), START);
        let hol = Asset { id: ASSET, name: "HOL".into(), decimals: 9, cap_units: 1_000_000_000 * HOL };
        let ledger = Opened {
            cell: 1,
            params: holmes_ledger::params::defaults(vec![hol]).encode_to_vec(),
            ..Opened::default()
        };
        let ledger = rig.add(LogId::new(1, ServiceId(1)), ledger).expect("the ledger opens");
        let staking = rig.add(LogId::new(1, ServiceId(3)), opened(params)).expect("staking opens");
        let mut world = World { rig, ledger, staking, asked: 0 };
        for n in 1..=3 {
            let open = OpenAccount {
                account: world.account(n),
                asset: ASSET,
                owner: owner(n),
                name: String::new(),
                history: false,
                via: Via::Call,
            };
            world.ask_ledger(owner(n), ledger::Command::OpenAccount(open)).expect("an account opens");
            let from = system_account("genesis/HOL");
            let granted = world.transfer(TREASURY, from, world.account(n), 10_000_000 * HOL);
            assert_eq!(granted, TransferCode::Ok);
        }
        world.wait(Duration::from_secs(1)); // bonds/HOL opens
        world
    }

    /// The n-th owner's account.
    pub(crate) fn account(&self, n: u8) -> Id {
        Id::v7(START.millis(), [n; 10])
    }

    fn fresh(&mut self) -> Id {
        self.asked += 1;
        Id::derive(self.rig.now(), b"world", self.asked)
    }

    pub(crate) fn ask_ledger(
        &mut self,
        who: Principal,
        command: ledger::Command,
    ) -> Result<ledger::Reply, Refusal> {
        let id = self.fresh();
        ask(&self.ledger, who, id, command)
    }

    fn transfers(&mut self, who: Principal, kind: Kind) -> (Id, TransferCode) {
        let id = self.fresh();
        let transfers = vec![Transfer { id, linked: false, tag: 0, kind }];
        let command = ledger::Command::CreateTransfers { via: Via::Call, transfers };
        let reply = self.ask_ledger(who, command).expect("a batch of one is answered");
        let ledger::Reply::Transfers(results) = reply else { panic!("transfers have results") };
        (id, results[0].code)
    }

    pub(crate) fn transfer(&mut self, who: Principal, debit: Id, credit: Id, units: u64) -> TransferCode {
        let amount = Amount::new(units);
        self.transfers(who, Kind::Single(Move { debit, credit, amount, balancing: false, debit_owner: None }))
            .1
    }

    /// A hold of the n-th owner in favour of the bonds account, for a node.
    pub(crate) fn hold(&mut self, n: u8, node: Id, units: u64) -> Id {
        let (debit, credit, amount) = (self.account(n), system_account("bonds/HOL"), Amount::new(units));
        let of = Move { debit, credit, amount, balancing: false, debit_owner: None };
        let coordinator = Some(Coordinator { service: ServiceId(3), id: node });
        let (id, code) =
            self.transfers(owner(n), Kind::Hold { of, timeout_ms: Some(3_600_000), coordinator });
        assert_eq!(code, TransferCode::Ok);
        self.rig.settle();
        id
    }

    pub(crate) fn ask(&mut self, who: Principal, command: Command) -> Result<Reply, Refusal> {
        let id = self.fresh();
        let answer = ask(&self.staking, who, id, command);
        self.rig.settle();
        answer
    }

    /// The reason for which a command is refused.
    pub(crate) fn refused(&mut self, who: Principal, command: Command) -> String {
        self.ask(who, command).expect_err("it is refused").reason.into_owned()
    }

    /// Registers the n-th node for an owner and lets its hardware pass.
    pub(crate) fn node(&mut self, n: u16, of: u8, kind: NodeKind, rating: u32) -> Id {
        let claim = if kind == NodeKind::Compute { rating } else { 0 };
        let register = registration(n, owner(of), kind, claim);
        self.ask(owner(of), Command::RegisterNode(register)).expect("a node registers");
        self.rate(n, kind, rating);
        node_id(n)
    }

    pub(crate) fn rate(&mut self, n: u16, kind: NodeKind, rating_milli_cu: u32) {
        if kind == NodeKind::Compute {
            let command = Command::SetRating { node: node_id(n), rating_milli_cu };
            self.ask(STAFF, command).expect("staff rate a node");
        }
    }

    /// Bonds so much of the owner's to a node.
    pub(crate) fn bond(&mut self, of: u8, node: Id, units: u64) {
        let hold = self.hold(of, node, units);
        self.ask(owner(of), Command::Bond { node, hold }).expect("a hold is bonded");
    }

    pub(crate) fn unbond(&mut self, of: u8, node: Id, units: Option<u64>) -> Reply {
        let amount = units.map(Amount::new);
        self.ask(owner(of), Command::Unbond { node, amount, account: None })
            .expect("an unbonding is accepted")
    }

    /// Lets time pass; whenever anything rests, bonds/HOL holds what staking believes.
    pub(crate) fn wait(&mut self, by: Duration) {
        let end = self.rig.now().micros() + by.as_micros() as u64;
        let until =
            |to: u64, rig: &Rig<Journal>| Duration::from_micros(to.saturating_sub(rig.now().micros()));
        // A rig that hears something at the very end of an advance runs past it and panics: what is due is passed by a
        // millisecond at a time.
        while let Some(at) = self.look(due).map(|(at, _)| at.micros()).filter(|at| *at <= end) {
            self.rig.advance(until(at, &self.rig) + Duration::from_millis(1));
        }
        self.rig.advance(until(end, &self.rig));
        self.agrees();
    }

    pub(crate) fn agrees(&self) {
        assert_eq!(self.rig.check(), []);
        assert_eq!(self.balance(system_account("bonds/HOL")), self.look(|state| state.vault.units));
    }

    pub(crate) fn balance(&self, account: Id) -> u64 {
        self.ledger.look(|state| state.account(&account).map_or(0, |account| account.balance.net().0))
    }

    pub(crate) fn look<T>(&self, look: impl FnOnce(&State) -> T) -> T {
        self.staking.look(look)
    }

    pub(crate) fn see<T>(&self, node: Id, look: impl FnOnce(&Node) -> T) -> T {
        self.look(|state| look(state.nodes.get(&node).expect("the node is there")))
    }
}

/// The defaults, changed.
pub(crate) fn with(change: impl FnOnce(&mut Params)) -> Params {
    let mut params = params::defaults();
    change(&mut params);
    params
}

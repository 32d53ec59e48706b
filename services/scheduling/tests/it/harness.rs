//! Scheduling beside real staking and a real ledger. The market's facts are given by hand, as its log will give them.

use std::time::Duration;

use ed25519_dalek::{Signer as _, SigningKey};
use holmes_kernel::{Amount, Id, LogId, Opened, Principal, PrincipalKind, Refusal, ServiceId, Time, canon};
use holmes_ledger::command::{self as ledger, Coordinator, Kind, Move, OpenAccount, Transfer, Via};
use holmes_ledger::{Ledger, system_account};
use holmes_proto::ledger::v1::Asset;
use holmes_proto::scheduling::v1 as wire;
use holmes_proto::staking::v1::NodeKind;
use holmes_proto::statements;
use holmes_runtime::rig::{Rig, Seat};
use holmes_scheduling::command::MarketFact;
use holmes_scheduling::state::Prices;
use holmes_scheduling::{Command, Reply, Scheduling, State, params};
use holmes_staking::Staking;
use holmes_staking::command::RegisterNode;
use holmes_staking::possession;
use holmes_store::journal::memory::Journal;
use holmes_testing::ask;
use prost::Message;

pub(crate) const HOL: u64 = 1_000_000_000;
pub(crate) const GENESIS: [u8; 16] = [5; 16];
/// A midnight at which a period of staking begins, and epoch 1.
pub(crate) const START: Time = Time::from_millis(20_832 * 86_400_000);
pub(crate) const STAFF: Principal = Principal::new(PrincipalKind::Staff, Id::from_bytes([7; 16]));
pub(crate) const MODEL: &str = "smollm2";
pub(crate) const CAP: u128 = 1_000_000_000;
const ASSET: u32 = 1;

pub(crate) fn owner(n: u8) -> Principal {
    Principal::new(PrincipalKind::Account, Id::from_bytes([n; 16]))
}

/// The key of the n-th node, of a gateway (100 and up), of scheduling (200).
pub(crate) fn key(n: u8) -> SigningKey {
    SigningKey::from_bytes(&[n; 32])
}

pub(crate) fn public(n: u8) -> [u8; 32] {
    key(n).verifying_key().to_bytes()
}

pub(crate) fn node(n: u8) -> Id {
    Id::of_key(&public(n))
}

pub(crate) fn gateway(n: u8) -> Principal {
    Principal::new(PrincipalKind::Gateway, Id::of_key(&public(n)))
}

/// Epochs of 45 beats of a second, leases signed by key 200, changed.
pub(crate) fn with(change: impl FnOnce(&mut wire::Params)) -> wire::Params {
    let mut params = params::defaults();
    (params.epoch_s, params.beat_s, params.tge_at_ms) = (45, 1, START.millis());
    params.public_key = public(200).to_vec().into();
    change(&mut params);
    params
}

pub(crate) fn capabilities(slots: u32) -> Vec<u8> {
    let model = wire::ServedModel { name: MODEL.into(), digest: vec![1; 32].into(), context: 8_192 };
    wire::Capabilities { models: vec![model], slots, ..Default::default() }.encode_to_vec()
}

pub(crate) struct World {
    pub(crate) rig: Rig<Journal>,
    ledger: Seat<Ledger, Journal>,
    staking: Seat<Staking, Journal>,
    pub(crate) scheduling: Seat<Scheduling, Journal>,
    asked: u32,
}

impl World {
    /// Three owners have 10 million HOL each; a session of owner 9 is funded.
    pub(crate) fn new(params: &wire::Params) -> World {
        let mut rig = Rig::new(Journal::default(), START);
        let hol = Asset { id: ASSET, name: "HOL".into(), decimals: 9, cap_units: 1_000_000_000 * HOL };
        let opened = |params: Vec<u8>| Opened { cell: 1, shard: 0, profile_hash: GENESIS.to_vec(), params };
        let of_ledger = opened(holmes_ledger::params::defaults(vec![hol]).encode_to_vec());
        let ledger = rig.add(LogId::new(1, ServiceId(1)), of_ledger).unwrap();
        let of_staking = opened(holmes_staking::params::encoded_defaults());
        let staking = rig.add(LogId::new(1, ServiceId(3)), of_staking).unwrap();
        let scheduling = rig.add(LogId::new(1, ServiceId(4)), opened(params.encode_to_vec())).unwrap();
        let mut world = World { rig, ledger, staking, scheduling, asked: 0 };
        world.rig.advance(Duration::from_millis(1));
        for n in 1..=3 {
            world.fund(n);
        }
        world.rig.advance(Duration::from_secs(1)); // bonds/HOL opens
        let expires_at = START.after_millis(1_000_000);
        let prices = Prices { input_pico: 10, output_pico: 20, input_micro_units: 1, output_micro_units: 2 };
        world.market(vec![
            MarketFact::Model { name: MODEL.into(), prices, withdrawn: false },
            MarketFact::Funded { session: session(), renter: owner(9), cap: CAP, expires_at },
        ]);
        world
    }

    pub(crate) fn fresh(&mut self) -> Id {
        self.asked += 1;
        Id::derive(self.rig.now(), b"world", self.asked)
    }

    fn account(&self, n: u8) -> Id {
        Id::v7(START.millis(), [n; 10])
    }

    fn transfer(&mut self, who: Principal, kind: Kind) -> Id {
        let id = self.fresh();
        let transfers = vec![Transfer { id, linked: false, tag: 0, kind }];
        self.ask_ledger(who, ledger::Command::CreateTransfers { via: Via::Call, transfers });
        id
    }

    fn ask_ledger(&mut self, who: Principal, command: ledger::Command) {
        let id = self.fresh();
        ask(&self.ledger, who, id, command).unwrap();
        self.rig.settle();
    }

    fn fund(&mut self, n: u8) {
        let open = OpenAccount {
            account: self.account(n),
            asset: ASSET,
            owner: owner(n),
            name: String::new(),
            history: false,
            via: Via::Call,
        };
        self.ask_ledger(owner(n), ledger::Command::OpenAccount(open));
        let (debit, credit) = (system_account("genesis/HOL"), self.account(n));
        let amount = Amount::new(10_000_000 * HOL);
        let of = Move { debit, credit, amount, balancing: false, debit_owner: None };
        self.transfer(Principal::service(ServiceId(5)), Kind::Single(of));
    }

    /// Registers the n-th node in staking for an owner, rates it and bonds what is required.
    pub(crate) fn register(&mut self, n: u8, of: u8) {
        let network = possession::Network { genesis: GENESIS, cell: 1 };
        let signature = key(n).sign(&possession::statement(&network, owner(of), &public(n)));
        let register = RegisterNode {
            public_key: public(n),
            kind: NodeKind::Compute as u8,
            claim_milli_cu: 1_000,
            possession: [*signature.r_bytes(), *signature.s_bytes()],
        };
        self.ask_staking(owner(of), holmes_staking::Command::RegisterNode(register));
        let rating = holmes_staking::Command::SetRating { node: node(n), rating_milli_cu: 1_000 };
        self.ask_staking(STAFF, rating);
        let (debit, credit, amount) =
            (self.account(of), system_account("bonds/HOL"), Amount::new(100_000 * HOL));
        let of_hold = Move { debit, credit, amount, balancing: false, debit_owner: None };
        let coordinator = Some(Coordinator { service: ServiceId(3), id: node(n) });
        let hold =
            self.transfer(owner(of), Kind::Hold { of: of_hold, timeout_ms: Some(3_600_000), coordinator });
        self.ask_staking(owner(of), holmes_staking::Command::Bond { node: node(n), hold });
    }

    pub(crate) fn ask_staking(&mut self, who: Principal, command: holmes_staking::Command) {
        let id = self.fresh();
        ask(&self.staking, who, id, command).unwrap();
        self.rig.settle();
    }

    pub(crate) fn ask(&mut self, who: Principal, command: Command) -> Result<Reply, Refusal> {
        let id = self.fresh();
        let answer = ask(&self.scheduling, who, id, command);
        self.rig.settle();
        answer
    }

    pub(crate) fn market(&mut self, facts: Vec<MarketFact>) {
        self.ask(Principal::service(holmes_scheduling::MARKET), Command::NoteMarket(facts)).unwrap();
    }

    pub(crate) fn look<T>(&self, look: impl FnOnce(&State) -> T) -> T {
        self.scheduling.look(look)
    }

    pub(crate) fn digest(&self) -> canon::Digest {
        self.look(canon::digest)
    }

    /// Lets time pass a millisecond beyond, so that what is due at the very end is heard too.
    pub(crate) fn wait(&mut self, ms: u64) {
        self.rig.advance(Duration::from_millis(ms) + Duration::from_micros(500));
        assert_eq!(self.rig.check(), []);
    }
}

pub(crate) fn session() -> Id {
    Id::v7(START.millis(), [9; 10])
}

pub(crate) fn attach_request(n: u8, of: u8, nonce: u8, request_id: Id) -> wire::AttachRequest {
    let capabilities = capabilities(2);
    let gateway = gateway(of).id.to_bytes();
    let said = statements::attach(&GENESIS, 1, &gateway, &[nonce; 16], &capabilities);
    wire::AttachRequest {
        request_id: request_id.to_string(),
        node_id: node(n).to_string(),
        capabilities: capabilities.into(),
        nonce: vec![nonce; 16].into(),
        signature: key(n).sign(&said).to_bytes().to_vec().into(),
    }
}

/// A call of a lease, signed by the n-th node and a gateway.
pub(crate) fn signed_line(lease: &str, call: u8, tokens: (u64, u64), n: u8, of: u8) -> wire::CallLine {
    signed_end(lease, call, tokens, wire::Finish::Stop, (n, of))
}

/// The checkpoint of a call that runs.
pub(crate) fn signed_running(lease: &str, call: u8, tokens: (u64, u64), n: u8, of: u8) -> wire::CallLine {
    signed_end(lease, call, tokens, wire::Finish::NodeLost, (n, of))
}

fn signed_end(
    lease: &str,
    call: u8,
    tokens: (u64, u64),
    finish: wire::Finish,
    (n, of): (u8, u8),
) -> wire::CallLine {
    let mut line = wire::CallLine {
        call: Id::v7(START.millis(), [call; 10]).to_bytes().to_vec().into(),
        input_tokens: tokens.0,
        output_tokens: tokens.1,
        finish: finish.into(),
        prompt_commitment: vec![1; 32].into(),
        output_commitment: vec![2; 32].into(),
        ..Default::default()
    };
    let said = statements::call_line(&GENESIS, 1, &statements::lease_bytes(lease).unwrap(), &line);
    line.node_signature = key(n).sign(&said).to_bytes().to_vec().into();
    line.gateway_signature = key(of).sign(&said).to_bytes().to_vec().into();
    line
}

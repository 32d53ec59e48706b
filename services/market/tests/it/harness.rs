//! The market, a real ledger, and a log of scheduling's events on virtual time.

use std::time::Duration;

use holmes_kernel::ports::Journal as _;
use holmes_kernel::{Amount, Id, LogId, Opened, Principal, PrincipalKind, Refusal, ServiceId, Time};
use holmes_ledger::command::{self as ledger, Kind, Move, Movement, OpenAccount, Transfer, Via};
use holmes_ledger::{Ledger, system_account};
use holmes_market::command::OpenSession;
use holmes_market::state::{Purse, Session};
use holmes_market::{Command, Market, Reply, State, params};
use holmes_proto::ledger::v1::{Asset, TransferCode};
use holmes_proto::market::v1::event::Event as Happened;
use holmes_proto::market::v1::{Event, Params, WorkCredit};
use holmes_proto::scheduling::v1::event::Event as Seen;
use holmes_proto::scheduling::v1::{CallLine, CallsMetered, Event as SchedulingEvent, Lease, LeaseRenewed};
use holmes_runtime::rig::{Rig, Seat};
use holmes_store::journal::memory::Journal;
use holmes_testing::{Script, ask, now};
use prost::Message;

pub(crate) const HOL: u32 = 1;
pub(crate) const USD: u32 = 2;
pub(crate) const START: Time = Time::from_millis(20_832 * 86_400_000);
pub(crate) const STAFF: Principal = Principal::new(PrincipalKind::Staff, Id::from_bytes([7; 16]));
pub(crate) const GATEWAY: Principal = Principal::new(PrincipalKind::Gateway, Id::from_bytes([8; 16]));
pub(crate) const SECOND: Duration = Duration::from_secs(1);
pub(crate) const MINUTE: Duration = Duration::from_secs(60);
/// What every renter has of each asset: 1,000 HOL, and 100 USD.
pub(crate) const WEALTH: [u64; 2] = [1_000_000_000_000, 100_000_000];
const BANK: Principal = Principal::service(ServiceId(9));

/// Scheduling's log, as far as the market listens to it.
type Scheduling = Script<SchedulingEvent>;

/// The n-th party: 1 to 9 rent, 11 to 19 own nodes.
pub(crate) fn party(n: u8) -> Principal {
    Principal::new(PrincipalKind::Account, Id::from_bytes([n; 16]))
}

/// The n-th party's account.
pub(crate) fn account(n: u8, asset: u32) -> Id {
    Id::v7(START.millis(), [0, asset as u8, 0, 0, 0, 0, 0, 0, 0, n])
}

/// The n-th node.
pub(crate) fn node(n: u8) -> Id {
    Id::from_bytes([n; 16])
}

pub(crate) fn opened(params: &Params) -> Opened {
    Opened { cell: 1, params: params.encode_to_vec(), ..Opened::default() }
}

/// The defaults from START on, changed.
pub(crate) fn with(change: impl FnOnce(&mut Params)) -> Params {
    let mut params = params::defaults();
    params.tge_at_ms = START.millis();
    params.silence_ms = 60_000; // here nobody says that a session is drained, but where a test does
    change(&mut params);
    params
}

/// Calls of one lease: so many, each with so many tokens at so many pico-dollars and millionths of a unit.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Calls {
    pub(crate) node: u8,
    pub(crate) owner: u8,
    pub(crate) credit: WorkCredit,
    pub(crate) calls: u64,
    pub(crate) tokens: u64,
    pub(crate) pico: u64,
    pub(crate) micro_units: u64,
}

/// One call that costs so many micro-dollars and is a unit of work for each.
pub(crate) fn one(node: u8, owner: u8, micro: u64) -> Calls {
    let credit = WorkCredit::Full;
    Calls { node, owner, credit, calls: 1, tokens: micro, pico: 1_000_000, micro_units: 1_000_000 }
}

impl Calls {
    fn event(&self, session: Id) -> CallsMetered {
        let line = CallLine { output_tokens: self.tokens, input_tokens: 1, ..Default::default() };
        CallsMetered {
            session: session.to_bytes().to_vec().into(),
            node: node(self.node).to_bytes().to_vec().into(),
            owner: party(self.owner).to_bytes().to_vec().into(),
            output_pico_usd: self.pico,
            output_micro_units: self.micro_units,
            credit: self.credit.into(),
            lines: vec![line; self.calls as usize],
            ..Default::default()
        }
    }
}

/// A ledger in which renters 1 to 3 have [`WEALTH`], owners 11 and 12 have an account of each asset that the market
/// knows, and owner 13 has named none.
pub(crate) struct World {
    pub(crate) rig: Rig<Journal>,
    pub(crate) ledger: Seat<Ledger, Journal>,
    pub(crate) market: Seat<Market, Journal>,
    scheduling: Seat<Scheduling, Journal>,
    journal: Journal,
    asked: u32,
}

const MARKET_LOG: LogId = LogId::new(1, ServiceId(5));

impl World {
    pub(crate) fn new(params: &Params) -> World {
        let journal = Journal::default();
        let mut rig = Rig::new(journal.clone(), START);
        let hol = Asset { id: HOL, name: "HOL".into(), decimals: 9, cap_units: 1_000_000_000_000_000_000 };
        let usd = Asset { id: USD, name: "USD".into(), decimals: 6, cap_units: 0 };
        let params_of_ledger = holmes_ledger::params::defaults(vec![hol, usd]).encode_to_vec();
        let first = Opened { cell: 1, params: params_of_ledger, ..Opened::default() };
        let ledger = rig.add(LogId::new(1, ServiceId(1)), first).expect("the ledger opens");
        let scheduling = rig.add(LogId::new(1, ServiceId(4)), Opened::default()).expect("scheduling opens");
        let market = rig.add(MARKET_LOG, opened(params)).expect("the market opens");
        let mut world = World { rig, ledger, market, scheduling, journal, asked: 0 };
        world.wait(SECOND); // the market's accounts open
        for n in [1, 2, 3, 11, 12, 13] {
            for asset in [HOL, USD] {
                world.open_account(n, asset);
                if n != 13 {
                    world.ask(party(n), Command::SetAccount { asset, account: account(n, asset) }).unwrap();
                }
            }
        }
        for n in 1..=3 {
            let grant = world.transfer(BANK, system_account("genesis/HOL"), account(n, HOL), WEALTH[0]);
            assert_eq!(grant, TransferCode::Ok);
            let (reference, amount) = (format!("bank {n}"), Amount::new(WEALTH[1]));
            let movement = Movement { account: account(n, USD), amount, reference };
            world.ask_ledger(BANK, ledger::Command::RecordDeposit(movement)).unwrap();
        }
        world
    }

    pub(crate) fn open_account(&mut self, n: u8, asset: u32) {
        let (owner, via) = (party(n), Via::Call);
        let open = OpenAccount {
            account: account(n, asset),
            asset,
            owner,
            name: String::new(),
            history: false,
            via,
        };
        self.ask_ledger(party(n), ledger::Command::OpenAccount(open)).expect("an account opens");
    }

    pub(crate) fn fresh(&mut self) -> Id {
        self.asked += 1;
        Id::derive(self.rig.now(), b"world", self.asked)
    }

    pub(crate) fn ask_ledger(
        &mut self,
        who: Principal,
        command: ledger::Command,
    ) -> Result<ledger::Reply, Refusal> {
        let id = self.fresh();
        let answer = ask(&self.ledger, who, id, command);
        self.rig.settle();
        answer
    }

    pub(crate) fn transfer(&mut self, who: Principal, debit: Id, credit: Id, units: u64) -> TransferCode {
        let of = Move { debit, credit, amount: Amount::new(units), balancing: false, debit_owner: None };
        let transfer = Transfer { id: self.fresh(), linked: false, tag: 0, kind: Kind::Single(of) };
        let command = ledger::Command::CreateTransfers { via: Via::Call, transfers: vec![transfer] };
        let reply = self.ask_ledger(who, command).expect("a batch of one is answered");
        let ledger::Reply::Transfers(results) = reply else { panic!("transfers have results") };
        results[0].code
    }

    pub(crate) fn ask(&mut self, who: Principal, command: Command) -> Result<Reply, Refusal> {
        let id = self.fresh();
        self.ask_as(who, id, command)
    }

    fn ask_as(&mut self, who: Principal, id: Id, command: Command) -> Result<Reply, Refusal> {
        let answer = ask(&self.market, who, id, command);
        self.rig.settle();
        answer
    }

    /// The reason for which a command is refused.
    pub(crate) fn refused(&mut self, who: Principal, command: Command) -> String {
        self.ask(who, command).expect_err("it is refused").reason.into_owned()
    }

    /// A session of the n-th renter; the ledger has answered.
    pub(crate) fn open(&mut self, n: u8, asset: u32, budget: u64) -> Id {
        let session = self.fresh();
        let open = OpenSession { session, renter: None, asset: Some(asset), budget: Some(budget) };
        self.ask_as(party(n), session, Command::OpenSession(open)).expect("a session opens");
        session
    }

    pub(crate) fn close(&mut self, n: u8, session: Id) {
        self.ask(party(n), Command::CloseSession { session }).expect("a session closes");
    }

    /// Scheduling writes calls of a session in one entry.
    pub(crate) fn meter(&mut self, session: Id, calls: &[Calls]) {
        let metered = calls.iter().map(|calls| Seen::CallsMetered(calls.event(session)));
        let events = Scheduling::saying(metered.map(|seen| SchedulingEvent { event: Some(seen) }));
        let id = self.fresh();
        ask(&self.scheduling, STAFF, id, events).expect("scheduling writes what it is told");
        self.rig.settle();
    }

    /// Scheduling renews a lease of a session for a minute, as it does while a call runs.
    pub(crate) fn renew(&mut self, session: Id) {
        let until = self.rig.now().after_millis(60_000);
        let session = session.to_bytes().to_vec().into();
        let renewed = Some(Lease { session, expires_at_us: until.micros(), ..Lease::default() });
        let renewed = Seen::LeaseRenewed(LeaseRenewed { renewed });
        let events = Scheduling::saying([SchedulingEvent { event: Some(renewed) }]);
        let id = self.fresh();
        ask(&self.scheduling, STAFF, id, events).expect("scheduling writes what it is told");
        self.rig.settle();
    }

    /// Lets time pass; whenever anything rests, the ledger agrees with the market.
    pub(crate) fn wait(&mut self, by: Duration) {
        self.rig.advance(by);
        self.agrees();
    }

    /// Every invariant of every machine holds, and what lies in the market's accounts is what it believes.
    pub(crate) fn agrees(&self) {
        assert_eq!(self.rig.check(), []);
        for (asset, name) in [(HOL, "HOL"), (USD, "USD")] {
            let sum = |of: fn(&Session) -> u128| {
                self.look(|s| s.sessions.values().filter(|it| it.asset == asset).map(of).sum::<u128>())
            };
            let lies = |purse: Purse| u128::from(self.balance(purse.account(name)));
            assert_eq!(lies(Purse::Market), sum(|it| it.totals.left_over()), "market/{name}");
            assert_eq!(lies(Purse::Fees), sum(|it| it.totals.fees), "fees/{name}");
            assert_eq!(lies(Purse::Surcharges), sum(|it| it.totals.surcharges), "surcharges/{name}");
            assert_eq!(lies(Purse::Rounding), sum(|it| it.totals.rounding), "rounding/{name}");
            let owed = self.look(|s| {
                let of_asset = s.owed.iter().filter(|((_, its), _)| *its == asset);
                of_asset.map(|(_, owed)| u128::from(owed.units)).sum::<u128>()
            });
            assert_eq!(lies(Purse::Unclaimed), owed, "unclaimed/{name}");
            let held = sum(|it| it.hold.map_or(0, |hold| hold.units.into()));
            let pending = self.ledger.look(|s| {
                s.account(&Purse::Market.account(name)).map_or(0, |account| account.balance.credits_pending)
            });
            assert_eq!(u128::from(pending), held, "holds of {name}");
        }
    }

    /// Everything that has happened in the market.
    pub(crate) fn events(&self) -> Vec<Happened> {
        let frames = now(self.journal.read(MARKET_LOG, 0, usize::MAX)).expect("the journal is whole");
        let entries = frames.iter().flat_map(|frame| frame.entries().expect("frames are whole"));
        let events = entries.flat_map(|(_, entry)| entry.events);
        events.filter_map(|bytes| Event::decode(bytes).expect("events are ours").event).collect()
    }

    /// The epochs of what was settled.
    pub(crate) fn settled_epochs(&self) -> Vec<u64> {
        let settled = |event: Happened| match event {
            Happened::Settled(settled) => Some(settled.epoch),
            _ => None,
        };
        self.events().into_iter().filter_map(settled).collect()
    }

    pub(crate) fn balance(&self, account: Id) -> u64 {
        self.ledger.look(|state| state.account(&account).map_or(0, |account| account.balance.net().0))
    }

    /// What the n-th party has of an asset, held or not.
    pub(crate) fn has(&self, n: u8, asset: u32) -> u64 {
        self.balance(account(n, asset))
    }

    pub(crate) fn look<T>(&self, look: impl FnOnce(&State) -> T) -> T {
        self.market.look(look)
    }

    pub(crate) fn see<T>(&self, session: Id, look: impl FnOnce(&Session) -> T) -> T {
        self.look(|state| look(state.sessions.get(&session).expect("the session is there")))
    }
}

//! A shop's till: a toy machine that does everything a machine can do, well and badly. Self-contained, so that the
//! tests of other crates take it in with `#[path]`. It keeps accounts (money is conserved), rings alarms, hears what
//! other tills paid to [`ABROAD`], sends orders, and has commands for every way in which a machine can misbehave.
#![allow(dead_code, unreachable_pub, missing_docs)]

use std::collections::BTreeMap;

use holmes_kernel::frame::Frame;
use holmes_kernel::machine::SendTo;
use holmes_kernel::{
    BadParams, Broken, Code, Ctx, Event as _, Id, LogId, Machine, Meta, Opened, Principal, PrincipalKind,
    Rejection, Replica, ServiceId, Sighted, Table, Time, Unknown,
};
use prost::Message;
use serde::{Deserialize, Serialize};

/// Its number.
pub const SERVICE: ServiceId = ServiceId(900);
/// Where orders are sent.
pub const STORE: ServiceId = ServiceId(901);
/// Payments to this account are heard by the tills of other cells, which pay them out.
pub const ABROAD: Id = Id::from_bytes([0xAB; 16]);
/// The most that an account may hold in [`opened`] tills.
pub const LIMIT: u64 = 1_000_000;

/// The machine.
#[derive(Debug)]
pub enum Till {}

/// What can be asked.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub enum Command {
    /// Puts money in. Above the account's limit: refused, remembered.
    Deposit { to: Id, units: u64 },
    /// Moves money. Without funds: refused, remembered; of nothing: not remembered.
    Pay { from: Id, to: Id, units: u64 },
    /// So many events of so many bytes each: also none, and more than an entry may have.
    Note { events: u32, bytes: u32 },
    /// Sends a command to [`STORE`].
    Order { what: Vec<u8> },
    /// An alarm so much later, that rings so many times, one command each.
    SetAlarm { id: Id, after_ms: u64, rings: u32, manner: Manner },
    /// What `due` asks.
    Ring { at: Time, id: Id },
    /// Makes a principal a bulk submitter.
    Register { who: Principal },
    /// What [`Machine::react`] makes of a payment to [`ABROAD`].
    Hear { from: Id, units: u64 },
    /// Misbehaves; `n` makes digests differ.
    Fail { how: Failure, n: u64 },
    /// Is refused with a message of so many bytes, remembered.
    Complain { bytes: u32 },
}

/// How an alarm rings.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Manner {
    /// As it should.
    Well,
    /// Without any event.
    Silently,
    /// Refused.
    Refused,
    /// `decide` panics.
    Panicking,
}

/// How a command misbehaves.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
pub enum Failure {
    /// `decide` panics.
    Decide,
    /// `evolve` panics on its event.
    Evolve,
    /// Its event makes money, which `check_step` finds.
    Step,
    /// `reply` panics.
    Reply,
    /// The refusal cannot be put into words: its `Display` panics.
    Words,
    /// Its event has no variant, as one of a newer build would look.
    Nameless,
}

/// An answer: how many events there were, and the balance after the last one that changed a balance.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Reply {
    pub events: usize,
    pub balance: Option<u64>,
}

/// Why not.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Refused {
    #[error("the account has {has} only")]
    NoFunds { has: u64 },
    #[error("the account may not hold so much")]
    OverLimit,
    #[error("a payment moves at least one unit to another account")]
    NothingToPay,
    #[error("an alarm is set once and rings when it is due")]
    NoAlarm,
    #[error("{}", "x".repeat(*bytes as usize))]
    Complaint { bytes: u32 },
    #[error("{}", speechless())]
    Unspeakable,
}

impl Rejection for Refused {
    fn code(&self) -> Code {
        if *self == Refused::NothingToPay { Code::Invalid } else { Code::Precondition }
    }

    fn reason(&self) -> &'static str {
        match self {
            Refused::NoFunds { .. } => "NO_FUNDS",
            Refused::OverLimit => "OVER_LIMIT",
            Refused::NothingToPay => "NOTHING_TO_PAY",
            Refused::NoAlarm => "NO_ALARM",
            Refused::Complaint { .. } => "COMPLAINT",
            Refused::Unspeakable => "UNSPEAKABLE",
        }
    }

    fn is_remembered(&self) -> bool {
        matches!(self, Refused::NoFunds { .. } | Refused::OverLimit | Refused::Complaint { .. })
    }
}

/// What can happen.
#[derive(Clone, PartialEq, Message)]
pub struct Event {
    #[prost(oneof = "What", tags = "1, 2, 3, 4, 5, 6, 7, 8, 9, 10")]
    pub what: Option<What>,
}

#[derive(Clone, PartialEq, prost::Oneof)]
pub enum What {
    /// Public, as the next.
    #[prost(message, tag = "1")]
    Deposited(Moved),
    #[prost(message, tag = "2")]
    Paid(Moved),
    #[prost(message, tag = "3")]
    Noted(Noted),
    #[prost(message, tag = "4")]
    AlarmSet(Alarm),
    #[prost(message, tag = "5")]
    Rang(Alarm),
    #[prost(message, tag = "6")]
    Registered(Noted),
    /// Carries a send.
    #[prost(message, tag = "7")]
    Ordered(Noted),
    #[prost(message, tag = "8")]
    Heard(Moved),
    /// `evolve` panics on it.
    #[prost(message, tag = "9")]
    Burst(Noted),
    /// Makes money.
    #[prost(message, tag = "10")]
    Leaked(Moved),
}

/// Money that moved, and what `decide` believed of its place in the log: `evolve` compares.
#[derive(Clone, PartialEq, Message)]
pub struct Moved {
    #[prost(bytes = "vec", tag = "1")]
    pub from: Vec<u8>,
    #[prost(bytes = "vec", tag = "2")]
    pub to: Vec<u8>,
    #[prost(uint64, tag = "3")]
    pub units: u64,
    /// Of the one who asked: who pays, or who gets a deposit.
    #[prost(uint64, tag = "4")]
    pub balance: u64,
    #[prost(uint64, tag = "5")]
    pub seq: u64,
    #[prost(uint64, tag = "6")]
    pub at_us: u64,
}

#[derive(Clone, PartialEq, Message)]
pub struct Noted {
    #[prost(bytes = "vec", tag = "1")]
    pub bytes: Vec<u8>,
}

#[derive(Clone, PartialEq, Message)]
pub struct Alarm {
    #[prost(bytes = "vec", tag = "1")]
    pub id: Vec<u8>,
    #[prost(uint64, tag = "2")]
    pub at_us: u64,
    /// How often it will still ring.
    #[prost(uint32, tag = "3")]
    pub rings: u32,
    /// [`Manner`].
    #[prost(uint32, tag = "4")]
    pub manner: u32,
}

impl holmes_kernel::Event for Event {
    const SERVICE: ServiceId = SERVICE;

    fn name(&self) -> Option<&'static str> {
        Some(match self.what.as_ref()? {
            What::Deposited(_) => "Deposited",
            What::Paid(_) => "Paid",
            What::Noted(_) => "Noted",
            What::AlarmSet(_) => "AlarmSet",
            What::Rang(_) => "Rang",
            What::Registered(_) => "Registered",
            What::Ordered(_) => "Ordered",
            What::Heard(_) => "Heard",
            What::Burst(_) => "Burst",
            What::Leaked(_) => "Leaked",
        })
    }

    fn is_public(&self) -> bool {
        matches!(self.what, Some(What::Deposited(_) | What::Paid(_)))
    }

    fn send(&self) -> Option<SendTo<'_>> {
        match &self.what {
            Some(What::Ordered(order)) if !order.bytes.is_empty() => {
                Some(SendTo { to: STORE, command: &order.bytes })
            }
            _ => None,
        }
    }
}

/// All that the till knows.
#[derive(Debug, Serialize, Deserialize)]
pub struct State {
    pub limit: u64,
    pub balances: Table<Id, u64>,
    /// The sum of balances, kept beside them.
    pub held: u128,
    /// All that ever came in.
    pub came_in: u128,
    pub alarms: BTreeMap<(Time, Id), (u32, Manner)>,
    pub submitters: Table<Principal, ()>,
    pub last: (Time, u64),
    /// How often an event was not where or when `decide` believed, or an alarm rang early.
    pub misplaced: u64,
}

impl State {
    /// What an account holds.
    pub fn balance(&self, of: Id) -> u64 {
        self.balances.get(&of).copied().unwrap_or(0)
    }

    fn credit(&mut self, id: &[u8], units: u64) {
        *self.balances.get_or_insert_with(id_of(id), || 0) += units;
        self.held += u128::from(units);
    }

    fn place(&mut self, moved: &Moved, meta: &Meta) {
        self.misplaced += u64::from(moved.seq != meta.seq || moved.at_us != meta.ts.micros());
    }
}

#[derive(Clone, PartialEq, Message)]
struct Params {
    #[prost(uint64, tag = "1")]
    limit_units: u64,
}

impl Machine for Till {
    const NAME: &'static str = "till";
    const STATE: u32 = 1;
    const LISTENS: &'static [ServiceId] = &[SERVICE];
    type State = State;
    type Command = Command;
    type Event = Event;
    type Reply = Reply;
    type Rejection = Refused;

    fn init(opened: &Opened) -> Result<State, BadParams> {
        let params = Params::decode(opened.params.as_slice()).map_err(|why| BadParams(why.to_string()))?;
        if params.limit_units == 0 {
            return Err(BadParams("limit_units is at least 1".into()));
        }
        Ok(State {
            limit: params.limit_units,
            balances: Table::new(),
            held: 0,
            came_in: 0,
            alarms: BTreeMap::new(),
            submitters: Table::new(),
            last: (Time::default(), 0),
            misplaced: 0,
        })
    }

    fn decide(state: &State, command: &Command, ctx: &Ctx, out: &mut Vec<Event>) -> Result<(), Refused> {
        let moved = |from: Id, to: Id, units: u64, balance: u64| Moved {
            from: from.to_bytes().to_vec(),
            to: to.to_bytes().to_vec(),
            units,
            balance,
            seq: ctx.seq,
            at_us: ctx.now.micros(),
        };
        let within = |to: Id, units: u64| {
            let after = state.balance(to).checked_add(units).filter(|sum| *sum <= state.limit);
            after.ok_or(Refused::OverLimit)
        };
        let what = match command {
            Command::Deposit { to, units } => {
                What::Deposited(moved(Id::default(), *to, *units, within(*to, *units)?))
            }
            Command::Hear { from, units } => What::Heard(moved(*from, *from, *units, within(*from, *units)?)),
            Command::Pay { from, to, units } => {
                if *units == 0 || from == to {
                    return Err(Refused::NothingToPay);
                }
                within(*to, *units)?;
                let has = state.balance(*from);
                let left = has.checked_sub(*units).ok_or(Refused::NoFunds { has })?;
                What::Paid(moved(*from, *to, *units, left))
            }
            Command::Note { events, bytes } => {
                let note = Event { what: Some(What::Noted(Noted { bytes: vec![7; *bytes as usize] })) };
                out.extend((0..*events).map(|_| note.clone()));
                return Ok(());
            }
            Command::Order { what } => What::Ordered(Noted { bytes: what.clone() }),
            Command::SetAlarm { id, after_ms, rings, manner } => {
                if state.alarms.keys().any(|(_, taken)| taken == id) {
                    return Err(Refused::NoAlarm);
                }
                let at_us = ctx.now.after_millis(*after_ms).micros();
                let (id, rings) = (id.to_bytes().to_vec(), (*rings).max(1));
                What::AlarmSet(Alarm { id, at_us, rings, manner: *manner as u32 })
            }
            Command::Ring { at, id } => {
                let (rings, manner) = *state.alarms.get(&(*at, *id)).ok_or(Refused::NoAlarm)?;
                match manner {
                    Manner::Well => {}
                    Manner::Silently => return Ok(()),
                    Manner::Refused => return Err(Refused::NothingToPay),
                    Manner::Panicking => panic!("this alarm panics"),
                }
                let id = id.to_bytes().to_vec();
                What::Rang(Alarm { id, at_us: at.micros(), rings: rings - 1, manner: manner as u32 })
            }
            Command::Register { who } => What::Registered(Noted { bytes: who.to_bytes().to_vec() }),
            Command::Complain { bytes } => return Err(Refused::Complaint { bytes: *bytes }),
            Command::Fail { how, n } => match how {
                Failure::Decide => panic!("decide {n} panics"),
                Failure::Evolve => What::Burst(Noted { bytes: n.to_le_bytes().to_vec() }),
                Failure::Step => What::Leaked(moved(Id::default(), Id::default(), 1 + n % 3, 0)),
                Failure::Reply => What::Noted(Noted { bytes: n.to_le_bytes().to_vec() }),
                Failure::Words => return Err(Refused::Unspeakable),
                Failure::Nameless => {
                    out.push(Event::default());
                    return Ok(());
                }
            },
        };
        out.push(Event { what: Some(what) });
        Ok(())
    }

    fn evolve(state: &mut State, event: &Event, meta: &Meta) {
        let in_order = meta.ts >= state.last.0 && meta.seq > state.last.1;
        state.misplaced += u64::from(!in_order);
        state.last = (meta.ts, meta.seq);
        let Some(what) = &event.what else { return };
        match what {
            What::Deposited(moved) | What::Heard(moved) => {
                state.credit(&moved.to, moved.units);
                state.came_in += u128::from(moved.units);
                state.place(moved, meta);
            }
            What::Paid(moved) => {
                *state.balances.get_or_insert_with(id_of(&moved.from), || 0) -= moved.units;
                state.held -= u128::from(moved.units);
                state.credit(&moved.to, moved.units);
                state.place(moved, meta);
            }
            What::Leaked(moved) => state.credit(&moved.to, moved.units),
            What::AlarmSet(alarm) => {
                let key = (Time::from_micros(alarm.at_us), id_of(&alarm.id));
                state.alarms.insert(key, (alarm.rings, manner_of(alarm.manner)));
            }
            What::Rang(alarm) => {
                let key = (Time::from_micros(alarm.at_us), id_of(&alarm.id));
                state.misplaced += u64::from(meta.ts < key.0 || meta.principal != Principal::SYSTEM);
                state.alarms.remove(&key);
                if alarm.rings > 0 {
                    state.alarms.insert(key, (alarm.rings, manner_of(alarm.manner)));
                }
            }
            What::Registered(noted) => {
                if let Some(who) = Principal::from_slice(&noted.bytes) {
                    state.submitters.insert(who, ());
                }
            }
            What::Noted(_) | What::Ordered(_) => {}
            What::Burst(_) => panic!("evolve panics on this"),
        }
    }

    fn reply(command: &Command, events: &[Event]) -> Reply {
        if let Command::Fail { how: Failure::Reply, n } = command {
            panic!("reply {n} panics");
        }
        let balance = events.iter().rev().find_map(|event| match &event.what {
            Some(What::Deposited(moved) | What::Paid(moved) | What::Heard(moved)) => Some(moved.balance),
            _ => None,
        });
        Reply { events: events.len(), balance }
    }

    fn check_step(state: &State, _events: &[Event]) -> Result<(), Broken> {
        if state.held == state.came_in { Ok(()) } else { Err(Broken("money was made".into())) }
    }

    fn check(state: &State) -> Vec<Broken> {
        let sum: u128 = state.balances.values().map(|units| u128::from(*units)).sum();
        let rules = [
            (sum == state.held, "the balances do not sum to what is held"),
            (state.held == state.came_in, "money was made"),
            (state.balances.values().all(|units| *units <= state.limit), "an account is over the limit"),
            (state.misplaced == 0, "an event was not where or when decide believed"),
        ];
        rules.into_iter().filter(|(holds, _)| !holds).map(|(_, what)| Broken(what.into())).collect()
    }

    fn due(state: &State) -> Option<(Time, Command)> {
        state.alarms.keys().next().map(|(at, id)| (*at, Command::Ring { at: *at, id: *id }))
    }

    fn react(sighted: &Sighted<'_>) -> Result<Option<Command>, Unknown> {
        let unknown = |what: &str| Unknown { service: sighted.log.svc, what: what.into() };
        for bytes in &sighted.entry.events {
            let event = Event::decode(bytes.clone()).map_err(|_| unknown("unreadable"))?;
            if event.name().is_none() {
                return Err(unknown("a variant"));
            }
            if let Some(What::Paid(moved)) = event.what
                && id_of(&moved.to) == ABROAD
            {
                return Ok(Some(Command::Hear { from: id_of(&moved.from), units: moved.units }));
            }
        }
        Ok(None)
    }

    fn may_submit(state: &State, principal: &Principal) -> bool {
        state.submitters.contains(principal)
    }
}

/// The opening of a till in a cell, with accounts of up to [`LIMIT`].
pub fn opened(cell: u16) -> Opened {
    let params = Params { limit_units: LIMIT }.encode_to_vec();
    Opened { cell: u32::from(cell), shard: 0, profile_hash: vec![1; 16], params }
}

/// The log of the till in a cell.
pub const fn log(cell: u16) -> LogId {
    LogId::new(cell, SERVICE)
}

/// The first frame of the till's log in a cell.
pub fn provision(cell: u16, now: Time) -> Frame {
    Replica::<Till>::provision(log(cell), now, opened(cell)).expect("these parameters are good")
}

/// An account.
pub const fn account(n: u8) -> Id {
    Id::from_bytes([n; 16])
}

/// Its owner.
pub const fn owner(n: u8) -> Principal {
    Principal::new(PrincipalKind::Account, account(n))
}

fn speechless() -> &'static str {
    panic!("no words for this")
}

fn id_of(bytes: &[u8]) -> Id {
    Id::from_slice(bytes).unwrap_or_default()
}

fn manner_of(number: u32) -> Manner {
    [Manner::Well, Manner::Silently, Manner::Refused, Manner::Panicking]
        .into_iter()
        .find(|manner| *manner as u32 == number)
        .unwrap_or(Manner::Well)
}

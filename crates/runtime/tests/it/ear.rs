//! An ear: hears what tills were paid, and reacts as badly as a machine can. Beside it a press, whose log holds events
//! that the ear does not know.
#![allow(dead_code, unreachable_pub, missing_docs)]

use holmes_kernel::machine::SendTo;
use holmes_kernel::{
    BadParams, Broken, Code, Ctx, Frame, LogId, Machine, Meta, Opened, Rejection, Replica, ServiceId,
    Sighted, Time, Unknown,
};
use prost::Message;
use serde::{Deserialize, Serialize};

use crate::till;

pub const SERVICE: ServiceId = ServiceId(902);
pub const LOG: LogId = LogId::new(1, SERVICE);
pub const PRESS: ServiceId = ServiceId(903);
pub const PRESS_LOG: LogId = LogId::new(1, PRESS);
/// A payment of so much makes the reaction panic.
pub const DEAFENING: u64 = 666;
/// A payment of so much makes the command panic.
pub const PAINFUL: u64 = 777;

#[derive(Debug)]
pub enum Ear {}

#[derive(Clone, Debug, Serialize)]
pub enum Command {
    Hear { units: u64 },
    Sabotage,
}

#[derive(Debug, thiserror::Error)]
#[error("never")]
pub struct Never;

impl Rejection for Never {
    fn code(&self) -> Code {
        Code::Internal
    }

    fn reason(&self) -> &'static str {
        "NEVER"
    }
}

#[derive(Clone, PartialEq, Message)]
pub struct Event {
    #[prost(oneof = "What", tags = "1, 2")]
    pub what: Option<What>,
}

#[derive(Clone, PartialEq, prost::Oneof)]
pub enum What {
    #[prost(uint64, tag = "1")]
    Heard(u64),
    #[prost(bool, tag = "2")]
    Sabotaged(bool),
}

impl holmes_kernel::Event for Event {
    const SERVICE: ServiceId = SERVICE;

    fn name(&self) -> Option<&'static str> {
        self.what.as_ref().map(|_| "Something")
    }

    fn is_public(&self) -> bool {
        false
    }

    fn send(&self) -> Option<SendTo<'_>> {
        None
    }
}

#[derive(Debug, Default, Serialize, Deserialize)]
pub struct State {
    pub heard: Vec<u64>,
    pub sabotaged: bool,
}

impl Machine for Ear {
    const NAME: &'static str = "ear";
    const STATE: u32 = 1;
    const LISTENS: &'static [ServiceId] = &[till::SERVICE, PRESS];
    type State = State;
    type Command = Command;
    type Event = Event;
    type Reply = ();
    type Rejection = Never;

    fn init(_: &Opened) -> Result<State, BadParams> {
        Ok(State::default())
    }

    fn decide(_: &State, command: &Command, _: &Ctx, out: &mut Vec<Event>) -> Result<(), Never> {
        let what = match command {
            Command::Hear { units: PAINFUL } => panic!("this hurts"),
            Command::Hear { units } => What::Heard(*units),
            Command::Sabotage => What::Sabotaged(true),
        };
        out.push(Event { what: Some(what) });
        Ok(())
    }

    fn evolve(state: &mut State, event: &Event, _: &Meta) {
        match event.what {
            Some(What::Heard(units)) => state.heard.push(units),
            Some(What::Sabotaged(on)) => state.sabotaged = on,
            None => {}
        }
    }

    fn reply(_: &Command, _: &[Event]) {}

    fn check_step(_: &State, _: &[Event]) -> Result<(), Broken> {
        Ok(())
    }

    fn check(_: &State) -> Vec<Broken> {
        Vec::new()
    }

    fn due(state: &State) -> Option<(Time, Command)> {
        assert!(!state.sabotaged, "due panics");
        None
    }

    fn react(sighted: &Sighted<'_>) -> Result<Option<Command>, Unknown> {
        let unknown = |what: &str| Unknown { service: sighted.log.svc, what: what.into() };
        for bytes in &sighted.entry.events {
            let event = till::Event::decode(bytes.clone()).map_err(|_| unknown("unreadable"))?;
            match event.what {
                None => return Err(unknown("a variant")),
                Some(till::What::Paid(paid)) => {
                    assert!(paid.units != DEAFENING, "too loud");
                    return Ok(Some(Command::Hear { units: paid.units }));
                }
                Some(_) => {}
            }
        }
        Ok(None)
    }
}

/// The first frame of the ear's log.
pub fn provision(now: Time) -> Frame {
    Replica::<Ear>::provision(LOG, now, opened()).unwrap()
}

pub fn opened() -> Opened {
    Opened { cell: 1, shard: 0, profile_hash: vec![1; 16], params: Vec::new() }
}

/// A till of a newer build: every command leaves a public event that others do not know yet.
#[derive(Debug)]
pub enum Press {}

#[derive(Clone, PartialEq, Message)]
pub struct News {
    #[prost(uint64, tag = "99")]
    pub number: u64,
}

impl holmes_kernel::Event for News {
    const SERVICE: ServiceId = PRESS;

    fn name(&self) -> Option<&'static str> {
        Some("News")
    }

    fn is_public(&self) -> bool {
        true
    }

    fn send(&self) -> Option<SendTo<'_>> {
        None
    }
}

impl Machine for Press {
    const NAME: &'static str = "press";
    const STATE: u32 = 1;
    type State = u64;
    type Command = u64;
    type Event = News;
    type Reply = ();
    type Rejection = Never;

    fn init(_: &Opened) -> Result<u64, BadParams> {
        Ok(0)
    }

    fn decide(_: &u64, number: &u64, _: &Ctx, out: &mut Vec<News>) -> Result<(), Never> {
        out.push(News { number: *number });
        Ok(())
    }

    fn evolve(state: &mut u64, event: &News, _: &Meta) {
        *state += event.number;
    }

    fn reply(_: &u64, _: &[News]) {}

    fn check_step(_: &u64, _: &[News]) -> Result<(), Broken> {
        Ok(())
    }

    fn check(_: &u64) -> Vec<Broken> {
        Vec::new()
    }
}

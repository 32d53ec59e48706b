//! The log of a service that a test plays.

use std::marker::PhantomData;

use holmes_kernel::{BadParams, Broken, Code, Ctx, Event, Machine, Meta, Opened, Rejection};

/// A machine whose log says what a test lets it say: its command is the encoded events of one entry, its state how many
/// there were.
pub struct Script<E>(PhantomData<E>);

/// The refusal of a [`Script`], which refuses nothing.
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

impl<E: Event> Script<E> {
    /// The command that writes these events in one entry.
    pub fn saying(events: impl IntoIterator<Item = E>) -> Vec<Vec<u8>> {
        events.into_iter().map(|event| event.encode_to_vec()).collect()
    }
}

impl<E: Event> Machine for Script<E> {
    const NAME: &'static str = "script";
    const STATE: u32 = 1;

    type State = u64;
    type Command = Vec<Vec<u8>>;
    type Event = E;
    type Reply = ();
    type Rejection = Never;

    fn init(_: &Opened) -> Result<u64, BadParams> {
        Ok(0)
    }

    fn decide(_: &u64, said: &Vec<Vec<u8>>, _: &Ctx, out: &mut Vec<E>) -> Result<(), Never> {
        out.extend(said.iter().map(|bytes| E::decode(bytes.as_slice()).unwrap()));
        Ok(())
    }

    fn evolve(said: &mut u64, _: &E, _: &Meta) {
        *said += 1;
    }

    fn reply(_: &Vec<Vec<u8>>, _: &[E]) {}

    fn check_step(_: &u64, _: &[E]) -> Result<(), Broken> {
        Ok(())
    }

    fn check(_: &u64) -> Vec<Broken> {
        Vec::new()
    }
}

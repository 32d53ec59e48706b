//! Virtual time: machines on one thread, a clock moved by hand, ports passed in. The same shard as in production, so a
//! test, a scenario and the simulator play what would really happen, only sooner.

use std::future::Future;
use std::pin::pin;
use std::sync::Arc;
use std::task::{Context, Poll, Waker};
use std::time::Duration;

use holmes_kernel::ports::Journal;
use holmes_kernel::{Broken, LogId, Machine, Opened, Replica, ServiceId, Time};

use crate::clock::Clock;
use crate::recover::RecoverError;
use holmes_proto::public::PublicFrame;

mod bus;
mod seat;

pub use bus::{Bus, Carry};
pub use seat::Seat;

/// Several machines over one journal, whose futures must be ready at once, on a clock that stands until it is moved.
pub struct Rig<J: Journal> {
    journal: J,
    clock: Clock,
    bus: Box<dyn Bus>,
    seats: Vec<Arc<dyn Play>>,
}

/// How often a machine may go on by itself at one moment before it is taken for one that never rests.
const MOST_TURNS: usize = 100_000;

impl<J: Journal> Rig<J> {
    /// An empty rig at a moment.
    pub fn new(journal: J, start: Time) -> Rig<J> {
        Rig::with_bus(journal, start, bus::AtOnce)
    }

    /// An empty rig whose services hear of each other as a schedule says.
    pub fn with_bus(journal: J, start: Time, bus: impl Bus + 'static) -> Rig<J> {
        Rig { journal, clock: Clock::manual(start), bus: Box::new(bus), seats: Vec::new() }
    }

    /// The moment.
    pub fn now(&self) -> Time {
        self.clock.now()
    }

    /// The rig's clock, for what stands around its machines.
    pub fn clock(&self) -> Clock {
        self.clock.clone()
    }

    /// Opens a machine's log, or takes it up where it is, and gives the machine's door.
    pub fn add<M: Machine>(&mut self, log: LogId, opened: Opened) -> Result<Seat<M, J>, RecoverError> {
        let replay = |why| RecoverError::Replay { service: M::NAME, why };
        if !ready(self.journal.logs())?.contains(&log) {
            let first = Replica::<M>::provision(log, self.now(), opened).map_err(|why| replay(why.into()))?;
            ready(self.journal.provision(&first))?;
        }
        let seat = Seat::new(self.journal.clone(), self.clock.clone(), log)?;
        self.seats.push(Arc::new(seat.clone()));
        Ok(seat)
    }

    /// Lets the clock leap ahead: what was due meanwhile happens late, all at one moment.
    pub fn leap(&mut self, by: Duration) {
        self.clock.advance(by);
        self.advance(Duration::ZERO);
    }

    /// Lets time pass, stopping at every moment at which something is due.
    ///
    /// # Panics
    /// When a machine finds something due at every turn: far more often than once a millisecond.
    pub fn advance(&mut self, by: Duration) {
        let end = self.now().micros().saturating_add(u64::try_from(by.as_micros()).unwrap_or(u64::MAX));
        for _ in 0..by.as_millis() + MOST_TURNS as u128 {
            let next = self.seats.iter().filter_map(|seat| seat.next_due()).min();
            // What is heard at a standing clock moves it by microseconds, past the end perhaps.
            let now = self.now().micros();
            let stop = next.map_or(end, |at| at.micros().min(end)).max(now);
            self.clock.advance(Duration::from_micros(stop - now));
            let mut went_on = false;
            for seat in &self.seats {
                went_on |= seat.tick();
            }
            went_on |= self.settle();
            if stop >= end && !went_on {
                return;
            }
        }
        panic!("the machines of a rig never rest")
    }

    /// Lets every service hear what the others have written, until all is heard; whether anything was.
    pub fn settle(&mut self) -> bool {
        let mut any = false;
        for _ in 0..MOST_TURNS {
            let mut went_on = false;
            for seat in &self.seats {
                went_on |= seat.append_again();
            }
            for reader in &self.seats {
                for source in self.seats.iter().filter(|source| reader.hears(source.as_ref())) {
                    let carry = self.bus.carry(reader.log().svc, source.log().svc);
                    went_on |= carry_over(reader.as_ref(), source.as_ref(), carry);
                }
            }
            if !went_on {
                return any;
            }
            any = true;
        }
        panic!("the services of a rig never stop talking")
    }

    /// Every invariant of every machine that does not hold.
    pub fn check(&self) -> Vec<Broken> {
        self.seats.iter().flat_map(|seat| seat.check()).collect()
    }

    /// Throws every state away and rebuilds it from its log alone; answers the services whose digest is then another.
    pub fn restart(&mut self) -> Result<Vec<&'static str>, RecoverError> {
        self.restart_where(|_| true)
    }

    /// The same of the services whose names are so; the others go on as they are.
    pub fn restart_where(
        &mut self,
        is_one: impl Fn(&str) -> bool,
    ) -> Result<Vec<&'static str>, RecoverError> {
        let mut changed = Vec::new();
        for seat in self.seats.iter().filter(|seat| is_one(seat.name())) {
            if !seat.restart()? {
                changed.push(seat.name());
            }
        }
        Ok(changed)
    }
}

/// Lets a reader hear what of a source comes to it now; whether it stands elsewhere afterwards.
fn carry_over(reader: &dyn Play, source: &dyn Play, carry: Carry) -> bool {
    let before = reader.heard(source.log());
    let (after, most) = match carry {
        Carry::All => (before, usize::MAX),
        Carry::First(most) => (before, most),
        Carry::Again(back) if before < u64::MAX => (before.saturating_sub(back), usize::MAX),
        Carry::Again(_) => return false,
    };
    let mut frames = source.frames(after);
    frames.truncate(most);
    if after < before
        && let Some(first) = frames.first()
    {
        reader.go_back(first);
    }
    reader.hear(&frames);
    // Who went back stands where it was when it is told that this was taken in; it has still to hear the rest.
    after < before || reader.heard(source.log()) > before
}

/// What a rig asks of a machine of any type.
trait Play {
    fn name(&self) -> &'static str;
    fn next_due(&self) -> Option<Time>;
    fn tick(&self) -> bool;
    fn check(&self) -> Vec<Broken>;
    fn restart(&self) -> Result<bool, RecoverError>;
    fn log(&self) -> LogId;
    fn sends_to(&self) -> &'static [ServiceId];
    /// Whether it reads a source: for its events, for what is sent to it, or for the answers to its own sends.
    fn hears(&self, source: &dyn Play) -> bool;
    /// What others may see of the frames behind a place.
    fn frames(&self, after: u64) -> Vec<PublicFrame>;
    /// Up to where a source was read.
    fn heard(&self, source: LogId) -> u64;
    /// Takes a source's next frames in.
    fn hear(&self, frames: &[PublicFrame]);
    /// Reads a source again from before a frame.
    fn go_back(&self, first: &PublicFrame);
    /// Sends the frame again whose outcome is not known; whether it is known now.
    fn append_again(&self) -> bool;
}

/// The result of a future of the ports: on virtual time they answer at once, or after being polled a few times.
fn ready<T>(future: impl Future<Output = T>) -> T {
    let mut future = pin!(future);
    let mut context = Context::from_waker(Waker::noop());
    for _ in 0..MOST_TURNS {
        if let Poll::Ready(value) = future.as_mut().poll(&mut context) {
            return value;
        }
    }
    panic!("a port of a rig must answer without waiting for another thread")
}

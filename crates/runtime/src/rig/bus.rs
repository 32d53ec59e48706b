//! How frames come from a source to its readers: a schedule that is passed in.

use holmes_kernel::ServiceId;

/// What comes to a reader now of what it has not read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Carry {
    /// All of it.
    All,
    /// The first frames; none at all where it is 0.
    First(usize),
    /// All of it, and before it what the reader has read already: so many sequence numbers.
    Again(u64),
}

/// Decides what comes to whom, and when. It is asked whenever a reader could read.
pub trait Bus {
    /// What comes to a reader of a source.
    fn carry(&mut self, reader: ServiceId, source: ServiceId) -> Carry;
}

/// Everything is heard at once.
pub(super) struct AtOnce;

impl Bus for AtOnce {
    fn carry(&mut self, _: ServiceId, _: ServiceId) -> Carry {
        Carry::All
    }
}

//! Guards that the simulator can switch off, one at a time, to show that it would notice if they were missing. Without the
//! feature `weakened` every guard is on, and asking costs nothing: the question is a constant. The binary refuses to be
//! built with the feature.

/// Whether this build can switch guards off.
pub const WEAKENED: bool = cfg!(feature = "weakened");

/// Something that keeps an invariant.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Guard {
    /// What a reader passes is taken only where the inbox stands.
    Inbox,
    /// A frame of a log names the chain of the one before it, when it is replayed.
    Chain,
    /// A request id that was used is known.
    Window,
    /// A request id that is too old to be known any more is refused.
    Age,
    /// What a command's events have done is held to the invariants.
    Step,
    /// Who does not own a log any more cannot append to it.
    Fence,
    /// A bulk submitter's numbers are dense.
    Numbers,
    /// Nothing is answered before it is durable.
    Durable,
    /// A hold ends once.
    Hold,
}

impl Guard {
    /// Every guard, with the word that it is switched off by.
    pub const ALL: [(&'static str, Guard); 9] = [
        ("inbox", Guard::Inbox),
        ("chain", Guard::Chain),
        ("window", Guard::Window),
        ("age", Guard::Age),
        ("step", Guard::Step),
        ("fence", Guard::Fence),
        ("numbers", Guard::Numbers),
        ("durable", Guard::Durable),
        ("hold", Guard::Hold),
    ];
}

#[cfg(not(feature = "weakened"))]
mod switch {
    use super::Guard;

    /// Whether a guard is switched off: never in this build.
    #[inline(always)]
    pub const fn is_off(_: Guard) -> bool {
        false
    }
}

#[cfg(feature = "weakened")]
mod switch {
    use std::cell::Cell;

    use super::Guard;

    std::thread_local! {
        static OFF: Cell<Option<Guard>> = const { Cell::new(None) };
    }

    /// Whether a guard is switched off in this thread.
    pub fn is_off(guard: Guard) -> bool {
        OFF.get() == Some(guard)
    }

    /// Switches one guard of this thread off, or all on again.
    pub fn switch_off(guard: Option<Guard>) {
        OFF.set(guard);
    }
}

pub use switch::*;

//! Guards that the simulator switches off, one at a time, to show that it misses them: docs/explanation/simulation.md says
//! what each keeps. Without the feature `weakened` nothing can, and asking is a constant. The binary does not compile with it.

use std::cell::Cell;

/// Whether this build can switch guards off.
pub const WEAKENED: bool = cfg!(feature = "weakened");

/// What keeps an invariant.
#[allow(missing_docs)] // each stands where it is asked for
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Guard {
    Inbox,
    Chain,
    Window,
    Age,
    Step,
    Fence,
    Numbers,
    Durable,
    Hold,
    Moment,
    Refused,
    Owner,
    End,
    Whole,
    Leased,
    Serves,
    Kappa,
}

std::thread_local!(static OFF: Cell<Option<Guard>> = const { Cell::new(None) });

/// Whether a guard is switched off in this thread.
pub fn is_off(guard: Guard) -> bool {
    WEAKENED && OFF.get() == Some(guard)
}

/// Switches one guard of this thread off, or all on again.
#[cfg(feature = "weakened")]
pub fn switch_off(guard: Option<Guard>) {
    OFF.set(guard);
}

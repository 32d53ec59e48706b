//! Fresh ids, at the edge: a machine never makes one.

use holmes_kernel::Id;

use crate::clock::Clock;

/// A new UUIDv7 of this moment.
///
/// # Panics
/// When the operating system gives no randomness: nothing that needs an id can go on then.
pub fn fresh_id() -> Id {
    let mut random = [0; 10];
    getrandom::fill(&mut random).expect("the operating system gives randomness");
    Id::v7(Clock::System.now().millis(), random)
}

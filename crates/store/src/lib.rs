//! Where facts are kept, and what carries them. The only crate that knows a storage engine or a broker: [`Journal`] and
//! [`Bus`] pick one, `holmes-kernel` says what it must do ([`holmes_kernel::ports`]), and the `conformance` suite checks
//! that it does.

pub mod bus;
#[cfg(feature = "conformance")]
pub mod conformance;
pub mod journal;

pub use bus::Bus;
pub use journal::Journal;

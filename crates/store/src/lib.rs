//! Where facts are kept. The only crate that knows a storage engine: [`Journal`] picks one, `holmes-kernel` says what
//! it must do ([`holmes_kernel::ports::Journal`]), and the `conformance` suite checks that it does.

#[cfg(feature = "conformance")]
pub mod conformance;
pub mod journal;

pub use journal::Journal;

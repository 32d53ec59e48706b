//! Bad days, played from a seed: ledger, treasury, staking, scheduling, market and emission as they are, on virtual time,
//! under everything that can befall them. The same seed is the same day, to the byte.
//!
//! A day ([`deed`]) is a list of deeds: what parties ask, and faults of the [`journal`], of the lines between services
//! ([`bus`]), of processes and of clocks. [`play`] and `suffer` carry them out over a [`world`]; the `rules` hold after
//! each: every machine's own, those between services, those of the logs ([`watch`]), of what clients were told
//! ([`client`]), and those of the economy ([`audit`]). At the end nothing befalls the network any more, and everything owed
//! must be paid, calls at the same price on both sides ([`bills`]). A day that goes wrong is cut down ([`shrink`]) and kept
//! as a [`case`].
//!
//! Only development uses it; nothing that ships may name it.

#![allow(clippy::unwrap_used)] // what fails here fails a test

pub mod audit;
pub mod bills;
pub mod bus;
pub mod case;
pub mod client;
pub mod deed;
pub mod guards;
pub mod journal;
pub mod play;
mod rules;
pub mod run;
pub mod shrink;
mod suffer;
pub mod watch;
pub mod world;

/// What two services must agree on: the very checks that `holmes verify` prints.
#[allow(dead_code)] // `verify` asks one thing more of an answer
#[path = "../../../services/holmes/src/verify/across.rs"]
mod checks;

pub use journal::Journal;
pub use run::{Outcome, run};

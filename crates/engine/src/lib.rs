//! Inference. A model is a *program*: a list of ops as data, built from the model's description; a backend
//! executes it. The engine knows nothing of the cluster.
//!
//! # Rooms
//! [`mod@format`] opens files; [`config`] says what the model is; [`program`] is the model as ops; [`text`] turns text
//! into tokens and back; [`backend`] executes programs; [`sample`] chooses tokens; [`sched`] batches sequences over
//! the paged cache; [`run`] is the front door. [`backend::fake`] computes nothing, for tests of paging and
//! for scenarios. Test only: `reference`, an interpreter of programs in f64, the oracle; `testkit`, random models and files of them.
//!
//! # What always holds
//! * A file can be damaged or hostile: it is refused with a reason, or it is used; it never makes a panic, and
//!   nothing is allocated because a header claims it.
//! * What changes the maths is implemented or refused, never ignored: unknown fields, scalings, pre-tokenisers,
//!   tensors without a place.
//! * On the CPU a row's result depends on its sequence alone, not on the batch, the chunks, the pages, the threads
//!   or the instruction set, bit for bit. So prefix hits and pre-emption change no token, and anyone can repeat an
//!   answer from (weights, tokens, sampling parameters, seed).
//! * Every queue has a limit; what does not fit is refused at once.
//!
//! # What is not here
//! The cluster, HTTP, gRPC; an asynchronous runtime; quantised activations (reading weights is the bound, so they
//! would cost accuracy and win nothing).

pub mod backend;
pub mod config;
pub mod format;
pub mod program;
pub mod run;
pub mod sample;
pub mod sched;
pub mod text;

#[cfg(test)]
mod reference;
#[cfg(test)]
mod testkit;

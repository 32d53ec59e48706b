//! Inference. A model is a *program*: a list of ops as data, built from the model's description; a backend
//! executes it. The engine knows nothing of the cluster.
//!
//! Rooms: [`format`] opens files, [`config`] says what the model is, [`program`] is the model as ops,
//! [`backend`] executes them, [`sample`] chooses tokens, [`sched`] batches sequences, [`text`] turns text into tokens and back,
//! [`run`] is the front door.

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

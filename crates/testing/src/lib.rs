//! What the services' tests share, each said once. Tests alone may name it: `cargo xtask tidy` refuses it in what ships.
//!
//! [`golden`] compares events with the bytes that they were released with. A [`Driver`] is one machine on a clock moved
//! by hand, [`Local`] the same as a [`Handle`], and a [`Script`] the log of a service that a test plays. [`linear`] judges
//! recorded histories. [`now`] and
//! [`ask`] call what never waits, and [`grpc`] what is called over the wire.

#![allow(clippy::unwrap_used)] // helpers of tests fail as tests do

mod driver;
pub mod golden;
pub mod grpc;
pub mod linear;
mod local;
mod script;

use std::pin::pin;
use std::task::{Context, Poll, Waker};

use holmes_kernel::{Call, Handle, Id, Machine, Principal, Refusal};

pub use driver::Driver;
pub use local::Local;
pub use script::{Never, Script};

/// What a future that never waits gives.
pub fn now<T>(future: impl Future<Output = T>) -> T {
    match pin!(future).poll(&mut Context::from_waker(Waker::noop())) {
        Poll::Ready(value) => value,
        Poll::Pending => panic!("on virtual time nothing ever waits"),
    }
}

/// Asks a machine at its door, under a request id, and answers what it answers.
pub fn ask<M: Machine>(
    door: &impl Handle<M>,
    who: Principal,
    id: Id,
    command: M::Command,
) -> Result<M::Reply, Refusal> {
    now(door.submit(Call::request(who, id), command)).map(|answer| answer.value)
}

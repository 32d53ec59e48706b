//! Pure machines and the log they live in. No clock, no I/O, no runtime: everything here is a function of its
//! arguments, so that a state is a function of its log.
//!
//! In reading order: numbers ([`Amount`], [`Ratio`], [`apportion`]), names ([`Id`], [`Principal`], [`LogId`]),
//! moments ([`Time`], [`Calendar`]), containers ([`Table`], [`Window`], [`canon`]), what a service is ([`Machine`]), what is
//! stored ([`Entry`], [`Frame`]), what runs it ([`Shard`]) and where the outside begins ([`ports`], [`Handle`]).
//!
//! A type enters when two services need it and it carries an invariant.

pub mod amount;
pub mod apportion;
pub mod calendar;
pub mod canon;
pub mod entry;
pub mod frame;
pub mod governed;
pub mod handle;
pub mod id;
pub mod machine;
pub mod pairs;
pub mod ports;
pub mod ratio;
pub mod replica;
pub mod shard;
pub mod ways;
pub mod weak;
pub mod wide;
pub mod window;

pub use amount::Amount;
pub use apportion::apportion;
pub use calendar::{Backoff, Calendar};
pub use entry::{Entry, Origin};
pub use frame::{Frame, Tail};
pub use governed::Governed;
pub use handle::{After, Answer, At, Call, Handle, Way};
pub use holmes_table::{Place, Table};
pub use id::{Chain, Id, LogId, Position, Principal, PrincipalKind, ServiceId, Time};
pub use machine::{
    BadParams, Broken, Code, Ctx, Event, Machine, Meta, Opened, Refusal, Rejection, Sighted, Unknown,
};
pub use ratio::Ratio;
pub use replica::{ReplayError, Replica};
pub use shard::{Input, Output, Shard};
pub use window::{Window, WindowLimits};

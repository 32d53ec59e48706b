//! What crosses between services and what is stored: protobuf, generated at build time from `proto/holmes`.
//!
//! Packages are modules: `holmes.ledger.v1` is [`ledger::v1`]. The events of every service implement
//! `kernel::Event`, derived from the options in their `.proto`.

#![allow(missing_docs, unreachable_pub)] // the documentation of generated types stands in the .proto

use holmes_kernel as kernel;
use kernel::ServiceId;
use kernel::machine::SendTo;

mod generated {
    #![allow(clippy::all)]
    include!(concat!(env!("OUT_DIR"), "/packages.rs"));
}

pub mod address;
pub mod blame;
pub mod columns;
pub mod edge;
pub mod heard;
pub mod public;
pub mod signing;
pub mod statements;

pub use generated::holmes::*;

include!(concat!(env!("OUT_DIR"), "/events.rs"));

/// Every `.proto` compiled, for reflection and for tools that read the log.
pub const DESCRIPTORS: &[u8] = include_bytes!(concat!(env!("OUT_DIR"), "/descriptors.bin"));

/// A service's number by its name.
pub fn service(name: &str) -> Option<ServiceId> {
    SERVICES.iter().find(|(_, known)| *known == name).map(|(id, _)| *id)
}

/// A service's name by its number.
pub fn service_name(id: ServiceId) -> Option<&'static str> {
    SERVICES.iter().find(|(known, _)| *known == id).map(|(_, name)| *name)
}

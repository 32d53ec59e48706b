//! The gateway between renters and nodes, over real streams on loopback. Market and scheduling are scripted: what stands
//! here is tested against what their `.proto` say, end-to-end tests run the real ones.

#![allow(clippy::unwrap_used, missing_docs)] // what stands between the tests is a test too

#[path = "it/attach.rs"]
mod attach;
#[path = "it/calls.rs"]
mod calls;
#[path = "it/http.rs"]
mod http_api;
#[path = "it/limits.rs"]
mod limits;
#[path = "it/log.rs"]
mod log;
#[path = "it/node.rs"]
pub mod node;
#[path = "it/paid.rs"]
mod paid;
#[path = "it/services.rs"]
pub mod services;
#[path = "it/world.rs"]
pub mod world;

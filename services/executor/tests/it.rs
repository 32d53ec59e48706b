//! The node agent with a real worker against a gateway that follows a script, over a real connection.

#![allow(clippy::unwrap_used)]

#[path = "it/attach.rs"]
mod attach;
#[path = "it/calls.rs"]
mod calls;
#[path = "it/failures.rs"]
mod failures;
#[path = "it/gateway.rs"]
mod gateway;
#[path = "it/model.rs"]
mod model;
#[path = "it/node.rs"]
mod node;
#[path = "it/pipe.rs"]
mod pipe;
#[path = "it/real.rs"]
mod real;

//! The node agent. It dials out to a gateway with a URL and a key, offers the models that it serves, computes the calls
//! that come over the stream that it opened, and signs what it did. It holds no truth of the network.
//!
//! # Rooms
//! [`agent`] attaches and attaches again; [`attach`] is one attachment; [`lease`] says which calls are allowed; [`call`]
//! carries one through; [`line`] signs; [`receipts`] and [`pinned`] are what outlives the process. [`device`] speaks with
//! the child process that owns the device, [`worker`] is that child: a device that fails takes the child with it, and
//! nothing else. [`pipe`] is what the two write to each other.
//!
//! # What always holds
//! * A call is computed only under a lease that scheduling has signed for this node, this gateway and this attachment,
//!   of a term that is not older than any seen (`holmes.scheduling.v1.Lease`).
//! * Over all calls of a lease no token is sent whose price goes beyond the lease's allowance.
//! * What a line says was read and written is what was sent: as many tokens, and a commitment to their text.
//! * A receipt is on disk before it is sent, and stays there until a gateway says that it is accepted.
//! * Every queue has a limit. A gateway that reads slowly slows the calls down, and in the end it ends them.
//! * The worker's standard output carries messages and nothing else.

mod agent;
mod attach;
mod backoff;
mod call;
pub mod device;
mod lease;
mod line;
mod pinned;
mod pipe;
mod probe;
mod receipts;
mod refusal;
pub mod worker;

pub use agent::{Options, run};
pub use device::WorkerCommand;
pub use probe::speaks_http1;
pub use worker::{WorkerOptions, worker_main};

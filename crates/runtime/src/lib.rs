//! Drives machines. [`driver`] runs one on tokio over a journal, [`rig`] runs many on virtual time; both call the same
//! [`holmes_kernel::Shard::step`]. Around them: recovery, the clock, and what every process of a cell has.

pub mod auth;
pub mod clock;
pub mod config;
pub mod driver;
pub mod feed;
pub mod ids;
pub mod measure;
pub mod peer;
pub mod reach;
mod reader;
pub mod recover;
pub mod relay;
pub mod replay;
pub mod rig;
pub mod server;
pub mod telemetry;
pub mod tls;

pub use clock::Clock;
pub use driver::{MachineHandle, Status};
pub use feed::Feed;
pub use holmes_proto::public::{PublicEntry, PublicFrame};
pub use ids::fresh_id;
pub use peer::Peer;
pub use reach::Reach;
pub use rig::{Rig, Seat};
pub use tls::Tls;

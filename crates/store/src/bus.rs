//! The buses, and the one enum that picks among them.

pub mod memory;
#[cfg(feature = "nats")]
pub mod nats;

use std::time::Duration;

use holmes_kernel::LogId;
use holmes_kernel::ports::{self, BusError, Carried, Message};

/// A bus on whichever broker was configured.
#[derive(Clone, Debug)]
pub enum Bus {
    /// Gone with the process.
    Memory(memory::Bus),
    /// JetStream.
    #[cfg(feature = "nats")]
    Nats(nats::Bus),
}

/// Where one listens to whichever it is.
#[derive(Debug)]
pub enum Ear {
    /// In this process.
    Memory(memory::Ear),
    /// JetStream.
    #[cfg(feature = "nats")]
    Nats(nats::Ear),
}

impl From<memory::Bus> for Bus {
    fn from(bus: memory::Bus) -> Bus {
        Bus::Memory(bus)
    }
}

#[cfg(feature = "nats")]
impl From<nats::Bus> for Bus {
    fn from(bus: nats::Bus) -> Bus {
        Bus::Nats(bus)
    }
}

impl ports::Bus for Bus {
    type Ear = Ear;

    async fn keeps(&self, log: LogId) -> Result<Option<Duration>, BusError> {
        match self {
            Bus::Memory(bus) => bus.keeps(log).await,
            #[cfg(feature = "nats")]
            Bus::Nats(bus) => bus.keeps(log).await,
        }
    }

    async fn last(&self, log: LogId) -> Result<Option<Carried>, BusError> {
        match self {
            Bus::Memory(bus) => bus.last(log).await,
            #[cfg(feature = "nats")]
            Bus::Nats(bus) => bus.last(log).await,
        }
    }

    async fn publish(&self, behind: u64, message: &Message) -> Result<u64, BusError> {
        match self {
            Bus::Memory(bus) => bus.publish(behind, message).await,
            #[cfg(feature = "nats")]
            Bus::Nats(bus) => bus.publish(behind, message).await,
        }
    }

    async fn listen(&self, log: LogId, after: u64) -> Result<Ear, BusError> {
        match self {
            Bus::Memory(bus) => bus.listen(log, after).await.map(Ear::Memory),
            #[cfg(feature = "nats")]
            Bus::Nats(bus) => bus.listen(log, after).await.map(Ear::Nats),
        }
    }
}

impl ports::Ear for Ear {
    async fn next(&mut self) -> Result<Carried, BusError> {
        match self {
            Ear::Memory(ear) => ear.next().await,
            #[cfg(feature = "nats")]
            Ear::Nats(ear) => ear.next().await,
        }
    }
}

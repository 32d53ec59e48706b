//! What one command left in the log. `proto/holmes/log/v1/log.proto` describes the same bytes for other readers, and
//! a test of `holmes-proto` holds the two together.

use prost::bytes::Bytes;

use crate::id::{Id, LogId, Position, Principal, ServiceId};
use crate::machine::{Code, Opened, Refusal};

/// One command's trace: where it came from, who asked, what happened.
#[derive(Clone, PartialEq, prost::Message)]
pub struct Entry {
    /// From which of the ways in the command came: window and inbox are rebuilt from it.
    #[prost(oneof = "Origin", tags = "1, 2, 3, 4, 5")]
    pub origin: Option<Origin>,
    /// [`Principal::to_bytes`].
    #[prost(bytes = "bytes", tag = "6")]
    pub principal: Bytes,
    /// W3C trace context; empty when there is none.
    #[prost(string, tag = "7")]
    pub traceparent: String,
    /// Why nothing happened.
    #[prost(message, optional, tag = "8")]
    pub refused: Option<Refused>,
    /// What happened: the service's `Event` messages, encoded.
    #[prost(bytes = "bytes", repeated, tag = "9")]
    pub events: Vec<Bytes>,
}

/// A way into a machine.
#[derive(Clone, PartialEq, prost::Oneof)]
pub enum Origin {
    /// A caller's request, remembered in the window.
    #[prost(message, tag = "1")]
    Request(RequestOrigin),
    /// Another service's log, remembered in the inbox.
    #[prost(message, tag = "2")]
    Source(SourceOrigin),
    /// A bulk submitter's dense number.
    #[prost(message, tag = "3")]
    Submitter(SubmitterOrigin),
    /// Time alone.
    #[prost(message, tag = "4")]
    Due(DueOrigin),
    /// Provisioning: the first entry of every log.
    #[prost(message, tag = "5")]
    Opened(Opened),
}

/// A caller's request.
#[derive(Clone, PartialEq, prost::Message)]
pub struct RequestOrigin {
    /// UUIDv7, 16 bytes.
    #[prost(bytes = "bytes", tag = "1")]
    pub request_id: Bytes,
    /// BLAKE3-128 of the command's canonical bytes.
    #[prost(bytes = "bytes", tag = "2")]
    pub digest: Bytes,
}

/// A place in another service's log.
#[derive(Clone, PartialEq, prost::Message)]
pub struct SourceOrigin {
    /// The deployment.
    #[prost(uint32, tag = "1")]
    pub cell: u32,
    /// The service.
    #[prost(uint32, tag = "2")]
    pub svc: u32,
    /// Term of the frame that holds `seq`.
    #[prost(uint64, tag = "3")]
    pub term: u64,
    /// The last sequence number that is hereby taken in.
    #[prost(uint64, tag = "4")]
    pub seq: u64,
    /// Chain of the frame that holds `seq`.
    #[prost(bytes = "bytes", tag = "5")]
    pub chain: Bytes,
}

/// A bulk submitter's number; the submitter is the entry's principal.
#[derive(Clone, PartialEq, prost::Message)]
pub struct SubmitterOrigin {
    /// Dense from 1.
    #[prost(uint64, tag = "1")]
    pub number: u64,
    /// BLAKE3-128 of the command's canonical bytes.
    #[prost(bytes = "bytes", tag = "2")]
    pub digest: Bytes,
}

/// Time alone.
#[derive(Clone, PartialEq, prost::Message)]
pub struct DueOrigin {}

/// Why nothing happened.
#[derive(Clone, PartialEq, prost::Message)]
pub struct Refused {
    /// [`Code`] as a number.
    #[prost(int32, tag = "1")]
    pub code: i32,
    /// Stable, `UPPER_SNAKE`.
    #[prost(string, tag = "2")]
    pub reason: String,
    /// For people.
    #[prost(string, tag = "3")]
    pub message: String,
}

impl Entry {
    /// How many sequence numbers the entry takes: at least one.
    pub fn span(&self) -> u64 {
        (self.events.len() as u64).max(1)
    }

    /// Who asked; the log itself where the bytes name nobody.
    pub fn asked_by(&self) -> Principal {
        Principal::from_slice(&self.principal).unwrap_or(Principal::SYSTEM)
    }
}

impl RequestOrigin {
    /// The request's id; `None` when the bytes are not 16.
    pub fn id(&self) -> Option<Id> {
        Id::from_slice(&self.request_id)
    }
}

impl SourceOrigin {
    /// Of a place in a log.
    pub fn new(log: LogId, at: Position) -> SourceOrigin {
        SourceOrigin {
            cell: u32::from(log.cell),
            svc: u32::from(log.svc.0),
            term: at.term,
            seq: at.seq,
            chain: Bytes::copy_from_slice(&at.chain),
        }
    }

    /// The log and the place; `None` when the numbers cannot be those of a log.
    pub fn place(&self) -> Option<(LogId, Position)> {
        let cell = u16::try_from(self.cell).ok()?;
        let svc = ServiceId(u16::try_from(self.svc).ok()?);
        let chain = self.chain.as_ref().try_into().ok()?;
        Some((LogId::new(cell, svc), Position { term: self.term, seq: self.seq, chain }))
    }
}

impl From<&Refusal> for Refused {
    fn from(refusal: &Refusal) -> Refused {
        Refused {
            code: refusal.code as i32,
            reason: refusal.reason.clone().into_owned(),
            message: refusal.message.clone(),
        }
    }
}

impl From<&Refused> for Refusal {
    fn from(refused: &Refused) -> Refusal {
        Refusal {
            code: Code::from_number(refused.code),
            reason: refused.reason.clone().into(),
            message: refused.message.clone(),
            retry_after_ms: None,
        }
    }
}

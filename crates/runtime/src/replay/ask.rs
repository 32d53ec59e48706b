//! What a caller asks of a log: where to begin, and which events.

use std::collections::BTreeSet;
use std::sync::LazyLock;

use holmes_kernel::Time;
use holmes_proto::edge;
use holmes_proto::log::v1::{read_events_request, subscribe_request};
use prost::Message as _;
use prost_types::FileDescriptorSet;
use tonic::Status;

use super::{Reader, Sees, unreadable};
use crate::feed::Feed;

/// Where to begin.
pub(super) enum From {
    Seq(u64),
    Moment(Time),
    Token(String),
}

impl std::convert::From<read_events_request::From> for From {
    fn from(from: read_events_request::From) -> From {
        match from {
            read_events_request::From::After(seq) => From::Seq(seq),
            read_events_request::From::AfterTsUs(us) => From::Moment(Time::from_micros(us)),
            read_events_request::From::ResumeToken(token) => From::Token(token),
        }
    }
}

impl std::convert::From<subscribe_request::From> for From {
    fn from(from: subscribe_request::From) -> From {
        match from {
            subscribe_request::From::After(seq) => From::Seq(seq),
            subscribe_request::From::AfterTsUs(us) => From::Moment(Time::from_micros(us)),
            subscribe_request::From::ResumeToken(token) => From::Token(token),
        }
    }
}

pub(super) struct Ask {
    pub(super) from: Option<From>,
    pub(super) types: Vec<String>,
}

impl Ask {
    /// Who reads it, once it is found to make sense.
    pub(super) async fn reader(self, feed: &Feed, sees: Sees) -> Result<Reader, Status> {
        let types: BTreeSet<String> = self.types.into_iter().collect();
        let known = types_of(feed.name());
        if types.iter().any(|name| !known.contains(name)) {
            return Err(edge::invalid("types", "names of the service's events, as in TransfersRecorded"));
        }
        let seq = match self.from {
            None => 0,
            Some(From::Seq(seq)) => seq,
            Some(From::Moment(moment)) => feed.at(moment).await.map_err(unreadable)?,
            Some(From::Token(token)) => read_token(feed, &token)?,
        };
        Ok(Reader { feed: feed.clone(), seq, types, sees })
    }
}

fn read_token(feed: &Feed, token: &str) -> Result<u64, Status> {
    let seq =
        token.split_once('@').filter(|(name, _)| *name == feed.name()).and_then(|(_, seq)| seq.parse().ok());
    seq.ok_or_else(|| edge::invalid("resume_token", "what an earlier answer about the same service gave"))
}

/// The names of a service's events.
fn types_of(service: &str) -> BTreeSet<String> {
    static FILES: LazyLock<FileDescriptorSet> =
        LazyLock::new(|| FileDescriptorSet::decode(holmes_proto::DESCRIPTORS).unwrap_or_default());
    let package = format!("holmes.{service}.v1");
    let files = FILES.file.iter().filter(|file| file.package() == package);
    let event = files.flat_map(|file| &file.message_type).find(|message| message.name() == "Event");
    let fields = event.into_iter().flat_map(|event| &event.field);
    fields.filter_map(|field| Some(field.type_name().rsplit_once('.')?.1.to_owned())).collect()
}

//! Receipts: lines of scheduling's log, looked up by their place and shown to those whom they concern.

use std::pin::Pin;

use holmes_kernel::{Code, Id, Principal, PrincipalKind, Refusal, Time};
use holmes_proto::inference::v1::{GetReceiptResponse, Usage};
use holmes_proto::scheduling::v1::{CallsMetered, Event, event};
use holmes_proto::statements::{LEASE_BYTES, call_line, lease_text, receipt_name};
use holmes_runtime::auth::Network;
use holmes_runtime::{Feed, PublicFrame};
use prost::Message as _;

use crate::Edge;
use crate::ask::wrong;
use crate::price::pico;

/// There is no such receipt, or it does not concern who asks.
const NOT_FOUND: &str = "RECEIPT_NOT_FOUND";

/// What of a log is read to look up one receipt.
type Reading = Pin<Box<dyn Future<Output = Result<Vec<PublicFrame>, Refusal>> + Send>>;

/// Scheduling's log, read from a place.
pub trait Log: Send + Sync + 'static {
    /// The durable frames behind a sequence number: at least the next one, where there is one.
    fn frames(&self, after: u64) -> Reading;
}

impl Log for Feed {
    fn frames(&self, after: u64) -> Reading {
        let feed = self.clone();
        Box::pin(async move {
            feed.frames(after, 1).await.map_err(|why| {
                tracing::warn!(%why, "a receipt could not be looked up");
                Refusal::new(Code::Unavailable, "LOG_UNREADABLE", "the log cannot be read now: try again")
            })
        })
    }
}

/// The place that a receipt's name says.
fn place(name: &str) -> Result<(u64, u32), Refusal> {
    let parsed = || {
        let (seq, line) = name.strip_prefix("receipts/")?.split_once('.')?;
        let (seq, line): (u64, u32) = (seq.parse().ok()?, line.parse().ok()?);
        (seq > 0 && receipt_name(seq, line) == name).then_some((seq, line))
    };
    parsed().ok_or_else(|| wrong("name", "receipts/<seq>.<line>, as an answer has named it"))
}

/// A receipt, for whom it concerns: its renter, its node and that node's owner, and those who run the network.
pub(crate) async fn get(
    log: &dyn Log,
    network: &Network,
    who: Principal,
    name: &str,
) -> Result<GetReceiptResponse, Refusal> {
    let (seq, line) = place(name)?;
    let missing = || {
        let message =
            format!("there is no receipt {name:?} of yours: see the name that the call's end has given");
        Refusal::new(Code::NotFound, NOT_FOUND, message)
    };
    let (metered, recorded_at) = read(log, seq).await?.ok_or_else(missing)?;
    if !concerns(&metered, who) {
        return Err(missing());
    }
    let found = metered.lines.get(line as usize).ok_or_else(missing)?;
    let unreadable = || Refusal::new(Code::DataLoss, "RECEIPT_UNREADABLE", "the receipt cannot be read");
    let id = |bytes: &[u8]| Id::from_slice(bytes).ok_or_else(unreadable);
    let lease = metered.lease.as_ref().try_into().map_err(|_| unreadable())?;
    let price = pico(found.input_tokens, metered.input_pico_usd)
        .saturating_add(pico(found.output_tokens, metered.output_pico_usd));
    let narrow = |count: u64| u32::try_from(count).unwrap_or(u32::MAX);
    Ok(GetReceiptResponse {
        name: name.to_owned(),
        call_id: id(&found.call)?.to_string(),
        lease_id: lease_text(&lease),
        session_id: id(&metered.session)?.to_string(),
        node_id: id(&metered.node)?.to_string(),
        model: metered.model.clone(),
        usage: Some(Usage {
            input_tokens: narrow(found.input_tokens),
            output_tokens: narrow(found.output_tokens),
            cached_tokens: 0,
        }),
        finish: found.finish().as_str_name().trim_start_matches("FINISH_").to_owned(),
        price_pico_usd: price,
        prompt_commitment: found.prompt_commitment.clone(),
        output_commitment: found.output_commitment.clone(),
        node_signature: found.node_signature.clone(),
        gateway_signature: found.gateway_signature.clone(),
        signed: call_line(&network.genesis, network.cell, &lease, found).into(),
        recorded_at_us: recorded_at.micros(),
        call_receipts: Vec::new(),
    })
}

/// Whether a receipt is that of a call under a lease at a node.
pub(crate) async fn is_of(
    log: &dyn Log,
    name: &str,
    (call, lease, node): (Id, [u8; LEASE_BYTES], Id),
) -> Result<bool, Refusal> {
    let (seq, line) = place(name)?;
    let Some((metered, _)) = read(log, seq).await? else { return Ok(false) };
    let is = |bytes: &[u8], id: Id| Id::from_slice(bytes) == Some(id);
    let line = metered.lines.get(line as usize);
    Ok(metered.lease.as_ref() == lease
        && is(&metered.node, node)
        && line.is_some_and(|line| is(&line.call, call)))
}

/// The last receipt of a call that its renter names by its request id.
pub(crate) async fn of_call(edge: &Edge, who: Principal, text: &str) -> Result<GetReceiptResponse, Refusal> {
    let call: Id = text.parse().map_err(|_| wrong("call_id", "the request id of a call: a UUID"))?;
    // Whose the call is only its receipt says: nobody else is told more than that there is none of his.
    let missing = || {
        let message = format!(
            "there is no receipt of yours for the call {call}: it has one when it has ended, and is found by its request id for \
             an hour; what a gateway that crashed had recorded is metered when its session ends"
        );
        Refusal::new(Code::NotFound, NOT_FOUND, message)
    };
    let name =
        edge.upstream.find_call(call, None).await?.filter(|name| !name.is_empty()).ok_or_else(missing)?;
    let found = get(edge.receipts.as_ref(), &edge.network, who, &name).await;
    let mut receipt =
        found.map_err(|refused| if refused.reason == NOT_FOUND { missing() } else { refused })?;
    receipt.call_receipts = edge.reports.receipts(call);
    receipt.call_receipts.retain(|other| *other != name);
    receipt.call_receipts.push(name);
    Ok(receipt)
}

/// The calls that a place of the log has metered, and when.
async fn read(log: &dyn Log, seq: u64) -> Result<Option<(CallsMetered, Time)>, Refusal> {
    let frames = log.frames(seq - 1).await?;
    let frame = frames.iter().find(|frame| frame.first <= seq && seq <= frame.last);
    Ok(frame.and_then(|frame| Some((metered(frame, seq)?, frame.ts))))
}

/// The calls of a place. A report is an entry whose first event they are, whatever of it is private behind them; where
/// time has metered calls of several leases, every event of the entry is public.
fn metered(frame: &PublicFrame, seq: u64) -> Option<CallsMetered> {
    let entry = frame.entries.iter().find(|entry| entry.first <= seq && seq <= entry.last)?;
    let (events, at) = (&entry.entry.events, usize::try_from(seq - entry.first).ok()?);
    let all_public = events.len() as u64 == entry.last - entry.first + 1;
    let bytes = events.get(at).filter(|_| all_public || at == 0)?;
    match Event::decode(bytes.clone()).ok()?.event {
        Some(event::Event::CallsMetered(metered)) => Some(metered),
        _ => None,
    }
}

fn concerns(metered: &CallsMetered, who: Principal) -> bool {
    match who.kind {
        PrincipalKind::Staff | PrincipalKind::Service => true,
        PrincipalKind::Node => metered.node == who.id.to_bytes().as_slice(),
        _ => [&metered.renter, &metered.owner].contains(&&prost::bytes::Bytes::from(who.to_bytes().to_vec())),
    }
}

#[cfg(test)]
mod tests {
    use holmes_kernel::LogId;
    use holmes_kernel::entry::Entry;
    use holmes_proto::scheduling::v1::{self as scheduling, CallLine};
    use holmes_runtime::PublicEntry;

    use super::*;

    struct One(PublicFrame);

    impl Log for One {
        fn frames(&self, after: u64) -> Reading {
            let frames = if self.0.last > after { vec![self.0.clone()] } else { Vec::new() };
            Box::pin(std::future::ready(Ok(frames)))
        }
    }

    fn account(number: u8) -> Principal {
        Principal::new(PrincipalKind::Account, Id::from_bytes([number; 16]))
    }

    fn log() -> One {
        One(frame(vec![calls(10)], 42))
    }

    fn calls(input_tokens: u64) -> Event {
        let line = CallLine {
            call: vec![1; 16].into(),
            input_tokens,
            output_tokens: 4,
            finish: 2,
            ..CallLine::default()
        };
        let metered = CallsMetered {
            lease: vec![2; 20].into(),
            session: vec![3; 16].into(),
            renter: account(4).to_bytes().to_vec().into(),
            node: vec![5; 16].into(),
            owner: account(6).to_bytes().to_vec().into(),
            input_pico_usd: 7,
            output_pico_usd: 100,
            lines: vec![line],
            ..CallsMetered::default()
        };
        Event { event: Some(event::Event::CallsMetered(metered)) }
    }

    /// A frame with one entry from 42 on, of which these events are public.
    fn frame(events: Vec<Event>, last: u64) -> PublicFrame {
        let events = events.iter().map(|event| event.encode_to_vec().into()).collect();
        let entry = Entry { events, ..Entry::default() };
        PublicFrame {
            log: LogId::default(),
            term: 1,
            first: 40,
            last: 44,
            ts: Time::from_micros(99),
            prev_chain: [0; 32],
            chain: [0; 32],
            entries: vec![PublicEntry { first: 42, last, send: None, entry, offsets: Vec::new() }],
        }
    }

    #[tokio::test]
    async fn of_an_entry_with_calls_of_several_leases_a_receipt_names_its_own() {
        let drained = scheduling::SessionDrained::default();
        let drained = Event { event: Some(event::Event::SessionDrained(drained)) };
        let log = One(frame(vec![calls(10), calls(20), drained], 44));
        let network = Network { genesis: [0; 16], cell: 1 };
        let read = async |name| {
            let found = get(&log, &network, account(4), name).await;
            found.map(|receipt| receipt.usage.unwrap().input_tokens).map_err(|why| why.reason)
        };
        assert_eq!((read("receipts/42.0").await, read("receipts/43.0").await), (Ok(10), Ok(20)));
        assert_eq!(read("receipts/44.0").await.unwrap_err(), "RECEIPT_NOT_FOUND");
        let report = One(frame(vec![calls(10)], 43)); // what was answered beside it is private
        assert!(get(&report, &network, account(4), "receipts/42.0").await.is_ok());
        assert!(get(&report, &network, account(4), "receipts/43.0").await.is_err());
    }

    async fn asked(who: Principal, name: &str) -> Result<GetReceiptResponse, Refusal> {
        get(&log(), &Network { genesis: [0; 16], cell: 1 }, who, name).await
    }

    #[tokio::test]
    async fn a_receipt_is_found_by_its_place_and_says_its_price() {
        let receipt = asked(account(4), "receipts/42.0").await.unwrap();
        assert_eq!((receipt.price_pico_usd, receipt.finish.as_str()), (10 * 7 + 4 * 100, "LENGTH"));
        assert_eq!(receipt.recorded_at_us, 99);
    }

    #[tokio::test]
    async fn a_receipt_is_shown_only_to_those_whom_it_concerns() {
        let node = Principal::new(PrincipalKind::Node, Id::from_bytes([5; 16]));
        for who in [account(4), account(6), node, Principal::new(PrincipalKind::Staff, Id::default())] {
            assert!(asked(who, "receipts/42.0").await.is_ok(), "{who}");
        }
        let others = [account(5), Principal::new(PrincipalKind::Node, Id::default()), Principal::SYSTEM];
        for who in others {
            assert_eq!(asked(who, "receipts/42.0").await.unwrap_err().reason, "RECEIPT_NOT_FOUND", "{who}");
        }
    }

    #[tokio::test]
    async fn a_name_that_is_no_place_or_an_empty_one_is_refused() {
        for name in
            ["", "receipts/", "receipts/0.0", "receipts/42", "receipts/042.0", "42.0", "receipts/+42.0"]
        {
            assert_eq!(asked(account(4), name).await.unwrap_err().reason, "FIELD_INVALID", "{name}");
        }
        for name in ["receipts/42.1", "receipts/41.0", "receipts/99.0"] {
            assert_eq!(asked(account(4), name).await.unwrap_err().reason, "RECEIPT_NOT_FOUND", "{name}");
        }
    }
}

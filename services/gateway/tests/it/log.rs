//! The log of scripted scheduling: what it has metered, as a gateway reads it.

use std::pin::Pin;

use holmes_gateway::Log;
use holmes_kernel::entry::Entry;
use holmes_kernel::{LogId, Refusal, Time};
use holmes_proto::scheduling::v1 as scheduling;
use holmes_runtime::{PublicEntry, PublicFrame};
use prost::Message as _;

use super::services::{INPUT_PICO, OUTPUT_PICO, Services};
use super::world::renter;

/// The lines of a lease as the log has them.
pub(crate) fn metered(
    lease: &scheduling::Lease,
    lines: Vec<scheduling::CallLine>,
) -> scheduling::CallsMetered {
    let renter = renter(lease.session[15]);
    scheduling::CallsMetered {
        lease: lease.lease.clone(),
        session: lease.session.clone(),
        renter: renter.to_bytes().to_vec().into(),
        node: lease.node.clone(),
        model: lease.model.clone(),
        input_pico_usd: INPUT_PICO,
        output_pico_usd: OUTPUT_PICO,
        lines,
        ..Default::default()
    }
}

impl Log for Services {
    fn frames(&self, after: u64) -> Pin<Box<dyn Future<Output = Result<Vec<PublicFrame>, Refusal>> + Send>> {
        let next =
            self.kept(|kept| kept.metered.range(after + 1..).next().map(|(seq, said)| (*seq, said.clone())));
        let frame = next.map(|(seq, metered)| {
            let event = scheduling::Event { event: Some(scheduling::event::Event::CallsMetered(metered)) };
            let entry = Entry { events: vec![event.encode_to_vec().into()], ..Entry::default() };
            PublicFrame {
                log: LogId::default(),
                term: 1,
                first: seq,
                last: seq,
                ts: Time::from_micros(99),
                prev_chain: [0; 32],
                chain: [0; 32],
                entries: vec![PublicEntry { first: seq, last: seq, send: None, entry, offsets: Vec::new() }],
            }
        });
        Box::pin(std::future::ready(Ok(frame.into_iter().collect())))
    }
}

//! What a call's nodes have signed for: reported line by line, and told to the renter however the call ends.

use std::sync::Arc;

use holmes_kernel::Refusal;
use holmes_proto::inference::v1::{Ended, FinishReason, Usage};
use holmes_proto::scheduling::v1::CallLine;
use tokio::sync::oneshot;

use crate::Edge;
use crate::ask::Ask;
use crate::leases::Lease;
use crate::price::{self, Bound};
use crate::reports::Receipt;
use crate::settings::ms;
use crate::signed::countersigned;

/// Why a call has no whole answer, and what it costs all the same.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Broken {
    pub(crate) refusal: Refusal,
    pub(crate) billed: Option<Box<Billed>>,
}

/// What was metered of a call that ended badly.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Billed {
    pub(crate) receipts: Vec<String>,
    /// With fees; `None` when the market could not say it.
    pub(crate) price_micro_usd: Option<u64>,
}

impl From<Refusal> for Broken {
    fn from(refusal: Refusal) -> Broken {
        Broken { refusal, billed: None }
    }
}

/// What a call's nodes have signed for.
#[derive(Default)]
pub(super) struct Bill {
    pub(super) usage: Usage,
    lines: Vec<(CallLine, oneshot::Receiver<Receipt>)>,
}

impl Bill {
    /// What the bound of a call leaves for its next node.
    pub(super) fn leaves(&self, bound: Bound) -> Bound {
        Bound { input: bound.input.saturating_sub(self.usage.input_tokens.into()), ..bound }
    }

    /// Whether the next node, which reads the same prompt again, still fits into what the renter was told that the call
    /// costs at most. The lost one, whose line this is, is paid in any case.
    pub(super) fn has_room_for_another(&self, line: Option<&CallLine>, bound: Bound) -> bool {
        line.is_none_or(|line| line.input_tokens <= self.leaves(bound).input)
    }

    /// Countersigns a line and reports it.
    pub(super) fn add(&mut self, edge: &Arc<Edge>, ask: &Ask, lease: &Lease, line: Option<&CallLine>) {
        let Some(line) = line else { return };
        let narrow = |count: u64| u32::try_from(count).unwrap_or(u32::MAX);
        self.usage.input_tokens = self.usage.input_tokens.saturating_add(narrow(line.input_tokens));
        self.usage.output_tokens = self.usage.output_tokens.saturating_add(narrow(line.output_tokens));
        let line = countersigned(line.clone(), &edge.network, &lease.id, &edge.key);
        edge.running.came_to(lease.id, None);
        let receipt = edge.reports.report(lease.id, lease.node, ask.call, line.clone());
        self.lines.push((line, receipt));
    }

    /// Waits until every line is durable, and says what they cost together.
    pub(super) async fn ended(
        self,
        edge: &Edge,
        ask: &Ask,
        reason: FinishReason,
        secret: [u8; 32],
    ) -> Result<Ended, Broken> {
        let usage = self.usage;
        let (receipts, price) = self.posted(edge, ask).await;
        match price {
            Ok(price_micro_usd) => Ok(Ended {
                reason: reason.into(),
                usage: Some(usage),
                price_micro_usd,
                receipts,
                commitment_key: secret.to_vec().into(),
            }),
            Err(refusal) => {
                Err(Broken { refusal, billed: Some(Box::new(Billed { receipts, price_micro_usd: None })) })
            }
        }
    }

    /// A call that has ended badly, with what was metered of it: so long as scheduling usually needs the renter waits for
    /// that, else he finds it by his request id.
    pub(super) async fn broken(self, edge: &Edge, ask: &Ask, refusal: Refusal) -> Broken {
        let posted = tokio::time::timeout(ms(edge.settings.upstream_ms), self.posted(edge, ask));
        let billed = match posted.await {
            Ok((receipts, price)) if !receipts.is_empty() => {
                Some(Box::new(Billed { receipts, price_micro_usd: price.ok() }))
            }
            _ => None,
        };
        Broken { refusal, billed }
    }

    /// The lines that are durable, and their price together, with fees: what is not in the log is not paid.
    async fn posted(self, edge: &Edge, ask: &Ask) -> (Vec<String>, Result<u64, Refusal>) {
        let (mut receipts, mut input, mut output) = (Vec::new(), 0, 0);
        for (line, receipt) in self.lines {
            if let Ok(Ok(name)) = receipt.await {
                receipts.push(name);
                input += line.input_tokens;
                output += line.output_tokens;
            }
        }
        if receipts.is_empty() {
            return (receipts, Ok(0));
        }
        let price = price::of_tokens(&edge.upstream, &ask.model, ask.asset, input, output).await;
        (receipts, price.map(|price| price.total_micro_usd))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_call_goes_on_only_where_the_next_node_fits_into_the_price_that_was_said() {
        let bound = Bound { input: 100, output: 9, context: 0 };
        let mut bill = Bill::default();
        // What the lost node is paid stands on the bill already.
        let mut lost = |input_tokens: u32| {
            bill.usage.input_tokens += input_tokens;
            let line = CallLine { input_tokens: input_tokens.into(), ..CallLine::default() };
            bill.has_room_for_another(Some(&line), bound)
        };
        assert!(lost(40));
        assert!(!lost(40), "20 are left");
        assert!(bill.has_room_for_another(None, bound), "a node that was paid nothing has cost nothing");
    }
}

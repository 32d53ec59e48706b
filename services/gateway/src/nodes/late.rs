//! Receipts of calls that are not in progress here: a node sends each of them until it hears what became of it. A gateway
//! that has restarted since remembers none of them; then scheduling says whether they were recorded.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use holmes_kernel::{Id, Refusal};
use holmes_proto::statements::LEASE_BYTES;
use tokio::sync::mpsc;

use super::Node;
use crate::reports::Settled;
use crate::{Edge, receipts};

/// Receipts of one node that may wait until scheduling was asked; what is beyond them it sends again when it attaches
/// again.
const MOST_ASKED: usize = 4_096;

type LeaseId = [u8; LEASE_BYTES];

/// Answers the late receipts of one attachment; those that nobody here remembers one after the other.
#[derive(Debug)]
pub(super) struct Late {
    unknown: mpsc::Sender<(Id, LeaseId)>,
    /// How many of them are not answered yet.
    waiting: Arc<AtomicUsize>,
}

impl Late {
    pub(super) fn of(edge: &Arc<Edge>, node: &Arc<Node>) -> Late {
        let (unknown, mut asked) = mpsc::channel(MOST_ASKED);
        let waiting = Arc::new(AtomicUsize::new(0));
        let (edge, node, left) = (edge.clone(), node.clone(), waiting.clone());
        tokio::spawn(async move {
            let mut gone = node.gone.subscribe();
            let answer = async {
                while let Some((call, lease)) = asked.recv().await {
                    ask(&edge, &node, call, lease).await;
                    left.fetch_sub(1, Ordering::Relaxed);
                }
            };
            tokio::select! { // a node that is gone asks again when it is back
                () = answer => {}
                _ = gone.wait_for(Option::is_some) => {}
            }
        });
        Late { unknown, waiting }
    }

    /// Whether the node waits for an answer.
    pub(super) fn owes(&self) -> bool {
        self.waiting.load(Ordering::Relaxed) > 0
    }

    /// Answers a receipt, now or when scheduling has said what it knows.
    pub(super) fn answer(&self, edge: &Arc<Edge>, node: &Node, call: Id, lease: &[u8]) {
        let Ok(lease) = lease.try_into() else { return node.accepted(call, NOT_DELIVERED_HERE) };
        if remembered(edge, node, call, lease) {
            return;
        }
        self.waiting.fetch_add(1, Ordering::Relaxed);
        if self.unknown.try_send((call, lease)).is_err() {
            self.waiting.fetch_sub(1, Ordering::Relaxed); // beyond the most: it comes again
        }
    }
}

/// Nobody can say what was delivered of the call.
const NOT_DELIVERED_HERE: &str = "NOT_DELIVERED_HERE";

/// Answers by what this gateway has reported itself; `false` when it has not.
fn remembered(edge: &Arc<Edge>, node: &Node, call: Id, lease: LeaseId) -> bool {
    match edge.reports.settled(call, &lease) {
        Some(Settled::Pending) => {} // it is told when the report is durable
        Some(Settled::Unanswered(line)) => {
            drop(edge.reports.report(lease, node.id, call, *line)); // the call has ended without it
        }
        Some(Settled::Durable(_)) => node.accepted(call, ""),
        Some(Settled::Refused(reason)) => node.accepted(call, &reason),
        None => return false,
    }
    true
}

async fn ask(edge: &Arc<Edge>, node: &Node, call: Id, lease: LeaseId) {
    match recorded(edge, node.id, call, lease).await {
        Ok(true) => node.accepted(call, ""),
        // It may have been reported while scheduling was asked.
        Ok(false) if remembered(edge, node, call, lease) => {}
        Ok(false) => node.accepted(call, NOT_DELIVERED_HERE),
        Err(why) => {
            tracing::warn!(node = %node.id, %call, %why, "a receipt waits: nobody could say whether it was recorded");
        }
    }
}

/// Whether a line of the call under the lease counts: one of the log, or a checkpoint that waits to be one. It may be
/// shorter than what the node has signed last: that one counts all the same.
async fn recorded(edge: &Edge, node: Id, call: Id, lease: LeaseId) -> Result<bool, Refusal> {
    match edge.upstream.find_call(call, Some(&lease)).await? {
        None => Ok(false),
        Some(receipt) if receipt.is_empty() => Ok(true),
        Some(receipt) => receipts::is_of(edge.receipts.as_ref(), &receipt, (call, lease, node)).await,
    }
}

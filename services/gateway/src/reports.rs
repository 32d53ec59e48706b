//! Calls that are finished, on their way into scheduling's log: one report of a lease is under way at a time, and what
//! is finished meanwhile goes into the next (E-9.2).

use std::collections::{BTreeMap, VecDeque};
use std::sync::{Arc, Mutex};

use holmes_kernel::{Code, Id, Refusal};
use holmes_proto::scheduling::v1::{CallLine, ReportCallsRequest, ReportCallsResponse};
use holmes_proto::statements::{LEASE_BYTES, lease_text};
use metrics::Counter;
use tokio::sync::oneshot;

use crate::guarded;
use crate::metrics::REPORTS_REFUSED;
use crate::nodes::Nodes;
use crate::settings::{Settings, ms};
use crate::upstream::{Upstream, request_id};

/// Lines of one report.
const MOST_LINES: usize = 256;

/// What became of a call's line.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Settled {
    /// It is on its way.
    Pending,
    /// Nobody has said what became of it for too long: it is reported again when its node asks.
    Unanswered(Box<CallLine>),
    /// It is in the log: its receipt's name.
    Durable(String),
    /// It never will be.
    Refused(String),
}

/// The name of a line's receipt once it is durable.
pub(crate) type Receipt = Result<String, Refusal>;

type LeaseId = [u8; LEASE_BYTES];

/// What is reported, and what became of it.
pub(crate) struct Reports {
    upstream: Upstream,
    settings: Settings,
    nodes: Arc<Nodes>,
    /// Of each lease with a report under way, what waits for the next.
    waiting: Mutex<BTreeMap<LeaseId, Vec<Waiting>>>,
    known: Mutex<Known>,
    /// Lines on their way, by the node that is to be told what becomes of them.
    owed: Mutex<BTreeMap<Id, usize>>,
    refused: Counter,
}

struct Waiting {
    node: Id,
    call: Id,
    line: CallLine,
    told: oneshot::Sender<Receipt>,
}

/// The last calls, the oldest first.
#[derive(Default)]
struct Known {
    lines: BTreeMap<(Id, LeaseId), Settled>,
    order: VecDeque<(Id, LeaseId)>,
}

impl Reports {
    pub(crate) fn new(upstream: Upstream, settings: Settings, nodes: Arc<Nodes>) -> Reports {
        let refused = REPORTS_REFUSED.counter(&[]);
        Reports {
            upstream,
            settings,
            nodes,
            waiting: Mutex::default(),
            known: Mutex::default(),
            owed: Mutex::default(),
            refused,
        }
    }

    /// Reports a countersigned line. The receiver hears its receipt's name once it is durable.
    pub(crate) fn report(
        self: &Arc<Self>,
        lease: LeaseId,
        node: Id,
        call: Id,
        line: CallLine,
    ) -> oneshot::Receiver<Receipt> {
        let (told, receipt) = oneshot::channel();
        self.settle(call, lease, Settled::Pending);
        *guarded(&self.owed).entry(node).or_default() += 1;
        let waiting = Waiting { node, call, line, told };
        let first = {
            let mut all = guarded(&self.waiting);
            let first = !all.contains_key(&lease);
            all.entry(lease).or_default().push(waiting);
            first
        };
        if first {
            let reports = self.clone();
            tokio::spawn(async move { reports.drain(lease).await });
        }
        receipt
    }

    /// Whether a node has not been told yet what became of a line of its.
    pub(crate) fn owes(&self, node: Id) -> bool {
        guarded(&self.owed).contains_key(&node)
    }

    fn answered(&self, node: Id) {
        let mut owed = guarded(&self.owed);
        if let Some(lines) = owed.get_mut(&node) {
            *lines -= 1; // every line that ends was counted when it began
            if *lines == 0 {
                owed.remove(&node);
            }
        }
    }

    /// The receipts of a call, as far as they are remembered, in the order of their leases.
    pub(crate) fn receipts(&self, call: Id) -> Vec<String> {
        let known = guarded(&self.known);
        let of_call = known.lines.range((call, [0; LEASE_BYTES])..=(call, [u8::MAX; LEASE_BYTES]));
        let named = of_call.filter_map(|(_, settled)| match settled {
            Settled::Durable(name) => Some(name.clone()),
            _ => None,
        });
        named.collect()
    }

    /// What became of a call's line under a lease, as far as it is remembered.
    pub(crate) fn settled(&self, call: Id, lease: &[u8]) -> Option<Settled> {
        let lease: LeaseId = lease.try_into().ok()?;
        guarded(&self.known).lines.get(&(call, lease)).cloned()
    }

    /// Whether nothing is on its way.
    pub(crate) fn is_idle(&self) -> bool {
        self.pending() == 0
    }

    /// Of how many leases something is on its way.
    pub(crate) fn pending(&self) -> usize {
        guarded(&self.waiting).len()
    }

    /// Waits until nothing is on its way under a lease.
    pub(crate) fn landed(self: &Arc<Self>, lease: LeaseId) -> impl Future<Output = ()> + Send + 'static {
        let reports = self.clone();
        async move {
            while guarded(&reports.waiting).contains_key(&lease) {
                tokio::time::sleep(ms(20)).await;
            }
        }
    }

    /// Reports what waits under a lease until nothing does.
    async fn drain(&self, lease: LeaseId) {
        loop {
            let next = {
                let mut all = guarded(&self.waiting);
                let Some(waiting) = all.get_mut(&lease) else { return };
                let count = waiting.len().min(MOST_LINES);
                let next: Vec<_> = waiting.drain(..count).collect();
                if next.is_empty() {
                    all.remove(&lease);
                    return;
                }
                next
            };
            self.send(lease, next).await;
        }
    }

    async fn send(&self, lease: LeaseId, batch: Vec<Waiting>) {
        match self.ask(lease, batch.iter().map(|waiting| waiting.line.clone()).collect()).await {
            Ok(answer) if answer.receipts.len() == batch.len() => {
                for (position, waiting) in batch.into_iter().enumerate() {
                    self.end(lease, waiting, told(&answer, position));
                }
            }
            Ok(_) => {
                let message = "scheduling has answered for other lines than were reported: tell who runs it";
                let refused = Refusal::new(Code::Internal, "UPSTREAM_MALFORMED", message);
                batch.into_iter().for_each(|waiting| self.end(lease, waiting, Err(refused.clone())));
            }
            // One line that is refused must not take the others with it.
            Err(refused) if batch.len() > 1 && !crate::upstream::may_change(&refused) => {
                for waiting in batch {
                    let answer = self.ask(lease, vec![waiting.line.clone()]).await;
                    self.end(lease, waiting, answer.and_then(|answer| told(&answer, 0)));
                }
            }
            Err(refused) => {
                batch.into_iter().for_each(|waiting| self.end(lease, waiting, Err(refused.clone())));
            }
        }
    }

    async fn ask(&self, lease: LeaseId, lines: Vec<CallLine>) -> Result<ReportCallsResponse, Refusal> {
        let request = ReportCallsRequest { request_id: request_id(), lease_id: lease_text(&lease), lines };
        self.upstream
            .definite(ms(self.settings.report_for_ms), || {
                let (mut scheduling, request) = (self.upstream.scheduling(), request.clone());
                async move { scheduling.report_calls(request).await }
            })
            .await
    }

    /// Tells the node and the call what became of a line.
    fn end(&self, lease: LeaseId, waiting: Waiting, receipt: Receipt) {
        let settled = match &receipt {
            Ok(name) => Settled::Durable(name.clone()),
            Err(why) if crate::upstream::may_change(why) => Settled::Unanswered(Box::new(waiting.line)),
            Err(refused) => Settled::Refused(refused.reason.to_string()),
        };
        if let Err(refused) = &receipt {
            self.refused.increment(1);
            tracing::warn!(call = %waiting.call, %refused, "a call was not recorded: its renter pays nothing");
        }
        match &settled {
            Settled::Durable(_) => self.nodes.accepted(waiting.node, waiting.call, ""),
            Settled::Refused(reason) => self.nodes.accepted(waiting.node, waiting.call, reason),
            Settled::Pending | Settled::Unanswered(_) => {} // the node keeps its receipt, and sends it again
        }
        self.settle(waiting.call, lease, settled);
        self.answered(waiting.node);
        let _ = waiting.told.send(receipt); // the call may have ended without it
    }

    fn settle(&self, call: Id, lease: LeaseId, settled: Settled) {
        let mut known = guarded(&self.known);
        if known.lines.insert((call, lease), settled).is_some() {
            return;
        }
        known.order.push_back((call, lease));
        if known.order.len() > self.settings.most_remembered
            && let Some(oldest) = known.order.pop_front()
        {
            known.lines.remove(&oldest);
        }
    }
}

/// What an answer says of one line.
fn told(answer: &ReportCallsResponse, position: usize) -> Receipt {
    match answer.receipts.get(position).filter(|name| !name.is_empty()) {
        Some(name) => Ok(name.clone()),
        None => {
            let refused = answer.refused.iter().find(|refused| refused.line as usize == position);
            let reason = refused.map_or("UPSTREAM_MALFORMED", |refused| refused.reason.as_str()).to_owned();
            let message = "scheduling does not meter the call";
            Err(Refusal { reason: reason.into(), ..Refusal::new(Code::Precondition, "", message) })
        }
    }
}

//! A call's time at one node: its outputs go to the renter, what the node signs is held against what was delivered.

use std::sync::Arc;
use std::time::Duration;

use holmes_kernel::Refusal;
use holmes_proto::inference::v1::{FinishReason, Output, Tokens, Usage, Vectors, output, work};
use holmes_proto::scheduling::v1::{CallLine, Finish};
use prost::Message as _;
use tokio::task::JoinHandle;
use tokio::time::Instant;

use super::Out;
use super::outcome::refused_by_node;
use crate::Edge;
use crate::ask::Ask;
use crate::leases::Lease;
use crate::nodes::{FromCall, NodeCall};
use crate::price::Bound;
use crate::settings::ms;
use crate::signed::{Facts, Untrue, check, prompt_commitment};

/// Longest message of tokens, bytes: an executor sends at most 64 of them at once. What waits for a renter is bounded by
/// it, for that is counted in messages.
const LONGEST_TOKENS: usize = 256 << 10;

/// How a call's time at a node ended.
#[derive(Debug)]
pub(crate) enum End {
    /// The renter has all that there will be.
    Whole(Whole),
    /// The node is gone or has failed: so much of the call counts.
    Lost(Option<CallLine>),
    /// There is no answer, and no other node would have one.
    Refused(Refusal),
}

/// An answer that is whole.
#[derive(Debug)]
pub(crate) struct Whole {
    pub(crate) reason: FinishReason,
    /// What the node has signed; `None` when nothing of it was true.
    pub(crate) line: Option<CallLine>,
    pub(crate) vectors: Option<Vectors>,
    pub(crate) cached: u32,
}

/// The call at its node.
pub(crate) struct Run<'a> {
    edge: &'a Arc<Edge>,
    ask: &'a Ask,
    bound: Bound,
    call: NodeCall,
    lease: Lease,
    renewal: Renewal,
    /// The commitment to the prompt, and what the one to the answer is made of.
    prompt: [u8; 32],
    answer: blake3::Hasher,
    /// Tokens that this node has sent.
    delivered: u64,
    /// The last line that would pay what was delivered so far.
    checkpoint: Option<CallLine>,
    finished: Option<FinishReason>,
    vectors: Option<Vectors>,
    cached: u32,
    cancelled: bool,
    /// The node must have said something until then.
    until: Instant,
}

/// How a lease lasts as long as its call.
enum Renewal {
    /// It is asked for then.
    At(Instant),
    /// It is being asked for.
    Asked(JoinHandle<Option<Lease>>),
    /// It was refused: the call may still be reported late.
    Over,
}

impl<'a> Run<'a> {
    pub(crate) fn new(
        edge: &'a Arc<Edge>,
        ask: &'a Ask,
        (bound, secret): (Bound, &[u8; 32]),
        call: NodeCall,
        lease: Lease,
    ) -> Self {
        let until = Instant::now() + ms(edge.settings.call_silent_ms);
        let renewal = renewal_of(edge, &lease);
        Run {
            edge,
            ask,
            bound,
            call,
            lease,
            renewal,
            prompt: prompt_commitment(secret, &ask.work),
            answer: blake3::Hasher::new_keyed(secret),
            delivered: 0,
            checkpoint: None,
            finished: None,
            vectors: None,
            cached: 0,
            cancelled: false,
            until,
        }
    }

    /// Delivers until the call is over here. The lease comes back as it is then.
    pub(crate) async fn deliver(mut self, out: &mut Out) -> (End, Lease) {
        loop {
            let end = tokio::select! {
                said = self.call.next() => match said {
                    Some(said) => self.hear(said, out).await,
                    None => Some(self.lost()),
                },
                () = out.gone(), if !self.cancelled => {
                    self.cancel();
                    None
                }
                () = tokio::time::sleep_until(self.until) => Some(self.too_late()),
                () = self.edge.is_over() => {
                    self.call.cancel();
                    Some(self.lost())
                }
                lease = renewed(&mut self.renewal, self.edge, &self.lease) => {
                    self.renewal = lease.as_ref().map_or(Renewal::Over, |lease| renewal_of(self.edge, lease));
                    self.lease = lease.unwrap_or(self.lease);
                    None
                }
            };
            if let Some(end) = end {
                if let Renewal::Asked(asked) = self.renewal
                    && let Ok(Some(lease)) = asked.await
                {
                    self.lease = lease; // what is renewed must be given back as it is
                }
                return (end, self.lease);
            }
        }
    }

    async fn hear(&mut self, said: FromCall, out: &mut Out) -> Option<End> {
        let patience = if self.cancelled || self.finished.is_some() || self.vectors.is_some() {
            self.edge.settings.receipt_wait_ms
        } else {
            self.edge.settings.call_silent_ms
        };
        self.until = Instant::now() + ms(patience);
        match said {
            FromCall::Output(Output { output: Some(output) }) => self.output(output, out).await,
            FromCall::Output(Output { output: None }) => None,
            FromCall::Checkpoint(line) => {
                match self.check(&line, &[Finish::NodeLost]) {
                    Ok(()) => self.checkpoint = Some(line),
                    Err(Untrue(reason)) => self.untrue(reason),
                }
                None
            }
            FromCall::Receipt(line) => Some(self.receipt(line)),
        }
    }

    async fn output(&mut self, output: output::Output, out: &mut Out) -> Option<End> {
        match output {
            output::Output::Tokens(tokens) => self.tokens(tokens, out).await,
            output::Output::Finished(finished) => {
                self.finished = Some(finished.reason());
                self.done(finished.usage);
                None
            }
            output::Output::Vectors(mut vectors) => {
                if !self.fit(&vectors) {
                    return Some(self.failed("vectors that do not fit the texts"));
                }
                self.answer.update(&vectors.values);
                let usage = vectors.usage.take();
                self.vectors = Some(vectors);
                self.done(usage);
                None
            }
            output::Output::Failed(failed) if failed.caller => Some(End::Refused(refused_by_node(failed))),
            output::Output::Failed(failed) => Some(self.failed(&failed.reason)),
        }
    }

    async fn tokens(&mut self, tokens: Tokens, out: &mut Out) -> Option<End> {
        let count = tokens.ids.len() as u64;
        if self.finished.is_some() || matches!(self.ask.work, work::Work::Embed(_)) || count == 0 {
            return Some(self.failed("tokens where there are none"));
        }
        if tokens.encoded_len() > LONGEST_TOKENS {
            return Some(self.failed("more text than so few tokens have"));
        }
        if self.cancelled {
            self.delivered += count; // they were on their way when the renter left
            self.answer.update(tokens.text.as_bytes());
            return None;
        }
        if tokens.first != out.sent || u64::from(out.sent) + count > self.bound.output {
            return Some(self.failed("tokens out of order, or more than were asked for"));
        }
        self.delivered += count;
        self.answer.update(tokens.text.as_bytes());
        if !out.tokens(tokens).await {
            self.cancel();
        }
        None
    }

    /// The last output has come: the receipt is behind it.
    fn done(&mut self, usage: Option<Usage>) {
        self.cached = usage.map_or(0, |usage| usage.cached_tokens);
        self.until = Instant::now() + ms(self.edge.settings.receipt_wait_ms);
    }

    fn fit(&self, vectors: &Vectors) -> bool {
        let work::Work::Embed(embed) = &self.ask.work else { return false };
        let floats = embed.texts.len().checked_mul(vectors.width as usize);
        let bytes = floats.and_then(|floats| floats.checked_mul(4));
        vectors.width > 0 && bytes == Some(vectors.values.len())
    }

    fn receipt(&mut self, line: CallLine) -> End {
        let ends: &[Finish] = match (&self.ask.work, self.finished) {
            (work::Work::Embed(_), _) if self.vectors.is_some() => &[Finish::Embedded],
            (_, Some(FinishReason::Stop)) => &[Finish::Stop],
            (_, Some(FinishReason::Length)) => &[Finish::Length],
            _ if self.cancelled || self.call.overrun() => &[Finish::Cancelled],
            _ => &[],
        };
        match self.check(&line, ends) {
            Ok(()) => self.whole(Some(line)),
            Err(Untrue(reason)) => {
                self.call.node.accepted(self.ask.call, reason);
                self.untrue(reason);
                self.lost()
            }
        }
    }

    fn check(&self, line: &CallLine, ends: &[Finish]) -> Result<(), Untrue> {
        let facts = Facts {
            network: &self.edge.network,
            node: &self.call.node.key,
            lease: self.lease.id,
            call: self.ask.call,
            most_input: self.bound.input,
            commitments: [self.prompt, *self.answer.finalize().as_bytes()],
            delivered: self.delivered,
        };
        check(line, &facts, ends)
    }

    /// The call is over though there is no receipt that holds: the last true checkpoint counts.
    fn lost(&mut self) -> End {
        let line = self.checkpoint.take();
        let has_all =
            self.cancelled || matches!(self.finished, Some(FinishReason::Stop | FinishReason::Length));
        if has_all { self.whole(line) } else { End::Lost(line) }
    }

    fn whole(&mut self, line: Option<CallLine>) -> End {
        if self.call.overrun() && self.finished.is_none() {
            self.cancelled = true;
        }
        let reason = match &self.ask.work {
            work::Work::Embed(_) if !self.cancelled => FinishReason::Stop,
            _ => self.finished.unwrap_or(FinishReason::Cancelled),
        };
        End::Whole(Whole { reason, line, vectors: self.vectors.take(), cached: self.cached })
    }

    fn too_late(&mut self) -> End {
        self.call.cancel();
        tracing::warn!(node = %self.call.node.id, call = %self.ask.call, "a node says nothing of a call any more");
        self.lost()
    }

    fn failed(&mut self, what: &str) -> End {
        self.call.cancel();
        tracing::warn!(node = %self.call.node.id, call = %self.ask.call, what, "a node has failed a call");
        self.lost()
    }

    fn untrue(&self, reason: &'static str) {
        metrics::counter!("holmes_gateway_untrue_lines_total", "reason" => reason).increment(1);
        tracing::warn!(node = %self.call.node.id, call = %self.ask.call, reason, "a node has signed what is not so");
    }

    fn cancel(&mut self) {
        self.cancelled = true;
        self.call.cancel();
        self.until = Instant::now() + ms(self.edge.settings.receipt_wait_ms);
    }
}

fn renewal_of(edge: &Edge, lease: &Lease) -> Renewal {
    let left = lease.expires.millis().saturating_sub(edge.clock.now().millis());
    let wait = left.saturating_sub(edge.settings.lease_left_ms);
    Renewal::At(Instant::now() + Duration::from_millis(wait.max(left / 2)))
}

/// Waits until a lease has to be renewed, then until it is. Cancelled and called again, it goes on where it was.
async fn renewed(renewal: &mut Renewal, edge: &Arc<Edge>, lease: &Lease) -> Option<Lease> {
    if let Renewal::At(then) = *renewal {
        tokio::time::sleep_until(then).await;
        let (edge, mut lease) = (edge.clone(), lease.clone());
        let renewing = async move { edge.leases.renew(&mut lease, 0).await.is_ok().then_some(lease) };
        *renewal = Renewal::Asked(tokio::spawn(renewing));
    }
    match renewal {
        Renewal::Asked(asked) => asked.await.unwrap_or(None),
        _ => std::future::pending().await,
    }
}

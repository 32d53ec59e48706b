//! A call's time at one node: its outputs go to the renter, what the node signs is held against what was delivered.

use std::sync::Arc;
use std::time::Duration;

use holmes_kernel::{Refusal, Time};
use holmes_proto::inference::v1::{FinishReason, Output, Tokens, Usage, Vectors, output, work};
use holmes_proto::scheduling::v1::{CallLine, Finish};
use holmes_proto::statements::prompt_commitment;
use tokio::task::JoinHandle;
use tokio::time::Instant;

use super::outcome::{bounded, refused_by_node};
use super::written::Written;
use super::{Out, SESSION_OVER, session_over};
use crate::Edge;
use crate::ask::Ask;
use crate::leases::Lease;
use crate::nodes::{FromCall, NodeCall, Said};
use crate::price::Bound;
use crate::running::Ending;
use crate::settings::ms;
use crate::signed::{Facts, Untrue, check, countersigned};
use crate::upstream::may_change;

/// A renewal without a definite answer is asked for again after so long.
const RENEW_AGAIN_MS: u64 = 500;

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
    /// What this node has sent.
    written: Written,
    /// The last line that would pay what was delivered so far.
    checkpoint: Option<CallLine>,
    finished: Option<FinishReason>,
    vectors: Option<Vectors>,
    cached: u32,
    /// When the node is told to end the call at the latest, and why it was told.
    stopping: Stopping,
    stopped: Option<Stop>,
    /// The node must have said something until then.
    until: Instant,
}

/// Why a call is ended before its answer is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Stop {
    /// The renter has gone, or takes nothing.
    Renter,
    /// The session is closed or expires: no other lease would serve the call.
    Session,
    /// The lease ends alone: another one may serve the rest.
    Lease,
}

/// How a lease lasts as long as its call.
enum Renewal {
    /// It is asked for then.
    At(Instant),
    /// It is being asked for.
    Asked(JoinHandle<Result<Lease, Refusal>>),
    /// It was refused: the call ends with the lease.
    Over,
}

/// When a call must be stopped: so long before its lease ends that the node's last word on it can be waited for, and
/// reported while the lease takes it.
struct Stopping {
    ending: Ending,
    expires: Time,
    /// Its renewal was refused.
    refused: Option<Stop>,
    at: Instant,
    why: Stop,
}

impl Stopping {
    fn new(edge: &Edge, lease: &Lease) -> Stopping {
        let (ending, expires) = (lease.ending.clone(), lease.expires);
        let (at, why) = (Instant::now(), Stop::Lease);
        let mut stopping = Stopping { ending, expires, refused: None, at, why };
        stopping.set(edge);
        stopping
    }

    /// Fixes the moment, by what is known now.
    fn set(&mut self, edge: &Edge) {
        let ends = *self.ending.borrow_and_update();
        let at = match (ends, self.refused) {
            (Some(ends), _) => ends.at.min(self.expires),
            (None, Some(Stop::Lease)) => Time::default(), // it is over already
            (None, _) => self.expires,
        };
        let left = left_ms(edge, at);
        self.at = Instant::now() + ms(left - edge.settings.receipt_wait_ms.min(left / 2));
        let with_session = ends.is_some_and(|ends| ends.session_over) || self.refused == Some(Stop::Session);
        self.why = if with_session { Stop::Session } else { Stop::Lease };
    }

    /// Waits beyond that for half of the time that the node's last word is given.
    async fn patience(&mut self, edge: &Edge) {
        loop {
            self.due(edge).await;
            let until = self.at + ms(edge.settings.receipt_wait_ms / 2);
            tokio::select! {
                () = tokio::time::sleep_until(until) => return,
                // Whatever is said now, the moment is fixed anew.
                changed = self.ending.changed() => if changed.is_ok() { self.set(edge) },
            }
        }
    }

    /// Waits until the moment has come.
    async fn due(&mut self, edge: &Edge) -> Stop {
        loop {
            tokio::select! {
                () = tokio::time::sleep_until(self.at) => return self.why,
                changed = self.ending.changed() => match changed {
                    Ok(()) => self.set(edge),
                    Err(_) => std::future::pending().await, // the gateway ends
                },
            }
        }
    }
}

impl<'a> Run<'a> {
    pub(crate) fn new(
        edge: &'a Arc<Edge>,
        ask: &'a Ask,
        (bound, secret): (Bound, &[u8; 32]),
        call: NodeCall,
        lease: Lease,
        first: u32,
    ) -> Self {
        let until = Instant::now() + ms(edge.settings.silence_ms(bound.input));
        let renewal = renewal_of(edge, &lease);
        let stopping = Stopping::new(edge, &lease);
        Run {
            edge,
            ask,
            bound,
            call,
            lease,
            renewal,
            // An ask has a prompt; a line fits no zeros.
            prompt: prompt_commitment(secret, &ask.work).unwrap_or_default(),
            answer: blake3::Hasher::new_keyed(secret),
            written: Written::new(&ask.work, first, bound.output),
            checkpoint: None,
            finished: None,
            vectors: None,
            cached: 0,
            stopping,
            stopped: None,
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
                // Vectors come all at the end: were a call for them cancelled, its node would have worked for nothing. It goes
                // on and is billed.
                () = out.gone(), if self.stopped.is_none() && self.generates() => {
                    self.stop(Stop::Renter);
                    None
                }
                stop = self.stopping.due(self.edge), if self.stopped.is_none() => {
                    self.stop(stop);
                    None
                }
                () = tokio::time::sleep_until(self.until) => Some(self.too_late()),
                () = self.edge.is_over() => {
                    self.call.cancel();
                    Some(self.lost())
                }
                renewed = renewed(&mut self.renewal, self.edge, &self.lease) => {
                    self.renewed(renewed);
                    None
                }
            };
            if let Some(end) = end {
                if let Renewal::Asked(asked) = self.renewal
                    && let Ok(Ok(lease)) = asked.await
                {
                    self.lease = lease; // what is renewed must be given back as it is
                }
                return (end, self.lease);
            }
        }
    }

    fn renewed(&mut self, renewed: Result<Lease, Refusal>) {
        match renewed {
            Ok(lease) => {
                self.renewal = renewal_of(self.edge, &lease);
                self.stopping = Stopping::new(self.edge, &lease);
                self.lease = lease;
            }
            // Until the call has to be stopped it is asked again.
            Err(why) if may_change(&why) => self.renewal = Renewal::At(Instant::now() + ms(RENEW_AGAIN_MS)),
            Err(why) => {
                let with_session = SESSION_OVER.contains(&why.reason.as_ref());
                self.stopping.refused = Some(if with_session { Stop::Session } else { Stop::Lease });
                self.stopping.set(self.edge);
                self.renewal = Renewal::Over;
            }
        }
    }

    async fn hear(&mut self, Said { what: said, late }: Said, out: &mut Out) -> Option<End> {
        let patience = if self.stopped.is_some() || self.finished.is_some() || self.vectors.is_some() {
            self.edge.settings.receipt_wait_ms
        } else if self.written.tokens() == 0 {
            self.edge.settings.silence_ms(self.bound.input)
        } else {
            self.edge.settings.call_silent_ms
        };
        self.until = Instant::now() + ms(patience);
        match said {
            FromCall::Output(Output { output: Some(output) }) => self.output(output, late, out).await,
            FromCall::Output(Output { output: None }) => None,
            FromCall::Checkpoint(line) => {
                match self.check(&line, &[Finish::NodeLost]) {
                    Ok(()) => self.checkpointed(line),
                    Err(Untrue(reason)) => self.untrue(reason),
                }
                None
            }
            FromCall::Receipt(line) => Some(self.receipt(line)),
            FromCall::Unreadable(what) => Some(self.failed(what)),
        }
    }

    async fn output(&mut self, output: output::Output, late: bool, out: &mut Out) -> Option<End> {
        match output {
            output::Output::Tokens(tokens) => self.tokens(tokens, late, out).await,
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
            // What is wrong with a question is known before the first token of its answer.
            output::Output::Failed(failed) => match refused_by_node(&failed) {
                Some(refused) if self.written.tokens() == 0 => Some(End::Refused(refused)),
                _ => Some(self.failed(&bounded(&failed.reason))),
            },
        }
    }

    async fn tokens(&mut self, mut tokens: Tokens, late: bool, out: &mut Out) -> Option<End> {
        if self.finished.is_some() {
            return Some(self.failed("tokens behind the end"));
        }
        if let Err(why) = self.written.take(&mut tokens) {
            return Some(self.failed(why));
        }
        self.answer.update(tokens.text.as_bytes());
        let count = tokens.ids.len() as u64;
        let given = self.stopped != Some(Stop::Renter) && self.give(tokens, out).await;
        // What was there when the renter left counts, and so does what was on its way, but no more than can have been.
        if !given
            && late
            && let Err(why) = self.written.missed(count)
        {
            return Some(self.failed(why));
        }
        None
    }

    /// Gives the renter tokens; `false`, and the call is stopped, when he takes none.
    async fn give(&mut self, tokens: Tokens, out: &mut Out) -> bool {
        let is_stopped = self.stopped.is_some();
        let given = tokio::select! {
            biased;
            given = out.tokens(tokens) => given,
            // The call must end soon: a renter who takes nothing does not keep it from being reported while it can be.
            () = self.stopping.patience(self.edge) => false,
        };
        match (given, is_stopped) {
            (true, _) => {}
            (false, true) => self.stopped = Some(Stop::Renter),
            (false, false) => self.stop(Stop::Renter),
        }
        given
    }

    /// The node has signed what was delivered so far: it is countersigned, and scheduling hears of it.
    fn checkpointed(&mut self, line: CallLine) {
        let signed = countersigned(line.clone(), &self.edge.network, &self.lease.id, &self.edge.key);
        self.edge.running.came_to(self.lease.id, Some(signed));
        self.checkpoint = Some(line);
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
        let number =
            |four: &[u8]| <[u8; 4]>::try_from(four).is_ok_and(|four| f32::from_le_bytes(four).is_finite());
        vectors.width > 0 && bytes == Some(vectors.values.len()) && vectors.values.chunks_exact(4).all(number)
    }

    fn receipt(&mut self, line: CallLine) -> End {
        let ends: &[Finish] = match (&self.ask.work, self.finished) {
            (work::Work::Embed(_), _) if self.vectors.is_some() => &[Finish::Embedded],
            (_, Some(FinishReason::Stop)) => &[Finish::Stop],
            (_, Some(FinishReason::Length)) => &[Finish::Length],
            _ if self.stopped.is_some() || self.call.overrun() => &[Finish::Cancelled],
            _ => &[],
        };
        match self.check(&line, ends) {
            Ok(()) => self.ended(Some(line)),
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
            delivered: self.written.tokens(),
        };
        check(line, &facts, ends)
    }

    /// The call is over though there is no receipt that holds: the last true checkpoint counts.
    fn lost(&mut self) -> End {
        let line = self.checkpoint.take();
        self.ended(line)
    }

    /// The call is over here, and this counts.
    fn ended(&mut self, line: Option<CallLine>) -> End {
        if self.call.overrun() && self.finished.is_none() {
            self.stopped = Some(Stop::Renter);
        }
        // Nobody checks what a node says of its cache; it is no more than the prompt that it bills.
        let read = line.as_ref().map_or(0, |line| line.input_tokens);
        let cached = self.cached.min(u32::try_from(read).unwrap_or(u32::MAX));
        let whole = |reason| Whole { reason, line: line.clone(), vectors: None, cached };
        match (self.finished, self.stopped) {
            (Some(reason @ (FinishReason::Stop | FinishReason::Length)), _) => End::Whole(whole(reason)),
            _ if self.vectors.is_some() && line.is_some() => {
                End::Whole(Whole { vectors: self.vectors.take(), ..whole(FinishReason::Stop) })
            }
            (_, Some(Stop::Renter)) => End::Whole(whole(FinishReason::Cancelled)),
            (_, Some(Stop::Session)) if self.generates() => End::Whole(whole(FinishReason::SessionOver)),
            (_, Some(Stop::Session)) => End::Refused(session_over()),
            (_, Some(Stop::Lease) | None) => End::Lost(line),
        }
    }

    fn generates(&self) -> bool {
        matches!(self.ask.work, work::Work::Generate(_))
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
        self.edge.meters.untrue.count(reason);
        tracing::warn!(node = %self.call.node.id, call = %self.ask.call, reason, "a node has signed what is not so");
    }

    /// Has the node end the call: it answers with a receipt for what it has sent.
    fn stop(&mut self, why: Stop) {
        self.stopped = Some(why);
        self.call.cancel();
        self.until = Instant::now() + ms(self.edge.settings.receipt_wait_ms);
    }
}

fn renewal_of(edge: &Edge, lease: &Lease) -> Renewal {
    let left = left_ms(edge, lease.expires);
    let wait = left.saturating_sub(edge.settings.lease_left_ms);
    Renewal::At(Instant::now() + Duration::from_millis(wait.max(left / 2)))
}

fn left_ms(edge: &Edge, until: Time) -> u64 {
    until.millis().saturating_sub(edge.clock.now().millis())
}

/// Waits until a lease has to be renewed, then until it is. Cancelled and called again, it goes on where it was.
async fn renewed(renewal: &mut Renewal, edge: &Arc<Edge>, lease: &Lease) -> Result<Lease, Refusal> {
    if let Renewal::At(then) = *renewal {
        tokio::time::sleep_until(then).await;
        let (edge, mut lease) = (edge.clone(), lease.clone());
        let renewing = async move { edge.leases.renew(&mut lease, 0).await.map(|()| lease) };
        *renewal = Renewal::Asked(tokio::spawn(renewing));
    }
    match renewal {
        Renewal::Asked(asked) => asked.await.unwrap_or_else(|_| Err(crate::api::cut_off())),
        _ => std::future::pending().await,
    }
}

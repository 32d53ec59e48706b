//! A call from its renter to a node and back: the loop of design §4.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use holmes_kernel::{Code, Id, Refusal};
use holmes_proto::gateway::v1::StartCall;
use holmes_proto::inference::v1::{Ended, FinishReason, Moved, Started, Tokens, Vectors, Work, work};
use holmes_proto::market::v1::ModelKind;
use holmes_proto::scheduling::v1::LeaseEnd;
use holmes_proto::statements::lease_text;
use tokio::sync::mpsc;

use crate::Edge;
use crate::ask::Ask;
use crate::leases::Lease;
use crate::limits::Admitted;
use crate::metrics::{Door, ENDED, ModelMeters};
use crate::models::Offered;
use crate::nodes::Node;
use crate::price::{self, Bound};
use crate::receipts;
use crate::settings::ms;

mod bill;
pub(crate) mod outcome;
mod pace;
mod run;
mod written;

use bill::Bill;
pub(crate) use bill::{Billed, Broken};
use outcome::CONTEXT_LENGTH_EXCEEDED;
use pace::Pace;
use run::{End, Run};

/// A part of an answer.
#[derive(Clone, Debug, PartialEq)]
pub(crate) enum Part {
    Started(Started),
    Tokens(Tokens),
    Moved(Moved),
    Vectors(Vectors),
    Ended(Ended),
}

/// An answer, part by part; dropped, the call is cancelled.
pub(crate) type Parts = mpsc::Receiver<Result<Part, Broken>>;

/// Starts a call; its parts come as they are made, an error as the last.
pub(crate) fn begin(edge: &Arc<Edge>, ask: Ask, door: Door) -> Result<Parts, Refusal> {
    let begun = try_begin(edge, ask, door);
    if let Err(refused) = &begun {
        edge.meters.ended(door, &refused.reason);
    }
    begun
}

fn try_begin(edge: &Arc<Edge>, ask: Ask, door: Door) -> Result<Parts, Refusal> {
    let pace = Pace::new();
    edge.started()?;
    if edge.draining.load(Ordering::Relaxed) {
        let message = "the gateway stops: call another one, or again in a moment";
        return Err(Refusal::new(Code::Unavailable, "DRAINING", message).retry_after(1_000));
    }
    let (to, parts) = mpsc::channel(edge.settings.renter_buffer);
    let admitted = match edge.limits.admit(ask.renter, ask.call) {
        Err(refused) if refused.code == Code::AlreadyExists => {
            tokio::spawn(refuse_again(edge.clone(), ask, (refused, door), to));
            return Ok(parts);
        }
        admitted => admitted?,
    };
    let edge = edge.clone();
    tokio::spawn(async move {
        let mut out = Out { to, sent: 0, stall: ms(edge.settings.renter_stall_ms), at: None, pace };
        let ended = serve(&edge, &ask, admitted, &mut out).await;
        if ended.is_ok() {
            out.pace.ended();
        }
        let outcome = ended.as_ref().map_or_else(|broken| broken.refusal.reason.as_ref(), |_| ENDED);
        edge.meters.ended(door, outcome);
        out.give(ended.map(Part::Ended)).await;
    });
    Ok(parts)
}

/// Refuses a call that runs or ran here; with the name of its receipt where the log has one.
async fn refuse_again(
    edge: Arc<Edge>,
    ask: Ask,
    (refused, door): (Refusal, Door),
    to: mpsc::Sender<Result<Part, Broken>>,
) {
    edge.meters.ended(door, &refused.reason);
    let named = unused(&edge, &ask).await.err().filter(|named| named.code == Code::AlreadyExists);
    let _ = to.send(Err(named.unwrap_or(refused).into())).await; // the renter may have gone
}

/// Serves a call, and says what it costs however it ends.
async fn serve(edge: &Arc<Edge>, ask: &Ask, mut admitted: Admitted, out: &mut Out) -> Result<Ended, Broken> {
    let (mut bill, secret) = (Bill::default(), crate::random());
    match deliver(edge, ask, &mut admitted, out, (&mut bill, secret)).await {
        Ok(reason) => bill.ended(edge, ask, reason, secret).await,
        Err(refusal) => Err(bill.broken(edge, ask, refusal).await),
    }
}

/// Delivers a call, at another node when one is lost.
async fn deliver(
    edge: &Arc<Edge>,
    ask: &Ask,
    admitted: &mut Admitted,
    out: &mut Out,
    (bill, secret): (&mut Bill, [u8; 32]),
) -> Result<FinishReason, Refusal> {
    let (mut offer, ()) = tokio::try_join!(offer(edge, ask), unused(edge, ask))?;
    out.pace.is_of(offer.meters.clone());
    let mut lost = Vec::new();
    loop {
        let (lease, node) = lease(edge, ask, &offer, &lost, out).await?;
        let Some(call) = node.start(ask.call, start(ask, &lease, out.sent, secret)) else {
            edge.end(lease, LeaseEnd::NodeLost);
            another(edge, &mut lost, &node)?;
            continue;
        };
        admitted.ran();
        out.runs_at(ask, &lease, offer.most_micro_usd).await;
        let (end, lease) = Run::new(edge, ask, (bill.leaves(offer.bound), &secret), call, lease, out.sent)
            .deliver(out)
            .await;
        match end {
            End::Whole(whole) => {
                bill.add(edge, ask, &lease, whole.line.as_ref());
                out.pace.billed(whole.line.as_ref(), whole.cached);
                edge.leases.give_back(lease, whole.line.as_ref());
                if let Some(vectors) = whole.vectors {
                    out.give(Ok(Part::Vectors(vectors))).await;
                }
                bill.usage.cached_tokens = whole.cached;
                return Ok(whole.reason);
            }
            End::Lost(line) => {
                bill.add(edge, ask, &lease, line.as_ref());
                out.pace.billed(line.as_ref(), 0);
                if *edge.over.borrow() {
                    edge.end(lease, LeaseEnd::Released);
                    return Err(cut_short());
                }
                edge.end(lease, LeaseEnd::NodeLost);
                if !bill.has_room_for_another(line.as_ref(), offer.bound) {
                    return Err(no_room());
                }
                another(edge, &mut lost, &node)?;
            }
            End::Refused(refused) => {
                edge.leases.give_back(lease, None);
                offer.bound.context = longer(edge, ask, &node, offer.bound.context, refused)?;
            }
        }
    }
}

/// Whether the call's id was never used: by a gateway that has restarted since, or by another one.
async fn unused(edge: &Edge, ask: &Ask) -> Result<(), Refusal> {
    let Some(receipt) = edge.upstream.find_call(ask.call, None).await? else { return Ok(()) };
    // Ids are the network's, so that another's is taken too; where its receipt stands is not for everybody.
    let found = receipts::get(edge.receipts.as_ref(), &edge.network, ask.renter, &receipt).await;
    Err(call_exists(if found.is_ok() { &receipt } else { "" }))
}

/// A call's id that was used.
pub(crate) fn call_exists(receipt: &str) -> Refusal {
    let what = match receipt {
        "" => String::new(),
        name => format!(" (its last receipt is {name:?})"),
    };
    let message = format!(
        "there is or was a call with this request id{what}: a call is never run twice; make a new id"
    );
    Refusal::new(Code::AlreadyExists, "CALL_EXISTS", message)
}

/// The context that a call needs beyond that of a node for which it was too long, where another node has a longer one.
fn longer(edge: &Edge, ask: &Ask, node: &Node, needed: u32, refused: Refusal) -> Result<u32, Refusal> {
    let own = node.context(&ask.model).unwrap_or(u32::MAX);
    let there_is = needed <= own && own < edge.nodes.serving(&ask.model).1;
    if there_is && refused.reason == CONTEXT_LENGTH_EXCEEDED { Ok(own + 1) } else { Err(refused) }
}

/// What a call can use and cost at most.
struct Offer {
    bound: Bound,
    /// Without fees, pico-dollars.
    most_pico: u64,
    /// With fees, micro-dollars.
    most_micro_usd: u64,
    meters: Arc<ModelMeters>,
}

async fn offer(edge: &Edge, ask: &Ask) -> Result<Offer, Refusal> {
    let kind = match &ask.work {
        work::Work::Generate(_) => ModelKind::Generate,
        work::Work::Embed(_) => ModelKind::Embed,
    };
    let Offered { model, meters } = edge.models.get(&ask.model, kind).await?;
    let (serving, context) = edge.nodes.serving(&ask.model);
    if serving == 0 {
        let message =
            format!("no attached node serves {:?} now: try again later, or choose another model", ask.model);
        return Err(Refusal::new(Code::Precondition, "MODEL_NOT_SERVED", message).retry_after(5_000));
    }
    let bound = Bound::of(&ask.work, context, &edge.settings);
    bound.check(context)?;
    let quoted = price::quote(&edge.upstream, ask, bound).await?;
    let most_pico = bound.pico(model.input_pico_usd, model.output_pico_usd);
    Ok(Offer { bound, most_pico, most_micro_usd: quoted.total_micro_usd, meters })
}

/// Reasons for which a session takes no more calls, and another one may.
pub(crate) const SESSION_OVER: [&str; 4] =
    ["SESSION_NOT_FOUND", "SESSION_CLOSED", "SESSION_CLOSING", "SESSION_EXPIRED"];

/// A session that pays and a node that works.
async fn lease(
    edge: &Arc<Edge>,
    ask: &Ask,
    offer: &Offer,
    lost: &[Id],
    out: &Out,
) -> Result<(Lease, Arc<Node>), Refusal> {
    let needs = (offer.most_pico, offer.bound.context);
    let mut reopened = false;
    loop {
        let session = edge.sessions.get_or_open(ask.renter, ask.asset).await?;
        out.still_there()?;
        match edge.leases.take(&session, ask, needs, lost).await {
            Err(refused) if SESSION_OVER.contains(&refused.reason.as_ref()) && !reopened => {
                edge.sessions.forget(ask.renter, ask.asset, session.id).await;
                reopened = true;
            }
            Err(refused) => return Err(refused),
            Ok((lease, node)) => {
                if let Err(gone) = out.still_there() {
                    edge.leases.give_back(lease, None);
                    return Err(gone);
                }
                return Ok((lease, node));
            }
        }
    }
}

/// What the node is told. The seed is the call's, so that another node would go on with the same text.
fn start(ask: &Ask, lease: &Lease, sent: u32, secret: [u8; 32]) -> StartCall {
    let work = match &ask.work {
        work::Work::Generate(generate) => {
            let mut generate = generate.clone();
            generate.resume_from = sent;
            generate.tenant = ask.renter.to_bytes().to_vec().into();
            work::Work::Generate(generate)
        }
        embed => embed.clone(),
    };
    StartCall {
        call: ask.call.to_bytes().to_vec().into(),
        lease: Some(lease.token.clone()),
        work: Some(Work { model: ask.model.clone(), work: Some(work) }),
        commitment_key: secret.to_vec().into(),
    }
}

/// The gateway could not wait for the call any longer. What the node has signed for is being reported.
fn cut_short() -> Refusal {
    let message = "the gateway stops and the call took too long: what was delivered counts; try again with a new request id";
    Refusal::new(Code::Unavailable, "DRAINING", message).retry_after(1_000)
}

/// A node is lost, and reading the prompt once more would cost more than was said. What it has signed for is reported.
fn no_room() -> Refusal {
    let message = "the node was lost, and reading the prompt again at another one would cost more than was said at the start: what was delivered counts; try again with a new request id";
    Refusal::new(Code::Unavailable, "NODE_LOST", message).retry_after(1_000)
}

/// The call's session is over, and it has no answer.
fn session_over() -> Refusal {
    let message = "the session was closed or has expired before the call had an answer: try again with a new request id";
    Refusal::new(Code::Unavailable, "SESSION_OVER", message)
}

/// Leaves out a node that was lost; refuses when there were too many.
fn another(edge: &Edge, lost: &mut Vec<Id>, node: &Node) -> Result<(), Refusal> {
    edge.meters.moved.increment(1);
    lost.push(node.id);
    if lost.len() > edge.settings.most_moves as usize {
        let message =
            "the call was lost on several nodes: what was delivered counts; try again with a new request id";
        return Err(Refusal::new(Code::Unavailable, "NODES_LOST", message).retry_after(1_000));
    }
    Ok(())
}

/// The way to the renter.
#[derive(Debug)]
pub(crate) struct Out {
    to: mpsc::Sender<Result<Part, Broken>>,
    /// Tokens that the renter has.
    sent: u32,
    /// A renter who takes nothing for so long has gone.
    stall: Duration,
    /// Where the call runs.
    at: Option<Id>,
    pace: Pace,
}

impl Out {
    /// Gives the renter a part; `false` when he has gone.
    async fn give(&self, part: Result<Part, Broken>) -> bool {
        matches!(tokio::time::timeout(self.stall, self.to.send(part)).await, Ok(Ok(())))
    }

    /// Gives the renter tokens; `false` when he has gone.
    async fn tokens(&mut self, tokens: Tokens) -> bool {
        let count = u32::try_from(tokens.ids.len()).unwrap_or(u32::MAX);
        self.pace.tokens(count.into());
        let given = self.give(Ok(Part::Tokens(tokens))).await;
        if given {
            self.sent = self.sent.saturating_add(count);
        }
        given
    }

    /// Says where the call runs now. A renter who has gone is noticed when tokens come.
    async fn runs_at(&mut self, ask: &Ask, lease: &Lease, most_micro_usd: u64) {
        let (lease_id, node_id) = (lease_text(&lease.id), lease.node.to_string());
        let part = match self.at.replace(lease.node) {
            None => Part::Started(Started {
                call_id: ask.call.to_string(),
                session_id: lease.session.to_string(),
                lease_id,
                node_id,
                most_micro_usd,
            }),
            Some(lost) => Part::Moved(Moved { lost_node_id: lost.to_string(), lease_id, node_id }),
        };
        self.give(Ok(part)).await;
    }

    /// Waits until the renter has gone.
    async fn gone(&self) {
        self.to.closed().await;
    }

    fn still_there(&self) -> Result<(), Refusal> {
        if self.to.is_closed() {
            return Err(Refusal::new(
                Code::Unavailable,
                "RENTER_GONE",
                "the renter has gone before the call began",
            ));
        }
        Ok(())
    }
}

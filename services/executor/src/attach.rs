//! One attachment: the stream to a gateway, from its question to its end.

mod join;

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use anyhow::{Result, anyhow};
use holmes_proto::edge;
use holmes_proto::gateway::v1::{Beat, FromNode, Leaving, StartCall, ToNode, from_node, to_node};
use holmes_proto::inference::v1::{Work, WorkerModel, work};
use holmes_proto::statements::LEASE_BYTES;
use tokio::sync::watch;
use tokio::task::JoinSet;
use tokio::time::{Instant, MissedTickBehavior, interval, sleep_until, timeout};
use tonic::Streaming;
use tonic_types::StatusExt as _;

use crate::agent::{Node, stopped};
use crate::call::{Call, Desk, Halt, output};
use crate::device::{Served, lost};
use crate::lease::{Admitted, Leases};
use crate::line::LeaseId;
use crate::receipts::MOST_WAITING;
use crate::refusal::Refusal;

/// Answers that wait to be sent beside the calls' own; a gateway that makes more without reading is given up.
const MOST_ANSWERS: usize = 1_024;
/// How long a worker may be away before its node detaches: gateways send calls elsewhere then.
const WORKER_PATIENCE: Duration = Duration::from_secs(5);
/// How long a node that leaves waits for its receipts to be accepted.
const RECEIPT_PATIENCE: Duration = Duration::from_secs(2);
/// How long calls may take to keep their receipts when the stream is gone.
const CLOSE_PATIENCE: Duration = Duration::from_secs(10);

/// How an attachment ended.
pub(crate) enum Detached {
    /// As the operator wished.
    Stopped,
    /// In good order: attach again at once.
    Again,
    /// The gateway does not take this node, or the node does not trust the gateway.
    Refused(anyhow::Error),
    /// Another process has attached with the node's key: attaching again would throw that one out.
    Superseded(anyhow::Error),
    /// It broke, or did not come about.
    Lost(anyhow::Error),
}

/// The stream, and what runs over it.
struct Attachment<'a> {
    node: &'a mut Node,
    inbound: Streaming<ToNode>,
    beat_every: Duration,
    desk: Desk,
    leases: Leases,
    /// What the gateway was told that this node serves.
    offered: Arc<Vec<WorkerModel>>,
    running: BTreeMap<[u8; 16], Running>,
    calls: JoinSet<[u8; 16]>,
    answers: JoinSet<()>,
    leaving: Option<Leave>,
}

/// A call that computes.
struct Running {
    lease: LeaseId,
    halt: watch::Sender<Option<Halt>>,
}

/// An attachment that ends when its calls have.
struct Leave {
    then: Detached,
    /// Calls are given up then.
    deadline: Instant,
    /// Receipts are waited for until then, once the calls have ended.
    receipts_until: Option<Instant>,
}

/// Attaches, serves, and comes back when it is over; no call of the attachment runs any more then.
pub(crate) async fn attach(node: &mut Node, stop: &mut watch::Receiver<bool>) -> Detached {
    let mut attachment = tokio::select! {
        () = stopped(stop) => return Detached::Stopped,
        joined = join::join(node) => match joined {
            Ok(attachment) => attachment,
            Err(detached) => return detached,
        },
    };
    let detached = attachment.serve(stop).await;
    attachment.close().await;
    detached
}

/// Whether a gateway says that another process has attached with this node's key.
fn is_superseded(status: &tonic::Status) -> bool {
    status.get_details_error_info().is_some_and(|info| info.reason == "SUPERSEDED")
}

/// Why a stream is over without its end, in the gateway's words or, where it could not say any, in ours.
fn broke(url: &str, status: &tonic::Status) -> anyhow::Error {
    if edge::is_said(status) {
        return anyhow!("{}: {}", status.code(), status.message());
    }
    anyhow!(
        "the connection to the gateway at {url} broke: the gateway stopped or was killed, or the network between is down"
    )
}

/// What the operator reads then.
fn superseded(node: &Node, status: &tonic::Status) -> anyhow::Error {
    anyhow!(
        "node {}: {}\n  this process stops and does not attach again, or the two would throw each other out for ever",
        node.id,
        status.message()
    )
}

impl Attachment<'_> {
    async fn serve(&mut self, stop: &mut watch::Receiver<bool>) -> Detached {
        let mut beat = interval(self.beat_every);
        beat.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let mut served = self.node.device.served();
        let mut worker_away: Option<Instant> = None;
        self.resend();
        loop {
            if let Some(detached) = self.has_left() {
                return detached;
            }
            let leave_at = self.leaving.as_ref().map(|leave| leave.receipts_until.unwrap_or(leave.deadline));
            tokio::select! {
                message = self.inbound.message() => match message {
                    Ok(Some(message)) => if let Err(why) = self.told(message) {
                        return Detached::Lost(why);
                    },
                    Ok(None) => return self.ended(anyhow!("the gateway ended the stream")),
                    Err(status) if is_superseded(&status) => {
                        return Detached::Superseded(superseded(self.node, &status));
                    }
                    Err(status) => return self.ended(broke(&self.node.options.join, &status)),
                },
                Some(ended) = self.calls.join_next() => match ended {
                    Ok(call) => drop(self.running.remove(&call)),
                    Err(why) => return Detached::Lost(anyhow!("a call panicked: {why}")),
                },
                Some(_) = self.answers.join_next() => {}
                // a beat that finds no room says nothing new: the gateway has enough to read
                _ = beat.tick() => drop(self.desk.out.try_send(said(from_node::Message::Beat(Beat {})))),
                () = stopped(stop), if !self.stops() => self.leave(Detached::Stopped),
                _ = served.changed() => worker_away = self.worker_changed(&served.borrow_and_update()),
                () = until(worker_away) => {
                    worker_away = None;
                    tracing::warn!("the worker stays away; the node detaches until it is back");
                    self.leave(Detached::Again);
                }
                () = until(leave_at) => return self.give_up(),
            }
        }
    }

    /// Whether the node is to stop when this attachment ends.
    fn stops(&self) -> bool {
        matches!(self.leaving, Some(Leave { then: Detached::Stopped, .. }))
    }

    /// Takes no more calls, and ends when those in progress have.
    fn leave(&mut self, then: Detached) {
        if self.leaving.is_none() {
            self.answer(said(from_node::Message::Leaving(Leaving {})));
        }
        let deadline = Instant::now() + self.node.options.drain;
        self.leaving = Some(Leave { then, deadline, receipts_until: None });
    }

    /// How the attachment ends, when it may.
    fn has_left(&mut self) -> Option<Detached> {
        let leave = self.leaving.as_mut()?;
        if !self.running.is_empty() {
            return None;
        }
        let until = *leave.receipts_until.get_or_insert_with(|| Instant::now() + RECEIPT_PATIENCE);
        // also where there is a next attachment: a gateway that stops forgets what it has delivered
        let done = self.node.receipts.count() == 0 || Instant::now() >= until;
        done.then(|| self.give_up())
    }

    fn give_up(&mut self) -> Detached {
        self.leaving.take().map_or(Detached::Again, |leave| leave.then)
    }

    /// The gateway has ended the stream: as expected when either was leaving.
    fn ended(&mut self, why: anyhow::Error) -> Detached {
        match self.leaving.take() {
            Some(leave) => leave.then,
            None => Detached::Lost(why),
        }
    }

    /// What is served has changed: nothing at the moment, or other weights than were offered.
    fn worker_changed(&mut self, served: &Served) -> Option<Instant> {
        match served {
            None => Some(Instant::now() + WORKER_PATIENCE),
            Some(models) if *models != self.offered => {
                tracing::info!("the models have changed; the node attaches again to offer them");
                self.leave(Detached::Again);
                None
            }
            Some(_) => None,
        }
    }

    /// Sends again what was not accepted.
    fn resend(&mut self) {
        let (receipts, out) = (self.node.receipts.waiting(), self.desk.out.clone());
        if !receipts.is_empty() {
            tracing::info!(receipts = receipts.len(), "sending receipts again that were not accepted");
        }
        self.answers.spawn(async move {
            for receipt in receipts {
                if out.send(said(from_node::Message::Receipt(receipt))).await.is_err() {
                    return; // they wait for the next attachment
                }
            }
        });
    }

    fn told(&mut self, message: ToNode) -> Result<()> {
        match message.message {
            Some(to_node::Message::Start(start)) => self.start(start),
            Some(to_node::Message::Cancel(cancel)) => {
                if let Some(running) = call_id(&cancel.call).and_then(|call| self.running.get(&call)) {
                    running.halt.send_replace(Some(Halt::Cancelled));
                }
            }
            Some(to_node::Message::Accepted(accepted)) => self.node.receipts.accepted(&accepted),
            Some(to_node::Message::LeaseOver(over)) => {
                let lease: Result<[u8; LEASE_BYTES], _> = over.lease.as_ref().try_into();
                if let Ok(lease) = lease {
                    self.leases.end(lease, now_us());
                    for running in self.running.values().filter(|running| running.lease == lease) {
                        running.halt.send_replace(Some(Halt::Cancelled));
                    }
                }
            }
            Some(to_node::Message::Drain(_)) => {
                tracing::info!("the gateway stops soon");
                if self.leaving.is_none() {
                    self.leave(Detached::Again);
                }
            }
            Some(to_node::Message::Challenge(_) | to_node::Message::Welcome(_)) => {
                return Err(anyhow!("the gateway asks again who this node is"));
            }
            None => tracing::debug!("a message of another version was ignored"),
        }
        if self.answers.len() > MOST_ANSWERS {
            return Err(anyhow!("the gateway does not read what it is answered"));
        }
        Ok(())
    }

    /// Starts a call, or says why not.
    fn start(&mut self, start: StartCall) {
        let Some(id) = call_id(&start.call) else {
            return tracing::warn!("a call without an id of 16 bytes was ignored");
        };
        if self.running.contains_key(&id) {
            // a refusal would read as the end of the one that runs
            return tracing::warn!(call = %holmes_kernel::Id::from_bytes(id), "the call runs already");
        }
        if let Err(why) = self.begin(id, start) {
            tracing::info!(call = %holmes_kernel::Id::from_bytes(id), %why, "call refused");
            self.answer(output(&id, self.desk.generation, why.output()));
        }
    }

    fn begin(&mut self, id: [u8; 16], start: StartCall) -> Result<(), Refusal> {
        if self.leaving.is_some() {
            return Err(Refusal::here("NODE_LEAVING", "the node takes no more calls"));
        }
        let invalid = |what| Refusal::here("CALL_INVALID", format!("the call has no {what}"));
        let work = start.work.ok_or_else(|| invalid("work"))?;
        let key: [u8; 32] =
            start.commitment_key.as_ref().try_into().map_err(|_| invalid("commitment key of 32 bytes"))?;
        let lease = self.leases.admit(&start.lease.ok_or_else(|| invalid("lease"))?, now_us())?;
        self.remember_term();
        self.check(&lease, &work)?;
        let (halt, halted) = watch::channel(None);
        let running = Running { lease: lease.id, halt };
        let call = Call::new(id, lease, &key, &work, self.desk.clone(), halted).ok_or_else(|| {
            Refusal::everywhere("PROMPT_MISSING", "the call asks for nothing: send a prompt")
        })?;
        self.running.insert(id, running);
        self.calls.spawn(async move {
            call.run(work).await;
            id
        });
        Ok(())
    }

    /// Whether this node can compute that, now.
    fn check(&self, lease: &Admitted, work: &Work) -> Result<(), Refusal> {
        if lease.model != work.model {
            let message = format!("the lease is for {:?}, the call asks for {:?}", lease.model, work.model);
            return Err(Refusal::here("MODEL_NOT_LEASED", message));
        }
        let Some(model) = self.offered.iter().find(|model| model.name == work.model) else {
            let message = format!("this node does not serve {:?}", work.model);
            return Err(Refusal::here("MODEL_NOT_SERVED", message));
        };
        let generate = matches!(work.work, Some(work::Work::Generate(_)));
        if work.work.is_some() && generate != model.generates {
            let can = if model.generates { "generates text" } else { "makes embeddings" };
            return Err(Refusal::everywhere("MODEL_KIND_WRONG", format!("{:?} {can}", work.model)));
        }
        if self.node.device.served().borrow().is_none() {
            return Err(lost());
        }
        let (used, slots) = (self.running.len(), self.node.options.slots);
        if used >= slots as usize {
            return Err(Refusal::here("NO_FREE_SLOT", format!("all {slots} slots of the node are in use")));
        }
        if self.node.receipts.count() >= MOST_WAITING {
            let message = format!("{MOST_WAITING} receipts of this node wait to be accepted");
            return Err(Refusal::here("RECEIPTS_FULL", message));
        }
        Ok(())
    }

    fn remember_term(&mut self) {
        if let Err(why) = self.node.pinned.raise(self.leases.term()) {
            tracing::error!(why = format!("{why:#}"), "the term could not be kept");
        }
    }

    /// Sends without making the stream wait.
    fn answer(&mut self, message: FromNode) {
        let out = self.desk.out.clone();
        self.answers.spawn(async move { drop(out.send(message).await) }); // a stream that is gone needs no answer
    }

    /// Ends what still runs, once what was sent of it is kept, and then the stream.
    async fn close(mut self) {
        for running in self.running.values() {
            running.halt.send_replace(Some(Halt::Broken));
        }
        if timeout(CLOSE_PATIENCE, async { while self.calls.join_next().await.is_some() {} }).await.is_err() {
            tracing::error!("calls did not end; their receipts may be lost");
        }
        let Attachment { node, mut inbound, desk, mut answers, .. } = self;
        let generation = desk.generation;
        drop(desk);
        // what is on its way may arrive: the gateway ends its side when ours has ended
        let flushed = async {
            while answers.join_next().await.is_some() {}
            while let Ok(Some(ToNode { message })) = inbound.message().await {
                if let Some(to_node::Message::Accepted(accepted)) = message {
                    node.receipts.accepted(&accepted);
                }
            }
        };
        let _ = timeout(Duration::from_secs(1), flushed).await; // or it is gone already
        tracing::info!(generation, "detached");
    }
}

fn said(message: from_node::Message) -> FromNode {
    FromNode { message: Some(message) }
}

fn call_id(bytes: &[u8]) -> Option<[u8; 16]> {
    bytes.try_into().ok()
}

/// Waits until then; for ever without a time.
async fn until(at: Option<Instant>) {
    match at {
        Some(at) => sleep_until(at).await,
        None => std::future::pending().await,
    }
}

/// Microseconds since the Unix epoch.
fn now_us() -> u64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    u64::try_from(since.as_micros()).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_connection_that_broke_is_told_in_words_and_a_gateways_own_words_are_kept() {
        let reset = std::io::Error::new(std::io::ErrorKind::ConnectionReset, "h2 protocol error");
        let told = broke("http://g:7070", &tonic::Status::from_error(Box::new(reset))).to_string();
        assert!(told.contains("http://g:7070 broke: the gateway stopped"), "{told}");
        assert!(!told.contains("h2"), "{told}");
        let said = tonic::Status::unavailable("the gateway stops, attach again");
        assert!(broke("http://g:7070", &said).to_string().ends_with("the gateway stops, attach again"));
    }
}

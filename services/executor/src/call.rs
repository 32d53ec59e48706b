//! One call: from the worker to the gateway, token by token, with what is signed of it.

use std::sync::Arc;
use std::time::Duration;

use ed25519_dalek::SigningKey;
use holmes_proto::gateway::v1::{CallOutput, Checkpoint, FromNode, Receipt, from_node};
use holmes_proto::inference::v1::{FinishReason, Finished, Output, Tokens, Usage, Vectors, Work, output};
use holmes_proto::scheduling::v1::Finish;
use holmes_proto::statements::prompt_commitment;
use prost::Message as _;
use tokio::sync::{mpsc, watch};
use tokio::time::Instant;

use crate::device::{Computation, Device, Said, lost};
use crate::lease::Admitted;
use crate::line::{LeaseId, Network, Tally};
use crate::receipts::Receipts;
use crate::refusal::Refusal;

/// Why a call is to end before its answer does.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Halt {
    /// The renter or the lease ended it.
    Cancelled,
    /// The stream to the gateway is gone.
    Broken,
}

/// What a call needs of its attachment.
#[derive(Clone, Debug)]
pub(crate) struct Desk {
    pub(crate) key: SigningKey,
    pub(crate) network: Network,
    pub(crate) generation: u64,
    pub(crate) checkpoint_tokens: u64,
    pub(crate) checkpoint_every: Duration,
    pub(crate) device: Arc<Device>,
    pub(crate) receipts: Receipts,
    pub(crate) out: mpsc::Sender<FromNode>,
}

/// A call that was admitted.
#[derive(Debug)]
pub(crate) struct Call {
    id: [u8; 16],
    lease: Admitted,
    tally: Tally,
    desk: Desk,
    halt: watch::Receiver<Option<Halt>>,
    /// Tokens since the last checkpoint, and when that was.
    unsigned: u64,
    signed_at: Instant,
    generates: bool,
}

/// How a call ended.
enum End {
    /// With an answer, whole or cut.
    Answer(Finish, output::Output),
    /// Without.
    Failed(Refusal),
    /// Nobody can be told any more.
    Broken,
}

/// One line of an output of a call.
pub(crate) fn output(call: &[u8; 16], generation: u64, output: output::Output) -> FromNode {
    let call = call.to_vec().into();
    let output = match output {
        output::Output::Vectors(vectors) => {
            CallOutput { vectors: Some(vectors), call, generation, ..CallOutput::default() }
        }
        other => {
            let output = Output { output: Some(other) }.encode_to_vec().into();
            CallOutput { output, call, generation, ..CallOutput::default() }
        }
    };
    FromNode { message: Some(from_node::Message::Output(output)) }
}

impl Call {
    /// A call; `None` when nothing is asked.
    pub(crate) fn new(
        id: [u8; 16],
        lease: Admitted,
        commitment_key: &[u8; 32],
        work: &Work,
        desk: Desk,
        halt: watch::Receiver<Option<Halt>>,
    ) -> Option<Call> {
        let prompt = prompt_commitment(commitment_key, work.work.as_ref()?)?;
        let tally = Tally::new(id, lease.id, commitment_key, prompt);
        let generates = matches!(work.work, Some(holmes_proto::inference::v1::work::Work::Generate(_)));
        Some(Call { id, lease, tally, desk, halt, unsigned: 0, signed_at: Instant::now(), generates })
    }

    /// Carries it through to its receipt.
    pub(crate) async fn run(mut self, work: Work) {
        let began = Instant::now();
        let end = match self.desk.device.begin(work) {
            Err(why) => End::Failed(why),
            Ok(computation) => self.compute(computation).await, // which cancels it when it is not over
        };
        let how = match &end {
            End::Answer(finish, _) => finish.as_str_name(),
            End::Failed(why) => &why.reason,
            End::Broken => "STREAM_LOST",
        };
        tracing::info!(
            call = %holmes_kernel::Id::from_bytes(self.id),
            lease = holmes_proto::statements::lease_text(&self.lease.id),
            input_tokens = self.tally.input,
            output_tokens = self.tally.output,
            ms = began.elapsed().as_millis() as u64,
            how,
            "call ended"
        );
        self.close(end).await;
    }

    /// Sends what comes until it is over.
    async fn compute(&mut self, mut computation: Computation) -> End {
        loop {
            let checkpoint_at = self.signed_at + self.desk.checkpoint_every;
            let unsigned = self.unsigned > 0;
            tokio::select! {
                biased;
                halt = halted(&mut self.halt) => return self.halted(halt),
                () = tokio::time::sleep_until(checkpoint_at), if unsigned => {
                    if let Err(end) = self.checkpoint().await {
                        return end;
                    }
                }
                said = computation.next() => match said {
                    None => return End::Failed(lost()),
                    Some(said) => if let Some(end) = self.take(said).await {
                        return end;
                    },
                }
            }
        }
    }

    /// Takes what the worker says; the end, when this was it.
    async fn take(&mut self, said: Said) -> Option<End> {
        match said {
            Said::Read(tokens) => {
                if !self.lease.allowance.spend(tokens, 0) {
                    let message =
                        format!("the price of {tokens} tokens to read goes beyond what the lease allows");
                    return Some(End::Failed(Refusal::here("ALLOWANCE_EXCEEDED", message)));
                }
                self.tally.input = tokens;
                None
            }
            Said::Output(output::Output::Tokens(tokens)) => self.tokens(tokens).await.err(),
            Said::Output(output::Output::Finished(finished)) => Some(self.finished(finished)),
            Said::Output(output::Output::Vectors(vectors)) => Some(self.vectors(vectors)),
            Said::Output(output::Output::Failed(failed)) => {
                let (reason, message) = (failed.reason.into(), failed.message);
                Some(End::Failed(Refusal { reason, message, caller: failed.caller }))
            }
        }
    }

    /// Sends tokens, as far as they are allowed: beyond that the answer ends as one that does not fit.
    async fn tokens(&mut self, tokens: Tokens) -> Result<(), End> {
        let count = tokens.ids.len() as u64;
        if !self.lease.allowance.spend(0, count) {
            return Err(self.cut(FinishReason::Length, Finish::Length));
        }
        let text = tokens.text.clone();
        self.send(output(&self.id, self.desk.generation, output::Output::Tokens(tokens))).await?;
        self.tally.sent(count, text.as_bytes());
        if self.unsigned == 0 {
            self.signed_at = Instant::now(); // the time of a checkpoint runs from the first token that it covers
        }
        self.unsigned += count;
        if self.unsigned >= self.desk.checkpoint_tokens {
            self.checkpoint().await?;
        }
        Ok(())
    }

    fn finished(&mut self, finished: Finished) -> End {
        let finish = match finished.reason() {
            FinishReason::Stop => Finish::Stop,
            FinishReason::Length => Finish::Length,
            FinishReason::Cancelled | FinishReason::SessionOver | FinishReason::Unspecified => {
                Finish::Cancelled
            }
        };
        let cached_tokens = finished.usage.map_or(0, |usage| usage.cached_tokens);
        let usage = Some(Usage { cached_tokens, ..self.usage() });
        End::Answer(finish, output::Output::Finished(Finished { usage, ..finished }))
    }

    fn vectors(&mut self, vectors: Vectors) -> End {
        self.tally.sent(0, &vectors.values);
        End::Answer(
            Finish::Embedded,
            output::Output::Vectors(Vectors { usage: Some(self.usage()), ..vectors }),
        )
    }

    /// The answer ends here. Texts that were not embedded were not read for anybody.
    fn cut(&mut self, reason: FinishReason, finish: Finish) -> End {
        if !self.generates {
            self.tally.input = 0;
        }
        let finished = Finished { reason: reason.into(), usage: Some(self.usage()) };
        End::Answer(finish, output::Output::Finished(finished))
    }

    fn halted(&mut self, halt: Halt) -> End {
        match halt {
            Halt::Cancelled => self.cut(FinishReason::Cancelled, Finish::Cancelled),
            Halt::Broken => End::Broken,
        }
    }

    fn usage(&self) -> Usage {
        let count = |tokens: u64| u32::try_from(tokens).unwrap_or(u32::MAX);
        Usage {
            input_tokens: count(self.tally.input),
            output_tokens: count(self.tally.output),
            cached_tokens: 0,
        }
    }

    /// Signs what was sent until now.
    async fn checkpoint(&mut self) -> Result<(), End> {
        self.send(self.signed_now()).await?;
        self.unsigned = 0;
        self.signed_at = Instant::now();
        Ok(())
    }

    fn signed_now(&self) -> FromNode {
        let line = Some(self.tally.line(&self.desk.key, &self.desk.network, Finish::NodeLost));
        let checkpoint = Checkpoint { lease: lease_bytes(&self.lease.id), line };
        FromNode { message: Some(from_node::Message::Checkpoint(checkpoint)) }
    }

    /// Sends, unless the call is to end: a gateway that reads slowly does not keep it from that.
    async fn send(&mut self, message: FromNode) -> Result<(), End> {
        let sent = tokio::select! {
            biased;
            halt = halted(&mut self.halt) => Err(halt),
            sent = self.desk.out.send(message) => sent.map_err(|_| Halt::Broken),
        };
        sent.map_err(|halt| self.halted(halt))
    }

    /// Sends the last, unless the stream is gone; whether it went.
    async fn send_last(&mut self, message: FromNode) -> bool {
        tokio::select! {
            biased;
            () = broken(&mut self.halt) => false,
            sent = self.desk.out.send(message) => sent.is_ok(),
        }
    }

    /// The end of it: an answer has a receipt; one that failed, or whose stream broke, what was sent of it.
    async fn close(mut self, end: End) {
        let receipt = match end {
            End::Answer(finish, answer) => {
                self.send_last(output(&self.id, self.desk.generation, answer)).await;
                self.receipt(finish)
            }
            End::Failed(why) => {
                if self.unsigned > 0 && !self.send_last(self.signed_now()).await {
                    return self.keep(self.receipt(Finish::NodeLost)).await;
                }
                self.send_last(output(&self.id, self.desk.generation, why.output())).await;
                return;
            }
            End::Broken if self.tally.output == 0 => return, // nothing was delivered, nothing is owed
            End::Broken => return self.keep(self.receipt(Finish::NodeLost)).await,
        };
        self.keep(receipt.clone()).await;
        self.send_last(FromNode { message: Some(from_node::Message::Receipt(receipt)) }).await;
    }

    fn receipt(&self, finish: Finish) -> Receipt {
        let line = Some(self.tally.line(&self.desk.key, &self.desk.network, finish));
        Receipt { lease: lease_bytes(&self.lease.id), line }
    }

    async fn keep(&self, receipt: Receipt) {
        if let Err(why) = self.desk.receipts.keep(receipt).await {
            tracing::error!(%why, "a receipt could not be written: it is lost when this process ends before it is accepted");
        }
    }
}

fn lease_bytes(id: &LeaseId) -> prost::bytes::Bytes {
    id.to_vec().into()
}

/// Waits until the call is to end.
async fn halted(halt: &mut watch::Receiver<Option<Halt>>) -> Halt {
    match halt.wait_for(Option::is_some).await {
        Ok(halt) => (*halt).unwrap_or(Halt::Broken),
        Err(_) => Halt::Broken, // the attachment is gone
    }
}

/// Waits until the stream is gone.
async fn broken(halt: &mut watch::Receiver<Option<Halt>>) {
    let _ = halt.wait_for(|halt| *halt == Some(Halt::Broken)).await; // as above
}

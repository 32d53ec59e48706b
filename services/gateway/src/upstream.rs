//! How the gateway asks the services behind it: by their clients, with a deadline, and again where the answer was not
//! definite.

use std::time::Duration;

use holmes_kernel::{Code, Id, Refusal};
use holmes_proto::edge::MIN_SEQ;
use holmes_proto::market::v1::market_client::MarketClient;
use holmes_proto::scheduling::v1::FindCallRequest;
use holmes_proto::scheduling::v1::scheduling_client::SchedulingClient;
use holmes_proto::statements::{LEASE_BYTES, lease_text};
use holmes_runtime::Peer;
use tonic::{Request, Response, Status};
use tonic_types::StatusExt as _;

use crate::settings::{Settings, ms};

/// The services behind the gateway.
#[derive(Clone)]
pub(crate) struct Upstream {
    peer: Peer,
    patience: Duration,
}

/// The first pause before a question is asked again; it doubles, up to the longest.
const PAUSE: Duration = Duration::from_millis(25);
const LONGEST_PAUSE: Duration = Duration::from_secs(1);

impl Upstream {
    /// The services that `peer` reaches.
    pub(crate) fn new(peer: Peer, settings: &Settings) -> Upstream {
        Upstream { peer, patience: ms(settings.upstream_ms) }
    }

    pub(crate) fn scheduling(&self) -> SchedulingClient<Peer> {
        SchedulingClient::new(self.peer.clone())
    }

    pub(crate) fn market(&self) -> MarketClient<Peer> {
        MarketClient::new(self.peer.clone())
    }

    /// The last receipt of a call, or the one under a lease; empty while it has none, `None` where nothing of it is known.
    pub(crate) async fn find_call(
        &self,
        call: Id,
        lease: Option<&[u8; LEASE_BYTES]>,
    ) -> Result<Option<String>, Refusal> {
        let lease_id = lease.map(lease_text).unwrap_or_default();
        let asked = FindCallRequest { call_id: call.to_string(), lease_id };
        let found = self
            .definite(self.patience, || {
                let (mut scheduling, asked) = (self.scheduling(), asked.clone());
                async move { scheduling.find_call(asked).await }
            })
            .await;
        match found {
            Ok(found) => Ok(Some(found.receipt)),
            Err(refused) if refused.reason == "CALL_NOT_FOUND" => Ok(None),
            Err(refused) => Err(refused),
        }
    }

    /// One question, with its deadline.
    pub(crate) async fn once<T>(
        &self,
        asked: impl Future<Output = Result<Response<T>, Status>>,
    ) -> Result<T, Refusal> {
        match tokio::time::timeout(self.patience, asked).await {
            Ok(Ok(answer)) => Ok(answer.into_inner()),
            Ok(Err(status)) => Err(refusal(&status)),
            Err(_) => {
                let message = "a service of the network did not answer in time: try again";
                Err(Refusal::new(Code::Unavailable, "UPSTREAM_SILENT", message).retry_after(1_000))
            }
        }
    }

    /// Asks until there is a definite answer, or `within` is over: `ask` sends the same request id every time.
    pub(crate) async fn definite<T, F>(
        &self,
        within: Duration,
        mut ask: impl FnMut() -> F,
    ) -> Result<T, Refusal>
    where
        F: Future<Output = Result<Response<T>, Status>>,
    {
        let until = tokio::time::Instant::now() + within;
        let mut pause = PAUSE;
        loop {
            let refused = match self.once(ask()).await {
                Ok(answer) => return Ok(answer),
                Err(refused) => refused,
            };
            if !may_change(&refused) || tokio::time::Instant::now() + pause > until {
                return Err(refused);
            }
            tokio::time::sleep(pause).await;
            pause = (pause * 2).min(LONGEST_PAUSE);
        }
    }
}

/// Whether the same request may be answered otherwise a little later: nobody has decided it yet. Where there is too much
/// for now, the refusal says when to come again; what a service has decided, `NO_NODE_FREE` say, it remembers.
pub(crate) fn may_change(refused: &Refusal) -> bool {
    match refused.code {
        Code::Unavailable | Code::Deadline => true,
        Code::Exhausted => refused.retry_after_ms.is_some(),
        _ => false,
    }
}

/// A refusal as the other service has said it.
pub(crate) fn refusal(status: &Status) -> Refusal {
    let code = match status.code() {
        tonic::Code::Cancelled | tonic::Code::Unknown => Code::Unavailable,
        code => Code::from_number(code as i32),
    };
    let mut refused = Refusal::new(code, "UPSTREAM_FAILED", status.message());
    if let Some(info) = status.get_details_error_info() {
        refused.reason = info.reason.into();
    }
    let retry = status.get_details_retry_info().and_then(|info| info.retry_delay);
    refused.retry_after_ms = retry.map(|delay| u64::try_from(delay.as_millis()).unwrap_or(u64::MAX));
    refused
}

/// A read of whatever is durable now: prices and states that may be a moment old.
pub(crate) fn now<T>(message: T) -> Request<T> {
    let mut request = Request::new(message);
    request.metadata_mut().insert(MIN_SEQ, tonic::metadata::MetadataValue::from_static("0"));
    request
}

/// A fresh id of a request, in text.
pub(crate) fn request_id() -> String {
    fresh().to_string()
}

/// A fresh id.
pub(crate) fn fresh() -> Id {
    holmes_runtime::fresh_id()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_another_service_refuses_keeps_code_reason_message_and_wait() {
        let said = Refusal::new(Code::Exhausted, "NO_FREE_SLOT", "wait for a slot").retry_after(250);
        assert_eq!(refusal(&holmes_proto::edge::status(said.clone())), said);
    }

    #[test]
    fn only_what_nobody_has_decided_may_change() {
        let refused = |code| Refusal::new(code, "REASON", "words");
        assert!(may_change(&refused(Code::Unavailable)) && may_change(&refused(Code::Deadline)));
        assert!(may_change(&refused(Code::Exhausted).retry_after(50)), "a queue that is full for now");
        assert!(!may_change(&refused(Code::Exhausted)), "NO_NODE_FREE is on record");
        assert!(!may_change(&refused(Code::Precondition)));
    }

    #[tokio::test(start_paused = true)]
    async fn a_question_is_asked_again_while_the_answer_is_not_definite_and_no_longer() {
        let peer = Peer::here(tonic::service::Routes::default(), holmes_kernel::Principal::SYSTEM);
        let upstream = Upstream::new(peer, &Settings::default());
        let asked = std::cell::Cell::new(0);
        let answer = upstream
            .definite(Duration::from_secs(5), || {
                asked.set(asked.get() + 1);
                let answer =
                    if asked.get() < 3 { Err(Status::unavailable("not yet")) } else { Ok(Response::new(7)) };
                std::future::ready(answer)
            })
            .await;
        assert_eq!((answer.unwrap(), asked.get()), (7, 3));
        asked.set(0);
        let refused = upstream
            .definite(Duration::from_secs(5), || {
                asked.set(asked.get() + 1);
                std::future::ready(Err::<Response<()>, _>(Status::failed_precondition("never")))
            })
            .await;
        assert_eq!((refused.unwrap_err().code, asked.get()), (Code::Precondition, 1));
    }
}

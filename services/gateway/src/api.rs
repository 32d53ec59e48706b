//! The gRPC service of inference: parses, begins the call, passes its parts on.

use std::collections::HashMap;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};

use holmes_kernel::{Code, Id, Refusal, Time};
use holmes_proto::edge::{self, Needs, SignedRequest, status, status_with};
use holmes_proto::inference::v1::generate_response::Part as WirePart;
use holmes_proto::inference::v1::inference_server::Inference as Service;
use holmes_proto::inference::v1::{self as wire, quote_request, work};
use holmes_proto::market::v1::ModelKind;
use tonic::{Request, Response, Status};

use crate::Edge;
use crate::ask::{Ask, call_id, of_an_account, wrong};
use crate::calls::{Broken, Part, Parts, begin};
use crate::metrics::Door;
use crate::price::{self, Bound, PICO_PER_MICRO};
use crate::receipts;
use crate::upstream::fresh;

/// The gRPC service that renters call.
#[derive(Clone)]
pub struct Api(pub(crate) Arc<Edge>);

/// An answer on its way to a renter. Dropped, the call is cancelled.
#[derive(Debug)]
pub struct Answer {
    first: Option<Part>,
    parts: Parts,
}

impl tokio_stream::Stream for Answer {
    type Item = Result<wire::GenerateResponse, Status>;

    fn poll_next(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        if let Some(first) = self.first.take() {
            return Poll::Ready(Some(Ok(on_wire(first))));
        }
        let part = std::task::ready!(self.parts.poll_recv(cx));
        Poll::Ready(part.map(|part| part.map(on_wire).map_err(broken)))
    }
}

fn on_wire(part: Part) -> wire::GenerateResponse {
    let part = match part {
        Part::Started(started) => Some(WirePart::Started(started)),
        Part::Tokens(tokens) => Some(WirePart::Tokens(tokens)),
        Part::Moved(moved) => Some(WirePart::Moved(moved)),
        Part::Ended(ended) => Some(WirePart::Ended(ended)),
        Part::Vectors(_) => None, // a generation has none: its calls take no vectors from a node
    };
    wire::GenerateResponse { part }
}

impl Edge {
    /// Parses what an authenticated caller asks.
    fn ask<T>(
        &self,
        request: &Request<T>,
        request_id: Option<&str>,
        model: &str,
        work: work::Work,
        terms: Option<&wire::Terms>,
    ) -> Result<Ask, Status> {
        edge::needs(request, Needs::Renter)?;
        let renter = edge::principal(request)?;
        let parsed = || {
            of_an_account(renter)?;
            let call =
                request_id.map_or_else(|| Ok(fresh()), |named| called(request, named, self.clock.now()))?;
            let terms = terms.cloned().unwrap_or_default();
            Ask::new(renter, call, model, work, &terms, &self.settings)
        };
        parsed().map_err(status)
    }

    /// The models that can be had here.
    pub(crate) async fn offers(&self) -> Result<Vec<wire::ModelOffer>, Refusal> {
        let models = self.models.all().await?;
        // Pico-dollars of a token are micro-dollars of a million of them.
        const { assert!(PICO_PER_MICRO == 1_000_000) };
        let offer = |model: holmes_proto::market::v1::Model| wire::ModelOffer {
            generates: model.kind() == ModelKind::Generate,
            input_micro_usd_per_million: model.input_pico_usd,
            output_micro_usd_per_million: model.output_pico_usd,
            nodes: self.nodes.serving(&model.name).0,
            name: model.name,
        };
        Ok(models.into_values().map(|offered| offer(offered.model)).collect())
    }
}

/// The id of a call that its renter names, or leaves to the gateway. One that is signed goes by the id that the signature
/// covers: under a fresh one the same signature could be sent again, and pay for another call.
fn called<T>(request: &Request<T>, named: &str, now: Time) -> Result<Id, Refusal> {
    let signed = request.extensions().get::<SignedRequest>().map(|signed| signed.0.to_string());
    let call = call_id(if named.is_empty() { signed.as_deref().unwrap_or_default() } else { named }, now)?;
    edge::signed_as(request, call)?;
    Ok(call)
}

/// Sets what is the gateway's to say: where randomness starts.
pub(crate) fn seeded(mut work: wire::GenerateWork) -> wire::GenerateWork {
    let sampling = work.sampling.get_or_insert_default();
    while sampling.seed == 0 {
        sampling.seed = u64::from_le_bytes(crate::random());
    }
    work
}

#[tonic::async_trait]
impl Service for Api {
    type GenerateStream = Answer;

    async fn generate(&self, request: Request<wire::GenerateRequest>) -> Result<Response<Answer>, Status> {
        let wanted = request.get_ref();
        let generate = wanted.work.clone().ok_or_else(|| status(wrong("work", "what shall be written")))?;
        let work = work::Work::Generate(seeded(generate));
        let call = Some(wanted.request_id.as_str());
        let ask = self.0.ask(&request, call, &wanted.model, work, wanted.terms.as_ref())?;
        let mut parts = begin(&self.0, ask, Door::Generate).map_err(status)?;
        // A call that does not begin is an error of the RPC, not of its stream.
        let first = parts.recv().await.ok_or_else(cut)?.map_err(broken)?;
        Ok(Response::new(Answer { first: Some(first), parts }))
    }

    async fn embed(
        &self,
        request: Request<wire::EmbedRequest>,
    ) -> Result<Response<wire::EmbedResponse>, Status> {
        let wanted = request.get_ref();
        let work = work::Work::Embed(wire::EmbedWork { texts: wanted.texts.clone() });
        let call = Some(wanted.request_id.as_str());
        let ask = self.0.ask(&request, call, &wanted.model, work, wanted.terms.as_ref())?;
        let mut parts = begin(&self.0, ask, Door::Embed).map_err(status)?;
        let mut answer = wire::EmbedResponse::default();
        while let Some(part) = parts.recv().await {
            match part.map_err(broken)? {
                Part::Started(started) => answer.started = Some(started),
                Part::Vectors(vectors) => answer.vectors = Some(vectors),
                Part::Moved(moved) => {
                    if let Some(started) = &mut answer.started {
                        (started.lease_id, started.node_id) = (moved.lease_id, moved.node_id);
                    }
                }
                Part::Ended(ended) => answer.ended = Some(ended),
                Part::Tokens(_) => {}
            }
        }
        if answer.vectors.is_none() || answer.ended.is_none() {
            return Err(cut());
        }
        Ok(Response::new(answer))
    }

    async fn quote(
        &self,
        request: Request<wire::QuoteRequest>,
    ) -> Result<Response<wire::QuoteResponse>, Status> {
        let wanted = request.get_ref();
        let work = match wanted.work.clone() {
            Some(quote_request::Work::Generate(work)) => work::Work::Generate(work),
            Some(quote_request::Work::Embed(work)) => work::Work::Embed(work),
            None => return Err(status(wrong("work", "what shall be written, or turned into vectors"))),
        };
        let ask = self.0.ask(&request, None, &wanted.model, work, wanted.terms.as_ref())?;
        let context = self.0.nodes.serving(&ask.model).1;
        let bound = Bound::of(&ask.work, context, &self.0.settings);
        bound.check(context).map_err(status)?;
        let quoted = price::quote(&self.0.upstream, &ask, bound).await.map_err(status)?;
        Ok(Response::new(wire::QuoteResponse {
            input_tokens: bound.input,
            output_tokens: bound.output,
            price_micro_usd: quoted.price_micro_usd,
            buyer_fee_micro_usd: quoted.buyer_fee_micro_usd,
            surcharge_micro_usd: quoted.surcharge_micro_usd,
            total_micro_usd: quoted.total_micro_usd,
            total_units: quoted.total_units,
        }))
    }

    async fn get_receipt(
        &self,
        request: Request<wire::GetReceiptRequest>,
    ) -> Result<Response<wire::GetReceiptResponse>, Status> {
        let who = edge::principal(&request)?;
        let wire::GetReceiptRequest { name, call_id } = request.get_ref();
        let found = match (name.as_str(), call_id.as_str()) {
            (name, "") => receipts::get(self.0.receipts.as_ref(), &self.0.network, who, name).await,
            ("", call) => receipts::of_call(&self.0, who, call).await,
            _ => Err(wrong("call_id", "nothing beside a name: send one of them")),
        };
        Ok(Response::new(found.map_err(status)?))
    }

    async fn list_models(
        &self,
        request: Request<wire::ListModelsRequest>,
    ) -> Result<Response<wire::ListModelsResponse>, Status> {
        edge::principal(&request)?;
        let models = self.0.offers().await.map_err(status)?;
        Ok(Response::new(wire::ListModelsResponse { models }))
    }
}

/// A call that has ended badly, with what was metered of it.
fn broken(Broken { refusal, billed }: Broken) -> Status {
    let mut more = HashMap::new();
    if let Some(billed) = billed {
        more.insert("receipts".to_owned(), billed.receipts.join(" "));
        more.extend(billed.price_micro_usd.map(|price| ("price_micro_usd".to_owned(), price.to_string())));
    }
    status_with(refusal, more)
}

fn cut() -> Status {
    status(cut_off())
}

/// A call whose task has ended without a word: a defect.
pub(crate) fn cut_off() -> Refusal {
    Refusal::new(
        Code::Internal,
        "CALL_CUT_OFF",
        "the call has ended without an answer: tell who runs the network",
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_signed_call_goes_by_the_id_that_is_signed_so_that_it_is_one_call_however_often_it_comes() {
        let now = Time::from_millis(1_800_000_000_000);
        let id = Id::v7(now.millis(), [7; 10]);
        let mut request = Request::new(());
        assert_ne!(called(&request, "", now), called(&request, "", now), "unsigned and unnamed: a fresh one");
        request.extensions_mut().insert(SignedRequest(id));
        assert_eq!(called(&request, "", now), Ok(id));
        assert_eq!(called(&request, &id.to_string(), now), Ok(id));
        let other = Id::v7(now.millis(), [8; 10]).to_string();
        assert_eq!(called(&request, &other, now).unwrap_err().reason, "SIGNATURE_OF_OTHER_REQUEST");
    }
}

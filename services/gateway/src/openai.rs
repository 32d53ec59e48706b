//! The HTTP that OpenAI's clients speak: `/v1/models`, `/v1/chat/completions`, `/v1/completions`, `/v1/embeddings`, with
//! the same bodies, streams and errors. What the network says beyond that stands in the field `holmes`.

use std::sync::Arc;

use axum::Router;
use axum::body::{Body, Bytes, to_bytes};
use axum::extract::State;
use axum::http::{Extensions, HeaderMap, HeaderValue, Request, StatusCode, header};
use axum::middleware::from_fn_with_state;
use axum::response::{IntoResponse, Response};
use axum::routing::{get, post};
use holmes_kernel::{Code, Id, Principal, Refusal};
use holmes_proto::edge::{Needs, Scope};
use holmes_proto::inference::v1::work;
use holmes_runtime::server::Connection;
use serde_json::{Value, json};

use crate::Edge;
use crate::api::cut_off;
use crate::ask::{Ask, call_id, of_an_account};
use crate::calls::{Billed, Broken, Part, Parts, begin};
use crate::metrics::Door;
use crate::settings::{Settings, ms};

mod answer;
mod fields;
mod measured;
mod request;
mod stream;

use answer::{Gathered, Shape};
use measured::{Answers, measured};
use request::{Body as Asked, Parsed};

/// The routes.
pub(crate) fn router(edge: Arc<Edge>) -> Router {
    Router::new()
        .route("/v1/models", get(models))
        .route("/v1/models/{model}", get(model))
        .route("/v1/chat/completions", post(chat))
        .route("/v1/completions", post(completions))
        .route("/v1/embeddings", post(embeddings))
        .fallback(nowhere)
        .method_not_allowed_fallback(nowhere)
        .with_state(edge)
        .layer(from_fn_with_state(Arc::new(Answers::default()), measured))
}

/// An error as OpenAI's clients know it.
#[derive(Debug)]
pub(crate) struct Wrong {
    refusal: Refusal,
    param: Option<String>,
    billed: Option<Box<Billed>>,
}

impl From<Refusal> for Wrong {
    fn from(refusal: Refusal) -> Self {
        // Our messages about a field begin with its name.
        let field = refusal.reason == "FIELD_INVALID";
        let param =
            refusal.message.split_once(" is not valid").filter(|_| field).map(|(name, _)| name.to_owned());
        Wrong { refusal, param, billed: None }
    }
}

impl From<Broken> for Wrong {
    fn from(Broken { refusal, billed }: Broken) -> Self {
        Wrong { billed, ..Wrong::from(refusal) }
    }
}

impl Wrong {
    /// A field that cannot be taken.
    pub(crate) fn field(name: &str, reason: &'static str, message: impl Into<String>) -> Wrong {
        Wrong {
            refusal: Refusal::new(Code::Invalid, reason, message),
            param: Some(name.to_owned()),
            billed: None,
        }
    }

    /// What stands in the body, or in a stream's last event.
    pub(crate) fn body(&self) -> Value {
        let (_, kind, code) = self.class();
        let message = &self.refusal.message;
        let mut error = json!({"message": message, "type": kind, "param": self.param, "code": code});
        if let Some(billed) = &self.billed {
            // OpenAI's clients hand out the error object, and nothing beside it.
            error["holmes"] = json!({"receipts": billed.receipts, "price_micro_usd": billed.price_micro_usd});
        }
        json!({ "error": error })
    }

    /// Status, OpenAI's type and code. A code of ours is kept where OpenAI has none.
    fn class(&self) -> (StatusCode, &'static str, String) {
        let reason = self.refusal.reason.as_ref();
        let own = || reason.to_lowercase();
        match (self.refusal.code, reason) {
            (Code::Unauthenticated, _) => {
                (StatusCode::UNAUTHORIZED, "invalid_request_error", "invalid_api_key".to_owned())
            }
            (_, "MODEL_NOT_FOUND") => {
                (StatusCode::NOT_FOUND, "invalid_request_error", "model_not_found".to_owned())
            }
            // Clients know that they need not try again.
            (_, "INSUFFICIENT_FUNDS" | "SESSION_NO_ACCOUNT" | "ACCOUNT_NOT_FOUND") => {
                (StatusCode::TOO_MANY_REQUESTS, "insufficient_quota", "insufficient_quota".to_owned())
            }
            (_, "SESSION_BUDGET_EXCEEDED") => (StatusCode::TOO_MANY_REQUESTS, "rate_limit_error", own()),
            (_, "MODEL_NOT_SERVED" | "NO_NODE_QUALIFIED" | "NOT_READY") => {
                (StatusCode::SERVICE_UNAVAILABLE, "server_error", own())
            }
            (_, "REQUEST_TOO_LARGE") => (StatusCode::PAYLOAD_TOO_LARGE, "invalid_request_error", own()),
            (_, "METHOD_NOT_ALLOWED") => (StatusCode::METHOD_NOT_ALLOWED, "invalid_request_error", own()),
            (Code::Invalid | Code::Precondition | Code::Unimplemented, _) => {
                (StatusCode::BAD_REQUEST, "invalid_request_error", own())
            }
            (Code::NotFound, _) => (StatusCode::NOT_FOUND, "invalid_request_error", own()),
            (Code::AlreadyExists, _) => (StatusCode::CONFLICT, "invalid_request_error", own()),
            (Code::Forbidden, _) => (StatusCode::FORBIDDEN, "invalid_request_error", own()),
            (Code::Exhausted, _) => (StatusCode::TOO_MANY_REQUESTS, "rate_limit_error", own()),
            (Code::Deadline, _) => (StatusCode::GATEWAY_TIMEOUT, "server_error", own()),
            (Code::Unavailable, _) => (StatusCode::SERVICE_UNAVAILABLE, "server_error", own()),
            (Code::Internal | Code::DataLoss, _) => {
                (StatusCode::INTERNAL_SERVER_ERROR, "server_error", own())
            }
        }
    }
}

impl IntoResponse for Wrong {
    fn into_response(self) -> Response {
        let (status, ..) = self.class();
        let mut response = json_response(status, &self.body());
        let waits = matches!(status, StatusCode::TOO_MANY_REQUESTS | StatusCode::SERVICE_UNAVAILABLE);
        if waits && let Some(ms) = self.refusal.retry_after_ms {
            response.headers_mut().insert(header::RETRY_AFTER, HeaderValue::from(ms.div_ceil(1_000).max(1)));
        }
        response
    }
}

fn json_response(status: StatusCode, body: &Value) -> Response {
    (status, [(header::CONTENT_TYPE, "application/json")], body.to_string()).into_response()
}

async fn nowhere(request: Request<Body>) -> Wrong {
    let known = ["/v1/models", "/v1/chat/completions", "/v1/completions", "/v1/embeddings"];
    let (method, path) = (request.method(), request.uri().path());
    let refusal = if known.contains(&path) {
        let message =
            format!("{method} is not for {path}: models are asked for with GET, the rest with POST");
        Refusal::new(Code::Unimplemented, "METHOD_NOT_ALLOWED", message)
    } else {
        let message = format!("there is nothing at {path}: see {}", known.join(", "));
        Refusal::new(Code::NotFound, "PATH_NOT_FOUND", message)
    };
    refusal.into()
}

impl Edge {
    /// Whose key a request carries, and what it may do.
    async fn caller(
        &self,
        headers: &HeaderMap,
        extensions: &Extensions,
    ) -> Result<(Principal, Scope), Wrong> {
        let key = headers.get(header::AUTHORIZATION).and_then(|value| value.to_str().ok());
        let key = key.and_then(|value| value.strip_prefix("Bearer ")).filter(|key| !key.is_empty());
        let Some(key) = key else {
            let message = "no API key: send it as `Authorization: Bearer <key>`";
            return Err(Refusal::new(Code::Unauthenticated, "KEY_MISSING", message).into());
        };
        let caller = self.keys.api_key(*blake3::hash(key.as_bytes()).as_bytes()).await?;
        if let Some(connection) = extensions.get::<Connection>() {
            connection.proven();
        }
        Ok(caller)
    }

    /// The call that a request names by `x-request-id`, where that is a name that a call can have; else a fresh one.
    fn call_of(&self, headers: &HeaderMap) -> Result<Id, Wrong> {
        let given = headers.get("x-request-id").and_then(|value| value.to_str().ok());
        let named = given.filter(|text| text.parse::<Id>().is_ok_and(|id| id.moment().is_some()));
        Ok(call_id(named.unwrap_or_default(), self.clock.now())?)
    }

    /// The body of a request, as far as a body may be long.
    async fn read(&self, request: Request<Body>) -> Result<Bytes, Wrong> {
        let most = self.settings.most_body_bytes;
        let reading = tokio::time::timeout(ms(self.settings.body_ms), to_bytes(request.into_body(), most));
        match reading.await {
            Ok(Ok(bytes)) => Ok(bytes),
            Ok(Err(_)) => {
                let message = format!("a body may have {most} bytes: send less at once");
                Err(Refusal::new(Code::Invalid, "REQUEST_TOO_LARGE", message).into())
            }
            Err(_) => Err(Refusal::new(Code::Deadline, "BODY_LATE", "the body did not come in time").into()),
        }
    }
}

async fn models(State(edge): State<Arc<Edge>>, request: Request<Body>) -> Result<Response, Wrong> {
    edge.caller(request.headers(), request.extensions()).await?;
    let offers = edge.offers().await?;
    let data: Vec<Value> = offers.iter().map(answer::model).collect();
    Ok(json_response(StatusCode::OK, &json!({"object": "list", "data": data})))
}

async fn model(
    State(edge): State<Arc<Edge>>,
    axum::extract::Path(name): axum::extract::Path<String>,
    request: Request<Body>,
) -> Result<Response, Wrong> {
    edge.caller(request.headers(), request.extensions()).await?;
    let offers = edge.offers().await?;
    let Some(offer) = offers.iter().find(|offer| offer.name == name) else {
        let message = format!("the network offers no model {name:?}: GET /v1/models says which there are");
        return Err(Refusal::new(Code::NotFound, "MODEL_NOT_FOUND", message).into());
    };
    Ok(json_response(StatusCode::OK, &answer::model(offer)))
}

async fn chat(State(edge): State<Arc<Edge>>, request: Request<Body>) -> Result<Response, Wrong> {
    serve(edge, request, OpenAi::Chat).await
}

async fn completions(State(edge): State<Arc<Edge>>, request: Request<Body>) -> Result<Response, Wrong> {
    serve(edge, request, OpenAi::Completions).await
}

async fn embeddings(State(edge): State<Arc<Edge>>, request: Request<Body>) -> Result<Response, Wrong> {
    serve(edge, request, OpenAi::Embeddings).await
}

/// What makes a model work.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum OpenAi {
    /// `/v1/chat/completions`.
    Chat,
    /// `/v1/completions`.
    Completions,
    /// `/v1/embeddings`.
    Embeddings,
}

impl OpenAi {
    fn read(self, body: &[u8]) -> Result<Parsed, Wrong> {
        let asked = Asked::read(body)?;
        match self {
            OpenAi::Chat => request::chat(&asked),
            OpenAi::Completions => request::completion(&asked),
            OpenAi::Embeddings => request::embedding(&asked),
        }
    }

    const fn door(self) -> Door {
        match self {
            OpenAi::Chat => Door::Chat,
            OpenAi::Completions => Door::Completions,
            OpenAi::Embeddings => Door::Embeddings,
        }
    }

    /// What a body asks a model for, as a node would be told it.
    ///
    /// # Errors
    /// With what the caller would be told.
    pub fn work(self, body: &[u8], renter: Principal, settings: &Settings) -> Result<work::Work, Refusal> {
        let Parsed { model, work, terms, .. } = self.read(body).map_err(|wrong| wrong.refusal)?;
        Ok(Ask::new(renter, Id::default(), &model, work, &terms, settings)?.work)
    }
}

/// Reads a request, runs it, and answers at once or as a stream.
async fn serve(edge: Arc<Edge>, request: Request<Body>, of: OpenAi) -> Result<Response, Wrong> {
    let (renter, scope) = edge.caller(request.headers(), request.extensions()).await?;
    scope.allows(renter, Needs::Renter)?;
    of_an_account(renter)?;
    let headers = request.headers().clone();
    let Parsed { model, work, terms, answer } = of.read(&edge.read(request).await?)?;
    let call = edge.call_of(&headers)?;
    let shape = Shape::new(call, &model, answer, edge.clock.now());
    let work = match work {
        work::Work::Generate(generate) => work::Work::Generate(crate::api::seeded(generate)),
        embed => embed,
    };
    let ask = Ask::new(renter, call, &model, work, &terms, &edge.settings)?;
    // Whatever comes of it, the call is found by this id.
    let mut response = run(&edge, ask, shape, of.door()).await.unwrap_or_else(Wrong::into_response);
    if let Ok(id) = HeaderValue::from_str(&call.to_string()) {
        response.headers_mut().insert("x-request-id", id);
    }
    Ok(response)
}

/// Runs a call, and answers as it was asked to.
async fn run(edge: &Arc<Edge>, ask: Ask, shape: Shape, door: Door) -> Result<Response, Wrong> {
    let mut parts = begin(edge, ask, door)?;
    if shape.streams() {
        // What goes wrong before the call runs is an error of the request, not of its stream.
        let first = parts.recv().await.ok_or_else(cut_off)??;
        return Ok(stream::response(shape, first, parts, ms(edge.settings.keep_alive_ms)));
    }
    let whole = tokio::time::timeout(ms(edge.settings.http_ms), gather(&mut parts));
    let gathered = whole.await.map_err(|_| {
        let message = "the answer took too long: ask for fewer tokens, or for a stream";
        Refusal::new(Code::Deadline, "ANSWER_LATE", message)
    })??;
    Ok(json_response(StatusCode::OK, &shape.whole(gathered)?))
}

async fn gather(parts: &mut Parts) -> Result<Gathered, Broken> {
    let mut gathered = Gathered::default();
    while let Some(part) = parts.recv().await {
        let part = part?;
        let last = matches!(part, Part::Ended(_));
        gathered.add(part);
        if last {
            return Ok(gathered);
        }
    }
    Err(cut_off().into())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn status(code: Code, reason: &'static str) -> u16 {
        Wrong::from(Refusal::new(code, reason, "m")).into_response().status().as_u16()
    }

    #[test]
    fn refusals_have_the_codes_that_openais_clients_act_on() {
        assert_eq!(status(Code::Unauthenticated, "KEY_UNKNOWN"), 401);
        assert_eq!(status(Code::NotFound, "MODEL_NOT_FOUND"), 404);
        assert_eq!(status(Code::Invalid, "CONTROL_TEXT"), 400);
        assert_eq!(status(Code::Precondition, "INSUFFICIENT_FUNDS"), 429);
        assert_eq!(status(Code::Exhausted, "TOO_MANY_CALLS"), 429);
        assert_eq!(status(Code::AlreadyExists, "CALL_EXISTS"), 409);
        assert_eq!(status(Code::Precondition, "MODEL_NOT_SERVED"), 503);
        assert_eq!(status(Code::Precondition, "NO_NODE_QUALIFIED"), 503);
        assert_eq!(status(Code::Exhausted, "NO_NODE_FREE"), 429);
        assert_eq!(status(Code::Exhausted, "ACCOUNT_SLOTS_USED"), 429);
        assert_eq!(status(Code::Invalid, "CONTEXT_LENGTH_EXCEEDED"), 400);
        assert_eq!(status(Code::Deadline, "ANSWER_LATE"), 504);
        assert_eq!(status(Code::Internal, "CALL_CUT_OFF"), 500);
    }

    #[test]
    fn an_error_has_openais_form_names_its_field_and_says_when_to_come_again() {
        let wrong = Wrong::from(crate::ask::wrong("temperature", "a number from 0 to 2"));
        let error = &wrong.body()["error"];
        assert_eq!(error["param"], "temperature");
        assert_eq!(
            (&error["type"], &error["code"]),
            (&json!("invalid_request_error"), &json!("field_invalid"))
        );
        let busy = Refusal::new(Code::Exhausted, "TOO_MANY_CALLS", "wait").retry_after(1_200);
        assert_eq!(Wrong::from(busy).into_response().headers()[header::RETRY_AFTER], "2");
    }
}

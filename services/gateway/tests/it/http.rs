//! What OpenAI's clients see.

use std::time::Duration;

use axum::body::{Body, to_bytes};
use http::{Request, StatusCode};
use serde_json::{Value, json};
use tower::ServiceExt as _;

use super::node::{Script, id_of};
use super::world::{API_KEY, OPERATOR_KEY, World, words};

async fn send(
    world: &World,
    method: &str,
    path: &str,
    key: Option<&str>,
    body: String,
) -> http::Response<Body> {
    let mut request = Request::builder().method(method).uri(path);
    if let Some(key) = key {
        request = request.header("authorization", format!("Bearer {key}"));
    }
    world.gateway.http().oneshot(request.body(Body::from(body)).unwrap()).await.unwrap()
}

async fn text(response: http::Response<Body>) -> String {
    String::from_utf8(to_bytes(response.into_body(), 16 << 20).await.unwrap().to_vec()).unwrap()
}

async fn post(world: &World, path: &str, body: Value) -> (StatusCode, Value) {
    let response = send(world, "POST", path, Some(API_KEY), body.to_string()).await;
    let status = response.status();
    (status, serde_json::from_str(&text(response).await).unwrap())
}

fn chat() -> Value {
    json!({"model": "talker", "messages": [{"role": "user", "content": "hello"}], "max_tokens": 20})
}

fn with(mut body: Value, more: Value) -> Value {
    body.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
    body
}

/// The events of a stream.
async fn events(response: http::Response<Body>) -> Vec<String> {
    assert!(response.headers()["content-type"].to_str().unwrap().starts_with("text/event-stream"));
    let text = text(response).await;
    assert!(text.ends_with("\n\n"));
    let events = text.split_terminator("\n\n").filter_map(|event| event.strip_prefix("data: "));
    events.map(str::to_owned).collect()
}

#[tokio::test]
async fn a_key_that_does_not_act_as_renter_sees_the_models_and_runs_nothing() {
    let world = World::new().await;
    let _node = world.node(1, Script::Write(4)).await;
    let models = send(&world, "GET", "/v1/models", Some(OPERATOR_KEY), String::new()).await;
    assert_eq!(models.status(), StatusCode::OK);
    for path in ["/v1/chat/completions", "/v1/completions", "/v1/embeddings"] {
        let refused = send(&world, "POST", path, Some(OPERATOR_KEY), chat().to_string()).await;
        assert_eq!(refused.status(), StatusCode::FORBIDDEN, "{path}");
        let body: Value = serde_json::from_str(&text(refused).await).unwrap();
        assert_eq!(body["error"]["code"], "key_scope", "{path}: {body}");
        assert!(body["error"]["message"].as_str().unwrap().contains("renter"), "{path}: {body}");
    }
}

#[tokio::test]
async fn a_chat_is_answered_in_openais_form_with_what_the_network_adds() {
    let world = World::new().await;
    let _node = world.node(1, Script::Write(4)).await;
    let (status, answer) = post(&world, "/v1/chat/completions", chat()).await;
    assert_eq!(status, StatusCode::OK, "{answer}");
    assert_eq!(answer["object"], "chat.completion");
    assert_eq!(answer["choices"][0]["message"]["content"], words(4));
    assert_eq!(answer["choices"][0]["finish_reason"], "stop");
    assert_eq!(answer["usage"]["prompt_tokens"], 5);
    assert_eq!(answer["usage"]["total_tokens"], 9);
    assert_eq!(answer["holmes"]["node"], id_of(1).to_string());
    assert_eq!(answer["holmes"]["receipts"].as_array().unwrap().len(), 1);
    assert!(answer["holmes"]["price_micro_usd"].as_u64().unwrap() > 0);
}

#[tokio::test]
async fn a_stream_begins_with_the_role_and_ends_with_the_reason_the_usage_and_done() {
    let world = World::new().await;
    let _node = world.node(1, Script::Write(4)).await;
    let more = json!({"stream": true, "stream_options": {"include_usage": true}});
    let body = with(chat(), more).to_string();
    let events = events(send(&world, "POST", "/v1/chat/completions", Some(API_KEY), body).await).await;
    let (last, chunks) = events.split_last().unwrap();
    assert_eq!(last, "[DONE]");
    let chunks: Vec<Value> = chunks.iter().map(|chunk| serde_json::from_str(chunk).unwrap()).collect();
    assert_eq!(chunks[0]["choices"][0]["delta"]["role"], "assistant");
    let text: String =
        chunks.iter().filter_map(|chunk| chunk["choices"][0]["delta"]["content"].as_str()).collect();
    assert_eq!(text, words(4));
    let [end, used] = &chunks[chunks.len() - 2..] else { panic!("two") };
    assert_eq!(end["choices"][0]["finish_reason"], "stop");
    assert_eq!((&used["choices"], &used["usage"]["completion_tokens"]), (&json!([]), &json!(4)));
    assert_eq!(used["holmes"]["receipts"].as_array().unwrap().len(), 1);
    let ids: std::collections::BTreeSet<_> = chunks.iter().map(|chunk| chunk["id"].to_string()).collect();
    assert_eq!(ids.len(), 1);
}

#[tokio::test]
async fn a_stream_that_cannot_begin_is_an_error_with_its_status() {
    let world = World::new().await;
    let (status, answer) = post(&world, "/v1/chat/completions", with(chat(), json!({"stream": true}))).await;
    assert_eq!(
        (status, &answer["error"]["code"]),
        (StatusCode::SERVICE_UNAVAILABLE, &json!("model_not_served"))
    );
}

#[tokio::test]
async fn a_stream_that_breaks_ends_with_an_error_and_without_done() {
    let world = World::new().await;
    let _node = world.node(1, Script::FailAfter(2)).await;
    let body = with(chat(), json!({"stream": true})).to_string();
    let events = events(send(&world, "POST", "/v1/chat/completions", Some(API_KEY), body).await).await;
    let last: Value = serde_json::from_str(events.last().unwrap()).unwrap();
    assert_eq!(last["error"]["code"], "no_node_able");
    assert_eq!(
        last["error"]["holmes"]["receipts"].as_array().unwrap().len(),
        1,
        "what was delivered is paid"
    );
    assert_eq!(last["error"]["holmes"]["price_micro_usd"], 2);
}

#[tokio::test]
async fn an_answer_that_breaks_is_an_error_with_its_receipts_and_the_calls_request_id() {
    let world = World::new().await;
    let _node = world.node(1, Script::FailAfter(2)).await;
    let response = send(&world, "POST", "/v1/chat/completions", Some(API_KEY), chat().to_string()).await;
    let id = response.headers()["x-request-id"].to_str().unwrap().to_owned();
    let answer: Value = serde_json::from_str(&text(response).await).unwrap();
    let receipts = answer["error"]["holmes"]["receipts"].as_array().unwrap();
    assert_eq!(receipts.len(), 1, "{answer}");
    world.services.kept(|kept| {
        let call = holmes_kernel::Id::from_slice(&kept.reported[0].call).unwrap();
        assert_eq!(call.to_string(), id, "the call is found by it");
    });
}

#[tokio::test]
async fn a_completion_has_text_and_probabilities() {
    let world = World::new().await;
    let _node = world.node(1, Script::Write(2)).await;
    let body = json!({"model": "talker", "prompt": "hello", "logprobs": 1});
    let (status, answer) = post(&world, "/v1/completions", body).await;
    assert_eq!(status, StatusCode::OK, "{answer}");
    assert_eq!(
        (&answer["object"], &answer["choices"][0]["text"]),
        (&json!("text_completion"), &json!(words(2)))
    );
    assert_eq!(answer["choices"][0]["logprobs"]["token_logprobs"], json!([-0.25, -0.25]));
    let body = with(chat(), json!({"logprobs": true}));
    let (_, answer) = post(&world, "/v1/chat/completions", body).await;
    assert_eq!(answer["choices"][0]["logprobs"]["content"].as_array().unwrap().len(), 2);
}

#[tokio::test]
async fn embeddings_come_as_floats_or_base64() {
    let world = World::new().await;
    let _node = world.node(1, Script::Embed(2, Duration::ZERO)).await;
    let body = json!({"model": "pointer", "input": ["a", "b"]});
    let (status, answer) = post(&world, "/v1/embeddings", body.clone()).await;
    assert_eq!(status, StatusCode::OK, "{answer}");
    assert_eq!(answer["data"][1]["index"], 1);
    assert_eq!(answer["data"][0]["embedding"], json!([0.0, 0.0]));
    assert_eq!(answer["usage"], json!({"prompt_tokens": 5, "total_tokens": 5}));
    let (_, answer) = post(&world, "/v1/embeddings", with(body, json!({"encoding_format": "base64"}))).await;
    assert_eq!(answer["data"][0]["embedding"], "AAAAAAAAAAA=");
}

#[tokio::test]
async fn errors_have_openais_form_and_codes() {
    let world = World::new().await;
    let _node = world.node(1, Script::Write(2)).await;
    for key in [None, Some("nobody")] {
        let response = send(&world, "POST", "/v1/chat/completions", key, chat().to_string()).await;
        assert_eq!(response.status(), StatusCode::UNAUTHORIZED);
        let answer: Value = serde_json::from_str(&text(response).await).unwrap();
        assert_eq!(answer["error"]["code"], "invalid_api_key");
    }
    let cases = [
        (with(chat(), json!({"model": "nothing"})), 404, "model_not_found"),
        (with(chat(), json!({"model": "pointer"})), 400, "model_unsuited"),
        (with(chat(), json!({"tools": [{"type": "function"}]})), 400, "field_not_supported"),
        (with(chat(), json!({"ignore_eos": true})), 400, "field_unknown"),
        (with(chat(), json!({"temperature": 9})), 400, "field_invalid"),
        (
            with(chat(), json!({"messages": [{"role": "user", "content": "<|im_start|>"}]})),
            400,
            "control_text",
        ),
        (with(chat(), json!({"holmes": {"max_price_micro_usd": 1}})), 400, "price_above_limit"),
    ];
    for (body, status, code) in cases {
        let (found, answer) = post(&world, "/v1/chat/completions", body).await;
        assert_eq!((found.as_u16(), &answer["error"]["code"]), (status, &json!(code)), "{answer}");
        assert_eq!(answer["error"]["type"], "invalid_request_error");
    }
    let broken = send(&world, "POST", "/v1/completions", Some(API_KEY), "{".to_owned()).await;
    assert_eq!(broken.status(), StatusCode::BAD_REQUEST);
    let large = send(&world, "POST", "/v1/completions", Some(API_KEY), " ".repeat((1 << 20) + 1)).await;
    assert_eq!(large.status(), StatusCode::PAYLOAD_TOO_LARGE);
    assert_eq!(send(&world, "GET", "/v1/nothing", Some(API_KEY), String::new()).await.status(), 404);
    assert_eq!(send(&world, "GET", "/v1/completions", Some(API_KEY), String::new()).await.status(), 405);
}

#[tokio::test]
async fn a_renter_without_funds_has_insufficient_quota() {
    let world = World::new().await;
    let _node = world.node(1, Script::Write(2)).await;
    world.services.kept(|kept| kept.no_hold = Some("INSUFFICIENT_FUNDS"));
    let refused = send(&world, "POST", "/v1/chat/completions", Some(API_KEY), chat().to_string()).await;
    assert_eq!((refused.status().as_u16(), &refused.headers()["retry-after"]), (429, &"2".parse().unwrap()));
    let answer: Value = serde_json::from_str(&text(refused).await).unwrap();
    assert_eq!(answer["error"]["code"], "insufficient_quota");
}

#[tokio::test]
async fn a_request_id_that_is_a_uuidv7_names_the_call_and_runs_once() {
    let world = World::new().await;
    let _node = world.node(1, Script::Write(2)).await;
    let id = holmes_runtime::fresh_id().to_string();
    let request = |id: &str| {
        Request::post("/v1/chat/completions")
            .header("authorization", format!("Bearer {API_KEY}"))
            .header("x-request-id", id)
            .body(Body::from(chat().to_string()))
            .unwrap()
    };
    let first = world.gateway.http().oneshot(request(&id)).await.unwrap();
    assert_eq!(
        (first.status(), first.headers()["x-request-id"].to_str().unwrap()),
        (StatusCode::OK, id.as_str())
    );
    assert_eq!(world.gateway.http().oneshot(request(&id)).await.unwrap().status(), StatusCode::CONFLICT);
    let other = world.gateway.http().oneshot(request("trace-7")).await.unwrap(); // a name of the caller's own
    assert_eq!(other.status(), StatusCode::OK);
}

#[tokio::test]
async fn what_is_too_long_for_every_node_is_the_callers_error_with_the_limit_and_the_count() {
    let world = World::new().await;
    let _node = world.node(1, Script::Write(4)).await;
    let long = "x".repeat(20_000);
    let bodies = [
        with(chat(), json!({"max_tokens": 5_000})),
        with(chat(), json!({"messages": [{"role": "user", "content": long}]})),
    ];
    for body in bodies {
        let (status, answer) = post(&world, "/v1/chat/completions", body).await;
        let error = &answer["error"];
        assert_eq!((status, &error["code"]), (StatusCode::BAD_REQUEST, &json!("context_length_exceeded")));
        assert_eq!(error["type"], "invalid_request_error");
        let message = error["message"].as_str().unwrap();
        assert!(message.contains("2048 tokens") && message.contains("at least"), "{message}");
    }
}

#[tokio::test]
async fn a_model_that_no_node_serves_now_is_told_apart_from_one_that_is_not_offered() {
    let world = World::new().await;
    let response = send(&world, "POST", "/v1/chat/completions", Some(API_KEY), chat().to_string()).await;
    assert_eq!(
        (response.status(), &response.headers()["retry-after"]),
        (StatusCode::SERVICE_UNAVAILABLE, &"5".parse().unwrap())
    );
    assert!(text(response).await.contains("model_not_served"));
    let (status, answer) = post(&world, "/v1/chat/completions", with(chat(), json!({"model": "none"}))).await;
    assert_eq!((status, &answer["error"]["code"]), (StatusCode::NOT_FOUND, &json!("model_not_found")));
    let message = answer["error"]["message"].as_str().unwrap();
    assert!(message.contains("GET /v1/models"), "{message}");
}

#[tokio::test]
async fn a_body_that_does_not_come_is_not_waited_for() {
    let settings = holmes_gateway::Settings { body_ms: 100, ..super::world::settings() };
    let world = World::with(settings).await;
    let never = Body::from_stream(tokio_stream::pending::<Result<Vec<u8>, std::io::Error>>());
    let request = Request::post("/v1/chat/completions").header("authorization", format!("Bearer {API_KEY}"));
    let response = world.gateway.http().oneshot(request.body(never).unwrap()).await.unwrap();
    assert_eq!(response.status(), StatusCode::GATEWAY_TIMEOUT);
    assert!(text(response).await.contains("body_late"));
}

#[tokio::test]
async fn an_account_that_holds_its_share_of_the_slots_is_told_when_to_come_again() {
    let world = World::new().await;
    let _node = world.node(1, Script::Slowly(90, std::time::Duration::from_millis(50))).await; // it has four
    let body = with(chat(), json!({"stream": true})).to_string();
    let mut running = Vec::new();
    for _ in 0..3 {
        let answer = send(&world, "POST", "/v1/chat/completions", Some(API_KEY), body.clone()).await;
        assert_eq!(answer.status(), StatusCode::OK);
        running.push(answer);
    }
    let refused = send(&world, "POST", "/v1/chat/completions", Some(API_KEY), body).await;
    assert_eq!(refused.status(), StatusCode::TOO_MANY_REQUESTS);
    assert_eq!(refused.headers()["retry-after"], "1");
    assert!(text(refused).await.contains("account_slots_used"));
    let other = world.generate_as(2, super::world::asked("hello")).await;
    assert!(other.is_ok(), "the others have a slot left");
}

#[tokio::test]
async fn models_are_listed_and_found() {
    let world = World::new().await;
    let list = send(&world, "GET", "/v1/models", Some(API_KEY), String::new()).await;
    let list: Value = serde_json::from_str(&text(list).await).unwrap();
    assert_eq!((&list["object"], &list["data"][1]["id"]), (&json!("list"), &json!("talker")));
    assert_eq!(send(&world, "GET", "/v1/models/talker", Some(API_KEY), String::new()).await.status(), 200);
    assert_eq!(send(&world, "GET", "/v1/models/none", Some(API_KEY), String::new()).await.status(), 404);
    assert_eq!(send(&world, "GET", "/v1/models", None, String::new()).await.status(), 401);
}

#[tokio::test]
async fn a_renter_who_takes_too_little_is_cancelled_and_pays_for_what_was_sent() {
    let settings =
        holmes_gateway::Settings { most_buffered: 8, renter_stall_ms: 200, ..super::world::settings() };
    let world = World::with(settings).await;
    let node = world.node(1, Script::Slowly(1_900, std::time::Duration::from_millis(2))).await;
    let body = with(chat(), json!({"stream": true, "max_tokens": 2_000})).to_string();
    let unread = send(&world, "POST", "/v1/chat/completions", Some(API_KEY), body).await;
    world.till(|| node.heard.cancels() > 0).await;
    world.till(|| world.services.kept(|kept| kept.reported.len() == 1)).await;
    world.services.kept(|kept| {
        assert_eq!(kept.reported[0].finish(), holmes_proto::scheduling::v1::Finish::Cancelled);
        assert!((8..500).contains(&kept.reported[0].output_tokens));
    });
    drop(unread);
}

//! The gRPC port, by real clients: health, reflection, deadlines, limits, drain.

use std::time::{Duration, Instant};

use prost::Message as _;
use tokio::net::TcpStream;
use tonic::{Code, Request};
use tonic_health::pb::HealthCheckRequest;
use tonic_health::pb::health_check_response::ServingStatus;
use tonic_health::pb::health_client::HealthClient;

use crate::support::{patiently, until};
use crate::toy::{NAME, PATH, Say, Up, proven, reason, say, say_at, words};

async fn health(up: &Up, service: &str) -> ServingStatus {
    let mut client = HealthClient::new(up.channel().await);
    let asked = HealthCheckRequest { service: service.into() };
    client.check(asked).await.unwrap().into_inner().status()
}

#[tokio::test]
async fn health_follows_the_machine() {
    let up = Up::start(|_| {}).await;
    until(|| async { health(&up, NAME).await == ServingStatus::Serving }).await;
    up.machine.send_replace(holmes_runtime::Status::Recovering);
    until(|| async { health(&up, NAME).await == ServingStatus::NotServing }).await;
    up.machine.send_replace(holmes_runtime::Status::Serving);
    until(|| async { health(&up, NAME).await == ServingStatus::Serving }).await;
    up.machine.send_replace(holmes_runtime::Status::Halted("broken".into()));
    until(|| async { health(&up, NAME).await == ServingStatus::NotServing }).await;
}

#[tokio::test]
async fn a_machine_that_is_gone_is_not_healthy() {
    let mut up = Up::start(|_| {}).await;
    up.machine = tokio::sync::watch::Sender::new(holmes_runtime::Status::Serving); // the other one is dropped
    until(|| async { health(&up, NAME).await == ServingStatus::NotServing }).await;
}

/// Lists services by one version of reflection.
macro_rules! listed {
    ($up:expr, $version:ident) => {{
        use tonic_reflection::pb::$version as v;
        let mut client = v::server_reflection_client::ServerReflectionClient::new($up.channel().await);
        let list = v::server_reflection_request::MessageRequest::ListServices(String::new());
        let asked = v::ServerReflectionRequest { host: String::new(), message_request: Some(list) };
        let mut answers =
            client.server_reflection_info(tokio_stream::once(asked)).await.unwrap().into_inner();
        match answers.message().await.unwrap().unwrap().message_response {
            Some(v::server_reflection_response::MessageResponse::ListServicesResponse(list)) => {
                list.service.into_iter().map(|service| service.name).collect::<Vec<_>>()
            }
            other => panic!("{other:?}"),
        }
    }};
}

#[tokio::test]
async fn reflection_lists_services_in_both_versions() {
    let up = Up::start(|_| {}).await;
    for listed in [listed!(up, v1), listed!(up, v1alpha)] {
        assert!(listed.iter().any(|name| name == "grpc.health.v1.Health"), "{listed:?}");
    }
}

/// Sends a call as no client library would; answers its `grpc-status` and whether it has details.
async fn raw(up: &Up, headers: &[(&str, &str)], how: u32) -> (String, bool) {
    let stream = TcpStream::connect(up.address).await.unwrap();
    let (mut client, connection) = h2::client::handshake(stream).await.unwrap();
    tokio::spawn(connection);
    let mut request = http::Request::post(format!("http://{}{PATH}", up.address))
        .header("content-type", "application/grpc")
        .header("te", "trailers");
    for (name, value) in headers {
        request = request.header(*name, *value);
    }
    let (answer, mut body) = client.send_request(request.body(()).unwrap(), false).unwrap();
    let message = Say { how, ..Say::default() }.encode_to_vec();
    let mut framed = vec![0];
    framed.extend(u32::try_from(message.len()).unwrap().to_be_bytes());
    framed.extend(message);
    body.send_data(framed.into(), true).unwrap();
    let answer = patiently(answer).await.unwrap();
    let status = answer.headers().get("grpc-status").map_or("none", |value| value.to_str().unwrap());
    (status.to_owned(), answer.headers().contains_key("grpc-status-details-bin"))
}

#[tokio::test]
async fn a_call_ends_at_its_callers_deadline_with_a_reason() {
    let up = Up::start(|_| {}).await;
    for timeout in ["1m", "20m", "33m", "1n", "900u"] {
        for _ in 0..60 {
            assert_eq!(raw(&up, &[("grpc-timeout", timeout)], 1).await, ("4".into(), true), "{timeout}");
        }
    }
}

#[tokio::test]
async fn a_call_without_a_deadline_ends_at_ours() {
    let up = Up::start(|settings| settings.deadline_ms = 50).await;
    for nonsense in [None, Some("soon"), Some("-1S"), Some("123456789S")] {
        let headers: Vec<_> = nonsense.map(|text| ("grpc-timeout", text)).into_iter().collect();
        assert_eq!(raw(&up, &headers, 1).await, ("4".into(), true), "{nonsense:?}");
    }
    let status = say(&up.channel().await, words(1)).await.unwrap_err();
    assert_eq!((status.code(), reason(&status).as_str()), (Code::DeadlineExceeded, "DEADLINE_EXCEEDED"));
}

#[tokio::test]
async fn nobody_waits_for_longer_than_the_longest_deadline_whatever_he_asks_for() {
    let up = Up::start(|settings| settings.longest_deadline_ms = 50).await;
    for asked in [None, Some("1H"), Some("99999999H"), Some("1M")] {
        let headers: Vec<_> = asked.map(|text| ("grpc-timeout", text)).into_iter().collect();
        assert_eq!(raw(&up, &headers, 1).await, ("4".into(), true), "{asked:?}");
    }
}

#[tokio::test]
async fn a_message_that_is_none_is_its_senders_fault() {
    let up = Up::start(|_| {}).await;
    let stream = TcpStream::connect(up.address).await.unwrap();
    let (mut client, connection) = h2::client::handshake(stream).await.unwrap();
    tokio::spawn(connection);
    let request = http::Request::post(format!("http://{}{PATH}", up.address))
        .header("content-type", "application/grpc")
        .header("te", "trailers");
    let (answer, mut body) = client.send_request(request.body(()).unwrap(), false).unwrap();
    body.send_data(vec![0, 0, 0, 0, 2, 0xff, 0xff].into(), true).unwrap();
    let answer = patiently(answer).await.unwrap();
    assert_eq!(answer.headers()["grpc-status"], "3");
    assert!(answer.headers().contains_key("grpc-status-details-bin"), "with its stable reason");
}

#[tokio::test]
async fn a_message_that_is_too_large_or_swells_is_refused() {
    let up = Up::start(|_| {}).await;
    let channel = up.channel().await;
    let large = |bytes| Request::new(Say { words: vec![0; bytes], ..Say::default() });
    for (gzip, bytes) in [(false, 5 << 20), (true, 16 << 20)] {
        let status = say_at(&channel, PATH, large(bytes), gzip).await.unwrap_err();
        let refused = [Code::OutOfRange, Code::ResourceExhausted, Code::Internal];
        assert!(refused.contains(&status.code()), "gzip {gzip}: {status:?}");
    }
    assert_eq!(say_at(&channel, PATH, large(1 << 20), true).await.unwrap().bytes, 1 << 20);
    let status = say(&channel, large(300 << 10)).await.unwrap_err();
    assert_eq!((status.code(), reason(&status).as_str()), (Code::ResourceExhausted, "REQUEST_TOO_LARGE"));
    assert_eq!(
        say(&channel, proven(large(1 << 20))).await.unwrap().bytes,
        1 << 20,
        "who is known may send it"
    );
}

#[tokio::test]
async fn headers_without_end_cost_their_sender_the_call_only() {
    let up = Up::start(|_| {}).await;
    let endless = "x".repeat(100_000);
    let stream = TcpStream::connect(up.address).await.unwrap();
    let (mut client, connection) = h2::client::handshake(stream).await.unwrap();
    tokio::spawn(connection);
    let request = http::Request::post(format!("http://{}{PATH}", up.address)).header("x-much", endless);
    let (answer, _body) = client.send_request(request.body(()).unwrap(), true).unwrap();
    match patiently(answer).await {
        Ok(answer) => assert_eq!(answer.status(), 431),
        Err(why) => assert!(why.is_reset() || why.is_go_away() || why.is_io(), "{why}"),
    }
    say(&up.channel().await, words(0)).await.unwrap();
}

#[tokio::test]
async fn a_handler_that_panics_fails_its_own_call() {
    let up = Up::start(|settings| settings.max_guest_calls = 2).await;
    let channel = up.channel().await;
    let waiting = tokio::spawn({
        let channel = channel.clone();
        async move { say(&channel, words(1)).await }
    });
    up.inside(1).await;
    for _ in 0..5 {
        say(&channel, words(2)).await.unwrap_err();
    }
    up.go_on();
    patiently(waiting).await.unwrap().unwrap();
    // its place among the calls in progress is free again
    until(|| async { say(&channel, words(0)).await.is_ok() }).await;
}

#[tokio::test]
async fn draining_lets_calls_in_progress_end_and_takes_no_new_ones() {
    let up = Up::start(|_| {}).await;
    let channel = up.channel().await;
    let going = tokio::spawn({
        let channel = channel.clone();
        async move { say(&channel, words(1)).await }
    });
    up.inside(1).await;
    up.stop.send_replace(true);
    until(|| async { TcpStream::connect(up.address).await.is_err() }).await;
    say(&channel, words(0)).await.expect_err("the connection takes no new calls");
    assert!(!going.is_finished() && !up.task.is_finished());
    up.go_on();
    patiently(going).await.unwrap().expect("it was in progress");
    drop(channel);
    patiently(up.task).await.unwrap().unwrap();
}

#[tokio::test]
async fn draining_ends_after_its_time_whatever_is_open() {
    let up = Up::start(|settings| settings.drain_ms = 100).await;
    let channel = up.channel().await;
    let asked = HealthCheckRequest { service: NAME.into() };
    let mut watching = HealthClient::new(channel.clone()).watch(asked).await.unwrap().into_inner();
    watching.message().await.unwrap();
    let hanging = tokio::spawn({
        let channel = channel.clone();
        async move { say(&channel, words(1)).await }
    });
    up.inside(1).await;
    let began = Instant::now();
    up.stop.send_replace(true);
    patiently(up.task).await.unwrap().unwrap();
    assert!(began.elapsed() >= Duration::from_millis(100));
    hanging.abort();
}

#[tokio::test]
async fn two_servers_on_one_port_are_one_too_many() {
    let up = Up::start(|_| {}).await;
    let refused = holmes_runtime::server::bind(up.address, "server.listen").await.unwrap_err();
    assert!(refused.to_string().contains("server.listen"), "{refused}");
}

//! Who finds a place when others take all they can: by real clients.

use std::time::Duration;

use tokio::net::TcpStream;
use tokio_stream::wrappers::ReceiverStream;
use tonic::transport::Channel;
use tonic::{Code, Request, Status, Streaming};
use tonic_health::pb::health_client::HealthClient;
use tonic_health::pb::{HealthCheckRequest, HealthCheckResponse};
use tonic_reflection::pb::v1::server_reflection_client::ServerReflectionClient;
use tonic_reflection::pb::v1::{ServerReflectionRequest, ServerReflectionResponse};
use tonic_types::StatusExt as _;

use crate::support::{patiently, until};
use crate::toy::{NAME, NOW, OTHER_KEY, PATH, Up, known, node, proven, reason, renter, say, with_key, words};

/// A stream over which nothing is said; it lasts as long as it is kept.
struct Idle {
    _asks: tokio::sync::mpsc::Sender<ServerReflectionRequest>,
    answers: Streaming<ServerReflectionResponse>,
}

/// Opens one. The answer's head comes at once, however long nothing is asked.
async fn idle(channel: &Channel, with_proof: bool) -> Result<Idle, Status> {
    let (asks, questions) = tokio::sync::mpsc::channel(1);
    let request = Request::new(ReceiverStream::new(questions));
    let request = if with_proof { proven(request) } else { request };
    let answers = ServerReflectionClient::new(channel.clone()).server_reflection_info(request).await?;
    Ok(Idle { _asks: asks, answers: answers.into_inner() })
}

async fn watch(channel: &Channel, with_proof: bool) -> Streaming<HealthCheckResponse> {
    let request = Request::new(HealthCheckRequest { service: NAME.into() });
    let request = if with_proof { proven(request) } else { request };
    HealthClient::new(channel.clone()).watch(request).await.unwrap().into_inner()
}

/// How a stream ended that said nothing more.
async fn end<T>(stream: &mut Streaming<T>) -> (Code, String) {
    loop {
        match patiently(stream.message()).await {
            Ok(Some(_)) => {}
            Ok(None) => return (Code::Ok, String::new()),
            Err(status) => return (status.code(), reason(&status)),
        }
    }
}

fn overloaded<T>(answer: Result<T, Status>) -> bool {
    let status = answer.err().expect("it is refused");
    assert!(status.get_details_retry_info().unwrap().retry_delay.is_some());
    (status.code(), reason(&status).as_str()) == (Code::ResourceExhausted, "OVERLOADED")
}

#[tokio::test]
async fn a_process_that_is_full_refuses_at_once_whatever_the_connection() {
    let up = Up::start(|settings| settings.max_calls = 1).await;
    let (one, other) = (up.channel().await, up.channel().await);
    let first = tokio::spawn({
        let one = one.clone();
        async move { say(&one, known(1)).await }
    });
    up.inside(1).await;
    for channel in [&one, &other] {
        assert!(overloaded(say(channel, known(0)).await));
    }
    say(&other, words(0)).await.expect("a guest has a place of his own");
    up.go_on();
    patiently(first).await.unwrap().unwrap();
    until(|| async { say(&other, known(0)).await.is_ok() }).await; // its place is free behind its last byte
}

#[tokio::test]
async fn one_account_alone_leaves_places_for_the_others() {
    let up = Up::start(|settings| settings.max_calls = 9).await; // an eighth of it, ceiled: two
    let channel = up.channel().await;
    let held: Vec<_> = (0..2)
        .map(|_| {
            let channel = channel.clone();
            tokio::spawn(async move { say(&channel, known(1)).await })
        })
        .collect();
    up.inside(2).await;
    assert!(overloaded(say(&channel, known(0)).await), "its third");
    say(&channel, with_key(words(0), OTHER_KEY)).await.expect("another account has its own");
    up.go_on();
    for call in held {
        patiently(call).await.unwrap().unwrap();
    }
    until(|| async { say(&channel, known(0)).await.is_ok() }).await;
}

#[tokio::test]
async fn calls_of_nobody_never_take_the_places_of_callers_who_are_known() {
    let up = Up::start(|settings| settings.max_guest_calls = 2).await;
    let (nobody, somebody) = (up.channel().await, up.channel().await);
    let hanging: Vec<_> = (0..2)
        .map(|_| {
            let nobody = nobody.clone();
            tokio::spawn(async move { say(&nobody, words(1)).await })
        })
        .collect();
    up.inside(2).await;
    assert!(overloaded(say(&nobody, words(0)).await));
    say(&somebody, known(0)).await.unwrap();
    up.go_on();
    for call in hanging {
        patiently(call).await.unwrap().unwrap();
    }
}

#[tokio::test]
async fn idle_streams_of_nobody_shut_the_port_for_nobody_and_the_oldest_gives_way() {
    let up = Up::start(|settings| {
        settings.max_guest_streams = 2;
        settings.max_calls = 1;
        settings.max_guest_calls = 1;
        settings.max_streams = 1;
    })
    .await;
    let (nobody, somebody) = (up.channel().await, up.channel().await);
    let mut idles = Vec::new();
    for _ in 0..20 {
        idles.push(idle(&nobody, false).await.unwrap());
    }
    assert_eq!(end(&mut idles[0].answers).await, (Code::ResourceExhausted, "OVERLOADED".into()));
    say(&somebody, known(0)).await.unwrap();
    say(&somebody, words(0)).await.unwrap();
    let mut lasting = idle(&somebody, true).await.unwrap();
    for _ in 0..20 {
        idles.push(idle(&nobody, false).await.unwrap());
    }
    let goes_on = tokio::time::timeout(Duration::from_millis(50), lasting.answers.message()).await;
    assert!(goes_on.is_err(), "a known caller's stream gives way to nobody: {goes_on:?}");
}

#[tokio::test]
async fn a_known_callers_stream_keeps_its_place_among_the_streams_and_none_among_the_calls() {
    let up = Up::start(|settings| (settings.max_streams, settings.max_calls) = (1, 1)).await;
    let channel = up.channel().await;
    let open = idle(&channel, true).await.unwrap();
    assert!(overloaded(idle(&channel, true).await));
    say(&channel, known(0)).await.unwrap();
    drop(open);
    until(|| async { idle(&channel, true).await.is_ok() }).await;
}

#[tokio::test]
async fn a_stream_of_nobody_has_a_deadline_and_one_with_a_proof_has_none() {
    let up = Up::start(|settings| settings.guest_stream_ms = 100).await;
    let channel = up.channel().await;
    let (mut guest, mut lasting) = (watch(&channel, false).await, watch(&channel, true).await);
    let mut asks = idle(&channel, false).await.unwrap();
    let over = (Code::DeadlineExceeded, "GUEST_STREAM_OVER".to_owned());
    assert_eq!(end(&mut guest).await, over);
    assert_eq!(end(&mut asks.answers).await, over);
    lasting.message().await.unwrap().expect("what is watched stands");
    let goes_on = tokio::time::timeout(Duration::from_millis(200), lasting.message()).await;
    assert!(goes_on.is_err(), "{goes_on:?}");
}

#[tokio::test]
async fn one_connection_cannot_have_all_calls() {
    let up = Up::start(|settings| settings.max_calls_per_connection = 2).await;
    let (greedy, other) = (up.channel().await, up.channel().await);
    let calls: Vec<_> = (0..6)
        .map(|_| {
            let greedy = greedy.clone();
            tokio::spawn(async move { say(&greedy, words(1)).await })
        })
        .collect();
    up.inside(2).await;
    say(&other, words(0)).await.unwrap();
    assert_eq!(*up.pause.inside.borrow(), 2);
    up.go_on();
    for call in calls {
        patiently(call).await.unwrap().unwrap();
    }
}

/// Waits until the other side has closed a connection.
async fn closed(stream: &mut TcpStream) {
    use tokio::io::AsyncReadExt as _;
    let mut bytes = [0; 256];
    while !matches!(patiently(stream.read(&mut bytes)).await, Ok(0) | Err(_)) {}
}

#[tokio::test]
async fn idle_connections_of_nobody_give_way_and_those_of_known_callers_stay() {
    let up = Up::start(|settings| settings.max_connections = 2).await;
    let somebody = up.channel().await;
    say(&somebody, known(0)).await.unwrap();
    let mut first = TcpStream::connect(up.address).await.unwrap();
    for _ in 0..10 {
        let mut later = TcpStream::connect(up.address).await.unwrap();
        closed(&mut first).await;
        std::mem::swap(&mut first, &mut later);
    }
    say(&up.channel().await, known(0)).await.expect("who comes is let in");
    // The connection is the same one: its place was never given away.
    say(&somebody, known(0)).await.unwrap();
    let both = up.channel().await;
    closed(&mut first).await;
    drop(both);
}

#[tokio::test]
async fn one_address_has_so_many_connections_and_no_more() {
    let up = Up::start(|settings| settings.max_connections_per_address = 2).await;
    let (one, two) = (up.channel().await, up.channel().await);
    closed(&mut TcpStream::connect(up.address).await.unwrap()).await;
    say(&one, words(0)).await.unwrap();
    drop((one, two));
    until(|| async {
        let endpoint = tonic::transport::Endpoint::new(format!("http://{}", up.address)).unwrap();
        let Ok(channel) = endpoint.connect().await else { return false };
        say(&channel, words(0)).await.is_ok()
    })
    .await;
}

/// Begins a call that claims to be signed by `who`, and sends so much of its body.
async fn signed(
    up: &Up,
    who: holmes_kernel::Principal,
    bytes: usize,
) -> (h2::client::ResponseFuture, h2::SendStream<prost::bytes::Bytes>) {
    let stream = TcpStream::connect(up.address).await.unwrap();
    let (client, connection) = h2::client::handshake(stream).await.unwrap();
    tokio::spawn(connection);
    let hex: String = who.to_bytes().iter().map(|byte| format!("{byte:02x}")).collect();
    let id = holmes_kernel::Id::v7(NOW.millis(), [4; 10]).to_string();
    let request = http::Request::post(format!("http://{}{PATH}", up.address))
        .header("content-type", "application/grpc")
        .header("holmes-principal", hex)
        .header("holmes-request-id", id)
        .header("holmes-expires", (NOW.millis() + 60_000).to_string())
        .header("holmes-signature", "00".repeat(64));
    let (answer, mut body) =
        client.ready().await.unwrap().send_request(request.body(()).unwrap(), false).unwrap();
    body.send_data(vec![0; bytes].into(), false).unwrap();
    (answer, body)
}

fn status_of(answer: &http::Response<h2::RecvStream>) -> (Code, String) {
    let status = Status::from_header_map(answer.headers()).unwrap();
    (status.code(), reason(&status))
}

#[tokio::test]
async fn bodies_whose_signature_is_not_checked_yet_have_so_many_bytes_together() {
    let up = Up::start(|settings| {
        (settings.max_request_bytes, settings.max_unproven_bytes) = (8_192, 24_576);
    })
    .await;
    let full = (Code::ResourceExhausted, "TOO_MANY_UNPROVEN".to_owned());
    let mut held = Vec::new();
    for _ in 0..3 {
        held.push(signed(&up, node(), 7_000).await);
        say(&up.channel().await, known(0)).await.expect("an API key needs no room for a body");
    }
    // What the three leave is less than this one's body. It is refused; so is the one that has waited longest, and then
    // there is room again.
    let (answer, _body) = signed(&up, node(), 7_000).await;
    let answer = patiently(answer).await.unwrap();
    assert_eq!(status_of(&answer), full);
    let status = Status::from_header_map(answer.headers()).unwrap();
    assert!(status.get_details_retry_info().unwrap().retry_delay.is_some());
    assert_eq!(status_of(&patiently(held.remove(0).0).await.unwrap()), full);
    let (answer, mut body) = signed(&up, node(), 7_000).await;
    body.send_data(Vec::new().into(), true).unwrap();
    let checked = (Code::Unauthenticated, "SIGNATURE_WRONG".to_owned());
    assert_eq!(status_of(&patiently(answer).await.unwrap()), checked);
}

#[tokio::test]
async fn a_signer_whom_nobody_knows_is_refused_before_its_body_is_read() {
    let up = Up::start(|_| {}).await;
    let (answer, _never_ends) = signed(&up, renter(), 0).await;
    let refused = status_of(&patiently(answer).await.unwrap());
    assert_eq!(refused, (Code::Unauthenticated, "KEY_UNKNOWN".into()));
}

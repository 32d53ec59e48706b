//! Attaching: what is offered and signed, whom a node trusts, and what it tells its operator.

use std::time::Duration;

use ed25519_dalek::SigningKey;
use holmes_kernel::{Code, Refusal};
use holmes_proto::gateway::v1::{Drain, from_node, to_node};
use holmes_proto::scheduling::v1::Finish;
use tonic::Status;

use crate::gateway::{Server, generate, said, tiny};
use crate::model::CONTEXT;
use crate::node::{Node, joined, until};

#[tokio::test(flavor = "multi_thread")]
async fn a_node_offers_its_models_signed_and_beats() {
    let mut server = Server::start().await;
    let mut node = Node::new(&server.url);
    node.start();
    let mut peer = server.next().await;
    peer.challenge().await;
    let offer = peer.hello().await;
    let weights = std::fs::read(&node.options.models[0].1).unwrap();
    let [model] = offer.models.as_slice() else { panic!("{offer:?}") };
    assert_eq!((model.name.as_str(), model.context as usize), ("tiny", CONTEXT));
    assert_eq!(model.digest.as_ref(), blake3::hash(&weights).as_bytes());
    assert_eq!((offer.slots, offer.hardware.as_str(), offer.region.as_str()), (4, "cpu", "test"));
    assert!(offer.software.starts_with("holmes/"));
    peer.welcome(1).await;
    let welcomed = std::time::Instant::now();
    tokio::time::sleep(Duration::from_millis(350)).await;
    let most = welcomed.elapsed().as_millis() as usize / 100 + 2;
    node.ask_to_stop();
    assert!(matches!(peer.next().await, Some(from_node::Message::Leaving(_))));
    assert!((2..=most).contains(&peer.beats), "{} beats of 100 ms", peer.beats);
    node.ended().await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_node_that_stops_says_so_ends_its_calls_and_takes_no_more() {
    let (_server, mut node, mut peer) = joined(1).await;
    let lease = peer.lease(1, 1);
    peer.start(1, &lease, tiny(generate("abc", 2_000))).await;
    peer.tokens(1).await;
    node.ask_to_stop();
    peer.start(2, &lease, tiny(generate("abc", 3))).await;
    let (mut left, mut refused) = (false, false);
    loop {
        match peer.next().await.expect("the receipt comes before the end") {
            from_node::Message::Leaving(_) => left = true,
            from_node::Message::Output(out) if out.call == vec![2; 16] => {
                let failed = format!("{:?}", said(out));
                refused = failed.contains("NODE_LEAVING");
                assert!(refused, "{failed}");
            }
            from_node::Message::Receipt(receipt) => {
                assert_eq!(receipt.line.unwrap().finish(), Finish::Length);
                break;
            }
            _ => {}
        }
    }
    assert!(left && refused);
    peer.accept(1, "").await;
    assert!(peer.next().await.is_none(), "then it ends the stream");
    drop(peer);
    node.ended().await.unwrap();
    assert_eq!(node.receipts(), 0);
    until("the worker is gone with it", Duration::from_secs(5), || node.worker_pid().is_none()).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_node_that_stops_gives_up_calls_that_take_too_long_and_keeps_what_was_sent() {
    let mut server = Server::start().await;
    let mut node = Node::new(&server.url);
    node.options.drain = Duration::from_millis(200);
    node.start();
    let mut peer = server.welcome(1).await;
    peer.start(1, &peer.lease(1, 1), tiny(generate("abc", 60_000))).await;
    peer.tokens(1).await;
    node.ask_to_stop();
    while peer.next().await.is_some() {}
    drop(peer);
    node.ended().await.unwrap();
    assert_eq!(node.receipts(), 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_gateway_that_drains_is_attached_to_again_when_the_calls_have_ended() {
    let (mut server, _node, mut peer) = joined(1).await;
    peer.start(1, &peer.lease(1, 1), tiny(generate("abc", 500))).await;
    peer.tokens(1).await;
    peer.say(to_node::Message::Drain(Drain {})).await;
    assert_eq!(peer.receipt().await.1.finish(), Finish::Length);
    while peer.next().await.is_some() {}
    drop(peer);
    let mut peer = server.welcome(2).await;
    assert_eq!(peer.receipt().await.0, 1, "the receipt was not accepted there");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_node_hears_of_its_last_receipt_before_it_leaves_a_gateway_that_drains() {
    let (mut server, node, mut peer) = joined(1).await;
    peer.start(1, &peer.lease(1, 1), tiny(generate("abc", 3))).await;
    peer.tokens(1).await;
    peer.say(to_node::Message::Drain(Drain {})).await;
    peer.receipt().await;
    tokio::time::sleep(Duration::from_millis(300)).await; // so long the log takes until the line is durable
    peer.accept(1, "").await;
    while peer.next().await.is_some() {}
    drop(peer);
    let _again = server.welcome(2).await;
    assert_eq!(node.receipts(), 0, "it need not be sent to a gateway that remembers nothing");
}

#[tokio::test(flavor = "multi_thread")]
async fn another_scheduling_key_than_the_first_is_refused_with_what_to_do() {
    let mut server = Server::start().await;
    let mut node = Node::new(&server.url);
    node.start();
    drop(server.welcome(1).await);
    let mut peer = server.next().await;
    node.crash().await; // as after a restart of the machine
    drop(peer);
    node.start();
    peer = server.next().await;
    peer.challenge().await;
    peer.hello().await;
    let other = SigningKey::from_bytes(&[6; 32]).verifying_key().to_bytes();
    peer.welcome_with(2, &other).await;
    let why = format!("{:#}", node.ended().await.unwrap_err());
    assert!(why.contains("when this node joined first") && why.contains("remove"), "{why}");
    node.options.pin = Some(other);
    node.start();
    let mut peer = server.next().await;
    peer.challenge().await;
    peer.hello().await;
    peer.welcome_with(3, &other).await;
    assert!(tokio::time::timeout(Duration::from_millis(500), peer.next()).await.is_err(), "it stays");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_node_that_is_not_registered_is_told_how_to_be() {
    let why = refused_at_hello(Status::permission_denied("the node is not known")).await;
    assert!(why.contains("the node is not known") && why.contains("register the node and bond it"), "{why}");
}

/// What a node says as it ends that a gateway refuses when it has heard its Hello.
async fn refused_at_hello(status: Status) -> String {
    let mut server = Server::start().await;
    let mut node = Node::new(&server.url);
    node.start();
    let mut peer = server.next().await;
    peer.challenge().await;
    peer.hello().await;
    peer.refuse(status).await;
    format!("{:#}", node.ended().await.unwrap_err())
}

/// A status as a gateway says it.
fn status(code: Code, reason: &'static str) -> Status {
    holmes_proto::edge::status(Refusal::new(code, reason, "as the gateway says it"))
}

#[tokio::test(flavor = "multi_thread")]
async fn a_key_that_is_no_nodes_is_told_to_be_perhaps_a_wallets() {
    let why = refused_at_hello(status(Code::Precondition, "NODE_UNKNOWN")).await;
    assert!(
        why.contains("a wallet") && why.contains("holmes keys new") && why.contains("register and bond"),
        "{why}"
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn a_process_that_another_one_supersedes_ends_and_says_why() {
    let mut server = Server::start().await;
    let mut node = Node::new(&server.url);
    node.start();
    let peer = server.welcome(1).await;
    assert_eq!(peer.instance.len(), 16);
    peer.refuse(status(Code::Precondition, "SUPERSEDED")).await;
    let why = format!("{:#}", node.ended().await.unwrap_err());
    assert!(why.contains("as the gateway says it") && why.contains("does not attach again"), "{why}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_process_keeps_its_name_when_it_attaches_again_and_another_process_has_another() {
    let mut server = Server::start().await;
    let mut node = Node::new(&server.url);
    node.start();
    let first = server.welcome(1).await.instance; // and the stream breaks
    let second = server.welcome(2).await.instance;
    assert_eq!(first, second);
    node.crash().await;
    node.start();
    while server.welcome(3).await.instance == first {} // an attempt of the one that crashed may still stand
}

#[tokio::test(flavor = "multi_thread")]
async fn a_port_that_speaks_http_1_is_told_apart_from_a_gateway() {
    use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url = format!("http://{}", listener.local_addr().unwrap());
    tokio::spawn(async move {
        loop {
            let (mut stream, _) = listener.accept().await.unwrap();
            tokio::spawn(async move {
                let mut bytes = [0; 1_024];
                let _ = stream.read(&mut bytes).await; // whoever asks, and whatever
                let _ = stream.write_all(b"HTTP/1.1 400 Bad Request\r\ncontent-length: 0\r\n\r\n").await;
            });
        }
    });
    let mut node = Node::new(&url);
    node.start();
    let why = format!("{:#}", node.ended().await.unwrap_err());
    assert!(why.contains("speaks HTTP/1") && why.contains("server.listen"), "{why}");
}

#[tokio::test(flavor = "multi_thread")]
async fn an_address_without_http_is_joined_too() {
    let mut server = Server::start().await;
    let mut node = Node::new(server.url.strip_prefix("http://").unwrap());
    node.start();
    server.welcome(1).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_cannot_work_is_said_before_anything_is_loaded() {
    let refused = async |change: &dyn Fn(&mut Node)| {
        let mut node = Node::new("http://127.0.0.1:1");
        change(&mut node);
        node.start();
        format!("{:#}", node.ended().await.unwrap_err())
    };
    for url in ["", "gateway", "ftp://gateway:1", "http://"] {
        let why = refused(&|node| node.options.join = url.into()).await;
        assert!(why.contains("http://gateway.example:7070"), "{url}: {why}");
    }
    let why = refused(&|node| node.options.join = "https://gateway:1".into()).await;
    assert!(why.contains("no TLS"), "{why}");
    let why = refused(&|node| node.options.models[0].1 = "nowhere".into()).await;
    assert!(why.contains("the model tiny is not at nowhere"), "{why}");
    let why = refused(&|node| node.options.slots = 0).await;
    assert!(why.contains("0 slots"), "{why}");
    let why = refused(&|node| node.options.models.clear()).await;
    assert!(why.contains("0 models"), "{why}");
}

#[tokio::test(flavor = "multi_thread")]
async fn two_executors_do_not_share_their_state() {
    let mut server = Server::start().await;
    let mut node = Node::new(&server.url);
    node.start();
    let _peer = server.welcome(1).await;
    let mut second = Node::new(&server.url);
    second.options.state_dir = node.options.state_dir.clone();
    second.start();
    let why = format!("{:#}", second.ended().await.unwrap_err());
    assert!(why.contains("another executor uses"), "{why}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_gateway_that_is_not_there_yet_is_waited_for() {
    let server = Server::start().await;
    let url = server.url.clone();
    drop(server); // the port is known, and nobody listens
    let mut node = Node::new(&url);
    node.start();
    tokio::time::sleep(Duration::from_millis(600)).await;
    node.ask_to_stop();
    node.ended().await.unwrap();
}

//! What breaks: the stream, the worker, the agent, a gateway that does not read.

use std::time::Duration;

use holmes_proto::scheduling::v1::Finish;

use crate::gateway::{Answer, generate, tiny};
use crate::node::{Node, joined, until};

#[tokio::test(flavor = "multi_thread")]
async fn a_stream_that_breaks_leaves_a_receipt_for_what_was_sent_and_the_node_comes_back() {
    let (mut server, node, mut peer) = joined(1).await;
    let lease = peer.lease(1, 1);
    peer.start(1, &lease, tiny(generate("abc", 60_000))).await;
    let mut answer = Answer::default();
    while answer.checkpoints.is_empty() {
        peer.part(1, &mut answer).await;
    }
    drop(peer);
    let mut peer = server.welcome(2).await;
    let (call, line) = peer.receipt().await;
    assert_eq!((call, line.finish()), (1, Finish::NodeLost));
    assert!(line.output_tokens >= answer.checkpoints[0].output_tokens);
    // what belongs to the attachment before is over
    peer.start(2, &lease, tiny(generate("abc", 3))).await;
    assert_eq!(peer.answer(2).await.failed(), "GENERATION_STALE");
    peer.accept(1, "").await;
    peer.start(3, &peer.lease(1, 2), tiny(generate("abc", 3))).await;
    peer.answer(3).await.receipt(Finish::Length);
    assert_eq!(node.receipts(), 1, "only the third's is left");
}

#[tokio::test(flavor = "multi_thread")]
async fn receipts_that_were_not_accepted_are_sent_again_even_by_another_process() {
    let (mut server, mut node, mut peer) = joined(1).await;
    let lease = peer.lease(1, 1);
    let mut lines = Vec::new();
    for call in [1, 2] {
        peer.start(call, &lease, tiny(generate("abc", 3))).await;
        lines.push(peer.answer(call).await.receipt.unwrap());
    }
    node.crash().await;
    drop(peer);
    node.start();
    let mut peer = server.welcome(2).await;
    assert_eq!(peer.receipt().await, (1, lines[0].clone()), "byte for byte");
    assert_eq!(peer.receipt().await, (2, lines[1].clone()));
    peer.accept(1, "").await;
    peer.accept(2, "CALL_UNKNOWN").await; // refused for ever is as good
    until("accepted receipts are forgotten", Duration::from_secs(2), || node.receipts() == 0).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_death_of_the_worker_fails_its_calls_and_the_next_call_works() {
    let (_server, node, mut peer) = joined(1).await;
    let lease = peer.lease(1, 1);
    peer.start(1, &lease, tiny(generate("abc", 60_000))).await;
    let mut answer = Default::default();
    peer.part(1, &mut answer).await;
    node.kill_worker();
    while answer.failed.is_none() {
        peer.part(1, &mut answer).await;
    }
    assert_eq!(answer.failed(), "DEVICE_LOST");
    assert!(!answer.failed.as_ref().unwrap().caller);
    let last = answer.checkpoints.last().expect("what was sent is signed before the end");
    assert_eq!(last.output_tokens, answer.ids.len() as u64);
    // the worker is back within moments, under the same attachment
    for call in 2..100 {
        peer.start(call, &lease, tiny(generate("abc", 3))).await;
        let answer = peer.answer(call).await;
        if answer.failed.is_none() {
            answer.receipt(Finish::Length);
            return;
        }
        assert_eq!(answer.failed(), "DEVICE_LOST");
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    panic!("the worker does not come back");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_worker_that_cannot_load_its_model_says_why() {
    let mut node = Node::new("http://127.0.0.1:1");
    let file = node.options.models[0].1.clone();
    std::fs::write(&file, b"GGUF but no more").unwrap();
    node.start();
    let why = format!("{:#}", node.ended().await.unwrap_err());
    assert!(why.contains("before it was ready") && why.contains("the model tiny cannot be loaded"), "{why}");
    assert_eq!(why.matches(&file.display().to_string()).count(), 1, "its path is told once: {why}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_worker_that_takes_too_long_or_speaks_something_else_is_given_up() {
    let refused = async |program: &str, args: &[&str]| {
        let mut node = Node::new("http://127.0.0.1:1");
        node.options.worker.program = program.into();
        node.options.worker.args = args.iter().map(Into::into).collect();
        node.options.worker.ready_within = Duration::from_millis(500);
        node.start();
        format!("{:#}", node.ended().await.unwrap_err())
    };
    let why = refused("sleep", &["60"]).await;
    assert!(why.contains("not ready within"), "{why}");
    let why = refused("echo", &["hello"]).await;
    assert!(why.contains("no message") || why.contains("before it was ready"), "{why}");
    let why = refused("no-such-program-anywhere", &[]).await;
    assert!(why.contains("cannot be started"), "{why}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_gateway_that_does_not_read_ends_the_call_and_costs_no_memory_without_bound() {
    let (_server, _node, mut peer) = joined(1).await;
    let lease = peer.lease(1, 1);
    peer.start(1, &lease, tiny(generate("abc", 60_000))).await;
    // long enough for every queue on the way to fill
    tokio::time::sleep(Duration::from_secs(8)).await;
    let answer = peer.answer(1).await;
    assert_eq!(answer.failed(), "SLOW_READER");
    assert!(answer.ids.len() < 30_000, "{} tokens waited", answer.ids.len());
    let last = answer.checkpoints.last().unwrap();
    assert_eq!(last.output_tokens, answer.ids.len() as u64, "what was read in the end can be paid");
    peer.start(2, &lease, tiny(generate("abc", 3))).await;
    peer.answer(2).await.receipt(Finish::Length);
}

//! Nodes that attach, stay, fall silent and go.

use std::time::Duration;

use holmes_gateway::Settings;
use holmes_kernel::{Code, Refusal};
use holmes_proto::gateway::v1::gateway_client::GatewayClient;
use holmes_proto::gateway::v1::{Receipt, ToNode, to_node};
use holmes_proto::scheduling::v1::{CallLine, DetachReason};

use super::node::{Offer, Script, hello, id_of, in_order, key};
use super::world::{World, asked, reason, settings, whole};

#[tokio::test]
async fn a_node_is_welcomed_with_what_it_must_know() {
    let world = World::new().await;
    let node = world.node(1, Script::Write(1)).await;
    assert_eq!(node.welcome.scheduling_key.as_ref(), [8; 32]);
    assert_eq!((node.welcome.beat_ms, node.welcome.checkpoint_tokens), (100, 64));
    let generation = world.services.kept(|kept| kept.attached[&id_of(1)].0);
    assert_eq!(node.welcome.generation, generation);
}

#[tokio::test]
async fn a_node_that_signs_with_another_key_is_refused() {
    let world = World::new().await;
    let refused = hello(world.channel.clone(), Offer { signer: key(2), ..Offer::of(1) }).await.unwrap_err();
    assert_eq!(reason(&refused), "SIGNATURE_WRONG");
    assert!(world.services.kept(|kept| kept.attached.is_empty()));
}

#[tokio::test]
async fn presence_is_reported_beat_by_beat() {
    let world = World::new().await;
    let _node = world.node(1, Script::Write(1)).await;
    let seen = || {
        world.services.kept(|kept| {
            let reports = kept.presence.iter().filter(|report| !report.nodes.is_empty());
            reports
                .map(|report| report.nodes[0].bitmap.iter().map(|byte| byte.count_ones()).sum::<u32>())
                .sum::<u32>()
        })
    };
    world.till(|| seen() >= 3).await; // beats of a second
    world.services.kept(|kept| {
        let report = kept.presence.iter().find(|report| !report.nodes.is_empty()).unwrap();
        assert_eq!(report.nodes[0].node_id, id_of(1).to_string());
        assert!(report.beats >= 1);
    });
}

#[tokio::test]
async fn scheduling_hears_of_a_gateway_without_nodes() {
    let world = World::new().await;
    world.till(|| world.services.kept(|kept| kept.presence.iter().any(|report| report.beats == 0))).await;
}

#[tokio::test]
async fn a_node_that_falls_silent_is_detached_and_its_call_moves() {
    let world = World::new().await;
    let (first, second) = in_order();
    let silent = world.node(first, Script::Slowly(1_000, Duration::from_secs(60))).await;
    let stream = world.generate(asked("hello")).await.unwrap();
    world.till(|| !silent.heard.starts().is_empty()).await;
    let _other = world.node(second, Script::Write(3)).await;
    silent.fall_silent();
    let answer = whole(stream).await;
    assert_eq!(answer.moved[0].node_id, id_of(second).to_string());
    let gone = |kept: &mut super::services::Kept| kept.detached.iter().any(|(node, _)| *node == id_of(first));
    world.till(|| world.services.kept(gone)).await;
}

#[tokio::test]
async fn a_second_stream_of_a_node_supersedes_the_first() {
    let world = World::new().await;
    let first = world.node(1, Script::Write(1)).await;
    let second = world.node(1, Script::Write(5)).await;
    assert!(second.welcome.generation > first.welcome.generation);
    let answer = world.hello().await;
    assert_eq!(answer.ended.unwrap().usage.unwrap().output_tokens, 5);
    assert!(first.heard.starts().is_empty());
    assert!(world.services.kept(|kept| kept.attached.contains_key(&id_of(1))));
}

/// How a node's stream ended.
async fn end(words: &mut tonic::Streaming<ToNode>) -> Result<(), String> {
    loop {
        match words.message().await {
            Ok(Some(_)) => {}
            Ok(None) => return Ok(()),
            Err(status) => return Err(reason(&status)),
        }
    }
}

#[tokio::test]
async fn a_node_that_another_process_supersedes_is_told_so_and_one_that_comes_back_is_not() {
    let world = World::new().await;
    let attach = |offer: &Offer| hello(world.channel.clone(), offer.clone());
    let (one, other) = (Offer::of(1), Offer::of(1));
    let (_out, mut first, _) = attach(&one).await.unwrap();
    let (_out, mut again, _) = attach(&one).await.unwrap();
    assert_eq!(end(&mut first).await, Ok(()), "the process knows that it has attached again");
    let (_out, _lasts, _) = attach(&other).await.unwrap();
    assert_eq!(end(&mut again).await, Err("SUPERSEDED".to_owned()));
    let nameless = Offer { instance: Vec::new(), ..Offer::of(2) };
    assert_eq!(reason(&attach(&nameless).await.unwrap_err()), "HELLO_MALFORMED");
}

#[tokio::test]
async fn a_stream_without_a_hello_is_closed_after_a_few_seconds() {
    let world = World::with(Settings { hello_ms: 100, ..settings() }).await;
    let (_out, silent) = tokio::sync::mpsc::channel(1);
    let mut client = GatewayClient::new(world.channel.clone());
    let words = client.attach(tokio_stream::wrappers::ReceiverStream::new(silent)).await;
    assert_eq!(end(&mut words.unwrap().into_inner()).await, Err("HELLO_LATE".to_owned()));
    assert!(Settings::default().hello_ms <= 5_000);
}

#[tokio::test]
async fn a_node_that_was_welcomed_is_no_guest_of_the_port_any_more() {
    let world = World::new().await;
    let limits = |server: &mut holmes_runtime::config::Server| {
        (server.max_guest_streams, server.guest_stream_ms, server.max_streams) = (1, 400, 1);
    };
    let port = world.port(limits).await;
    let node = super::node::Node::attach(port.clone(), Offer::of(1), Script::Write(2)).await;
    for _ in 0..5 {
        let (_out, silent) = tokio::sync::mpsc::channel(1);
        let silent = tokio_stream::wrappers::ReceiverStream::new(silent);
        drop(GatewayClient::new(port.clone()).attach(silent).await); // it takes the guests' only place
    }
    tokio::time::sleep(Duration::from_millis(600)).await;
    assert!(whole(world.generate(asked("hello")).await.unwrap()).await.ended.is_some(), "it stays");
    assert_eq!(reason(&hello(port.clone(), Offer::of(2)).await.unwrap_err()), "OVERLOADED");
    drop(node);
}

#[tokio::test]
async fn a_node_that_leaves_gets_no_calls_and_goes_when_it_has_none() {
    let world = World::new().await;
    let node = world.node(1, Script::Write(1)).await;
    node.leave().await;
    let left = |kept: &mut super::services::Kept| kept.detached == [(id_of(1), DetachReason::Left)];
    world.till(|| world.services.kept(left)).await;
    assert_eq!(reason(&world.generate(asked("hello")).await.unwrap_err()), "MODEL_NOT_SERVED");
}

#[tokio::test]
async fn a_receipt_that_is_sent_again_is_answered_as_before_and_an_unknown_one_is_refused() {
    let world = World::new().await;
    let node = world.node(1, Script::Write(2)).await;
    world.hello().await.ended.unwrap();
    world.till(|| node.heard.accepted() == [""]).await;
    let (lease, line) =
        world.services.kept(|kept| (*kept.leases.keys().next().unwrap(), kept.reported[0].clone()));
    node.resend(Receipt { lease: lease.to_vec().into(), line: Some(line) }).await;
    world.till(|| node.heard.accepted() == ["", ""]).await;
    let unknown = CallLine { call: vec![9; 16].into(), ..CallLine::default() };
    node.resend(Receipt { lease: lease.to_vec().into(), line: Some(unknown) }).await;
    world.till(|| node.heard.accepted() == ["", "", "NOT_DELIVERED_HERE"]).await;
    world.services.kept(|kept| assert_eq!(kept.reported.len(), 1));
}

#[tokio::test]
async fn a_gateway_that_was_restarted_accepts_what_scheduling_knows_and_refuses_the_rest() {
    let world = World::new().await;
    let node = world.node(1, Script::Write(2)).await;
    world.hello().await.ended.unwrap();
    let (lease, line) =
        world.services.kept(|kept| (*kept.leases.keys().next().unwrap(), kept.reported[0].clone()));
    // Of this one only a checkpoint is recorded: scheduling meters it when the session ends.
    let cut = CallLine { call: vec![7; 16].into(), ..line.clone() };
    world.services.kept(|kept| kept.running.push((lease, cut.clone())));
    drop(node);
    let again = World::over(world.services.clone(), settings()).await;
    let node = again.node(1, Script::Write(2)).await;
    let receipt =
        |lease: [u8; 20], line: &CallLine| Receipt { lease: lease.to_vec().into(), line: Some(line.clone()) };
    node.resend(receipt(lease, &line)).await;
    node.resend(receipt(lease, &cut)).await;
    node.resend(receipt([9; 20], &line)).await;
    node.resend(receipt(lease, &CallLine { call: vec![9; 16].into(), ..line.clone() })).await;
    again.till(|| node.heard.accepted().len() == 4).await;
    assert_eq!(node.heard.accepted(), ["", "", "NOT_DELIVERED_HERE", "NOT_DELIVERED_HERE"]);
    let other = again.node(2, Script::Write(2)).await;
    again.services.kept(|kept| kept.running.clear());
    other.resend(receipt(lease, &line)).await;
    again.till(|| other.heard.accepted() == ["NOT_DELIVERED_HERE"]).await; // it is another node's
    world.services.kept(|kept| assert_eq!(kept.reported.len(), 1, "nothing is metered twice"));
}

#[tokio::test]
async fn a_node_that_leaves_hears_first_what_became_of_its_last_call() {
    let world = World::new().await;
    let node = world.node(1, Script::Write(2)).await;
    let down = || Refusal::new(Code::Unavailable, "UNAVAILABLE", "scheduling is away");
    world.services.kept(|kept| kept.refuse_report = (0..4).map(|_| down()).collect()); // for some 400 ms
    let call = world.generate(asked("hello")).await.unwrap();
    world.till(|| node.heard.starts().len() == 1).await;
    node.leave().await;
    assert!(whole(call).await.ended.is_some());
    world.till(|| node.heard.accepted() == [""]).await;
    world.till(|| world.services.kept(|kept| kept.detached == [(id_of(1), DetachReason::Left)])).await;
}

#[tokio::test]
async fn a_full_queue_costs_no_node_its_pay() {
    let world = World::new().await;
    let node = world.node(1, Script::Write(2)).await;
    let full = || Refusal::new(Code::Exhausted, "QUEUE_FULL", "as many wait as may").retry_after(50);
    world.services.kept(|kept| kept.refuse_report = vec![full(); 3]);
    world.hello().await.ended.unwrap();
    world.till(|| node.heard.accepted() == [""]).await;
    world.services.kept(|kept| assert_eq!(kept.reported.len(), 1));
}

#[tokio::test]
async fn a_node_that_leaves_hears_first_what_it_has_asked_about() {
    let world = World::new().await;
    let node = world.node(1, Script::Write(2)).await;
    for call in 1..=50 {
        let line = CallLine { call: vec![call; 16].into(), ..CallLine::default() };
        node.resend(Receipt { lease: vec![9; 20].into(), line: Some(line) }).await;
    }
    node.leave().await;
    world.till(|| world.services.kept(|kept| kept.detached == [(id_of(1), DetachReason::Left)])).await;
    world.till(|| node.heard.accepted() == ["NOT_DELIVERED_HERE"; 50]).await;
}

#[tokio::test]
async fn a_node_that_was_lost_is_answered_for_what_was_reported_of_its_call() {
    let world = World::new().await;
    let (first, second) = in_order();
    let _dies = world.node(first, Script::DieAfter(4)).await;
    let _lives = world.node(second, Script::Write(9)).await;
    world.hello().await.ended.unwrap();
    let (lease, checkpoint) = world.services.kept(|kept| {
        let of_first =
            |lease: &&holmes_proto::scheduling::v1::Lease| lease.node == id_of(first).to_bytes().to_vec();
        (kept.leases.values().find(of_first).unwrap().lease.clone(), kept.reported[0].clone())
    });
    let again = world.node(first, Script::Write(1)).await;
    // It has counted a token more than the gateway had from it.
    let line = CallLine { output_tokens: checkpoint.output_tokens + 1, ..checkpoint };
    again.resend(Receipt { lease, line: Some(line) }).await;
    world.till(|| again.heard.accepted() == [""]).await;
    world.services.kept(|kept| assert_eq!(kept.reported.len(), 2, "each lease's line once"));
}

#[tokio::test]
async fn a_receipt_that_scheduling_did_not_answer_is_reported_when_its_node_sends_it_again() {
    let world = World::with(Settings { report_for_ms: 1, ..settings() }).await;
    let node = world.node(1, Script::Write(2)).await;
    let down = || Refusal::new(Code::Unavailable, "UNAVAILABLE", "scheduling is away");
    world.services.kept(|kept| kept.refuse_report = vec![down(), down(), down()]);
    let ended = world.hello().await.ended.unwrap();
    assert_eq!((ended.receipts.len(), ended.price_micro_usd), (0, 0));
    assert_eq!(node.heard.accepted(), [""; 0], "nothing is said that could change");
    let (lease, start) = world.services.kept(|kept| {
        kept.refuse_report.clear();
        (*kept.leases.keys().next().unwrap(), node.heard.starts()[0].clone())
    });
    let line = CallLine { call: start.call, ..CallLine::default() };
    node.resend(Receipt { lease: lease.to_vec().into(), line: Some(line) }).await;
    world.till(|| node.heard.accepted() == [""]).await;
    world.services.kept(|kept| assert_eq!(kept.reported[0].output_tokens, 2, "as it was countersigned"));
}

#[tokio::test]
async fn a_node_hears_that_a_lease_is_over() {
    let world = World::new().await;
    let node = world.node(1, Script::Write(2)).await;
    world.hello().await.ended.unwrap();
    let over = || node.heard.all().iter().any(|message| matches!(message, to_node::Message::LeaseOver(_)));
    world.till(over).await;
}

#[tokio::test]
async fn a_gateway_that_scheduling_has_given_up_starts_anew_and_its_nodes_attach_again() {
    let world = World::new().await;
    let lost = Refusal::new(Code::Precondition, "GATEWAY_UNKNOWN", "start again");
    world.services.kept(|kept| kept.refuse_presence = Some(lost));
    world.till(|| world.services.kept(|kept| kept.starts == 2) && world.gateway.ready()).await;
    let _node = world.node(1, Script::Write(2)).await;
    assert!(world.hello().await.ended.is_some());
}

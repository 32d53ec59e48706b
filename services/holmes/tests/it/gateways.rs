//! What gateways do, and another gateway tries with what they hold; see `others`. And the stream on which nodes attach:
//! who opens it does not count, what its Hello proves does.

use std::time::Duration;

use ed25519_dalek::{Signer as _, SigningKey};
use holmes_kernel::{Id, PrincipalKind};
use holmes_proto::gateway::v1::gateway_client::GatewayClient;
use holmes_proto::gateway::v1::{Beat, Challenge, FromNode, Hello, from_node, to_node};
use holmes_proto::scheduling::v1::{CallLine, Capabilities, Finish, ServedModel};
use holmes_proto::statements::{attach, call_line, lease_bytes};
use prost_reflect::prost::Message as _;
use serde_json::{Value, json};
use tokio_stream::StreamExt as _;
use tonic::Status;
use tonic::transport::Channel;

use crate::asker::Asker;
use crate::others::{People, Play, base64};
use crate::paid::{self, MODEL, PEOPLE};
use crate::raw::{connect, genesis, now_ms, of_key, reason, secret};

const CELL: u16 = 1;

fn offered() -> Vec<u8> {
    let served = ServedModel { name: MODEL.into(), digest: vec![7; 32].into(), context: 2_048 };
    Capabilities { models: vec![served], slots: 4, ..Capabilities::default() }.encode_to_vec()
}

/// What a node signs to attach to a gateway.
fn attaches(key: &SigningKey, network: [u8; 16], gateway: &[u8], nonce: &[u8]) -> Vec<u8> {
    let fixed = |bytes: &[u8]| bytes.try_into().expect("16 bytes");
    let said = attach(&network, CELL, &fixed(gateway), &fixed(nonce), &offered());
    key.sign(&said).to_bytes().to_vec()
}

/// A call's line, signed by its node and by a gateway.
fn line(network: [u8; 16], lease: &str, call: Id, finish: Finish, keys: (&SigningKey, &SigningKey)) -> Value {
    let (input, output) = if finish == Finish::NodeLost { (10, 1) } else { (10, 4) };
    let hash = || vec![3; 32].into();
    let mut line = CallLine {
        call: call.to_bytes().to_vec().into(),
        input_tokens: input,
        output_tokens: output,
        finish: finish.into(),
        prompt_commitment: hash(),
        output_commitment: hash(),
        ..CallLine::default()
    };
    let said = call_line(&network, CELL, &lease_bytes(lease).expect("a lease's id"), &line);
    line.node_signature = keys.0.sign(&said).to_bytes().to_vec().into();
    line.gateway_signature = keys.1.sign(&said).to_bytes().to_vec().into();
    json!({
        "call": base64(&line.call), "input_tokens": input.to_string(), "output_tokens": output.to_string(),
        "finish": finish.as_str_name(),
        "prompt_commitment": base64(&line.prompt_commitment), "output_commitment": base64(&line.output_commitment),
        "node_signature": base64(&line.node_signature), "gateway_signature": base64(&line.gateway_signature),
    })
}

fn id_bytes(of: &Asker) -> [u8; 16] {
    of.id().parse::<Id>().expect("an id").to_bytes()
}

/// Two gateways: the first one serves a session with a node that it holds, the second one tries the same.
pub(crate) async fn serve<'a>(play: &mut Play<'a>, people: &'a People, session: &str, node: &str) {
    let People { dora, first, second, .. } = people;
    let network = genesis(&std::fs::read(play.place.path("net.toml")).expect("a profile"));
    let key = secret(play.place, "spare.key");
    let public = |of: &Asker| json!({ "public_key": base64(of.key().verifying_key().as_bytes()) });
    play.refused(second, "Scheduling/StartGateway", "public_key", "FORBIDDEN", &public(first)).await;
    let started = play.done(first, "Scheduling/StartGateway", &public(first)).await;
    play.done(second, "Scheduling/StartGateway", &public(second)).await;

    let nonce = [5; 16];
    let signature = attaches(&key, network, &id_bytes(first), &nonce);
    let attach = json!({
        "node_id": node, "capabilities": base64(&offered()), "nonce": base64(&nonce), "signature": base64(&signature),
    });
    play.refused(second, "Scheduling/Attach", "node_id", "SIGNATURE_INVALID", &attach).await;
    let attached = play.done(first, "Scheduling/Attach", &attach).await;
    play.refused(first, "Scheduling/Attach", "node_id", "NONCE_REUSED", &attach).await;

    let presence = seen_now(&started, node);
    play.seen_only(second, "nodes.node_id", &presence, node).await;
    let seen = play.done(first, "Scheduling/ReportPresence", &presence).await;
    assert!(seen["notAttachedNodeIds"].is_null(), "{seen}");

    let place = json!({
        "session_id": session, "model": MODEL, "allowance_pico_usd": "1000000000", "node_id": node,
    });
    let placed = play.given(first, "Scheduling/Place", "node_id", &place).await;
    let lease = placed["leaseId"].as_str().expect("its id").to_owned();
    let renew = json!({ "lease_id": lease, "allowance_pico_usd": "2000000000" });
    play.refused(second, "Scheduling/RenewLease", "lease_id", "FORBIDDEN", &renew).await;
    play.done(first, "Scheduling/RenewLease", &renew).await;

    let call = holmes_runtime::fresh_id();
    let report = |finish, by: &Asker| {
        let line = line(network, &lease, call, finish, (&key, by.key()));
        json!({ "lease_id": lease, "lines": [line] })
    };
    let running = |by| json!({ "leases": [report(Finish::NodeLost, by)] });
    // What it is not the gateway of is not taken in; that nothing has changed the log shows.
    play.answered(second, "Scheduling/ReportRunning", "leases.lease_id", &running(second)).await;
    play.refused(second, "Scheduling/ReportRunning", "leases.lease_id", "SIGNATURE_INVALID", &running(first))
        .await;
    play.done(first, "Scheduling/ReportRunning", &running(first)).await;
    let (own, firsts) = (report(Finish::Stop, second), report(Finish::Stop, first));
    play.refused(second, "Scheduling/ReportCalls", "lease_id", "FORBIDDEN", &own).await;
    play.refused(second, "Scheduling/ReportCalls", "lease_id", "SIGNATURE_INVALID", &firsts).await;
    let reported = play.done(first, "Scheduling/ReportCalls", &firsts).await;
    let receipt = reported["receipts"][0].as_str().unwrap_or_default();
    assert!(receipt.starts_with("receipts/"), "{reported}");
    let wanted = json!({ "name": receipt });
    play.until(dora, "Inference/GetReceipt", &wanted, |told| told["callId"].as_str().map(drop)).await;

    let end = json!({ "lease_id": lease, "reason": "LEASE_END_RELEASED" });
    play.refused(second, "Scheduling/EndLease", "lease_id", "FORBIDDEN", &end).await;
    play.done(first, "Scheduling/EndLease", &end).await;
    let detach = json!({
        "node_id": node, "generation": attached["generation"], "reason": "DETACH_REASON_STREAM_LOST",
    });
    play.refused(second, "Scheduling/Detach", "node_id", "FORBIDDEN", &detach).await;
    play.done(first, "Scheduling/Detach", &detach).await;
}

/// A report that a node was there in the beat that runs now.
fn seen_now(started: &Value, node: &str) -> Value {
    let number =
        |name: &str| started[name].as_str().and_then(|text| text.parse::<u64>().ok()).unwrap_or_default();
    let since = now_ms() - number("tgeAtMs");
    let epoch_ms = number("epochS") * 1_000;
    let beat = since % epoch_ms / (number("beatS") * 1_000);
    json!({
        "epoch": (since / epoch_ms + 1).to_string(), "first_beat": beat, "beats": 1,
        "nodes": [{ "node_id": node, "bitmap": base64(&[1]) }],
    })
}

/// What a node says first, and how it is refused.
struct Word {
    what: &'static str,
    hello: fn(&Node<'_>, &Challenge) -> FromNode,
    reason: &'static str,
}

struct Node<'a> {
    own: &'a SigningKey,
    other: &'a SigningKey,
    /// The question of a stream before.
    asked: &'a Challenge,
}

fn hello(public: &SigningKey, signer: &SigningKey, asked: &Challenge) -> FromNode {
    let network = asked.genesis.as_ref().try_into().expect("16 bytes");
    let hello = Hello {
        public_key: public.verifying_key().to_bytes().to_vec().into(),
        capabilities: offered().into(),
        signature: attaches(signer, network, &asked.gateway, &asked.nonce).into(),
        instance: vec![9; 16].into(),
    };
    FromNode { message: Some(from_node::Message::Hello(hello)) }
}

const WORDS: [Word; 7] = [
    Word {
        what: "no Hello",
        hello: |_, _| FromNode { message: Some(from_node::Message::Beat(Beat {})) },
        reason: "HELLO_MALFORMED",
    },
    Word {
        what: "the key of a node that nobody knows",
        hello: |_, asked| {
            let unknown = SigningKey::from_bytes(&[7; 32]);
            hello(&unknown, &unknown, asked)
        },
        reason: "NODE_UNKNOWN",
    },
    Word {
        what: "another node's key, signed with one's own",
        hello: |node, asked| hello(node.other, node.own, asked),
        reason: "SIGNATURE_INVALID",
    },
    Word {
        what: "one's own key, signed by another node",
        hello: |node, asked| hello(node.own, node.other, asked),
        reason: "SIGNATURE_INVALID",
    },
    Word {
        what: "the right answer to the question of a stream before",
        hello: |node, _| hello(node.own, node.own, node.asked),
        reason: "SIGNATURE_INVALID",
    },
    Word {
        what: "what is signed for another gateway",
        hello: |node, asked| {
            hello(node.own, node.own, &Challenge { gateway: vec![6; 16].into(), ..asked.clone() })
        },
        reason: "SIGNATURE_INVALID",
    },
    Word {
        what: "what is signed for another network",
        hello: |node, asked| {
            hello(node.own, node.own, &Challenge { genesis: vec![6; 16].into(), ..asked.clone() })
        },
        reason: "SIGNATURE_INVALID",
    },
];

/// Opens a stream and answers its question with `say`: the question, and whether the node is welcome.
async fn opens(
    channel: &Channel,
    say: impl FnOnce(&Challenge) -> FromNode,
) -> (Challenge, Result<(), Status>) {
    let (out, messages) = tokio::sync::mpsc::channel(4);
    let stream = tokio_stream::wrappers::ReceiverStream::new(messages);
    let mut words = GatewayClient::new(channel.clone()).attach(stream).await.expect("it opens").into_inner();
    let first = words.message().await.expect("a question").and_then(|word| word.message);
    let Some(to_node::Message::Challenge(asked)) = first else { panic!("no question but {first:?}") };
    out.send(say(&asked)).await.expect("it listens");
    let told = tokio::time::timeout(Duration::from_secs(20), words.next()).await.expect("an answer");
    let welcome = match told {
        Some(Ok(word)) => {
            assert!(matches!(word.message, Some(to_node::Message::Welcome(_))), "{word:?}");
            Ok(())
        }
        Some(Err(status)) => Err(status),
        None => panic!("the stream ended without a word"),
    };
    (asked, welcome)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_node_attaches_by_what_it_signs_over_this_streams_question_and_by_nothing_else() {
    let place = paid::network();
    let server = place.serve(&["--role", "all"]);
    let nodes = paid::nodes(&place, &server);
    let served: Vec<Value> = nodes.iter().map(|node| node_of(&server, &node.id)).collect();
    drop(nodes); // their processes: the keys are ours to speak with
    let channel = connect(&server).await;
    let [own, other] = [0, 1].map(|at: usize| secret(&place, &format!("{}-node.key", PEOPLE[at])));
    let (asked, welcome) = opens(&channel, |asked| hello(&own, &own, asked)).await;
    welcome.expect("its own key and its own signature");
    for Word { what, hello, reason: why } in WORDS {
        let node = Node { own: &own, other: &other, asked: &asked };
        let (_, told) = opens(&channel, |asked| hello(&node, asked)).await;
        let told = told.expect_err(what);
        assert_eq!(reason(&told), why, "{what}: {told:?}");
    }
    let principal = of_key(&other, PrincipalKind::Node).id.to_string();
    let generation = |told: &Value| told["node"]["generation"].as_str().map(str::to_owned);
    let now = node_of(&server, &principal);
    assert!(
        now["node"]["attached"] != true || generation(&now) == generation(&served[1]),
        "nobody attached the other node: {now}"
    );
}

fn node_of(server: &crate::harness::Server<'_>, node: &str) -> Value {
    server.staff("Scheduling/GetNode", &json!({ "node_id": node }))
}

impl Play<'_> {
    /// A report of beats by a gateway that does not hold the node: it is told so.
    async fn seen_only(&mut self, who: &Asker, field: &str, wanted: &Value, node: &str) {
        let said = self.answered(who, "Scheduling/ReportPresence", field, wanted).await;
        assert_eq!(said["notAttachedNodeIds"], json!([node]), "{said}");
    }
}

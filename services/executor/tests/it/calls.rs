//! Calls: what comes back, what is signed of it, and what ends it.

use holmes_proto::gateway::v1::{LeaseOver, from_node, to_node};
use holmes_proto::inference::v1::{
    ChatMessage, Conversation, EmbedWork, FinishReason, GenerateWork, Sampling, Work, generate_work, output,
    work,
};
use holmes_proto::scheduling::v1::{Finish, Lease};
use prost::Message as _;

use crate::gateway::{COMMITMENT_KEY, Peer, Server, generate, now_us, said, scheduling, sign, tiny};
use crate::node::{Node, joined};

#[tokio::test(flavor = "multi_thread")]
async fn a_call_streams_numbered_tokens_with_checkpoints_and_ends_with_a_receipt() {
    let (_server, node, mut peer) = joined(7).await;
    let lease = peer.lease(1, 1);
    peer.start(1, &lease, tiny(generate("abc", 400))).await;
    let answer = peer.answer(1).await;
    let line = answer.receipt(Finish::Length);
    assert_eq!((line.input_tokens, line.output_tokens), (2, 400), "\"ab\" is one token");
    assert_eq!(line.prompt_commitment.as_ref(), blake3::keyed_hash(&COMMITMENT_KEY, b"abc").as_bytes());
    let finished = answer.finished.as_ref().unwrap();
    assert_eq!(finished.reason(), FinishReason::Length);
    assert_eq!(finished.usage.unwrap().output_tokens, 400);
    assert_eq!((answer.first, answer.text.len()), (Some(0), 400));
    assert!(answer.checkpoints.len() >= 5, "one for every 16 tokens, or for each message of at most 64");
    assert_eq!(node.receipts(), 1, "it is kept until it is accepted");
    peer.accept(1, "").await;
    // accepted in order: when the next call answers, the first is forgotten
    peer.start(2, &lease, tiny(generate("abc", 400))).await;
    let again = peer.answer(2).await;
    assert_eq!(
        (again.text.clone(), again.ids.clone()),
        (answer.text, answer.ids),
        "the same question, the same answer"
    );
    assert_eq!(node.receipts(), 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_conversation_is_committed_to_as_its_message() {
    let (_server, _node, mut peer) = joined(7).await;
    let message = |role: &str, content: &str| ChatMessage { role: role.into(), content: content.into() };
    let chat = Conversation { messages: vec![message("system", "be brief"), message("user", "hi")] };
    let prompt = Some(generate_work::Prompt::Chat(chat.clone()));
    let work = GenerateWork { prompt, max_tokens: 3, ..GenerateWork::default() };
    peer.start(1, &peer.lease(1, 1), tiny(work)).await;
    let answer = peer.answer(1).await;
    let commitment = blake3::keyed_hash(&COMMITMENT_KEY, &chat.encode_to_vec());
    assert_eq!(answer.receipt(Finish::Length).prompt_commitment.as_ref(), commitment.as_bytes());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_stop_text_ends_the_answer_and_is_not_part_of_it() {
    let (_server, _node, mut peer) = joined(7).await;
    let lease = peer.lease(1, 1);
    let work = GenerateWork {
        sampling: Some(Sampling { temperature: 1.0, top_k: 4, seed: 3, ..Sampling::default() }),
        ..generate("abc", 30)
    };
    peer.start(1, &lease, tiny(work.clone())).await;
    let whole = peer.answer(1).await.text;
    let stop = whole[10..13].to_owned();
    let before = &whole[..whole.find(&stop).unwrap()];
    peer.start(2, &lease, tiny(GenerateWork { stop: vec![stop], ..work })).await;
    let answer = peer.answer(2).await;
    answer.receipt(Finish::Stop);
    assert_eq!(answer.text, before);
}

#[tokio::test(flavor = "multi_thread")]
async fn an_answer_is_continued_where_it_was_left_when_it_can_be_repeated() {
    let (_server, _node, mut peer) = joined(7).await;
    let lease = peer.lease(1, 1);
    let sampling = Sampling { temperature: 1.0, top_k: 4, seed: 3, ..Sampling::default() };
    let work = GenerateWork { sampling: Some(sampling), ..generate("abc", 30) };
    peer.start(1, &lease, tiny(work.clone())).await;
    let whole = peer.answer(1).await;
    assert_eq!(whole.text.len(), 30, "a letter a token: {}", whole.text);
    peer.start(2, &lease, tiny(GenerateWork { resume_from: 12, ..work.clone() })).await;
    let rest = peer.answer(2).await;
    assert_eq!(rest.first, Some(12));
    assert_eq!((rest.ids.as_slice(), rest.text.as_str()), (&whole.ids[12..], &whole.text[12..]));
    assert_eq!(
        rest.receipt(Finish::Length).output_tokens,
        18,
        "what the renter had already is not sold twice"
    );
    let unseeded = Some(Sampling { seed: 0, ..sampling });
    peer.start(3, &lease, tiny(GenerateWork { resume_from: 1, sampling: unseeded, ..work })).await;
    let refused = peer.answer(3).await;
    assert_eq!(refused.failed(), "RESUME_NOT_REPRODUCIBLE");
    assert!(refused.failed.unwrap().caller);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_cancelled_call_ends_at_once_with_a_receipt_for_what_was_sent() {
    let (_server, _node, mut peer) = joined(7).await;
    let lease = peer.lease(1, 1);
    peer.start(1, &lease, tiny(generate("abc", 60_000))).await;
    let mut answer = Default::default();
    peer.part(1, &mut answer).await;
    peer.cancel(1).await;
    while answer.receipt.is_none() {
        peer.part(1, &mut answer).await;
    }
    assert_eq!(answer.finished.as_ref().unwrap().reason(), FinishReason::Cancelled);
    assert!(answer.receipt(Finish::Cancelled).output_tokens < 60_000);
    peer.cancel(1).await; // one that is over is none
    peer.start(2, &lease, tiny(generate("abc", 3))).await;
    peer.answer(2).await.receipt(Finish::Length);
}

#[tokio::test(flavor = "multi_thread")]
async fn the_end_of_a_lease_ends_its_calls_and_starts_no_more() {
    let (_server, _node, mut peer) = joined(7).await;
    let lease = peer.lease(1, 1);
    peer.start(1, &lease, tiny(generate("abc", 60_000))).await;
    peer.tokens(1).await;
    peer.say(to_node::Message::LeaseOver(LeaseOver { lease: lease.lease.clone() })).await;
    let (call, line) = peer.receipt().await;
    assert_eq!((call, line.finish()), (1, Finish::Cancelled));
    peer.start(2, &lease, tiny(generate("abc", 3))).await;
    assert_eq!(peer.answer(2).await.failed(), "LEASE_ENDED");
    peer.start(3, &peer.lease(1, 2), tiny(generate("abc", 3))).await;
    peer.answer(3).await.receipt(Finish::Length);
}

#[tokio::test(flavor = "multi_thread")]
async fn calls_without_a_lease_of_this_node_and_moment_are_refused_and_change_nothing() {
    let (_server, _node, mut peer) = joined(7).await;
    let good = peer.lease(5, 1);
    peer.start(1, &good, tiny(generate("abc", 3))).await;
    peer.answer(1).await.receipt(Finish::Length);
    let of = |model: &str| Lease { model: model.into(), ..good.clone() };
    let bad = [
        (Lease { expires_at_us: now_us() - 6_000_000, ..good.clone() }, "LEASE_EXPIRED"),
        (Lease { generation: 6, ..good.clone() }, "GENERATION_STALE"),
        (Lease { node: vec![1; 16].into(), ..good.clone() }, "LEASE_OF_OTHER_NODE"),
        (peer.lease(4, 9), "TERM_STALE"),
        (of("other"), "MODEL_NOT_LEASED"),
    ];
    for (lease, reason) in bad {
        peer.start(2, &lease, tiny(generate("abc", 3))).await;
        let answer = peer.answer(2).await;
        assert_eq!(answer.failed(), reason);
        assert!(!answer.failed.unwrap().caller, "another node may take it");
    }
    let forged = sign(&ed25519_dalek::SigningKey::from_bytes(&[6; 32]), &good);
    peer.start_with(2, forged, tiny(generate("abc", 3))).await;
    assert_eq!(peer.answer(2).await.failed(), "LEASE_FORGED");
    let work = Work { model: "other".into(), ..tiny(generate("abc", 3)) };
    peer.start(2, &of("other"), work).await;
    assert_eq!(peer.answer(2).await.failed(), "MODEL_NOT_SERVED");
    // its clock may be five seconds off
    let late = Lease { expires_at_us: now_us() - 2_000_000, ..good };
    peer.start_with(3, sign(&scheduling(), &late), tiny(generate("abc", 3))).await;
    peer.answer(3).await.receipt(Finish::Length);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_bad_question_is_the_callers_fault_and_has_no_receipt() {
    let (_server, node, mut peer) = joined(7).await;
    let lease = peer.lease(1, 1);
    let sampling = |sampling| GenerateWork { sampling: Some(sampling), ..generate("abc", 3) };
    let texts = vec!["a".to_owned()];
    let embed = Work { model: "tiny".into(), work: Some(work::Work::Embed(EmbedWork { texts })) };
    let bad = [
        (tiny(sampling(Sampling { temperature: -1.0, ..Sampling::default() })), "SAMPLING_INVALID"),
        (tiny(sampling(Sampling { logprobs: Some(300), ..Sampling::default() })), "SAMPLING_INVALID"),
        (tiny(generate("", 3)), "PROMPT_EMPTY"),
        (tiny(generate("a", 70_000)), "MAX_TOKENS_INVALID"),
        (tiny(GenerateWork { stop: vec![String::new()], ..generate("a", 3) }), "STOP_INVALID"),
        (tiny(GenerateWork::default()), "PROMPT_MISSING"),
        (embed, "MODEL_KIND_WRONG"),
    ];
    // Each has an id of its own: the node forgets a call a moment after it has answered it.
    for (call, (work, reason)) in (1..).zip(bad) {
        peer.start(call, &lease, work).await;
        let answer = peer.answer(call).await;
        assert_eq!(answer.failed(), reason);
        assert!(answer.failed.unwrap().caller);
    }
    assert_eq!(node.receipts(), 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn no_token_is_sent_beyond_what_the_lease_allows_over_all_its_calls() {
    let (_server, _node, mut peer) = joined(7).await;
    // 2 tokens to read at 1, each token to write at 10
    let lease = Lease { allowance_pico_usd: 2 + 50 + 2 + 300, ..peer.lease(1, 1) };
    peer.start(1, &lease, tiny(generate("abc", 5))).await;
    peer.answer(1).await.receipt(Finish::Length);
    peer.start(2, &lease, tiny(generate("abc", 1_000))).await;
    let cut = peer.answer(2).await;
    assert_eq!(
        cut.finished.as_ref().unwrap().reason(),
        FinishReason::Length,
        "it ends as one that does not fit"
    );
    let sent = cut.receipt(Finish::Length).output_tokens;
    assert!(sent <= 30, "{sent}");
    let renewed = Lease { allowance_pico_usd: 52 + 2 + 10 * sent + 52, ..lease };
    peer.start(3, &renewed, tiny(generate("abc", 5))).await;
    let more = peer.answer(3).await;
    assert_eq!(more.receipt(Finish::Length).output_tokens, 5, "a renewal raises it");
    let nothing = Lease { allowance_pico_usd: 1, ..peer.lease(1, 2) };
    peer.start(4, &nothing, tiny(generate("abc", 5))).await;
    assert_eq!(peer.answer(4).await.failed(), "ALLOWANCE_EXCEEDED", "not even what is to be read");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_node_takes_as_many_calls_as_it_has_slots() {
    let mut server = Server::start().await;
    let mut node = Node::new(&server.url);
    node.options.slots = 2;
    node.start();
    let mut peer = server.welcome(7).await;
    let lease = peer.lease(1, 1);
    for call in [1, 2] {
        peer.start(call, &lease, tiny(generate("abc", 60_000))).await;
        peer.tokens(call).await;
    }
    peer.start(3, &lease, tiny(generate("abc", 3))).await;
    assert!(outcome(&mut peer, 3).await.contains("NO_FREE_SLOT"));
    peer.cancel(1).await;
    assert_eq!(peer.receipt().await.0, 1);
    // the slot is free once the call is closed, which is a moment after its receipt
    for call in 4..100 {
        peer.start(call, &lease, tiny(generate("abc", 3))).await;
        match outcome(&mut peer, call).await.as_str() {
            "receipt" => return,
            failed => assert!(failed.contains("NO_FREE_SLOT"), "{failed}"),
        }
    }
    panic!("the slot was never free");
}

/// How a call ends while others run.
async fn outcome(peer: &mut Peer, call: u8) -> String {
    loop {
        match peer.next().await.unwrap() {
            from_node::Message::Output(out) if out.call == vec![call; 16] => {
                if let Some(output::Output::Failed(failed)) = said(out) {
                    return failed.reason;
                }
            }
            from_node::Message::Receipt(receipt) if receipt.line.as_ref().unwrap().call == vec![call; 16] => {
                return "receipt".into();
            }
            _ => {}
        }
    }
}

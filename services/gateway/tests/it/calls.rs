//! Calls of renters.

use std::time::Duration;

use holmes_gateway::Settings;
use holmes_kernel::{Code, Id, Refusal};
use holmes_proto::inference::v1::generate_response::Part;
use holmes_proto::inference::v1::{
    EmbedRequest, FinishReason, GenerateRequest, GenerateResponse, ListModelsRequest, QuoteRequest, Terms,
    quote_request, work,
};
use holmes_proto::scheduling::v1::Finish;
use tonic::Streaming;
use tonic_types::StatusExt as _;

use super::node::{Script, id_of, in_order};
use super::services::{INPUT_PICO, OUTPUT_PICO};
use super::world::{World, as_renter, asked, details, reason, settings, whole, words};

#[tokio::test]
async fn a_call_brings_its_tokens_and_ends_with_a_receipt_and_its_price() {
    let world = World::new().await;
    let node = world.node(1, Script::Write(9)).await;
    let answer = world.hello().await;
    assert_eq!(answer.text, words(9));
    let (started, ended) = (answer.started.unwrap(), answer.ended.unwrap());
    assert_eq!(started.node_id, id_of(1).to_string());
    assert_eq!(ended.reason(), FinishReason::Stop);
    let price = (5 * INPUT_PICO + 9 * OUTPUT_PICO).div_ceil(1_000_000);
    assert_eq!(ended.price_micro_usd, price + price.div_ceil(50));
    assert!(ended.price_micro_usd <= started.most_micro_usd);
    let usage = ended.usage.unwrap();
    assert_eq!((usage.input_tokens, usage.output_tokens, usage.cached_tokens), (5, 9, 2));
    assert_eq!(ended.receipts.len(), 1);
    world.services.kept(|kept| {
        assert_eq!(kept.reported.len(), 1);
        assert_eq!(kept.after, ["market@77"]);
    });
    world.till(|| node.heard.accepted() == [""]).await;
    let start = &node.heard.starts()[0];
    assert_eq!(start.commitment_key, ended.commitment_key);
    let Some(work::Work::Generate(generate)) = start.work.clone().unwrap().work else { panic!("text") };
    assert_ne!(generate.sampling.unwrap().seed, 0); // so that another node can go on
}

#[tokio::test]
async fn a_lease_serves_a_sessions_next_call_and_is_ended_when_it_is_idle() {
    let world = World::new().await;
    let _node = world.node(1, Script::Write(3)).await;
    for _ in 0..3 {
        world.hello().await.ended.unwrap();
    }
    world.services.kept(|kept| {
        assert_eq!((kept.placed.len(), kept.sessions_opened, kept.reported.len()), (1, 1, 3));
    });
    world.till(|| world.services.kept(|kept| kept.ended.len() == 1)).await;
    world.hello().await.ended.unwrap();
    world.services.kept(|kept| assert_eq!((kept.placed.len(), kept.sessions_opened), (2, 1)));
}

#[tokio::test]
async fn a_lease_serves_so_many_calls_and_then_another_is_placed() {
    let world = World::with(holmes_gateway::Settings { most_calls_per_lease: 2, ..settings() }).await;
    let _node = world.node(1, Script::Write(3)).await;
    for _ in 0..3 {
        world.hello().await.ended.unwrap();
    }
    world.services.kept(|kept| assert_eq!(kept.placed.len(), 2));
}

#[tokio::test]
async fn a_lease_that_is_short_of_time_is_renewed_before_the_next_call() {
    let world = World::new().await;
    world.services.kept(|kept| kept.lease_ms = 5_000); // below what a call wants to have left
    let _node = world.node(1, Script::Write(3)).await;
    world.hello().await.ended.unwrap();
    world.hello().await.ended.unwrap();
    world.services.kept(|kept| assert_eq!((kept.placed.len(), kept.renewed), (1, 1)));
}

#[tokio::test]
async fn a_call_whose_node_dies_goes_on_at_another_one_where_the_text_stood() {
    let world = World::new().await;
    let (first, second) = in_order();
    let _dies = world.node(first, Script::DieAfter(4)).await;
    let lives = world.node(second, Script::Write(9)).await;
    let answer = world.hello().await;
    assert_eq!(answer.text, words(9)); // nothing twice, nothing left out
    assert_eq!(answer.moved.len(), 1);
    assert_eq!(answer.moved[0].lost_node_id, id_of(first).to_string());
    assert_eq!(answer.moved[0].node_id, id_of(second).to_string());
    let ended = answer.ended.unwrap();
    assert_eq!(ended.receipts.len(), 2);
    assert_eq!(ended.usage.unwrap().output_tokens, 9);
    let Some(work::Work::Generate(resumed)) = lives.heard.starts()[0].work.clone().unwrap().work else {
        panic!("text")
    };
    assert_eq!(resumed.resume_from, 4);
    world.services.kept(|kept| {
        let lines: Vec<_> = kept.reported.iter().map(|line| (line.finish(), line.output_tokens)).collect();
        assert_eq!(lines, [(Finish::NodeLost, 4), (Finish::Stop, 5)]);
        assert_eq!(kept.placed[1].avoid_node_ids, [id_of(first).to_string()]);
    });
}

#[tokio::test]
async fn a_node_that_fails_a_call_is_paid_for_what_it_delivered_and_left_out() {
    let world = World::new().await;
    let _node = world.node(1, Script::FailAfter(2)).await;
    let answer = world.hello().await;
    assert_eq!(answer.text, words(2));
    assert_eq!(reason(&answer.error.unwrap()), "NO_NODE_ABLE");
    world.till(|| world.services.kept(|kept| kept.reported.len() == 1)).await;
    world.services.kept(|kept| {
        assert_eq!((kept.reported[0].finish(), kept.reported[0].output_tokens), (Finish::NodeLost, 2));
    });
}

/// A renter hears that his call has started, takes three tokens, one at a time, and hangs up.
async fn hangs_up(mut stream: Streaming<GenerateResponse>) {
    for _ in 0..4 {
        stream.message().await.unwrap();
    }
}

#[tokio::test]
async fn a_renter_who_leaves_cancels_and_pays_for_what_was_delivered() {
    let world = World::new().await;
    let node = world.node(1, Script::Slowly(1_000, Duration::from_millis(20))).await;
    let mut request = asked("hello");
    request.work.as_mut().unwrap().max_tokens = 2_000;
    hangs_up(world.generate(request).await.unwrap()).await;
    world.till(|| node.heard.cancels() == 1).await;
    world.till(|| world.services.kept(|kept| kept.reported.len() == 1)).await;
    world.services.kept(|kept| {
        assert_eq!(kept.reported[0].finish(), Finish::Cancelled);
        assert!((3..100).contains(&kept.reported[0].output_tokens));
    });
    world.till(|| node.heard.accepted() == [""]).await;
}

#[tokio::test]
async fn a_node_sells_a_renter_who_has_left_no_more_than_he_asked_for() {
    let world = World::new().await;
    let _node = world.node(1, Script::Greedy(5_000)).await;
    let mut request = asked("hello");
    request.work.as_mut().unwrap().max_tokens = 10;
    hangs_up(world.generate(request).await.unwrap()).await;
    tokio::time::sleep(Duration::from_millis(500)).await;
    world.services.kept(|kept| {
        let paid: u64 = kept.reported.iter().map(|line| line.output_tokens).sum();
        assert!(paid <= 10, "{paid} tokens are reported");
    });
}

/// What a renter pays who takes three tokens and leaves, of a node that then sends so many more and signs for them.
async fn paid_after_leaving(more: u32) -> u64 {
    let world = World::new().await;
    let node = world.node(1, Script::Greedy(more)).await;
    let mut request = asked("hello");
    request.work.as_mut().unwrap().max_tokens = 2_000;
    hangs_up(world.generate(request).await.unwrap()).await;
    world.till(|| !node.heard.accepted().is_empty()).await;
    world.services.kept(|kept| kept.reported.iter().map(|line| line.output_tokens).sum())
}

#[tokio::test]
async fn a_renter_who_has_left_pays_for_what_was_on_its_way_and_not_for_what_cannot_have_been() {
    assert_eq!(paid_after_leaving(100).await, 103);
    assert_eq!(paid_after_leaving(1_000).await, 0);
}

#[tokio::test]
async fn a_slow_renter_holds_up_nobody_else_and_loses_nothing() {
    let world = World::new().await;
    let node = world.node(1, Script::Write(80)).await;
    let slow = world.generate_as(1, asked("hello")).await.unwrap(); // and takes nothing for now
    let quick = whole(world.generate_as(2, asked("hello")).await.unwrap()).await;
    assert_eq!(quick.text, words(80));
    assert_eq!(whole(slow).await.text, words(80));
    assert_eq!(node.heard.cancels(), 0);
}

#[tokio::test]
async fn a_receipt_above_what_was_delivered_is_refused_and_the_checkpoint_counts() {
    let world = World::new().await;
    let node = world.node(1, Script::Lie(6)).await;
    let answer = world.hello().await;
    assert_eq!(answer.text, words(6));
    assert_eq!(answer.ended.unwrap().usage.unwrap().output_tokens, 6);
    world.services.kept(|kept| {
        assert_eq!((kept.reported[0].finish(), kept.reported[0].output_tokens), (Finish::NodeLost, 6));
    });
    world.till(|| node.heard.accepted().first().is_some_and(|refused| refused == "ABOVE_DELIVERED")).await;
}

#[tokio::test]
async fn what_a_node_has_not_signed_itself_is_never_reported_and_costs_nothing() {
    let world = World::new().await;
    let node = world.node(1, Script::Forge(6)).await;
    let answer = world.hello().await;
    let ended = answer.ended.unwrap();
    assert_eq!((ended.price_micro_usd, ended.receipts.len()), (0, 0));
    assert!(world.services.kept(|kept| kept.reported.is_empty()));
    world.till(|| node.heard.accepted() == ["SIGNATURE_WRONG"]).await;
}

#[tokio::test]
async fn a_report_that_scheduling_refuses_is_not_paid_and_the_node_hears_why() {
    let world = World::new().await;
    let refused = Refusal::new(Code::Precondition, "ALLOWANCE_EXCEEDED", "too much");
    world.services.kept(|kept| kept.refuse_report.push(refused));
    let node = world.node(1, Script::Write(6)).await;
    let ended = world.hello().await.ended.unwrap();
    assert_eq!((ended.price_micro_usd, ended.receipts.len()), (0, 0));
    world.till(|| node.heard.accepted() == ["ALLOWANCE_EXCEEDED"]).await;
}

#[tokio::test]
async fn a_line_that_is_not_metered_is_not_paid_and_the_node_hears_why() {
    let world = World::new().await;
    world.services.kept(|kept| kept.refuse_lines = Some("LEASE_FULL"));
    let node = world.node(1, Script::Write(6)).await;
    let ended = world.hello().await.ended.unwrap();
    assert_eq!((ended.price_micro_usd, ended.receipts.len()), (0, 0));
    world.till(|| node.heard.accepted() == ["LEASE_FULL"]).await;
}

#[tokio::test]
async fn a_report_without_a_definite_answer_is_sent_again() {
    let world = World::new().await;
    let unknown = Refusal::new(Code::Unavailable, "OUTCOME_UNKNOWN", "again");
    world.services.kept(|kept| kept.refuse_report.push(unknown));
    let _node = world.node(1, Script::Write(6)).await;
    let ended = world.hello().await.ended.unwrap();
    assert_eq!(ended.receipts.len(), 1);
}

#[tokio::test]
async fn a_request_id_runs_once() {
    let world = World::new().await;
    let node = world.node(1, Script::Write(6)).await;
    let id = holmes_runtime::fresh_id().to_string();
    let request = || GenerateRequest { request_id: id.clone(), ..asked("hello") };
    assert_eq!(whole(world.generate(request()).await.unwrap()).await.started.unwrap().call_id, id);
    assert_eq!(reason(&world.generate(request()).await.unwrap_err()), "CALL_EXISTS");
    assert_eq!(node.heard.starts().len(), 1);
    let bad = |request_id: &str| GenerateRequest { request_id: request_id.to_owned(), ..asked("hello") };
    assert_eq!(reason(&world.generate(bad("7")).await.unwrap_err()), "FIELD_INVALID");
    let old = Id::v7(1_700_000_000_000, [1; 10]).to_string();
    let expired = world.generate(bad(&old)).await.unwrap_err();
    assert_eq!((expired.code(), reason(&expired).as_str()), (tonic::Code::FailedPrecondition, "ID_EXPIRED"));
}

#[tokio::test]
async fn a_refused_call_has_run_nothing_and_its_id_is_free() {
    let world = World::new().await;
    let id = holmes_runtime::fresh_id().to_string();
    let request = || GenerateRequest { request_id: id.clone(), ..asked("hello") };
    assert_eq!(reason(&world.generate(request()).await.unwrap_err()), "MODEL_NOT_SERVED");
    let _node = world.node(1, Script::Write(6)).await;
    assert!(whole(world.generate(request()).await.unwrap()).await.ended.is_some());
}

#[tokio::test]
async fn a_renter_has_so_many_calls_at_a_time() {
    let world = World::with(holmes_gateway::Settings { most_calls_per_renter: 1, ..settings() }).await;
    let _node = world.node(1, Script::Slowly(50, Duration::from_millis(20))).await;
    let running = world.generate_as(1, asked("hello")).await.unwrap();
    let refused = world.generate_as(1, asked("hello")).await.unwrap_err();
    assert_eq!(
        (refused.code(), reason(&refused).as_str()),
        (tonic::Code::ResourceExhausted, "TOO_MANY_CALLS")
    );
    assert!(world.generate_as(2, asked("hello")).await.is_ok());
    drop(running);
}

#[tokio::test]
async fn a_session_without_a_hold_says_why_and_another_is_opened_next_time() {
    let world = World::with(Settings { session_refused_ms: 50, ..settings() }).await;
    let _node = world.node(1, Script::Write(6)).await;
    world.services.kept(|kept| kept.no_hold = Some("INSUFFICIENT_FUNDS"));
    assert_eq!(reason(&world.generate(asked("hello")).await.unwrap_err()), "INSUFFICIENT_FUNDS");
    world.services.kept(|kept| kept.no_hold = None);
    tokio::time::sleep(Duration::from_millis(60)).await;
    assert!(world.hello().await.ended.is_some());
    world.services.kept(|kept| assert_eq!(kept.sessions_opened, 2));
}

#[tokio::test]
async fn a_renter_without_money_is_refused_from_memory_for_a_moment_however_often_he_asks() {
    let world = World::new().await;
    let _node = world.node(1, Script::Write(6)).await;
    world.services.kept(|kept| kept.no_hold = Some("INSUFFICIENT_FUNDS"));
    let mut calls: tokio::task::JoinSet<_> = (0..50)
        .map(|_| {
            let mut client = world.client();
            async move { client.generate(as_renter(1, asked("hello"))).await.map(drop).unwrap_err() }
        })
        .collect();
    let mut refusals = Vec::new();
    while let Some(refused) = calls.join_next().await {
        refusals.push(refused.unwrap());
    }
    for _ in 0..50 {
        refusals.push(world.generate(asked("hello")).await.unwrap_err());
    }
    for refused in refusals {
        assert_eq!(reason(&refused), "INSUFFICIENT_FUNDS");
        let again = refused.get_details_retry_info().unwrap().retry_delay.unwrap();
        assert!(again <= Duration::from_secs(2), "{again:?}");
    }
    let opened = world.services.kept(|kept| kept.sessions_opened);
    assert!((1..=3).contains(&opened), "{opened} sessions were asked for");
    // Another renter has his own.
    world.services.kept(|kept| kept.no_hold = None);
    assert!(whole(world.generate_as(2, asked("hello")).await.unwrap()).await.ended.is_some());
}

#[tokio::test]
async fn a_session_that_was_closed_is_opened_anew_once() {
    let world = World::new().await;
    let _node = world.node(1, Script::Write(6)).await;
    let closed = || Refusal::new(Code::Precondition, "SESSION_CLOSED", "it is closed");
    world.services.kept(|kept| kept.refuse_place = vec![closed()]);
    assert!(world.hello().await.ended.is_some());
    world.services.kept(|kept| assert_eq!(kept.sessions_opened, 2));
}

#[tokio::test]
async fn what_a_sessions_idle_lease_holds_is_given_up_for_another_models_call() {
    let world = World::with(holmes_gateway::Settings { lease_idle_ms: 60_000, ..settings() }).await;
    let _talks = world.node(1, Script::Write(6)).await;
    world.hello().await.ended.unwrap();
    let full = || Refusal::new(Code::Precondition, "SESSION_BUDGET_EXCEEDED", "end leases");
    // The first is for the greater allowance, the second for what the call needs.
    world.services.kept(|kept| kept.refuse_place = vec![full(), full()]);
    let terms = Terms { node_id: id_of(1).to_string(), ..Terms::default() }; // it fits no idle lease
    let request = GenerateRequest { terms: Some(terms), ..asked("hello") };
    assert!(whole(world.generate(request).await.unwrap()).await.ended.is_some());
    world.services.kept(|kept| assert_eq!(kept.ended.len(), 1));
}

#[tokio::test]
async fn a_call_waits_a_little_for_a_slot_and_no_longer() {
    let world = World::new().await;
    let _node = world.node(1, Script::Write(6)).await;
    let full = || Refusal::new(Code::Exhausted, "NO_NODE_FREE", "wait").retry_after(500);
    world.services.kept(|kept| kept.refuse_place = vec![full(), full(), full()]);
    assert!(world.hello().await.ended.is_some());
    world.till(|| world.services.kept(|kept| !kept.ended.is_empty())).await; // the lease is gone again
    world.services.kept(|kept| kept.refuse_place = (0..100).map(|_| full()).collect());
    let refused = world.generate(asked("hello")).await.unwrap_err();
    assert_eq!((refused.code(), reason(&refused).as_str()), (tonic::Code::ResourceExhausted, "NO_NODE_FREE"));
}

#[tokio::test]
async fn a_price_limit_is_kept_before_anything_runs() {
    let world = World::new().await;
    let node = world.node(1, Script::Write(6)).await;
    let terms = Terms { max_price_micro_usd: 1, ..Terms::default() };
    let request = GenerateRequest { terms: Some(terms), ..asked("hello") };
    assert_eq!(reason(&world.generate(request).await.unwrap_err()), "PRICE_ABOVE_LIMIT");
    assert!(node.heard.starts().is_empty());
    let work = Some(quote_request::Work::Generate(asked("hello").work.unwrap()));
    let quote = QuoteRequest { model: "talker".to_owned(), work, terms: None };
    let quoted = world.client().quote(as_renter(1, quote)).await.unwrap().into_inner();
    assert_eq!(quoted.output_tokens, 100);
    assert_eq!(quoted.total_micro_usd, quoted.price_micro_usd + quoted.buyer_fee_micro_usd);
}

#[tokio::test]
async fn what_the_node_blames_on_the_caller_is_the_callers_error_and_moves_nowhere() {
    let world = World::new().await;
    let _node = world.node(1, Script::Blame("PROMPT_TOO_LONG")).await;
    let answer = world.hello().await;
    let error = answer.error.unwrap();
    assert_eq!(
        (error.code(), reason(&error).as_str()),
        (tonic::Code::InvalidArgument, "CONTEXT_LENGTH_EXCEEDED")
    );
    assert_eq!(error.message(), "the node says: it  [2Jis so");
    world.services.kept(|kept| assert_eq!((kept.placed.len(), kept.reported.len()), (1, 0)));
}

#[tokio::test]
async fn what_no_caller_is_to_blame_for_is_the_nodes_own_failure_and_the_call_moves() {
    let world = World::new().await;
    let (first, second) = in_order();
    let _blames = world.node(first, Script::Blame("INSUFFICIENT_FUNDS")).await;
    let _serves = world.node(second, Script::Write(3)).await;
    let answer = world.hello().await;
    assert_eq!((answer.text, answer.moved.len()), (words(3), 1));
}

#[tokio::test]
async fn a_node_that_counts_tokens_without_text_loses_the_call_and_is_paid_nothing_for_it() {
    let world = World::new().await;
    let (first, second) = in_order();
    let _pads = world.node(first, Script::Pad(90)).await;
    let _serves = world.node(second, Script::Write(9)).await;
    let answer = world.hello().await;
    assert_eq!((answer.text, answer.moved.len()), (words(9), 1));
    world.services.kept(|kept| assert_eq!(kept.lines(), [(Finish::Stop, 8)]));
}

#[tokio::test]
async fn a_few_tokens_without_text_are_paid() {
    let world = World::new().await;
    let _marks = world.node(1, Script::Pad(40)).await;
    let answer = world.hello().await;
    assert_eq!((answer.text, answer.ended.unwrap().usage.unwrap().output_tokens), (words(1), 41));
}

#[tokio::test]
async fn no_more_of_a_prompt_is_cached_than_it_has() {
    let world = World::new().await;
    let _boasts = world.node(1, Script::Boast(3)).await;
    let usage = world.hello().await.ended.unwrap().usage.unwrap();
    assert_eq!((usage.input_tokens, usage.cached_tokens), (5, 5));
}

#[tokio::test]
async fn texts_become_vectors_with_a_receipt() {
    let world = World::new().await;
    let _node = world.node(1, Script::Embed(3, Duration::ZERO)).await;
    let texts = vec!["a".to_owned(), "b".to_owned()];
    let request = EmbedRequest { model: "pointer".to_owned(), texts, ..EmbedRequest::default() };
    let answer = world.client().embed(as_renter(1, request.clone())).await.unwrap().into_inner();
    assert_eq!(answer.vectors.unwrap().values.len(), 2 * 3 * 4);
    assert_eq!(answer.ended.unwrap().receipts.len(), 1);
    world.services.kept(|kept| assert_eq!(kept.reported[0].finish(), Finish::Embedded));
    let other = EmbedRequest { model: "talker".to_owned(), ..request };
    assert_eq!(reason(&world.client().embed(as_renter(1, other)).await.unwrap_err()), "MODEL_UNSUITED");
}

#[tokio::test]
async fn nobody_calls_without_being_known() {
    let world = World::new().await;
    let refused = world.client().generate(asked("hello")).await.unwrap_err();
    assert_eq!(refused.code(), tonic::Code::Unauthenticated);
    let refused = world.client().list_models(ListModelsRequest {}).await.unwrap_err();
    assert_eq!(refused.code(), tonic::Code::Unauthenticated);
}

#[tokio::test]
async fn models_are_listed_with_their_prices_and_nodes() {
    let world = World::new().await;
    let _node = world.node(1, Script::Write(1)).await;
    let models =
        world.client().list_models(as_renter(1, ListModelsRequest {})).await.unwrap().into_inner().models;
    let talker = models.iter().find(|model| model.name == "talker").unwrap();
    assert_eq!((talker.nodes, talker.output_micro_usd_per_million), (1, OUTPUT_PICO));
    assert!(talker.generates);
}

#[tokio::test]
async fn a_gateway_that_stops_lets_calls_end_and_takes_no_new_ones() {
    let world = World::new().await;
    let node = world.node(1, Script::Slowly(10, Duration::from_millis(20))).await;
    let mut running = world.generate(asked("hello")).await.unwrap();
    assert!(matches!(running.message().await.unwrap().unwrap().part, Some(Part::Started(_))));
    world.stop();
    world
        .till(|| {
            node.heard
                .all()
                .iter()
                .any(|m| matches!(m, holmes_proto::gateway::v1::to_node::Message::Drain(_)))
        })
        .await;
    assert_eq!(reason(&world.generate(asked("hello")).await.unwrap_err()), "DRAINING");
    assert_eq!(whole(running).await.ended.unwrap().receipts.len(), 1);
}

#[tokio::test]
async fn a_call_that_outlasts_the_drain_time_is_paid_as_far_as_its_node_has_signed() {
    let world = World::with(Settings { drain_ms: 200, ..settings() }).await;
    let node = world.node(1, Script::Slowly(1_000, Duration::from_millis(20))).await;
    let mut running = world.generate(asked("hello")).await.unwrap();
    assert!(matches!(running.message().await.unwrap().unwrap().part, Some(Part::Started(_))));
    world.stop();
    let cut = loop {
        match running.message().await {
            Ok(part) => assert!(part.is_some(), "the call is not whole"),
            Err(cut) => break cut,
        }
    };
    assert_eq!(reason(&cut), "DRAINING");
    assert!(details(&cut)["receipts"].starts_with("receipts/"), "what it cost: {cut:?}");
    world.till(|| !node.heard.accepted().is_empty()).await;
    assert_eq!(node.heard.accepted(), [""]);
    let reported = world.services.kept(|kept| kept.reported.clone());
    let [line] = reported.as_slice() else { panic!("{reported:?}") };
    assert!(line.finish() == Finish::NodeLost && line.output_tokens > 0 && line.output_tokens < 1_000);
}

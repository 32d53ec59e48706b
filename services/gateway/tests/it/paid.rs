//! Whatever ends a call, what was delivered of it is reported while it can be; and no call runs twice.

use std::time::{Duration, Instant};

use holmes_gateway::Settings;
use holmes_kernel::{Code, Refusal};
use holmes_proto::inference::v1::generate_response::Part;
use holmes_proto::inference::v1::{
    EmbedRequest, FinishReason, GenerateRequest, GenerateResponse, GetReceiptRequest,
};
use holmes_proto::scheduling::v1::{CallLine, Finish, Lease, LeaseEnd};
use holmes_runtime::Clock;
use tonic::Streaming;

use super::log::metered;
use super::node::{Node, Offer, Script, id_of, in_order};
use super::services::{INPUT_PICO, OUTPUT_PICO};
use super::world::{World, as_renter, asked, details, reason, settings, whole, words};

/// Writes for longer than any of these tests lasts.
const LONG: Script = Script::Slowly(2_000, Duration::from_millis(10));

/// A call that writes for long.
async fn long_call(world: &World) -> Streaming<GenerateResponse> {
    let mut request = asked("hello");
    request.work.as_mut().unwrap().max_tokens = 2_000;
    world.generate(request).await.unwrap()
}

/// Takes so many of a call's tokens; their text.
async fn take(stream: &mut Streaming<GenerateResponse>, count: usize) -> String {
    let mut text = String::new();
    let mut taken = 0;
    while taken < count {
        if let Some(Part::Tokens(tokens)) = stream.message().await.unwrap().unwrap().part {
            text.push_str(&tokens.text);
            taken += tokens.ids.len();
        }
    }
    text
}

#[tokio::test]
async fn a_call_whose_session_closes_is_stopped_told_and_paid_to_the_last_token() {
    let world = World::new().await;
    let node = world.node(1, LONG).await;
    let mut stream = long_call(&world).await;
    let began = take(&mut stream, 5).await;
    world.services.kept(|kept| kept.end_all(None, LeaseEnd::SessionClosed));
    let rest = whole(stream).await;
    let ended = rest.ended.unwrap();
    assert_eq!(ended.reason(), FinishReason::SessionOver);
    let written = ended.usage.unwrap().output_tokens;
    assert_eq!(began + &rest.text, words(written), "the renter has what is paid, and pays what he has");
    world.services.kept(|kept| {
        assert_eq!(kept.lines(), [(Finish::Cancelled, u64::from(written))]);
        assert_eq!(kept.reported[0].input_tokens, 5);
    });
    let price = (5 * INPUT_PICO + u64::from(written) * OUTPUT_PICO).div_ceil(1_000_000);
    assert_eq!((ended.receipts.len(), ended.price_micro_usd), (1, price + price.div_ceil(50)));
    world.till(|| node.heard.accepted() == [""]).await;
}

#[tokio::test]
async fn a_closing_sessions_call_runs_on_as_long_as_it_may() {
    let world = World::with(Settings { receipt_wait_ms: 2_000, ..settings() }).await; // so long before it is stopped
    let _node = world.node(1, LONG).await;
    let mut stream = long_call(&world).await;
    take(&mut stream, 2).await;
    let until = Clock::System.now().after_millis(4_000);
    world.services.kept(|kept| kept.end_all(Some(until.micros()), LeaseEnd::SessionClosed));
    let began = Instant::now();
    assert_eq!(whole(stream).await.ended.unwrap().reason(), FinishReason::SessionOver);
    assert!(began.elapsed() >= Duration::from_millis(1_300), "{:?}", began.elapsed());
    assert!(Clock::System.now() < until, "it is reported while the lease is open");
}

#[tokio::test]
async fn a_call_whose_renewal_is_refused_is_reported_before_its_lease_ends() {
    for why in ["SESSION_CLOSING", "SESSION_EXPIRED"] {
        let world = World::with(Settings { receipt_wait_ms: 2_000, ..settings() }).await;
        let closing = Refusal::new(Code::Precondition, why, "it closes");
        world.services.kept(|kept| (kept.lease_ms, kept.refuse_renew) = (5_000, Some(closing)));
        let _node = world.node(1, LONG).await;
        let stream = long_call(&world).await;
        let answer = whole(stream).await;
        let ended = answer.ended.unwrap();
        assert_eq!(ended.reason(), FinishReason::SessionOver);
        assert_eq!(answer.text, words(ended.usage.unwrap().output_tokens));
        world.services.kept(|kept| {
            let lease = kept.leases.values().next().unwrap();
            assert!(lease.expires_at_us > Clock::System.now().micros(), "{why}");
            assert_eq!(kept.lines(), [(Finish::Cancelled, ended.usage.unwrap().output_tokens.into())]);
        });
    }
}

#[tokio::test]
async fn a_call_whose_lease_alone_ends_goes_on_at_another_node_and_both_are_paid_exactly() {
    let world = World::new().await;
    let script = || Script::Slowly(60, Duration::from_millis(10));
    let nodes = [world.node(1, script()).await, world.node(2, script()).await];
    let mut stream = world.generate(asked("hello")).await.unwrap();
    let began = take(&mut stream, 5).await;
    world.services.kept(|kept| kept.end_all(None, LeaseEnd::NodeLost));
    let rest = whole(stream).await;
    assert_eq!(began + &rest.text, words(60), "nothing twice, nothing left out");
    assert_eq!(rest.moved.len(), 1);
    assert_eq!(rest.ended.unwrap().receipts.len(), 2);
    world.services.kept(|kept| {
        let [(first, some), (last, others)] = kept.lines()[..] else { panic!("two lines") };
        assert_eq!((first, last), (Finish::Cancelled, Finish::Stop));
        assert_eq!(some + others, 60);
    });
    for node in nodes {
        world.till(|| node.heard.accepted() == [""]).await;
    }
}

#[tokio::test]
async fn what_runs_is_checkpointed_as_it_comes_and_no_more_often_than_that() {
    let world = World::with(Settings { running_ms: 100, ..settings() }).await;
    let _node = world.node(1, Script::Slowly(50, Duration::from_millis(10))).await;
    let began = Instant::now();
    whole(world.generate(asked("hello")).await.unwrap()).await.ended.unwrap();
    let most = began.elapsed().as_millis() as usize / 100 + 2;
    world.services.kept(|kept| {
        let tokens: Vec<u64> = kept.running.iter().map(|(_, line)| line.output_tokens).collect();
        assert!(tokens.len() >= 2 && tokens.is_sorted() && kept.running_reports <= most, "{tokens:?}");
        assert!(kept.running.iter().all(|(_, line)| line.finish() == Finish::NodeLost));
        assert_eq!(kept.lines(), [(Finish::Stop, 50)]);
    });
}

#[tokio::test]
async fn a_renter_who_takes_nothing_does_not_keep_his_call_from_being_reported() {
    let world = World::with(Settings { renter_buffer: 1, ..settings() }).await;
    let _node = world.node(1, Script::Burst(2_000)).await;
    let mut request = asked("hello");
    request.work.as_mut().unwrap().max_tokens = 2_000;
    let stream = world.narrow_client().await.generate(as_renter(1, request)).await.unwrap();
    // He takes nothing: the connection and all queues fill up.
    tokio::time::sleep(Duration::from_millis(500)).await;
    world.services.kept(|kept| {
        assert!(kept.reported.is_empty());
        kept.end_all(None, LeaseEnd::SessionClosed);
    });
    world.till(|| world.services.kept(|kept| kept.lines() == [(Finish::Stop, 2_000)])).await;
    drop(stream);
}

#[tokio::test]
async fn a_lease_that_ends_serves_no_further_call() {
    let world = World::with(Settings { lease_idle_ms: 60_000, ..settings() }).await;
    let _node = world.node(1, Script::Write(3)).await;
    whole(world.generate(asked("hello")).await.unwrap()).await.ended.unwrap();
    world.services.kept(|kept| kept.end_all(None, LeaseEnd::SessionClosed));
    world.till(|| world.services.kept(|kept| kept.ended.len() == 1)).await;
    whole(world.generate(asked("hello")).await.unwrap()).await.ended.unwrap();
    world.services.kept(|kept| assert_eq!(kept.placed.len(), 2));
}

#[tokio::test]
async fn an_embedding_whose_session_closes_is_refused_and_costs_nothing() {
    let world = World::new().await;
    let _node = world.node(1, Script::Silent).await;
    let request =
        EmbedRequest { model: "pointer".to_owned(), texts: vec!["a".to_owned()], ..Default::default() };
    let mut client = world.client();
    let asked = tokio::spawn(async move { client.embed(as_renter(1, request)).await });
    world.till(|| world.services.kept(|kept| kept.leases.len() == 1)).await;
    world.services.kept(|kept| kept.end_all(None, LeaseEnd::SessionClosed));
    assert_eq!(reason(&asked.await.unwrap().unwrap_err()), "SESSION_OVER");
    assert!(world.services.kept(|kept| kept.reported.is_empty()));
}

#[tokio::test]
async fn embeddings_that_are_hung_up_on_go_on_and_are_billed_where_a_node_has_begun() {
    let world = World::new().await;
    let mut offer = Offer::of(1);
    offer.capabilities.slots = 32; // so many that one account may have twenty
    let node = Node::attach(world.channel.clone(), offer, Script::Embed(3, Duration::from_millis(500))).await;
    let texts = vec!["a".to_owned(), "b".to_owned()];
    let request = EmbedRequest { model: "pointer".to_owned(), texts, ..EmbedRequest::default() };
    let asked: Vec<_> = (0..20)
        .map(|_| {
            let (mut client, request) = (world.client(), request.clone());
            tokio::spawn(async move { client.embed(as_renter(1, request)).await })
        })
        .collect();
    world.till(|| node.heard.starts().len() == 20).await;
    asked.iter().for_each(tokio::task::JoinHandle::abort);
    world.till(|| world.services.kept(|kept| kept.reported.len() == 20)).await;
    world.services.kept(|kept| {
        assert!(kept.lines().iter().all(|line| *line == (Finish::Embedded, 0)));
        assert!(kept.reported.iter().all(|line| line.input_tokens == 5));
    });
    assert_eq!(node.heard.cancels(), 0);
}

#[tokio::test]
async fn a_lost_node_is_paid_though_its_prompt_does_not_fit_twice_into_the_price() {
    let tight = Settings { template_tokens: 0, message_tokens: 0, ..settings() };
    let world = World::with(tight).await;
    let order = |number| id_of(number).to_bytes();
    let (first, second) = if order(1) < order(2) { (1, 2) } else { (2, 1) }; // placements take the lowest id
    let _dies = world.node(first, Script::DieAfter(4)).await;
    let other = world.node(second, Script::Write(9)).await;
    // Five bytes: no more than the five tokens that the nodes read. Reading them again would pass what was said.
    let answer = whole(world.generate(asked("hello")).await.unwrap()).await;
    assert_eq!(answer.text, words(4));
    assert_eq!(reason(&answer.error.unwrap()), "NODE_LOST");
    world.till(|| world.services.kept(|kept| kept.lines() == [(Finish::NodeLost, 4)])).await;
    assert!(other.heard.starts().is_empty());
}

/// A call of a renter's, as the log has it at a place.
fn stands(world: &World, at: u64, renter: u8) {
    let (lease, node) = (vec![1; 20].into(), vec![2; 16].into());
    let lease = Lease { lease, node, session: vec![renter; 16].into(), ..Lease::default() };
    let line = CallLine { call: vec![3; 16].into(), ..CallLine::default() };
    world.services.kept(|kept| _ = kept.metered.insert(at, metered(&lease, vec![line])));
}

#[tokio::test]
async fn a_request_id_that_the_log_knows_does_not_run_again() {
    let world = World::new().await;
    let node = world.node(1, Script::Write(6)).await;
    let id = holmes_runtime::fresh_id().to_string();
    let request = || GenerateRequest { request_id: id.clone(), ..asked("hello") };
    stands(&world, 77, 1);
    stands(&world, 78, 2);
    // Another's call: the id is taken all the same, and nothing else is told of it.
    world.services.kept(|kept| _ = kept.known.insert(id.clone(), "receipts/78.0".to_owned()));
    let refused = world.generate(request()).await.unwrap_err();
    assert_eq!(reason(&refused), "CALL_EXISTS");
    assert!(!refused.message().contains("receipts/"), "{}", refused.message());
    // As a gateway finds it that has restarted since.
    world.services.kept(|kept| _ = kept.known.insert(id.clone(), "receipts/77.0".to_owned()));
    let refused = world.generate(request()).await.unwrap_err();
    assert_eq!((refused.code(), reason(&refused).as_str()), (tonic::Code::AlreadyExists, "CALL_EXISTS"));
    assert!(refused.message().contains("receipts/77.0"), "{}", refused.message());
    assert!(node.heard.starts().is_empty());
    world.services.kept(|kept| kept.known.clear());
    let ended = whole(world.generate(request()).await.unwrap()).await.ended.unwrap(); // the id is free else
    world.services.kept(|kept| _ = kept.known.insert(id.clone(), ended.receipts[0].clone()));
    let refused = world.generate(request()).await.unwrap_err();
    assert!(refused.message().contains(&ended.receipts[0]), "it says the same of a call of its own");
    assert_eq!(node.heard.starts().len(), 1);
}

#[tokio::test]
async fn the_error_of_a_call_that_was_cut_short_names_its_receipt_and_price() {
    let world = World::new().await;
    let _dies = world.node(1, Script::DieAfter(4)).await;
    let error = whole(world.generate(asked("hello")).await.unwrap()).await.error.unwrap();
    let told = details(&error);
    let (name, price) = (told["receipts"].as_str(), 5 * INPUT_PICO + 4 * OUTPUT_PICO);
    let price = price.div_ceil(1_000_000);
    assert_eq!(told["price_micro_usd"], (price + price.div_ceil(50)).to_string(), "{}", reason(&error));
    let request = GetReceiptRequest { name: name.to_owned(), ..Default::default() };
    let receipt = world.client().get_receipt(as_renter(1, request)).await.unwrap().into_inner();
    assert_eq!((receipt.finish.as_str(), receipt.usage.unwrap().output_tokens), ("NODE_LOST", 4));
}

#[tokio::test]
async fn the_error_of_a_call_that_cost_nothing_names_no_receipt() {
    let world = World::new().await;
    let _fails = world.node(1, Script::FailAfter(0)).await;
    let error = whole(world.generate(asked("hello")).await.unwrap()).await.error.unwrap();
    assert!(details(&error).is_empty(), "{error:?}");
}

#[tokio::test]
async fn a_renter_who_hung_up_finds_all_receipts_of_his_call_by_its_request_id() {
    let world = World::new().await;
    let (first, second) = in_order();
    let _dies = world.node(first, Script::DieAfter(4)).await;
    let _lives = world.node(second, LONG).await;
    let mut stream = long_call(&world).await;
    let Some(Part::Started(started)) = stream.message().await.unwrap().unwrap().part else {
        panic!("starts")
    };
    take(&mut stream, 6).await;
    let ask = |who, call_id: &str| {
        let request = GetReceiptRequest { call_id: call_id.to_owned(), ..Default::default() };
        let (mut client, request) = (world.client(), as_renter(who, request));
        async move { client.get_receipt(request).await.map(|answer| answer.into_inner()) }
    };
    drop(stream);
    world.till(|| world.services.kept(|kept| kept.reported.len() == 2)).await;
    let mut found = ask(1, &started.call_id).await.unwrap();
    for _ in 0..400 {
        if found.call_receipts.len() == 2 {
            break;
        }
        tokio::time::sleep(std::time::Duration::from_millis(10)).await; // the report is being answered
        found = ask(1, &started.call_id).await.unwrap();
    }
    assert_eq!(found.call_receipts.len(), 2);
    assert_eq!((found.call_id.as_str(), found.finish.as_str()), (started.call_id.as_str(), "CANCELLED"));
    assert_eq!(found.call_receipts.last(), Some(&found.name));
    let of_first = GetReceiptRequest { name: found.call_receipts[0].clone(), ..Default::default() };
    let of_first = world.client().get_receipt(as_renter(1, of_first)).await.unwrap().into_inner();
    assert_eq!((of_first.call_id, of_first.finish.as_str()), (started.call_id.clone(), "NODE_LOST"));

    assert_eq!(reason(&ask(2, &started.call_id).await.unwrap_err()), "RECEIPT_NOT_FOUND", "another's call");
    let unknown = holmes_runtime::fresh_id().to_string();
    assert_eq!(reason(&ask(1, &unknown).await.unwrap_err()), "RECEIPT_NOT_FOUND");
    assert_eq!(reason(&ask(1, "x").await.unwrap_err()), "FIELD_INVALID");
    let both = GetReceiptRequest { name: found.name, call_id: found.call_id };
    let both = world.client().get_receipt(as_renter(1, both)).await.unwrap_err();
    assert_eq!(reason(&both), "FIELD_INVALID");
}

//! What one party can take of a gateway.

use std::time::Duration;

use holmes_gateway::Settings;
use tonic_types::StatusExt as _;

use super::node::{Node, Offer, Script, capabilities, id_of, in_order};
use super::world::{World, asked, reason, settings, whole};

#[tokio::test]
async fn an_account_holds_so_many_slots_of_a_model_and_leaves_the_others_some() {
    let world = World::new().await;
    let _node = world.node(1, Script::Slowly(90, Duration::from_millis(50))).await; // of four slots
    let mut running = Vec::new();
    for _ in 0..3 {
        running.push(world.generate_as(1, asked("hello")).await.unwrap());
    }
    let refused = world.generate_as(1, asked("hello")).await.unwrap_err();
    assert_eq!(
        (refused.code(), reason(&refused).as_str()),
        (tonic::Code::ResourceExhausted, "ACCOUNT_SLOTS_USED")
    );
    assert!(refused.get_details_retry_info().unwrap().retry_delay.is_some());
    let other = world.generate_as(2, asked("hello")).await.unwrap();
    running.pop();
    while let Err(refused) = world.generate_as(1, asked("hello")).await {
        assert_eq!(reason(&refused), "ACCOUNT_SLOTS_USED"); // until the cancelled call has its receipt
    }
    drop(other);
}

#[tokio::test]
async fn an_account_fills_a_small_node_while_it_is_alone_and_gives_back_what_another_one_wants() {
    let world = World::with(Settings { lease_idle_ms: 60_000, ..settings() }).await;
    let mut small = Offer::of(1);
    small.capabilities.slots = 2;
    let _node =
        Node::attach(world.channel.clone(), small, Script::Slowly(30, Duration::from_millis(10))).await;
    let both = [
        world.generate_as(1, asked("hello")).await.unwrap(),
        world.generate_as(1, asked("hello")).await.unwrap(),
    ];
    for stream in both {
        whole(stream).await.ended.unwrap();
    }
    world
        .services
        .kept(|kept| assert_eq!((kept.placed.len(), kept.ended.len()), (2, 0), "it keeps both slots"));
    let _other = world.generate_as(2, asked("hello")).await.unwrap();
    let own = world.generate_as(1, asked("hello")).await.unwrap();
    let refused = world.generate_as(1, asked("hello")).await.unwrap_err();
    assert_eq!(reason(&refused), "ACCOUNT_SLOTS_USED", "one of two is its share now");
    world.services.kept(|kept| assert_eq!(kept.ended.len(), 1, "the other slot is given back"));
    whole(own).await.ended.unwrap();
}

#[tokio::test]
async fn what_a_node_floods_a_call_with_is_bounded_by_bytes_and_the_call_ends() {
    let (first, second) = if id_of(1) < id_of(2) { (1, 2) } else { (2, 1) }; // placements take the lowest id
    let small = Settings { most_buffered_bytes: 1 << 20, renter_stall_ms: 60_000, ..settings() };
    let world = World::with(small).await;
    let flooding = world.node(first, Script::Flood(100_000)).await;
    let mut request = asked("hello");
    request.work.as_mut().unwrap().max_tokens = 2_000;
    let stream = world.generate(request).await.unwrap(); // and takes nothing for now
    world.till(|| flooding.heard.cancels() > 0).await;
    let _other = world.node(second, Script::Write(3)).await;
    tokio::time::sleep(Duration::from_millis(300)).await; // all that it sends would be 200 MB
    let answer = whole(stream).await;
    let waited = answer.text.len();
    assert!(((1 << 20)..(8 << 20)).contains(&waited), "{waited} bytes have waited");
    assert!(answer.ended.is_some() || answer.error.is_some());
}

#[tokio::test]
async fn a_message_with_more_text_than_tokens_have_fails_the_call_at_its_node() {
    let (first, second) = if id_of(1) < id_of(2) { (1, 2) } else { (2, 1) };
    let world = World::new().await;
    let _huge = world.node(first, Script::Flood(300 << 10)).await;
    let _other = world.node(second, Script::Write(3)).await;
    let answer = whole(world.generate(asked("hello")).await.unwrap()).await;
    assert_eq!((answer.text, answer.moved.len()), (super::world::words(3), 1));
}

#[tokio::test]
async fn a_long_message_of_tiny_parts_is_not_unpacked_and_fails_its_call_alone() {
    let (first, second) = in_order();
    let world = World::new().await;
    // Fifteen MiB of tokens with seven million empty probabilities, which unpacked take several hundred MiB.
    let parts = 7_500_000u32;
    let mut huge = vec![0x0a];
    prost::encoding::encode_varint(u64::from(parts) * 2, &mut huge);
    huge.extend([0x22, 0].repeat(parts as usize));
    let hostile = world.node(first, Script::Garbage(huge)).await;
    let _other = world.node(second, Script::Write(3)).await;
    let answer = whole(world.generate(asked("hello")).await.unwrap()).await;
    assert_eq!((answer.text, answer.moved.len()), (super::world::words(3), 1));
    world
        .services
        .kept(|kept| assert!(kept.attached.contains_key(&id_of(hostile.number)), "its stream stands"));
}

#[tokio::test]
async fn an_output_that_cannot_be_read_fails_its_call_alone() {
    let (first, second) = in_order();
    let world = World::new().await;
    let _odd = world.node(first, Script::Garbage(vec![0xff; 9])).await;
    let _other = world.node(second, Script::Write(3)).await;
    let answer = whole(world.generate(asked("hello")).await.unwrap()).await;
    assert_eq!((answer.text, answer.moved.len()), (super::world::words(3), 1));
}

#[tokio::test]
async fn what_is_too_long_for_one_node_goes_to_one_with_a_longer_context() {
    let (first, second) = if id_of(1) < id_of(2) { (1, 2) } else { (2, 1) };
    let world = World::new().await;
    let _short = world.node(first, Script::Blame("PROMPT_TOO_LONG")).await;
    let mut longer = Offer { capabilities: capabilities(&["talker"]), ..Offer::of(second) };
    longer.capabilities.models[0].context = 4_096;
    let _long = Node::attach(world.channel.clone(), longer, Script::Write(3)).await;
    let answer = whole(world.generate(asked("hello")).await.unwrap()).await;
    assert_eq!(answer.text, super::world::words(3));
    world.services.kept(|kept| {
        let contexts: Vec<u32> = kept.placed.iter().map(|placed| placed.context).collect();
        assert_eq!(contexts, [100, 2_049]);
    });
}

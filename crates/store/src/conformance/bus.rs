//! What every bus must do. A bus brings a [`Broker`]; `bus_conformance_suite!` makes one `#[test]` of each sentence.

use std::future::Future;
use std::time::Duration;

use bytes::Bytes;
use holmes_kernel::LogId;
use holmes_kernel::ports::{Bus, BusError, Carried, Ear as _, Message};

use super::log;

/// A broker without messages, made for one test.
pub trait Broker: Send + Sync + Sized + 'static {
    /// What is tested.
    type Bus: Bus;

    /// A broker with streams for the services 1 to 3 of a cell.
    fn fresh() -> impl Future<Output = Self> + Send;

    /// What it needs and does not have here: its tests say so and are not run.
    fn missing() -> Option<String> {
        None
    }

    /// The cell.
    fn cell(&self) -> u16;

    /// A handle, as another process has it.
    fn handle(&self) -> impl Future<Output = Self::Bus> + Send;

    /// Loses all messages of a log.
    fn lose(&self, log: LogId) -> impl Future<Output = ()> + Send;
}

/// What leaves of a frame with `events` events behind `after`.
pub fn message(log: LogId, after: u64, events: u64) -> Message {
    let (first, last) = (after + 1, after + events);
    Message { log, first, last, body: Bytes::from(format!("{log}: {first} to {last}")) }
}

fn at(broker: &impl Broker, svc: u16) -> LogId {
    LogId::new(broker.cell(), log(svc).svc)
}

/// Publishes `count` messages of three events each behind one another; answers them as they lie.
async fn fill<B: Bus>(bus: &B, log: LogId, count: u64) -> Vec<Carried> {
    let mut lying = Vec::new();
    let mut end = bus.last(log).await.expect("answered").map_or((0, 0), |c| (c.place, c.message.last));
    for _ in 0..count {
        let message = message(log, end.1, 3);
        let place = bus.publish(end.0, &message).await.expect("published");
        assert!(place > end.0, "places rise");
        end = (place, message.last);
        lying.push(Carried { place, message });
    }
    lying
}

async fn hear<B: Bus>(ear: &mut B::Ear, count: usize) -> Vec<Carried> {
    let mut heard = Vec::new();
    while heard.len() < count {
        let next = tokio::time::timeout(Duration::from_secs(20), ear.next()).await;
        heard.push(next.expect("a message before long").expect("heard"));
    }
    heard
}

/// A stream without messages has no end.
pub async fn a_stream_without_messages_has_no_end<T: Broker>() {
    let broker = T::fresh().await;
    assert_eq!(broker.handle().await.last(at(&broker, 1)).await, Ok(None));
}

/// What was published last is the end, whoever asks.
pub async fn what_was_published_last_is_the_end<T: Broker>() {
    let broker = T::fresh().await;
    let lying = fill(&broker.handle().await, at(&broker, 1), 5).await;
    assert_eq!(broker.handle().await.last(at(&broker, 1)).await, Ok(lying.last().cloned()));
}

/// Who has not seen the end cannot publish, nor whoever sees one that is no more.
pub async fn a_message_is_put_only_behind_the_end_that_was_seen<T: Broker>() {
    let broker = T::fresh().await;
    let (bus, log) = (broker.handle().await, at(&broker, 1));
    let lying = fill(&bus, log, 2).await;
    let end = lying[1].place;
    for wrong in [0, lying[0].place, end + 1] {
        let refused = bus.publish(wrong, &message(log, 6, 1)).await;
        assert_eq!(refused, Err(BusError::Moved(log)), "behind {wrong}");
    }
    assert_eq!(bus.last(log).await, Ok(Some(lying[1].clone())), "nothing has changed");
    bus.publish(end, &message(log, 6, 1)).await.expect("behind the end it is put");
}

/// Of publishers that see one end, one goes on.
pub async fn of_publishers_at_one_end_one_goes_on<T: Broker>() {
    let broker = T::fresh().await;
    let log = at(&broker, 1);
    let mut tasks = Vec::new();
    for events in 1..=8 {
        let bus = broker.handle().await;
        tasks.push(tokio::spawn(async move { bus.publish(0, &message(log, 0, events)).await }));
    }
    let mut put = Vec::new();
    for task in tasks {
        match task.await.expect("it ran") {
            Ok(place) => put.push(place),
            Err(why) => assert_eq!(why, BusError::Moved(log)),
        }
    }
    assert_eq!(put.len(), 1);
    let last = broker.handle().await.last(log).await.expect("answered").expect("the one that was put");
    assert_eq!(last.place, put[0]);
}

/// Listeners hear what is there and then what comes, in order, from the message on that holds the next event.
pub async fn listeners_hear_what_is_there_and_then_what_comes<T: Broker>() {
    let broker = T::fresh().await;
    let (bus, log) = (broker.handle().await, at(&broker, 1));
    let mut lying = fill(&bus, log, 40).await;
    // Behind 60: the message 61 to 63; behind 61, in its middle: the same. Behind all: what comes.
    for (after, from) in [(0, 0), (60, 20), (61, 20), (62, 20), (63, 21), (119, 39), (120, 40)] {
        let mut ear = broker.handle().await.listen(log, after).await.expect("open");
        lying.extend(fill(&bus, log, 2).await);
        assert_eq!(hear::<T::Bus>(&mut ear, lying.len() - from).await, lying[from..], "behind {after}");
    }
}

/// A listener ahead of the stream waits, and hears what goes on behind it.
pub async fn a_stream_that_was_lost_is_heard_again_from_where_it_goes_on<T: Broker>() {
    let broker = T::fresh().await;
    let (bus, log) = (broker.handle().await, at(&broker, 1));
    fill(&bus, log, 10).await;
    broker.lose(log).await;
    assert_eq!(bus.last(log).await, Ok(None));
    let again = bus.publish(0, &message(log, 12, 3)).await.expect("published");
    let next = bus.publish(again, &message(log, 15, 3)).await.expect("published");
    let mut ear = bus.listen(log, 12).await.expect("open");
    let heard = hear::<T::Bus>(&mut ear, 2).await;
    assert_eq!(
        heard.iter().map(|c| (c.place, c.message.last)).collect::<Vec<_>>(),
        [(again, 15), (next, 18)]
    );
    let mut late = bus.listen(log, 0).await.expect("open");
    assert_eq!(hear::<T::Bus>(&mut late, 1).await[0].message.first, 13, "what is gone is not made up");
}

/// Logs do not mix.
pub async fn streams_do_not_mix<T: Broker>() {
    let broker = T::fresh().await;
    let bus = broker.handle().await;
    let first = fill(&bus, at(&broker, 1), 3).await;
    let second = fill(&bus, at(&broker, 2), 2).await;
    let mut ear = bus.listen(at(&broker, 2), 0).await.expect("open");
    assert_eq!(hear::<T::Bus>(&mut ear, 2).await, second);
    assert_eq!(bus.last(at(&broker, 1)).await, Ok(first.last().cloned()));
    assert_eq!(bus.last(at(&broker, 3)).await, Ok(None));
}

/// What leaves of the largest frame is carried.
pub async fn a_message_of_the_largest_size_is_carried<T: Broker>() {
    let broker = T::fresh().await;
    let (bus, log) = (broker.handle().await, at(&broker, 1));
    let body = Bytes::from(vec![7; 2 * holmes_kernel::frame::FRAME_BYTES]);
    let message = Message { body, ..message(log, 0, 512) };
    let place = bus.publish(0, &message).await.expect("published");
    let mut ear = bus.listen(log, 0).await.expect("open");
    assert_eq!(hear::<T::Bus>(&mut ear, 1).await, [Carried { place, message }]);
}

/// One `#[test]` for each sentence of the suite, on a broker.
#[macro_export]
macro_rules! bus_conformance_suite {
    ($broker:ty) => {
        $crate::bus_conformance_suite!(@each $broker:
            a_stream_without_messages_has_no_end,
            what_was_published_last_is_the_end,
            a_message_is_put_only_behind_the_end_that_was_seen,
            of_publishers_at_one_end_one_goes_on,
            listeners_hear_what_is_there_and_then_what_comes,
            a_stream_that_was_lost_is_heard_again_from_where_it_goes_on,
            streams_do_not_mix,
            a_message_of_the_largest_size_is_carried,
        );
    };
    (@each $broker:ty: $($name:ident,)*) => {
        $(
            #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
            async fn $name() {
                match <$broker as $crate::conformance::bus::Broker>::missing() {
                    Some(what) => eprintln!("NOT TESTED: {what}"),
                    None => $crate::conformance::bus::$name::<$broker>().await,
                }
            }
        )*
    };
}

//! A consumer over a bus that loses, repeats and falls silent, and a service that does not always answer.

#![allow(clippy::unwrap_used)] // what stands between the tests is a test too

use std::sync::{Arc, Mutex};

use holmes_consumer::{Broken, Consumer, Gaps, NotRead, Place};
use holmes_kernel::ports::{Bus as _, Message};
use holmes_kernel::{LogId, ServiceId, Time};
use holmes_proto::public::{PublicFrame, WireError};
use holmes_store::bus::memory::Bus;
use prost::bytes::Bytes;

const LOG: LogId = LogId::new(1, ServiceId(1));

/// Frames of three events each.
fn history(salt: u8, count: u64) -> Vec<PublicFrame> {
    let chain = |n: u64| [salt.wrapping_add(n as u8); 32];
    let frame = |n: u64| PublicFrame {
        log: LOG,
        term: 1,
        first: 3 * n + 1,
        last: 3 * n + 3,
        ts: Time::from_millis(n),
        prev_chain: if n == 0 { [0; 32] } else { chain(n) },
        chain: chain(n + 1),
        entries: Vec::new(),
    };
    (0..count).map(frame).collect()
}

fn message(frame: &PublicFrame) -> Message {
    Message { log: LOG, first: frame.first, last: frame.last, body: frame.to_bytes() }
}

async fn carry(bus: &Bus, frames: &[PublicFrame]) {
    for frame in frames {
        let end = bus.last(LOG).await.unwrap().map_or(0, |last| last.place);
        bus.publish(end, &message(frame)).await.unwrap();
    }
}

/// The service: what it has, and how often it does not answer first.
#[derive(Clone, Default)]
struct Kept(Arc<Mutex<(Vec<PublicFrame>, u32)>>);

impl Kept {
    fn of(frames: &[PublicFrame]) -> Kept {
        Kept(Arc::new(Mutex::new((frames.to_vec(), 0))))
    }
}

impl Gaps for Kept {
    async fn frames(&mut self, _: LogId, after: u64, upto: u64) -> Result<Vec<PublicFrame>, NotRead> {
        let (frames, away) = &mut *self.0.lock().unwrap();
        if *away > 0 {
            *away -= 1;
            return Err(NotRead::Away("told to".into()));
        }
        Ok(frames.iter().filter(|f| f.last > after && f.first <= upto).take(2).cloned().collect())
    }
}

async fn heard(consumer: &mut Consumer<Bus, Kept>, count: usize) -> Vec<PublicFrame> {
    let mut frames = Vec::new();
    while frames.len() < count {
        let next = tokio::time::timeout(std::time::Duration::from_secs(30), consumer.next()).await;
        frames.push(next.expect("before long").unwrap());
    }
    frames
}

#[tokio::test(start_paused = true)]
async fn every_frame_comes_once_and_in_order_whatever_the_stream_has() {
    let (all, bus) = (history(0, 20), Bus::new());
    // Nothing of the first five, then some, with a gap and with repetitions.
    carry(&bus, &all[5..8]).await;
    carry(&bus, &all[12..14]).await;
    carry(&bus, &all[6..8]).await;
    carry(&bus, &all[13..16]).await;
    let mut consumer = Consumer::new(bus.clone(), Kept::of(&all[..16]), LOG, Place::default());
    assert_eq!(heard(&mut consumer, 16).await, all[..16]);
    carry(&bus, &all[16..]).await;
    assert_eq!(heard(&mut consumer, 4).await, all[16..]);
    let counts = consumer.counts();
    assert!(counts.given == 20 && counts.repaired >= 9 && counts.repeated >= 3, "{counts:?}");
}

#[tokio::test(start_paused = true)]
async fn it_goes_on_from_the_place_that_was_kept() {
    let (all, bus) = (history(0, 10), Bus::new());
    carry(&bus, &all).await;
    let mut place = Place::default();
    for at in 0..5 {
        let mut consumer = Consumer::new(bus.clone(), Kept::of(&all), LOG, place);
        assert_eq!(heard(&mut consumer, 2).await, all[2 * at..2 * at + 2]);
        place = consumer.place();
    }
    // A number alone may lie within a frame: the frame comes whole.
    let mut consumer = Consumer::new(bus, Kept::of(&all), LOG, Place::behind(8));
    assert_eq!(heard(&mut consumer, 1).await[0].first, 7);
}

#[tokio::test(start_paused = true)]
async fn a_stream_that_is_empty_or_shorter_than_the_log_keeps_nothing_back() {
    let (all, bus) = (history(0, 9), Bus::new());
    let mut consumer = Consumer::new(bus.clone(), Kept::of(&all[..7]), LOG, Place::default());
    assert_eq!(heard(&mut consumer, 7).await, all[..7], "read from the service alone");
    carry(&bus, &all[7..]).await;
    assert_eq!(heard(&mut consumer, 2).await, all[7..]);
    bus.lose(LOG, 0);
    carry(&bus, &all[3..5]).await;
    let mut consumer = Consumer::new(bus, Kept::of(&all), LOG, consumer.place());
    assert!(
        tokio::time::timeout(std::time::Duration::from_secs(60), consumer.next()).await.is_err(),
        "what was applied does not come again"
    );
}

#[tokio::test(start_paused = true)]
async fn a_service_that_is_away_is_waited_for() {
    let (all, bus) = (history(0, 6), Bus::new());
    carry(&bus, &all[3..]).await;
    let kept = Kept::of(&all);
    kept.0.lock().unwrap().1 = 4;
    let mut consumer = Consumer::new(bus, kept, LOG, Place::default());
    assert_eq!(heard(&mut consumer, 6).await, all);
    assert_eq!(consumer.counts().away, 4);
}

#[tokio::test(start_paused = true)]
async fn another_history_under_the_same_numbers_is_no_continuation() {
    let (all, other) = (history(0, 6), history(100, 8));
    for (stream, place) in [(&other[..8], 6), (&other[..4], 4)] {
        let bus = Bus::new();
        carry(&bus, &all[..place]).await;
        let mut consumer = Consumer::new(bus.clone(), Kept::of(&other), LOG, Place::default());
        heard(&mut consumer, place).await;
        bus.lose(LOG, 0);
        carry(&bus, stream).await;
        let mut consumer = Consumer::new(bus, Kept::of(&other), LOG, consumer.place());
        for _ in 0..2 {
            match tokio::time::timeout(std::time::Duration::from_secs(60), consumer.next()).await {
                Ok(told) => assert!(matches!(told, Err(Broken::Rewound { log: LOG, .. })), "{told:?}"),
                // A log that was put back behind us and is shorter: it is told once it reaches our place.
                Err(_) => assert_eq!(stream.len(), place),
            }
        }
    }
}

#[tokio::test(start_paused = true)]
async fn a_message_that_is_damaged_or_anothers_is_told() {
    let all = history(0, 2);
    let mut bytes = all[0].to_bytes().to_vec();
    bytes[5] ^= 1;
    let foreign = PublicFrame { log: LogId::new(1, ServiceId(2)), ..all[0].clone() };
    for (body, expected) in [
        (Bytes::from(bytes), Broken::Damaged { log: LOG, why: WireError::Checksum }),
        (foreign.to_bytes(), Broken::Refused(format!("a frame of {} came for {LOG}", foreign.log))),
    ] {
        let bus = Bus::new();
        bus.publish(0, &Message { body, ..message(&all[0]) }).await.unwrap();
        let mut consumer = Consumer::new(bus, Kept::default(), LOG, Place::default());
        assert_eq!(consumer.next().await, Err(expected));
    }
}

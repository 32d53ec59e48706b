//! Logs of the services' own machines, gone on with by somebody else: events that no machine decided. A replay of such a log
//! says where it is damaged, or takes it; then no money was made or lost, and whatever else does not hold can be told.

use std::sync::OnceLock;

use arbitrary::Unstructured;
use holmes_accounts::Accounts;
use holmes_emission::Emission;
use holmes_kernel::frame::Open;
use holmes_kernel::replica::SCHEMA;
use holmes_kernel::{Entry, Frame, LogId, Machine, Opened, Origin, Replica, ServiceId};
use holmes_ledger::Ledger;
use holmes_market::Market;
use holmes_scheduling::Scheduling;
use holmes_sim::deed::day;
use holmes_sim::play::Day;
use holmes_sim::world::log;
use holmes_staking::Staking;
use holmes_treasury::Treasury;
use prost_reflect::prost::Message as _;
use prost_reflect::prost::bytes::Bytes;
use prost_reflect::{DescriptorPool, MessageDescriptor};

use crate::bytes::garbled;

mod events;

/// Entries of one input.
const MOST_ENTRIES: usize = 12;
/// Events of one entry.
const MOST_EVENTS: usize = 4;
/// A day on which much is done and nothing befalls the network.
const SEED: u64 = 7;
const DEEDS: usize = 400;

/// What no replayed log makes a service say: that money was made or lost, and that its state cannot be looked at.
const NEVER: [&str; 4] = ["E-1.1", "E-1.5", "E-4.1", "fails over its own check"];

/// A service's log, of a good day.
struct Story {
    log: LogId,
    frames: Vec<Frame>,
    entries: Vec<Entry>,
    /// Every event, as it is stored.
    events: Vec<Bytes>,
    /// Of its events.
    of: MessageDescriptor,
}

/// Each input goes on with one service's log: the first byte chooses whose.
pub(crate) fn history(bytes: &[u8]) {
    let Some((first, rest)) = bytes.split_first() else { return };
    let mut u = Unstructured::new(rest);
    let stories = stories();
    let story = &stories[usize::from(*first) % stories.len()];
    // Where the bytes are at their end, so is the story.
    let _ = match story.log.svc.0 {
        1 => goes_on::<Ledger>(story, &mut u),
        2 => goes_on::<Accounts>(story, &mut u),
        3 => goes_on::<Staking>(story, &mut u),
        4 => goes_on::<Scheduling>(story, &mut u),
        5 => goes_on::<Market>(story, &mut u),
        6 => goes_on::<Emission>(story, &mut u),
        _ => goes_on::<Treasury>(story, &mut u),
    };
}

fn stories() -> &'static [Story] {
    static STORIES: OnceLock<Vec<Story>> = OnceLock::new();
    STORIES.get_or_init(|| {
        let mut today = Day::begin();
        for deed in day(SEED, DEEDS).iter().filter(|deed| !deed.is_fault()) {
            assert!(today.live(deed), "{:?}", today.wrong);
        }
        let pool = DescriptorPool::decode(holmes_proto::DESCRIPTORS).unwrap();
        (1..=7).map(|service| story(&today, &pool, service)).collect()
    })
}

fn story(today: &Day, pool: &DescriptorPool, service: u16) -> Story {
    let name = holmes_proto::service_name(ServiceId(service)).unwrap();
    let of = pool.get_message_by_name(&format!("holmes.{name}.v1.Event")).unwrap();
    let frames = today.world.frames(ServiceId(service));
    let entries = frames[1..].iter().flat_map(|frame| frame.entries().unwrap());
    let entries: Vec<Entry> = entries.map(|(_, entry)| entry).collect();
    let events = entries.iter().flat_map(|entry| entry.events.clone()).collect();
    Story { log: log(service), frames, entries, events, of }
}

/// The log up to some frame, then what was never decided.
fn goes_on<M: Machine>(story: &Story, u: &mut Unstructured<'_>) -> arbitrary::Result<()> {
    if u.ratio(1u8, 32u8)? {
        return begins::<M>(story, u);
    }
    let upto = u.int_in_range(1..=story.frames.len())?;
    let mut replica = Replica::<M>::open(story.log, &story.frames[0]).unwrap();
    story.frames[1..upto].iter().for_each(|frame| replica.apply(frame).unwrap());
    for _ in 0..MOST_ENTRIES {
        if u.is_empty() {
            break;
        }
        let (frame, said) = frame::<M>(story, &replica, u)?;
        if replica.apply(&frame).is_err() {
            return Ok(()); // a replay says so, with its place, and goes no further
        }
        holds(&replica, &said);
    }
    let again = Replica::<M>::decode(&replica.encode()).unwrap();
    assert_eq!(again.digest(), replica.digest(), "a snapshot is another state");
    Ok(())
}

/// A log that was opened with other parameters is refused, or its first state holds.
fn begins<M: Machine>(story: &Story, u: &mut Unstructured<'_>) -> arbitrary::Result<()> {
    let opening = story.frames[0].entries().unwrap().remove(0).1;
    let Some(Origin::Opened(opened)) = opening.origin else { panic!("a log begins with its opening") };
    let opened = Opened { params: garbled(opened.params, u)?, ..opened };
    let words = format!("{opened:?}");
    if let Ok(first) = Replica::<M>::provision(story.log, story.frames[0].header().ts, opened) {
        holds(&Replica::<M>::open(story.log, &first).unwrap(), &words);
    }
    Ok(())
}

/// A frame with one entry: one of the log's, with other events in it.
fn frame<M: Machine>(
    story: &Story,
    replica: &Replica<M>,
    u: &mut Unstructured<'_>,
) -> arbitrary::Result<(Frame, String)> {
    let entry = u.choose(&story.entries)?;
    let mut forged = Vec::new();
    for _ in 0..u.int_in_range(1..=MOST_EVENTS)? {
        forged.push(events::forged(&story.of, &story.events, u)?);
    }
    let read = forged.iter().filter_map(|bytes| M::Event::decode(bytes.clone()).ok());
    let mut read: Vec<M::Event> = read.filter(|event| holmes_kernel::Event::name(event).is_some()).collect();
    if read.is_empty() {
        read.extend(entry.events.iter().filter_map(|bytes| M::Event::decode(bytes.clone()).ok()));
    }
    let said = format!("{} behind {}: {}", M::NAME, replica.tail().seq, events::words(&story.of, &read));
    let ts = replica.tail().ts.after_millis(1 + u64::from(u.arbitrary::<u16>()?));
    let mut open = Open::new(story.log, replica.tail().term, ts, SCHEMA, replica.tail());
    open.push(&Entry { events: Vec::new(), refused: None, ..entry.clone() }, &read);
    Ok((open.freeze(), said))
}

/// Whether a state that a replay has come by may be. Invariants that cost as much as the state is large are not looked at on
/// the way: a start does at the log's end. So `check` must be able to, and what every step holds must stand.
fn holds<M: Machine>(replica: &Replica<M>, said: &str) {
    let mut broken = replica.check();
    broken.retain(|broken| NEVER.iter().any(|never| broken.0.contains(never)));
    assert!(broken.is_empty(), "{} starts from what breaks it: {broken:?}\n{said}", M::NAME);
}

//! What is read from the log alone, with as little of the kernel as possible: the model that runs are compared with.
#![allow(dead_code, unreachable_pub, missing_docs)]

use std::collections::BTreeMap;

use holmes_kernel::canon::{self, Digest};
use holmes_kernel::shard::recall;
use holmes_kernel::window::{WINDOW_AGE_MS, WINDOW_AHEAD_MS};
use holmes_kernel::{Entry, Id, LogId, Machine, Meta, Origin, Position, Principal, Refusal, Time};
use prost::Message;

use crate::harness::{Answered, Run, START_MS};
use crate::till::{self, Command, Event, Failure, Till, What};

/// An entry of an invented foreign log: the `number`th, three sequence numbers long.
pub struct Foreign {
    pub number: u64,
    pub at: Position,
    pub ts: Time,
    pub command: Option<Command>,
}

/// Every third entry causes nothing; some cause a panic; the others move money.
pub fn foreign(source: LogId, number: u64) -> Foreign {
    let command = match number {
        n if n.is_multiple_of(3) => None,
        n if n % 11 == 10 => Some(hostile(n + 1_000 * u64::from(source.cell))),
        n => Some(Command::Hear { from: till::account(1 + (n % 4) as u8), units: 10 + n }),
    };
    let chain = *blake3::hash(&number.to_le_bytes()).as_bytes();
    let ts = Time::from_millis(START_MS + number * 700);
    Foreign { number, at: Position { term: 1, seq: number * 3, chain }, ts, command }
}

fn hostile(n: u64) -> Command {
    let how = if n.is_multiple_of(2) { Failure::Decide } else { Failure::Evolve };
    Command::Fail { how, n }
}

/// The number of the entry behind a sequence number.
pub fn entry_behind(seq: u64) -> u64 {
    seq / 3 + 1
}

/// Where the last entry before this one that causes something ends: no reader's range begins before it.
pub fn last_cause_before(number: u64) -> u64 {
    (1..number).rev().find(|n| !n.is_multiple_of(3)).map_or(0, |n| n * 3)
}

/// Reads the whole log and compares it with all that was ever answered.
pub fn audit(run: &Run) {
    let mut state = till_state(run);
    let mut digests: BTreeMap<u64, Digest> = BTreeMap::from([(1, canon::digest(&state))]);
    let mut requests: BTreeMap<(Principal, Id), (u64, Entry)> = BTreeMap::new();
    let mut numbers: BTreeMap<Principal, Vec<Entry>> = BTreeMap::new();
    let mut taken: BTreeMap<LogId, Vec<(u64, Entry)>> = BTreeMap::new();
    for frame in &run.disk[1..] {
        let (ts, term) = (frame.header().ts, frame.header().term);
        for (first, entry) in frame.entries().expect("frames on disk are whole") {
            let principal = entry.asked_by();
            for (seq, bytes) in (first..).zip(&entry.events) {
                let event = Event::decode(bytes.clone()).expect("events on disk are whole");
                Till::evolve(&mut state, &event, &Meta { ts, principal, term, seq });
            }
            digests.insert(first + entry.span() - 1, canon::digest(&state));
            match entry.origin.clone().expect("every entry has an origin") {
                Origin::Request(request) => {
                    let id = request.id().expect("request ids have 16 bytes");
                    let moment = id.moment().expect("request ids are UUIDv7");
                    assert!(moment.after_millis(WINDOW_AGE_MS) >= ts, "an expired id ran");
                    assert!(moment <= ts.after_millis(WINDOW_AHEAD_MS), "an id from the future ran");
                    let twice = requests.insert((principal, id), (first, entry));
                    assert!(twice.is_none(), "request {id} ran twice");
                }
                Origin::Submitter(submitter) => {
                    let known = numbers.entry(principal).or_default();
                    assert_eq!(submitter.number, known.len() as u64 + 1, "a submitter's numbers are dense");
                    known.push(entry);
                }
                Origin::Source(source) => {
                    let (log, at) = source.place().expect("a source is a log");
                    assert!(ts > foreign(log, at.seq / 3).ts, "an effect stands before its cause");
                    taken.entry(log).or_default().push((at.seq, entry));
                }
                Origin::Due(_) => {
                    let rang = entry.events.iter().all(|bytes| {
                        let event = Event::decode(bytes.clone()).expect("events on disk are whole");
                        matches!(event.what, Some(What::Rang(alarm)) if alarm.at_us <= ts.micros())
                    });
                    assert!(
                        rang && !entry.events.is_empty(),
                        "due fires when its time has come, with an effect"
                    );
                }
                Origin::Opened(_) => panic!("a log is opened once"),
            }
        }
        assert_eq!(Till::check(&state), [], "behind {}", frame.header().last);
    }
    for asked in &run.asked {
        let Some(answer) = &asked.answer else { continue };
        let (_, entry) =
            requests.get(&(asked.principal, asked.id)).expect("what was acknowledged is in the log");
        assert_eq!(recall::<Till>(entry, &asked.command), *answer, "the log remembers another answer");
    }
    for ((who, number), (command, answer)) in &run.submitted {
        let Some(answer) = answer else { continue };
        let entry = numbers.get(who).and_then(|known| known.get(*number as usize - 1));
        let entry = entry.expect("a submission that was acknowledged is in the log");
        assert_eq!(recall::<Till>(entry, command), *answer, "the log remembers another answer");
    }
    for (seq, state) in &run.told {
        assert_eq!(digests.get(seq), Some(state), "a reader was told what was never so at {seq}");
    }
    for (source, entries) in &taken {
        sources_are_whole(*source, entries);
    }
    assert_eq!(canon::digest(&state), canon::digest(run.shard.replica().state()));
}

fn sources_are_whole(source: LogId, entries: &[(u64, Entry)]) {
    assert!(entries.is_sorted_by(|(a, _), (b, _)| a < b), "a position went back");
    let Some((end, _)) = entries.last() else { return };
    let causes = (1..=end / 3).map(|n| foreign(source, n)).filter(|entry| entry.command.is_some());
    for cause in causes {
        let effect = entries.iter().find(|(seq, _)| *seq == cause.at.seq);
        let (_, effect) = effect.expect("a source's entry was skipped");
        match cause.command {
            Some(Command::Hear { units, .. }) if effect.refused.is_none() => {
                let event = Event::decode(effect.events[0].clone()).expect("events on disk are whole");
                assert!(matches!(event.what, Some(What::Heard(heard)) if heard.units == units));
            }
            _ => assert!(effect.refused.is_some(), "what cannot be carried out is refused, on record"),
        }
    }
}

fn till_state(run: &Run) -> till::State {
    match run.disk[0].entries().expect("the first frame is whole").remove(0).1.origin {
        Some(Origin::Opened(opened)) => Till::init(&opened).expect("it was provisioned"),
        other => panic!("a log begins with its opening, not with {other:?}"),
    }
}

/// Keeps an answer that the log remembers; the same question never gets another one afterwards.
pub fn remember(kept: &mut Option<Answered>, answer: Answered) {
    let gone = |refusal: &Refusal| matches!(&*refusal.reason, "ID_EXPIRED" | "SUBMITTER_FORGOTTEN");
    match kept {
        Some(before) if !answer.as_ref().is_err_and(gone) => {
            assert_eq!(*before, answer, "a repeated request gets the same answer");
        }
        Some(_) => {}
        None => {
            let recorded = |r: &Refusal| matches!(&*r.reason, "NO_FUNDS" | "OVER_LIMIT" | "COMPLAINT");
            if answer.as_ref().map_or_else(recorded, |_| true) {
                *kept = Some(answer);
            }
        }
    }
}

//! Sends between two logs and their answers, every interleaving of them at small bounds: deliveries are lost, come twice or late,
//! readers die, and either log is restored from an older copy. As a model of `kernel::shard`'s inbox, of `runtime`'s reader, which
//! waits for each delivery before it brings the next, and of what design.md decides for restores (`ResumeSource`, ids from the
//! business key; not built yet). With any of its guards switched off it fails.

use std::collections::{HashSet, VecDeque};
use std::hash::{BuildHasher as _, BuildHasherDefault, DefaultHasher, Hash};

#[derive(Clone, Copy, Debug)]
struct Guards {
    /// A machine takes a delivery only if its own position lies within the delivery's range.
    range: bool,
    /// An event carries at most one send.
    one_send: bool,
    /// A reader goes on only where the source's chain is the one that was taken in.
    chain: bool,
    /// The id of a send derives from the business key, not from the event.
    key: bool,
}

const ALL: Guards = Guards { range: true, one_send: true, chain: true, key: true };

/// Commands of the sender's clients; each is a business key.
const KEYS: u8 = 2;
/// The bounds of bad luck.
const LOST: u8 = 1;
const TWICE: u8 = 1;
const DEATHS: u8 = 1;
const RESTORES: u8 = 1;
/// How many of these in one world.
const TOGETHER: u8 = 2;
/// Entries of a log at most.
const ENTRIES: usize = 6;
/// A place in the other log: how many entries, and the last one's own number, which is the chain up to it.
type Place = (u8, u64);

#[derive(Clone, PartialEq, Eq, Hash, Debug)]
enum What {
    /// The sender's: these are sent.
    Sends(Vec<u8>),
    /// The target's: a send has had its effect, and this is the answer.
    Effect(u8),
    /// The target's: a send whose effect there was already; the same answer.
    Again(u8),
    /// The sender's: an answer.
    Answer(u8),
    /// Only the position moves: an answer to nobody, or a person has let the source go on.
    Moved,
}

/// An entry of a log.
#[derive(Clone, PartialEq, Eq, Hash, Debug)]
struct Entry {
    /// The chain up to it: another one behind another entry, and where a log takes another way since it was restored.
    number: u64,
    what: What,
    /// Up to where the other log is taken in with it.
    heard: Option<Place>,
}

/// What a reader brings: from what place to what place, and what stands there.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
struct Delivery {
    to: usize,
    from: u8,
    upto: Place,
    key: u8,
}

/// The sender is log 0, the target log 1.
#[derive(Clone, PartialEq, Eq, Hash, Debug)]
struct World {
    logs: [Vec<Entry>; 2],
    /// Up to where each log's reader has read the other one.
    readers: [Place; 2],
    parked: [bool; 2],
    /// What each reader waits for: all that one entry has caused.
    under_way: [Vec<Delivery>; 2],
    /// What readers had brought that are dead, or what came twice: it may arrive at any time.
    late: Vec<Delivery>,
    /// How often each log was restored.
    ways: [u8; 2],
    bad: [u8; 4],
}

impl World {
    fn new() -> World {
        World {
            logs: [Vec::new(), Vec::new()],
            readers: [(0, 0); 2],
            parked: [false; 2],
            under_way: [Vec::new(), Vec::new()],
            late: Vec::new(),
            ways: [0; 2],
            bad: [LOST, TWICE, DEATHS, RESTORES],
        }
    }

    fn append(&mut self, log: usize, what: What, heard: Option<Place>) {
        let before = self.logs[log].last().map_or(0, |entry| entry.number);
        let number = hashed(&(before, &what, heard, log, self.ways[log]));
        self.logs[log].push(Entry { number, what, heard });
    }

    /// Up to where a log has taken in the other one.
    fn position(&self, log: usize) -> Place {
        self.logs[log].iter().rev().find_map(|entry| entry.heard).unwrap_or((0, 0))
    }

    /// The chain of a log behind so many entries.
    fn chain(&self, log: usize, count: u8) -> Option<u64> {
        match count {
            0 => Some(0),
            count => self.logs[log].get(usize::from(count) - 1).map(|entry| entry.number),
        }
    }

    fn has(&self, log: usize, is: impl Fn(&What) -> bool) -> bool {
        self.logs[log].iter().any(|entry| is(&entry.what))
    }

    fn sent(&self, key: u8) -> bool {
        self.has(0, |what| matches!(what, What::Sends(keys) if keys.contains(&key)))
    }

    /// What a machine does with a delivery; whether it takes it.
    fn deliver(&mut self, delivery: &Delivery, guards: Guards) -> bool {
        let Delivery { to, from, upto, key } = *delivery;
        let at = self.position(to).0;
        if guards.range && !(from <= at && at < upto.0) {
            return false;
        }
        let what = match to {
            1 if guards.key && self.has(1, |what| *what == What::Effect(key)) => What::Again(key),
            1 => What::Effect(key),
            _ if self.sent(key) && !self.has(0, |what| *what == What::Answer(key)) => What::Answer(key),
            _ => What::Moved, // an answer to nobody
        };
        self.append(to, what, Some(upto));
        true
    }

    /// A log's reader begins where its machine stands.
    fn anew(&mut self, log: usize) {
        self.readers[log] = self.position(log);
        self.under_way[log].clear();
    }

    /// A log's reader reads one entry of the other one; what that causes is under way then.
    fn read(&self, log: usize, guards: Guards) -> Option<World> {
        let (other, (count, chain)) = (1 - log, self.readers[log]);
        if self.parked[log] || !self.under_way[log].is_empty() {
            return None;
        }
        let mut next = self.clone();
        if guards.chain && self.chain(other, count) != Some(chain) {
            next.parked[log] = true; // SOURCE_REWOUND
            return Some(next);
        }
        let entry = self.logs[other].get(usize::from(count))?;
        let keys = match &entry.what {
            What::Sends(keys) if log == 1 => keys.clone(),
            What::Effect(key) | What::Again(key) if log == 0 => vec![*key],
            _ => Vec::new(),
        };
        let upto = (count + 1, entry.number);
        // What causes nothing is skipped: the next delivery's range covers it.
        let from = self.position(log).0.min(count);
        next.under_way[log] = keys.into_iter().map(|key| Delivery { to: log, from, upto, key }).collect();
        next.readers[log] = upto;
        Some(next)
    }

    /// What happens when nothing goes wrong.
    fn goes_on(&self, guards: Guards) -> Vec<World> {
        let mut worlds = Vec::new();
        for key in (1..=KEYS).filter(|key| !self.sent(*key)) {
            let mut next = self.clone();
            next.append(0, What::Sends(vec![key]), None);
            worlds.push(next);
        }
        if !guards.one_send && (1..=KEYS).all(|key| !self.sent(key)) {
            let mut next = self.clone();
            next.append(0, What::Sends((1..=KEYS).collect()), None);
            worlds.push(next);
        }
        for log in [0, 1] {
            worlds.extend(self.read(log, guards));
            if self.parked[log] {
                // A person lets the source go on from where both histories are one.
                let (other, mut next) = (1 - log, self.clone());
                let heard = self.logs[log].iter().filter_map(|entry| entry.heard);
                let common = heard.filter(|place| self.chain(other, place.0) == Some(place.1)).max();
                next.append(log, What::Moved, Some(common.unwrap_or((0, 0))));
                next.parked[log] = false;
                next.anew(log);
                worlds.push(next);
            }
            if !self.under_way[log].is_empty() {
                let mut next = self.clone();
                let delivery = next.under_way[log].remove(0);
                if !next.deliver(&delivery, guards) {
                    next.anew(log);
                }
                worlds.push(next);
            }
        }
        for at in 0..self.late.len() {
            let mut next = self.clone();
            let delivery = next.late.remove(at);
            next.deliver(&delivery, guards);
            worlds.push(next);
        }
        worlds
    }

    fn goes_wrong(&self) -> Vec<World> {
        let [lost, twice, deaths, restores] = self.bad;
        let mut worlds = Vec::new();
        if lost + twice + deaths + restores <= LOST + TWICE + DEATHS + RESTORES - TOGETHER {
            return worlds;
        }
        for log in [0, 1] {
            if lost > 0 && !self.under_way[log].is_empty() {
                let mut next = self.clone();
                next.anew(log); // its reader hears of it
                next.bad[0] -= 1;
                worlds.push(next);
            }
            if let (true, Some(delivery)) = (twice > 0, self.under_way[log].first()) {
                let mut next = self.clone();
                next.late.push(delivery.clone());
                next.late.sort_unstable();
                next.bad[1] -= 1;
                worlds.push(next);
            }
            if deaths > 0 {
                let mut next = self.clone();
                let brought = std::mem::take(&mut next.under_way[log]);
                next.late.extend(brought);
                next.late.sort_unstable();
                next.anew(log);
                next.parked[log] = false; // a new reader finds it again
                next.bad[2] -= 1;
                worlds.push(next);
            }
            for keep in 0..self.logs[log].len() {
                if restores > 0 {
                    let mut next = self.clone();
                    next.logs[log].truncate(keep);
                    next.ways[log] += 1;
                    next.late.retain(|late| late.to != log); // its process is another one
                    next.anew(log);
                    next.bad[3] -= 1;
                    worlds.push(next);
                }
            }
        }
        worlds
    }

    /// What must never be.
    fn broken(&self, guards: Guards) -> Option<&'static str> {
        let restored = self.bad[3] < RESTORES;
        for key in 1..=KEYS {
            let effects = self.logs[1].iter().filter(|entry| entry.what == What::Effect(key)).count();
            if effects > 1 {
                return Some("a send has had its effect twice");
            }
            let taken: Vec<_> = self.logs[1].iter().filter(|entry| entry.what != What::Moved).collect();
            let events: HashSet<_> = taken.iter().filter_map(|entry| entry.heard).collect();
            // A person who lets a restored source go on takes its events again: their keys keep their effects one.
            if events.len() < taken.len() && !restored {
                return Some("an event was taken in twice");
            }
            let answered = self.has(0, |what| *what == What::Answer(key));
            if answered && effects == 0 && !restored {
                return Some("an answer without its effect");
            }
        }
        let over = self.goes_on(guards).is_empty();
        let whole = |key| {
            self.has(1, |what| *what == What::Effect(key)) && self.has(0, |what| *what == What::Answer(key))
        };
        (over && !(1..=KEYS).all(whole)).then_some("a send or its answer is lost for ever")
    }
}

fn hashed(of: &impl Hash) -> u64 {
    BuildHasherDefault::<DefaultHasher>::default().hash_one(of)
}

/// How many worlds there are, or what is wrong with one of them.
fn explored(guards: Guards) -> Result<usize, (&'static str, Box<World>)> {
    let (mut seen, mut open) = (HashSet::from([hashed(&World::new())]), VecDeque::from([World::new()]));
    while let Some(world) = open.pop_front() {
        if let Some(what) = world.broken(guards) {
            return Err((what, Box::new(world)));
        }
        for next in world.goes_on(guards).into_iter().chain(world.goes_wrong()) {
            if next.logs.iter().all(|log| log.len() <= ENTRIES) && seen.insert(hashed(&next)) {
                open.push_back(next);
            }
        }
    }
    Ok(seen.len())
}

#[test]
fn every_send_has_its_effect_once_and_its_answer_whatever_is_lost_repeated_or_restored() {
    match explored(ALL) {
        Ok(worlds) => {
            println!("{worlds} worlds");
            assert!(worlds > 10_000, "that is not every interleaving: {worlds}");
        }
        Err((what, world)) => panic!("{what}: {world:#?}"),
    }
}

#[test]
fn without_any_of_its_guards_it_fails() {
    for (guards, expected) in [
        (Guards { range: false, ..ALL }, "an event was taken in twice"),
        (Guards { one_send: false, ..ALL }, "a send or its answer is lost for ever"),
        (Guards { chain: false, ..ALL }, "a send or its answer is lost for ever"),
        (Guards { key: false, ..ALL }, "a send has had its effect twice"),
    ] {
        let (what, _) = explored(guards).expect_err(&format!("it holds without a guard: {guards:?}"));
        assert_eq!(what, expected, "{guards:?}");
    }
}

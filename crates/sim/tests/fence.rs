//! The protocol of the journal on CQL servers, every interleaving of it at small bounds: two processes claim, append, seal, open
//! and read; answers are lost, requests arrive late, processes die. As a model of `store/journal/scylla`: each step is one
//! linearizable operation on one partition, as the servers promise them. With any of its guards switched off it fails.

use std::collections::{HashSet, VecDeque};

/// What keeps two owners of one log apart (`docs/explanation/architecture.md`).
#[derive(Clone, Copy, Debug)]
struct Guards {
    /// A claim writes a nonce beside its term, and an owner checks both.
    nonce: bool,
    /// Writes name the term, so that those of an earlier owner do not apply.
    term: bool,
    /// A read is answered only if the bucket is found not to be sealed.
    sealed_in_read: bool,
    /// A bucket is opened only behind one that is sealed.
    predecessor_sealed: bool,
}

const ALL: Guards = Guards { nonce: true, term: true, sealed_in_read: true, predecessor_sealed: true };

/// Commands that clients send, again and again until they are acknowledged.
const COMMANDS: u8 = 2;
/// Claims altogether, and the bounds of bad luck.
const CLAIMS: u8 = 3;
const BUCKETS: usize = 3;
/// Frames of a bucket.
const FULL: usize = 1;
const LOST_ANSWERS: u8 = 2;
const DEATHS: u8 = 1;

/// Which command each frame of a log holds, and its term: the chain of its end.
type History = Vec<(u8, u8)>;

/// The static columns of a partition; its rows are what its history has behind that of its opening.
#[derive(Clone, PartialEq, Eq, Hash, Debug)]
struct Bucket {
    term: u8,
    owner: u8,
    sealed: bool,
    base: usize,
    history: History,
}

#[derive(Clone, PartialEq, Eq, Hash, Debug)]
enum Write {
    Raise { bucket: usize, before: (u8, u8), now: (u8, u8) },
    Append { bucket: usize, by: (u8, u8), before: History, frame: (u8, u8) },
    Seal { bucket: usize, by: (u8, u8), before: History },
    Open { bucket: usize, now: (u8, u8), history: History },
}

/// What a process is about.
#[derive(Clone, PartialEq, Eq, Hash, Debug)]
enum Process {
    Out,
    /// Waits for the answer to its claim, as this owner.
    Claims {
        now: (u8, u8),
        wrote: Write,
    },
    Owns {
        now: (u8, u8),
        bucket: usize,
        history: History,
        waits: Option<Write>,
    },
}

#[derive(Clone, PartialEq, Eq, Hash, Debug)]
struct World {
    buckets: Vec<Bucket>,
    processes: [Process; 2],
    /// Requests under way whose answers nobody waits for any more: they may arrive at any time.
    late: Vec<Write>,
    acknowledged: Vec<u8>,
    claims: u8,
    lost: u8,
    deaths: u8,
    broken: Option<&'static str>,
}

impl World {
    fn new() -> World {
        let first = Bucket { term: 0, owner: 0, sealed: false, base: 0, history: Vec::new() };
        World {
            buckets: vec![first],
            processes: [Process::Out, Process::Out],
            late: Vec::new(),
            acknowledged: Vec::new(),
            claims: 0,
            lost: 0,
            deaths: 0,
            broken: None,
        }
    }

    /// One conditional write; whether it applied.
    fn write(&mut self, write: &Write, guards: Guards) -> bool {
        let owned = |bucket: &Bucket, by: (u8, u8)| {
            (!guards.term || bucket.term == by.0) && (!guards.term || !guards.nonce || bucket.owner == by.1)
        };
        match write {
            Write::Raise { bucket, before, now } => {
                let bucket = &mut self.buckets[*bucket];
                let is =
                    bucket.term == before.0 && (!guards.nonce || bucket.owner == before.1) && !bucket.sealed;
                if is {
                    (bucket.term, bucket.owner) = *now;
                }
                is
            }
            Write::Append { bucket, by, before, frame } => {
                let bucket = &mut self.buckets[*bucket];
                let is = owned(bucket, *by) && bucket.history == *before && !bucket.sealed;
                if is {
                    bucket.history.push(*frame);
                }
                is
            }
            Write::Seal { bucket, by, before } => {
                let bucket = &mut self.buckets[*bucket];
                let is = owned(bucket, *by) && bucket.history == *before && !bucket.sealed;
                bucket.sealed |= is;
                is
            }
            Write::Open { bucket, now, history } => {
                let is = *bucket == self.buckets.len();
                if is {
                    let base = history.len();
                    let (term, owner) = *now;
                    self.buckets.push(Bucket { term, owner, sealed: false, base, history: history.clone() });
                }
                is
            }
        }
    }

    /// The last bucket, as a serial read finds it.
    fn last(&self) -> (usize, &Bucket) {
        (self.buckets.len() - 1, self.buckets.last().expect("bucket 0 is never gone"))
    }

    /// What a process does that has seen the header: it owns the log now, or somebody else does.
    fn look(&self, now: (u8, u8), guards: Guards) -> Process {
        let (number, last) = self.last();
        let mine = last.term == now.0 && (!guards.nonce || last.owner == now.1) && !last.sealed;
        match mine {
            true => Process::Owns { now, bucket: number, history: last.history.clone(), waits: None },
            false => Process::Out,
        }
    }

    /// An answer has come to who waits for it.
    fn answered(&mut self, who: usize, applied: bool, guards: Guards) {
        let next = match self.processes[who].clone() {
            Process::Out => Process::Out,
            Process::Claims { now, .. } => self.look(now, guards),
            Process::Owns { now, bucket, mut history, waits } => match (waits, applied) {
                (Some(Write::Append { frame, .. }), true) => {
                    history.push(frame);
                    self.acknowledge(frame.0);
                    Process::Owns { now, bucket, history, waits: None }
                }
                (Some(Write::Append { frame, .. }), false) => {
                    self.refused(now, bucket, history, frame, guards)
                }
                (Some(Write::Seal { .. }), true) => {
                    let open = Write::Open { bucket: bucket + 1, now, history: history.clone() };
                    Process::Owns { now, bucket, history, waits: Some(open) }
                }
                (Some(Write::Open { .. }), true) => {
                    Process::Owns { now, bucket: bucket + 1, history, waits: None }
                }
                (Some(Write::Seal { .. } | Write::Open { .. }), false) => {
                    self.rolled(now, bucket, history, guards)
                }
                _ => unreachable!("it waits for a write of an owner"),
            },
        };
        self.processes[who] = next;
    }

    /// An append that did not apply: what is there says why.
    fn refused(
        &mut self,
        now: (u8, u8),
        bucket: usize,
        mut history: History,
        frame: (u8, u8),
        guards: Guards,
    ) -> Process {
        let there = &self.buckets[bucket];
        let mine = there.term == now.0 && (!guards.nonce || there.owner == now.1);
        let mut with = history.clone();
        with.push(frame);
        if mine && there.history == with {
            history = with;
            self.acknowledge(frame.0);
            return Process::Owns { now, bucket, history, waits: None };
        }
        if mine && !there.sealed {
            self.broken = Some("an owner finds what it has not written under its own term");
        }
        Process::Out
    }

    /// A seal or an opening that did not apply: an earlier copy of it has, or somebody else was quicker.
    fn rolled(&mut self, now: (u8, u8), bucket: usize, history: History, guards: Guards) -> Process {
        let (number, last) = self.last();
        let mine = last.term == now.0 && (!guards.nonce || last.owner == now.1);
        if mine && number == bucket && last.sealed {
            let open = Write::Open { bucket: bucket + 1, now, history: history.clone() };
            return Process::Owns { now, bucket, history, waits: Some(open) };
        }
        self.look(now, guards)
    }

    fn acknowledge(&mut self, command: u8) {
        if !self.acknowledged.contains(&command) {
            self.acknowledged.push(command);
            self.acknowledged.sort_unstable();
        }
    }

    /// Everything that can happen next.
    fn steps(&self, guards: Guards) -> Vec<World> {
        let mut next = Vec::new();
        for at in 0..self.late.len() {
            let mut world = self.clone();
            let write = world.late.swap_remove(at);
            world.write(&write, guards);
            next.push(world);
        }
        for who in 0..2 {
            match &self.processes[who] {
                Process::Out => next.extend(self.claim(who, guards)),
                Process::Claims { wrote, .. } => self.waiting(who, wrote, guards, &mut next),
                Process::Owns { now, bucket, history, waits } => {
                    if let Some(write) = waits {
                        self.waiting(who, write, guards, &mut next);
                    } else {
                        self.work(who, *now, *bucket, history, &mut next);
                    }
                    next.extend(self.read(*now, *bucket, history, guards));
                    if self.deaths < DEATHS {
                        let mut world = self.clone();
                        world.deaths += 1;
                        world.late.extend(waits.clone());
                        world.processes[who] = Process::Out;
                        next.push(world);
                    }
                }
            }
        }
        for world in &mut next {
            world.late.sort_by_key(|write| format!("{write:?}"));
        }
        next
    }

    fn claim(&self, who: usize, guards: Guards) -> Option<World> {
        let (number, last) = self.last();
        if self.claims == CLAIMS {
            return None;
        }
        let mut world = self.clone();
        world.claims += 1;
        let now = (last.term + 1, world.claims); // a nonce that no other claim has
        let opens = last.sealed || !guards.predecessor_sealed;
        if opens && number + 1 == BUCKETS {
            return None;
        }
        let wrote = match opens {
            true => Write::Open { bucket: number + 1, now, history: last.history.clone() },
            false => Write::Raise { bucket: number, before: (last.term, last.owner), now },
        };
        world.processes[who] = Process::Claims { now, wrote };
        Some(world)
    }

    /// The write arrives and is answered; or arrives, and its answer is lost; or is late. Then it is written again.
    fn waiting(&self, who: usize, write: &Write, guards: Guards, next: &mut Vec<World>) {
        let mut answered = self.clone();
        let applied = answered.write(write, guards);
        answered.answered(who, applied, guards);
        next.push(answered);
        if self.lost < LOST_ANSWERS {
            let mut unheard = self.clone();
            unheard.lost += 1;
            unheard.write(write, guards);
            next.push(unheard);
            let mut late = self.clone();
            late.lost += 1;
            late.late.push(write.clone());
            next.push(late);
        }
    }

    /// An owner takes a command, or rolls to the next bucket first.
    fn work(&self, who: usize, now: (u8, u8), bucket: usize, history: &History, next: &mut Vec<World>) {
        let full = history.len() - self.buckets[bucket].base >= FULL;
        for command in 0..COMMANDS {
            let mut world = self.clone();
            if history.iter().any(|(known, _)| *known == command) {
                world.acknowledge(command); // a repeated request is answered as before
                next.push(world);
                continue;
            }
            let before = history.clone();
            let write = match full {
                true if bucket + 1 == BUCKETS => continue,
                true => Write::Seal { bucket, by: now, before },
                false => Write::Append { bucket, by: now, before, frame: (command, now.0) },
            };
            world.processes[who] =
                Process::Owns { now, bucket, history: history.clone(), waits: Some(write) };
            next.push(world);
        }
    }

    /// A read of the latest state: the owner looks whether it still is, then answers from memory.
    fn read(&self, now: (u8, u8), bucket: usize, history: &History, guards: Guards) -> Option<World> {
        let there = &self.buckets[bucket];
        let mine = there.term == now.0 && (!guards.nonce || there.owner == now.1);
        let confirmed = mine && (!guards.sealed_in_read || !there.sealed);
        let known = |command: &u8| history.iter().any(|(known, _)| known == command);
        let stale = confirmed && !self.acknowledged.iter().all(known);
        stale.then(|| World {
            broken: Some("a read misses what was acknowledged before it began"),
            ..self.clone()
        })
    }

    /// What must hold, whatever happened.
    fn wrong(&self) -> Option<&'static str> {
        let (_, last) = self.last();
        let once = |command| last.history.iter().filter(|(known, _)| *known == command).count() <= 1;
        let pairs = || self.buckets.iter().zip(self.buckets.iter().skip(1));
        [
            (self.broken.is_none(), self.broken.unwrap_or_default()),
            (pairs().all(|(before, _)| before.sealed), "a bucket stands behind one that is not sealed"),
            (
                pairs().all(|(before, after)| {
                    after.history.starts_with(&before.history) && after.base == before.history.len()
                }),
                "two buckets are no chain",
            ),
            ((0..COMMANDS).all(once), "a command stands in the log twice"),
            (
                last.history.is_sorted_by_key(|(_, term)| *term),
                "an older owner has written behind a newer one",
            ),
            (
                self.acknowledged
                    .iter()
                    .all(|command| last.history.iter().any(|(known, _)| known == command)),
                "what was acknowledged is not there",
            ),
        ]
        .into_iter()
        .find_map(|(holds, what)| (!holds).then_some(what))
    }
}

/// Every world that can be reached: how many there are, or what is wrong in one of them.
fn explore(guards: Guards) -> Result<usize, &'static str> {
    let mut seen = HashSet::new();
    let mut queue = VecDeque::from([World::new()]);
    let digest = |world: &World| {
        use std::hash::{BuildHasher as _, BuildHasherDefault, DefaultHasher};
        let hash = BuildHasherDefault::<DefaultHasher>::default();
        (hash.hash_one(world), hash.hash_one((1u8, world)))
    };
    while let Some(world) = queue.pop_front() {
        for next in world.steps(guards) {
            if let Some(what) = next.wrong() {
                return Err(what);
            }
            if seen.insert(digest(&next)) {
                queue.push_back(next);
            }
        }
    }
    Ok(seen.len())
}

#[test]
fn with_every_guard_the_log_is_one_whatever_happens() {
    let worlds = explore(ALL).expect("it holds");
    eprintln!("{worlds} worlds");
    assert!(worlds > 100_000, "the bounds leave too little to look at: {worlds}");
}

#[test]
fn without_any_one_guard_it_is_not() {
    for (guards, without) in [
        (Guards { nonce: false, ..ALL }, "nonce"),
        (Guards { term: false, ..ALL }, "term"),
        (Guards { sealed_in_read: false, ..ALL }, "sealed in the read"),
        (Guards { predecessor_sealed: false, ..ALL }, "predecessor sealed"),
    ] {
        match explore(guards) {
            Ok(worlds) => panic!("without {without} {worlds} worlds are all right"),
            Err(what) => eprintln!("without {without}: {what}"),
        }
    }
}

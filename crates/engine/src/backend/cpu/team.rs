//! A team of threads that share the items of one loop, and the shared output they write.
//!
//! Decode steps have some hundred short loops, so starting threads for each is out of the question; members
//! spin briefly between loops and then sleep. Who computes an item never changes its result.
#![allow(unsafe_code)]

use std::cell::UnsafeCell;
use std::io;
use std::marker::PhantomData;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering::*};
use std::thread::{self, JoinHandle, Thread};

/// How long a member without work spins before it sleeps: about 20 µs, several loops of a decode step.
const SPINS: u32 = 4_000;
/// Low bits of the state: members inside the loop.
const INSIDE: u64 = (1 << 31) - 1;
/// The loop takes members.
const OPEN: u64 = 1 << 31;
/// One generation of the state's high half.
const GENERATION: u64 = 1 << 32;

type Body<'a> = dyn Fn(usize) + Sync + 'a;

/// One loop: its body and how many items it has.
struct Job {
    body: *const Body<'static>,
    items: usize,
}

struct Shared {
    /// Generation, open bit, members inside.
    state: AtomicU64,
    /// Written while closed and empty, read while inside.
    job: UnsafeCell<Option<Job>>,
    next: AtomicUsize,
    panicked: AtomicBool,
    stop: AtomicBool,
    asleep: Vec<AtomicBool>,
}

// SAFETY: `job` is the only part that is not Sync by itself. The leader writes it only while the state is closed
// with nobody inside; a member reads it only between entering an open state and leaving. Both orders are made by
// acquire and release on `state`.
unsafe impl Sync for Shared {}
// SAFETY: the pointer in `job` is used only under the rule above, on any thread; the body is Sync.
unsafe impl Send for Shared {}

/// Threads that help the one that calls [`Team::each`].
pub(super) struct Team {
    shared: Arc<Shared>,
    members: Vec<(Thread, Option<JoinHandle<()>>)>,
}

impl Team {
    /// A team of `threads`, the caller of `each` among them.
    pub(super) fn new(threads: usize) -> io::Result<Team> {
        let helpers = threads.max(1) - 1;
        let shared = Arc::new(Shared {
            state: AtomicU64::new(0),
            job: UnsafeCell::new(None),
            next: AtomicUsize::new(0),
            panicked: AtomicBool::new(false),
            stop: AtomicBool::new(false),
            asleep: (0..helpers).map(|_| AtomicBool::new(false)).collect(),
        });
        let mut team = Team { shared, members: Vec::new() };
        for i in 0..helpers {
            let shared = team.shared.clone();
            let handle = thread::Builder::new().name(format!("engine-cpu-{}", i + 1)).spawn(move || {
                shared.serve(i);
            })?;
            team.members.push((handle.thread().clone(), Some(handle)));
        }
        Ok(team)
    }

    /// Calls `body` once for each of `0..items`, on any of the threads; returns when all are done.
    pub(super) fn each(&mut self, items: usize, body: impl Fn(usize) + Sync) {
        if self.members.is_empty() || items <= 1 {
            return (0..items).for_each(body);
        }
        let body: &Body<'_> = &body;
        let shared = &*self.shared;
        // SAFETY: only the lifetime changes. Members use the pointer only while inside, and `Closing` below
        // returns from this function, even by a panic, only when the loop is closed and nobody is inside.
        let body: *const Body<'static> =
            unsafe { std::mem::transmute::<*const Body<'_>, *const Body<'static>>(body) };
        // SAFETY: `&mut self` makes this the only leader; the state is closed and empty between loops.
        unsafe { *shared.job.get() = Some(Job { body, items }) };
        shared.next.store(0, Relaxed);
        let state = shared.state.load(Relaxed);
        shared.state.store((state & !(GENERATION - 1)).wrapping_add(GENERATION) | OPEN, SeqCst);
        let closing = Closing(shared);
        for ((thread, _), asleep) in self.members.iter().zip(&shared.asleep) {
            if asleep.swap(false, SeqCst) {
                thread.unpark();
            }
        }
        shared.work(body, items);
        drop(closing);
        assert!(!shared.panicked.swap(false, AcqRel), "a thread of the team panicked");
    }
}

impl Drop for Team {
    fn drop(&mut self) {
        self.shared.stop.store(true, SeqCst);
        for (thread, handle) in &mut self.members {
            thread.unpark();
            if let Some(handle) = handle.take() {
                let _ = handle.join(); // a member's panic was reported by `each`
            }
        }
    }
}

/// Closes the loop and waits until nobody is inside.
struct Closing<'a>(&'a Shared);

impl Drop for Closing<'_> {
    fn drop(&mut self) {
        self.0.state.fetch_and(!OPEN, AcqRel);
        let mut spins = 0;
        while self.0.state.load(Acquire) & INSIDE != 0 {
            spins += 1;
            if spins > SPINS { thread::yield_now() } else { std::hint::spin_loop() }
        }
    }
}

impl Shared {
    /// Takes items until none is left.
    fn work(&self, body: *const Body<'static>, items: usize) {
        loop {
            let item = self.next.fetch_add(1, Relaxed);
            if item >= items {
                return;
            }
            // SAFETY: the caller leads the loop or is inside it, so the body is alive.
            unsafe { (*body)(item) };
        }
    }

    /// A member's life.
    fn serve(&self, me: usize) {
        let mut spins = 0;
        let mut done = 0;
        while !self.stop.load(Relaxed) {
            let state = self.state.load(SeqCst);
            if state & OPEN != 0 && state / GENERATION != done {
                if self.state.compare_exchange(state, state + 1, AcqRel, Relaxed).is_ok() {
                    done = state / GENERATION;
                    self.enter();
                    spins = 0;
                }
            } else if spins < SPINS {
                spins += 1;
                std::hint::spin_loop();
            } else {
                self.asleep[me].store(true, SeqCst);
                let news = self.state.load(SeqCst);
                if news == state && !self.stop.load(SeqCst) {
                    thread::park();
                }
                self.asleep[me].store(false, SeqCst);
                spins = 0;
            }
        }
    }

    /// Works inside the loop that was just entered, then leaves.
    fn enter(&self) {
        // SAFETY: this member is inside, so the leader does not write.
        if let Some(Job { body, items }) = unsafe { &*self.job.get() }
            && catch_unwind(AssertUnwindSafe(|| self.work(*body, *items))).is_err()
        {
            self.panicked.store(true, Release);
        }
        self.state.fetch_sub(1, Release);
    }
}

/// A slice that several items write, each its own part.
pub(super) struct Shares<'a, T> {
    start: *mut T,
    len: usize,
    slice: PhantomData<&'a mut [T]>,
}

// SAFETY: parts are handed out by `part`, whose caller promises that no two overlap.
unsafe impl<T: Send> Sync for Shares<'_, T> {}

impl<'a, T> Shares<'a, T> {
    pub(super) fn new(slice: &'a mut [T]) -> Shares<'a, T> {
        Shares { start: slice.as_mut_ptr(), len: slice.len(), slice: PhantomData }
    }

    /// The part `from..from + len`. Panics outside the slice.
    ///
    /// # Safety
    /// No element may be in two parts that are alive at the same time.
    #[allow(clippy::mut_from_ref)] // the point of the type; the rule is in the contract above
    pub(super) unsafe fn part(&self, from: usize, len: usize) -> &mut [T] {
        assert!(from.checked_add(len).is_some_and(|end| end <= self.len), "a part outside of its slice");
        // SAFETY: inside the slice by the assertion, unshared by the contract.
        unsafe { std::slice::from_raw_parts_mut(self.start.add(from), len) }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::AtomicU32;

    use super::*;

    #[test]
    fn every_item_is_done_once_in_thousands_of_short_loops() {
        for threads in [1, 2, 5] {
            let mut team = Team::new(threads).unwrap();
            for round in 0..2_000 {
                let items = round % 7;
                let counts: Vec<AtomicU32> = (0..items).map(|_| AtomicU32::new(0)).collect();
                team.each(items, |i| {
                    counts[i].fetch_add(1, Relaxed);
                });
                assert!(counts.iter().all(|c| c.load(Relaxed) == 1), "round {round}, {threads} threads");
            }
        }
    }

    #[test]
    fn a_panic_in_an_item_reaches_the_leader_and_the_team_works_on() {
        let mut team = Team::new(3).unwrap();
        for _ in 0..50 {
            let caught = catch_unwind(AssertUnwindSafe(|| team.each(8, |i| assert_ne!(i, 5))));
            assert!(caught.is_err());
            let sum = AtomicUsize::new(0);
            team.each(10, |i| {
                sum.fetch_add(i, Relaxed);
            });
            assert_eq!(sum.load(Relaxed), 45);
        }
    }

    #[test]
    fn sleeping_members_wake_for_the_next_loop() {
        let mut team = Team::new(2).unwrap();
        for _ in 0..3 {
            thread::sleep(std::time::Duration::from_millis(5));
            let mut out = vec![0; 64];
            let shares = Shares::new(&mut out);
            // SAFETY: each item writes its own element.
            team.each(64, |i| unsafe { shares.part(i, 1)[0] = i });
            assert_eq!(out, (0..64).collect::<Vec<_>>());
        }
    }
}

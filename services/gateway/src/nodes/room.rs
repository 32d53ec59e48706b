//! How many bytes of what nodes say may wait: for a call, for all calls of a node, for all nodes.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

/// Room for bytes, within a greater one.
#[derive(Debug)]
pub(crate) struct Room {
    most: usize,
    taken: AtomicUsize,
    within: Option<Arc<Room>>,
}

/// Bytes that wait; dropped, their room is free.
#[derive(Debug)]
pub(crate) struct Taken {
    room: Arc<Room>,
    bytes: usize,
}

impl Room {
    /// Room of its own.
    pub(crate) fn new(most: usize) -> Arc<Room> {
        Arc::new(Room { most, taken: AtomicUsize::new(0), within: None })
    }

    /// Room within this one.
    pub(crate) fn part(self: &Arc<Self>, most: usize) -> Arc<Room> {
        Arc::new(Room { most, taken: AtomicUsize::new(0), within: Some(self.clone()) })
    }

    /// Takes room for bytes, here and in what this is within.
    pub(crate) fn take(self: &Arc<Self>, bytes: usize) -> Option<Taken> {
        let taken = Taken { room: self.clone(), bytes };
        let mut room = Some(self);
        let mut fits = true;
        // All of it is taken before the question whether it fits, so that giving it back is the same in either case.
        while let Some(here) = room {
            fits &= here.taken.fetch_add(bytes, Ordering::Relaxed).saturating_add(bytes) <= here.most;
            room = here.within.as_ref();
        }
        fits.then_some(taken)
    }

    /// Whether more than half of it is taken.
    pub(crate) fn is_short(&self) -> bool {
        self.taken.load(Ordering::Relaxed) > self.most / 2
    }
}

impl Drop for Taken {
    fn drop(&mut self) {
        let mut room = Some(&self.room);
        while let Some(here) = room {
            here.taken.fetch_sub(self.bytes, Ordering::Relaxed);
            room = here.within.as_ref();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_does_not_fit_a_part_or_the_whole_takes_nothing() {
        let all = Room::new(10);
        let (first, second) = (all.part(8), all.part(8));
        let held = first.take(7).unwrap();
        assert!(first.is_short() && !second.is_short());
        assert!(first.take(2).is_none() && second.take(4).is_none());
        let rest = second.take(3).unwrap();
        drop(held);
        assert!(first.take(7).is_some());
        drop(rest);
        assert_eq!(all.taken.load(Ordering::Relaxed), 0);
    }
}

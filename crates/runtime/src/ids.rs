//! Fresh ids, at the edge: a machine never makes one.

use std::cell::RefCell;

use holmes_kernel::Id;

use crate::clock::Clock;

/// How many ids' randomness is asked for at once: the question costs as much as everything else in making an id.
const ASKED_AT_ONCE: usize = 64;

type Random = [u8; 10];

thread_local! {
    static RANDOM: RefCell<Vec<Random>> = const { RefCell::new(Vec::new()) };
}

/// A new UUIDv7 of this moment.
///
/// # Panics
/// When the operating system gives no randomness: nothing that needs an id can go on then.
pub fn fresh_id() -> Id {
    Id::v7(Clock::System.now().millis(), RANDOM.with_borrow_mut(take))
}

fn take(store: &mut Vec<Random>) -> Random {
    if store.is_empty() {
        store.resize(ASKED_AT_ONCE, Random::default());
        getrandom::fill(store.as_flattened_mut()).expect("the operating system gives randomness");
    }
    store.pop().unwrap_or_default() // it was filled just now
}

#[cfg(test)]
mod tests {
    use std::collections::HashSet;

    use super::*;

    #[test]
    fn ids_of_several_threads_all_differ_and_their_randomness_is_not_nothing() {
        let some = || (0..3 * ASKED_AT_ONCE).map(|_| fresh_id()).collect::<Vec<_>>();
        let threads: Vec<_> = (0..4).map(|_| std::thread::spawn(some)).collect();
        let ids: Vec<Id> = threads.into_iter().flat_map(|thread| thread.join().unwrap()).collect();
        let random: HashSet<[u8; 9]> = ids.iter().map(|id| id.to_bytes()[7..].try_into().unwrap()).collect();
        assert_eq!(random.len(), ids.len());
        assert!(ids.iter().all(|id| id.moment().is_some() && id.to_bytes()[9..] != [0; 7]));
    }
}

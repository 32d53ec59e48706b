//! Whether a history could have been: whether there is an order of its operations, each somewhere between its call and its
//! return, in which a model answers what was answered (linearizability; Wing and Gong's search with Lowe's memory of what was
//! tried, as porcupine has it).

use std::collections::HashSet;
use std::fmt::Debug;
use std::hash::Hash;

/// What operations do, one at a time.
pub trait Model {
    /// All that there is.
    type State: Clone + Eq + Hash + Debug;
    /// An operation and what it was answered.
    type Op: Debug;

    /// The state behind an operation, where the answer is the one that this state gives.
    fn step(state: &Self::State, op: &Self::Op) -> Option<Self::State>;
}

/// An operation that somebody has called, and its answer's arrival, by one clock.
#[derive(Clone, Debug)]
pub struct Called<Op> {
    /// When it was called.
    pub from: u64,
    /// When its answer was there.
    pub upto: u64,
    /// What it was, and what it was answered.
    pub op: Op,
}

/// There is no such order: how many operations could be ordered at most, and the state that they led to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NoOrder<S> {
    /// How many.
    pub ordered: usize,
    /// Of how many.
    pub of: usize,
    /// The state behind them.
    pub state: S,
}

/// Looks for an order.
///
/// # Errors
/// When there is none.
pub fn check<M: Model>(begin: M::State, history: &[Called<M::Op>]) -> Result<(), NoOrder<M::State>> {
    let mut open = Open::new(history);
    let mut tried: HashSet<(Vec<u64>, M::State)> = HashSet::new();
    let mut ordered = vec![0_u64; history.len().div_ceil(64)];
    let (mut state, mut path): (_, Vec<(usize, M::State)>) = (begin.clone(), Vec::new());
    let mut furthest = NoOrder { ordered: 0, of: history.len(), state: begin };
    let mut at = open.first();
    while let Some(event) = at {
        let op = open.events[event].op;
        if open.events[event].is_call {
            if let Some(next) = M::step(&state, &history[op].op) {
                ordered[op / 64] |= 1 << (op % 64);
                if tried.insert((ordered.clone(), next.clone())) {
                    path.push((event, std::mem::replace(&mut state, next)));
                    open.take(event);
                    if path.len() > furthest.ordered {
                        (furthest.ordered, furthest.state) = (path.len(), state.clone());
                    }
                    at = open.first();
                    continue;
                }
                ordered[op / 64] &= !(1 << (op % 64));
            }
            at = open.behind(event);
            continue;
        }
        // It has returned, and nothing that was called by then fits: the last choice was wrong.
        let Some((event, before)) = path.pop() else { return Err(furthest) };
        let op = open.events[event].op;
        ordered[op / 64] &= !(1 << (op % 64));
        state = before;
        open.put_back(event);
        at = open.behind(event);
    }
    Ok(())
}

/// A call or a return.
struct Event {
    op: usize,
    is_call: bool,
    /// Of a call, where its return stands.
    partner: usize,
}

/// Calls and returns of operations that are not in the order yet, as a list that can be taken from and put back into.
struct Open {
    events: Vec<Event>,
    next: Vec<usize>,
    prev: Vec<usize>,
}

impl Open {
    fn new<Op>(history: &[Called<Op>]) -> Open {
        let calls = history.iter().enumerate().map(|(op, called)| (called.from, false, op));
        let returns = history.iter().enumerate().map(|(op, called)| (called.upto, true, op));
        let mut times: Vec<_> = calls.chain(returns).collect();
        times.sort_unstable(); // at one moment calls come first: they overlap what returns then
        let event = |(_, returns, op): &(u64, bool, usize)| Event { op: *op, is_call: !returns, partner: 0 };
        let mut events: Vec<Event> = times.iter().map(event).collect();
        let mut called = vec![0; history.len()];
        for at in 0..events.len() {
            match events[at].is_call {
                true => called[events[at].op] = at,
                false => {
                    let call = called[events[at].op];
                    events[call].partner = at;
                }
            }
        }
        // The place behind the last event stands for the list's end and its beginning.
        let end = events.len();
        let next = (1..=end).chain([0]).collect();
        let prev = [end].into_iter().chain(0..end).collect();
        Open { events, next, prev }
    }

    fn first(&self) -> Option<usize> {
        self.behind(self.events.len())
    }

    fn behind(&self, at: usize) -> Option<usize> {
        Some(self.next[at]).filter(|next| *next < self.events.len())
    }

    fn take(&mut self, call: usize) {
        for at in [call, self.events[call].partner] {
            let (next, prev) = (self.next[at], self.prev[at]);
            (self.next[prev], self.prev[next]) = (next, prev);
        }
    }

    /// In the opposite order of taking.
    fn put_back(&mut self, call: usize) {
        for at in [self.events[call].partner, call] {
            let (next, prev) = (self.next[at], self.prev[at]);
            (self.next[prev], self.prev[next]) = (at, at);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A register.
    struct Register;

    #[derive(Clone, Copy, Debug)]
    enum Op {
        Write(u8),
        Read(u8),
    }

    impl Model for Register {
        type State = u8;
        type Op = Op;

        fn step(state: &u8, op: &Op) -> Option<u8> {
            match op {
                Op::Write(value) => Some(*value),
                Op::Read(value) => (value == state).then_some(*state),
            }
        }
    }

    fn history(of: &[(u64, u64, Op)]) -> Vec<Called<Op>> {
        of.iter().map(|(from, upto, op)| Called { from: *from, upto: *upto, op: *op }).collect()
    }

    #[test]
    fn what_overlaps_may_come_in_either_order_and_what_does_not_may_not() {
        use Op::{Read, Write};
        for (of, holds) in [
            (&[][..], true),
            (&[(0, 1, Write(1)), (2, 3, Read(1))], true),
            (&[(0, 1, Write(1)), (2, 3, Read(0))], false), // a stale read
            (&[(0, 5, Write(1)), (1, 2, Read(0)), (3, 4, Read(1))], true),
            (&[(0, 5, Write(1)), (1, 2, Read(1)), (3, 4, Read(0))], false), // time does not go back
            (&[(0, 9, Write(1)), (0, 9, Write(2)), (1, 2, Read(2)), (3, 4, Read(1))], true),
            (&[(0, 1, Write(1)), (1, 2, Read(0))], true), // at one moment they overlap
            (&[(0, 1, Read(3))], false),                  // nobody wrote it
            (&[(0, 1, Write(1)), (2, 3, Write(2)), (4, 5, Read(1))], false), // a lost write
        ] {
            assert_eq!(check::<Register>(0, &history(of)).is_ok(), holds, "{of:?}");
        }
    }

    #[test]
    fn among_many_one_stale_read_is_found() {
        let mut of = Vec::new();
        for n in 0..400_u64 {
            // Each write overlaps the one before it, and the read behind them may be of either.
            let (from, value) = (10 * n, (n % 200) as u8);
            of.push((from, from + 15, Op::Write(value)));
            if n % 2 == 1 {
                of.push((from + 6, from + 8, Op::Read(value - (n % 4 == 1) as u8)));
            }
        }
        assert_eq!(check::<Register>(0, &history(&of)), Ok(()));
        of.push((2_016, 2_018, Op::Read(5)));
        let none = check::<Register>(0, &history(&of)).unwrap_err();
        assert!(none.ordered < none.of && none.ordered >= 200, "{none:?}");
    }
}

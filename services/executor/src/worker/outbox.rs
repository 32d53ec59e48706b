//! What waits to be written. Tokens of a call that cannot be written yet are joined, so that a reader that is slow for a
//! moment costs little; one that stays slow ends the call.

use std::collections::{BTreeMap, VecDeque};
use std::sync::{Condvar, Mutex, MutexGuard, PoisonError};

use holmes_proto::inference::v1::{Output, Tokens, WorkOutput, WorkRead, WorkerReady, output};

use super::Said;

/// Most tokens of one call that wait.
const MOST_WAITING: usize = 4_096;
/// Most tokens of one message.
const MOST_JOINED: usize = 64;

/// Messages by call; calls take turns.
#[derive(Debug, Default)]
pub(super) struct Outbox {
    queue: Mutex<Queue>,
    changed: Condvar,
}

#[derive(Debug, Default)]
struct Queue {
    /// What belongs to no call.
    first: VecDeque<Said>,
    /// Calls that have something to write, in turn.
    turns: VecDeque<u64>,
    calls: BTreeMap<u64, Waiting>,
    closed: bool,
    /// The device has failed for good: the worker ends when this is written.
    broken: bool,
}

/// What waits of one call.
#[derive(Debug, Default)]
struct Waiting {
    messages: VecDeque<Said>,
    tokens: usize,
}

impl Outbox {
    /// Says what is served, before anything else.
    pub(super) fn announce(&self, ready: WorkerReady) {
        self.lock().first.push_back(Said::Ready(ready));
        self.changed.notify_one();
    }

    /// A call's prompt has so many tokens.
    pub(super) fn read(&self, call: u64, input_tokens: u64) {
        self.push(call, Said::Read(WorkRead { call, input_tokens }));
    }

    /// Tokens of a call; false when they are not taken, because too many wait or nobody listens.
    pub(super) fn tokens(&self, call: u64, tokens: Tokens) -> bool {
        let mut queue = self.lock();
        let waiting = queue.calls.get(&call).map_or(0, |waiting| waiting.tokens);
        if queue.closed || waiting + tokens.ids.len() > MOST_WAITING {
            return false;
        }
        queue.push_tokens(call, tokens);
        self.changed.notify_one();
        true
    }

    /// The last output of a call: it is always taken.
    pub(super) fn end(&self, call: u64, output: output::Output) {
        let output = Some(Output { output: Some(output) });
        self.push(call, Said::Output(WorkOutput { call, output }));
    }

    /// The next message; waits for it. `None` when the outbox is closed and empty.
    pub(super) fn next(&self) -> Option<Said> {
        let mut queue = self.lock();
        loop {
            if let Some(message) = queue.pop() {
                return Some(message);
            }
            if queue.closed || queue.broken {
                return None;
            }
            queue = self.changed.wait(queue).unwrap_or_else(PoisonError::into_inner);
        }
    }

    /// Nothing more comes, or nobody listens.
    pub(super) fn close(&self) {
        self.lock().closed = true;
        self.changed.notify_all();
    }

    /// The device has failed for good: what waits is written, and no more.
    pub(super) fn breaks(&self) {
        self.lock().broken = true;
        self.changed.notify_all();
    }

    /// Whether it has.
    pub(super) fn is_broken(&self) -> bool {
        self.lock().broken
    }

    fn push(&self, call: u64, message: Said) {
        let mut queue = self.lock();
        queue.of(call).messages.push_back(message);
        self.changed.notify_one();
    }

    fn lock(&self) -> MutexGuard<'_, Queue> {
        self.queue.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Queue {
    /// What waits of a call, which gets a turn.
    fn of(&mut self, call: u64) -> &mut Waiting {
        self.calls.entry(call).or_insert_with(|| {
            self.turns.push_back(call);
            Waiting::default()
        })
    }

    fn push_tokens(&mut self, call: u64, mut tokens: Tokens) {
        let waiting = self.of(call);
        waiting.tokens += tokens.ids.len();
        if let Some(Said::Output(WorkOutput { output: Some(last), .. })) = waiting.messages.back_mut()
            && let Some(output::Output::Tokens(last)) = &mut last.output
            && last.ids.len() + tokens.ids.len() <= MOST_JOINED
        {
            last.ids.append(&mut tokens.ids);
            last.text += &tokens.text;
            last.logprobs.append(&mut tokens.logprobs);
            return;
        }
        let output = Some(Output { output: Some(output::Output::Tokens(tokens)) });
        waiting.messages.push_back(Said::Output(WorkOutput { call, output }));
    }

    fn pop(&mut self) -> Option<Said> {
        if let Some(first) = self.first.pop_front() {
            return Some(first);
        }
        let call = self.turns.pop_front()?;
        let waiting = self.calls.get_mut(&call)?;
        let message = waiting.messages.pop_front();
        if let Some(Said::Output(WorkOutput { output: Some(out), .. })) = &message
            && let Some(output::Output::Tokens(tokens)) = &out.output
        {
            waiting.tokens -= tokens.ids.len();
        }
        if waiting.messages.is_empty() {
            self.calls.remove(&call);
        } else {
            self.turns.push_back(call);
        }
        message
    }
}

#[cfg(test)]
mod tests {
    use holmes_proto::inference::v1::Finished;

    use super::*;

    fn tokens(first: u32, count: u32) -> Tokens {
        let text = "x".repeat(count as usize);
        Tokens { first, ids: (first..first + count).collect(), text, logprobs: Vec::new() }
    }

    /// Call, first token and count of tokens; 0 tokens for another message.
    fn next(outbox: &Outbox) -> (u64, u32, usize) {
        match outbox.next().unwrap() {
            Said::Output(WorkOutput {
                call,
                output: Some(Output { output: Some(output::Output::Tokens(t)) }),
            }) => {
                assert_eq!(t.text.len(), t.ids.len());
                (call, t.first, t.ids.len())
            }
            Said::Output(WorkOutput { call, .. }) | Said::Read(WorkRead { call, .. }) => (call, 0, 0),
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn tokens_that_wait_are_joined_and_calls_take_turns() {
        let outbox = Outbox::default();
        outbox.read(1, 9);
        assert!(outbox.tokens(1, tokens(0, 60)) && outbox.tokens(1, tokens(60, 4)));
        assert!(outbox.tokens(1, tokens(64, 1)));
        assert!(outbox.tokens(2, tokens(0, 1)));
        outbox.end(1, output::Output::Finished(Finished::default()));
        let order: Vec<_> = (0..5).map(|_| next(&outbox)).collect();
        assert_eq!(order, [(1, 0, 0), (2, 0, 1), (1, 0, 64), (1, 64, 1), (1, 0, 0)]);
        outbox.close();
        assert_eq!(outbox.next(), None);
    }

    #[test]
    fn a_call_whose_tokens_nobody_reads_is_not_taken_further_but_its_end_is() {
        let outbox = Outbox::default();
        let taken = (0..).take_while(|n| outbox.tokens(1, tokens(*n, 1))).count();
        assert_eq!(taken, MOST_WAITING);
        assert!(outbox.tokens(2, tokens(0, 1)), "another call has its own room");
        outbox.end(1, output::Output::Finished(Finished::default()));
        assert_eq!(next(&outbox), (1, 0, 64));
        assert!(outbox.tokens(1, tokens(4_096, 1)), "what was read makes room");
    }

    #[test]
    fn what_a_broken_device_has_said_is_still_written() {
        let outbox = Outbox::default();
        outbox.end(1, output::Output::Finished(Finished::default()));
        outbox.breaks();
        assert_eq!(next(&outbox), (1, 0, 0));
        assert_eq!(outbox.next(), None);
        assert!(outbox.is_broken());
    }

    #[test]
    fn when_nobody_listens_nothing_is_taken() {
        let outbox = Outbox::default();
        outbox.close();
        assert!(!outbox.tokens(1, tokens(0, 1)));
        assert_eq!(outbox.next(), None);
    }
}

//! What every journal must do, as tests, and every [`bus`]. A journal brings a [`Storage`]; `conformance_suite!` makes one `#[test]` of
//! each sentence below.
//!
//! Nothing here knows an engine: an owner is a handle, another process is another handle, a crash of the process is
//! [`Storage::reopen`]. The tests run inside a tokio runtime.

pub mod bus;
mod logs;
mod owners;
mod snapshots;

use std::future::Future;

use holmes_kernel::entry::{DueOrigin, Entry, Origin};
use holmes_kernel::frame::Open;
use holmes_kernel::ports::{Claim, Journal, JournalError};
use holmes_kernel::{Chain, Frame, LogId, ServiceId, Tail, Time};

pub use self::logs::*;
pub use self::owners::*;
pub use self::snapshots::*;

/// An empty storage, made for one test.
pub trait Storage: Send + Sync + Sized + 'static {
    /// What is tested.
    type Journal: Journal;

    /// A storage without logs. A journal with a table per service needs those of the services 1 to 8.
    fn fresh() -> impl Future<Output = Self> + Send;

    /// What it needs and does not have here: its tests say so and are not run.
    fn missing() -> Option<String> {
        None
    }

    /// A handle, as another owner has it: independent of those given out before where the engine allows it.
    fn handle(&self) -> impl Future<Output = Self::Journal> + Send;

    /// The same storage after its process has ended. All handles were dropped.
    fn reopen(self) -> impl Future<Output = Self> + Send;
}

/// The log of a service in cell 1.
pub fn log(svc: u16) -> LogId {
    LogId::new(1, ServiceId(svc))
}

/// A frame behind `tail`: `events` events of `bytes` bytes each, which differ from frame to frame.
pub fn frame(log: LogId, term: u64, tail: &Tail, events: usize, bytes: usize) -> Frame {
    let ts = Time::from_micros(tail.ts.micros() + 1);
    let mut open = Open::new(log, term, ts, 1, tail);
    let head = Entry { origin: Some(Origin::Due(DueOrigin {})), ..Entry::default() };
    let events: Vec<Vec<u8>> = (0..events).map(|n| body(&tail.chain, n, bytes)).collect();
    open.push(&head, &events);
    open.freeze()
}

/// The first frame of a log: one event.
pub fn first(log: LogId) -> Frame {
    frame(log, 0, &Tail::default(), 1, 32)
}

/// Bytes that no engine can compress, and that tell what they belong to.
fn body(chain: &Chain, number: usize, bytes: usize) -> Vec<u8> {
    let mut state = u64::from_le_bytes([chain[0], chain[1], chain[2], chain[3], chain[4], chain[5], 1, 1]);
    state = state.wrapping_add(number as u64).wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1;
    let next = || {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        state.to_le_bytes()
    };
    std::iter::repeat_with(next).flatten().take(bytes).collect()
}

/// Provisions a log and claims it.
async fn owned<J: Journal>(journal: &J, log: LogId) -> Claim {
    journal.provision(&first(log)).await.expect("provisioned");
    journal.claim(log).await.expect("claimed")
}

/// Appends `count` frames behind a claim's tail; answers them.
async fn extend<J: Journal>(journal: &J, claim: &Claim, count: usize) -> Vec<Frame> {
    let mut tail = claim.tail;
    let mut frames = Vec::new();
    for number in 0..count {
        let next = frame(claim.log, claim.term, &tail, 1 + number % 3, 64);
        journal.append(claim, &next).await.expect("appended");
        tail = next.tail();
        frames.push(next);
    }
    frames
}

/// The whole log, read in small pages.
async fn whole<J: Journal>(journal: &J, log: LogId) -> Vec<Frame> {
    let mut frames: Vec<Frame> = Vec::new();
    loop {
        let after = frames.last().map_or(0, |frame| frame.header().last);
        let page = journal.read(log, after, 1_000).await.expect("readable");
        if page.is_empty() {
            return frames;
        }
        frames.extend(page);
    }
}

/// That frames are one chain from the first; answers its end.
///
/// # Panics
/// When they are not.
pub fn assert_chain(log: LogId, frames: &[Frame]) -> Tail {
    frames.iter().fold(Tail::default(), |tail, frame| {
        frame.follows(log, &tail).expect("the log is one chain");
        frame.tail()
    })
}

fn is_fenced<T: std::fmt::Debug>(outcome: &Result<T, JournalError>) -> bool {
    matches!(outcome, Err(JournalError::Fenced { .. }))
}

fn is_broken<T: std::fmt::Debug>(outcome: &Result<T, JournalError>) -> bool {
    matches!(outcome, Err(JournalError::Broken { .. }))
}

/// One `#[test]` for each sentence of the suite, on a storage.
#[macro_export]
macro_rules! conformance_suite {
    ($storage:ty) => {
        $crate::conformance_suite!(@each $storage:
            provisioning_twice_is_once,
            provisioning_with_another_first_frame_is_refused_and_changes_nothing,
            a_first_frame_that_is_not_one_is_refused,
            a_log_that_was_never_provisioned_is_missing_and_stays_so,
            what_was_appended_is_read_back_byte_for_byte,
            a_page_ends_near_its_limit_and_holds_at_least_one_frame,
            a_frame_of_the_largest_size_is_kept,
            logs_do_not_mix,
            appends_to_many_logs_at_once_are_all_kept,
            a_restart_keeps_everything,
            a_claim_raises_the_term_and_shows_the_tail,
            the_same_frame_again_is_answered_as_before,
            a_frame_that_does_not_follow_is_refused_and_changes_nothing,
            a_frame_of_another_term_is_refused_and_changes_nothing,
            an_owner_is_fenced_by_the_next_claim,
            a_fenced_owner_cannot_repeat_nor_confirm,
            whatever_the_interleaving_no_older_owner_appends_behind_a_newer_claim,
            claims_at_once_get_different_terms_and_the_highest_holds,
            a_claim_is_remembered_over_a_restart,
            the_newest_snapshot_at_or_before_a_place_is_found,
            a_snapshot_of_another_state_version_or_log_is_never_given,
            the_snapshot_before_the_newest_stays,
            snapshots_outlive_a_restart,
        );
    };
    (@each $storage:ty: $($name:ident,)*) => {
        $(
            #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
            async fn $name() {
                match <$storage as $crate::conformance::Storage>::missing() {
                    Some(what) => eprintln!("NOT TESTED: {what}"),
                    None => $crate::conformance::$name::<$storage>().await,
                }
            }
        )*
    };
}

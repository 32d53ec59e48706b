//! What was once possible, or nearly, and must not be: commands and callers that aim at the log itself.

use holmes_kernel::frame::{ENTRY_BYTES, HEADER_BYTES};
use holmes_kernel::shard::Submission;
use holmes_kernel::shard::recall;
use holmes_kernel::ways::Number;
use holmes_kernel::{Code, Input, Output};

use crate::harness::{Op, Run};
use crate::till::{self, Command, Failure, Manner, Till};

/// Plays what one log can take and audits what is left of it.
fn survives(run: &mut Run) {
    run.settle();
    run.finish();
}

fn reason(run: &Run, which: usize) -> Option<String> {
    let answer = run.heard[which].clone()?;
    Some(answer.map_or_else(|refusal| refusal.reason.to_string(), |_| "OK".into()))
}

fn last_reason(run: &Run) -> Option<String> {
    reason(run, run.asked.len() - 1)
}

#[test]
fn a_due_command_that_panics_is_refused_or_does_nothing_halts_the_log() {
    for manner in [Manner::Silently, Manner::Refused, Manner::Panicking] {
        let mut run = Run::start();
        run.ask(1, Command::SetAlarm { id: till::account(9), after_ms: 10, rings: 1, manner }, 0);
        run.settle();
        run.op(&Op::Tick);
        assert_eq!(run.halted, None, "it is not due yet");
        run.op(&Op::Wait { ms: 11 });
        run.op(&Op::Tick);
        assert!(run.halted.is_some(), "{manner:?}");
        let durable = run.disk.len();
        run.ask(1, Command::Note { events: 1, bytes: 1 }, 0);
        assert_eq!(last_reason(&run).as_deref(), Some("LOG_HALTED"), "nothing is decided behind a halt");
        run.idle();
        run.land();
        assert_eq!(run.disk.len(), durable, "and nothing is written");
    }
}

/// The size of a note whose entry is exactly as large as an entry may be.
fn largest_note() -> u32 {
    let mut run = Run::start();
    run.ask(1, Command::Note { events: 1, bytes: 190_000 }, 0);
    run.settle();
    let framed = run.disk.last().expect("there is a frame").bytes().len() - HEADER_BYTES;
    190_000 + (ENTRY_BYTES + 4 - framed) as u32
}

#[test]
fn two_entries_of_the_largest_sizes_make_a_frame_that_can_be_read() {
    let largest = largest_note();
    for first in largest - 8..=largest {
        let mut run = Run::start();
        run.ask(1, Command::Note { events: 1, bytes: first }, 0);
        run.ask(1, Command::Note { events: 1, bytes: largest }, 0);
        survives(&mut run);
        assert_eq!(last_reason(&run).as_deref(), Some("OK"));
        run.ask(1, Command::Note { events: 1, bytes: largest + 1 }, 0);
        assert_eq!(last_reason(&run).as_deref(), Some("COMMAND_TOO_LARGE"));
    }
}

#[test]
fn words_and_trace_contexts_of_any_length_do_not_make_a_frame_that_nobody_can_read() {
    let mut run = Run::start();
    run.ask(1, Command::Complain { bytes: 500_000 }, 0);
    run.traceparent = "é".repeat(400_000);
    run.ask(1, Command::Complain { bytes: 5 }, 0);
    run.ask(1, Command::Note { events: 1, bytes: 5 }, 0);
    run.op(&Op::Submit { who: 0, step: 0, command: Command::Note { events: 300, bytes: 5 } });
    run.op(&Op::Wait { ms: 3_000 });
    for _ in 0..3 {
        run.op(&Op::Deliver { source: 0, to: 0, begin: 0 });
    }
    survives(&mut run);
    assert_eq!(last_reason(&run).as_deref(), Some("OK"), "a trace context is no reason to refuse");
    run.request(2);
    run.settle();
    assert!(run.disk.iter().all(|frame| frame.bytes().len() < 10_000));
}

/// A command that makes the machine fail is refused, again too, and neither the log nor the others suffer. Only what
/// broke the state costs a rebuild of it.
fn fails_alone(how: Failure) {
    let mut run = Run::start();
    run.ask(1, Command::Deposit { to: till::account(1), units: 5 }, 0);
    run.settle();
    run.ask(1, Command::Fail { how, n: 1 }, 0);
    assert_eq!(last_reason(&run).as_deref(), Some("POISONED"));
    run.ask(2, Command::Fail { how, n: 1 }, 0);
    assert_eq!(last_reason(&run).as_deref(), Some("POISONED"), "another's id does not help");
    let broke_the_state = matches!(how, Failure::Evolve | Failure::Step);
    assert_eq!(run.reclaims, usize::from(broke_the_state), "{how:?}");
    run.ask(1, Command::Deposit { to: till::account(1), units: 6 }, 0);
    survives(&mut run);
    assert_eq!(last_reason(&run).as_deref(), Some("OK"));
}

#[test]
fn a_command_whose_decision_or_effect_fails_is_poisoned() {
    for how in [Failure::Decide, Failure::Evolve, Failure::Step] {
        fails_alone(how);
    }
}

#[test]
fn an_event_without_a_name_never_reaches_the_log() {
    fails_alone(Failure::Nameless);
}

#[test]
fn an_answer_or_a_refusal_that_cannot_be_made_is_a_failure_of_its_command_only() {
    for how in [Failure::Reply, Failure::Words] {
        fails_alone(how);
    }
}

#[test]
fn recalling_for_a_command_that_is_not_the_entrys_own_never_panics() {
    let mut run = Run::start();
    run.ask(1, Command::Note { events: 1, bytes: 8 }, 0);
    run.settle();
    let (_, entry) = run.disk.last().unwrap().entries().unwrap().remove(0);
    let answer = recall::<Till>(&entry, &Command::Fail { how: Failure::Reply, n: 7 });
    assert_eq!(answer.unwrap_err().code, Code::Internal);
}

#[test]
fn a_submission_that_makes_the_machine_fail_consumes_its_number_when_it_comes_again() {
    let next = |run: &Run| run.shard.replica().ways().number(&till::owner(1), 0);
    let mut run = Run::start();
    let fails = Command::Fail { how: Failure::Evolve, n: 1 };
    run.op(&Op::Submit { who: 0, step: 0, command: fails.clone() });
    assert_eq!(next(&run), Number::Gap { expected: 1 }, "nothing was recorded: the state was thrown away");
    run.op(&Op::Submit { who: 0, step: 0, command: fails });
    assert_eq!(next(&run), Number::Gap { expected: 2 }, "the submitter is not stuck");
    run.op(&Op::Submit { who: 0, step: 0, command: Command::Note { events: 1, bytes: 1 } });
    run.op(&Op::Submit { who: 0, step: -2, command: Command::Note { events: 1, bytes: 1 } });
    assert_eq!(run.reclaims, 1);
    survives(&mut run);
}

#[test]
fn a_state_that_is_broken_by_more_commands_than_can_be_remembered_halts_its_log() {
    let mut run = Run::start();
    for n in 0..1_024 {
        run.ask(1, Command::Fail { how: Failure::Evolve, n }, 0);
    }
    assert_eq!((run.reclaims, &run.halted), (1_024, &None));
    run.ask(1, Command::Fail { how: Failure::Decide, n: 1_024 }, 0);
    assert_eq!(run.halted, None, "what only cannot be decided is refused for ever");
    run.ask(1, Command::Fail { how: Failure::Evolve, n: 1_024 }, 0);
    assert!(run.halted.is_some());
}

#[test]
fn a_submitters_number_that_is_used_for_another_command_is_refused() {
    let mut run = Run::start();
    let command = Command::Note { events: 1, bytes: 1 };
    run.op(&Op::Submit { who: 0, step: 0, command: command.clone() });
    run.settle();
    let other = Submission {
        ticket: 9_999,
        principal: till::owner(1),
        number: 1,
        digest: [9; 16],
        traceparent: String::new(),
        command,
    };
    let mut out = Vec::new();
    run.shard.step(run.now, Input::Submission(other), &mut out);
    let [Output::Reply { answer: Err(refusal), .. }] = out.as_slice() else { panic!("one refusal: {out:?}") };
    assert_eq!(refusal.reason, "SUBMITTER_NUMBER_REUSED");
}

//! The worker by itself, over its pipes.

use std::io::Write as _;
use std::process::{Command, Output, Stdio};

use holmes_proto::inference::v1::{
    CancelWork, FinishReason, FromWorker, StartWork, ToWorker, Work, from_worker, output, to_worker,
};
use prost::Message as _;

use crate::gateway::{generate, tiny};
use crate::model;

fn start(call: u64, work: Work) -> Vec<u8> {
    let start = StartWork { call, work: Some(work) };
    ToWorker { message: Some(to_worker::Message::Start(start)) }.encode_length_delimited_to_vec()
}

fn cancel(call: u64) -> Vec<u8> {
    ToWorker { message: Some(to_worker::Message::Cancel(CancelWork { call })) }
        .encode_length_delimited_to_vec()
}

/// Runs a worker on this input to its end.
fn run(input: &[Vec<u8>]) -> Output {
    let dir = tempfile::tempdir().unwrap();
    let file = model::write(dir.path());
    let mut child = Command::new(env!("CARGO_BIN_EXE_executor-worker"))
        .arg(format!("tiny={}", file.display()))
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    child.stdin.take().unwrap().write_all(&input.concat()).unwrap(); // and its end
    child.wait_with_output().unwrap()
}

/// Everything that it said; bytes that are no message would not be read.
fn said(output: &Output) -> Vec<from_worker::Message> {
    let (mut bytes, mut messages) = (output.stdout.as_slice(), Vec::new());
    while !bytes.is_empty() {
        messages.push(FromWorker::decode_length_delimited(&mut bytes).unwrap().message.unwrap());
    }
    messages
}

/// The outputs of a call.
fn outputs(messages: &[from_worker::Message], call: u64) -> Vec<output::Output> {
    let of_call = messages.iter().filter_map(|message| match message {
        from_worker::Message::Output(out) if out.call == call => out.output.clone()?.output,
        _ => None,
    });
    of_call.collect()
}

#[test]
fn at_the_end_of_its_input_a_worker_finishes_its_calls_and_ends() {
    let done = run(&[start(1, tiny(generate("abc", 200))), start(2, tiny(generate("ab", 100)))]);
    assert!(done.status.success(), "{}", String::from_utf8_lossy(&done.stderr));
    let messages = said(&done);
    let from_worker::Message::Ready(ready) = &messages[0] else { panic!("it says first that it is ready") };
    assert!(ready.models[0].generates && ready.models[0].chat);
    for (call, tokens, input) in [(1, 200, 2), (2, 100, 1)] {
        let read = messages.iter().find_map(|message| match message {
            from_worker::Message::Read(read) if read.call == call => Some(read.input_tokens),
            _ => None,
        });
        assert_eq!(read, Some(input));
        let outputs = outputs(&messages, call);
        let Some(output::Output::Finished(finished)) = outputs.last() else { panic!("{outputs:?}") };
        let usage = finished.usage.unwrap();
        assert_eq!((usage.output_tokens, u64::from(usage.input_tokens)), (tokens, input));
    }
}

#[test]
fn a_call_that_is_cancelled_before_it_begins_or_twice_ends_once() {
    let done = run(&[start(1, tiny(generate("abc", 60_000))), cancel(1), cancel(1), cancel(9)]);
    assert!(done.status.success());
    let outputs = outputs(&said(&done), 1);
    let ends: Vec<_> = outputs.iter().filter(|output| !matches!(output, output::Output::Tokens(_))).collect();
    let [output::Output::Finished(finished)] = ends.as_slice() else { panic!("{ends:?}") };
    assert_eq!(finished.reason(), FinishReason::Cancelled);
}

#[test]
fn a_model_that_is_not_served_and_a_call_without_work_fail_and_the_others_do_not() {
    let other = Work { model: "other".into(), ..tiny(generate("abc", 3)) };
    let nothing = Work { model: "tiny".into(), work: None };
    let done = run(&[start(1, other), start(2, nothing), start(3, tiny(generate("abc", 3)))]);
    assert!(done.status.success());
    let messages = said(&done);
    let reason = |call| match outputs(&messages, call).as_slice() {
        [output::Output::Failed(failed)] => failed.reason.clone(),
        other => format!("{other:?}"),
    };
    assert_eq!((reason(1), reason(2)), ("MODEL_NOT_SERVED".into(), "WORK_MISSING".into()));
    assert!(matches!(outputs(&messages, 3).last(), Some(output::Output::Finished(_))));
}

#[test]
fn a_prompt_beyond_the_context_is_refused_before_it_counts_as_read() {
    let long = "c".repeat(model::CONTEXT + 1);
    let done = run(&[start(1, tiny(generate(&long, 1)))]);
    let messages = said(&done);
    let [output::Output::Failed(failed)] = &outputs(&messages, 1)[..] else { panic!("it fails") };
    assert_eq!((failed.reason.as_str(), failed.caller), ("PROMPT_TOO_LONG", true));
    let is_read = |message: &from_worker::Message| matches!(message, from_worker::Message::Read(_));
    assert!(!messages.iter().any(is_read), "its price would be held against the lease first");
}

#[test]
fn what_is_no_message_ends_a_worker_with_an_error() {
    let done = run(&[vec![0xff; 32]]);
    assert!(!done.status.success());
    assert_eq!(said(&done).len(), 1, "it was ready");
    let talk = String::from_utf8_lossy(&done.stderr);
    assert!(talk.contains("something else than messages"), "{talk}");
}

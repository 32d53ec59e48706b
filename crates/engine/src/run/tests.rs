use std::sync::mpsc;
use std::time::Duration;

use super::*;
use crate::backend::fake::{FakeBackend, continuation};
use crate::sample::Sampling;
use crate::testkit::{Random, gguf_model};

fn model() -> Model {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("model.gguf");
    std::fs::write(&path, gguf_model().bytes()).unwrap();
    Model::open(&path).unwrap()
}

fn options() -> Options {
    Options { threads: 1, step_tokens: 32, running: 4, waiting: 8, ..Options::default() }
}

fn fake() -> Engine {
    Engine::start(model(), Box::<FakeBackend>::default(), options()).unwrap()
}

fn cpu() -> Engine {
    Engine::start(model(), Box::new(CpuBackend::new(1)), options()).unwrap()
}

fn request(tokens: &[u32], max_tokens: usize) -> Request {
    let prompt = Prompt::Tokens(tokens.to_vec());
    Request { max_tokens: Some(max_tokens), ignore_end: true, ..Request::new(prompt) }
}

/// The ids, the text and the end of a stream.
fn collect(stream: Stream) -> (Vec<u32>, String, Done) {
    let (mut ids, mut text) = (Vec::new(), String::new());
    for event in stream {
        match event {
            Event::Token(token) => {
                ids.push(token.id);
                text += &token.text;
            }
            Event::Done(done) => return (ids, text + &done.text, done),
            Event::Failed(why) => panic!("{why}"),
        }
    }
    panic!("a stream without an end")
}

#[test]
fn concurrent_requests_get_their_own_answers_and_count_their_tokens() {
    let engine = fake();
    let prompts: Vec<Vec<u32>> = (0..8).map(|i| Random(i).tokens(5 + 7 * i as usize, 259)).collect();
    let streams: Vec<Stream> = prompts.iter().map(|p| engine.generate(request(p, 20)).unwrap()).collect();
    for (prompt, stream) in prompts.iter().zip(streams) {
        let (ids, text, done) = collect(stream);
        assert_eq!(ids, continuation(prompt, 20, 259));
        assert_eq!(done.reason, FinishReason::Length);
        assert_eq!((done.usage.prompt_tokens, done.usage.completion_tokens), (prompt.len(), 20));
        let whole = engine.model.text.decode(&ids).unwrap();
        assert_eq!(text.replace('\u{FFFD}', ""), whole.replace('\u{FFFD}', ""));
    }
}

#[test]
fn an_end_token_a_stop_token_and_a_stop_string_end_an_answer() {
    let engine = fake();
    let prompt = [1, 2, 3];
    let expected = continuation(&prompt, 100, 259);
    let (ids, _, done) = collect(
        engine.generate(Request { stop_tokens: vec![expected[7]], ..request(&prompt, 100) }).unwrap(),
    );
    let first = expected.iter().position(|t| *t == expected[7]).unwrap();
    assert_eq!((ids.as_slice(), done.reason), (&expected[..=first], FinishReason::Stop));
    assert_eq!(done.usage.completion_tokens, first + 1);

    // text of the answer, cut where the stop string begins
    let (_, text, _) = collect(engine.generate(request(&prompt, 100)).unwrap());
    let stop: String = text.chars().skip(20).take(3).collect();
    let cut = text.find(&stop).unwrap();
    let (ids, shown, done) =
        collect(engine.generate(Request { stop: vec![stop], ..request(&prompt, 100) }).unwrap());
    assert_eq!((shown.as_str(), done.reason), (&text[..cut], FinishReason::Stop));
    assert!(ids.len() < 100);

    // 256 is the model's end token
    let before = (0..).map(|i| vec![i % 256, i / 256]).find(|p| continuation(p, 1, 259) == [256]).unwrap();
    let ends = Request { ignore_end: false, ..request(&before, 9) };
    let (ids, text, done) = collect(engine.generate(ends).unwrap());
    assert_eq!((ids, text.as_str(), done.reason), (vec![256], "", FinishReason::Stop));
}

#[test]
fn cancelling_or_dropping_ends_a_request_and_frees_its_place() {
    let engine = fake();
    let mut stream = engine.generate(request(&[1], 100)).unwrap();
    let first = stream.next();
    assert!(matches!(first, Some(Event::Token(_))), "{first:?}");
    stream.cancel();
    let (_, _, done) = collect(stream);
    assert!([FinishReason::Cancelled, FinishReason::Length].contains(&done.reason));
    for i in 0..50 {
        drop(engine.generate(request(&[i], 100)).or_else(|_| {
            thread::sleep(Duration::from_millis(50)); // the queue may be full for a moment
            engine.generate(request(&[i], 100))
        }));
    }
    let (ids, ..) = collect(
        (0..100)
            .find_map(|_| {
                thread::sleep(Duration::from_millis(10));
                engine.generate(request(&[5], 3)).ok()
            })
            .unwrap(),
    );
    assert_eq!(ids, continuation(&[5], 3, 259));
}

#[test]
fn a_listener_that_is_gone_cancels_its_request() {
    let engine = fake();
    let (sent, received) = mpsc::channel();
    let mut left = 3;
    let sink = Box::new(move |event| {
        left -= 1;
        sent.send(event).unwrap();
        left > 0
    });
    engine.generate_into(request(&[1], 100), sink).unwrap();
    let events: Vec<Event> = received.iter().collect();
    assert_eq!(events.len(), 4);
    let Event::Done(done) = &events[3] else { panic!("{events:?}") };
    assert_eq!((done.reason, done.usage.completion_tokens), (FinishReason::Cancelled, 3));
}

#[test]
fn requests_beyond_the_queue_are_refused_and_taken_again_later() {
    let options = Options { running: 1, waiting: 1, ..options() };
    let engine = Engine::start(model(), Box::new(CpuBackend::new(1)), options).unwrap();
    let (release, hold) = mpsc::channel::<()>();
    let mut held = Some(hold);
    let sink = Box::new(move |_| {
        if let Some(hold) = held.take() {
            hold.recv().unwrap(); // keeps the engine's thread in the first event
        }
        true
    });
    engine.generate_into(request(&[1], 2), sink).unwrap();
    let second = engine.generate(request(&[1], 2)).unwrap();
    let refused = engine.generate(request(&[1], 2)).unwrap_err();
    assert_eq!(refused, Refused::QueueFull { open: 2, most: 2 });
    release.send(()).unwrap();
    collect(second);
    collect(
        (0..100)
            .find_map(|_| {
                thread::sleep(Duration::from_millis(10));
                engine.generate(request(&[1], 2)).ok()
            })
            .unwrap(),
    );
}

#[test]
fn requests_that_make_no_sense_are_refused_with_their_reason() {
    let engine = cpu();
    let reason = |r: Request| engine.generate(r).unwrap_err().reason();
    assert_eq!(reason(request(&[], 1)), "PROMPT_EMPTY");
    assert_eq!(reason(request(&[259], 1)), "TOKEN_UNKNOWN");
    assert_eq!(reason(request(&[1; 128], 1)), "PROMPT_TOO_LONG");
    assert_eq!(reason(request(&[1; 120], 9)), "MAX_TOKENS_INVALID");
    assert_eq!(reason(request(&[1], 0)), "MAX_TOKENS_INVALID");
    assert_eq!(reason(Request { stop: vec![String::new()], ..request(&[1], 1) }), "STOP_INVALID");
    assert_eq!(reason(Request { stop: vec!["x".into(); 17], ..request(&[1], 1) }), "STOP_INVALID");
    let hot = Sampling { temperature: -1.0, ..Sampling::default() };
    assert_eq!(reason(Request { sampling: hot, ..request(&[1], 1) }), "SAMPLING_INVALID");
    assert_eq!(engine.embed(&[]).unwrap_err().reason(), "MODEL_KIND_WRONG");
    let (.., done) = collect(engine.generate(request(&[1; 127], 1)).unwrap());
    assert_eq!(done.reason, FinishReason::Length);
}

#[test]
fn a_seed_repeats_an_answer_and_log_probabilities_come_with_it() {
    let engine = cpu();
    let answer = |seed| {
        let sampling = Sampling { temperature: 1.0, seed, logprobs: Some(2), ..Sampling::default() };
        let mut events: Vec<Event> =
            engine.generate(Request { sampling, ..request(&[7, 8], 12) }).unwrap().collect();
        let Some(Event::Done(_)) = events.pop() else { panic!("an end") };
        events
    };
    let first = answer(1);
    assert_eq!(first, answer(1));
    assert_ne!(first, answer(2));
    for event in first {
        let Event::Token(token) = event else { panic!("{event:?}") };
        let logprobs = token.logprobs.unwrap();
        assert!(logprobs.chosen <= 0.0 && logprobs.top.len() == 2 && logprobs.top[0].1 >= logprobs.chosen);
    }
}

#[test]
fn a_repeated_prompt_is_served_from_the_cache_of_its_tenant() {
    let engine = cpu();
    let cached = |tenant: &[u8]| {
        let (ids, _, done) =
            collect(engine.generate(Request { tenant: tenant.into(), ..request(&[9; 40], 5) }).unwrap());
        (ids, done.usage.cached_tokens)
    };
    let (first, none) = cached(b"a");
    assert_eq!(none, 0);
    assert_eq!(cached(b"a"), (first.clone(), 32));
    assert_eq!(cached(b"b"), (first, 0));
}

#[test]
fn the_numbers_for_metrics_count_what_was_done() {
    let engine = fake();
    let before = engine.stats();
    collect(engine.generate(request(&[1; 40], 5)).unwrap());
    let stats = (0..1000)
        .map(|_| engine.stats())
        .inspect(|_| thread::sleep(Duration::from_millis(1)))
        .find(|s| s.running == 0 && s.steps > before.steps)
        .unwrap();
    // 40 tokens in steps of 32, then one for each token but the last
    assert_eq!((stats.computed_tokens, stats.generated_tokens, stats.steps), (44, 5, 6));
    assert_eq!((stats.waiting, stats.preemptions, stats.free_pages), (0, 0, 8));
}

#[test]
fn dropping_the_engine_ends_every_stream() {
    let engine = fake();
    let streams: Vec<Stream> = (0..6).map(|i| engine.generate(request(&[i], 100)).unwrap()).collect();
    drop(engine);
    for stream in streams {
        let last = stream.last();
        let ended = matches!(&last, None | Some(Event::Done(_)) | Some(Event::Failed(Refused::Closed)));
        assert!(ended, "{last:?}");
    }
}

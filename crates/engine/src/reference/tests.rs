//! The CPU backend against the reference, on random models.

use std::sync::Arc;
use std::time::Duration;

use super::{erf, evaluate};
use crate::backend::cpu::CpuBackend;
use crate::backend::{Backend, Limits, PAGE_TOKENS, PageId, SeqOutput, SeqStep, StepInput, Want};
use crate::config::{Naming, Pooling, Spec};
use crate::format::Dtype;
use crate::program::Program;
use crate::testkit::{Random, decoder, decoder_tensors, encoder, encoder_tensors};

const LIMITS: Limits = Limits { step_tokens: 96, step_sequences: 8, step_outputs: 96, pages: 40 };
const DTYPES: [Dtype; 6] = [Dtype::F32, Dtype::F16, Dtype::Bf16, Dtype::Q8_0, Dtype::Q4_0, Dtype::Q4_1];

fn decoder_program(naming: Naming, head_dim: usize, tied: bool, biased: bool, dtype: Dtype) -> Arc<Program> {
    let d = decoder(naming, head_dim, tied, biased);
    let tensors = decoder_tensors(&d, dtype, head_dim as u64);
    Arc::new(Program::build(&Spec::Decoder(d), tensors).unwrap())
}

fn encoder_program(pooling: Pooling) -> Arc<Program> {
    let e = encoder(pooling);
    let tensors = encoder_tensors(&e, Dtype::F32, 3);
    Arc::new(Program::build(&Spec::Encoder(e), tensors).unwrap())
}

fn run(backend: &mut CpuBackend, sequences: Vec<SeqStep>) -> Vec<Vec<f32>> {
    let ticket = backend.submit(StepInput { sequences }).unwrap();
    let output = backend.poll(ticket, Duration::from_secs(60)).unwrap().unwrap();
    let floats = |result| match result {
        SeqOutput::Logits(floats) | SeqOutput::Vector(floats) => floats,
        SeqOutput::Nothing => Vec::new(),
        other => panic!("{other:?}"),
    };
    output.sequences.into_iter().map(floats).collect()
}

fn seq(tokens: &[u32], start: usize, pages: &[u32], want: Want) -> SeqStep {
    SeqStep { tokens: tokens.to_vec(), start, pages: pages.iter().map(|&p| PageId(p)).collect(), want }
}

/// Relative error of a whole result.
fn error(ours: &[f32], exact: &[Vec<f64>]) -> f64 {
    let exact = exact.concat();
    assert_eq!(ours.len(), exact.len());
    let distance: f64 = ours.iter().zip(&exact).map(|(a, b)| (f64::from(*a) - b).powi(2)).sum();
    let error = (distance / exact.iter().map(|b| b * b).sum::<f64>()).sqrt();
    assert!(error.is_finite());
    error
}

#[test]
fn every_instruction_set_computes_the_logits_of_the_reference_and_the_same_bits() {
    let mut random = Random(1);
    let mut cases: Vec<Arc<Program>> = Vec::new();
    for dtype in DTYPES {
        cases.push(decoder_program(Naming::Gguf, 32, true, false, dtype));
    }
    cases.push(decoder_program(Naming::HuggingFace, 64, false, true, Dtype::F32));
    cases.push(decoder_program(Naming::Gguf, 80, false, false, Dtype::Q8_0));
    for (i, program) in cases.iter().enumerate() {
        let tokens = random.tokens(37, program.vocab);
        let exact = evaluate(program, &tokens);
        let mut first: Option<Vec<f32>> = None;
        for mut backend in CpuBackend::with_each_level(2) {
            backend.load(program.clone(), &LIMITS).unwrap();
            let ours = run(&mut backend, vec![seq(&tokens, 0, &[7, 2, 9], Want::Logits)]).remove(0);
            let error = error(&ours, &exact);
            assert!(error < 3e-6, "case {i} on {}: error {error}", backend.facts().instructions);
            assert_eq!(
                *first.get_or_insert(ours.clone()),
                ours,
                "case {i} on {}",
                backend.facts().instructions
            );
        }
    }
}

#[test]
fn batched_equals_alone_and_chunked_equals_whole_bit_for_bit() {
    let mut random = Random(2);
    for dtype in [Dtype::Q4_1, Dtype::F32] {
        let program = decoder_program(Naming::Gguf, 64, true, false, dtype);
        let sequences: Vec<Vec<u32>> = [40, 1, 17, 5].map(|n| random.tokens(n, program.vocab)).into();
        let mut alone = Vec::new();
        for threads in [1, 3] {
            let mut backend = CpuBackend::new(threads);
            backend.load(program.clone(), &LIMITS).unwrap();
            for (i, tokens) in sequences.iter().enumerate() {
                let whole = run(&mut backend, vec![seq(tokens, 0, &[0, 1, 2], Want::Logits)]).remove(0);
                if threads == 1 {
                    alone.push(whole);
                } else {
                    assert_eq!(alone[i], whole, "by {threads} threads");
                }
            }
            let batch = sequences.iter().enumerate();
            let batch =
                batch.map(|(i, t)| seq(t, 0, &[3, 9, 5].map(|p| p + 10 * i as u32), Want::Logits)).collect();
            assert_eq!(run(&mut backend, batch), alone, "in a batch");
            for chunk in [1, 3, 16, 33] {
                let tokens = &sequences[0];
                let mut logits = Vec::new();
                for start in (0..tokens.len()).step_by(chunk) {
                    let end = tokens.len().min(start + chunk);
                    // other sequences' chunks run beside it
                    let beside = seq(&sequences[2][..4], 0, &[30], Want::Nothing);
                    let own = seq(&tokens[start..end], start, &[8, 4, 6], Want::Logits);
                    logits.extend(run(&mut backend, vec![beside, own]).remove(1));
                }
                assert_eq!(logits, alone[0], "in chunks of {chunk}");
            }
        }
    }
}

#[test]
fn encoders_compute_the_vectors_of_the_reference_alone_and_in_a_batch() {
    let mut random = Random(3);
    for pooling in [Pooling::Mean, Pooling::First] {
        let program = encoder_program(pooling);
        let texts: Vec<Vec<u32>> = [1, 16, 40, 7, 23].map(|n| random.tokens(n, program.vocab)).into();
        for mut backend in CpuBackend::with_each_level(2) {
            backend.load(program.clone(), &LIMITS).unwrap();
            let want = |t: &Vec<u32>| seq(t, 0, &[], Want::Vector);
            let batch = run(&mut backend, texts.iter().map(want).collect());
            for (tokens, vector) in texts.iter().zip(batch) {
                assert_eq!(run(&mut backend, vec![want(tokens)])[0], vector, "alone and in a batch");
                let error = error(&vector, &evaluate(&program, tokens));
                assert!(error < 2e-6, "{error} on {}", backend.facts().instructions);
            }
        }
    }
}

#[test]
fn steps_that_break_the_rules_are_refused_and_change_nothing() {
    let program = decoder_program(Naming::Gguf, 32, true, false, Dtype::F32);
    let mut backend = CpuBackend::new(1);
    backend.load(program.clone(), &LIMITS).unwrap();
    assert_eq!(backend.load(program, &LIMITS).unwrap_err().reason(), "BACKEND_OCCUPIED");
    let long = vec![1; 97];
    for (what, bad) in [
        ("no tokens", seq(&[], 0, &[0], Want::Logits)),
        ("too few pages", seq(&[1; 17], 0, &[0], Want::Logits)),
        ("a page that is not there", seq(&[1], 0, &[40], Want::Logits)),
        ("a token that is not there", seq(&[259], 0, &[0], Want::Logits)),
        ("a position beyond the context", seq(&[1], 128, &[0; 9], Want::Logits)),
        ("a start that overflows", seq(&[1], usize::MAX, &[0], Want::Logits)),
        ("too many tokens", seq(&long, 0, &[0; 7], Want::Nothing)),
        ("a vector of a decoder", seq(&[1], 0, &[0], Want::Vector)),
    ] {
        let refused = backend.submit(StepInput { sequences: vec![bad] }).unwrap_err();
        assert_eq!(refused.reason(), "STEP_INVALID", "{what}");
    }
    assert_eq!(run(&mut backend, vec![seq(&[1], 0, &[0], Want::Logits)])[0].len(), 259);
}

#[test]
fn results_are_handed_out_once_and_in_any_order() {
    let program = decoder_program(Naming::Gguf, 32, true, false, Dtype::F32);
    let mut backend = CpuBackend::new(1);
    backend.load(program, &LIMITS).unwrap();
    let step = |token| StepInput { sequences: vec![seq(&[token], 0, &[0], Want::Logits)] };
    let tickets = [1, 2].map(|t| backend.submit(step(t)).unwrap());
    let minute = Duration::from_secs(60);
    for ticket in [tickets[1], tickets[0]] {
        assert!(backend.poll(ticket, minute).unwrap().is_ok());
        assert_eq!(backend.poll(ticket, minute).unwrap().unwrap_err().reason(), "TICKET_UNKNOWN");
    }
}

#[test]
fn weights_that_are_not_numbers_are_reported_and_not_sampled() {
    let d = decoder(Naming::Gguf, 32, true, false);
    let mut tensors = decoder_tensors(&d, Dtype::F32, 1);
    let poison = crate::testkit::tensor(Dtype::F32, &[d.hidden], &vec![f32::NAN; d.hidden]);
    tensors.insert("output_norm.weight".into(), poison);
    let program = Arc::new(Program::build(&Spec::Decoder(d), tensors).unwrap());
    let mut backend = CpuBackend::new(1);
    backend.load(program, &LIMITS).unwrap();
    let want = Want::Token(crate::sample::Sampling::default());
    let ticket = backend.submit(StepInput { sequences: vec![seq(&[1], 0, &[0], want)] }).unwrap();
    let output = backend.poll(ticket, Duration::from_secs(60)).unwrap().unwrap();
    assert_eq!(output.sequences, [SeqOutput::NotFinite]);
}

#[test]
fn limits_and_shapes_that_cannot_work_are_refused_at_load() {
    let program = decoder_program(Naming::Gguf, 32, true, false, Dtype::F32);
    let load =
        |program: &Arc<Program>, limits| CpuBackend::new(1).load(program.clone(), &limits).unwrap_err();
    assert_eq!(load(&program, Limits { pages: 0, ..LIMITS }).reason(), "LIMIT_TOO_LOW");
    assert_eq!(load(&program, Limits { pages: usize::MAX / 2, ..LIMITS }).reason(), "OUT_OF_MEMORY");
    assert_eq!(load(&program, Limits { step_tokens: usize::MAX, ..LIMITS }).reason(), "OUT_OF_MEMORY");
    let odd = decoder_program(Naming::HuggingFace, 24, true, false, Dtype::F32);
    assert_eq!(load(&odd, LIMITS).reason(), "SHAPE_UNSUPPORTED");
    // a text of an encoder cannot be cut into steps
    let encoder = encoder_program(Pooling::Mean);
    let short = Limits { step_tokens: PAGE_TOKENS, pages: 0, ..LIMITS };
    assert_eq!(load(&encoder, short).reason(), "LIMIT_TOO_LOW");
}

#[test]
fn the_references_error_function_has_its_known_values() {
    for (x, y) in [
        (0.0, 0.0),
        (0.5, 0.520_499_877_813_046_5),
        (2.0, 0.995_322_265_018_952_7),
        (-1.0, -0.842_700_792_949_714_9),
    ] {
        assert!((erf(x) - y).abs() < 1e-14, "erf({x}) = {}", erf(x));
    }
}

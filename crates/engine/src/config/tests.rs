use super::*;
use crate::format::{Metadata, Tensors, Value};
use crate::program::Program;
use crate::testkit::{decoder, decoder_tensors, gguf_model, write_hf_model};

fn gguf_with(change: impl FnOnce(&mut Metadata, &mut Tensors)) -> Result<Spec, ConfigError> {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("model.gguf");
    std::fs::write(&path, gguf_model().bytes()).unwrap();
    let mut files = ModelFiles::open(&path).unwrap();
    let Description::Gguf(metadata) = &mut files.description else { panic!("a GGUF file") };
    change(metadata, &mut files.tensors);
    Spec::read(&files)
}

fn hf_with(field: &str, value: serde_json::Value) -> Result<Spec, ConfigError> {
    let dir = tempfile::tempdir().unwrap();
    write_hf_model(dir.path());
    let mut files = ModelFiles::open(dir.path()).unwrap();
    let Description::HuggingFace(hf) = &mut files.description else { panic!("a directory") };
    hf.config[field] = value;
    Spec::read(&files)
}

#[test]
fn both_formats_describe_the_test_decoder() {
    let Spec::Decoder(mut gguf) = gguf_with(|_, _| ()).unwrap() else { panic!("a decoder") };
    let expected = decoder(Naming::Gguf, 32, true, false);
    for (f, e) in gguf.rope.iter().zip(&expected.rope) {
        assert!((f - e).abs() < 1e-12);
    }
    gguf.rope.clone_from(&expected.rope);
    assert_eq!(gguf, expected);
    let Spec::Decoder(mut hf) = hf_with("use_cache", true.into()).unwrap() else { panic!("a decoder") };
    let expected = decoder(Naming::HuggingFace, 32, false, true);
    hf.rope.clone_from(&expected.rope);
    assert_eq!(hf, expected);
}

#[test]
fn gguf_fields_that_change_the_maths_are_refused() {
    let reason = |field: &str, value: Value| {
        gguf_with(|m, _| {
            m.insert(field.into(), value);
        })
        .unwrap_err()
        .reason()
    };
    let text = |t: &str| Value::Text(t.into());
    assert_eq!(reason("general.architecture", text("mamba")), "ARCHITECTURE_UNSUPPORTED");
    assert_eq!(reason("llama.expert_count", Value::Unsigned(8)), "CONFIG_FIELD_UNKNOWN");
    assert_eq!(reason("llama.rope.scaling.type", text("yarn")), "CONFIG_FIELD_UNSUPPORTED");
    assert_eq!(reason("llama.rope.scaling.factor", Value::Float(2.0)), "CONFIG_FIELD_MISSING");
    assert_eq!(reason("llama.rope.dimension_count", Value::Unsigned(16)), "CONFIG_FIELD_UNSUPPORTED");
    assert_eq!(reason("llama.rope.freq_base", Value::Float(f64::NAN)), "CONFIG_FIELD_INVALID");
    assert_eq!(reason("llama.attention.head_count", Value::Unsigned(0)), "CONFIG_FIELD_INVALID");
    assert_eq!(reason("llama.attention.head_count_kv", Value::Unsigned(3)), "CONFIG_FIELD_INVALID");
    assert_eq!(reason("llama.context_length", Value::Unsigned(u64::MAX)), "CONFIG_FIELD_INVALID");
    assert_eq!(reason("llama.attention.layer_norm_rms_epsilon", Value::Float(-1.0)), "CONFIG_FIELD_INVALID");
    assert_eq!(reason("llama.vocab_size", Value::Unsigned(7)), "CONFIG_FIELD_UNSUPPORTED");
}

#[test]
fn hugging_face_fields_that_change_the_maths_are_refused() {
    let reason = |field: &str, value: serde_json::Value| hf_with(field, value).unwrap_err().reason();
    assert_eq!(reason("architectures", serde_json::json!(["GPT2LMHeadModel"])), "ARCHITECTURE_UNSUPPORTED");
    assert_eq!(reason("hidden_act", "relu".into()), "CONFIG_FIELD_UNSUPPORTED");
    assert_eq!(
        reason("rope_scaling", serde_json::json!({"rope_type": "yarn", "factor": 2.0})),
        "CONFIG_FIELD_UNSUPPORTED"
    );
    assert_eq!(reason("rope_scaling", serde_json::json!({"rope_type": "linear"})), "CONFIG_FIELD_MISSING");
    let extra = serde_json::json!({"rope_type": "linear", "factor": 2.0, "beta": 1});
    assert_eq!(reason("rope_scaling", extra), "CONFIG_FIELD_UNKNOWN");
    assert_eq!(reason("sliding_window", 64.into()), "CONFIG_FIELD_UNKNOWN");
    assert_eq!(reason("num_hidden_layers", (-1).into()), "CONFIG_FIELD_INVALID");
    assert_eq!(reason("num_hidden_layers", serde_json::Value::Null), "CONFIG_FIELD_INVALID");
}

#[test]
fn llama3_scaling_keeps_short_waves_and_stretches_long_ones() {
    let constants = rope::Llama3 { factor: 8.0, low: 1.0, high: 4.0, original_context: 8192.0 };
    let base = rope::frequencies(500_000.0, 128).unwrap();
    let mut scaled = base.clone();
    rope::scale_llama3(&mut scaled, &constants).unwrap();
    let turns = |f: f64| 8192.0 * f / std::f64::consts::TAU;
    for (f, s) in base.iter().zip(&scaled) {
        match turns(*f) {
            t if t > 4.0 => assert_eq!(f, s),
            t if t < 1.0 => assert!((s - f / 8.0).abs() < 1e-18),
            _ => assert!(*s < *f && *s > f / 8.0),
        }
    }
    assert_eq!(scaled[0], 1.0);
}

#[test]
fn a_tensor_too_few_too_many_or_of_another_shape_is_refused() {
    let d = decoder(Naming::Gguf, 32, true, false);
    let build = |change: &dyn Fn(&mut Tensors)| {
        let mut tensors = decoder_tensors(&d, crate::format::Dtype::F32, 1);
        change(&mut tensors);
        Program::build(&Spec::Decoder(d.clone()), tensors).map(|_| ()).map_err(|e| e.reason())
    };
    assert_eq!(build(&|_| ()), Ok(()));
    assert_eq!(build(&|t| drop(t.remove("blk.1.attn_k.weight"))), Err("TENSOR_MISSING"));
    let other = |t: &mut Tensors, name: &str| {
        let norm = t["blk.0.attn_norm.weight"].clone();
        t.insert(name.into(), norm);
    };
    assert_eq!(build(&|t| other(t, "blk.0.attn_q_norm.weight")), Err("TENSOR_UNEXPECTED"));
    assert_eq!(build(&|t| other(t, "blk.0.attn_q.weight")), Err("TENSOR_SHAPE_INVALID"));
}

use std::fs;
use std::sync::Arc;

use super::*;
use crate::program::Program;
use crate::testkit::{GgufFile, Random, gguf_model, safetensors_file, write_hf_model};
use crate::{config::Spec, text::Text};

fn parse(bytes: Vec<u8>) -> Result<(Metadata, Tensors), Fault> {
    gguf::parse(Arc::new(Storage::Owned(bytes)))
}

/// Everything that opening does with a file's bytes, loading apart.
fn open_all(bytes: Vec<u8>) -> bool {
    let Ok((metadata, tensors)) = parse(bytes) else { return false };
    let description = Description::Gguf(metadata);
    let files = ModelFiles { path: "test".into(), tensors, description };
    let Ok(spec) = Spec::read(&files) else { return false };
    Text::read(&files, &spec).is_ok() && Program::build(&spec, files.tensors).is_ok()
}

fn spoiled(spoil: impl FnOnce(&mut GgufFile)) -> &'static str {
    let mut file = gguf_model();
    spoil(&mut file);
    parse(file.bytes()).unwrap_err().reason()
}

#[test]
fn a_gguf_file_opens_with_its_fields_and_tensors() {
    let bytes = gguf_model().bytes();
    let (metadata, tensors) = parse(bytes.clone()).unwrap();
    assert_eq!(metadata["llama.block_count"], Value::Unsigned(2));
    assert_eq!(tensors["blk.1.ffn_down.weight"].shape(), [64, 96]);
    assert!(open_all(bytes));
}

#[test]
fn a_gguf_file_cut_anywhere_is_refused_without_a_panic() {
    let bytes = gguf_model().bytes();
    for end in 0..bytes.len() {
        // after the header every 97th byte will do
        if end < 12_000 || end % 97 == 0 {
            assert!(parse(bytes[..end].to_vec()).is_err(), "cut at {end}");
        }
    }
}

#[test]
fn a_gguf_file_with_any_header_byte_changed_makes_no_panic() {
    let bytes = gguf_model().bytes();
    let mut random = Random(4);
    for at in 0..12_000.min(bytes.len()) {
        // most of the header is text; what is not is hit by all of these values
        for value in [0, 0xff, random.next() as u8] {
            if at > 2_000 && random.below(8) != 0 {
                continue;
            }
            let mut bytes = bytes.clone();
            bytes[at] = value;
            open_all(bytes);
        }
    }
}

#[test]
fn claims_beyond_the_file_are_refused_before_anything_is_allocated() {
    assert_eq!(spoiled(|f| f.tensor_count = Some(u64::MAX)), "MODEL_LIMIT_EXCEEDED");
    assert_eq!(spoiled(|f| f.field_count = Some(u64::MAX)), "MODEL_LIMIT_EXCEEDED");
    assert_eq!(spoiled(|f| f.tensor_count = Some(60_000)), "MODEL_LIMIT_EXCEEDED");
    for count in [1 << 20, u64::MAX] {
        let array = [&10u32.to_le_bytes()[..], &count.to_le_bytes()].concat();
        let reason = spoiled(|f| f.fields.push(("x".into(), 9, array)));
        assert!(["MODEL_LIMIT_EXCEEDED", "MODEL_TRUNCATED"].contains(&reason), "{count}: {reason}");
    }
    assert_eq!(
        spoiled(|f| f.fields.push(("x".into(), 8, u64::MAX.to_le_bytes().into()))),
        "MODEL_LIMIT_EXCEEDED"
    );
}

#[test]
fn impossible_tensors_are_refused_with_their_reason() {
    assert_eq!(spoiled(|f| f.tensors[3].1 = vec![0, 4]), "TENSOR_SHAPE_INVALID");
    assert_eq!(spoiled(|f| f.tensors[3].1 = vec![u64::MAX - 31, u64::MAX]), "TENSOR_SHAPE_INVALID");
    assert_eq!(spoiled(|f| f.tensors[3].1 = vec![]), "MODEL_LIMIT_EXCEEDED");
    assert_eq!(spoiled(|f| f.tensors[3].1 = vec![32; 5]), "MODEL_LIMIT_EXCEEDED");
    assert_eq!(spoiled(|f| f.tensors[3].2 = 12), "TENSOR_TYPE_UNSUPPORTED");
    assert_eq!(spoiled(|f| f.tensors[3].3 += 8), "TENSOR_OFFSET_INVALID");
    assert_eq!(spoiled(|f| f.tensors[3].3 = u64::MAX - 31), "TENSOR_OFFSET_INVALID");
    assert_eq!(spoiled(|f| f.tensors[3].3 = f.tensors[2].3), "TENSOR_OFFSET_INVALID");
    assert_eq!(spoiled(|f| f.tensors[3].0 = f.tensors[2].0.clone()), "MODEL_DUPLICATE_NAME");
}

#[test]
fn other_damage_is_refused_with_its_reason() {
    assert_eq!(spoiled(|f| f.version = 2), "MODEL_VERSION_UNSUPPORTED");
    assert_eq!(spoiled(|f| f.fields[3].0 = f.fields[2].0.clone()), "MODEL_DUPLICATE_NAME");
    assert_eq!(spoiled(|f| f.fields[2].1 = 13), "MODEL_MALFORMED");
    assert_eq!(spoiled(|f| f.count("general.alignment", 3)), "MODEL_MALFORMED");
    assert_eq!(parse(b"PK\x03\x04".to_vec()).unwrap_err().reason(), "MODEL_FORMAT_UNKNOWN");
    let dir = tempfile::tempdir().unwrap();
    assert_eq!(ModelFiles::open(dir.path()).unwrap_err().reason(), "MODEL_FORMAT_UNKNOWN");
    assert_eq!(ModelFiles::open(&dir.path().join("none")).unwrap_err().reason(), "MODEL_UNREADABLE");
}

#[test]
fn packed_blocks_unpack_to_the_values_of_their_definition() {
    let bytes = |parts: &[&[u8]]| parts.concat();
    let (two, minus_one) = (half::f16::from_f32(2.0).to_le_bytes(), half::f16::from_f32(-1.0).to_le_bytes());
    let nibbles: Vec<u8> = (0..16).map(|i| i | (15 - i) << 4).collect();
    let mut out = [0.0; 32];
    Dtype::Q4_1.unpack(&bytes(&[&two, &minus_one, &nibbles]), &mut out);
    assert_eq!((out[0], out[1], out[15], out[16], out[31]), (-1.0, 1.0, 29.0, 29.0, -1.0));
    Dtype::Q4_0.unpack(&bytes(&[&two, &nibbles]), &mut out);
    assert_eq!((out[0], out[8], out[16], out[31]), (-16.0, 0.0, 14.0, -16.0));
    let signed: Vec<u8> = (0..32).map(|i| (i - 16) as u8).collect();
    Dtype::Q8_0.unpack(&bytes(&[&two, &signed]), &mut out);
    assert_eq!((out[0], out[16], out[31]), (-32.0, 0.0, 30.0));
}

#[test]
fn safetensors_files_are_read_or_refused_with_their_reason() {
    let read = |bytes: Vec<u8>| {
        let mut tensors = Tensors::new();
        safetensors::parse(&Arc::new(Storage::Owned(bytes)), &mut tensors).map(|()| tensors)
    };
    let entry = |name: &str, dtype: &str, shape: &str, at: &str| {
        format!(r#""{name}":{{"dtype":"{dtype}","shape":{shape},"data_offsets":{at}}}"#)
    };
    let one = |dtype, shape, at| safetensors_file(&format!("{{{}}}", entry("a", dtype, shape, at)), &[0; 16]);
    assert_eq!(read(one("F32", "[2,2]", "[0,16]")).unwrap()["a"].shape(), [2, 2]);
    let refused = |bytes| read(bytes).unwrap_err().reason();
    assert_eq!(refused(one("F32", "[2,2]", "[0,12]")), "TENSOR_OFFSET_INVALID");
    assert_eq!(refused(one("F32", "[2,2]", "[8,24]")), "TENSOR_OFFSET_INVALID");
    assert_eq!(refused(one("F32", "[2,2]", "[16,0]")), "TENSOR_OFFSET_INVALID");
    assert_eq!(refused(one("F32", "[0,2]", "[0,0]")), "TENSOR_SHAPE_INVALID");
    assert_eq!(refused(one("F8_E4M3", "[16]", "[0,16]")), "TENSOR_TYPE_UNSUPPORTED");
    assert_eq!(refused(one("F32", "[-1]", "[0,16]")), "MODEL_MALFORMED");
    let two = |names: [&str; 2], at| {
        let header = [entry(names[0], "F32", "[2]", "[0,8]"), entry(names[1], "F32", "[2]", at)].join(",");
        safetensors_file(&format!(r#"{{"__metadata__":{{"format":"pt"}},{header}}}"#), &[0; 16])
    };
    assert_eq!(read(two(["a", "b"], "[8,16]")).unwrap().len(), 2);
    assert_eq!(refused(two(["a", "a"], "[8,16]")), "MODEL_DUPLICATE_NAME");
    assert_eq!(refused(two(["a", "b"], "[4,12]")), "TENSOR_OFFSET_INVALID");
    assert_eq!(refused(u64::MAX.to_le_bytes().into()), "MODEL_LIMIT_EXCEEDED");
    let whole = two(["a", "b"], "[8,16]");
    for end in 0..whole.len() {
        assert!(read(whole[..end].to_vec()).is_err(), "cut at {end}");
    }
    for at in 0..whole.len() {
        for value in [0, b'"', b'9', 0xff] {
            let mut bytes = whole.clone();
            bytes[at] = value;
            let _ = read(bytes); // any answer will do, a panic will not
        }
    }
}

#[test]
fn a_sharded_hugging_face_directory_opens_and_its_index_may_not_leave_it() {
    let dir = tempfile::tempdir().unwrap();
    write_hf_model(dir.path());
    let model = crate::run::Model::open(dir.path()).unwrap();
    assert_eq!(model.text.end_tokens(), [256, 257]);
    assert_eq!(model.text.decode(&model.text.encode("the moth").unwrap()).unwrap(), "the moth");
    for shard in ["../shard-0.safetensors", "/etc/passwd", "none.safetensors"] {
        let index = format!(r#"{{"weight_map":{{"a":"{shard}"}}}}"#);
        fs::write(dir.path().join("model.safetensors.index.json"), index).unwrap();
        assert_eq!(ModelFiles::open(dir.path()).unwrap_err().reason(), "MODEL_FILE_MISSING", "{shard}");
    }
}

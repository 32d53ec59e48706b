//! The tokenizer inside a GGUF file: byte-level BPE with a named pre-tokeniser.

use tokenizers::models::bpe::{BPE, Vocab};
use tokenizers::pre_tokenizers::PreTokenizerWrapper;
use tokenizers::pre_tokenizers::byte_level::ByteLevel;
use tokenizers::pre_tokenizers::digits::Digits;
use tokenizers::pre_tokenizers::sequence::Sequence;
use tokenizers::{AddedToken, Tokenizer};

use super::guard::guarded;
use super::{Parts, Template, TextError};
use crate::format::{Metadata, Value};

/// `enum llama_token_type`: a token that is not text.
const CONTROL: i64 = 3;
/// `enum llama_token_type`: a token found in text before BPE, but shown.
const USER_DEFINED: i64 = 4;

pub(super) fn read(metadata: &Metadata) -> Result<Parts, TextError> {
    let field = |name: &str| metadata.get(&format!("tokenizer.ggml.{name}"));
    match field("model") {
        Some(Value::Text(model)) if model == "gpt2" => {}
        other => return Err(TextError::UnknownTokenizer(text(other))),
    }
    let pre_tokenizer = pre_tokenizer(field("pre"))?;
    let Some(Value::Texts(tokens)) = field("tokens") else { return Err(damaged("it has no tokens")) };
    let Some(Value::Texts(merges)) = field("merges") else { return Err(damaged("it has no merges")) };
    let no_types = Vec::new();
    let types = match field("token_type") {
        Some(Value::Integers(types)) if types.len() == tokens.len() => types,
        None => &no_types,
        Some(_) => return Err(damaged("it has not one type per token")),
    };
    let mut tokenizer = build(tokens, merges, pre_tokenizer)?;
    add_tokens(&mut tokenizer, tokens, types)?;

    let id = |name: &str| match field(name) {
        Some(Value::Unsigned(id)) => {
            let id = u32::try_from(*id).ok().filter(|&id| (id as usize) < tokens.len());
            id.map(Some).ok_or_else(|| damaged(&format!("{name} is no token")))
        }
        Some(_) => Err(damaged(&format!("{name} is no token"))),
        None => Ok(None),
    };
    let (bos, eos, eot) = (id("bos_token_id")?, id("eos_token_id")?, id("eot_token_id")?);
    let spelling = |id: Option<u32>| id.map(|id| tokens[id as usize].clone());
    let template = match metadata.get("tokenizer.chat_template") {
        Some(Value::Text(source)) => Some(Template::new(source, spelling(bos), spelling(eos))?),
        _ => None,
    };
    let begin = if flag(field("add_bos_token"))? { bos } else { None };
    if flag(field("add_space_prefix"))? || flag(field("add_eos_token"))? {
        return Err(damaged("it adds a space or an end token, which byte-level BPE does not"));
    }
    Ok(Parts { tokenizer, template, begin, end: eos.into_iter().chain(eot).collect() })
}

/// The splitting before BPE. Another split gives other tokens, so an unknown name is refused.
fn pre_tokenizer(name: Option<&Value>) -> Result<PreTokenizerWrapper, TextError> {
    let bytes = PreTokenizerWrapper::ByteLevel(ByteLevel::new(false, false, true));
    match name {
        // numbers fall into single digits first
        Some(Value::Text(name)) if name == "smollm" => {
            let digits = PreTokenizerWrapper::Digits(Digits::new(true));
            Ok(PreTokenizerWrapper::Sequence(Sequence::new(vec![digits, bytes])))
        }
        Some(Value::Text(name)) if name == "gpt-2" || name == "default" => Ok(bytes),
        other => Err(TextError::UnknownPreTokenizer(text(other))),
    }
}

fn build(tokens: &[String], merges: &[String], pre: PreTokenizerWrapper) -> Result<Tokenizer, TextError> {
    let vocab: Vocab = (0u32..).zip(tokens).map(|(id, token)| (token.clone(), id)).collect();
    if vocab.len() != tokens.len() {
        return Err(damaged("a token stands in it twice"));
    }
    let mut pairs = Vec::with_capacity(merges.len());
    for merge in merges {
        // a space in a token is written as another character, so the only space parts the pair
        let (a, b) = merge.split_once(' ').ok_or_else(|| damaged("a merge is not a pair"))?;
        if !vocab.contains_key(&format!("{a}{b}")) {
            return Err(damaged("a merge makes what is no token"));
        }
        pairs.push((a.to_owned(), b.to_owned()));
    }
    let bpe = guarded(|| BPE::builder().vocab_and_merges(vocab, pairs).build())?;
    let mut tokenizer = Tokenizer::new(bpe);
    tokenizer.with_pre_tokenizer(Some(pre));
    tokenizer.with_decoder(Some(ByteLevel::new(false, false, true)));
    Ok(tokenizer)
}

fn add_tokens(tokenizer: &mut Tokenizer, tokens: &[String], types: &[i64]) -> Result<(), TextError> {
    let of = |kind: i64, special: bool| -> Vec<AddedToken> {
        let chosen = tokens.iter().zip(types).filter(|(token, k)| **k == kind && !token.is_empty());
        chosen.map(|(token, _)| AddedToken::from(token.clone(), special).normalized(false)).collect()
    };
    guarded(|| tokenizer.add_special_tokens(of(CONTROL, true)))?;
    guarded(|| tokenizer.add_tokens(of(USER_DEFINED, false)))?;
    Ok(())
}

fn flag(value: Option<&Value>) -> Result<bool, TextError> {
    match value {
        None => Ok(false),
        Some(Value::Bool(b)) => Ok(*b),
        Some(_) => Err(damaged("a flag is not true or false")),
    }
}

fn text(value: Option<&Value>) -> String {
    match value {
        Some(Value::Text(text)) => text.clone(),
        Some(_) => "not text".into(),
        None => "absent".into(),
    }
}

fn damaged(why: &str) -> TextError {
    TextError::Tokenizer(why.into())
}

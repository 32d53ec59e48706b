//! Answers as OpenAI's clients read them.

use base64::Engine as _;
use holmes_kernel::{Id, Refusal, Time};
use holmes_proto::inference::v1::{Ended, FinishReason, ModelOffer, TokenLogprob, Usage, Vectors};
use serde_json::{Value, json};

use crate::api::cut_off;
use crate::calls::Part;

/// What was asked for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Form {
    /// Text: as a chat or not; as a stream (and whether that ends with what was used) or not; with probabilities or not.
    Text { chat: bool, usage: Option<bool>, logprobs: bool },
    /// Vectors.
    Vectors { base64: bool },
}

/// What is the same in all that a call answers.
#[derive(Clone, Debug)]
pub(crate) struct Shape {
    id: String,
    model: String,
    created: u64,
    form: Form,
}

/// An answer that is whole.
#[derive(Debug, Default)]
pub(crate) struct Gathered {
    text: String,
    logprobs: Vec<TokenLogprob>,
    vectors: Option<Vectors>,
    node: String,
    ended: Option<Ended>,
}

impl Gathered {
    /// Takes a part in.
    pub(crate) fn add(&mut self, part: Part) {
        match part {
            Part::Started(started) => self.node = started.node_id,
            Part::Moved(moved) => self.node = moved.node_id,
            Part::Tokens(tokens) => {
                self.text.push_str(&tokens.text);
                self.logprobs.extend(tokens.logprobs);
            }
            Part::Vectors(vectors) => self.vectors = Some(vectors),
            Part::Ended(ended) => self.ended = Some(ended),
        }
    }
}

impl Shape {
    pub(crate) fn new(call: Id, model: &str, form: Form, now: Time) -> Shape {
        let prefix = match form {
            Form::Text { chat: true, .. } => "chatcmpl",
            Form::Text { chat: false, .. } => "cmpl",
            Form::Vectors { .. } => "embd",
        };
        let created = now.millis() / 1_000;
        Shape { id: format!("{prefix}-{call}"), model: model.to_owned(), created, form }
    }

    /// Whether the answer is a stream.
    pub(crate) fn streams(&self) -> bool {
        matches!(self.form, Form::Text { usage: Some(_), .. })
    }

    /// Whether a stream ends with what was used.
    pub(crate) fn says_usage(&self) -> bool {
        matches!(self.form, Form::Text { usage: Some(true), .. })
    }

    /// The whole answer.
    pub(crate) fn whole(&self, gathered: Gathered) -> Result<Value, Refusal> {
        let ended = gathered.ended.ok_or_else(cut_off)?;
        let used = usage(ended.usage.as_ref());
        let own = own(&ended, &gathered.node);
        match self.form {
            Form::Vectors { base64 } => {
                let vectors = gathered.vectors.ok_or_else(cut_off)?;
                let used =
                    json!({"prompt_tokens": used["prompt_tokens"], "total_tokens": used["prompt_tokens"]});
                let data = data(&vectors, base64);
                Ok(json!({"object": "list", "data": data, "model": self.model, "usage": used, "holmes": own}))
            }
            Form::Text { chat, logprobs, .. } => {
                let logprobs = logprobs.then_some(gathered.logprobs.as_slice());
                let mut choice = json!({"index": 0, "finish_reason": finish(&ended)});
                choice["logprobs"] = probabilities(chat, logprobs, 0);
                if chat {
                    choice["message"] =
                        json!({"role": "assistant", "content": gathered.text, "refusal": null});
                } else {
                    choice["text"] = gathered.text.into();
                }
                let mut answer = self.envelope(if chat { "chat.completion" } else { "text_completion" });
                answer["choices"] = json!([choice]);
                answer["usage"] = used;
                answer["holmes"] = own;
                Ok(answer)
            }
        }
    }

    /// A chunk of a stream: what it adds, and why the answer ended where it has.
    pub(crate) fn chunk(&self, adds: Adds<'_>, finish_reason: Option<&str>) -> Value {
        let chat = matches!(self.form, Form::Text { chat: true, .. });
        let asked = matches!(self.form, Form::Text { logprobs: true, .. });
        let mut choice = json!({"index": 0, "finish_reason": finish_reason});
        let logprobs = adds.logprobs.filter(|_| asked);
        choice["logprobs"] = probabilities(chat, logprobs, adds.offset);
        match (chat, adds.text) {
            (true, None) if adds.first => choice["delta"] = json!({"role": "assistant", "content": ""}),
            (true, None) => choice["delta"] = json!({}),
            (true, Some(text)) => choice["delta"] = json!({"content": text}),
            (false, text) => choice["text"] = text.unwrap_or_default().into(),
        }
        let mut chunk = self.envelope(if chat { "chat.completion.chunk" } else { "text_completion" });
        chunk["choices"] = json!([choice]);
        chunk
    }

    /// The chunk of what was used.
    pub(crate) fn used(&self, ended: &Ended) -> Value {
        let chat = matches!(self.form, Form::Text { chat: true, .. });
        let mut chunk = self.envelope(if chat { "chat.completion.chunk" } else { "text_completion" });
        chunk["choices"] = json!([]);
        chunk["usage"] = usage(ended.usage.as_ref());
        chunk
    }

    fn envelope(&self, object: &str) -> Value {
        json!({"id": self.id, "object": object, "created": self.created, "model": self.model})
    }
}

/// What a chunk adds.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Adds<'a> {
    /// It is the first: it says who speaks.
    pub(crate) first: bool,
    pub(crate) text: Option<&'a str>,
    pub(crate) logprobs: Option<&'a [TokenLogprob]>,
    /// Characters before it.
    pub(crate) offset: usize,
}

/// Why an answer ended, in OpenAI's words: one that was cut short is not whole.
pub(crate) fn finish(ended: &Ended) -> &'static str {
    match ended.reason() {
        FinishReason::Length | FinishReason::SessionOver => "length",
        _ => "stop",
    }
}

/// What the network says beyond what OpenAI's clients know.
pub(crate) fn own(ended: &Ended, node: &str) -> Value {
    let reason = ended.reason().as_str_name().trim_start_matches("FINISH_REASON_");
    json!({
        "receipts": ended.receipts, "price_micro_usd": ended.price_micro_usd, "node": node, "reason": reason,
    })
}

/// A model in a list.
pub(crate) fn model(offer: &ModelOffer) -> Value {
    json!({
        "id": offer.name,
        "object": "model",
        "created": 0,
        "owned_by": "holmes",
        "holmes": {
            "generates": offer.generates,
            "input_micro_usd_per_million": offer.input_micro_usd_per_million,
            "output_micro_usd_per_million": offer.output_micro_usd_per_million,
            "nodes": offer.nodes,
        },
    })
}

fn usage(usage: Option<&Usage>) -> Value {
    let usage = usage.copied().unwrap_or_default();
    json!({
        "prompt_tokens": usage.input_tokens,
        "completion_tokens": usage.output_tokens,
        "total_tokens": u64::from(usage.input_tokens) + u64::from(usage.output_tokens),
        "prompt_tokens_details": {"cached_tokens": usage.cached_tokens},
    })
}

fn data(vectors: &Vectors, base64: bool) -> Vec<Value> {
    let each = (vectors.width as usize).saturating_mul(4).max(1);
    let embedding = |bytes: &[u8]| {
        if base64 {
            return base64::engine::general_purpose::STANDARD.encode(bytes).into();
        }
        let floats =
            bytes.chunks_exact(4).map(|four| f32::from_le_bytes([four[0], four[1], four[2], four[3]]));
        Value::from(floats.collect::<Vec<_>>())
    };
    let row = |(index, bytes)| json!({"object": "embedding", "index": index, "embedding": embedding(bytes)});
    vectors.values.chunks_exact(each).enumerate().map(row).collect()
}

fn probabilities(chat: bool, logprobs: Option<&[TokenLogprob]>, offset: usize) -> Value {
    let Some(logprobs) = logprobs else { return Value::Null };
    if chat {
        let entry =
            |text: &str, logprob: f32| json!({"token": text, "logprob": logprob, "bytes": text.as_bytes()});
        let content = logprobs.iter().map(|token| {
            let mut one = entry(&token.text, token.logprob);
            one["top_logprobs"] = token.top.iter().map(|top| entry(&top.text, top.logprob)).collect();
            one
        });
        return json!({"content": content.collect::<Vec<_>>(), "refusal": null});
    }
    let mut at = offset;
    let offsets = logprobs.iter().map(|token| {
        let here = at;
        at += token.text.chars().count();
        here
    });
    let offsets: Vec<usize> = offsets.collect();
    let tops = logprobs.iter().map(|token| {
        let top = token.top.iter().map(|top| (top.text.clone(), Value::from(top.logprob)));
        Value::Object(top.collect())
    });
    json!({
        "tokens": logprobs.iter().map(|token| &token.text).collect::<Vec<_>>(),
        "token_logprobs": logprobs.iter().map(|token| token.logprob).collect::<Vec<_>>(),
        "top_logprobs": tops.collect::<Vec<_>>(),
        "text_offset": offsets,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn vectors_are_floats_or_the_same_bytes_in_base64() {
        let floats = [1.0f32, -2.5, 0.1, 4.0];
        let values: Vec<u8> = floats.iter().flat_map(|float| float.to_le_bytes()).collect();
        let vectors = Vectors { width: 2, values: values.into(), usage: None };
        let rows = data(&vectors, false);
        assert_eq!(rows[1]["embedding"].to_string(), "[0.1,4.0]");
        assert_eq!(data(&vectors, true)[0]["embedding"], "AACAPwAAIMA=");
        assert_eq!(rows.len(), 2);
    }

    #[test]
    fn probabilities_have_the_form_of_chats_and_that_of_completions() {
        let token = TokenLogprob { id: 1, text: "hé".to_owned(), logprob: -0.5, top: Vec::new() };
        let chat = probabilities(true, Some(std::slice::from_ref(&token)), 0);
        assert_eq!(chat["content"][0]["bytes"], json!([104, 195, 169]));
        let plain = probabilities(false, Some(&[token.clone(), token]), 3);
        assert_eq!(plain["text_offset"], json!([3, 5]));
        assert_eq!(probabilities(true, None, 0), Value::Null);
    }
}

//! What OpenAI's clients send, as work for the network. What would change the answer and is not served is refused by its
//! name, and so is what nobody here knows, which may be a slip of the pen; the rest is passed over.

use holmes_proto::inference::v1::{
    ChatMessage, Conversation, EmbedWork, GenerateWork, Sampling, Terms, generate_work, work,
};
use serde_json::{Map, Value};

use super::Wrong;
use super::answer::Form;
use super::fields::{self, OF_CHAT, OF_COMPLETION, OF_TEXT, OF_VECTORS, unserved};
use crate::ask::MOST_TEXTS;

/// A request, parsed.
#[derive(Debug)]
pub(crate) struct Parsed {
    pub(crate) model: String,
    pub(crate) work: work::Work,
    pub(crate) terms: Terms,
    pub(crate) answer: Form,
}

/// A request's body.
#[derive(Debug)]
pub(crate) struct Body(Map<String, Value>);

/// Texts that end an answer, as OpenAI's clients may send.
const MOST_STOPS: usize = 4;

impl Body {
    /// Reads a body; fields that are null count as absent.
    pub(crate) fn read(bytes: &[u8]) -> Result<Body, Wrong> {
        let value: Value = serde_json::from_slice(bytes)
            .map_err(|why| Wrong::from(crate::ask::wrong("body", &format!("JSON ({why})"))))?;
        let Value::Object(mut fields) = value else {
            return Err(Wrong::from(crate::ask::wrong("body", "a JSON object")));
        };
        fields.retain(|_, value| !value.is_null());
        Ok(Body(fields))
    }

    fn text(&self, name: &str) -> Result<Option<&str>, Wrong> {
        self.typed(name, "a text", Value::as_str)
    }

    fn flag(&self, name: &str) -> Result<bool, Wrong> {
        Ok(self.typed(name, "true or false", Value::as_bool)?.unwrap_or(false))
    }

    fn count(&self, name: &str, least: u32) -> Result<Option<u32>, Wrong> {
        let count = |value: &Value| value.as_u64().and_then(|count| u32::try_from(count).ok());
        let enough = |value: &Value| count(value).filter(|count| *count >= least);
        self.typed(name, &format!("a whole number from {least}"), enough)
    }

    fn number(&self, name: &str) -> Result<Option<f32>, Wrong> {
        self.typed(name, "a number", |value| value.as_f64().map(|number| number as f32))
    }

    fn typed<'a, T>(
        &'a self,
        name: &str,
        expected: &str,
        read: impl FnOnce(&'a Value) -> Option<T>,
    ) -> Result<Option<T>, Wrong> {
        let Some(value) = self.0.get(name) else { return Ok(None) };
        read(value).map(Some).ok_or_else(|| Wrong::from(crate::ask::wrong(name, expected)))
    }

    fn model(&self) -> Result<String, Wrong> {
        let model = self.text("model")?.filter(|model| !model.is_empty());
        let model = model.ok_or_else(|| Wrong::from(crate::ask::wrong("model", "the name of a model")))?;
        Ok(model.to_owned())
    }

    fn most_tokens(&self) -> Result<u32, Wrong> {
        let most = match self.count("max_completion_tokens", 1)? {
            None => self.count("max_tokens", 1)?,
            most => most,
        };
        Ok(most.unwrap_or(0))
    }

    fn stop(&self) -> Result<Vec<String>, Wrong> {
        let wrong = || Wrong::from(crate::ask::wrong("stop", "a text, or a list of at most 4 texts"));
        match self.0.get("stop") {
            None => Ok(Vec::new()),
            Some(Value::String(text)) => Ok(vec![text.clone()]),
            Some(Value::Array(texts)) if texts.len() <= MOST_STOPS => {
                texts.iter().map(|text| text.as_str().map(str::to_owned).ok_or_else(wrong)).collect()
            }
            Some(_) => Err(wrong()),
        }
    }

    /// How tokens are chosen; OpenAI's temperature is 1 where it is not said.
    fn sampling(&self, logprobs: Option<u32>) -> Result<Sampling, Wrong> {
        let seed = |value: &Value| value.as_u64().or_else(|| value.as_i64().map(i64::cast_unsigned));
        Ok(Sampling {
            temperature: self.number("temperature")?.unwrap_or(1.0),
            top_k: self.count("top_k", 0)?.unwrap_or(0),
            top_p: self.number("top_p")?.unwrap_or(1.0),
            seed: self.typed("seed", "a whole number", seed)?.unwrap_or(0),
            logprobs,
        })
    }

    /// Whether a stream is wanted, and whether its last chunk shall say what was used.
    fn streaming(&self) -> Result<Option<bool>, Wrong> {
        let stream = self.flag("stream")?;
        let Some(options) = self.0.get("stream_options") else { return Ok(stream.then_some(false)) };
        if !stream {
            let message = "stream_options is only for a stream: send \"stream\": true with it";
            return Err(Wrong::field("stream_options", "FIELD_INVALID", message));
        }
        Ok(Some(options["include_usage"] == true))
    }

    /// What a renter of the network may add: `{"holmes": {"max_price_micro_usd", "asset", "node"}}`.
    fn terms(&self) -> Result<Terms, Wrong> {
        let Some(own) = self.typed("holmes", "an object", Value::as_object)? else {
            return Ok(Terms::default());
        };
        fields::check_own(own)?;
        let field = |name: &str| own.get(name).unwrap_or(&Value::Null);
        let wrong =
            |name: &str, expected: &str| Wrong::from(crate::ask::wrong(&format!("holmes.{name}"), expected));
        let text = |name: &str| match field(name) {
            Value::Null => Ok(String::new()),
            Value::String(text) => Ok(text.clone()),
            _ => Err(wrong(name, "a text")),
        };
        let max_price_micro_usd = match field("max_price_micro_usd") {
            Value::Null => 0,
            value => value.as_u64().ok_or_else(|| wrong("max_price_micro_usd", "a whole number"))?,
        };
        Ok(Terms { max_price_micro_usd, asset: text("asset")?, node_id: text("node")? })
    }

    fn generation(
        &self,
        prompt: generate_work::Prompt,
        logprobs: Option<u32>,
        chat: bool,
    ) -> Result<Parsed, Wrong> {
        let work = GenerateWork {
            prompt: Some(prompt),
            max_tokens: self.most_tokens()?,
            sampling: Some(self.sampling(logprobs)?),
            stop: self.stop()?,
            ..GenerateWork::default()
        };
        let answer = Form::Text { chat, usage: self.streaming()?, logprobs: logprobs.is_some() };
        let work = work::Work::Generate(work);
        Ok(Parsed { model: self.model()?, work, terms: self.terms()?, answer })
    }
}

/// `POST /v1/chat/completions`.
pub(crate) fn chat(body: &Body) -> Result<Parsed, Wrong> {
    fields::check(&body.0, &[&OF_TEXT, &OF_CHAT])?;
    let wrong =
        || Wrong::from(crate::ask::wrong("messages", "a list of messages, each with role and content"));
    let messages = body.0.get("messages").and_then(Value::as_array).ok_or_else(wrong)?;
    let messages = messages.iter().map(message).collect::<Result<_, _>>()?;
    let logprobs = match (body.flag("logprobs")?, body.count("top_logprobs", 0)?) {
        (true, top) => Some(top.unwrap_or(0)),
        (false, None) => None,
        (false, Some(_)) => {
            let message = "top_logprobs is only for logprobs: send \"logprobs\": true with it";
            return Err(Wrong::field("top_logprobs", "FIELD_INVALID", message));
        }
    };
    body.generation(generate_work::Prompt::Chat(Conversation { messages }), logprobs, true)
}

fn message(value: &Value) -> Result<ChatMessage, Wrong> {
    let role = match value["role"].as_str() {
        Some("developer") => "system",
        Some(role @ ("system" | "user" | "assistant")) => role,
        _ => {
            return Err(Wrong::from(crate::ask::wrong(
                "messages.role",
                "system, developer, user or assistant",
            )));
        }
    };
    if value.get("tool_calls").is_some_and(|calls| calls.as_array().is_some_and(|calls| !calls.is_empty())) {
        return Err(unserved("messages.tool_calls", "leave it out"));
    }
    let content = match &value["content"] {
        Value::String(text) => text.clone(),
        Value::Array(pieces) => pieces.iter().map(piece).collect::<Result<Vec<_>, _>>()?.concat(),
        _ => return Err(Wrong::from(crate::ask::wrong("messages.content", "a text"))),
    };
    Ok(ChatMessage { role: role.to_owned(), content })
}

fn piece(value: &Value) -> Result<&str, Wrong> {
    match (value["type"].as_str(), value["text"].as_str()) {
        (Some("text"), Some(text)) => Ok(text),
        (Some(kind), _) if kind != "text" => {
            let message = format!("{kind:?} is not supported as content: the network's models read text");
            Err(Wrong::field("messages.content", "FIELD_NOT_SUPPORTED", message))
        }
        _ => Err(Wrong::from(crate::ask::wrong("messages.content", "pieces with type and text"))),
    }
}

/// `POST /v1/completions`.
pub(crate) fn completion(body: &Body) -> Result<Parsed, Wrong> {
    fields::check(&body.0, &[&OF_TEXT, &OF_COMPLETION])?;
    let prompt = match body.0.get("prompt") {
        Some(Value::String(text)) => text.clone(),
        Some(Value::Array(prompts)) => match prompts.as_slice() {
            [Value::String(text)] => text.clone(),
            _ => return Err(unserved("prompt", "one text is served at a time")),
        },
        _ => return Err(Wrong::from(crate::ask::wrong("prompt", "a text"))),
    };
    let logprobs = body.count("logprobs", 0)?;
    body.generation(generate_work::Prompt::Text(prompt), logprobs, false)
}

/// `POST /v1/embeddings`.
pub(crate) fn embedding(body: &Body) -> Result<Parsed, Wrong> {
    fields::check(&body.0, &[&OF_VECTORS])?;
    let texts = match body.0.get("input") {
        Some(Value::String(text)) => vec![text.clone()],
        Some(Value::Array(texts)) => {
            let text = |text: &Value| text.as_str().map(str::to_owned);
            let texts: Option<Vec<_>> = texts.iter().map(text).collect();
            texts.ok_or_else(|| unserved("input", "send texts, not tokens"))?
        }
        _ => return Err(Wrong::from(crate::ask::wrong("input", "a text, or a list of texts"))),
    };
    if texts.is_empty() || texts.len() > MOST_TEXTS || texts.iter().any(String::is_empty) {
        let expected = "a text, or 1 to 2,048 texts, each of at least one character";
        return Err(Wrong::from(crate::ask::wrong("input", expected)));
    }
    let base64 = match body.text("encoding_format")? {
        None | Some("float") => false,
        Some("base64") => true,
        Some(_) => return Err(Wrong::from(crate::ask::wrong("encoding_format", "float or base64"))),
    };
    let work = work::Work::Embed(EmbedWork { texts });
    Ok(Parsed { model: body.model()?, work, terms: body.terms()?, answer: Form::Vectors { base64 } })
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn of(parse: fn(&Body) -> Result<Parsed, Wrong>, body: Value) -> Result<Parsed, Wrong> {
        parse(&Body::read(body.to_string().as_bytes()).unwrap())
    }

    fn chat_with(more: Value) -> Result<Parsed, Wrong> {
        let mut body = json!({"model": "m", "messages": [{"role": "user", "content": "hello"}]});
        body.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
        of(chat, body)
    }

    fn generate(parsed: Parsed) -> GenerateWork {
        match parsed.work {
            work::Work::Generate(work) => work,
            work::Work::Embed(_) => panic!("not an embedding"),
        }
    }

    #[test]
    fn what_would_change_the_answer_and_is_not_served_is_refused_by_its_name() {
        let cases = [
            ("tools", json!([{"type": "function"}])),
            ("response_format", json!({"type": "json_schema"})),
            ("n", json!(2)),
            ("presence_penalty", json!(0.5)),
            ("logit_bias", json!({"5": 1})),
            ("echo", json!(true)),
            ("tool_choice", json!("required")),
            ("verbosity", json!("low")),
        ];
        for (name, value) in cases {
            let mut more = Map::new();
            more.insert(name.to_owned(), value);
            let body = chat_with(Value::Object(more)).unwrap_err().body();
            assert_eq!(body["error"]["param"], name);
            assert_eq!(body["error"]["code"], "field_not_supported");
        }
        let image = json!([{"type": "image_url", "image_url": {"url": "x"}}]);
        let refused = chat_with(json!({"messages": [{"role": "user", "content": image}]})).unwrap_err();
        assert_eq!(refused.body()["error"]["param"], "messages.content");
    }

    #[test]
    fn what_would_not_change_the_answer_is_passed_over() {
        let more = json!({
            "user": "u", "store": false, "metadata": {"run": "7"}, "service_tier": "auto", "safety_identifier": "s",
            "prompt_cache_key": "k", "n": 1, "tools": [], "logit_bias": {}, "tool_choice": "auto",
            "parallel_tool_calls": true, "presence_penalty": 0, "response_format": {"type": "text"}, "min_p": null
        });
        assert!(chat_with(more).is_ok());
        let body = json!({"model": "m", "input": "a", "user": "u", "encoding_format": "float"});
        assert!(of(embedding, body).is_ok());
    }

    #[test]
    fn what_nobody_knows_is_refused_by_its_name() {
        let refused = |parse: fn(&Body) -> Result<Parsed, Wrong>, body: Value| {
            let body = of(parse, body).unwrap_err().body();
            assert_eq!(body["error"]["code"], "field_unknown", "{body}");
            body["error"]["param"].as_str().unwrap().to_owned()
        };
        for name in ["stop_token_ids", "ignore_eos", "temprature"] {
            let body = json!({"model": "m", "messages": [{"role": "user", "content": "a"}], name: 1});
            assert_eq!(refused(chat, body), name);
        }
        assert_eq!(refused(chat, json!({"model": "m", "messages": [], "prompt": "a"})), "prompt");
        assert_eq!(refused(embedding, json!({"model": "m", "input": "a", "seed": 1})), "seed");
        assert_eq!(refused(completion, json!({"model": "m", "prompt": "a", "x".repeat(999): 1})).len(), 64);
        // A limit on the price that is misspelled would be none.
        let body = json!({"model": "m", "prompt": "a", "holmes": {"max_price": 5}});
        assert_eq!(refused(completion, body), "holmes.max_price");
        assert!(of(completion, json!({"model": "m", "prompt": "a", "holmes": 5})).is_err());
    }

    #[test]
    fn a_number_of_tokens_is_from_one_whichever_way_it_is_wrong() {
        for name in ["max_tokens", "max_completion_tokens"] {
            for bad in [json!(0), json!(-1), json!("many")] {
                let error = chat_with(json!({name: bad})).unwrap_err().body()["error"].clone();
                assert_eq!(error["message"], format!("{name} is not valid: expected a whole number from 1"));
                assert_eq!(error["param"], name);
            }
        }
    }

    #[test]
    fn texts_that_cannot_be_embedded_are_refused_by_openais_name_for_them() {
        for input in [json!(""), json!([]), json!(["a", ""]), json!(vec!["a"; MOST_TEXTS + 1]), json!(7)] {
            let body = of(embedding, json!({"model": "m", "input": input})).unwrap_err().body();
            let message = body["error"]["message"].as_str().unwrap();
            assert_eq!(body["error"]["param"], "input");
            assert!(message.starts_with("input is not valid: expected a text"), "{message}");
        }
        assert!(of(embedding, json!({"model": "m", "input": ["a"]})).is_ok());
    }

    #[test]
    fn limits_sampling_and_stops_are_taken_as_openai_means_them() {
        let work = generate(chat_with(json!({})).unwrap());
        assert_eq!((work.max_tokens, work.sampling.unwrap().temperature), (0, 1.0));
        let more = json!({
            "max_tokens": 5, "max_completion_tokens": 7, "temperature": 0, "top_p": 0.5, "seed": -1, "stop": ["a", "b"],
            "logprobs": true, "top_logprobs": 3
        });
        let work = generate(chat_with(more).unwrap());
        let sampling = work.sampling.unwrap();
        assert_eq!((work.max_tokens, work.stop), (7, vec!["a".to_owned(), "b".to_owned()]));
        assert_eq!((sampling.temperature, sampling.seed, sampling.logprobs), (0.0, u64::MAX, Some(3)));
        for bad in
            [json!({"max_tokens": 0}), json!({"stop": ["a", "b", "c", "d", "e"]}), json!({"top_logprobs": 3})]
        {
            assert!(chat_with(bad).is_err());
        }
        assert!(chat_with(json!({"stream_options": {"include_usage": true}})).is_err());
    }

    #[test]
    fn pieces_of_text_are_one_text_and_a_developer_is_a_system() {
        let pieces = json!([{"type": "text", "text": "a"}, {"type": "text", "text": "b"}]);
        let work =
            generate(chat_with(json!({"messages": [{"role": "developer", "content": pieces}]})).unwrap());
        let Some(generate_work::Prompt::Chat(chat)) = work.prompt else { panic!("a conversation") };
        assert_eq!((chat.messages[0].role.as_str(), chat.messages[0].content.as_str()), ("system", "ab"));
    }

    #[test]
    fn an_embedding_takes_a_text_or_texts_and_no_tokens() {
        let texts = |input: Value| match of(embedding, json!({"model": "m", "input": input})).unwrap().work {
            work::Work::Embed(embed) => embed.texts,
            work::Work::Generate(_) => panic!("an embedding"),
        };
        assert_eq!(texts(json!("a")), ["a"]);
        assert_eq!(texts(json!(["a", "b"])), ["a", "b"]);
        assert!(of(embedding, json!({"model": "m", "input": [1, 2]})).is_err());
        assert!(of(embedding, json!({"model": "m", "input": "a", "encoding_format": "hex"})).is_err());
    }

    #[test]
    fn a_completion_takes_one_text() {
        assert!(of(completion, json!({"model": "m", "prompt": ["a"]})).is_ok());
        assert!(of(completion, json!({"model": "m", "prompt": ["a", "b"]})).is_err());
        assert!(of(completion, json!({"prompt": "a"})).is_err());
    }
}

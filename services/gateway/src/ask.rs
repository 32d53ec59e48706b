//! What a renter asks, parsed once: whatever stands in an [`Ask`] may be sent to a node.

use holmes_kernel::{Code, Id, Principal, PrincipalKind, Refusal, Time};
use holmes_proto::inference::v1::{EmbedWork, GenerateWork, Terms, generate_work, work};

use crate::settings::Settings;

/// A call that a renter wants.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Ask {
    /// Who pays.
    pub(crate) renter: Principal,
    /// Its name for ever.
    pub(crate) call: Id,
    /// The model's name in the market.
    pub(crate) model: String,
    /// What is asked of it.
    pub(crate) work: work::Work,
    /// Number of the asset that pays; 0 for the dollar.
    pub(crate) asset: u32,
    /// Most that it may cost, micro-dollars; 0 for no limit.
    pub(crate) max_price_micro_usd: u64,
    /// The node that shall serve.
    pub(crate) node: Option<Id>,
}

/// Most texts of an embedding.
pub(crate) const MOST_TEXTS: usize = 2_048;
/// Most texts that end an answer, and the longest of them.
const MOST_STOPS: usize = 16;
const LONGEST_STOP: usize = 1_024;
/// Most likely tokens that are reported with one.
pub(crate) const MOST_LOGPROBS: u32 = 20;
/// Greatest temperature.
pub(crate) const MOST_TEMPERATURE: f32 = 2.0;
/// How old a call's id may be, and how far ahead: what services take too.
const OLDEST_MS: u64 = 60 * 60 * 1_000;
const AHEAD_MS: u64 = 5 * 60 * 1_000;

impl Ask {
    /// Parses what `renter` asks.
    pub(crate) fn new(
        renter: Principal,
        call: Id,
        model: &str,
        work: work::Work,
        terms: &Terms,
        settings: &Settings,
    ) -> Result<Ask, Refusal> {
        if model.is_empty() || model.len() > 64 {
            return Err(wrong("model", "the name of a model, as ListModels or GET /v1/models says it"));
        }
        match &work {
            work::Work::Generate(generate) => check_generate(generate, settings)?,
            work::Work::Embed(embed) => check_embed(embed, settings)?,
        }
        let node = match terms.node_id.as_str() {
            "" => None,
            text => Some(text.parse().map_err(|_| wrong("terms.node_id", "a node's id, or nothing"))?),
        };
        let asset = asset(&terms.asset, settings)?;
        let max_price_micro_usd = terms.max_price_micro_usd;
        Ok(Ask { renter, call, model: model.to_owned(), work, asset, max_price_micro_usd, node })
    }
}

/// Only accounts can have a session: said before anything is read, looked up or reserved for a call.
pub(crate) fn of_an_account(renter: Principal) -> Result<(), Refusal> {
    if renter.kind == PrincipalKind::Account {
        return Ok(());
    }
    let message =
        format!("{renter} may not do this: a call is an account's, ask with a key that acts as renter");
    Err(Refusal::new(Code::Forbidden, "FORBIDDEN", message))
}

/// A call's id: the renter's, or a fresh one where the renter has none.
pub(crate) fn call_id(text: &str, now: Time) -> Result<Id, Refusal> {
    if text.is_empty() {
        return Ok(crate::upstream::fresh());
    }
    let id: Option<Id> = text.parse().ok();
    let Some((id, moment)) = id.and_then(|id| Some((id, id.moment()?))) else {
        return Err(wrong("request_id", "a UUIDv7, or nothing"));
    };
    if moment.after_millis(OLDEST_MS) < now || moment > now.after_millis(AHEAD_MS) {
        let message = "the request id is older than an hour, or more than 5 minutes ahead: make a new one, and check the clock";
        return Err(Refusal::new(Code::Precondition, "ID_EXPIRED", message)); // the kernel's class for the same
    }
    Ok(id)
}

fn asset(name: &str, settings: &Settings) -> Result<u32, Refusal> {
    if name.is_empty() || name == "USD" {
        Ok(0)
    } else if name == settings.token_name {
        Ok(settings.token_asset)
    } else {
        Err(wrong("terms.asset", "USD, the network's token, or nothing"))
    }
}

fn check_generate(work: &GenerateWork, settings: &Settings) -> Result<(), Refusal> {
    match &work.prompt {
        None => return Err(wrong("prompt", "a text or a conversation")),
        Some(generate_work::Prompt::Text(text)) => {
            if text.is_empty() {
                return Err(wrong("prompt", "a text of at least one character"));
            }
            check_texts([text.as_str()], settings)?;
        }
        Some(generate_work::Prompt::Chat(chat)) => {
            if chat.messages.is_empty() || chat.messages.len() > settings.most_messages {
                return Err(wrong("messages", &format!("1 to {} messages", settings.most_messages)));
            }
            let known = |role: &str| matches!(role, "system" | "user" | "assistant");
            if chat.messages.iter().any(|message| !known(&message.role)) {
                return Err(wrong("messages.role", "\"system\", \"user\" or \"assistant\""));
            }
            check_texts(chat.messages.iter().map(|message| message.content.as_str()), settings)?;
        }
    }
    if work.stop.len() > MOST_STOPS || work.stop.iter().any(|s| s.is_empty() || s.len() > LONGEST_STOP) {
        return Err(wrong("stop", "at most 16 texts of 1 to 1,024 bytes"));
    }
    let Some(sampling) = &work.sampling else { return Ok(()) };
    if !(0.0..=MOST_TEMPERATURE).contains(&sampling.temperature) {
        return Err(wrong("temperature", "a number from 0 to 2"));
    }
    if !(0.0..=1.0).contains(&sampling.top_p) {
        return Err(wrong("top_p", "a number from 0 to 1"));
    }
    if sampling.logprobs.is_some_and(|count| count > MOST_LOGPROBS) {
        return Err(wrong("logprobs", "at most 20"));
    }
    Ok(())
}

fn check_embed(work: &EmbedWork, settings: &Settings) -> Result<(), Refusal> {
    if work.texts.is_empty() || work.texts.len() > MOST_TEXTS || work.texts.iter().any(String::is_empty) {
        return Err(wrong("texts", "1 to 2,048 texts of at least one character"));
    }
    check_texts(work.texts.iter().map(String::as_str), settings)
}

/// Texts of a bearable length that no model takes for its own marks. The engine's templates turn the spelling of a
/// control token into the token, so a renter could otherwise write in another role.
fn check_texts<'a>(texts: impl IntoIterator<Item = &'a str>, settings: &Settings) -> Result<(), Refusal> {
    let mut bytes = 0;
    for text in texts {
        bytes += text.len();
        if let Some(control) = settings.control_texts.iter().find(|control| text.contains(control.as_str())) {
            let message = format!(
                "the text contains {control:?}, which models take for a mark of their own: take it out"
            );
            return Err(Refusal::new(Code::Invalid, "CONTROL_TEXT", message));
        }
    }
    if bytes > settings.most_prompt_bytes {
        let message =
            format!("the texts may have {} bytes together: shorten them", settings.most_prompt_bytes);
        return Err(Refusal::new(Code::Invalid, "PROMPT_TOO_LONG", message));
    }
    Ok(())
}

/// A field that is not what it must be.
pub(crate) fn wrong(field: &str, expected: &str) -> Refusal {
    Refusal::new(Code::Invalid, "FIELD_INVALID", format!("{field} is not valid: expected {expected}"))
}

#[cfg(test)]
mod tests {
    use holmes_kernel::PrincipalKind;
    use holmes_proto::inference::v1::{ChatMessage, Conversation, Sampling};

    use super::*;

    fn text(prompt: &str) -> GenerateWork {
        GenerateWork { prompt: Some(generate_work::Prompt::Text(prompt.to_owned())), ..Default::default() }
    }

    fn parse(work: GenerateWork, terms: Terms) -> Result<Ask, Refusal> {
        let renter = Principal::new(PrincipalKind::Account, Id::from_bytes([1; 16]));
        let settings = Settings { token_name: "HOL".to_owned(), token_asset: 1, ..Settings::default() };
        Ask::new(renter, Id::default(), "m", work::Work::Generate(work), &terms, &settings)
    }

    fn reason(work: GenerateWork) -> String {
        parse(work, Terms::default()).unwrap_err().reason.into_owned()
    }

    #[test]
    fn a_text_that_spells_a_control_token_is_refused_wherever_it_stands() {
        assert_eq!(reason(text("a <|im_start|>system")), "CONTROL_TEXT");
        let message = |content: &str| ChatMessage { role: "user".to_owned(), content: content.to_owned() };
        let chat = Conversation { messages: vec![message("hello"), message("<|im_end|>")] };
        let work =
            GenerateWork { prompt: Some(generate_work::Prompt::Chat(chat)), ..GenerateWork::default() };
        assert_eq!(reason(work), "CONTROL_TEXT");
        assert!(parse(text("a < b | c > d"), Terms::default()).is_ok());
    }

    #[test]
    fn what_no_node_could_do_is_refused_with_its_field() {
        let sampled = |sampling| GenerateWork { sampling: Some(sampling), ..text("a") };
        let bad = [
            GenerateWork::default(),
            text(""),
            GenerateWork { stop: vec![String::new()], ..text("a") },
            GenerateWork { stop: vec!["x".to_owned(); 17], ..text("a") },
            sampled(Sampling { temperature: -0.1, ..Sampling::default() }),
            sampled(Sampling { temperature: f32::NAN, ..Sampling::default() }),
            sampled(Sampling { top_p: 1.5, ..Sampling::default() }),
            sampled(Sampling { logprobs: Some(21), ..Sampling::default() }),
        ];
        for work in bad {
            assert_eq!(reason(work.clone()), "FIELD_INVALID", "{work:?}");
        }
        assert_eq!(reason(text(&"x".repeat((1 << 20) + 1))), "PROMPT_TOO_LONG");
    }

    #[test]
    fn the_asset_is_the_dollar_or_the_token_by_name() {
        let asset = |name: &str| parse(text("a"), Terms { asset: name.to_owned(), ..Terms::default() });
        assert_eq!((asset("").unwrap().asset, asset("USD").unwrap().asset), (0, 0));
        assert_eq!(asset("HOL").unwrap().asset, 1);
        assert!(asset("BTC").is_err());
    }

    #[test]
    fn a_call_is_named_by_a_uuidv7_of_now() {
        let now = Time::from_millis(1_700_000_000_000);
        let id = |ms| Id::v7(ms, [7; 10]).to_string();
        assert!(call_id(&id(now.millis()), now).is_ok());
        assert_eq!(call_id(&id(now.millis() - 3_600_001), now).unwrap_err().reason, "ID_EXPIRED");
        assert_eq!(call_id(&id(now.millis() + 300_001), now).unwrap_err().reason, "ID_EXPIRED");
        assert_eq!(call_id(&id(0), now).unwrap_err().code, Code::Precondition);
        assert_eq!(call_id("0192f3a0-7c1d-4b43-9b0e-3f1d2c4b5a69", now).unwrap_err().reason, "FIELD_INVALID");
        assert!(call_id("", now).is_ok());
    }
}

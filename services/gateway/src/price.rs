//! What a call can cost at most. The gateway does not know the model's tokens: it bounds them from above by bytes, for
//! a token stands for at least one byte; the receipt says the exact number, and nothing above the bound is billed.

use holmes_kernel::{Code, Refusal};
use holmes_proto::inference::v1::{generate_work, work};
use holmes_proto::market::v1 as market;

use crate::ask::Ask;
use crate::calls::outcome::CONTEXT_LENGTH_EXCEEDED;
use crate::settings::Settings;
use crate::upstream::{Upstream, now};

/// Pico-dollars of a micro-dollar.
pub(crate) const PICO_PER_MICRO: u64 = 1_000_000;
/// No text has fewer tokens than one for so many bytes, as far as a node's context is chosen by it.
const BYTES_PER_TOKEN: u64 = 8;

/// The most that a call can use.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Bound {
    /// Tokens read.
    pub(crate) input: u64,
    /// Tokens written.
    pub(crate) output: u64,
    /// Tokens that the node's context must hold at least.
    pub(crate) context: u32,
}

impl Bound {
    /// The bound of a work, where the longest context of a node that serves the model is `context`; 0 for unknown.
    pub(crate) fn of(asked: &work::Work, context: u32, settings: &Settings) -> Bound {
        let (bytes, pieces, most) = match asked {
            work::Work::Generate(work) => {
                let (bytes, pieces) = match &work.prompt {
                    Some(generate_work::Prompt::Text(text)) => (text.len(), 1),
                    Some(generate_work::Prompt::Chat(chat)) => {
                        let bytes = chat.messages.iter().map(|m| m.role.len() + m.content.len()).sum();
                        (bytes, chat.messages.len())
                    }
                    None => (0, 0),
                };
                (bytes as u64, pieces as u64, Some(work.max_tokens))
            }
            work::Work::Embed(work) => {
                (work.texts.iter().map(String::len).sum::<usize>() as u64, work.texts.len() as u64, None)
            }
        };
        let input = bytes + pieces * settings.message_tokens + settings.template_tokens;
        match most {
            None => Bound { input, output: 0, context: 0 },
            Some(asked) => {
                let whole = if context == 0 { u64::from(u32::MAX) } else { u64::from(context) };
                let output = if asked == 0 { whole } else { u64::from(asked).min(whole) };
                let needed = u64::from(asked) + bytes / BYTES_PER_TOKEN;
                let context = u32::try_from(needed).unwrap_or(u32::MAX);
                Bound { input: input.min(whole), output, context }
            }
        }
    }

    /// Refuses what cannot fit into the longest context of a node that serves the model; 0 for unknown.
    pub(crate) fn check(&self, longest: u32) -> Result<(), Refusal> {
        if longest == 0 || self.context <= longest {
            return Ok(());
        }
        let message = format!(
            "the longest context of the model is {longest} tokens here, and the prompt with max_tokens takes at least {}: \
             shorten the prompt, or ask for fewer tokens",
            self.context
        );
        Err(Refusal::new(Code::Invalid, CONTEXT_LENGTH_EXCEEDED, message))
    }

    /// Its price without fees, pico-dollars.
    pub(crate) fn pico(&self, input_pico: u64, output_pico: u64) -> u64 {
        pico(self.input, input_pico).saturating_add(pico(self.output, output_pico))
    }
}

/// Price of so many tokens, pico-dollars.
pub(crate) fn pico(tokens: u64, each: u64) -> u64 {
    tokens.saturating_mul(each)
}

/// What a call would cost at most, as the market says it, and whether the renter agreed to that.
pub(crate) async fn quote(
    upstream: &Upstream,
    ask: &Ask,
    bound: Bound,
) -> Result<market::QuoteResponse, Refusal> {
    let quoted = of_tokens(upstream, &ask.model, ask.asset, bound.input, bound.output).await?;
    if ask.max_price_micro_usd > 0 && quoted.total_micro_usd > ask.max_price_micro_usd {
        let message = format!(
            "the call could cost {} micro-dollars, more than max_price_micro_usd: ask for fewer tokens (max_tokens), or allow more",
            quoted.total_micro_usd
        );
        return Err(Refusal::new(Code::Precondition, "PRICE_ABOVE_LIMIT", message));
    }
    Ok(quoted)
}

/// What so many tokens of a model cost, fees included.
pub(crate) async fn of_tokens(
    upstream: &Upstream,
    model: &str,
    asset: u32,
    input_tokens: u64,
    output_tokens: u64,
) -> Result<market::QuoteResponse, Refusal> {
    let asked = market::QuoteRequest { model: model.to_owned(), input_tokens, output_tokens, asset };
    let mut market = upstream.market();
    upstream.once(market.quote(now(asked))).await
}

#[cfg(test)]
mod tests {
    use holmes_proto::inference::v1::{EmbedWork, GenerateWork};

    use super::*;

    fn generate(text: &str, max_tokens: u32) -> work::Work {
        let prompt = Some(generate_work::Prompt::Text(text.to_owned()));
        work::Work::Generate(GenerateWork { prompt, max_tokens, ..GenerateWork::default() })
    }

    #[test]
    fn a_bound_is_above_whatever_a_tokenizer_makes_of_the_text_and_below_the_context() {
        let settings = Settings::default();
        let bound = Bound::of(&generate("hello", 7), 2_048, &settings);
        assert_eq!(bound, Bound { input: 5 + 16 + 64, output: 7, context: 7 });
        let open = Bound::of(&generate(&"x".repeat(10_000), 0), 2_048, &settings);
        assert_eq!((open.input, open.output), (2_048, 2_048));
        let embed = work::Work::Embed(EmbedWork { texts: vec!["ab".to_owned(), "c".to_owned()] });
        assert_eq!(Bound::of(&embed, 512, &settings), Bound { input: 3 + 32 + 64, output: 0, context: 0 });
    }

    #[test]
    fn what_fits_no_context_is_refused_with_the_limit_and_the_count() {
        let bound = |text: &str, most| Bound::of(&generate(text, most), 2_048, &Settings::default());
        assert!(bound("hello", 2_048).check(2_048).is_ok() && bound("hello", 9_000).check(0).is_ok());
        for too_long in
            [bound("hello", 2_049), bound(&"x".repeat(16_400), 0), bound(&"x".repeat(9_600), 1_000)]
        {
            let refused = too_long.check(2_048).unwrap_err();
            assert_eq!((refused.code, refused.reason.as_ref()), (Code::Invalid, CONTEXT_LENGTH_EXCEEDED));
            let (limit, count) = ("2048 tokens", format!("at least {}", too_long.context));
            assert!(refused.message.contains(limit) && refused.message.contains(&count), "{refused}");
        }
    }

    #[test]
    fn a_price_that_has_no_number_is_the_highest() {
        let bound = Bound { input: u64::MAX, output: 1, context: 0 };
        assert_eq!(bound.pico(2, 1), u64::MAX);
    }
}

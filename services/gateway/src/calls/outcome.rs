//! How calls end, in words that are ours: what a node says is bounded before it reaches a renter.

use holmes_kernel::{Code, Refusal};
use holmes_proto::inference::v1::Failed;

/// The reason when a prompt, with what is to be written, is longer than a model's context.
pub(crate) const CONTEXT_LENGTH_EXCEEDED: &str = "CONTEXT_LENGTH_EXCEEDED";

/// Longest reason and message of a node that a renter is told.
const LONGEST_REASON: usize = 64;
const LONGEST_MESSAGE: usize = 512;

/// What a node refuses because of what its caller asks. Its words go on to the renter only as far as they have the form
/// of a reason and a message.
pub(crate) fn refused_by_node(failed: Failed) -> Refusal {
    // The engine's reasons: the prompt alone is too long, or the prompt with what is to be written.
    if matches!(failed.reason.as_str(), "PROMPT_TOO_LONG" | "MAX_TOKENS_INVALID") {
        return Refusal::new(Code::Invalid, CONTEXT_LENGTH_EXCEEDED, bounded(failed.message));
    }
    let form = |byte: u8| byte.is_ascii_uppercase() || byte == b'_';
    let is_reason = (1..=LONGEST_REASON).contains(&failed.reason.len()) && failed.reason.bytes().all(form);
    let reason = if is_reason { failed.reason.into() } else { "NODE_REFUSED".into() };
    Refusal { reason, ..Refusal::new(Code::Invalid, "", bounded(failed.message)) }
}

fn bounded(mut message: String) -> String {
    let end = (0..=LONGEST_MESSAGE.min(message.len())).rev().find(|end| message.is_char_boundary(*end));
    message.truncate(end.unwrap_or(0));
    message
}

#[cfg(test)]
mod tests {
    use super::*;

    fn failed(reason: &str, message: &str) -> Refusal {
        refused_by_node(Failed { reason: reason.to_owned(), message: message.to_owned(), caller: true })
    }

    #[test]
    fn a_node_cannot_make_up_reasons_or_long_messages() {
        assert_eq!(failed("STOP_INVALID", "m").reason, "STOP_INVALID");
        for odd in ["", "a b", "x\r\ny", &"A".repeat(65)] {
            assert_eq!(failed(odd, "m").reason, "NODE_REFUSED", "{odd:?}");
        }
        assert_eq!(failed("STOP_INVALID", &"é".repeat(10_000)).message.len(), 512);
    }

    #[test]
    fn what_is_too_long_for_a_nodes_model_has_one_reason() {
        for engines in ["PROMPT_TOO_LONG", "MAX_TOKENS_INVALID"] {
            let refused = failed(engines, "the prompt has 9 tokens, but the context is 8; shorten it");
            assert_eq!((refused.code, refused.reason.as_ref()), (Code::Invalid, CONTEXT_LENGTH_EXCEEDED));
            assert!(refused.message.contains("9 tokens"), "{refused}");
        }
    }
}

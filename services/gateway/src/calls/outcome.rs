//! How calls end, in words that are ours: what a node says is bounded before it reaches a renter.

use holmes_kernel::{Code, Refusal};
use holmes_proto::blame;
use holmes_proto::inference::v1::Failed;

/// The reason when a prompt, with what is to be written, is longer than a model's context.
pub(crate) const CONTEXT_LENGTH_EXCEEDED: &str = "CONTEXT_LENGTH_EXCEEDED";

/// Longest message of a node that a renter is told.
const LONGEST_MESSAGE: usize = 512;

/// What a node refuses because of what its caller asks; `None` where it lies with the node, whatever that says. Its words
/// go on to the renter as its own.
pub(crate) fn refused_by_node(failed: &Failed) -> Option<Refusal> {
    let reason = blame::callers(&failed.reason).filter(|_| failed.caller)?;
    // The engine's reasons: the prompt alone is too long, or the prompt with what is to be written.
    let too_long = matches!(reason, "PROMPT_TOO_LONG" | "MAX_TOKENS_INVALID");
    let reason = if too_long { CONTEXT_LENGTH_EXCEEDED } else { reason };
    Some(Refusal::new(Code::Invalid, reason, format!("the node says: {}", bounded(&failed.message))))
}

/// A node's words, so far as they are printed anywhere: nothing in them moves a cursor or begins a line.
pub(crate) fn bounded(words: &str) -> String {
    let plain = words.chars().map(|c| if c.is_control() { ' ' } else { c });
    let mut bytes = 0;
    let fits = |c: &char| {
        bytes += c.len_utf8();
        bytes <= LONGEST_MESSAGE
    };
    plain.take_while(fits).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn failed(reason: &str, message: &str) -> Option<Refusal> {
        refused_by_node(&Failed { reason: reason.to_owned(), message: message.to_owned(), caller: true })
    }

    #[test]
    fn a_node_blames_its_caller_for_what_executors_do_and_for_nothing_else() {
        let refused = failed("STOP_INVALID", "at most 16").unwrap();
        assert_eq!(
            (refused.reason.as_ref(), refused.message.as_str()),
            ("STOP_INVALID", "the node says: at most 16")
        );
        for odd in ["", "a b", "x\r\ny", "INSUFFICIENT_FUNDS", "TOO_MANY_CALLS", "STOP_INVALID "] {
            assert_eq!(failed(odd, "m"), None, "{odd:?}");
        }
        let own = Failed { reason: "STOP_INVALID".to_owned(), message: String::new(), caller: false };
        assert_eq!(refused_by_node(&own), None);
    }

    #[test]
    fn a_nodes_words_are_short_and_plain() {
        let told = failed("STOP_INVALID", "\u{1b}[2Jred\r\nnext\u{9b}1m").unwrap().message;
        assert_eq!(told, "the node says:  [2Jred  next 1m");
        assert_eq!(bounded(&"é".repeat(10_000)).len(), 512);
        assert_eq!(bounded(&format!("x{}", "é".repeat(10_000))).len(), 511);
    }

    #[test]
    fn what_is_too_long_for_a_nodes_model_has_one_reason() {
        for engines in ["PROMPT_TOO_LONG", "MAX_TOKENS_INVALID"] {
            let refused =
                failed(engines, "the prompt has 9 tokens, but the context is 8; shorten it").unwrap();
            assert_eq!((refused.code, refused.reason.as_ref()), (Code::Invalid, CONTEXT_LENGTH_EXCEEDED));
            assert!(refused.message.contains("9 tokens"), "{refused}");
        }
    }
}

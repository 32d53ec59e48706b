//! Which failures of a call a node may put down to who asked: the executor says them of these reasons only, and a
//! gateway believes no others, so that a node cannot speak in the network's name. One that lies in these words ends a call for nothing; it is not paid.

/// Reasons for which every node would refuse the same call.
const CALLERS: [&str; 15] = [
    "MAX_TOKENS_INVALID",
    "MESSAGES_REFUSED",
    "MODEL_KIND_WRONG",
    "PROMPT_EMPTY",
    "PROMPT_MISSING",
    "PROMPT_TOO_LONG",
    "RESUME_NOT_REPRODUCIBLE",
    "SAMPLING_INVALID",
    "STOP_INVALID",
    "TEMPLATE_MISSING",
    "TEXTS_EMPTY",
    "TEXTS_TOO_MANY",
    "TEXT_TOO_LONG",
    "VECTORS_TOO_LONG",
    "WORK_MISSING",
];

/// The reason, where it is one that lies in what was asked.
pub fn callers(reason: &str) -> Option<&'static str> {
    CALLERS.into_iter().find(|known| *known == reason)
}

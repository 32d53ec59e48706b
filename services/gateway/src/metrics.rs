//! What a gateway measures: its families, and the handles that its parts keep.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Mutex, Weak};

use holmes_runtime::measure::Kind::{Counter, Gauge, Histogram};
use holmes_runtime::measure::{Reasons, SECONDS, when_asked};

use crate::{Edge, guarded};

/// Buckets of the time of one token, seconds: from a small model on a fast device to what nobody waits for.
const TOKEN_SECONDS: &[f64] =
    &[0.001, 0.0025, 0.005, 0.01, 0.02, 0.03, 0.05, 0.075, 0.1, 0.15, 0.2, 0.3, 0.5, 1.0, 2.5];
/// Buckets of the time of a call, seconds: a long answer takes minutes.
const CALL_SECONDS: &[f64] =
    &[0.05, 0.1, 0.2, 0.5, 1.0, 2.0, 5.0, 10.0, 20.0, 30.0, 60.0, 120.0, 300.0, 600.0];

holmes_runtime::families! {
    READY = Gauge, "holmes_gateway_ready", [],
        "1 while scheduling knows the gateway and it takes calls.",
        "Alert when it is 0 for a minute: every call is refused with GATEWAY_STARTING.";
    NODES = Gauge, "holmes_gateway_nodes", [],
        "Nodes that are attached.",
        "A sudden drop is the network, or this gateway; 0 is an outage.";
    SLOTS = Gauge, "holmes_gateway_slots", ["model", "state"],
        "Slots of the attached nodes that serve a model, used (under an open lease) or free. A node's slot counts for every model that it serves.",
        "No free ones for minutes: renters wait or hear NO_NODE_FREE, more nodes are needed.";
    LEASES = Gauge, "holmes_gateway_leases", ["state"],
        "Open leases, busy with a call or idle until the next.",
        "Idle ones end by themselves within seconds; busy ones as many as there are slots: more nodes are needed.";
    IN_PROGRESS = Gauge, "holmes_gateway_calls_in_progress", [],
        "Calls that were let in and have not ended.",
        "Near gateway.max_calls the next ones hear TOO_MANY_CALLS.";
    CALLS = Counter, "holmes_gateway_calls_total", ["protocol", "method", "outcome"],
        "Calls that have ended: ENDED with an answer, or with the reason why not.",
        "Share of what is not ENDED. NODES_LOST, NO_NODE_*, UPSTREAM_*: ours to mend; INSUFFICIENT_FUNDS, RENTER_GONE, CONTEXT_*: the renter's.";
    MOVED = Counter, "holmes_gateway_calls_moved_total", [],
        "Calls that a node has lost, and that had to go on elsewhere.",
        "Against holmes_gateway_calls_total: beyond 1 % nodes are unstable, or the way to them.";
    FLOODED = Counter, "holmes_gateway_calls_flooded_total", [],
        "Calls that were given up at a node because too many bytes of it waited for their renter.",
        "A node that sends without measure, or renters who read too slowly.";
    FIRST_TOKEN = Histogram(SECONDS), "holmes_gateway_first_token_seconds", ["model"],
        "From a call's arrival to its first tokens (time to first token): session, lease, queue and reading the prompt.",
        "p95 by model is what renters feel. Up while holmes_gateway_output_token_seconds is not: slots or leases are short.";
    OUTPUT_TOKEN = Histogram(TOKEN_SECONDS), "holmes_gateway_output_token_seconds", ["model"],
        "Mean time of an answer's tokens behind the first ones (time per output token), once for each answer.",
        "p95 by model is the nodes' speed under their load.";
    CALL = Histogram(CALL_SECONDS), "holmes_gateway_call_seconds", ["model"],
        "From a call's arrival to its end, of calls that had an answer, cancelled ones too.",
        "Read it with the tokens: long answers take long.";
    PROMPT_TOKENS = Counter, "holmes_gateway_prompt_tokens_total", ["model"],
        "Tokens of prompts that nodes have signed for and the gateway has countersigned: what is billed.",
        "Its rate is the network's input.";
    CACHED_TOKENS = Counter, "holmes_gateway_cached_prompt_tokens_total", ["model"],
        "Those of them that nodes had computed before.",
        "Its share is what prefix caches save.";
    COMPLETION_TOKENS = Counter, "holmes_gateway_completion_tokens_total", ["model"],
        "Tokens of answers that nodes have signed for and the gateway has countersigned: what is billed.",
        "Its rate is the network's output.";
    HTTP = Histogram(SECONDS), "holmes_gateway_http_request_seconds", ["route", "code"],
        "How long an HTTP request took until its answer began, by route and status.",
        "Share of 5xx, and of 429. A streamed answer begins with its first part, a whole one when all of it is there.";
    ATTACH_REFUSED = Counter, "holmes_gateway_attach_refused_total", ["reason"],
        "Nodes' streams that came to no attachment.",
        "NODE_UNKNOWN, NODE_NOT_QUALIFIED: the operator's to mend; OVERLOADED, UPSTREAM_*: ours.";
    UNTRUE = Counter, "holmes_gateway_untrue_lines_total", ["reason"],
        "Lines of calls that a node has signed and that do not say what was delivered.",
        "Any increase: a node cheats or is defect. The log of the process names it.";
    PENDING = Gauge, "holmes_gateway_reports_pending", [],
        "Leases with finished calls on their way into scheduling's log.",
        "It returns to 0. When it grows, scheduling does not keep up, and calls end late.";
    REPORTS_REFUSED = Counter, "holmes_gateway_reports_refused_total", [],
        "Lines of calls that scheduling has not metered: their renters pay nothing.",
        "Any increase is work that nobody pays: the log of the process has the reason.";
}

/// By which way a call came.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Door {
    Generate,
    Embed,
    Chat,
    Completions,
    Embeddings,
}

impl Door {
    const ALL: [Door; 5] = [Door::Generate, Door::Embed, Door::Chat, Door::Completions, Door::Embeddings];

    /// Protocol and method.
    fn labels(self) -> [&'static str; 2] {
        match self {
            Door::Generate => ["grpc", "Generate"],
            Door::Embed => ["grpc", "Embed"],
            Door::Chat => ["http", "chat/completions"],
            Door::Completions => ["http", "completions"],
            Door::Embeddings => ["http", "embeddings"],
        }
    }
}

/// The outcome of a call that had an answer.
pub(crate) const ENDED: &str = "ENDED";

/// The outcomes of calls that are counted by name. A reason that a node makes up is none of them.
const OUTCOMES: [&str; 42] = [
    "ACCOUNT_CLOSED",
    "ACCOUNT_FROZEN",
    "ACCOUNT_NOT_FOUND",
    "ACCOUNT_SLOTS_USED",
    "CALL_CUT_OFF",
    "CALL_EXISTS",
    "CONTEXT_LENGTH_EXCEEDED",
    "CONTROL_TEXT",
    "DRAINING",
    ENDED,
    "GATEWAY_STARTING",
    "GATEWAY_UNKNOWN",
    "INSUFFICIENT_FUNDS",
    "MODEL_NOT_FOUND",
    "MODEL_NOT_OFFERED",
    "MODEL_NOT_SERVED",
    "MODEL_UNSUITED",
    "NAMED_NODE_UNAVAILABLE",
    "NODES_LOST",
    "NODE_GONE",
    "NODE_LOST",
    "NODE_REFUSED",
    "NO_NODE_FREE",
    "NO_NODE_QUALIFIED",
    "OVERLOADED",
    "PRICE_ABOVE_LIMIT",
    "RENTER_GONE",
    "SESSION_BUDGET_EXCEEDED",
    "SESSION_CLOSED",
    "SESSION_CLOSING",
    "SESSION_EXPIRED",
    "SESSION_NOT_FOUND",
    "SESSION_NOT_FUNDED_YET",
    "SESSION_NO_ACCOUNT",
    "SESSION_OVER",
    "STOP_INVALID",
    "TOO_MANY_CALLS",
    "TOO_MANY_LEASES",
    "TOO_MANY_LEASES_OF_SESSION",
    "UPSTREAM_FAILED",
    "UPSTREAM_MALFORMED",
    "UPSTREAM_SILENT",
];

/// Why a node's stream comes to no attachment.
const ATTACH: [&str; 17] = [
    "GATEWAY_STARTING",
    "GATEWAY_UNKNOWN",
    "HELLO_LATE",
    "HELLO_MALFORMED",
    "MODEL_NOT_OFFERED",
    "NODE_GONE",
    "NODE_NOT_QUALIFIED",
    "NODE_UNKNOWN",
    "NONCE_REUSED",
    "OVERLOADED",
    "SIGNATURE_INVALID",
    "STREAM_OLDER",
    "SUPERSEDED",
    "TOO_MANY_NODES",
    "TOO_MANY_SLOTS",
    "UPSTREAM_FAILED",
    "UPSTREAM_SILENT",
];

/// What is wrong with a line that a node has signed.
const UNTRUTHS: [&str; 7] = [
    "ABOVE_DELIVERED",
    "CALL_OTHER",
    "COMMITMENT_WRONG",
    "FINISH_WRONG",
    "INPUT_ABOVE_BOUND",
    "SIGNATURE_MALFORMED",
    "SIGNATURE_WRONG",
];

/// The handles of one gateway.
#[derive(Debug)]
pub(crate) struct Meters {
    calls: [Reasons; Door::ALL.len()],
    pub(crate) moved: metrics::Counter,
    pub(crate) attach_refused: Reasons,
    pub(crate) untrue: Reasons,
}

impl Meters {
    pub(crate) fn new() -> Meters {
        Meters {
            calls: Door::ALL.map(|door| Reasons::new(&CALLS, &door.labels(), &OUTCOMES)),
            moved: MOVED.counter(&[]),
            attach_refused: Reasons::new(&ATTACH_REFUSED, &[], &ATTACH),
            untrue: Reasons::new(&UNTRUE, &[], &UNTRUTHS),
        }
    }

    /// Counts a call that has ended.
    pub(crate) fn ended(&self, door: Door, outcome: &str) {
        self.calls[door as usize].count(outcome);
    }
}

/// The handles of one model that the market offers.
#[derive(Debug)]
pub(crate) struct ModelMeters {
    pub(crate) first_token: metrics::Histogram,
    pub(crate) output_token: metrics::Histogram,
    pub(crate) call: metrics::Histogram,
    pub(crate) prompt_tokens: metrics::Counter,
    pub(crate) cached_tokens: metrics::Counter,
    pub(crate) completion_tokens: metrics::Counter,
}

impl ModelMeters {
    pub(crate) fn new(model: &str) -> ModelMeters {
        let of = &[model];
        ModelMeters {
            first_token: FIRST_TOKEN.histogram(of),
            output_token: OUTPUT_TOKEN.histogram(of),
            call: CALL.histogram(of),
            prompt_tokens: PROMPT_TOKENS.counter(of),
            cached_tokens: CACHED_TOKENS.counter(of),
            completion_tokens: COMPLETION_TOKENS.counter(of),
        }
    }
}

/// Shows what a gateway holds, whenever somebody asks.
pub(crate) fn show(edge: Weak<Edge>) {
    let (ready, nodes, in_progress, pending) =
        (READY.gauge(&[]), NODES.gauge(&[]), IN_PROGRESS.gauge(&[]), PENDING.gauge(&[]));
    let [busy, idle] = ["busy", "idle"].map(|state| LEASES.gauge(&[state]));
    let shown = Mutex::default();
    when_asked(move || {
        let Some(edge) = edge.upgrade() else { return false };
        ready.set(if edge.started.borrow().is_some() { 1.0 } else { 0.0 });
        nodes.set(edge.nodes.count() as f64);
        in_progress.set(edge.limits.running() as f64);
        pending.set(edge.reports.pending() as f64);
        let (open, waiting) = (edge.leases.held().into_values().sum::<u64>(), edge.leases.idle());
        busy.set(open.saturating_sub(waiting) as f64);
        idle.set(waiting as f64);
        show_slots(&edge, &mut guarded(&shown));
        true
    });
}

/// Shows the slots of each model; one that nobody serves, or not any more, has none. Scheduling lets no node attach with a model
/// that the market does not offer, so that nodes make up no labels.
fn show_slots(edge: &Edge, shown: &mut BTreeSet<String>) {
    let (held, mut models) = (edge.leases.held(), BTreeMap::<String, [u64; 2]>::new());
    for node in edge.nodes.all() {
        let slots = u64::from(node.capabilities.slots);
        let used = held.get(&node.id).copied().unwrap_or_default().min(slots);
        for model in &node.capabilities.models {
            let [all_used, all_free] = models.entry(model.name.clone()).or_default();
            (*all_used, *all_free) = (*all_used + used, *all_free + (slots - used));
        }
    }
    shown.extend(edge.models.names());
    for gone in shown.iter().filter(|model| !models.contains_key(*model)).cloned().collect::<Vec<_>>() {
        models.insert(gone, [0, 0]);
    }
    for (model, [used, free]) in models {
        SLOTS.gauge(&[&model, "used"]).set(used as f64);
        SLOTS.gauge(&[&model, "free"]).set(free as f64);
        shown.insert(model);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reasons_stand_once_and_in_order() {
        let stand = |reasons: &[&str]| reasons.is_sorted_by(|a, b| a < b);
        assert!(stand(&OUTCOMES) && stand(&ATTACH) && stand(&UNTRUTHS));
        for (at, door) in Door::ALL.into_iter().enumerate() {
            assert_eq!(door as usize, at, "{door:?}");
        }
    }
}

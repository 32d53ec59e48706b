//! What of a gateway can be set. Not governed: a gateway holds no truth, and another one may choose otherwise.

use std::time::Duration;

/// Limits and waits. Times are milliseconds.
#[derive(Clone, Debug, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Settings {
    /// Name of the token, as renters say which asset pays; empty where only dollars pay.
    pub token_name: String,
    /// Number of the token in the ledger.
    pub token_asset: u32,
    /// Spellings of control tokens that no text of a renter may contain: a model's template would take them for its own
    /// marks.
    pub control_texts: Vec<String>,
    /// Longest prompt of a call, or all texts of it together, bytes.
    pub most_prompt_bytes: usize,
    /// Longest body of an HTTP request, bytes.
    pub most_body_bytes: usize,
    /// Messages of a conversation.
    pub most_messages: usize,
    /// Tokens that a template may add to a prompt, beside those of each message.
    pub template_tokens: u64,
    /// Tokens that a template may add for each message or text.
    pub message_tokens: u64,
    /// Calls in progress.
    pub most_calls: usize,
    /// The same of one renter.
    pub most_calls_per_renter: usize,
    /// Share of the slots of a model's nodes that one renter may hold, percent, to the nearest slot; rounded down while
    /// another one holds or waits for one; one slot in any case.
    pub most_slots_percent: u8,
    /// Ids of calls that are remembered.
    pub most_remembered: usize,
    /// Renters' sessions that are remembered.
    pub most_sessions: usize,
    /// Nodes that are attached.
    pub most_nodes: usize,
    /// Messages to a node that it has not yet taken.
    pub most_in_flight: usize,
    /// Longest message of a node, bytes.
    pub most_message_bytes: usize,
    /// Outputs of a call that its renter has not yet taken: more, and the call is cancelled; twice as many, and it is
    /// lost.
    pub most_buffered: usize,
    /// The same in bytes: it is cancelled at half of them.
    pub most_buffered_bytes: usize,
    /// Bytes that wait of all calls of a node together: what goes beyond is lost with its call.
    pub most_node_bytes: usize,
    /// The same of all nodes.
    pub most_waiting_bytes: usize,
    /// Parts of an answer between a call and its renter's connection.
    pub renter_buffer: usize,
    /// A renter who takes nothing for so long has gone.
    pub renter_stall_ms: u64,
    /// A node that attaches has so long to say hello.
    pub hello_ms: u64,
    /// A node says that it is there every so many ms (at least twice a beat of the network).
    pub beat_ms: u64,
    /// A node is lost when it is silent for so many of its beats …
    pub silent_beats: u64,
    /// … and for at least so long.
    pub silent_ms: u64,
    /// Presence is reported every so many beats of the network.
    pub report_beats: u64,
    /// A node signs a checkpoint every so many tokens …
    pub checkpoint_tokens: u32,
    /// … or after so many ms with a token.
    pub checkpoint_ms: u32,
    /// Price that a lease is asked to allow where the call needs less, micro-dollars: what more calls can use.
    pub allowance_micro_usd: u64,
    /// Calls of one lease: scheduling remembers only so many of each.
    pub most_calls_per_lease: u32,
    /// A lease is used for another call while it has at least so long.
    pub lease_left_ms: u64,
    /// Scheduling hears every so many ms what runs, and says which leases end: rarely enough for its log, often enough for
    /// what a call loses with its gateway, and for how late it hears that its session closes.
    pub running_ms: u64,
    /// A lease without a call is ended after so long.
    pub lease_idle_ms: u64,
    /// How long a call waits for a node that has a free slot.
    pub place_wait_ms: u64,
    /// How long a call waits for the hold of its session.
    pub session_wait_ms: u64,
    /// A session that was refused for good, because there is no money or no account, is asked for again after so long: each
    /// try is kept in logs for ever.
    pub session_refused_ms: u64,
    /// A session that ends within so long takes no more calls.
    pub session_left_ms: u64,
    /// How often a call goes on at another node.
    pub most_moves: u32,
    /// A node that says nothing of a call for so long has failed.
    pub call_silent_ms: u64,
    /// Before its first word it may be silent for so much longer, for each token that it may have to read.
    pub read_token_ms: u64,
    /// But not for more than this.
    pub longest_read_ms: u64,
    /// How long a call waits for its receipt after its last output, or after it was cancelled. So long before its lease
    /// ends it is stopped.
    pub receipt_wait_ms: u64,
    /// How long one call to another service may take.
    pub upstream_ms: u64,
    /// How long a report is tried again where scheduling does not answer.
    pub report_for_ms: u64,
    /// Prices are asked for again after so long.
    pub catalogue_ms: u64,
    /// How long the body of an HTTP request may be on its way.
    pub body_ms: u64,
    /// Longest HTTP request.
    pub http_ms: u64,
    /// A comment keeps a silent stream of an HTTP answer open every so many ms.
    pub keep_alive_ms: u64,
    /// How long calls in progress may go on after the gateway was told to stop.
    pub drain_ms: u64,
}

impl Settings {
    /// How long a node may be silent that has to read so many tokens first.
    pub(crate) fn silence_ms(&self, tokens: u64) -> u64 {
        self.call_silent_ms + tokens.saturating_mul(self.read_token_ms).min(self.longest_read_ms)
    }
}

impl Default for Settings {
    fn default() -> Self {
        Settings {
            token_name: String::new(),
            token_asset: 0,
            control_texts: ["<|", "<start_of_turn>", "<end_of_turn>", "[INST]", "[/INST]"]
                .map(str::to_owned)
                .to_vec(),
            most_prompt_bytes: 1 << 20,
            most_body_bytes: 1 << 20,
            most_messages: 1_024,
            template_tokens: 64,
            message_tokens: 16,
            most_calls: 4_096,
            most_calls_per_renter: 256,
            most_slots_percent: 80,
            most_remembered: 1 << 20,
            most_sessions: 100_000,
            most_nodes: 10_000,
            most_in_flight: 1_024,
            most_message_bytes: 16 << 20,
            most_buffered: 4_096,
            most_buffered_bytes: 32 << 20,
            most_node_bytes: 64 << 20,
            most_waiting_bytes: 512 << 20,
            renter_buffer: 32,
            renter_stall_ms: 30_000,
            hello_ms: 5_000,
            beat_ms: 1_000,
            silent_beats: 4,
            silent_ms: 3_000,
            report_beats: 4,
            checkpoint_tokens: 64,
            checkpoint_ms: 1_000,
            allowance_micro_usd: 10_000,
            most_calls_per_lease: 10_000,
            lease_left_ms: 10_000,
            running_ms: 1_000,
            lease_idle_ms: 2_000,
            place_wait_ms: 3_000,
            session_wait_ms: 10_000,
            session_refused_ms: 2_000,
            session_left_ms: 120_000,
            most_moves: 3,
            call_silent_ms: 60_000,
            read_token_ms: 30,
            longest_read_ms: 240_000,
            receipt_wait_ms: 5_000,
            upstream_ms: 5_000,
            report_for_ms: 60_000,
            catalogue_ms: 2_000,
            body_ms: 30_000,
            http_ms: 600_000,
            keep_alive_ms: 10_000,
            drain_ms: 20_000,
        }
    }
}

/// So many milliseconds.
pub(crate) fn ms(ms: u64) -> Duration {
    Duration::from_millis(ms)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_node_has_time_to_read_before_it_speaks_but_not_for_ever() {
        let settings = Settings::default();
        assert_eq!(settings.silence_ms(0), 60_000);
        assert_eq!(settings.silence_ms(4_000), 60_000 + 4_000 * 30);
        assert_eq!(settings.silence_ms(u64::MAX), 60_000 + 240_000);
    }
}

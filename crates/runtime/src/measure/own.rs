//! What every process measures: logs, feeds, ports.

use super::Kind::{Counter, Gauge, Histogram};
use super::SECONDS;

/// Buckets of a frame's bytes, up to the most that a frame may have.
const BYTES: &[f64] = &[256.0, 1_024.0, 4_096.0, 16_384.0, 65_536.0, 131_072.0, 262_144.0, 393_216.0];
/// Buckets of a frame's events, up to the most that a frame may have.
const EVENTS: &[f64] = &[1.0, 2.0, 4.0, 8.0, 16.0, 32.0, 64.0, 128.0, 256.0, 512.0];

crate::families! {
    BUILD = Gauge, "holmes_build_info", ["version"],
        "Always 1; the label says which build runs.",
        "Join it to others to see which build a change came with.";
    LOG_HEAD = Gauge, "holmes_log_head", ["service"],
        "Sequence number of the last durable event of a service's log.",
        "Its rate is the service's events a second; a head that stands still under load is a disk that stands still.";
    LOG_SERVING = Gauge, "holmes_log_serving", ["service"],
        "1 while the service answers; 0 while it replays its log, after it has halted, or when another process owns the log.",
        "Alert when it is 0 for a minute: /readyz and the log of the process say why.";
    LOG_APPEND = Histogram(SECONDS), "holmes_log_append_seconds", ["service"],
        "How long a frame took until it was durable.",
        "Every write waits for it: a p99 beyond 50 ms is a slow or a shared disk.";
    LOG_REPEATED = Counter, "holmes_log_appends_repeated_total", ["service"],
        "Frames that were sent to the store once more because the outcome was not known.",
        "More than none for long: the store answers late or not at all.";
    LOG_FRAME_BYTES = Histogram(BYTES), "holmes_log_frame_bytes", ["service"],
        "Size of the frames that were handed to the store.",
        "Its sum's rate is what the log grows by: plan the disk with it.";
    LOG_FRAME_EVENTS = Histogram(EVENTS), "holmes_log_frame_events", ["service"],
        "Events of the frames that were handed to the store; a command has one at least.",
        "Frames grow under load. Near 512 the log is as fast as it gets.";
    LOG_QUEUE = Gauge, "holmes_log_queue_length", ["service"],
        "Commands and reads that wait for the service, of 4,096 at most.",
        "Near 4,096 callers are about to be refused (QUEUE_FULL): look at holmes_log_append_seconds.";
    LOG_REFUSED = Counter, "holmes_log_refused_total", ["service", "reason"],
        "Commands and reads that the service had no room, no place in the log, or no owner for.",
        "QUEUE_FULL is overload, LOG_HALTED needs a person, NOT_REACHED is a feed that lags.";
    LOG_REBUILT = Counter, "holmes_log_rebuilt_total", ["service"],
        "Times that the service threw its state away and replayed its log, after a defect.",
        "Any increase is a defect: keep the log of the process and report it.";
    LOG_REPLAY = Gauge, "holmes_log_replay_seconds", ["service"],
        "How long the last replay of the log took: from the snapshot, or from the first frame.",
        "What a restart costs. Lower store.snapshot_every when it is too much.";
    LOG_SNAPSHOT = Gauge, "holmes_log_snapshot_head", ["service"],
        "Where a replay would begin: behind the newest snapshot, or 0.",
        "holmes_log_head minus it is what a restart replays; beyond twice store.snapshot_every none is kept any more.";
    LOG_SNAPSHOT_FAILED = Counter, "holmes_log_snapshots_failed_total", ["service"],
        "Snapshots that were not kept.",
        "The service goes on without; the log of the process says why.";
    FEED_LAG = Gauge, "holmes_feed_lag_events", ["reader", "source"],
        "Durable events of a source's log that the reader has not taken in yet.",
        "It returns to 0 within moments. When it only grows, the reader is slow, or the source parked.";
    FEED_PARKED = Gauge, "holmes_feed_parked", ["reader", "source"],
        "1 when the reader no longer follows the source.",
        "Alert at once: a person must look, nothing more of the source counts until then. The log of the process says why.";
    FEED_AHEAD = Counter, "holmes_feed_ahead_total", ["reader", "source"],
        "Entries of the source that came with a time more than 5 s ahead of the clock.",
        "Any increase: clocks differ. Look at time synchronisation.";
    RELAY_LAG = Gauge, "holmes_relay_lag_events", ["service"],
        "Durable events of a service's log that its stream does not carry yet.",
        "It returns to 0 within moments. When it only grows, NATS is away or slow: readers in other processes wait, nothing is lost.";
    RELAY_HALTED = Gauge, "holmes_relay_halted", ["service"],
        "1 when the stream holds what is not in the log, and nothing more is carried.",
        "Alert at once: a person must look. The log of the process says what differs.";
    RELAY_PUBLISH = Histogram(SECONDS), "holmes_relay_publish_seconds", ["service"],
        "How long a message took until the stream had it; there is one for each frame.",
        "Every message waits for the one before: a p99 beyond 50 ms is a slow NATS.";
    RELAY_AGAIN = Counter, "holmes_relay_looked_again_total", ["service"],
        "Times that the end of a stream had to be asked for anew.",
        "Once a start. More: NATS was away, has lost messages, or two processes carry one log.";
    GRPC_CALL = Histogram(SECONDS), "holmes_grpc_call_seconds", ["method", "code"],
        "How long a gRPC call took until its answer began, by method and status.",
        "Share of codes other than Ok, and p99, by method. Unknown methods are \"other\".";
    GRPC_REFUSED = Counter, "holmes_grpc_refused_total", ["reason"],
        "gRPC calls that the port refused or ended, before or in place of a service.",
        "OVERLOADED is too little room (server.max_*), KEY_* and SIGNATURE_* are wrong proofs, DEADLINE_EXCEEDED is slowness.";
    GRPC_USED = Gauge, "holmes_grpc_places_used", ["kind"],
        "Calls and streams in progress on the gRPC port; guests have sent no proof of who they are.",
        "Compare with holmes_grpc_places: at the top callers are refused, or guests give way.";
    GRPC_PLACES = Gauge, "holmes_grpc_places", ["kind"],
        "How many of them the port takes.",
        "Raise server.max_* when holmes_grpc_places_used stays near it and the machine has room.";
    PORT_CONNECTIONS = Gauge, "holmes_port_connections", ["port"],
        "Open connections.",
        "Compare with server.max_connections and gateway.max_connections.";
    PORT_REFUSED = Counter, "holmes_port_connections_refused_total", ["port", "reason"],
        "Connections that were closed at once because their port, or their address on it, had too many, or the process no descriptor.",
        "ADDRESS_FULL is one client with too many; PORT_FULL and NOT_ACCEPTED: raise the limit, of the port or of open files.";
    SPANS_DROPPED = Counter, "holmes_trace_spans_dropped_total", [],
        "Spans that did not reach the collector of telemetry.otlp, and are lost.",
        "Any increase: the collector is away or refuses. The log of the process names its address, once and then every 15 minutes.";
}

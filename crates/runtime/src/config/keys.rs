//! What every key of the configuration means.

/// Every key and its meaning; a test holds the list and the types together.
pub(super) const KEYS: &[(&str, &str)] = &[
    ("cell.number", "number of the cell, in every frame and id; fixed once a log exists"),
    (
        "cell.profile",
        "the network's profile: a file or a built-in name; empty: the binary's own choice; used when logs are opened",
    ),
    ("store.dir", "directory of keys and of the embedded journal; one process at a time"),
    (
        "store.cql",
        "ScyllaDB or Cassandra servers that keep the logs instead, `host:port` with commas; empty: the embedded journal; `holmes migrate` makes the tables",
    ),
    ("store.keyspace", "keyspace of the cell on these servers: lower-case letters, digits, _"),
    (
        "store.user",
        "user on these servers; empty: none; `holmes migrate --rights` gives each service one of its own",
    ),
    ("store.password_file", "file with the user's password"),
    ("store.dev", "one copy of each row is enough, where losing them is no loss"),
    ("store.snapshot_every", "events behind which a new snapshot is written; 0: never"),
    ("store.accept_clock", "start although the clock is more than 30 days past the last frame"),
    (
        "bus.nats",
        "NATS servers with JetStream that carry the logs to readers in other processes, `host:port` with commas; empty: none; `holmes migrate` makes the streams",
    ),
    ("bus.user", "user on these servers; empty: none"),
    ("bus.password_file", "file with the user's password"),
    (
        "bus.ca",
        "file with the certificates of those who may sign the servers' (PEM); with it only TLS is spoken",
    ),
    ("bus.certificate", "file with our certificate for them (PEM)"),
    ("bus.key", "file with its key (PEM)"),
    (
        "cluster.peers",
        "where each service of the cell is, where processes run some roles each: service=http://host:port, several of one with | between them, *=http://holmes-{service}:7070 for the rest; empty: this process is the whole cell",
    ),
    (
        "cluster.lease_ms",
        "how long a process that owns a log may be silent before another one that runs the role claims it, in ms, in whole seconds; a hint: who owns a log is decided by claiming it",
    ),
    ("tls.authority", "file with the certificates of those who may sign the cell's (PEM)"),
    (
        "tls.certificate",
        "file with our certificate (PEM), whose name is SERVICE.holmes, as in ledger.holmes; empty: no TLS to other processes; read again when it changes",
    ),
    ("tls.key", "file with its key (PEM)"),
    ("server.listen", "address of the gRPC port"),
    (
        "server.clients",
        "who may connect to the gRPC port: plain: anybody, without TLS; anybody: within TLS; cell: who shows a certificate of tls.authority",
    ),
    (
        "server.admin",
        "address of the admin port (metrics, health, readiness); keep it unreachable from outside",
    ),
    (
        "server.max_calls",
        "unary calls in progress in the process whose callers have proven who they are; more are refused with RESOURCE_EXHAUSTED",
    ),
    ("server.max_guest_calls", "the same of callers without proof: they never take the places of the others"),
    (
        "server.max_streams",
        "open streams in the process whose callers have proven who they are, attached nodes among them; more are refused with RESOURCE_EXHAUSTED",
    ),
    (
        "server.max_guest_streams",
        "the same of callers without proof (reflection, health, a node before its Hello); the oldest gives way to the one too many",
    ),
    ("server.guest_stream_ms", "how long a stream without proof may last, in ms"),
    (
        "server.max_connections",
        "connections of the gRPC port, attached nodes' among them; when it is full, or the process has no more descriptors, the oldest over which nobody has proven anything gives way",
    ),
    (
        "server.max_connections_per_address",
        "the same from one address; behind a proxy all come from one: set both alike there",
    ),
    ("server.max_calls_per_connection", "calls and streams in progress on one connection"),
    (
        "server.max_request_bytes",
        "bytes of one signed request, 1024 to 64 MiB; with an API key it may have 4 MiB, without proof 256 KiB",
    ),
    (
        "server.max_unproven_bytes",
        "bytes of all requests together whose proof is being checked; more are refused with RESOURCE_EXHAUSTED",
    ),
    (
        "server.deadline_ms",
        "deadline in ms of a call whose caller has set none; a stream must have begun by then",
    ),
    ("server.longest_deadline_ms", "longest deadline in ms of a call, whatever its caller has set"),
    ("server.drain_ms", "how long calls in progress may take after SIGTERM, in ms"),
    ("gateway.http", "address of the HTTP port, where OpenAI clients are answered under /v1"),
    (
        "gateway.max_connections",
        "connections of the HTTP port; when it is full, the oldest over which no key has been sent gives way",
    ),
    (
        "gateway.max_connections_per_address",
        "the same from one address; behind a proxy all come from one: set both alike there",
    ),
    (
        "gateway.header_ms",
        "how long the head of an HTTP request may be on its way, and an idle connection stays open, in ms",
    ),
    ("gateway.body_ms", "how long the body of an HTTP request may be on its way, in ms"),
    ("gateway.max_calls", "renters' calls in progress; more are refused with RESOURCE_EXHAUSTED, or 429"),
    ("gateway.max_calls_per_account", "the same of one account"),
    (
        "gateway.max_slots_percent",
        "share in percent of the slots of a model's attached nodes that one account may hold: to the nearest slot, rounded down while another one holds or waits for one, at least one",
    ),
    ("models.dir", "directory of the models; empty: holmes/models in the user's data directory"),
    ("telemetry.log", "what is logged: a level, or `target=level,…`"),
    (
        "telemetry.format",
        "how log lines look on stderr: text or json; with json there is nothing else on stderr, where the process listens and why it ends are lines too",
    ),
    (
        "telemetry.otlp",
        "address of an OpenTelemetry collector (OTLP over gRPC): http://HOST:PORT, or HOST:PORT, which means the same; empty: no traces leave",
    ),
    ("telemetry.sample_percent", "share of traces kept when the caller has not decided, 0 to 100"),
];

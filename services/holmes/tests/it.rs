//! The binary as its users meet it: started, called, killed, misused. Nothing here sees the inside.

#[path = "it/access.rs"]
mod access;
#[path = "it/asker.rs"]
mod asker;
#[path = "it/bad_input.rs"]
mod bad_input;
#[path = "it/catalogue.rs"]
mod catalogue;
#[path = "it/cluster.rs"]
mod cluster;
#[path = "it/commands.rs"]
mod commands;
#[path = "it/connections.rs"]
mod connections;
#[path = "it/cql.rs"]
mod cql;
#[path = "it/crash.rs"]
mod crash;
#[path = "it/delivered.rs"]
mod delivered;
#[path = "it/docs.rs"]
mod docs;
#[path = "it/files.rs"]
mod files;
#[path = "it/gateways.rs"]
mod gateways;
#[path = "it/guides.rs"]
mod guides;
#[path = "it/harness.rs"]
mod harness;
#[path = "it/kept.rs"]
mod kept;
#[path = "it/logs.rs"]
mod logs;
#[path = "it/metrics.rs"]
mod metrics;
#[path = "it/misuse.rs"]
mod misuse;
#[path = "it/nats.rs"]
mod nats;
#[path = "it/others.rs"]
mod others;
#[path = "it/paid.rs"]
mod paid;
#[path = "it/parties.rs"]
mod parties;
#[path = "it/raw.rs"]
mod raw;
#[path = "it/replay_api.rs"]
mod replay_api;
#[path = "it/replays.rs"]
mod replays;
#[path = "it/rules.rs"]
mod rules;
#[path = "it/scenarios.rs"]
mod scenarios;
#[path = "it/scopes.rs"]
mod scopes;
#[path = "it/story.rs"]
mod story;
#[path = "it/strangers.rs"]
mod strangers;
#[path = "it/tamper.rs"]
mod tamper;
#[path = "it/tellers.rs"]
mod tellers;
#[path = "it/together.rs"]
mod together;
#[path = "it/traces.rs"]
mod traces;

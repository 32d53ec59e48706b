//! Bounds of the values of a configuration.

use super::Config;

impl Config {
    /// Bounds that types do not tell, where they are passed: a key, its value, and what it must be.
    pub(super) fn out_of_bounds(&self) -> Vec<(&'static str, String, &'static str)> {
        let mut found = Vec::new();
        let mut bounds = |ok: bool, key, value: String, why| {
            if !ok {
                found.push((key, value, why));
            }
        };
        let (server, gateway) = (&self.server, &self.gateway);
        let number = self.cell.number;
        bounds(number > 0, "cell.number", number.to_string(), "cells are numbered from 1");
        for (key, count) in [
            ("server.max_calls", server.max_calls),
            ("server.max_guest_calls", server.max_guest_calls),
            ("server.max_streams", server.max_streams),
            ("server.max_guest_streams", server.max_guest_streams),
            ("server.max_connections", server.max_connections),
            ("server.max_connections_per_address", server.max_connections_per_address),
            ("server.max_calls_per_connection", server.max_calls_per_connection),
            ("gateway.max_connections", gateway.max_connections),
            ("gateway.max_connections_per_address", gateway.max_connections_per_address),
            ("gateway.max_calls", gateway.max_calls),
            ("gateway.max_calls_per_account", gateway.max_calls_per_account),
        ] {
            bounds((1..=1_000_000).contains(&count), key, count.to_string(), "1 to 1000000");
        }
        let bytes = server.max_request_bytes;
        let sane = (1_024..=64 << 20).contains(&bytes);
        bounds(sane, "server.max_request_bytes", bytes.to_string(), "1024 bytes to 64 MiB");
        let (unproven, why) = (server.max_unproven_bytes, "at least twice server.max_request_bytes");
        bounds(!sane || unproven >= 2 * bytes, "server.max_unproven_bytes", unproven.to_string(), why);
        for (key, ms) in [
            ("server.guest_stream_ms", server.guest_stream_ms),
            ("server.deadline_ms", server.deadline_ms),
            ("server.longest_deadline_ms", server.longest_deadline_ms),
            ("gateway.header_ms", gateway.header_ms),
            ("gateway.body_ms", gateway.body_ms),
        ] {
            bounds((1..=86_400_000).contains(&ms), key, ms.to_string(), "1 ms to a day, 86400000");
        }
        let tls = &self.tls;
        let named = [&tls.authority, &tls.certificate, &tls.key].map(|file| !file.as_os_str().is_empty());
        let certificate = tls.certificate.display().to_string();
        let why = "tls.authority, tls.certificate and tls.key go together";
        bounds(named == [named[0]; 3], "tls.certificate", certificate, why);
        let clients = format!("{:?}", self.server.clients).to_lowercase();
        let why = "it needs tls.certificate, tls.key and tls.authority";
        bounds(named[1] || self.server.clients == super::Clients::Plain, "server.clients", clients, why);
        let lease = self.cluster.lease_ms;
        bounds((1_000..=60_000).contains(&lease), "cluster.lease_ms", lease.to_string(), "1000 to 60000 ms");
        let slots = gateway.max_slots_percent;
        bounds((1..=100).contains(&slots), "gateway.max_slots_percent", slots.to_string(), "1 to 100");
        let (keyspace, why) =
            (&self.store.keyspace, "1 to 48 lower-case letters, digits and _, a letter first");
        bounds(is_name(keyspace), "store.keyspace", keyspace.clone(), why);
        let store = &self.store;
        let whole = store.user.is_empty() == store.password_file.as_os_str().is_empty();
        let file = store.password_file.display().to_string();
        bounds(whole, "store.password_file", file, "store.user and store.password_file go together");
        let bus = &self.bus;
        let whole = bus.user.is_empty() == bus.password_file.as_os_str().is_empty();
        bounds(
            whole,
            "bus.password_file",
            bus.password_file.display().to_string(),
            "bus.user and bus.password_file go together",
        );
        let whole = bus.certificate.as_os_str().is_empty() == bus.key.as_os_str().is_empty();
        bounds(whole, "bus.key", bus.key.display().to_string(), "bus.certificate and bus.key go together");
        let percent = self.telemetry.sample_percent;
        bounds(percent <= 100, "telemetry.sample_percent", percent.to_string(), "0 to 100");
        found
    }
}

/// Whether CQL takes it as a name without quotes: it stands in statements.
fn is_name(text: &str) -> bool {
    let rest = |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit() || byte == b'_';
    (1..=48).contains(&text.len())
        && text.starts_with(|c: char| c.is_ascii_lowercase())
        && text.bytes().all(rest)
}

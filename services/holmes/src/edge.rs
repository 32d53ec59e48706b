//! The role gateway: on the gRPC port, beside the services that it calls or with those in other processes, and on one for HTTP.

use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context as _, Result, bail};
use ed25519_dalek::SigningKey;
use holmes_gateway::{Deps, Gateway, Log, Settings};
use holmes_kernel::{At, Handle as _, Id, Principal, PrincipalKind, Refusal};
use holmes_proto::market::v1::Params;
use holmes_runtime::auth::{Keys, Network};
use holmes_runtime::config::{Config, Server};
use holmes_runtime::server::{Most, Services, Web, serve_http};
use holmes_runtime::{Clock, MachineHandle, Peer, Status};
use holmes_scheduling::{Scheduling, State};
use prost_reflect::prost::Message as _;
use tokio::net::TcpListener;
use tokio::sync::watch;

use crate::profile::Profile;
use crate::roles::{GATEWAY, Role, Started};

/// What a gateway cannot be without, in its process where it is told of no other.
const NEEDED: [&str; 2] = ["scheduling", "market"];

/// A gateway in this process.
pub(crate) struct Edge {
    gateway: Gateway,
    status: watch::Sender<Status>,
}

/// Refuses a gateway without those that it needs, before any of them runs.
pub(crate) fn check(roles: &[Role]) -> Result<()> {
    match NEEDED.iter().all(|name| roles.iter().any(|role| role.name == *name)) {
        true => Ok(()),
        false => bail!(without()),
    }
}

fn without() -> String {
    let needed = NEEDED.join(" and ");
    format!(
        "the role {GATEWAY} needs {needed} in its process (--role), or to be told where they are (cluster.peers)"
    )
}

/// Tells when the log knows other gateways and not this one: that may be meant, or their key file is lost.
pub(crate) async fn tell_if_new(started: &[Started], key: &SigningKey) -> Result<(), Refusal> {
    let handle = started.iter().find_map(|role| role.handle.downcast_ref::<MachineHandle<Scheduling>>());
    let (Some(scheduling), id) = (handle, Id::of_key(&key.verifying_key().to_bytes())) else { return Ok(()) };
    let look = move |state: &State| state.gateways.get(&id).is_none() && !state.gateways.is_empty();
    if scheduling.read(At::Seq(0), look).await?.value {
        tracing::warn!(
            gateway = %id,
            "gateway.key is of a gateway that the log of scheduling does not know: calls that another one had open are reported \
             only by that one; restore its gateway.key from a backup if this was not meant"
        );
    }
    Ok(())
}

/// Who a gateway is, by its key.
pub(crate) fn principal(key: &SigningKey) -> Principal {
    Principal::new(PrincipalKind::Gateway, Id::of_key(&key.verifying_key().to_bytes()))
}

/// What a gateway calls, where it runs here: its services, and the log that its receipts stand in.
pub(crate) fn here(started: &[Started], key: &SigningKey) -> Result<(Peer, Arc<dyn Log>)> {
    let scheduling = started.iter().find(|role| role.name == "scheduling").with_context(without)?;
    let mut services = Services::default();
    started.iter().for_each(|role| role.add_to(&mut services));
    Ok((Peer::here(services.here(), principal(key)), Arc::new(scheduling.feed.clone())))
}

/// Makes the gateway of this process over what it calls.
pub(crate) fn start(
    config: &Config,
    (peer, receipts): (Peer, Arc<dyn Log>),
    key: SigningKey,
    network: &Network,
    keys: Arc<dyn Keys>,
    clock: &Clock,
) -> Result<Edge> {
    let gateway = holmes_gateway::start(Deps {
        peer,
        key,
        network: network.clone(),
        clock: clock.clone(),
        keys,
        receipts,
        settings: settings(config)?,
    });
    Ok(Edge { gateway, status: watch::Sender::new(Status::Serving) })
}

/// Limits are the configuration's, or the defaults; what pays besides dollars is the network's.
fn settings(config: &Config) -> Result<Settings> {
    let defaults = holmes_market::params::encoded_defaults();
    let params = Profile::load(&config.cell.profile)?.params("market", &defaults)?;
    let market = Params::decode(params.as_slice()).context("the market's parameters")?;
    Ok(Settings {
        token_name: market.token_name,
        token_asset: market.token_asset,
        most_calls: config.gateway.max_calls,
        most_calls_per_renter: config.gateway.max_calls_per_account,
        most_slots_percent: config.gateway.max_slots_percent,
        body_ms: config.gateway.body_ms,
        drain_ms: config.server.drain_ms,
        ..Settings::default()
    })
}

impl Edge {
    /// Adds its gRPC services.
    pub(crate) fn add_to(&self, services: &mut Services) {
        services.add(self.gateway.inference(), self.status.subscribe());
        services.add(self.gateway.attach(), self.status.subscribe());
    }

    /// Serves until `stop` says so, then lets calls in progress end.
    pub(crate) async fn run(self, http: TcpListener, web: Web, stop: watch::Receiver<bool>) {
        let served = serve_http(http, self.gateway.http(), web, stop.clone());
        tokio::join!(served, self.gateway.run(stop));
    }
}

/// What clients of the HTTP port may take.
pub(crate) fn web(config: &Config) -> Web {
    let gateway = &config.gateway;
    let most =
        Most { connections: gateway.max_connections, per_address: gateway.max_connections_per_address };
    let drain = Duration::from_millis(drained(&config.server).drain_ms);
    Web { most, header: Duration::from_millis(gateway.header_ms), drain }
}

/// What a port lives by: what is let run on to the end of the drain time, it still brings to its client.
pub(crate) fn drained(server: &Server) -> Server {
    Server { drain_ms: server.drain_ms.saturating_add(LAST_BYTES_MS), ..server.clone() }
}

/// How long the end of an answer may be on its way.
const LAST_BYTES_MS: u64 = 5_000;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ports_outlast_the_calls_that_a_drain_lets_run_on() {
        let mut config = Config::default();
        config.server.drain_ms = 7;
        assert_eq!(settings(&config).unwrap().drain_ms, 7);
        assert_eq!(drained(&config.server).drain_ms, 7 + LAST_BYTES_MS);
        assert_eq!(web(&config).drain, Duration::from_millis(7 + LAST_BYTES_MS));
    }
}

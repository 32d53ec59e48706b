//! The role gateway: in the process of the services that it calls, on the gRPC port beside them and on one for HTTP.

use std::sync::Arc;

use anyhow::{Context as _, Result};
use holmes_gateway::{Deps, Gateway, Settings};
use holmes_kernel::{Id, Principal, PrincipalKind};
use holmes_proto::market::v1::Params;
use holmes_runtime::auth::{Keys, Network};
use holmes_runtime::config::Config;
use holmes_runtime::{Clock, Peer};
use prost_reflect::prost::Message as _;
use tokio::net::TcpListener;
use tokio::sync::watch;
use tonic::service::{Routes, RoutesBuilder};

use crate::keys;
use crate::profile::Profile;
use crate::roles::Started;

/// What countersigns calls, kept beside the logs.
const KEY: &str = "gateway.key";
/// What a gateway cannot be without.
const NEEDED: [&str; 2] = ["scheduling", "market"];

/// A gateway in this process.
pub(crate) struct Edge {
    gateway: Gateway,
}

/// Makes the gateway of this process over the services that run here.
pub(crate) fn start(
    config: &Config,
    started: &[Started],
    network: &Network,
    keys: Arc<dyn Keys>,
    clock: &Clock,
) -> Result<Edge> {
    let service = |name: &str| {
        started.iter().find(|role| role.name == name).with_context(|| {
            format!("the role gateway needs {} in its process: name them too (--role)", NEEDED.join(" and "))
        })
    };
    for name in NEEDED {
        service(name)?;
    }
    let key = keys::kept(&config.store.dir, KEY)?;
    let principal = Principal::new(PrincipalKind::Gateway, Id::of_key(&key.verifying_key().to_bytes()));
    let mut routes = Routes::builder();
    for role in started {
        role.add_routes(&mut routes);
    }
    let gateway = holmes_gateway::start(Deps {
        peer: Peer::here(routes.routes(), principal),
        key,
        network: network.clone(),
        clock: clock.clone(),
        keys,
        receipts: Arc::new(service("scheduling")?.feed.clone()),
        settings: settings(config)?,
    });
    Ok(Edge { gateway })
}

/// Limits are the defaults; what pays besides dollars is the network's.
fn settings(config: &Config) -> Result<Settings> {
    let defaults = holmes_market::params::encoded_defaults();
    let params = Profile::load(&config.cell.profile)?.params("market", &defaults)?;
    let market = Params::decode(params.as_slice()).context("the market's parameters")?;
    Ok(Settings { token_name: market.token_name, token_asset: market.token_asset, ..Settings::default() })
}

impl Edge {
    /// Its gRPC services, by their names.
    pub(crate) const SERVICES: [&str; 2] = ["holmes.inference.v1.Inference", "holmes.gateway.v1.Gateway"];

    /// Adds its gRPC services.
    pub(crate) fn add_routes(&self, routes: &mut RoutesBuilder) {
        routes.add_service(self.gateway.inference()).add_service(self.gateway.attach());
    }

    /// Serves until `stop` says so, then lets calls in progress end.
    pub(crate) async fn run(self, http: TcpListener, stop: watch::Receiver<bool>) -> std::io::Result<()> {
        let mut stopping = stop.clone();
        let stopped = async move {
            let _ = stopping.wait_for(|stop| *stop).await; // an error means that everything is going down
        };
        let served = axum::serve(http, self.gateway.http()).with_graceful_shutdown(stopped);
        let (served, ()) = tokio::join!(served.into_future(), self.gateway.run(stop));
        served
    }
}

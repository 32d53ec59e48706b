//! One process of several: it runs some roles of a cell whose logs `holmes migrate` has opened. It owns their logs while no
//! other process does, hears the other services on the bus, and asks them by the addresses that it is told.

use std::sync::Arc;

use anyhow::{Context as _, Result, bail};
use holmes_accounts::Accounts;
use holmes_consumer::{Gaps as _, Replay};
use holmes_gateway::Log as Receipts;
use holmes_kernel::{Code, Event as _, LogId, Machine as _, Principal, Refusal};
use holmes_proto::log::v1::replay_client::ReplayClient;
use holmes_runtime::feed::Heard;
use holmes_runtime::server::Services;
use holmes_runtime::{MachineHandle, Peer, PublicFrame, Reach};
use holmes_scheduling::Scheduling;
use holmes_store::Bus;
use tokio::sync::watch;
use tokio::task::JoinSet;

use super::running::{Given, Running, replayed};
use crate::data;
use crate::edge;
use crate::kept::{Directory, Held};
use crate::keyring::{Asked, Keyring, Tell};
use crate::owner::{Keeper, keep};
use crate::profile::Profile;
use crate::roles::{self, Deps, Log};

/// Who the process is to the others.
struct Us {
    reach: Reach,
    principal: Principal,
    key: ed25519_dalek::SigningKey,
    network: holmes_runtime::auth::Network,
}

impl Us {
    fn peer(&self, reach: Reach) -> Peer {
        Peer::elsewhere(reach, self.principal, self.key.clone(), self.network.clone())
    }

    fn replay(&self, service: &'static str) -> Replay<Peer> {
        Replay(ReplayClient::new(self.peer(self.reach.of(service))))
    }

    /// Every log of the cell.
    fn logs(&self, bus: &Bus, cell: u16) -> Vec<Log> {
        let heard = |role: roles::Role| {
            let gaps = self.replay(role.name);
            Log::Elsewhere(Box::new(Heard::new(role.speaker(cell), bus.clone(), gaps)))
        };
        roles::all().into_iter().map(heard).collect()
    }
}

/// Starts the roles: each stands by until it owns its log.
pub(super) async fn start(given: Given<'_>, profile: &Profile) -> Result<Running> {
    let Given { config, roles, with_gateway, bus, network, clock, tls, .. } = given;
    let cell = config.cell.number;
    let reach = Reach::read(&config.cluster.peers, tls.as_ref()).context("cluster.peers")?;
    let reach = reach.at_most(config.server.max_request_bytes);
    let journal = data::open_of(config, roles).await?;
    let directory =
        Directory::of(&config.store.dir, &journal, cell, profile, roles).await.map_err(data::named)?;
    let Held { service, lease, gateway } = directory.held(roles, with_gateway)?;
    let (principal, key) = match (roles.first(), service, &gateway) {
        (Some(role), Some(key), _) => (Principal::service(role.service), key),
        (_, _, Some(key)) => (edge::principal(key), key.clone()),
        _ => bail!("no role is named: name one (--role)"),
    };
    let us = Us { reach: reach.clone(), principal, key, network: network.clone() };
    let deps = Arc::new(Deps { lease_key: lease, network: network.clone() });
    let (accounts_here, accounts) = watch::channel(None::<MachineHandle<Accounts>>);
    let runs_accounts = roles.iter().any(|role| role.name == Accounts::NAME);
    // Over connections of its own: whoever is asked for must not wait behind those who ask.
    let asked = Box::new(Asked::new(us.peer(Reach::read(&config.cluster.peers, tls.as_ref())?)));
    let tell = match runs_accounts {
        true => Tell::Here(accounts, Some(asked)),
        false => Tell::Elsewhere(asked),
    };
    let keyring = Arc::new(Keyring::new(tell, clock.clone()));
    let (stop, stopped) = watch::channel(false);
    let (mut services, mut logs, mut statuses) = (Services::default(), Vec::new(), Vec::new());
    let mut keepers = JoinSet::new();
    let accounts_here = Arc::new(accounts_here);
    for role in roles {
        let bus = bus.clone().context("processes of a cell hear each other on NATS: name it (bus.nats)")?;
        let post = role.post(&reach, deps.clone());
        post.add_to(&mut services);
        logs.push(replayed(role, post.feed.subscribe(), &journal, cell));
        statuses.push((role.name, post.status.subscribe()));
        keepers.spawn(keep(Keeper {
            role: role.clone(),
            post,
            journal: journal.clone(),
            settings: super::alone::settings(config, role, &clock),
            deps: deps.clone(),
            others: us.logs(&bus, cell),
            bus,
            clock: clock.clone(),
            accounts: accounts_here.clone(),
            lease: std::time::Duration::from_millis(config.cluster.lease_ms),
            stop: stopped.clone(),
        }));
    }
    let mut edge = None;
    if let Some(key) = gateway {
        let gateway = Us { principal: edge::principal(&key), key: key.clone(), ..us };
        let receipts = Arc::new(Elsewhere { cell, replay: gateway.replay(Scheduling::NAME) });
        let calls = (gateway.peer(reach.clone()), receipts as Arc<dyn Receipts>);
        edge = Some(edge::start(config, calls, key, &network, keyring.clone(), &clock)?);
    }
    Ok(Running {
        services,
        logs,
        statuses,
        keyring,
        edge,
        reach: Some(reach),
        with_staff: false,
        // While the port still passes calls on: nobody need wait until the last stream has ended.
        hand_over: Box::new(move || {
            Box::pin(async move {
                stop.send_replace(true);
                let mut failed = Ok(());
                while let Some(ended) = keepers.join_next().await {
                    failed = failed.and(ended.context("a role's task has failed"));
                }
                failed
            })
        }),
        end: Box::new(move || {
            Box::pin(async move {
                journal.close().await;
                Ok(())
            })
        }),
    })
}

/// Scheduling's log, read from its owner: for receipts.
struct Elsewhere {
    cell: u16,
    replay: Replay<Peer>,
}

impl Receipts for Elsewhere {
    fn frames(
        &self,
        after: u64,
    ) -> std::pin::Pin<Box<dyn Future<Output = Result<Vec<PublicFrame>, Refusal>> + Send>> {
        let log = LogId::new(self.cell, <Scheduling as holmes_kernel::Machine>::Event::SERVICE);
        let mut replay = self.replay.clone();
        Box::pin(async move {
            replay.frames(log, after, after.saturating_add(1)).await.map_err(|why| {
                tracing::warn!(?why, "a receipt could not be looked up");
                Refusal::new(Code::Unavailable, "LOG_UNREADABLE", "the log cannot be read now: try again")
            })
        })
    }
}

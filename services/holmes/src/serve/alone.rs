//! The whole cell in one process: it opens its logs itself, and its roles hear each other without a bus.

use std::sync::Arc;

use anyhow::{Result, bail};
use holmes_accounts::Accounts;
use holmes_kernel::ports::Journal as _;
use holmes_runtime::driver::Settings;
use holmes_runtime::server::Services;
use holmes_runtime::{Clock, MachineHandle};
use holmes_store::Journal;
use tokio::sync::watch;

use super::running::{Given, Relay, Running, replayed};
use crate::data;
use crate::edge;
use crate::kept::{self, Directory};
use crate::keyring::{Keyring, Tell};
use crate::profile::Profile;
use crate::roles::{self, Deps, Log, Role, Started};

/// Opens the logs that are not there yet, and starts the roles over them.
pub(super) async fn start(given: Given<'_>, mut profile: Profile) -> Result<Running> {
    let Given { config, roles, with_gateway, with_staff, bus, network, clock, tls: _ } = given;
    let (cell, dir) = (config.cell.number, &config.store.dir);
    let journal = data::open(config, true).await?;
    if let Some(other) = journal.logs().await?.iter().find(|log| log.cell != cell) {
        bail!(
            "{} holds the logs of cell {}, not of cell {cell}: set cell.number right, or name another directory (--dir)",
            data::place(config),
            other.cell,
        );
    }
    let directory = Directory::of(dir, &journal, cell, &profile, &roles::all()).await.map_err(data::named)?;
    let kept = directory.kept(clock.now(), with_staff, with_gateway).await.map_err(data::named)?;
    kept.open_with(&mut profile);
    kept::keep_profile(dir, profile.text())?;
    provision(roles, &journal, cell, &clock, &profile).await?;
    let deps = Arc::new(Deps { lease_key: Some(kept.lease), network: network.clone() });
    let started = taken_up(config, roles, &journal, &clock, &deps).await?;
    let logs: Vec<Log> = started.iter().map(|role| Log::Here(role.feed.clone())).collect();
    started.iter().for_each(|role| role.listen(&logs, &clock));
    let relays: Vec<Relay> = match &bus {
        Some(bus) => started.iter().map(|role| Relay::of(&role.feed, bus, &clock)).collect(),
        None => Vec::new(),
    };
    let mut services = Services::default();
    started.iter().for_each(|role| role.add_to(&mut services));
    let accounts = started.iter().find_map(|role| role.handle.downcast_ref::<MachineHandle<Accounts>>());
    let keyring = Arc::new(Keyring::new(Tell::from(accounts.cloned()), clock.clone()));
    let mut edge = None;
    if let Some(key) = kept.gateway {
        edge::tell_if_new(&started, &key).await?;
        let calls = edge::here(&started, &key)?;
        edge = Some(edge::start(config, calls, key, &network, keyring.clone(), &clock)?);
    }
    let log = |(role, started): (&Role, &Started)| {
        replayed(role, watch::channel(Some(started.feed.clone())).1, &journal, cell)
    };
    Ok(Running {
        services,
        logs: roles.iter().zip(&started).map(log).collect(),
        statuses: started.iter().map(|role| (role.name, role.status.clone())).collect(),
        keyring,
        edge,
        reach: None,
        with_staff: kept.staff.is_some(),
        hand_over: Box::new(|| Box::pin(async { Ok(()) })),
        end: Box::new(move || {
            Box::pin(async move {
                for role in started {
                    role.stop().await?;
                }
                for relay in relays {
                    relay.end().await;
                }
                journal.close().await;
                Ok(())
            })
        }),
    })
}

/// Opens the logs that are not there yet.
pub(crate) async fn provision(
    roles: &[Role],
    journal: &Journal,
    cell: u16,
    clock: &Clock,
    profile: &Profile,
) -> Result<()> {
    for role in roles {
        if role.provision(journal, cell, clock.now(), profile).await? {
            tracing::info!(role = role.name, profile = profile.name(), "log opened");
        }
    }
    Ok(())
}

/// Starts every role.
async fn taken_up(
    config: &holmes_runtime::config::Config,
    roles: &[Role],
    journal: &Journal,
    clock: &Clock,
    deps: &Arc<Deps>,
) -> Result<Vec<Started>> {
    let mut started = Vec::new();
    for role in roles {
        match role.start(journal.clone(), settings(config, role, clock), deps.clone()).await {
            Ok(role) => started.push(role),
            Err(why) => {
                // Or each of them would complain that nobody has stopped it.
                for role in started {
                    role.stop().await?;
                }
                return Err(data::named(why));
            }
        }
    }
    Ok(started)
}

/// What a role's driver needs.
pub(crate) fn settings(config: &holmes_runtime::config::Config, role: &Role, clock: &Clock) -> Settings {
    let mut settings = Settings::new(role.log(config.cell.number), clock.clone());
    settings.snapshot_every = config.store.snapshot_every;
    settings.accept_clock = config.store.accept_clock;
    settings
}

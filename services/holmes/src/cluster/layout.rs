//! Which processes there are, where each listens, and what each is given: its own configuration and its own keys.

use std::net::SocketAddr;
use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result};
use holmes_runtime::config::{Cell, Clients, Cluster, Config, Gateway, Server};

use super::Told;
use super::certificates::Authority;
use crate::kept;
use crate::processes::free_ports;
use crate::roles::{self, GATEWAY};
use crate::whole;

/// Where a cluster writes down its processes.
pub(super) const FILE: &str = "cluster.json";

/// Calls in progress on one connection: all that a gateway passes on to a process come over one.
const CALLS: usize = 16_384;

/// A process.
pub(super) struct Place {
    pub name: String,
    pub role: &'static str,
    pub file: PathBuf,
    pub grpc: SocketAddr,
    pub admin: SocketAddr,
    pub http: Option<SocketAddr>,
    /// Who may connect to its gRPC port.
    pub clients: Clients,
}

impl Place {
    /// Where its gRPC port is.
    pub(super) fn url(&self) -> String {
        let scheme = if self.clients == Clients::Plain { "http" } else { "https" };
        format!("{scheme}://{}", self.grpc)
    }

    /// What `holmes` is called with.
    pub(super) fn command(&self) -> Vec<String> {
        let file = self.file.display().to_string();
        ["--config", &file, "serve", "--role", self.role, "--no-staff-key"].map(str::to_owned).to_vec()
    }
}

/// All processes. The gateway is the last: it is stopped first.
pub(super) struct Layout {
    dir: PathBuf,
    pub places: Vec<Place>,
}

impl Layout {
    /// Lays processes out in a directory, and writes what each is given.
    pub(super) fn new(dir: &Path, config: &Config, replicas: u8, port: u16, plain: bool) -> Result<Layout> {
        let roles = roles::all();
        let own = roles.len() * usize::from(replicas);
        let mut ports =
            free_ports(2 * own + 3)?.into_iter().map(|port| SocketAddr::from(([127, 0, 0, 1], port)));
        let mut next = move || ports.next().context("no port is free on this machine");
        let mut places = Vec::new();
        for role in &roles {
            for n in 1..=replicas {
                let name = format!("{}-{n}", role.name);
                let file = dir.join(&name).join("holmes.toml");
                let (role, grpc, admin) = (role.name, next()?, next()?);
                let clients = if plain { Clients::Plain } else { Clients::Cell };
                places.push(Place { name, role, file, grpc, admin, http: None, clients });
            }
        }
        let mut at = |behind: u16| match port {
            0 => next(),
            port => Ok(SocketAddr::from(([127, 0, 0, 1], port.saturating_add(behind)))),
        };
        let file = dir.join(GATEWAY).join("holmes.toml");
        let (grpc, admin, http) = (at(0)?, at(1)?, Some(at(2)?));
        let (name, clients) = (GATEWAY.to_owned(), Clients::Plain); // for all tools of everybody
        places.push(Place { name, role: GATEWAY, file, grpc, admin, http, clients });
        let layout = Layout { dir: dir.to_owned(), places };
        let authority = if plain { None } else { Some(Authority::new()?) };
        layout.places.iter().try_for_each(|place| layout.equip(place, config, authority.as_ref()))?;
        layout.equip_tools(config)?;
        Ok(layout)
    }

    /// Where everybody calls.
    pub(super) fn gateway(&self) -> &Place {
        &self.places[self.places.len() - 1]
    }

    /// Where each service is, for all.
    fn peers(&self) -> String {
        let of = |role: &roles::Role| {
            let places = self.places.iter().filter(|place| place.role == role.name);
            let at: Vec<String> = places.map(Place::url).collect();
            format!("{}={}", role.name, at.join("|"))
        };
        roles::all().iter().map(of).collect::<Vec<_>>().join(", ")
    }

    /// Gives a process its configuration and its keys, and nothing else.
    fn equip(&self, place: &Place, all: &Config, authority: Option<&Authority>) -> Result<()> {
        let own = self.dir.join(&place.name);
        std::fs::create_dir_all(&own).with_context(|| format!("{} cannot be made", own.display()))?;
        let keys = &all.store.dir;
        for name in kept::names_of(place.role) {
            let secret =
                std::fs::read(keys.join(&name)).with_context(|| format!("{name} in {}", keys.display()))?;
            let file = own.join(&name);
            if std::fs::read(&file).ok().as_ref() != Some(&secret) {
                let _ = std::fs::remove_file(&file); // of a network that was here before
                whole::make(&file, 0o600, &secret).with_context(|| format!("{}", file.display()))?;
            }
        }
        let profile = keys.join("profile.toml").display().to_string();
        let mut config = Config {
            cell: Cell { profile, ..all.cell.clone() },
            cluster: Cluster { peers: self.peers(), ..all.cluster.clone() },
            server: Server {
                max_calls_per_connection: CALLS,
                listen: place.grpc,
                admin: place.admin,
                clients: place.clients,
                ..all.server.clone()
            },
            telemetry: all.telemetry.clone(),
            ..Config::default()
        };
        if let Some(authority) = authority {
            config.tls = authority.equip(place.role, &own)?;
        }
        match place.http {
            Some(http) => config.gateway = Gateway { http, ..all.gateway.clone() },
            None => (config.store, config.bus) = (all.store.clone(), all.bus.clone()),
        }
        config.store.dir = own;
        std::fs::write(&place.file, config.to_toml()).with_context(|| format!("{}", place.file.display()))
    }

    /// What commands that read the logs are given (`holmes verify -c FILE`).
    fn equip_tools(&self, all: &Config) -> Result<()> {
        let mut config = all.clone();
        config.cell.profile = all.store.dir.join("profile.toml").display().to_string();
        let file = self.dir.join("holmes.toml");
        std::fs::write(&file, config.to_toml()).with_context(|| format!("{}", file.display()))
    }

    /// Writes down which processes there are: whole or not at all, since who waits for the file reads it at once.
    pub(super) fn write(&self, told: &[Told]) -> Result<()> {
        let (fresh, file) = (self.dir.join(format!(".{FILE}")), self.dir.join(FILE));
        std::fs::write(&fresh, serde_json::to_vec_pretty(told)?)?;
        std::fs::rename(&fresh, &file).with_context(|| format!("{} cannot be written", file.display()))
    }
}

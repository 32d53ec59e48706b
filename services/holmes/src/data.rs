//! Where logs are kept: the embedded journal in the data directory, or CQL servers; and the log of each role.

use std::time::Duration;

use anyhow::{Context, Result, bail};
use holmes_kernel::LogId;
use holmes_kernel::ports::JournalError;
use holmes_runtime::config::Config;
use holmes_runtime::recover::{DamagedLog, RecoverError};
use holmes_store::Journal;
use holmes_store::journal::{embedded, memory, scylla};

use crate::roles::{self, Role};

/// Opens the journal; makes the directory only when `create` says so.
pub(crate) async fn open(config: &Config, create: bool) -> Result<Journal> {
    let dir = &config.store.dir;
    if !config.store.cql.is_empty() {
        if create {
            std::fs::create_dir_all(dir).with_context(|| format!("{} cannot be made", dir.display()))?;
        }
        return Ok(scylla::Journal::connect(options(config)?).await?.into());
    }
    if !create && !dir.join("journal").is_dir() {
        bail!(
            "there is no data directory {}: name it with --dir, or run `holmes serve` first",
            dir.display()
        );
    }
    std::fs::create_dir_all(dir).with_context(|| format!("{} cannot be made", dir.display()))?;
    let path = dir.join("journal");
    let opening = move || embedded::Journal::open(&path, embedded::Options::default());
    let opened = tokio::task::spawn_blocking(opening).await?;
    let journal =
        opened.map_err(|why| in_words(why).context(format!("{} cannot be opened", dir.display())))?;
    Ok(journal.into())
}

/// The pauses between two questions whether servers answer, from the first to the longest.
const PAUSES: (Duration, Duration) = (Duration::from_secs(1), Duration::from_secs(10));

/// Waits until one of the CQL servers answers, where the logs lie on such.
pub(crate) async fn servers_answer(config: &Config) -> Result<()> {
    let (mut pause, options) = (PAUSES.0, options(config)?);
    while !config.store.cql.is_empty()
        && let Err(why) = scylla::Journal::datacenter(&options).await
    {
        tracing::warn!(%why, "waiting for the servers that keep the logs; trying again");
        tokio::time::sleep(pause).await;
        pause = (pause * 2).min(PAUSES.1);
    }
    Ok(())
}

/// The journal of a process that runs some roles of a cell. One without logs reaches no server.
pub(crate) async fn open_of(config: &Config, roles: &[Role]) -> Result<Journal> {
    if roles.is_empty() {
        return Ok(memory::Journal::new().into());
    }
    if config.store.cql.is_empty() {
        bail!("processes of a cell keep their logs on CQL servers: name them (store.cql)");
    }
    Ok(scylla::Journal::connect(options_of(config, roles)?).await?.into())
}

/// How the configured CQL servers are reached: the tables are those of every role with a log.
pub(crate) fn options(config: &Config) -> Result<scylla::Options> {
    options_of(config, &roles::all())
}

/// The same with the tables of some roles alone.
fn options_of(config: &Config, roles: &[Role]) -> Result<scylla::Options> {
    let store = &config.store;
    let user = match store.user.as_str() {
        "" => None,
        user => {
            let path = store.password_file.display();
            let password = std::fs::read_to_string(&store.password_file);
            let password = password.with_context(|| format!("store.password_file {path} cannot be read"))?;
            Some((user.to_owned(), password.trim_end().to_owned()))
        }
    };
    Ok(scylla::Options {
        nodes: store.cql.split(',').map(|node| node.trim().to_owned()).collect(),
        keyspace: store.keyspace.clone(),
        cell: config.cell.number,
        services: roles.iter().map(|role| (role.service, role.name.to_owned())).collect(),
        dev: store.dev,
        bucket_frames: scylla::BUCKET_FRAMES,
        user,
    })
}

/// Where logs are kept, for people.
pub(crate) fn place(config: &Config) -> String {
    match config.store.cql.as_str() {
        "" => config.store.dir.display().to_string(),
        servers => format!("keyspace {} of {servers}", config.store.keyspace),
    }
}

fn in_words(why: JournalError) -> anyhow::Error {
    match why {
        JournalError::Damaged { log, after, why } => {
            DamagedLog { service: service_of(log), after, why }.into()
        }
        why => why.into(),
    }
}

/// The same error; damage of a log, which the journal tells with numbers, in words.
pub(crate) fn named(why: anyhow::Error) -> anyhow::Error {
    match damage_in(&why) {
        Some(damage) => in_words(damage),
        None => why,
    }
}

fn damage_in(why: &anyhow::Error) -> Option<JournalError> {
    why.chain().find_map(|cause| {
        // A transparent error does not show what it holds as its source.
        let journal = match cause.downcast_ref() {
            Some(RecoverError::Journal(why)) => Some(why),
            _ => cause.downcast_ref::<JournalError>(),
        };
        journal.filter(|why| matches!(why, JournalError::Damaged { .. })).cloned()
    })
}

/// Whose log it is.
pub(crate) fn service_of(log: LogId) -> &'static str {
    holmes_proto::service_name(log.svc).unwrap_or("a service that this build does not know")
}

/// The names of the roles with a log.
pub(crate) fn known() -> String {
    roles::all().iter().map(|role| role.name).collect::<Vec<_>>().join(", ")
}

/// The roles with a log that are named, all when none is.
pub(crate) fn roles(names: &[String]) -> Result<Vec<Role>> {
    let all = roles::all();
    let named = |name: &String| name == "all" || all.iter().any(|role| role.name == *name);
    if let Some(wrong) = names.iter().find(|name| !named(name)) {
        bail!("there is no role {wrong} with a log; there are: all, {}", known());
    }
    let every = names.is_empty() || names.iter().any(|name| name == "all");
    Ok(all.into_iter().filter(|role| every || names.iter().any(|name| name == role.name)).collect())
}

//! `holmes doctor`: whether this machine can run a network, and what to do where it cannot.

use std::fs;
use std::io::Write as _;
use std::net::{SocketAddr, TcpListener};
use std::path::Path;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result};
use holmes_engine::run::Model;
use holmes_runtime::config::{self, Config};
use holmes_store::bus::nats::{Bus, Shown};
use holmes_store::journal::scylla::{self, Journal};
use serde::Serialize;

use crate::models::Store;
use crate::output::{self, Format};
use crate::profile::Profile;
use crate::settings;
use crate::{data, roles, stream};

/// Bytes that should be free where the log is kept.
const FREE_BYTES: u64 = 1 << 30;
/// A slower disk holds every answer up.
const SLOW_SYNC: Duration = Duration::from_millis(20);
/// Syncs that are measured.
const SYNCS: u32 = 20;

/// What is looked at.
#[derive(Debug, clap::Args)]
#[command(after_help = "Examples:
  holmes doctor
  holmes -c holmes.toml doctor -o json

Exit code 1 when something must be mended before `holmes serve` works.")]
pub(crate) struct Args {}

/// How a check went.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub(crate) enum Verdict {
    Fine,
    Note,
    Wrong,
}

/// A check.
#[derive(Serialize)]
pub(crate) struct Check {
    pub what: String,
    pub verdict: Verdict,
    pub found: String,
}

/// Looks, prints, and says whether nothing is wrong.
pub(crate) async fn run(_: &Args, file: Option<&Path>, format: Format) -> Result<bool> {
    let config = match config::load(file) {
        Ok(config) => config,
        Err(why) => {
            let check =
                Check { what: "configuration".into(), verdict: Verdict::Wrong, found: why.to_string() };
            return show(format, &[check]);
        }
    };
    let right = settings::check(&config, file).map(|()| (Verdict::Fine, "right".into()));
    let mut checks = vec![of("configuration", right.map_err(Into::into))];
    // Of a profile that cannot be used the configuration's line has told.
    checks.extend(profile(&config).ok().map(|found| of("profile", Ok(found))));
    checks.push(of("data directory", directory(&config.store.dir)));
    if !config.store.cql.is_empty() {
        checks.extend(servers(&config).await);
    }
    if !config.bus.nats.is_empty() {
        checks.extend(streams(&config).await);
    }
    for (what, address) in [
        ("gRPC port", config.server.listen),
        ("admin port", config.server.admin),
        ("HTTP port", config.gateway.http),
    ] {
        checks.push(of(what, port(address)));
    }
    checks.push(of("clock", clock(&config.store.dir)));
    checks.push(of("processor", Ok(processor())));
    checks.push(of("models", models(&config)));
    show(format, &checks)
}

type Found = Result<(Verdict, String)>;

fn of(what: &'static str, found: Found) -> Check {
    match found {
        Ok((verdict, found)) => Check { what: what.into(), verdict, found },
        Err(why) => Check { what: what.into(), verdict: Verdict::Wrong, found: format!("{why:#}") },
    }
}

pub(crate) fn show(format: Format, checks: &[Check]) -> Result<bool> {
    output::rows(format, &["CHECK", "RESULT", "FOUND"], checks, |check| {
        let verdict = match check.verdict {
            Verdict::Fine => "fine",
            Verdict::Note => "note",
            Verdict::Wrong => "WRONG",
        };
        vec![check.what.clone(), verdict.to_owned(), check.found.clone()]
    })?;
    Ok(checks.iter().all(|check| check.verdict != Verdict::Wrong))
}

fn profile(config: &Config) -> Found {
    let profile = Profile::load(&config.cell.profile)?;
    let epoch_s = profile.epoch_s()?;
    Ok((Verdict::Fine, format!("{}, epochs of {epoch_s} s", profile.name())))
}

/// Whether the CQL servers keep the fence between two owners of a log.
async fn servers(config: &Config) -> Vec<Check> {
    let looked = async { anyhow::Ok(Journal::connect(data::options(config)?).await?.checks().await?) };
    match looked.await {
        Ok(checks) => checks.into_iter().map(Check::from).collect(),
        Err(why) => vec![of("CQL servers", Err(why))],
    }
}

/// Whether there is a stream for each log.
pub(crate) async fn streams(config: &Config) -> Vec<Check> {
    let bus = match async { Ok(Bus::connect(stream::options(config)?).await?) }.await {
        Ok(bus) => bus,
        Err(why) => return vec![of("NATS servers", Err(why))],
    };
    let mut checks = Vec::new();
    for role in roles::all() {
        let shown = bus.show(role.log(config.cell.number)).await.map_err(anyhow::Error::from);
        let found = shown.map(|Shown { stream, messages, replicas, age, .. }| {
            let days = age.as_secs() / 86_400;
            (Verdict::Fine, format!("{stream}: {messages} messages, replicas {replicas}, {days} days"))
        });
        let Check { verdict, found, .. } = of("", found);
        checks.push(Check { what: format!("stream of {}", role.name), verdict, found });
    }
    checks
}

impl From<scylla::Check> for Check {
    fn from(check: scylla::Check) -> Check {
        let scylla::Check { what, found, fault } = check;
        match fault {
            None => Check { what, verdict: Verdict::Fine, found },
            Some(fault) => Check { what, verdict: Verdict::Wrong, found: format!("{found}: {fault}") },
        }
    }
}

/// Whether the log can be kept there: space, and how long a sync takes.
fn directory(dir: &Path) -> Found {
    let place = dir.ancestors().find(|place| place.is_dir()).unwrap_or(Path::new("."));
    let place = if place.as_os_str().is_empty() { Path::new(".") } else { place };
    let space = rustix::fs::statvfs(place).with_context(|| format!("{}", place.display()))?;
    let free = space.f_bavail * space.f_frsize;
    let probe = place.join(format!(".holmes-doctor-{}", std::process::id()));
    let measured = sync_time(&probe);
    let _ = fs::remove_file(&probe); // it may never have been made
    let sync =
        measured.with_context(|| format!("{} cannot be written: another place? (--dir)", place.display()))?;
    let found = format!(
        "{}: {:.1} GB free, a sync takes {:.2} ms",
        dir.display(),
        free as f64 / 1e9,
        sync.as_secs_f64() * 1e3
    );
    if free < FREE_BYTES {
        return Ok((Verdict::Wrong, format!("{found}: make room, at least 1 GB")));
    }
    if sync > SLOW_SYNC {
        return Ok((Verdict::Note, format!("{found}: slow, every answer waits for one")));
    }
    Ok((Verdict::Fine, found))
}

fn sync_time(probe: &Path) -> std::io::Result<Duration> {
    let mut file = fs::File::create(probe)?;
    let began = Instant::now();
    for _ in 0..SYNCS {
        file.write_all(&[0; 512])?;
        file.sync_data()?;
    }
    Ok(began.elapsed() / SYNCS)
}

fn port(address: SocketAddr) -> Found {
    match TcpListener::bind(address) {
        Ok(_) => Ok((Verdict::Fine, format!("{address} is free"))),
        Err(why) => {
            Ok((Verdict::Note, format!("{address}: {why}; a server that runs already, or another program?")))
        }
    }
}

/// Whether the clock is where the log's last write was, or later.
fn clock(dir: &Path) -> Found {
    let newest = fs::read_dir(dir.join("journal"))
        .into_iter()
        .flatten()
        .filter_map(|entry| entry.ok()?.metadata().ok()?.modified().ok())
        .max();
    let Some(newest) = newest else { return Ok((Verdict::Fine, "no log yet".into())) };
    match std::time::SystemTime::now().duration_since(newest) {
        Ok(since) => Ok((Verdict::Fine, format!("{} s past the log's last write", since.as_secs()))),
        Err(_) => Ok((Verdict::Wrong, "the clock is behind the log's last write: set it right".into())),
    }
}

fn processor() -> (Verdict, String) {
    let threads = std::thread::available_parallelism().map_or(1, std::num::NonZero::get);
    #[cfg(target_arch = "x86_64")]
    let (fast, set) = if is_x86_feature_detected!("avx512f") {
        (true, "AVX-512")
    } else if is_x86_feature_detected!("avx2") {
        (true, "AVX2")
    } else {
        (false, "neither AVX2 nor AVX-512: models run slowly")
    };
    #[cfg(target_arch = "aarch64")]
    let (fast, set) = (true, "NEON");
    #[cfg(not(any(target_arch = "x86_64", target_arch = "aarch64")))]
    let (fast, set) = (false, "no vector instructions that we use: models run slowly");
    (if fast { Verdict::Fine } else { Verdict::Note }, format!("{threads} threads, {set}"))
}

fn models(config: &Config) -> Found {
    let store = Store::of(config)?;
    let mut names = Vec::new();
    for (name, _) in store.all()? {
        Model::open(&store.path(&name)?)
            .with_context(|| format!("{name}: `holmes models remove {name}`, then add or pull it again"))?;
        names.push(name);
    }
    let more = if names.len() == 1 {
        "; `holmes models pull smollm2-135m-instruct` brings a larger one"
    } else {
        ""
    };
    Ok((Verdict::Fine, format!("{}{more}", names.join(", "))))
}

//! Real servers for tests and development: NATS with JetStream, and a CQL server, on loopback.

mod cassandra;

use std::fs;
use std::io::{Read as _, Write as _};
use std::net::{SocketAddr, TcpStream};
use std::os::unix::process::CommandExt as _;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, bail, ensure};

use crate::{House, sh, tools};

pub(crate) const EXAMPLES: &str = "Examples:
  cargo xtask infra up              nats-server and one Cassandra
  cargo xtask infra up --nodes 3    three Cassandras, on 127.0.0.1, .2 and .3
  cargo xtask infra status          what runs, where, and where it writes
  cargo xtask infra down            stop all of it; what was written stays
  cargo xtask infra down --purge    and take that away, too

With HOLMES_CQL=host:port,… tests go to the servers named there, a ScyllaDB for one, and none is started here. \
Cassandra needs Java 17, and Maven once to fetch it (Debian: apt-get install openjdk-17-jre-headless maven).";

/// What to do.
#[derive(clap::Args)]
pub(crate) struct Args {
    #[command(subcommand)]
    what: What,
}

#[derive(clap::Subcommand)]
enum What {
    /// Start what does not run, and wait until it answers
    Up {
        /// How many Cassandras: 1 or 3
        #[arg(long, default_value_t = 1, value_parser = clap::value_parser!(u8).range(1..=3))]
        nodes: u8,
    },
    /// Stop what runs
    Down {
        /// Take away what was written, too
        #[arg(long)]
        purge: bool,
    },
    /// Tell what runs
    Status,
}

/// A server of ours.
struct Server {
    name: String,
    at: SocketAddr,
    /// Where it writes, and where its process's number stands.
    dir: PathBuf,
    /// Whether what listens there is it.
    answers: fn(SocketAddr) -> bool,
}

/// How long a server may take until it answers.
const PATIENCE: Duration = Duration::from_secs(120);
/// How long it has to end by itself.
const GRACE: Duration = Duration::from_secs(15);

/// Starts, stops, tells.
pub(crate) fn run(house: &House, args: &Args) -> Result<()> {
    let dir = directory(house);
    match args.what {
        What::Up { nodes } => {
            let Addresses { nats, cql } = up(&house.root, &dir, nodes)?;
            println!("HOLMES_NATS={nats}\nHOLMES_CQL={cql}");
            let pids: Vec<String> =
                servers(&dir).iter().skip(1).filter_map(Server::pid).map(|pid| pid.to_string()).collect();
            if pids.len() == usize::from(nodes) {
                println!("HOLMES_CQL_PIDS={}", pids.join(","));
            }
            Ok(())
        }
        What::Down { purge } => down(&dir, purge),
        What::Status => status(&dir),
    }
}

/// Where servers are; empty where there is none.
pub(crate) struct Addresses {
    pub(crate) nats: String,
    pub(crate) cql: String,
}

/// Servers for one run of the tests: those that run already stay, those that are started for it end with it.
pub(crate) struct Lent {
    pub(crate) at: Addresses,
    dir: PathBuf,
    ours: Vec<String>,
}

impl Lent {
    pub(crate) fn up(house: &House) -> Result<Lent> {
        let dir = directory(house);
        let ran: Vec<_> = servers(&dir).iter().map(|server| server.pid().is_some()).collect();
        let at = up(&house.root, &dir, 1).or_else(|error| {
            eprintln!("WARNING: the journal on CQL is NOT tested: {error:#}");
            up(&house.root, &dir, 0)
        })?;
        let started =
            servers(&dir).into_iter().zip(ran).filter(|(server, ran)| !ran && server.pid().is_some());
        let ours = started.map(|(server, _)| server.name).collect();
        Ok(Lent { at, dir, ours })
    }
}

impl Drop for Lent {
    fn drop(&mut self) {
        for server in servers(&self.dir).into_iter().filter(|server| self.ours.contains(&server.name)) {
            if let Err(error) = server.stop() {
                eprintln!("WARNING: {error:#}");
            }
        }
    }
}

fn directory(house: &House) -> PathBuf {
    house.metadata.target_directory.as_std_path().join("infra")
}

fn servers(dir: &Path) -> Vec<Server> {
    let nats = Server {
        name: "nats-server".into(),
        at: SocketAddr::from(([127, 0, 0, 1], 4222)),
        dir: dir.join("nats"),
        answers: speaks_nats,
    };
    let cassandra = |n: u8| Server {
        name: format!("cassandra-{n}"),
        at: SocketAddr::from(([127, 0, 0, n], cassandra::PORT)),
        dir: dir.join(format!("cassandra-{n}")),
        answers: speaks_cql,
    };
    std::iter::once(nats).chain((1..=3).map(cassandra)).collect()
}

fn up(root: &Path, dir: &Path, nodes: u8) -> Result<Addresses> {
    ensure!(nodes != 2, "one Cassandra or three: of two, none may fail");
    let program = tools::need(root, &tools::NATS)?;
    let theirs = std::env::var("HOLMES_CQL").ok();
    let wanted = theirs.is_none() && nodes > 0;
    let jars = if wanted { Some(cassandra::fetched(root)?) } else { None };
    for (at, server) in servers(dir).iter().enumerate().take(1 + usize::from(nodes)) {
        let started = if server.pid().is_some() {
            eprintln!("{} runs already", server.name);
            None
        } else if (server.answers)(server.at) {
            bail!("{} is taken by a server that was not started here: stop it first", server.at);
        } else if at == 0 {
            let store = server.dir.join("store");
            let mut nats = Command::new(&program);
            nats.args(["-js", "-a", "127.0.0.1", "-p", "4222", "-sd"]).arg(store);
            Some(server.start(&mut nats)?)
        } else if let Some(jars) = &jars {
            Some(server.start(&mut cassandra::command(jars, &server.dir, server.at, nodes)?)?)
        } else {
            None
        };
        if let Some(child) = started {
            server.wait(child)?;
        }
    }
    let ours = (1..=nodes).map(|n| format!("127.0.0.{n}:{}", cassandra::PORT)).collect::<Vec<_>>().join(",");
    Ok(Addresses { nats: "127.0.0.1:4222".into(), cql: theirs.unwrap_or(ours) })
}

fn down(dir: &Path, purge: bool) -> Result<()> {
    for server in servers(dir) {
        server.stop()?;
    }
    if purge && dir.exists() {
        fs::remove_dir_all(dir).with_context(|| format!("{} cannot be taken away", dir.display()))?;
        eprintln!("{} is gone", dir.display());
    }
    Ok(())
}

fn status(dir: &Path) -> Result<()> {
    println!("{:<14} {:<16} {:<10} {:<8} directory", "server", "address", "state", "pid");
    for server in servers(dir) {
        let pid = server.pid();
        let state = match (pid, (server.answers)(server.at)) {
            (Some(_), true) => "up",
            (Some(_), false) => "starting",
            (None, true) => "not ours",
            (None, false) => "down",
        };
        let pid = pid.map_or_else(|| "-".to_owned(), |pid| pid.to_string());
        println!("{:<14} {:<16} {state:<10} {pid:<8} {}", server.name, server.at, server.dir.display());
    }
    Ok(())
}

impl Server {
    fn pid_file(&self) -> PathBuf {
        self.dir.join("pid")
    }

    /// Its process, if that is alive and was started here.
    fn pid(&self) -> Option<u32> {
        let pid: u32 = fs::read_to_string(self.pid_file()).ok()?.trim().parse().ok()?;
        let words = fs::read(format!("/proc/{pid}/cmdline")).ok()?;
        let ours = String::from_utf8_lossy(&words).contains(&*self.dir.to_string_lossy());
        ours.then_some(pid)
    }

    /// In a group of its own, so that a Ctrl-C here is not for it.
    fn start(&self, command: &mut Command) -> Result<Child> {
        fs::create_dir_all(&self.dir).with_context(|| format!("{} cannot be made", self.dir.display()))?;
        let log = fs::File::create(self.dir.join("out.log"))?;
        command.stdin(Stdio::null()).stdout(log.try_clone()?).stderr(log).process_group(0);
        let child = command.spawn().with_context(|| format!("{} cannot be started", self.name))?;
        fs::write(self.pid_file(), child.id().to_string())?;
        eprintln!("{} starts at {}", self.name, self.at);
        Ok(child)
    }

    fn wait(&self, mut child: Child) -> Result<()> {
        let began = Instant::now();
        while !(self.answers)(self.at) {
            let log = self.dir.join("out.log");
            ensure!(child.try_wait()?.is_none(), "{} has ended: {} says why", self.name, log.display());
            ensure!(
                began.elapsed() < PATIENCE,
                "{} does not answer after {} s: {} may say why",
                self.name,
                PATIENCE.as_secs(),
                log.display()
            );
            std::thread::sleep(Duration::from_millis(200));
        }
        eprintln!("{} answers after {:.1} s", self.name, began.elapsed().as_secs_f64());
        Ok(())
    }

    fn stop(&self) -> Result<()> {
        let Some(pid) = self.pid() else { return Ok(()) };
        let signal = |word: &str| sh::output(Command::new("kill").args([word, &pid.to_string()]));
        signal("-TERM")
            .with_context(|| format!("{} cannot be stopped: process {pid} is another's", self.name))?;
        let began = Instant::now();
        while self.pid().is_some() {
            if began.elapsed() > GRACE {
                signal("-KILL");
            }
            std::thread::sleep(Duration::from_millis(100));
        }
        fs::remove_file(self.pid_file()).ok(); // the process is gone, whatever stands there
        eprintln!("{} has ended", self.name);
        Ok(())
    }
}

/// What a server says to who connects, or to what he says first.
fn heard(at: SocketAddr, said: &[u8], much: usize) -> Option<Vec<u8>> {
    let mut stream = TcpStream::connect_timeout(&at, Duration::from_millis(300)).ok()?;
    stream.set_read_timeout(Some(Duration::from_secs(2))).ok()?;
    stream.write_all(said).ok()?;
    let mut answer = vec![0; much];
    stream.read_exact(&mut answer).ok()?;
    Some(answer)
}

fn speaks_nats(at: SocketAddr) -> bool {
    heard(at, b"", 5).is_some_and(|answer| answer == b"INFO ")
}

/// OPTIONS is answered with SUPPORTED.
fn speaks_cql(at: SocketAddr) -> bool {
    const OPTIONS: [u8; 9] = [4, 0, 0, 0, 5, 0, 0, 0, 0];
    const SUPPORTED: u8 = 6;
    heard(at, &OPTIONS, 9).is_some_and(|answer| answer[4] == SUPPORTED)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn server(dir: &Path) -> Server {
        let answers = |_| false;
        Server {
            name: "sleeper".into(),
            at: SocketAddr::from(([127, 0, 0, 1], 1)),
            dir: dir.to_owned(),
            answers,
        }
    }

    #[test]
    fn a_server_is_known_by_its_process_and_stopped() {
        let dir = tempfile::tempdir().expect("a directory");
        let server = server(dir.path());
        assert_eq!(server.pid(), None);
        let script = format!("trap 'exit 0' TERM; : {}; while :; do sleep 0.1; done", dir.path().display());
        let mut command = Command::new("sh");
        // A grandchild, as it would be when the next command stops it: nobody here waits for its end.
        command.args(["-c", &format!("sh -c \"{script}\" & echo $! > {}/its", dir.path().display())]);
        server.start(&mut command).expect("started").wait().expect("it has gone");
        let its = dir.path().join("its");
        while fs::read_to_string(&its).is_ok_and(|text| text.is_empty()) || !its.exists() {
            std::thread::sleep(Duration::from_millis(20));
        }
        fs::copy(&its, server.pid_file()).expect("its number");
        assert!(server.pid().is_some());
        server.stop().expect("stopped");
        assert_eq!(server.pid(), None);
    }

    #[test]
    fn another_process_under_its_number_is_not_it() {
        let dir = tempfile::tempdir().expect("a directory");
        let server = server(&dir.path().join("elsewhere"));
        fs::create_dir_all(&server.dir).expect("made");
        fs::write(server.pid_file(), std::process::id().to_string()).expect("written");
        assert_eq!(server.pid(), None);
        server.stop().expect("nothing to stop");
    }
}

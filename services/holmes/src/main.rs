//! `holmes`: the one binary. Every service is a role of it; beside them stand the tools of those who run a network,
//! call it, or audit its log.

use std::path::PathBuf;
use std::process::ExitCode;

use clap::{CommandFactory, FromArgMatches as _, Parser, Subcommand};
use holmes_engine::run::OpenError;
use holmes_runtime::config::ConfigError;
use holmes_runtime::recover::DamagedLog;
use holmes_runtime::telemetry;

mod ask;
mod calc;
mod call;
mod client;
mod cluster;
mod data;
mod demo;
mod doctor;
mod edge;
mod executor;
mod kept;
mod keyring;
mod keys;
mod migrate;
mod models;
mod output;
mod owner;
mod processes;
mod profile;
mod readable;
mod replay;
mod roles;
mod scenario;
mod serve;
mod settings;
mod stream;
mod verify;
mod wallet;
mod when;
mod whole;

/// A call makes some hundred small allocations, on one thread, and frees them on another: the system's allocator spends a
/// fifth of the time of a durable command on that.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

const _: () = assert!(
    !holmes_kernel::weak::WEAKENED,
    "holmes is never built with guards that can be switched off: build it without the feature holmes-kernel/weakened"
);

/// A decentralised GPU network in a box.
#[derive(Parser)]
#[command(
    version,
    max_term_width = 110,
    after_help = "Examples:
  holmes demo                          the whole story in two minutes
  holmes up                            a network of your own over ./holmes-data
  holmes call Ledger/GetSupply         call any RPC by reflection, JSON in and out
  holmes verify                        rebuild every service from its log and compare
  holmes calc apportion < cases.json   check a number by hand

Exit codes: 0 done; 1 it did not work, the reason is on stderr; 2 the command line is wrong. \
Data goes to stdout, talk to stderr."
)]
struct Cli {
    /// Configuration file (TOML); `holmes config explain` lists the keys.
    #[arg(long, short = 'c', global = true, env = "HOLMES_CONFIG", value_name = "FILE")]
    config: Option<PathBuf>,
    /// How data is printed.
    #[arg(long, short = 'o', global = true, value_enum, default_value_t)]
    output: output::Format,
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// Play the whole story: real processes, a real model, a log to look into.
    Demo(demo::Args),
    /// Run a whole network on this machine: every role, and how to go on from there.
    #[command(after_help = serve::UP_HELP)]
    Up(serve::Args),
    /// Run roles until SIGTERM or Ctrl-C.
    Serve(serve::Args),
    /// Serve models to the network: attach to a gateway and compute what it sends, until SIGTERM or Ctrl-C.
    Executor(executor::Args),
    /// The child of an executor that owns the device: messages on stdin and stdout.
    #[command(hide = true)]
    Worker(executor::WorkerArgs),
    /// Ask a model a question: words, node, price, receipt, balance.
    Ask(ask::Args),
    /// Call any RPC of a running server: JSON in, JSON out.
    Call(call::Args),
    /// Make keys: Ed25519 key files and API keys.
    Keys(keys::Args),
    /// What a holder has, and how he sends some of it.
    Wallet(wallet::Args),
    /// Rebuild every service from its log and compare digests, chains and invariants.
    Verify(verify::Args),
    /// Read the log: entries as JSON lines, or raw frames into files.
    Replay(replay::Args),
    /// A service's state at a place of its log, as JSON.
    State(replay::StateArgs),
    /// Play a file of steps over a whole network in memory, on virtual time.
    Scenario(scenario::Args),
    /// The models that this machine can serve.
    Models(models::Args),
    /// Say whether this machine can run a network, and what to mend where it cannot.
    Doctor(doctor::Args),
    /// Make what logs are kept and carried in: tables on CQL servers, streams on NATS.
    Migrate(migrate::Args),
    /// The streams that carry logs to other processes.
    Stream(stream::Args),
    /// Run every role as a process of its own on this machine, over CQL and NATS servers.
    Cluster(cluster::Args),
    /// Compute a numbered formula of the economy.
    Calc(calc::Args),
    /// Check, print or explain the configuration.
    Config(settings::Args),
    /// Print the completion script of a shell.
    #[command(after_help = "Examples:
  holmes completion bash > ~/.local/share/bash-completion/completions/holmes
  holmes completion zsh > ~/.zfunc/_holmes")]
    Completion {
        /// Which shell.
        shell: clap_complete::Shell,
    },
}

fn main() -> ExitCode {
    let matches = unset_where_empty(Cli::command()).get_matches();
    match run(Cli::from_arg_matches(&matches).unwrap_or_else(|why| why.exit())) {
        Ok(code) => code,
        Err(why) if output::is_unread(&why) => ExitCode::SUCCESS,
        Err(why) if telemetry::is_json() => {
            tracing::error!(error = format!("{why:#}"), "it did not work");
            ExitCode::FAILURE
        }
        Err(why) => {
            eprintln!("error: {why:#}");
            if let Some(reason) = refused_as(&why) {
                eprintln!("  reason: {reason}");
            }
            ExitCode::FAILURE
        }
    }
}

/// An empty environment variable sets nothing, as in a shell's `${NAME:-…}`.
fn unset_where_empty(command: clap::Command) -> clap::Command {
    let is_empty =
        |arg: &clap::Arg| arg.get_env().and_then(std::env::var_os).is_some_and(|set| set.is_empty());
    let args = command.mut_args(|arg| if is_empty(&arg) { arg.env(None::<&str>) } else { arg });
    args.mut_subcommands(unset_where_empty)
}

/// The stable name of why a file was refused, for scripts; that of a call stands in its own words.
fn refused_as(why: &anyhow::Error) -> Option<&'static str> {
    why.chain().find_map(|cause| {
        let model = cause.downcast_ref::<OpenError>().map(OpenError::reason);
        let config = || cause.downcast_ref::<ConfigError>().map(ConfigError::reason);
        let key = || cause.downcast_ref::<keys::NotAKey>().map(|_| keys::NotAKey::REASON);
        let kept = || cause.downcast_ref::<kept::Refused>().map(|refused| refused.reason);
        let scenario = || cause.downcast_ref::<scenario::WrongIn>().map(|_| scenario::WrongIn::REASON);
        let log = || cause.downcast_ref::<DamagedLog>().map(|_| DamagedLog::REASON);
        model.or_else(config).or_else(key).or_else(kept).or_else(scenario).or_else(log)
    })
}

fn run(cli: Cli) -> anyhow::Result<ExitCode> {
    let (file, format) = (cli.config.as_deref(), cli.output);
    match cli.command {
        Command::Calc(args) => return Ok(code(calc::run(&args)?)),
        Command::Config(args) => settings::run(&args, file, format)?,
        Command::Keys(args) => keys::run(args, holmes_runtime::config::load(file)?, format)?,
        Command::Models(args) => models::run(args, &holmes_runtime::config::load(file)?, format)?,
        Command::Doctor(args) => {
            return Ok(code(wait(doctor::run(&args, file, format))?));
        }
        Command::Completion { shell } => {
            let mut script = Vec::new();
            clap_complete::generate(shell, &mut Cli::command(), "holmes", &mut script);
            output::text(String::from_utf8(script)?.trim_end())?;
        }
        Command::Up(args) => wait(serve::run(args, holmes_runtime::config::load(file)?, true))?,
        Command::Serve(args) => wait(serve::run(args, holmes_runtime::config::load(file)?, false))?,
        Command::Demo(args) => wait(demo::run(args, holmes_runtime::config::load(file)?))?,
        Command::Executor(args) => wait(executor::run(args, holmes_runtime::config::load(file)?))?,
        Command::Worker(args) => executor::worker(args)?,
        Command::Wallet(args) => wait(wallet::run(args, holmes_runtime::config::load(file)?, format))?,
        Command::Ask(args) => wait(ask::run(args, format))?,
        Command::Call(args) => wait(call::run(args, holmes_runtime::config::load(file)?))?,
        Command::Replay(args) => wait(replay::run(args, holmes_runtime::config::load(file)?))?,
        Command::State(args) => wait(replay::state(args, holmes_runtime::config::load(file)?))?,
        Command::Stream(args) => wait(stream::run(args, holmes_runtime::config::load(file)?, format))?,
        Command::Cluster(args) => wait(cluster::run(args, holmes_runtime::config::load(file)?, format))?,
        Command::Scenario(args) => {
            return scenario::run(args, &holmes_runtime::config::load(file)?, format);
        }
        Command::Migrate(args) => {
            return Ok(code(wait(migrate::run(args, holmes_runtime::config::load(file)?, format))?));
        }
        Command::Verify(args) => {
            return Ok(code(wait(verify::run(args, holmes_runtime::config::load(file)?, format))?));
        }
    }
    Ok(ExitCode::SUCCESS)
}

/// How a command ends that was done, and has found all right or not.
fn code(is_right: bool) -> ExitCode {
    if is_right { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}

fn wait<T>(work: impl Future<Output = anyhow::Result<T>>) -> anyhow::Result<T> {
    tokio::runtime::Builder::new_multi_thread().enable_all().build()?.block_on(work)
}

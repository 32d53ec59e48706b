//! `holmes executor`: a node of the network, and `holmes worker`: the child of it that owns the device.

use std::ffi::OsString;
use std::path::PathBuf;
use std::time::Duration;

use anyhow::{Context as _, Result, bail};
use holmes_executor::{Options, WorkerCommand, WorkerOptions, worker_main};
use holmes_kernel::Id;
use holmes_runtime::config::Config;
use holmes_runtime::telemetry;
use tokio::sync::watch;

use crate::models::Store;
use crate::{keys, serve};

/// What a node serves, and where it joins.
#[derive(Debug, clap::Args)]
#[command(after_help = "Examples:
  holmes keys new node.key          first, once
  holmes executor --join 127.0.0.1:7070 --key node.key --model holmes-tiny
  holmes executor --join gateway.example:7070 --key node.key \\
      --hardware 4090 --region eu-west --slots 16 \\
      --model llama=/models/llama-3.1-8b --model minilm=/models/minilm

A model is one of `holmes models list`, or NAME=PATH: a GGUF file, a directory with model.gguf, or a Hugging Face \
directory. Its name is the one that the market knows. The node dials out and needs no open port. One process runs a \
node: when another one attaches with the same key, the older one ends. Before it is given work it must be registered \
and bonded; this prints what Staking/RegisterNode takes:
  holmes keys offer node.key --as staking-node --owner ACCOUNT
On SIGTERM or Ctrl-C the gateway is told, calls in progress end, then the process exits. Receipts that no gateway has \
accepted yet wait in the state directory and are sent when it runs again: keep it.")]
pub(crate) struct Args {
    /// Where the gateway's gRPC port is: http://HOST:PORT, or HOST:PORT.
    #[arg(long, value_name = "URL", env = "HOLMES_JOIN")]
    join: String,
    /// The node's key file.
    #[arg(long, value_name = "FILE", env = "HOLMES_NODE_KEY")]
    key: PathBuf,
    /// A model that is served, by its name in the market; once for each, at most 16.
    #[arg(long = "model", value_name = "NAME[=PATH]", required = true)]
    models: Vec<String>,
    /// Calls that are computed at the same time.
    #[arg(long, default_value_t = 8)]
    slots: u32,
    /// Hardware class, as claimed: cpu, 4090, h100.
    #[arg(long, default_value = "cpu", value_name = "CLASS")]
    hardware: String,
    /// Where the node stands, as claimed.
    #[arg(long, default_value = "")]
    region: String,
    /// Directory of what outlives the process; by default one beside the key file, named after it.
    #[arg(long, value_name = "DIR")]
    state: Option<PathBuf>,
    /// Public key of scheduling, 64 hexadecimal digits: leases must be signed with it. By default the first one that a
    /// gateway tells is kept.
    #[arg(long, value_name = "HEX", value_parser = public_key)]
    pin: Option<[u8; 32]>,
    /// Seconds that calls in progress may take when the node stops.
    #[arg(long, default_value_t = 30, value_name = "SECONDS")]
    drain: u64,
    /// Seconds that loading the models may take.
    #[arg(long, default_value_t = 600, value_name = "SECONDS")]
    load: u64,
    /// Stop when stdin ends, too: whoever holds its other end takes this process with it, however that dies.
    #[arg(long)]
    until_stdin_ends: bool,
    #[command(flatten)]
    limits: Limits,
}

/// What the worker may take.
#[derive(Clone, Copy, Debug, clap::Args)]
struct Limits {
    /// Computing threads, all models together; 0 for as many as the machine has.
    #[arg(long, default_value_t = 0)]
    threads: usize,
    /// Longest sequence of each model, tokens; 0 for the model's own.
    #[arg(long, default_value_t = 0, value_name = "TOKENS")]
    context: usize,
    /// Tokens of each model's key-value cache; 0 for one sequence of the longest context.
    #[arg(long, default_value_t = 0, value_name = "TOKENS")]
    cache: usize,
}

/// What a worker loads.
#[derive(Debug, clap::Args)]
pub(crate) struct WorkerArgs {
    /// A model; once for each.
    #[arg(long = "model", value_name = "NAME=PATH", required = true, value_parser = model)]
    models: Vec<(String, PathBuf)>,
    #[command(flatten)]
    limits: Limits,
}

/// Serves until a signal.
pub(crate) async fn run(args: Args, config: Config) -> Result<()> {
    let telemetry = telemetry::init(&config.telemetry, "holmes-executor", &[])?;
    let until_stdin_ends = args.until_stdin_ends;
    let options = options(args, &config)?;
    let node = Id::of_key(&options.key.verifying_key().to_bytes());
    let (join, state) = (&options.join, options.state_dir.display());
    if telemetry::is_json() {
        tracing::info!(%node, join, %state, "joining");
    } else {
        eprintln!("node {node} joins {join}; its state is in {state}");
    }
    let (stop, stopped) = watch::channel(false);
    let mut node = tokio::spawn(holmes_executor::run(options, stopped));
    let ended = tokio::select! {
        ended = &mut node => ended,
        signal = serve::wait_for_end(until_stdin_ends) => {
            signal?;
            tracing::info!("draining");
            stop.send_replace(true);
            node.await
        }
    };
    telemetry.shutdown();
    ended.context("the node's agent")?
}

/// Computes what standard input asks until it ends.
pub(crate) fn worker(args: WorkerArgs) -> Result<()> {
    let Limits { threads, context, cache: cache_tokens } = args.limits;
    worker_main(args.models, WorkerOptions { threads, context, cache_tokens })
}

fn options(args: Args, config: &Config) -> Result<Options> {
    let models = args.models.iter().map(|named| found(named, config)).collect::<Result<Vec<_>>>()?;
    let key = keys::read(&args.key)?;
    let state_dir = args.state.unwrap_or_else(|| args.key.with_extension("state"));
    let program = std::env::current_exe().context("this program's own file is not known")?;
    let mut command: Vec<OsString> = vec!["worker".into()];
    for (name, path) in &models {
        let mut model = OsString::from(format!("{name}="));
        model.push(path);
        command.extend(["--model".into(), model]);
    }
    let Limits { threads, context, cache } = args.limits;
    for (flag, value) in [("--threads", threads), ("--context", context), ("--cache", cache)] {
        command.extend([flag.into(), value.to_string().into()]);
    }
    Ok(Options {
        join: args.join,
        key,
        models,
        slots: args.slots,
        hardware: args.hardware,
        region: args.region,
        state_dir,
        worker: WorkerCommand { program, args: command, ready_within: Duration::from_secs(args.load) },
        pin: args.pin,
        drain: Duration::from_secs(args.drain),
    })
}

/// A model by name and path, or by the name that it has on this machine.
fn found(named: &str, config: &Config) -> Result<(String, PathBuf)> {
    if named.contains('=') {
        return model(named);
    }
    Ok((named.to_owned(), Store::of(config)?.path(named)?))
}

fn model(text: &str) -> Result<(String, PathBuf)> {
    match text.split_once('=') {
        Some((name, path)) if !name.is_empty() && !path.is_empty() => Ok((name.to_owned(), path.into())),
        _ => bail!("write NAME=PATH, as in smollm2=models/smollm2-135m-instruct"),
    }
}

fn public_key(text: &str) -> Result<[u8; 32]> {
    let mut key = [0; 32];
    if text.len() != 64 || !text.bytes().all(|digit| digit.is_ascii_hexdigit()) {
        bail!("write 64 hexadecimal digits");
    }
    for (at, byte) in key.iter_mut().enumerate() {
        *byte = u8::from_str_radix(&text[2 * at..2 * at + 2], 16)?;
    }
    Ok(key)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_model_is_a_name_and_a_path() {
        assert_eq!(model("a=b=c").unwrap(), ("a".to_owned(), PathBuf::from("b=c")));
        for text in ["", "a", "=b", "a="] {
            assert!(model(text).is_err(), "{text:?} was taken");
        }
    }

    #[test]
    fn a_public_key_is_64_hexadecimal_digits() {
        assert_eq!(public_key(&"0a".repeat(32)).unwrap(), [10; 32]);
        for text in [&"0a".repeat(31), &"+a".repeat(32), &"é".repeat(32)] {
            assert!(public_key(text).is_err(), "{text:?} was taken");
        }
    }
}

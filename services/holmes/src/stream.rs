//! `holmes stream`: the streams that carry logs to readers in other processes.

use std::io::Write as _;
use std::sync::Arc;

use anyhow::{Context as _, Result, anyhow, bail, ensure};
use holmes_kernel::LogId;
use holmes_kernel::ports::{Bus as _, Ear as _, Journal as _};
use holmes_runtime::PublicFrame;
use holmes_runtime::config::Config;
use holmes_runtime::telemetry;
use holmes_store::Journal;
use holmes_store::bus::nats::{Bus, Names, Options, Proof, Shown};
use prost_reflect::MessageDescriptor;
use serde::Serialize;
use tokio::sync::mpsc;

use crate::output::{self, Format};
use crate::readable::Readable;
use crate::roles::{self, Role};
use crate::{data, replay, when};

/// What is done.
#[derive(Debug, clap::Args)]
#[command(after_help = "Examples:
  holmes stream lag --nats 127.0.0.1:4222                      what each stream holds, and how far it is behind
  holmes stream tail --nats 127.0.0.1:4222                     what leaves the services from now on, as JSON lines
  holmes stream tail --role ledger --after 0 --count 10        the first ten entries that the ledger's stream still has
  holmes stream remove --role ledger                           before `holmes migrate` makes it anew

The servers stand in the configuration, too: bus.nats, or HOLMES__BUS__NATS.")]
pub(crate) struct Args {
    #[command(subcommand)]
    what: What,
}

#[derive(Debug, clap::Subcommand)]
enum What {
    /// What each stream holds, and how far it is behind its log
    Lag(Lag),
    /// Take a stream away that holds what is not in its log; `holmes migrate` makes it anew
    Remove(Remove),
    /// Print what leaves the services: public events and refusals, and to whom an entry sends; JSON lines
    Tail(Tail),
}

#[derive(Debug, clap::Args)]
struct Lag {
    /// NATS servers, host:port with commas between them.
    #[arg(long)]
    nats: Option<String>,
    /// Only these roles.
    #[arg(long, value_delimiter = ',')]
    role: Vec<String>,
}

#[derive(Debug, clap::Args)]
struct Remove {
    /// NATS servers, host:port with commas between them.
    #[arg(long)]
    nats: Option<String>,
    /// The roles whose streams are taken away.
    #[arg(long, value_delimiter = ',', required = true)]
    role: Vec<String>,
}

#[derive(Debug, clap::Args)]
struct Tail {
    /// NATS servers, host:port with commas between them.
    #[arg(long)]
    nats: Option<String>,
    /// Only these roles.
    #[arg(long, value_delimiter = ',')]
    role: Vec<String>,
    /// Begin behind this sequence number of the log, or where the stream begins if that is later; by default, at its end.
    #[arg(long, value_name = "SEQ")]
    after: Option<u64>,
    /// End behind so many entries.
    #[arg(long)]
    count: Option<u64>,
}

/// Does it.
pub(crate) async fn run(args: Args, mut config: Config, format: Format) -> Result<()> {
    telemetry::warnings();
    let nats = match &args.what {
        What::Lag(Lag { nats, .. }) | What::Tail(Tail { nats, .. }) | What::Remove(Remove { nats, .. }) => {
            nats.clone()
        }
    };
    config.bus.nats = nats.unwrap_or(config.bus.nats);
    if config.bus.nats.is_empty() {
        bail!("no NATS server is named: --nats host:port, or bus.nats");
    }
    let bus = Bus::connect(options(&config)?).await?;
    match args.what {
        What::Lag(lag) => show(&bus, &config, &data::roles(&lag.role)?, format).await,
        What::Remove(remove) => {
            let mut wrong = Vec::new();
            for role in data::roles(&remove.role)? {
                match bus.remove(role.log(config.cell.number)).await {
                    Ok(()) => eprintln!(
                        "the stream of {} is gone; its log is as it was. Now: holmes migrate",
                        role.name
                    ),
                    Err(why) => wrong.push(format!("{}: {why}", role.name)),
                }
            }
            ensure!(wrong.is_empty(), "{}", wrong.join("\n"));
            Ok(())
        }
        What::Tail(tail) => print(&bus, &config, &data::roles(&tail.role)?, tail.after, tail.count).await,
    }
}

/// How the configured NATS servers are reached.
pub(crate) fn options(config: &Config) -> Result<Options> {
    let bus = &config.bus;
    let file = |path: &std::path::Path| (!path.as_os_str().is_empty()).then(|| path.to_owned());
    let user = match bus.user.as_str() {
        "" => None,
        user => {
            let path = bus.password_file.display();
            let password = std::fs::read_to_string(&bus.password_file);
            let password = password.with_context(|| format!("bus.password_file {path} cannot be read"))?;
            Some((user.to_owned(), password.trim_end().to_owned()))
        }
    };
    for (key, path) in [("bus.ca", &bus.ca), ("bus.certificate", &bus.certificate), ("bus.key", &bus.key)] {
        if !path.as_os_str().is_empty() {
            std::fs::File::open(path).with_context(|| format!("{key} {} cannot be read", path.display()))?;
        }
    }
    let proof = Proof { user, ca: file(&bus.ca), certificate: file(&bus.certificate).zip(file(&bus.key)) };
    let services = roles::all().into_iter().map(|role| (role.service, role.name.to_owned()));
    Ok(Options {
        servers: bus.nats.split(',').map(|server| server.trim().to_owned()).collect(),
        name: format!("holmes cell {}", config.cell.number),
        proof,
        names: Names::new(services),
    })
}

/// A stream, for people and their tools.
#[derive(Serialize)]
struct Row {
    service: &'static str,
    stream: String,
    subject: String,
    messages: u64,
    bytes: u64,
    replicas: usize,
    /// How long a message stays.
    keep_days: u64,
    /// The first event that it still holds.
    first: Option<u64>,
    /// The last one.
    last: Option<u64>,
    /// When that was written.
    last_ts_us: Option<u64>,
    /// The last event of the log, where the log can be looked at.
    head: Option<u64>,
    /// Events of the log that it does not hold yet.
    behind: Option<u64>,
    consumers: usize,
}

async fn show(bus: &Bus, config: &Config, roles: &[Role], format: Format) -> Result<()> {
    // An embedded journal belongs to the process that serves it: its own metrics tell how far its streams are behind.
    let journal = match config.store.cql.as_str() {
        "" => None,
        _ => Some(data::open(config, false).await?),
    };
    let (mut rows, mut wrong) = (Vec::new(), Vec::new());
    for role in roles {
        let log = role.log(config.cell.number);
        let head = match &journal {
            Some(journal) if journal.logs().await?.contains(&log) => Some(head(journal, log).await?),
            _ => None,
        };
        match bus.show(log).await.map_err(anyhow::Error::from).and_then(|shown| row(role, shown, head)) {
            Ok(row) => rows.push(row),
            Err(why) => wrong.push(format!("{}: {why:#}", role.name)),
        }
    }
    ensure!(!rows.is_empty(), "{}", wrong.join("\n"));
    let number = |number: Option<u64>| number.map_or("-".to_owned(), |number| number.to_string());
    let columns =
        ["SERVICE", "SUBJECT", "MESSAGES", "FIRST", "LAST", "WRITTEN", "LOG", "BEHIND", "CONSUMERS"];
    output::rows(format, &columns, &rows, |row| {
        let written = row.last_ts_us.map(|us| when::shown(holmes_kernel::Time::from_micros(us)));
        vec![
            row.service.to_owned(),
            row.subject.clone(),
            row.messages.to_string(),
            number(row.first),
            number(row.last),
            written.unwrap_or("-".into()),
            number(row.head),
            number(row.behind),
            row.consumers.to_string(),
        ]
    })?;
    ensure!(wrong.is_empty(), "{}", wrong.join("\n"));
    Ok(())
}

/// The last event of a log: found in few looks, since nothing is behind it.
async fn head(journal: &Journal, log: LogId) -> Result<u64> {
    let last_behind = async |after| {
        let page = journal.read(log, after, 1).await?;
        Ok::<_, anyhow::Error>(page.last().map(|frame| frame.header().last))
    };
    // Of ever longer steps the first that leads behind the end, then halves of it.
    let (mut head, mut step) = (0, 1u64);
    while let Some(last) = last_behind(head + step - 1).await? {
        (head, step) = (last, step * 2);
    }
    while step > 1 {
        step /= 2;
        if let Some(last) = last_behind(head + step - 1).await? {
            head = last;
        }
    }
    Ok(head)
}

fn row(role: &Role, shown: Shown, head: Option<u64>) -> Result<Row> {
    let Shown { stream, subject, messages, bytes, first, last, consumers, replicas, age } = shown;
    let newest = last.map(|last| PublicFrame::from_bytes(&last.message.body));
    let newest = newest.transpose().with_context(|| format!("the last message of {stream}"))?;
    let last = newest.as_ref().map(|frame| frame.last);
    Ok(Row {
        service: role.name,
        stream,
        subject,
        messages,
        bytes,
        replicas,
        keep_days: age.as_secs() / 86_400,
        first: first.map(|first| first.message.first),
        last,
        last_ts_us: newest.map(|frame| frame.ts.micros()),
        head,
        behind: head.map(|head| head.saturating_sub(last.unwrap_or(0))),
        consumers,
    })
}

/// How many frames may wait to be printed.
const WAITING: usize = 64;

async fn print(
    bus: &Bus,
    config: &Config,
    roles: &[Role],
    after: Option<u64>,
    count: Option<u64>,
) -> Result<()> {
    let readable = Arc::new(Readable::new()?);
    let (sender, mut frames) = mpsc::channel(WAITING);
    for role in roles {
        let log = role.log(config.cell.number);
        let after = match after {
            Some(after) => after,
            None => bus.last(log).await?.map_or(0, |last| last.message.last),
        };
        let (bus, sender, name) = (bus.clone(), sender.clone(), role.name);
        tokio::spawn(async move { listen(&bus, log, after, name, &sender).await });
    }
    drop(sender);
    eprintln!("listening; Ctrl-C ends it");
    let mut left = count.unwrap_or(u64::MAX);
    loop {
        let (service, frame) = tokio::select! {
            next = frames.recv() => next.context("nobody listens any more")?,
            done = crate::serve::signal() => return done,
        };
        let kind = readable.events_of(service)?;
        print_frame(service, &frame, &kind, &readable, &mut left)?;
        if left == 0 {
            return Ok(());
        }
    }
}

fn print_frame(
    service: &str,
    frame: &PublicFrame,
    kind: &MessageDescriptor,
    readable: &Readable,
    left: &mut u64,
) -> Result<()> {
    let mut out = std::io::stdout().lock();
    for public in &frame.entries {
        if *left == 0 {
            break;
        }
        let at = (frame.ts, frame.term);
        let mut line = replay::line(service, at, public.first, &public.entry, kind, readable)?;
        if let Some((to, _)) = &public.send {
            line["sends_to"] = holmes_proto::service_name(*to).into();
        }
        if !public.offsets.is_empty() {
            line["event_seqs"] = public.events().map(|(seq, _)| seq).collect::<Vec<_>>().into();
        }
        writeln!(out, "{line}")?;
        *left -= 1;
    }
    Ok(out.flush()?)
}

/// Listens for as long as somebody reads; again where it was whenever the bus does not answer.
async fn listen(
    bus: &Bus,
    log: LogId,
    mut after: u64,
    service: &'static str,
    to: &mpsc::Sender<(&'static str, PublicFrame)>,
) {
    loop {
        let heard = async {
            let mut ear = bus.listen(log, after).await?;
            loop {
                let carried = ear.next().await?;
                if carried.message.last <= after {
                    continue;
                }
                let frame = PublicFrame::from_bytes(&carried.message.body)
                    .map_err(|why| anyhow!("message {} of {service}: {why}", carried.place))?;
                after = frame.last;
                if to.send((service, frame)).await.is_err() {
                    return Ok(());
                }
            }
        };
        let heard: Result<()> = heard.await;
        match heard {
            Ok(()) => return,
            Err(why) => eprintln!("{service}: {why:#}; trying again"),
        }
        tokio::time::sleep(std::time::Duration::from_secs(1)).await;
    }
}

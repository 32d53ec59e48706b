//! Every service as a role of the one binary: one line each.

use std::pin::Pin;
use std::sync::Arc;

use anyhow::{Context, Result, bail};
use ed25519_dalek::SigningKey;
use holmes_accounts::Accounts;
use holmes_consumer::Replay;
use holmes_emission::Emission;
use holmes_kernel::canon::Digest;
use holmes_kernel::entry::Origin;
use holmes_kernel::ports::{Journal as _, JournalError};
use holmes_kernel::{Chain, Event as _, Frame, LogId, Machine, Opened, Position, Replica, ServiceId, Time};
use holmes_ledger::Ledger;
use holmes_market::Market;
use holmes_runtime::auth::Network;
use holmes_runtime::driver::{Running, Settings, start};
use holmes_runtime::feed::{Heard, Source as _, Speaker, follow};
use holmes_runtime::recover::{Extent, RecoverError, recover};
use holmes_runtime::rig::{Rig, Seat};
use holmes_runtime::server::{Grpc, Placed, Services};
use holmes_runtime::{Clock, Feed, MachineHandle, Peer, Reach, Status};
use holmes_scheduling::Scheduling;
use holmes_staking::Staking;
use holmes_store::{Bus, Journal};
use holmes_treasury::Treasury;
use tokio::sync::watch;
use tonic::service::RoutesBuilder;

use crate::profile::Profile;

/// The role that keeps no log: the edge for renters and nodes.
pub(crate) const GATEWAY: &str = "gateway";

/// A machine, the crate of its service, and what makes its edge over a door, where that needs more than the door. The
/// edge is written once and made twice: over the door of a machine that serves, and over one on virtual time.
macro_rules! machine {
    ($machine:ty, $service:ident) => {
        machine!($machine, $service, |door, _| $service::api::server(door))
    };
    ($machine:ty, $service:ident, $edge:expr) => {
        role::<$machine, _, _>($service::params::encoded_defaults, $edge, $edge)
    };
}

/// Every role with a log, in the order in which they are started and listed.
pub(crate) fn all() -> Vec<Role> {
    vec![
        machine!(Ledger, holmes_ledger),
        machine!(Accounts, holmes_accounts),
        machine!(Treasury, holmes_treasury),
        machine!(Staking, holmes_staking),
        machine!(Scheduling, holmes_scheduling, |door, deps| {
            let Deps { lease_key, network } = deps;
            let key = lease_key.clone().expect("who runs scheduling holds its key");
            holmes_scheduling::api::server(door, key, network.genesis, network.cell)
        }),
        machine!(Market, holmes_market),
        machine!(Emission, holmes_emission),
    ]
}

/// What a role's edge may need beside its machine.
pub(crate) struct Deps {
    /// What scheduling signs leases with; where it runs.
    pub lease_key: Option<SigningKey>,
    /// Where signatures count.
    pub network: Network,
}

/// Whether every log can be opened with a profile: it is what a network's opening would show.
pub(crate) fn openable(mut profile: Profile) -> Result<()> {
    let any = SigningKey::from_bytes(&[1; 32]).verifying_key().to_bytes();
    profile.staff_key(any);
    profile.lease_key(any);
    profile.begin_at(0);
    profile.epoch_s()?;
    for role in all() {
        let log = role.log(1);
        role.doing.provision(log, Time::default(), &profile).with_context(|| format!("[{}]", role.name))?;
    }
    Ok(())
}

type Doing<T> = Pin<Box<dyn Future<Output = Result<T>> + Send>>;

type Follow = Box<dyn Fn(&Log, &Clock) + Send + Sync>;

/// A log that a role may listen to.
pub(crate) enum Log {
    /// Of this process.
    Here(Feed),
    /// Of another one.
    Elsewhere(Box<Heard<Bus, Replay<Peer>>>),
}

/// A role: a machine whose type is known only here.
#[derive(Clone)]
pub(crate) struct Role {
    /// The service's name.
    pub name: &'static str,
    /// Its number.
    pub service: ServiceId,
    /// Which snapshots it can start from.
    pub state_version: u32,
    doing: Arc<dyn Does>,
}

/// What can be done with a machine of any type.
trait Does: Send + Sync {
    fn provision(&self, log: LogId, now: Time, profile: &Profile) -> Result<Frame>;
    fn seat(&self, rig: &mut Rig<Journal>, log: LogId, profile: &Profile, deps: &Deps) -> Result<Seated>;
    fn start(&self, journal: Journal, settings: Settings, deps: Arc<Deps>) -> Doing<Started>;
    fn replay(&self, journal: Journal, log: LogId, extent: Extent) -> Doing<Replayed>;
    fn speaker(&self, cell: u16) -> Speaker;
    fn post(&self, reach: &Reach, deps: Arc<Deps>) -> Post;
}

/// A role's place in a process of several: there is one also while another process owns the log.
pub(crate) struct Post {
    /// How its machine is.
    pub status: watch::Sender<Status>,
    /// Its log, while it is owned here.
    pub feed: watch::Sender<Option<Feed>>,
    add: Box<dyn Fn(&mut Services) + Send + Sync>,
    fill: Fill,
}

type Fill = Box<dyn Fn(Option<&Started>) + Send + Sync>;

/// Whoever watches a role whose task is gone learns that.
impl Drop for Post {
    fn drop(&mut self) {
        if *self.status.borrow() != Status::Stopped {
            let why = "its task has ended without a word: see the log".to_owned();
            self.status.send_replace(Status::Halted(why));
            (self.fill)(None);
        }
    }
}

impl Post {
    /// Adds the role's gRPC service.
    pub(crate) fn add_to(&self, services: &mut Services) {
        (self.add)(services);
    }

    /// From now on calls are answered here, or, with nothing, passed on.
    pub(crate) fn fill(&self, started: Option<&Started>) {
        (self.fill)(started);
        self.feed.send_replace(started.map(|started| started.feed.clone()));
    }
}

/// A role that is running.
pub(crate) struct Started {
    /// The role's name.
    pub name: &'static str,
    /// How its machine is.
    pub status: watch::Receiver<Status>,
    /// Its log, for those who listen to it.
    pub feed: Feed,
    /// Its machine's door, for those who know its type.
    pub handle: Box<dyn std::any::Any + Send + Sync>,
    /// Of its claim.
    pub term: u64,
    add: Box<dyn Fn(&mut Services) + Send + Sync>,
    follow: Follow,
    stop: Box<dyn FnOnce() -> Doing<()> + Send + Sync>,
}

/// A role whose machine stands in a rig, on virtual time.
pub(crate) struct Seated {
    /// The role's name.
    pub name: &'static str,
    /// Its machine's door, for those who know its type: a `Seat<M, Journal>`.
    pub door: Box<dyn std::any::Any>,
    routes: Box<dyn Fn(&mut RoutesBuilder)>,
    digest: Box<dyn Fn() -> Digest>,
}

impl Seated {
    /// Adds the role's gRPC service.
    pub(crate) fn add_routes(&self, routes: &mut RoutesBuilder) {
        (self.routes)(routes);
    }

    /// Digest of the state as it stands.
    pub(crate) fn digest(&self) -> Digest {
        (self.digest)()
    }
}

/// What replaying a log gave.
pub(crate) struct Replayed {
    /// The last sequence number.
    pub seq: u64,
    /// How many frames there were.
    pub frames: u64,
    /// Digest of state, memory and place.
    pub digest: Digest,
    /// Chain of the last frame.
    pub(crate) chain: Chain,
    /// Invariants that do not hold.
    pub broken: Vec<String>,
    /// The state, for people; a state that cannot be shown is none the less what the log says.
    pub state: serde_json::Result<serde_json::Value>,
    /// Up to where it has heard other logs.
    pub heard: Vec<(LogId, Position)>,
    /// The `Replica<M>` itself, for those who know its type.
    pub replica: Box<dyn std::any::Any + Send>,
}

fn role<M: Machine, S: Grpc, T: Grpc>(
    defaults: fn() -> Vec<u8>,
    server: impl Fn(MachineHandle<M>, &Deps) -> S + Send + Sync + 'static,
    seated: impl Fn(Seat<M, Journal>, &Deps) -> T + Send + Sync + 'static,
) -> Role {
    let of = Of { defaults, server: Arc::new(server), seated: Arc::new(seated) };
    let state_version = Replica::<M>::VERSION;
    Role { name: M::NAME, service: M::Event::SERVICE, state_version, doing: Arc::new(of) }
}

impl Role {
    /// The role's log in a cell.
    pub(crate) fn log(&self, cell: u16) -> LogId {
        LogId::new(cell, self.service)
    }

    /// Opens the role's log unless it is there.
    pub(crate) async fn provision(
        &self,
        journal: &Journal,
        cell: u16,
        now: Time,
        profile: &Profile,
    ) -> Result<bool> {
        let log = self.log(cell);
        if journal.logs().await?.contains(&log) {
            return Ok(false);
        }
        let first = self.doing.provision(log, now, profile)?;
        journal
            .provision(&first)
            .await
            .with_context(|| format!("the log of {} could not be opened", self.name))?;
        Ok(true)
    }

    /// What the role's log was opened with, where it is there.
    pub(crate) async fn opened(&self, journal: &Journal, cell: u16) -> Result<Option<Opened>> {
        let log = self.log(cell);
        if !journal.logs().await?.contains(&log) {
            return Ok(None);
        }
        let page = journal.read(log, 0, 1).await?;
        let mut entries = page.first().map(Frame::entries).transpose()?.unwrap_or_default().into_iter();
        match entries.next().and_then(|(_, entry)| entry.origin) {
            Some(Origin::Opened(opened)) => Ok(Some(opened)),
            _ => bail!(
                "the log of {} does not begin with its opening: restore the directory from a copy",
                self.name
            ),
        }
    }

    /// Opens the role's log in a rig, and seats its machine there.
    pub(crate) fn seat(
        &self,
        rig: &mut Rig<Journal>,
        cell: u16,
        profile: &Profile,
        deps: &Deps,
    ) -> Result<Seated> {
        let log = self.log(cell);
        self.doing
            .seat(rig, log, profile, deps)
            .with_context(|| format!("the log of {} could not be opened", self.name))
    }

    /// Claims the role's log and runs its machine.
    pub(crate) async fn start(
        &self,
        journal: Journal,
        settings: Settings,
        deps: Arc<Deps>,
    ) -> Result<Started> {
        self.doing.start(journal, settings, deps).await
    }

    /// The role's place in a process of several.
    pub(crate) fn post(&self, reach: &Reach, deps: Arc<Deps>) -> Post {
        self.doing.post(reach, deps)
    }

    /// The role's log, for those who listen to it from another process.
    pub(crate) fn speaker(&self, cell: u16) -> Speaker {
        self.doing.speaker(cell)
    }

    /// Replays the role's log.
    pub(crate) async fn replay(&self, journal: Journal, cell: u16, extent: Extent) -> Result<Replayed> {
        self.doing.replay(journal, self.log(cell), extent).await
    }
}

impl Started {
    /// Adds the role's gRPC service.
    pub(crate) fn add_to(&self, services: &mut Services) {
        (self.add)(services);
    }

    /// Listens to those of the others whose logs it reads.
    pub(crate) fn listen(&self, others: &[Log], clock: &Clock) {
        for log in others {
            (self.follow)(log, clock);
        }
    }

    /// Lets what is queued be finished and made durable.
    pub(crate) async fn stop(self) -> Result<()> {
        (self.stop)().await
    }
}

struct Of<M: Machine, S, T> {
    defaults: fn() -> Vec<u8>,
    server: Arc<Edge<MachineHandle<M>, S>>,
    seated: Arc<Edge<Seat<M, Journal>, T>>,
}

/// What makes a machine's gRPC service over a door of it.
type Edge<H, S> = dyn Fn(H, &Deps) -> S + Send + Sync;

impl<M: Machine, S, T> Of<M, S, T> {
    /// What a profile opens the log with.
    fn opened(&self, log: LogId, profile: &Profile) -> Result<Opened> {
        Ok(Opened {
            cell: log.cell.into(),
            shard: log.shard.into(),
            profile_hash: profile.hash().to_vec(),
            params: profile.params(M::NAME, &(self.defaults)())?,
        })
    }
}

impl<M: Machine, S: Grpc, T: Grpc> Does for Of<M, S, T> {
    fn provision(&self, log: LogId, now: Time, profile: &Profile) -> Result<Frame> {
        Ok(Replica::<M>::provision(log, now, self.opened(log, profile)?)?)
    }

    fn seat(&self, rig: &mut Rig<Journal>, log: LogId, profile: &Profile, deps: &Deps) -> Result<Seated> {
        let seat = rig.add::<M>(log, self.opened(log, profile)?)?;
        let service = (self.seated)(seat.clone(), deps);
        let looked = seat.clone();
        Ok(Seated {
            name: M::NAME,
            door: Box::new(seat),
            routes: Box::new(move |routes| {
                routes.add_service(service.clone());
            }),
            digest: Box::new(move || looked.digest()),
        })
    }

    fn start(&self, journal: Journal, settings: Settings, deps: Arc<Deps>) -> Doing<Started> {
        let server = self.server.clone();
        Box::pin(async move {
            let log = settings.log;
            let Running { handle, feed, term, task } = start::<M, Journal>(journal, settings)
                .await
                .with_context(|| format!("{} cannot take up its log ({log})", M::NAME))?;
            let (to_follow, to_stop) = (handle.clone(), handle.clone());
            let (service, status) = (server(handle.clone(), &deps), handle.status());
            Ok(Started {
                name: M::NAME,
                status: handle.status(),
                feed,
                handle: Box::new(handle),
                term,
                add: Box::new(move |services| {
                    services.add(service.clone(), status.clone());
                }),
                follow: Box::new(move |from, clock| {
                    let (reader, clock) = (to_follow.clone(), clock.clone());
                    match from {
                        Log::Here(feed) if feed.speaker().concerns::<M>(log) => {
                            tokio::spawn(follow(reader, feed.clone(), clock));
                        }
                        Log::Elsewhere(heard) if heard.speaker().concerns::<M>(log) => {
                            tokio::spawn(follow(reader, (**heard).clone(), clock));
                        }
                        Log::Here(_) | Log::Elsewhere(_) => {}
                    }
                }),
                stop: Box::new(move || {
                    Box::pin(async move {
                        to_stop.stop().await;
                        task.await.with_context(|| format!("the task of {} has failed", M::NAME))
                    })
                }),
            })
        })
    }

    fn speaker(&self, cell: u16) -> Speaker {
        Speaker::of::<M>(cell)
    }

    fn post(&self, reach: &Reach, deps: Arc<Deps>) -> Post {
        let (filled, here) = watch::channel(None::<S>);
        let (placed, status) = (Placed::new(here, reach), watch::Sender::new(Status::StandingBy));
        let (server, seen) = (self.server.clone(), status.subscribe());
        Post {
            status,
            feed: watch::Sender::new(None),
            add: Box::new(move |services| {
                services.add(placed.clone(), seen.clone());
            }),
            fill: Box::new(move |started| {
                let handle = started.and_then(|started| started.handle.downcast_ref::<MachineHandle<M>>());
                filled.send_replace(handle.map(|handle| server(handle.clone(), &deps)));
            }),
        }
    }

    fn replay(&self, journal: Journal, log: LogId, extent: Extent) -> Doing<Replayed> {
        Box::pin(async move {
            let mut frames = 0;
            let replica = recover::<M, Journal>(&journal, log, extent, |_| frames += 1).await?;
            Ok(Replayed {
                seq: replica.tail().seq,
                frames,
                digest: replica.digest(),
                chain: replica.tail().chain,
                broken: replica.check().iter().map(ToString::to_string).collect(),
                state: serde_json::to_value(replica.state()),
                heard: replica.ways().positions().map(|(log, at)| (*log, *at)).collect(),
                replica: Box::new(replica),
            })
        })
    }
}

/// Whether an error says that a log was never opened.
pub(crate) fn is_missing(why: &anyhow::Error) -> bool {
    // A transparent error does not show what it holds as its source.
    let recovering = |cause: &(dyn std::error::Error + 'static)| {
        matches!(cause.downcast_ref(), Some(RecoverError::Journal(JournalError::Missing(_))))
    };
    why.chain()
        .any(|cause| recovering(cause) || matches!(cause.downcast_ref(), Some(JournalError::Missing(_))))
}

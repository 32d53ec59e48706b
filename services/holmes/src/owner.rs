//! Who owns a role's log among the processes that run the role. What they say of themselves is a hint, so that one of them
//! tries and the others wait; the claim's term is the fence. An owner keeps its log until it ends, is fenced, or was silent
//! for as long as its word lasts; then the live process that the log's name picks claims it (rendezvous hashing).

use std::sync::Arc;
use std::time::Duration;

use holmes_accounts::Accounts;
use holmes_kernel::{Id, LogId, Machine as _};
use holmes_runtime::driver::Settings;
use holmes_runtime::{Clock, MachineHandle, Status, fresh_id};
use holmes_store::journal::Standing;
use holmes_store::{Bus, Journal};
use tokio::sync::watch;
use tokio::time::Instant;

use crate::data;
use crate::roles::{Deps, Log, Post, Role, Started};
use crate::serve::Relay;

/// How often a process that stands by looks who owns the log.
const LOOK: Duration = Duration::from_millis(250);
/// The pause before it is tried again to see who owns the log.
const PAUSE: Duration = Duration::from_secs(2);

/// A role in a process of several, and all that it needs to run.
pub(crate) struct Keeper {
    pub role: Role,
    pub post: Post,
    pub journal: Journal,
    pub settings: Settings,
    pub deps: Arc<Deps>,
    /// The logs that it may listen to.
    pub others: Vec<Log>,
    pub bus: Bus,
    pub clock: Clock,
    /// Who asks accounts in this process for keys looks here.
    pub accounts: Arc<watch::Sender<Option<MachineHandle<Accounts>>>>,
    /// How long a process's word lasts.
    pub lease: Duration,
    /// Says when the process ends.
    pub stop: watch::Receiver<bool>,
}

/// The term of who is taking a log up: nobody else tries meanwhile.
const TAKING_UP: u64 = i64::MAX.unsigned_abs();

/// What a process that stands by does next.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Turn {
    Claim,
    Wait,
}

/// Whether it is a process's turn to claim a log: nobody owns it, and of those who are there the log's name picks it.
fn turn(log: LogId, us: Id, there: &[Standing]) -> Turn {
    let others = || there.iter().filter(|other| other.process != us);
    if others().any(|other| other.term > 0) {
        return Turn::Wait;
    }
    let picked = others().all(|other| weight(log, us) > weight(log, other.process));
    if picked { Turn::Claim } else { Turn::Wait }
}

/// Rendezvous: each process draws a number for each log, and the highest one has it.
fn weight(log: LogId, process: Id) -> [u8; 32] {
    let mut drawn = blake3::Hasher::new();
    drawn.update(&log.cell.to_le_bytes()).update(&log.svc.0.to_le_bytes()).update(&process.to_bytes());
    *drawn.finalize().as_bytes()
}

/// Runs a role whenever it is this process's turn, until the process ends.
pub(crate) async fn keep(mut keeper: Keeper) {
    loop {
        let us = fresh_id(); // another one each time: what was said before is taken back for ever
        let Next::Claim = keeper.stand_by(us).await else {
            keeper.leave(us).await;
            break;
        };
        match keeper.take_up(us).await {
            Ok(started) => keeper.own(us, started).await,
            Err(why) => {
                let why = format!("{:#}", data::named(why));
                tracing::error!(role = keeper.role.name, why, "its log cannot be taken up; trying again");
                keeper.post.status.send_replace(Status::Halted(why));
                // Out of the way for a while: another process may be able to.
                keeper.leave(us).await;
                keeper.pause(3 * keeper.lease).await;
            }
        }
    }
    keeper.post.status.send_replace(Status::Stopped);
}

/// Why a process stands by no longer.
enum Next {
    Claim,
    End,
}

impl Keeper {
    /// Waits until it is our turn.
    async fn stand_by(&mut self, us: Id) -> Next {
        let log = self.settings.log;
        loop {
            if *self.stop.borrow() {
                return Next::End;
            }
            match self.look(us).await {
                Ok(Turn::Claim) => return Next::Claim,
                Ok(Turn::Wait) => {
                    if self.post.status.send_replace(Status::StandingBy) != Status::StandingBy {
                        tracing::info!(role = self.role.name, %log, "standing by: another process owns the log");
                    }
                    self.pause(LOOK).await;
                }
                Err(why) => {
                    tracing::warn!(role = self.role.name, %why, "it cannot be seen who owns the log; trying again");
                    self.post.status.send_replace(Status::Recovering);
                    self.pause(PAUSE).await;
                }
            }
        }
    }

    async fn look(&self, us: Id) -> Result<Turn, holmes_kernel::ports::JournalError> {
        let log = self.settings.log;
        self.journal.stand(log, &Standing { process: us, term: 0 }, self.lease).await?;
        Ok(turn(log, us, &self.journal.standing(log).await?))
    }

    /// Claims the log and replays it, saying meanwhile that it does: that may take longer than a word lasts.
    async fn take_up(&self, us: Id) -> anyhow::Result<Started> {
        let starting = self.role.start(self.journal.clone(), self.settings.clone(), self.deps.clone());
        tokio::pin!(starting);
        let mut tick = tokio::time::interval(self.lease / 3);
        loop {
            tokio::select! {
                started = &mut starting => return started,
                _ = tick.tick() => self.say(&Standing { process: us, term: TAKING_UP }).await,
            };
        }
    }

    /// Says how the process stands; whether that was heard.
    async fn say(&self, word: &Standing) -> bool {
        let said = self.journal.stand(self.settings.log, word, self.lease);
        match tokio::time::timeout(self.lease / 3, said).await {
            Ok(Ok(())) => true,
            Ok(Err(why)) => {
                tracing::warn!(role = self.role.name, %why, "others cannot be told who owns the log");
                false
            }
            Err(_) => false,
        }
    }

    async fn leave(&self, us: Id) {
        let left = self.journal.leave(self.settings.log, us);
        if !matches!(tokio::time::timeout(PAUSE, left).await, Ok(Ok(()))) {
            tracing::debug!(role = self.role.name, "another process waits until our word is over");
        }
    }

    async fn pause(&mut self, pause: Duration) {
        tokio::select! {
            () = tokio::time::sleep(pause) => {}
            () = ended(&mut self.stop) => {}
        }
    }

    /// Answers, carries and listens, until the log is another's or the process ends.
    async fn own(&mut self, us: Id, started: Started) {
        let word = Standing { process: us, term: started.term };
        self.fill(Some(&started));
        started.listen(&self.others, &self.clock);
        let relay = Relay::of(&started.feed, &self.bus, &self.clock);
        self.attend(&word, &started).await;
        let role = self.role.name;
        if let Err(why) = started.stop().await {
            tracing::error!(role, why = format!("{why:#}"), "its machine has failed");
        }
        // Only now: what came while it ended was answered by it, and what comes from here on is passed on.
        self.fill(None);
        self.leave(us).await;
        relay.end().await;
    }

    /// From now on calls are answered here, or, with nothing, passed on.
    fn fill(&self, started: Option<&Started>) {
        if self.role.name == Accounts::NAME {
            let accounts = started.and_then(|started| started.handle.downcast_ref());
            self.accounts.send_replace(accounts.cloned());
        }
        self.post.fill(started);
    }

    /// Waits until the log is not ours any more, saying meanwhile that it is. Who cannot say so for as long as a word lasts
    /// answers nobody until he can: another one may own the log by then.
    async fn attend(&self, word: &Standing, started: &Started) {
        let (mut status, mut stop) = (started.status.clone(), self.stop.clone());
        let (mut tick, mut said, mut answers) = (tokio::time::interval(self.lease / 3), Instant::now(), true);
        loop {
            let now = status.borrow_and_update().clone();
            let over = matches!(now, Status::Fenced { .. } | Status::Stopped);
            self.post.status.send_replace(if answers || over { now } else { Status::Recovering });
            if over {
                return;
            }
            tokio::select! {
                changed = status.changed() => if changed.is_err() {
                    return;
                },
                () = ended(&mut stop) => return,
                _ = tick.tick() => {
                    if self.say(word).await {
                        said = Instant::now();
                    }
                    if self.is_anothers(word).await {
                        tracing::warn!(role = self.role.name, "another process has claimed the log");
                        return;
                    }
                    let may = said.elapsed() < self.lease;
                    if may != std::mem::replace(&mut answers, may) {
                        tracing::warn!(role = self.role.name, answers, "whether others can be told that the log is owned here");
                        self.fill(may.then_some(started));
                    }
                }
            }
        }
    }

    /// Whether somebody with a later claim says that the log is his. Who cannot be asked has not claimed.
    async fn is_anothers(&self, word: &Standing) -> bool {
        let standing = self.journal.standing(self.settings.log);
        let there = tokio::time::timeout(self.lease / 3, standing).await;
        let there = there.ok().and_then(Result::ok).unwrap_or_default();
        there.iter().any(|other| other.process != word.process && other.term > word.term)
    }
}

/// Waits until the process ends.
async fn ended(stop: &mut watch::Receiver<bool>) {
    let _ = stop.wait_for(|stop| *stop).await; // an error is the end
}

#[cfg(test)]
mod tests {
    use holmes_kernel::ServiceId;

    use super::*;

    fn process(n: u8, term: u64) -> Standing {
        Standing { process: Id::from_bytes([n; 16]), term }
    }

    #[test]
    fn nobody_claims_what_is_owned_and_of_those_who_wait_each_log_picks_one() {
        let mut picked = [0; 3];
        for svc in 1..=60 {
            let log = LogId::new(1, ServiceId(svc));
            let there = [process(1, 0), process(2, 0), process(3, 0)];
            let claims = |there: &[Standing]| -> Vec<usize> {
                let mine = |n: &usize| turn(log, process(*n as u8 + 1, 0).process, there) == Turn::Claim;
                (0..3).filter(mine).collect()
            };
            let claim = claims(&there);
            assert_eq!(claim.len(), 1, "one of them, and only one");
            picked[claim[0]] += 1;
            assert!(claims(&[process(1, 0), process(2, 7), process(3, 0)]).iter().all(|n| *n == 1));
            // Who is alone claims; who was picked already keeps what he has when others come.
            assert_eq!(turn(log, process(9, 0).process, &[process(9, 0)]), Turn::Claim);
        }
        assert!(picked.iter().all(|count| *count > 5), "each has its share: {picked:?}");
    }
}

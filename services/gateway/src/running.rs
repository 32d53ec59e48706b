//! What runs under the gateway's leases: once a second scheduling hears the last countersigned checkpoint of every call
//! that runs, so that it is paid though this gateway dies; and says which leases will not be renewed, so that their calls
//! end while what they delivered can still be reported.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex};

use holmes_kernel::Time;
use holmes_proto::scheduling::v1::{CallLine, EndingLease, LeaseEnd, ReportRunningRequest, RunningLease};
use holmes_proto::statements::{LEASE_BYTES, lease_bytes, lease_text};
use tokio::sync::watch;
use tokio::time::MissedTickBehavior;

use crate::guarded;
use crate::settings::{Settings, ms};
use crate::upstream::{Upstream, request_id};

/// Leases of one report, and lines.
const MOST_LEASES: usize = 1_024;
const MOST_LINES: usize = 256;

type LeaseId = [u8; LEASE_BYTES];

/// That a lease ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Ends {
    /// Then at the latest; long ago where it has ended.
    pub(crate) at: Time,
    /// With its session: no other lease would serve the call.
    pub(crate) session_over: bool,
}

/// Hears when a lease ends. While one of them is there, the lease is held.
pub(crate) type Ending = watch::Receiver<Option<Ends>>;

/// The leases that are held, and what runs under them.
pub(crate) struct Running {
    upstream: Upstream,
    settings: Settings,
    held: Mutex<BTreeMap<LeaseId, Held>>,
}

struct Held {
    ends: watch::Sender<Option<Ends>>,
    /// What scheduling has not heard yet: one call at a time runs under a lease.
    line: Option<CallLine>,
}

impl Running {
    pub(crate) fn new(upstream: Upstream, settings: Settings) -> Running {
        Running { upstream, settings, held: Mutex::default() }
    }

    /// Holds a lease.
    pub(crate) fn hold(&self, lease: LeaseId) -> Ending {
        let (ends, ending) = watch::channel(None);
        guarded(&self.held).insert(lease, Held { ends, line: None });
        ending
    }

    /// A call has come to this: a countersigned line, or none when the call is over.
    pub(crate) fn came_to(&self, lease: LeaseId, line: Option<CallLine>) {
        if let Some(held) = guarded(&self.held).get_mut(&lease) {
            held.line = line;
        }
    }

    /// Reports again and again.
    pub(crate) async fn attend(self: Arc<Self>) {
        let mut tick = tokio::time::interval(ms(self.settings.running_ms));
        tick.set_missed_tick_behavior(MissedTickBehavior::Delay); // at most so often
        loop {
            tick.tick().await;
            for leases in self.news() {
                self.report(leases).await;
            }
        }
    }

    /// What is to be reported, in as many reports as it takes. What nobody holds any more is forgotten.
    fn news(&self) -> Vec<Vec<(LeaseId, Option<CallLine>)>> {
        let mut held = guarded(&self.held);
        held.retain(|_, held| !held.ends.is_closed());
        let (mut reports, mut lines) = (Vec::<Vec<_>>::new(), 0);
        for (id, held) in held.iter_mut() {
            let line = held.line.take();
            if lines >= MOST_LINES || reports.last().is_none_or(|last| last.len() >= MOST_LEASES) {
                reports.push(Vec::new());
                lines = 0;
            }
            lines += usize::from(line.is_some());
            reports.last_mut().into_iter().for_each(|last| last.push((*id, line.clone())));
        }
        reports
    }

    async fn report(&self, leases: Vec<(LeaseId, Option<CallLine>)>) {
        let running = |(id, line): &(LeaseId, Option<CallLine>)| RunningLease {
            lease_id: lease_text(id),
            lines: line.iter().cloned().collect(),
        };
        let request =
            ReportRunningRequest { request_id: request_id(), leases: leases.iter().map(running).collect() };
        let mut scheduling = self.upstream.scheduling();
        match self.upstream.once(scheduling.report_running(request)).await {
            Ok(answer) => answer.ending.iter().for_each(|ending| self.ends(ending)),
            Err(why) => {
                tracing::warn!(%why, "scheduling has not heard what runs: it is told again");
                self.put_back(leases);
            }
        }
    }

    fn put_back(&self, leases: Vec<(LeaseId, Option<CallLine>)>) {
        let mut held = guarded(&self.held);
        for (id, line) in leases {
            if let Some(held) = held.get_mut(&id).filter(|held| held.line.is_none()) {
                held.line = line; // where the call has ended meanwhile, its own line counts
            }
        }
    }

    fn ends(&self, ending: &EndingLease) {
        let held = guarded(&self.held);
        if let Some(held) = lease_bytes(&ending.lease_id).and_then(|id| held.get(&id)) {
            let session_over = ending.reason() == LeaseEnd::SessionClosed;
            let ends = Some(Ends { at: Time::from_micros(ending.ends_at_us), session_over });
            held.ends.send_if_modified(|known| *known != ends && std::mem::replace(known, ends) != ends);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use holmes_runtime::Peer;

    fn running() -> Running {
        let peer = Peer::here(tonic::service::Routes::default(), holmes_kernel::Principal::SYSTEM);
        Running::new(Upstream::new(peer, &Settings::default()), Settings::default())
    }

    fn lease(n: u32) -> LeaseId {
        let mut id = [0; LEASE_BYTES];
        id[16..].copy_from_slice(&n.to_be_bytes());
        id
    }

    #[test]
    fn reports_have_so_many_leases_and_lines_and_what_nobody_holds_is_left_out() {
        let running = running();
        let held: Vec<Ending> = (0..2_000).map(|n| running.hold(lease(n))).collect();
        drop(running.hold(lease(9_999)));
        let sizes = |running: &Running| running.news().iter().map(Vec::len).collect::<Vec<_>>();
        assert_eq!(sizes(&running), [1_024, 976]);
        (0..600).for_each(|n| running.came_to(lease(n), Some(CallLine::default())));
        assert_eq!(sizes(&running), [256, 256, 1_024, 464]);
        assert_eq!(sizes(&running), [1_024, 976], "a line is told once");
        drop(held);
        assert!(sizes(&running).is_empty());
    }

    #[test]
    fn what_scheduling_has_not_heard_is_told_again_unless_there_is_something_newer() {
        let running = running();
        let _held = [running.hold(lease(1)), running.hold(lease(2))];
        let line = |tokens| Some(CallLine { output_tokens: tokens, ..CallLine::default() });
        running.came_to(lease(1), line(1));
        running.came_to(lease(2), line(1));
        let news = running.news().remove(0);
        running.came_to(lease(2), line(2));
        running.put_back(news);
        assert_eq!(running.news(), [[(lease(1), line(1)), (lease(2), line(2))]]);
    }
}

//! What a gateway does by itself: it says that it is there, reports which nodes are, and tidies up.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use holmes_proto::scheduling::v1::{DetachReason, ReportPresenceRequest, StartGatewayRequest};
use tokio::sync::watch;
use tokio::time::Instant;

use crate::presence::Beats;
use crate::settings::ms;
use crate::upstream::{may_change, request_id};
use crate::{Edge, Started, guarded};

/// How often the gateway looks around.
const TICK: Duration = Duration::from_millis(250);
/// The longest pause before scheduling is told again that the gateway starts.
const LONGEST_PAUSE: Duration = Duration::from_secs(5);
/// Scheduling's reason when it has not heard of the gateway for too long: it has to start anew.
const GATEWAY_UNKNOWN: &str = "GATEWAY_UNKNOWN";

/// Runs until `stop` says so and what is in progress has ended.
pub(crate) async fn run(edge: Arc<Edge>, mut stop: watch::Receiver<bool>) {
    let running = tokio::spawn(edge.running.clone().attend());
    tokio::select! {
        () = attend(&edge) => {}
        _ = stop.wait_for(|stop| *stop) => {}
    }
    drain(&edge).await;
    running.abort();
}

async fn attend(edge: &Arc<Edge>) {
    loop {
        let started = begin(edge).await;
        let mut reporter = Reporter::new(edge, &started);
        edge.started.send_replace(Some(started));
        let _ = edge.models.all().await; // so that what nobody serves is shown too; a renter asks again
        let mut tick = tokio::time::interval(TICK);
        loop {
            tick.tick().await;
            edge.leases.end_idle();
            if !reporter.look(edge).await {
                break; // scheduling has given us up: everything attached to us is not any more
            }
        }
        edge.started.send_replace(None);
        edge.nodes.all().iter().for_each(|node| node.end(DetachReason::GatewayRestarted));
    }
}

/// Tells scheduling that the gateway starts, until it has heard.
async fn begin(edge: &Edge) -> Started {
    let mut pause = TICK;
    loop {
        let request = StartGatewayRequest {
            request_id: request_id(),
            public_key: edge.key.verifying_key().to_bytes().to_vec().into(),
        };
        let mut scheduling = edge.upstream.scheduling();
        match edge.upstream.once(scheduling.start_gateway(request)).await {
            Ok(answer) => {
                tracing::info!(gateway = %edge.id, "scheduling knows the gateway");
                return Started { beats: Beats::of(&answer), answer };
            }
            Err(why) => tracing::warn!(gateway = %edge.id, %why, "scheduling does not know the gateway yet"),
        }
        tokio::time::sleep(pause).await;
        pause = (pause * 2).min(LONGEST_PAUSE);
    }
}

/// When presence is reported.
struct Reporter {
    beats: Beats,
    every: Duration,
    last: Instant,
    epoch: Option<u64>,
}

impl Reporter {
    fn new(edge: &Edge, started: &Started) -> Reporter {
        let beats = started.beats.beat_ms().saturating_mul(edge.settings.report_beats);
        // Scheduling must hear of us: three times before it gives us up.
        let most = (started.answer.gateway_timeout_ms / 3).max(1);
        Reporter { beats: started.beats, every: ms(beats.min(most)), last: Instant::now(), epoch: None }
    }

    /// Reports what is due; `false` when scheduling does not know us any more.
    async fn look(&mut self, edge: &Arc<Edge>) -> bool {
        let now = self.beats.at(edge.clock.now());
        let epoch = now.map(|(epoch, _)| epoch);
        let turned = self.epoch.is_some() && epoch != self.epoch;
        self.epoch = epoch;
        if !turned && self.last.elapsed() < self.every {
            return true;
        }
        self.last = Instant::now();
        let requests = guarded(&edge.marks).take();
        if !requests.is_empty() && edge.report_presence(requests).await {
            return true;
        }
        let (epoch, first_beat) = now.unwrap_or_default();
        let there = ReportPresenceRequest {
            request_id: request_id(),
            epoch,
            first_beat,
            beats: 0,
            nodes: Vec::new(),
        };
        let mut scheduling = edge.upstream.scheduling();
        match edge.upstream.once(scheduling.report_presence(there)).await {
            Ok(_) => true,
            Err(why) => {
                tracing::warn!(gateway = %edge.id, %why, "scheduling did not take in that the gateway is there");
                why.reason != GATEWAY_UNKNOWN
            }
        }
    }
}

impl Edge {
    /// Reports which nodes were there; whether something was recorded. What has no definite answer is reported again
    /// next time.
    pub(crate) async fn report_presence(&self, requests: Vec<ReportPresenceRequest>) -> bool {
        let mut recorded = false;
        for request in requests {
            let mut scheduling = self.upstream.scheduling();
            match self.upstream.once(scheduling.report_presence(request.clone())).await {
                Ok(_) => recorded = true,
                Err(why) if may_change(&why) => guarded(&self.marks).put_back(&request),
                Err(why) => tracing::warn!(epoch = request.epoch, %why, "presence was not recorded"),
            }
        }
        recorded
    }
}

/// Lets calls in progress end; those that take too long end where they are, and what their nodes have signed for is
/// reported. Then gives back what is held.
async fn drain(edge: &Arc<Edge>) {
    edge.draining.store(true, Ordering::Relaxed);
    tracing::info!(
        calls = edge.limits.running(),
        drain_ms = edge.settings.drain_ms,
        "no call begins any more; those in progress may end"
    );
    edge.nodes.all().iter().for_each(|node| node.drain());
    rest(edge, edge.settings.drain_ms).await;
    let cut = edge.limits.running();
    edge.over.send_replace(true);
    rest(edge, edge.settings.report_for_ms).await;
    tracing::info!(
        cut,
        unreported = edge.reports.pending(),
        "the calls in progress have ended, or were cut where they were"
    );
    let last = guarded(&edge.marks).take();
    edge.report_presence(last).await;
    edge.leases.end_all().await;
    left(edge).await;
    edge.nodes.all().iter().for_each(|node| node.end(DetachReason::StreamLost));
}

/// How long the nodes may take to leave by themselves when their calls have ended: until then they hear what became of
/// their last receipts.
const LEAVE_WITHIN: Duration = Duration::from_secs(2);

/// Waits until the nodes, which were told to, have left.
async fn left(edge: &Edge) {
    let until = Instant::now() + LEAVE_WITHIN;
    while edge.nodes.count() > 0 && Instant::now() < until {
        tokio::time::sleep(ms(20)).await;
    }
}

/// Waits until no call is in progress and nothing is on its way into scheduling's log, at most so long.
async fn rest(edge: &Edge, most_ms: u64) {
    let until = Instant::now() + ms(most_ms);
    while (edge.limits.running() > 0 || !edge.reports.is_idle()) && Instant::now() < until {
        tokio::time::sleep(ms(20)).await;
    }
}

//! The part of a gateway and of its nodes, played: who is attached, which beats were seen. The calls are those that a
//! gateway makes; what it delivers is in `ask`. The gateway itself draws its ids and questions from the system's
//! randomness, and lives on the runtime's clock: with it no two runs would give the same bytes.

use std::collections::BTreeMap;
use std::time::Duration;

use anyhow::{Context as _, Result, anyhow};
use ed25519_dalek::Signer as _;
use holmes_kernel::Time;
use holmes_proto::scheduling::v1::{
    AttachRequest, AttachResponse, Capabilities, DetachReason, DetachRequest, DetachResponse, NodeBeats,
    ReportPresenceRequest, ReportPresenceResponse, ServedModel, StartGatewayRequest, StartGatewayResponse,
};
use holmes_proto::statements;
use prost_reflect::prost::Message as _;

use super::cast::{GATEWAY, derived};
use super::cluster::{CELL, Refused};
use super::engine::Engine;
use super::file::Presence;
use super::world::World;
use crate::models::OWN_MODEL;

/// Most beats of one report.
const MOST_BEATS: u32 = 1_024;
/// Epochs that pass without a word of how far it is.
const MOST_EPOCHS_AT_ONCE: u64 = 1_000;
/// The context of a node where nothing answers.
const CONTEXT: u32 = 2_048;

/// What the gateway knows.
#[derive(Default)]
pub(super) struct Desk {
    /// What scheduling has said when it started; nothing while it is silent.
    started: Option<StartGatewayResponse>,
    /// Nodes that are attached, and since which beat.
    attached: BTreeMap<String, Attached>,
    /// When it was heard last.
    heard: Time,
    /// The first beat that is not reported.
    next: (u64, u32),
    /// How often something was attached, for questions that never repeat.
    questions: u64,
    /// Sessions, by who pays in what.
    pub sessions: BTreeMap<(String, String), String>,
}

/// A node that is attached.
#[derive(Clone, Copy)]
struct Attached {
    generation: u64,
    since: (u64, u32),
}

impl Desk {
    /// How long the gateway may be silent: a good part of what scheduling allows.
    fn patience_us(&self) -> u64 {
        self.started.as_ref().map_or(u64::MAX, |said| said.gateway_timeout_ms.saturating_mul(1_000) / 3 * 2)
    }

    /// How many beats an epoch has.
    fn beats(&self) -> u32 {
        self.started.as_ref().map_or(0, |said| (said.epoch_s / said.beat_s.max(1)) as u32)
    }
}

impl World<'_> {
    /// Tells scheduling that the gateway is there.
    pub(super) async fn start_gateway(&mut self) -> Result<()> {
        let request_id = self.fresh().to_string();
        let public_key = self.party(GATEWAY)?.public().to_vec().into();
        let started: Result<StartGatewayResponse, Refused> =
            self.gateway("Scheduling/StartGateway", &StartGatewayRequest { request_id, public_key }).await?;
        self.desk.started = Some(must(started, "the gateway cannot start")?);
        self.desk.attached.clear();
        self.desk.heard = self.cluster.now();
        self.desk.next = self.beat();
        Ok(())
    }

    /// The gateway falls silent.
    pub(super) fn stop_gateway(&mut self) {
        self.desk.started = None;
        self.desk.attached.clear();
    }

    /// The epoch and the beat of now.
    fn beat(&self) -> (u64, u32) {
        let (calendar, now) = (self.plan.calendar, self.cluster.now());
        let epoch = calendar.epoch(now);
        let since = now.millis().saturating_sub(calendar.begins(epoch).millis());
        let beat_s = self.desk.started.as_ref().map_or(1, |said| said.beat_s.max(1));
        (epoch, (since / 1_000 / beat_s) as u32)
    }

    /// A node opens its stream, and signs what it offers.
    pub(super) async fn attach(&mut self, name: &str) -> Result<()> {
        let of = self.plan.nodes.get(name).with_context(|| format!("no node is called {name}"))?.clone();
        if self.desk.started.is_none() {
            self.start_gateway().await?;
        }
        let context = self.engine.as_ref().map_or(CONTEXT, Engine::context);
        let digest = derived::<32>(0, "weights", OWN_MODEL).to_vec().into();
        let model = ServedModel { name: OWN_MODEL.into(), digest, context };
        let offer = Capabilities {
            models: vec![model],
            slots: of.slots,
            hardware: of.hardware.clone(),
            region: String::new(),
            software: "scenario".into(),
        };
        let capabilities = offer.encode_to_vec();
        self.desk.questions += 1;
        let question = format!("{name} {}", self.desk.questions);
        let nonce: [u8; 16] = derived(self.plan.cast.seed(), "question", &question);
        let gateway = self.party(GATEWAY)?.id().to_bytes();
        let said = statements::attach(&self.cluster.network.genesis, CELL, &gateway, &nonce, &capabilities);
        let node = self.party(name)?;
        let request = AttachRequest {
            request_id: String::new(),
            node_id: node.id().to_string(),
            capabilities: capabilities.into(),
            nonce: nonce.to_vec().into(),
            signature: node.key.sign(&said).to_bytes().to_vec().into(),
        };
        let attached: Result<AttachResponse, Refused> = self.gateway("Scheduling/Attach", &request).await?;
        let generation = must(attached, &format!("{name} was not taken"))?.generation;
        let since = self.beat();
        self.desk.attached.insert(name.to_owned(), Attached { generation, since });
        Ok(())
    }

    /// A node's stream breaks.
    pub(super) async fn lose(&mut self, name: &str) -> Result<()> {
        self.report_presence().await?;
        let attached = self.desk.attached.remove(name);
        let attached = attached.with_context(|| format!("{name} is not attached: it cannot be lost"))?;
        let request = DetachRequest {
            request_id: String::new(),
            node_id: self.party(name)?.id().to_string(),
            generation: attached.generation,
            reason: DetachReason::StreamLost.into(),
        };
        let lost: Result<DetachResponse, Refused> = self.gateway("Scheduling/Detach", &request).await?;
        must(lost, &format!("{name} cannot be lost")).map(drop)
    }

    /// Lets time pass up to so long after the start, while the gateway reports who is there.
    pub(super) async fn advance_to(&mut self, after: Duration) -> Result<()> {
        let target =
            self.plan.start.micros().saturating_add(u64::try_from(after.as_micros()).unwrap_or(u64::MAX));
        while self.cluster.now().micros() < target {
            let now = self.cluster.now().micros();
            // Where nobody reports, in parts all the same: so that it can be told how far it is.
            let part = now + MOST_EPOCHS_AT_ONCE * self.plan.calendar.epoch_s() * 1_000_000;
            let next = self.next_report().unwrap_or(part).clamp(now + 1, target);
            self.cluster.advance(Duration::from_micros(next - now));
            self.report_if_due().await?;
            self.teller.goes_on(self.after());
        }
        Ok(())
    }

    /// How long after the start it is.
    pub(super) fn after(&self) -> Duration {
        Duration::from_micros(self.cluster.now().micros().saturating_sub(self.plan.start.micros()))
    }

    /// When the gateway says something next, microseconds.
    fn next_report(&self) -> Option<u64> {
        self.desk.started.as_ref()?;
        let ends = self.plan.calendar.ends(self.desk.next.0).micros();
        Some(match self.plan.presence {
            Presence::Always => ends.min(self.desk.heard.micros().saturating_add(self.desk.patience_us())),
            Presence::OnceAnEpoch => ends,
        })
    }

    async fn report_if_due(&mut self) -> Result<()> {
        let (now, turned) = (self.cluster.now(), self.beat().0 > self.desk.next.0);
        let late = now.micros().saturating_sub(self.desk.heard.micros()) >= self.desk.patience_us();
        match self.plan.presence {
            _ if self.desk.started.is_none() => Ok(()),
            Presence::Always if turned || late => self.report_presence().await,
            Presence::OnceAnEpoch if turned => self.report_epoch().await,
            Presence::Always | Presence::OnceAnEpoch => Ok(()),
        }
    }

    /// Attaches every node anew and reports the whole epoch that has just ended: what years can be played with.
    async fn report_epoch(&mut self) -> Result<()> {
        let (from, nodes) = (self.desk.next.0, self.desk.attached.keys().cloned().collect::<Vec<_>>());
        self.start_gateway().await?;
        for name in &nodes {
            self.attach(name).await?;
        }
        self.desk.attached.values_mut().for_each(|attached| attached.since = (from, 0));
        self.desk.next = (from, 0);
        self.report_presence().await
    }

    /// Reports every beat up to now of nodes that are attached.
    pub(super) async fn report_presence(&mut self) -> Result<()> {
        if self.desk.started.is_none() {
            return Ok(());
        }
        let now = self.beat();
        while self.desk.next.0 < now.0 {
            let (epoch, first) = self.desk.next;
            self.report_beats(epoch, first, self.desk.beats()).await?;
            self.desk.next = (epoch + 1, 0);
        }
        let (epoch, first) = self.desk.next;
        self.report_beats(epoch, first, now.1 + 1).await?;
        self.desk.next = (epoch, now.1 + 1);
        self.desk.heard = self.cluster.now();
        Ok(())
    }

    /// Reports the beats of an epoch from `first` on, up to `end` and without it.
    async fn report_beats(&mut self, epoch: u64, mut first: u32, end: u32) -> Result<()> {
        loop {
            let beats = end.saturating_sub(first).min(MOST_BEATS);
            let seen = |attached: &Attached| {
                let from = if attached.since.0 < epoch { 0 } else { attached.since.1 };
                bitmap(first, beats, from)
            };
            let mut nodes = Vec::new();
            for (name, attached) in
                self.desk.attached.iter().filter(|(_, of)| beats > 0 && of.since.0 <= epoch)
            {
                nodes.push(NodeBeats {
                    node_id: self.party(name)?.id().to_string(),
                    bitmap: seen(attached).into(),
                });
            }
            let beats = if nodes.is_empty() { 0 } else { beats };
            let request =
                ReportPresenceRequest { request_id: String::new(), epoch, first_beat: first, beats, nodes };
            let told: Result<ReportPresenceResponse, Refused> =
                self.gateway("Scheduling/ReportPresence", &request).await?;
            match told {
                Ok(_) => {}
                // It was silent for too long, or never started: the scenario wants it so.
                Err(refused) if refused.reason == "GATEWAY_UNKNOWN" => self.stop_gateway(),
                // The epoch is sealed: what was seen in it is not counted.
                Err(refused) if refused.reason == "EPOCH_NOT_RUNNING" => return Ok(()),
                Err(refused) => return Err(anyhow!("presence was refused: {}", refused.message)),
            }
            first += MOST_BEATS.min(end.saturating_sub(first));
            if first >= end {
                return Ok(());
            }
        }
    }
}

/// What must have been answered.
pub(super) fn must<T>(answer: Result<T, Refused>, what: &str) -> Result<T> {
    answer.map_err(|refused| anyhow!("{what}: {}: {}", refused.reason, refused.message))
}

/// Beats from `first` on, seen from beat `from` on.
fn bitmap(first: u32, beats: u32, from: u32) -> Vec<u8> {
    let mut bytes = vec![0u8; beats.div_ceil(8) as usize];
    for beat in from.saturating_sub(first)..beats {
        bytes[(beat / 8) as usize] |= 1 << (beat % 8);
    }
    bytes
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_node_was_seen_from_the_beat_on_in_which_it_attached() {
        assert_eq!(bitmap(0, 10, 0), [0xff, 0b11]);
        assert_eq!(bitmap(0, 10, 9), [0, 0b10]);
        assert_eq!(bitmap(8, 4, 10), [0b1100]);
        assert_eq!(bitmap(8, 4, 40), [0]);
    }
}

//! One step after the other, each at its time; then the end.

use std::time::Duration;

use anyhow::{Context as _, Result, bail};
use holmes_runtime::config::Config;
use serde_json::{Value as Json, json};

use super::check::{Deed, Plan, Planned, What};
use super::cluster::Cluster;
use super::engine::Engine;
use super::expect;
use super::tell::{Came, Outcome, Teller};
use super::world::World;

/// How a scenario ended.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Verdict {
    /// What was looked at: expectations of steps and of the end, invariants, agreements.
    pub expectations: usize,
    /// Those that did not hold.
    pub failed: usize,
}

impl Verdict {
    pub(super) fn holds(self) -> bool {
        self.failed == 0
    }

    /// Takes note of what was looked at, and of what of it was wrong.
    pub(super) fn looked(&mut self, at: usize, wrong: usize) {
        self.expectations += at;
        self.failed += wrong;
    }
}

/// Plays a scenario to its end.
pub(super) async fn play(mut plan: Plan, config: &Config, teller: &mut Teller) -> Result<Verdict> {
    let engine = plan.engine.map(|kind| Engine::open(kind, config)).transpose()?;
    teller.begins(&plan)?;
    let cluster = Cluster::open(&mut plan)?;
    let steps = plan.steps.clone();
    let mut world = World::new(plan, cluster, engine, teller);
    world.set().await.context("before the first step")?;
    let mut verdict = Verdict::default();
    for step in &steps {
        world
            .step(step, &mut verdict)
            .await
            .with_context(|| format!("step {}, line {}", step.number, step.line))?;
    }
    world.close(&mut verdict).await?;
    Ok(verdict)
}

impl World<'_> {
    async fn step(&mut self, step: &Planned, verdict: &mut Verdict) -> Result<()> {
        let mut at = step.at.unwrap_or_else(|| self.after());
        for turn in 1..=step.repeat {
            self.advance_to(at).await?;
            at += step.every;
            let after = self.after();
            let (who, what, came) = self.comes(step, turn).await?;
            let (wrong, looked) = self.wrong(step, &came, turn);
            verdict.looked(looked, wrong.len());
            let turn = (turn, step.repeat);
            let number = step.number;
            self.teller.step(&Outcome { number, turn, after, who, what, came, wrong })?;
        }
        Ok(())
    }

    /// What comes of a step.
    async fn comes<'s>(&mut self, step: &'s Planned, turn: u64) -> Result<(Option<&'s str>, String, Came)> {
        match &step.what {
            What::Do(deed) => {
                let came = match self.deed(deed).await {
                    Ok(()) => Came::Done,
                    Err(why) => Came::NotReached(format!("{why:#}")),
                };
                Ok((None, deed_text(deed), came))
            }
            What::Call { who, by, method, with } => {
                let what = format!("{}/{}", method.parent_service().name(), method.name());
                let with = match self.expanded(with, turn) {
                    Ok(with) => with,
                    Err(why) => return Ok((Some(who), what, Came::NotReached(why))),
                };
                let answer = self.call(who, *by, method, with).await?;
                Ok((Some(who), what, self.keep(step, answer)))
            }
            What::Ask { who, ask, lasts } => {
                let what = format!("asks {}", ask.model);
                let prompt = match self.expanded(&Json::String(ask.prompt.clone()), turn) {
                    Ok(Json::String(prompt)) => prompt,
                    Ok(other) => other.to_string(),
                    Err(why) => return Ok((Some(who), what, Came::NotReached(why))),
                };
                let answer = self.ask(who, ask, prompt, *lasts).await?;
                Ok((Some(who), what, self.keep(step, answer)))
            }
        }
    }

    fn keep(&mut self, step: &Planned, answer: Result<Json, super::cluster::Refused>) -> Came {
        match answer {
            Ok(reply) => {
                if let Some(name) = &step.save {
                    self.saved.insert(name.clone(), reply.clone());
                }
                Came::Reply(reply)
            }
            Err(refused) => Came::Refused(refused),
        }
    }

    /// What of it is not as expected, and how much was looked at.
    fn wrong(&mut self, step: &Planned, came: &Came, turn: u64) -> (Vec<Json>, usize) {
        let one =
            |path: &str, wanted: Json, got: Json| vec![expect::difference(step.line, path, &wanted, &got)];
        let wrong = match (came, &step.refused) {
            (Came::Done, _) => return (Vec::new(), 0),
            (Came::NotReached(why), _) => one("the step", "to be reached".into(), why.as_str().into()),
            (Came::Refused(refused), Some(reason)) if refused.reason == *reason => Vec::new(),
            (Came::Refused(refused), Some(reason)) => {
                one("refused", reason.as_str().into(), refused.reason.as_str().into())
            }
            (Came::Refused(refused), None) => {
                let got = format!("refused: {}: {}", refused.reason, refused.message);
                one("the reply", "an answer".into(), got.into())
            }
            (Came::Reply(reply), Some(reason)) => one("refused", reason.as_str().into(), reply.clone()),
            (Came::Reply(reply), None) => match &step.expect {
                None => Vec::new(),
                Some(wanted) => match self.expanded(wanted, turn) {
                    Ok(wanted) => expect::differences(&wanted, reply, step.line),
                    Err(why) => one("the expectation", json!("what it refers to"), why.into()),
                },
            },
        };
        (wrong, 1)
    }

    async fn deed(&mut self, deed: &Deed) -> Result<()> {
        match deed {
            Deed::Restart(which) => {
                let is_one = |name: &str| which.as_deref().is_none_or(|wanted| wanted == name);
                let changed = self.cluster.rig.restart_where(is_one)?;
                self.cluster.rig.settle();
                if !changed.is_empty() {
                    bail!("rebuilt from their logs, these have other states: {}", changed.join(", "));
                }
                Ok(())
            }
            Deed::Advance(by) => {
                let to = self.after() + *by;
                self.advance_to(round(to)).await
            }
            Deed::Lose(node) => self.lose(node).await,
            Deed::Attach(node) => self.attach(node).await,
            Deed::StopGateway => {
                self.stop_gateway();
                Ok(())
            }
            Deed::StartGateway => self.start_gateway().await,
        }
    }
}

/// Down to whole milliseconds: what was heard on the way has moved the clock by microseconds.
fn round(after: Duration) -> Duration {
    Duration::from_millis(u64::try_from(after.as_millis()).unwrap_or(u64::MAX))
}

fn deed_text(deed: &Deed) -> String {
    match deed {
        Deed::Restart(None) => "restart".into(),
        Deed::Restart(Some(service)) => format!("restart {service}"),
        Deed::Advance(by) => format!("advance {}", super::moment::shown(*by)),
        Deed::Lose(node) => format!("lose {node}"),
        Deed::Attach(node) => format!("attach {node}"),
        Deed::StopGateway => "stop gateway".into(),
        Deed::StartGateway => "start gateway".into(),
    }
}

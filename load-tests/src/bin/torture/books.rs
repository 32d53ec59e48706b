//! What callers were told, held against what the logs say.

use std::collections::BTreeMap;
use std::time::Duration;

use anyhow::{Context as _, Result, bail, ensure};
use holmes_kernel::Id;

use crate::load::{Order, Payer, connect};
use crate::logs::{Heads, Logs};
use crate::server::Server;
use crate::world::{Verified, World};

/// How long a repeated request may take.
const DEADLINE: Duration = Duration::from_secs(20);
/// Answered requests that are asked again after each restart.
const ASKED_AGAIN: usize = 8;
/// Most transfers that are one command, and so there whole or not at all.
const ONE_COMMAND: usize = holmes_ledger::params::MOST_TRANSFERS_PER_COMMAND;

/// Everything that was asked in a world.
#[derive(Default)]
pub(crate) struct Books {
    orders: Vec<Order>,
    heads: Heads,
    counts: Counts,
}

/// What was counted.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Counts(pub(crate) BTreeMap<String, u64>);

impl Counts {
    pub(crate) fn add(&mut self, what: &str, n: u64) {
        *self.0.entry(what.to_owned()).or_default() += n;
    }

    /// Takes another's over.
    pub(crate) fn merge(&mut self, other: Counts) {
        for (what, n) in other.0 {
            self.add(&what, n);
        }
    }
}

impl Books {
    pub(crate) fn note(&mut self, orders: Vec<Order>) {
        for order in &orders {
            match &order.answer {
                Some(_) => self.counts.add("acknowledged transfers", order.transfers.len() as u64),
                None => self.counts.add("requests unanswered at first", 1),
            }
        }
        self.orders.extend(orders);
    }

    /// What was counted since this was last asked.
    pub(crate) fn counted(&mut self) -> Counts {
        std::mem::take(&mut self.counts)
    }

    /// Asks every unanswered request again, all or some of them, and some answered ones: those must be answered as before.
    pub(crate) async fn ask_again(
        &mut self,
        server: &Server,
        payer: &Payer,
        dice: &mut fastrand::Rng,
        share: f64,
    ) -> Result<()> {
        let mut client = connect(server).await?;
        for order in self.orders.iter_mut().filter(|order| order.answer.is_none()) {
            if dice.f64() >= share {
                continue;
            }
            // The server may be killed meanwhile: then it stays unanswered.
            if payer.ask(&mut client, order, DEADLINE).await? {
                self.counts.add("answered when asked again", 1);
            }
        }
        let all = self.orders.len();
        for _ in 0..ASKED_AGAIN.min(all) {
            let order = &mut self.orders[dice.usize(..all)];
            if order.answer.is_some() && payer.ask(&mut client, order, DEADLINE).await? {
                self.counts.add("repeated answers compared", 1);
            }
        }
        Ok(())
    }

    /// Nothing is unanswered any more.
    pub(crate) fn all_answered(&self) -> Result<()> {
        let open = self.orders.iter().find(|order| order.answer.is_none());
        match open.and_then(|order| order.why_not.as_ref()) {
            Some(why) => bail!("a request stays unanswered though the server serves: {why}"),
            None => Ok(()),
        }
    }

    /// With no process in the world: chains, digests, invariants and conservation by `holmes verify`, then every answer
    /// against the ledger's log. Answers what `verify` said.
    pub(crate) fn check(&mut self, world: &World) -> Result<(Vec<Verified>, Logs)> {
        let verified = world.verify()?;
        let logs = world.logs()?;
        logs.extend(&self.heads)?;
        self.heads = logs.heads();
        let recorded = logs.recorded()?;
        for order in &self.orders {
            once(order, &recorded.happened).with_context(|| format!("request {}", order.request))?;
        }
        for (request, times) in &recorded.requests {
            ensure!(*times == 1, "request {request} stands in the log {times} times");
        }
        for (id, times) in &recorded.happened {
            ensure!(*times == 1, "transfer {id} happened {times} times");
        }
        self.counts.add("checks of every log", 1);
        Ok((verified, logs))
    }

    /// That so much arrived as the log says happened, when every log was just checked.
    pub(crate) fn balances(&self, logs: &Logs, arrived: u64) -> Result<()> {
        let ours: u64 = self.orders.iter().map(|order| order.transfers.len() as u64).sum();
        let happened = logs.recorded()?.happened;
        let mine = self.orders.iter().flat_map(|order| &order.transfers);
        let there = mine.filter(|id| happened.contains_key(id)).count() as u64;
        ensure!(there == arrived, "{arrived} units arrived, and {there} of {ours} transfers happened");
        Ok(())
    }
}

/// An acknowledged request is there, once; another is there once or not at all, and never in part unless it is several
/// commands.
fn once(order: &Order, happened: &BTreeMap<Id, u64>) -> Result<()> {
    let times = |id: &Id| happened.get(id).copied().unwrap_or_default();
    let there = order.transfers.iter().filter(|id| times(id) > 0).count();
    if order.answer.is_some() {
        let gone = order.transfers.iter().find(|id| times(id) == 0);
        ensure!(gone.is_none(), "it was acknowledged, and its transfer {gone:?} is not in the log");
    }
    let one_command = order.transfers.len() <= ONE_COMMAND;
    ensure!(
        !one_command || there == 0 || there == order.transfers.len(),
        "{there} of its {} transfers are in the log",
        order.transfers.len()
    );
    Ok(())
}

//! What callers were told, held against what the logs say.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, bail, ensure};
use holmes_kernel::Id;

use crate::errand::Errand;
use crate::load::{Asked, connect, market};
use crate::logs::{Heads, Logs, Recorded};
use crate::order::{Move, Order, Payer};
use crate::server::{PATIENCE, Server};
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
    errands: Vec<Errand>,
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
    pub(crate) fn note(&mut self, asked: Asked) {
        for order in &asked.orders {
            match &order.answer {
                Some(_) => order.transfers.iter().for_each(|transfer| self.counts.add(transfer.name(), 1)),
                None => self.counts.add("requests unanswered at first", 1),
            }
        }
        for errand in &asked.errands {
            let what = if errand.is_answered() { "sessions opened and closed" } else { "sessions cut short" };
            self.counts.add(what, 1);
        }
        self.orders.extend(asked.orders);
        self.errands.extend(asked.errands);
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
        if payer.has_market { self.errands_again(server, payer, dice, share).await } else { Ok(()) }
    }

    /// The same of the sessions.
    async fn errands_again(
        &mut self,
        server: &Server,
        payer: &Payer,
        dice: &mut fastrand::Rng,
        share: f64,
    ) -> Result<()> {
        let mut client = market(server).await?;
        for errand in self.errands.iter_mut().filter(|errand| !errand.is_answered()) {
            if dice.f64() < share && errand.go_on(payer, &mut client, DEADLINE).await? {
                self.counts.add("sessions closed when asked again", 1);
            }
        }
        if let Some(errand) = dice.choice(self.errands.iter_mut())
            && errand.open.is_answered
            && errand.ask_to_open(payer, &mut client, DEADLINE).await?
        {
            self.counts.add("repeated answers compared", 1);
        }
        Ok(())
    }

    /// Every session that was closed comes to its end: what crossed between market and ledger has arrived, whatever died on
    /// the way.
    pub(crate) async fn all_over(&mut self, server: &Server, payer: &Payer) -> Result<()> {
        if !payer.has_market {
            return Ok(());
        }
        let mut client = market(server).await?;
        let end = Instant::now() + PATIENCE;
        for errand in self.errands.iter_mut().filter(|errand| errand.is_answered()) {
            while !errand.is_over {
                errand.look(payer, &mut client, DEADLINE).await?;
                let late = Instant::now() > end;
                ensure!(errand.is_over || !late, "session {:?} was closed, and does not end", errand.session);
                tokio::time::sleep(Duration::from_millis(if errand.is_over { 0 } else { 20 })).await;
            }
            self.counts.add("sessions seen through to their end", 1);
        }
        Ok(())
    }

    /// Nothing is unanswered any more.
    pub(crate) fn all_answered(&self) -> Result<()> {
        let order = self.orders.iter().find(|order| order.answer.is_none());
        let errand = self.errands.iter().find(|errand| !errand.is_answered());
        let why = order.and_then(|order| order.why_not.as_ref());
        match why.or_else(|| errand.and_then(Errand::why_not)) {
            Some(why) => bail!("a request stays unanswered though the server serves: {why}"),
            None => Ok(()),
        }
    }

    /// With no process in the world: chains, digests, invariants and conservation by `holmes verify`, then every answer
    /// against the logs. Answers what `verify` said.
    pub(crate) fn check(&mut self, world: &World) -> Result<(Vec<Verified>, Logs)> {
        let (verified, logs) = self.holds(world)?;
        self.heads = logs.heads();
        self.counts.add("checks of every log", 1);
        for row in verified.iter().filter(|row| row.is_log()) {
            let with = if row.has_snapshot() { "with" } else { "without" };
            self.counts.add(&format!("logs verified {with} a snapshot"), 1);
        }
        if verified.iter().any(|row| row.service == "ledger" && row.has_snapshot()) {
            self.counts.add("ledgers verified with a snapshot", 1);
        }
        Ok((verified, logs))
    }

    /// The same of a copy that goes its own way.
    pub(crate) fn holds(&self, world: &World) -> Result<(Vec<Verified>, Logs)> {
        let verified = world.verify()?;
        let logs = world.logs()?;
        logs.extend(&self.heads)?;
        let recorded = logs.recorded()?;
        for order in &self.orders {
            once(order, &recorded.happened).with_context(|| format!("request {}", order.request))?;
        }
        for errand in &self.errands {
            granted(errand, &recorded)?;
        }
        let twice =
            |of: &BTreeMap<Id, u64>| of.iter().find(|(_, times)| **times != 1).map(|(id, n)| (*id, *n));
        for (what, of) in [
            ("request", &recorded.requests),
            ("transfer", &recorded.happened),
            ("request to the market", &recorded.granted),
            ("session", &recorded.sessions),
        ] {
            let found = twice(of);
            ensure!(found.is_none(), "a {what} stands in the log more than once: {found:?}");
        }
        Ok((verified, logs))
    }

    /// That so much arrived as the log says happened, when every log was just checked.
    pub(crate) fn balances(&self, logs: &Logs, arrived: u64) -> Result<()> {
        let happened = logs.recorded()?.happened;
        let mine = self.orders.iter().flat_map(|order| &order.transfers);
        let there: u64 = mine.filter(|transfer| happened.contains_key(&transfer.id)).map(Move::arrives).sum();
        ensure!(there == arrived, "{arrived} units arrived, and what happened moved {there}");
        Ok(())
    }
}

/// A session that was acknowledged is there, once, and so is its end.
fn granted(errand: &Errand, recorded: &Recorded) -> Result<()> {
    for asked in [&errand.open, &errand.close].into_iter().filter(|asked| asked.is_answered) {
        ensure!(
            recorded.granted.contains_key(&asked.request),
            "request {} was acknowledged, and is not in the market's log",
            asked.request
        );
    }
    let gone = errand.session.filter(|session| !recorded.sessions.contains_key(session));
    ensure!(gone.is_none(), "session {gone:?} was acknowledged, and is not in the market's log");
    Ok(())
}

/// An acknowledged request is there, once; another is there once or not at all, and never in part unless it is several
/// commands.
fn once(order: &Order, happened: &BTreeMap<Id, u64>) -> Result<()> {
    let is_there = |transfer: &Move| happened.contains_key(&transfer.id);
    let there = order.transfers.iter().filter(|transfer| is_there(transfer)).count();
    if order.answer.is_some() {
        let gone = order.transfers.iter().find(|transfer| !is_there(transfer)).map(|transfer| transfer.id);
        ensure!(gone.is_none(), "it was acknowledged, and its transfer {gone:?} is not in the log");
    }
    let one_command = order.transfers.len() <= ONE_COMMAND;
    ensure!(
        !one_command || there == 0 || there == order.transfers.len(),
        "{there} of its {} transfers are in the log",
        order.transfers.len()
    );
    // Several commands may be there in part, but are cut only between chains.
    let torn =
        order.transfers.windows(2).find(|pair| pair[0].linked && is_there(&pair[0]) != is_there(&pair[1]));
    ensure!(torn.is_none(), "a chain is there in part: at {:?}", torn.map(|pair| pair[0].id));
    Ok(())
}

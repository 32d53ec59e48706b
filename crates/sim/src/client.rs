//! Those who ask: what they asked, what they heard, and whether the two and the log agree.

use holmes_kernel::canon::{self, Digest};
use holmes_kernel::shard::Ticket;
use holmes_kernel::{Answer, Call, Code, Event as _, LogId, Machine, Principal, Refusal, Way};
use holmes_runtime::rig::Seat;

use crate::journal::Journal;
use crate::watch::{Found, Key, Watch};
use crate::world::{World, log};

/// A command to one of the machines.
#[derive(Clone, Debug)]
pub enum Said {
    /// To the ledger.
    Ledger(holmes_ledger::Command),
    /// To staking.
    Staking(holmes_staking::command::Command),
    /// To scheduling.
    Scheduling(holmes_scheduling::Command),
    /// To the market.
    Market(holmes_market::Command),
    /// To emission.
    Emission(holmes_emission::Command),
    /// To the treasury.
    Treasury(holmes_treasury::Command),
    /// To accounts.
    Accounts(holmes_accounts::Command),
}

/// What one party asked once, however often it sent it.
#[derive(Debug)]
pub struct Order {
    /// Who.
    pub who: Principal,
    /// Under which id or number.
    pub way: Way,
    /// What.
    pub said: Said,
    /// Copies whose answers may still come.
    tickets: Vec<Ticket>,
    /// The first answer that settled it, in words.
    settled: Option<Result<String, String>>,
}

/// What was acknowledged against the rules.
pub type Wrong = String;

/// Every order of a day.
#[derive(Debug, Default)]
pub struct Clients {
    orders: Vec<Order>,
    /// Answers that were heard.
    pub heard: u64,
    /// Those of them that say that something was done.
    pub done: u64,
}

/// Codes of refusals after which the same call may still be carried out: the client asks again.
fn settles(refusal: &Refusal) -> bool {
    refusal.code != Code::Unavailable && refusal.reason != "SUBMITTER_GAP"
}

/// Too long ago to be told: what was done stays done.
fn forgets(refusal: &Refusal) -> bool {
    ["ID_EXPIRED", "SUBMITTER_FORGOTTEN"].contains(&&*refusal.reason)
}

impl Clients {
    /// How many orders there are.
    pub fn len(&self) -> usize {
        self.orders.len()
    }

    /// Whether nobody has asked for anything.
    pub fn is_empty(&self) -> bool {
        self.orders.is_empty()
    }

    /// The order so far back.
    pub fn back(&self, back: usize) -> Option<usize> {
        let len = self.orders.len();
        (len > 0).then(|| len - 1 - back % len)
    }

    /// An order.
    pub fn order(&self, at: usize) -> &Order {
        &self.orders[at]
    }

    /// Takes an order in without sending it; its place.
    pub fn note(&mut self, who: Principal, way: Way, said: Said) -> usize {
        self.orders.push(Order { who, way, said, tickets: Vec::new(), settled: None });
        self.orders.len() - 1
    }

    /// Sends an order, for the first time or again.
    pub fn send(&mut self, world: &World, at: usize) {
        let Order { who, way, said, tickets, .. } = &mut self.orders[at];
        let call = Call { way: *way, ..Call::request(*who, holmes_kernel::Id::default()) };
        tickets.push(match said.clone() {
            Said::Ledger(command) => world.ledger.post(call, command),
            Said::Staking(command) => world.staking.post(call, command),
            Said::Scheduling(command) => world.scheduling.post(call, command),
            Said::Market(command) => world.market.post(call, command),
            Said::Emission(command) => world.emission.post(call, command),
            Said::Treasury(command) => world.treasury.post(call, command),
            Said::Accounts(command) => world.accounts.post(call, command),
        });
    }

    /// Orders that nobody has settled, the oldest first.
    pub fn open(&self) -> Vec<usize> {
        let open = self.orders.iter().enumerate().filter(|(_, order)| order.settled.is_none());
        open.map(|(at, _)| at).collect()
    }

    /// Hears what has been answered, and holds it to what was answered before and to the log.
    pub fn hear(&mut self, world: &mut World, watch: &Watch) -> Vec<Wrong> {
        let mut wrong = Vec::new();
        let mut leases = Vec::new();
        for order in &mut self.orders {
            for ticket in std::mem::take(&mut order.tickets) {
                let told = match &order.said {
                    Said::Ledger(command) => told(&world.ledger, ticket, command),
                    Said::Staking(command) => told(&world.staking, ticket, command),
                    Said::Scheduling(command) => told(&world.scheduling, ticket, command),
                    Said::Market(command) => told(&world.market, ticket, command),
                    Said::Emission(command) => told(&world.emission, ticket, command),
                    Said::Treasury(command) => told(&world.treasury, ticket, command),
                    Said::Accounts(command) => told(&world.accounts, ticket, command),
                };
                let Some(told) = told else {
                    order.tickets.push(ticket);
                    continue;
                };
                self.heard += 1;
                self.done += u64::from(told.answer.is_ok());
                leases.extend(told.lease.clone());
                if let Err(why) = order.settle(told, watch) {
                    wrong.push(format!("{} {:?} of {}: {why}", order.service(), order.way, order.who));
                }
            }
        }
        for lease in leases {
            world.granted(&lease);
        }
        wrong
    }

    /// What was acknowledged and is not in the log any more.
    pub fn lost(&self, watch: &Watch) -> Vec<Wrong> {
        let done = self.orders.iter().filter(|order| matches!(order.settled, Some(Ok(_))));
        let lost = done.filter(|order| watch.found(&order.key()).is_none());
        lost.map(|order| format!("{:?} was acknowledged and is not in the log", order.way)).collect()
    }
}

/// An answer as it was told.
struct Told {
    answer: Result<(String, u64), Refusal>,
    /// Of the command that it answers.
    digest: Digest,
    log: LogId,
    lease: Option<holmes_scheduling::Reply>,
}

fn told<M: Machine>(seat: &Seat<M, Journal>, ticket: Ticket, command: &M::Command) -> Option<Told>
where
    M::Reply: std::fmt::Debug + 'static,
{
    let answer = seat.answer(ticket)?;
    let lease = answer.as_ref().ok().and_then(|answer| {
        let any: &dyn std::any::Any = &answer.value;
        any.downcast_ref::<holmes_scheduling::Reply>().cloned()
    });
    let answer = answer.map(|Answer { value, seq }| (format!("{value:?}"), seq));
    Some(Told { answer, digest: canon::digest(command), log: log(M::Event::SERVICE.0), lease })
}

impl Order {
    fn service(&self) -> &'static str {
        match self.said {
            Said::Ledger(_) => "ledger",
            Said::Staking(_) => "staking",
            Said::Scheduling(_) => "scheduling",
            Said::Market(_) => "market",
            Said::Emission(_) => "emission",
            Said::Treasury(_) => "treasury",
            Said::Accounts(_) => "accounts",
        }
    }

    fn key(&self) -> Key {
        let service = holmes_proto::service(self.service()).unwrap_or_default();
        Key { service, who: self.who, way: self.way.into() }
    }

    /// Whether an answer may be, after what was answered before and beside what the log holds.
    fn settle(&mut self, told: Told, watch: &Watch) -> Result<(), Wrong> {
        let key = Key { service: told.log.svc, who: self.who, way: self.way.into() };
        let found = watch.found(&key).filter(|found| found.digest == told.digest);
        match &told.answer {
            Ok((words, seq)) => {
                let found = found.ok_or("it was acknowledged and is not in the log")?;
                may_say(found, words, *seq)?;
                if let Some(Ok(before)) = &self.settled
                    && before != words
                {
                    return Err(format!("it was acknowledged with {before}, then with {words}"));
                }
            }
            Err(refusal) if refusal.code == Code::Internal => {
                return Err(format!("a machine failed over it: {refusal}"));
            }
            Err(refusal) if !settles(refusal) || forgets(refusal) => {}
            Err(refusal) => {
                if matches!(self.settled, Some(Ok(_))) {
                    return Err(format!("it was acknowledged, then refused: {refusal}"));
                }
            }
        }
        if self.settled.is_none() {
            match told.answer {
                Ok((words, _)) => self.settled = Some(Ok(words)),
                Err(refusal) if settles(&refusal) => self.settled = Some(Err(refusal.reason.into_owned())),
                Err(_) => {}
            }
        }
        Ok(())
    }
}

/// Whether an acknowledgement speaks of its entry.
fn may_say(found: &Found, words: &str, seq: u64) -> Result<(), Wrong> {
    if let Some(reason) = &found.refused {
        return Err(format!(
            "it was acknowledged with {words}, and the log says that it was refused: {reason}"
        ));
    }
    if !(found.first..=found.last).contains(&seq) {
        return Err(format!("it was acknowledged at {seq}, its entry is {} to {}", found.first, found.last));
    }
    Ok(())
}

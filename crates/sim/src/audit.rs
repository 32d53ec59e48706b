//! The economy's rules, held to what happened: everything is computed anew from the events of all logs, by other formulas than
//! the machines' and with the rules' own numbers. Each part reads the events of a service in the order of its log, and
//! behind what that service had taken in of others.

mod books;
mod leases;
mod nodes;
mod presence;
mod rewards;
mod sales;
mod seams;

use std::collections::BTreeMap;

use holmes_kernel::machine::SendTo;
use holmes_kernel::{Amount, Event as _, Id, Principal, ServiceId, Time, wide};
use holmes_ledger::command::{Kind, Move, Transfer};
use holmes_proto::ledger::v1::TransferKind;
use holmes_proto::ledger::v1::command::Command as Asked;
use holmes_proto::{emission, ledger, market, scheduling, staking};
use prost::Message as _;

pub use books::Books;
use leases::Leases;
use nodes::Nodes;
use presence::Presence;
use rewards::Rewards;
use sales::Sales;
use seams::Seams;

/// What was done against the rules, in words.
type Wrong = Vec<String>;

const LEDGER: ServiceId = ledger::v1::Event::SERVICE;
const STAKING: ServiceId = staking::v1::Event::SERVICE;
const SCHEDULING: ServiceId = scheduling::v1::Event::SERVICE;
const MARKET: ServiceId = market::v1::Event::SERVICE;
const EMISSION: ServiceId = emission::v1::Event::SERVICE;

/// Where an event stands, and who has caused it.
#[derive(Clone, Copy, Debug)]
pub struct Seen {
    /// The first sequence number of its entry.
    pub first: u64,
    /// Log time.
    pub at: Time,
    /// Who has asked for it.
    pub who: Principal,
}

/// What all events come to.
#[derive(Debug, Default)]
pub struct Audit {
    /// The ledger's.
    pub books: Books,
    nodes: Nodes,
    leases: Leases,
    presence: Presence,
    sales: Sales,
    rewards: Rewards,
    seams: Seams,
    /// Up to where each service has taken in each other's log.
    heard: Heard,
}

/// What the events of other logs have come to.
struct Others<'a> {
    books: &'a Books,
    nodes: &'a Nodes,
    seams: &'a Seams,
    heard: &'a Heard,
}

/// Up to where each service has taken in each other's log.
#[derive(Debug, Default)]
struct Heard(BTreeMap<(ServiceId, ServiceId), u64>);

impl Heard {
    /// How much of a source's log a reader knows.
    fn upto(&self, reader: ServiceId, source: ServiceId) -> u64 {
        self.0.get(&(reader, source)).copied().unwrap_or(0)
    }
}

impl Audit {
    /// A service has taken in another's log up to there.
    pub fn heard(&mut self, reader: ServiceId, source: ServiceId, seq: u64) {
        self.heard.0.insert((reader, source), seq);
    }

    /// A service has asked another for something.
    pub fn sent(&mut self, send: &SendTo<'_>) {
        if send.to == LEDGER {
            let transfers: Vec<_> = asked_of_ledger(send.command).iter().map(transfer).collect();
            self.books.ask(&transfers);
        }
    }

    /// An event of the ledger.
    pub fn ledger(&mut self, seen: &Seen, event: ledger::v1::Event) -> Wrong {
        let Some(event) = event.event else { return Wrong::new() };
        self.seams.ledger(&event);
        let reserved = self.books.reserved_by(MARKET, &event);
        let taken = reserved.into_iter().filter(|(session, owner)| self.sales.renter(*session) != *owner);
        let taken = taken.map(|(session, _)| format!("E-9.1: session {session} reserves another's money"));
        taken.collect::<Wrong>().into_iter().chain(self.books.book(seen, event)).collect()
    }

    /// An event of staking.
    pub fn staking(&mut self, seen: &Seen, event: staking::v1::Event) -> Wrong {
        let Some(event) = event.event else { return Wrong::new() };
        let mut wrong = self.seams.staking(seen, &event, &self.heard);
        wrong.extend(self.nodes.staked(seen, event, &self.books, &self.heard));
        wrong
    }

    /// An event of scheduling.
    pub fn scheduling(&mut self, seen: &Seen, event: scheduling::v1::Event) -> Wrong {
        let Some(event) = event.event else { return Wrong::new() };
        self.rewards.attended(seen, &event);
        let mut wrong = self.seams.scheduling(&event, &self.heard);
        wrong.extend(self.leases.happened(seen, &event));
        wrong.extend(self.presence.happened(seen, &event, &self.leases));
        wrong.extend(self.nodes.scheduled(seen, event, &self.heard));
        wrong
    }

    /// An event of the market.
    pub fn market(&mut self, seen: &Seen, event: market::v1::Event) -> Wrong {
        let Some(event) = event.event else { return Wrong::new() };
        self.nodes.sold(seen, &event);
        self.rewards.sold(seen, &event);
        let mut wrong = self.seams.market(seen, &event);
        wrong.extend(self.sales.sold(seen, event));
        wrong
    }

    /// An event of emission.
    pub fn emission(&mut self, seen: &Seen, event: emission::v1::Event) -> Wrong {
        let Some(event) = event.event else { return Wrong::new() };
        let mut wrong = self.seams.emission(seen, &event, &self.heard);
        let others =
            Others { books: &self.books, nodes: &self.nodes, seams: &self.seams, heard: &self.heard };
        wrong.extend(self.rewards.emitted(seen, event, &others));
        wrong
    }

    /// The tokens that were metered of a call under a lease.
    pub fn metered(&self, lease: &[u8], call: Id) -> Option<[u64; 2]> {
        self.leases.tokens(lease, call)
    }

    /// What must be when nothing is on its way any more.
    pub fn at_rest(&self, now: Time) -> Wrong {
        let books = self.books.torn().chain(self.books.overdue(now));
        let nodes = self.nodes.unpaid(now).chain(self.leases.unmetered()).chain(self.leases.endless());
        books.chain(nodes).chain(self.seams.apart()).chain(self.rewards.unpaid()).collect()
    }
}

/// The transfers that a send asks the ledger for.
fn asked_of_ledger(command: &[u8]) -> Vec<ledger::v1::Transfer> {
    let command = ledger::v1::Command::decode(command).ok().and_then(|command| command.command);
    match command {
        Some(Asked::CreateTransfers(asked)) => asked.transfers,
        _ => Vec::new(),
    }
}

/// A transfer as a send carries it.
fn transfer(wire: &ledger::v1::Transfer) -> Transfer {
    let of = Move {
        debit: id(&wire.debit_account_id),
        credit: id(&wire.credit_account_id),
        amount: Amount::new(wire.amount_units),
        balancing: wire.balancing,
        debit_owner: None,
    };
    let hold = id(&wire.hold_id);
    let kind = match wire.kind() {
        TransferKind::Hold => {
            Kind::Hold { of, timeout_ms: (wire.timeout_ms > 0).then_some(wire.timeout_ms), coordinator: None }
        }
        TransferKind::Post => {
            Kind::Post { hold, amount: (wire.amount_units > 0).then_some(Amount::new(wire.amount_units)) }
        }
        TransferKind::Void => Kind::Void { hold },
        TransferKind::Single | TransferKind::Unspecified => Kind::Single(of),
    };
    Transfer { id: id(&wire.transfer_id), linked: wire.linked, tag: wire.tag, kind }
}

/// An id as requests carry it; the least where it is none.
fn id(text: &str) -> Id {
    text.parse().unwrap_or_default()
}

/// An id as events carry it; the least where it is none.
fn raw(bytes: &[u8]) -> Id {
    Id::from_slice(bytes).unwrap_or_default()
}

/// A principal as events carry it; nobody's where it is none.
fn owner(bytes: &[u8]) -> Principal {
    Principal::from_slice(bytes).unwrap_or(Principal::SYSTEM)
}

/// The principals of a column of 17 bytes each.
fn owners(column: &[u8]) -> impl Iterator<Item = Principal> + '_ {
    column.chunks_exact(17).map(owner)
}

/// E-0.4: whether parts are shares of a whole by weights: together all of it, none further than a unit from its exact part,
/// and the units that flooring leaves with the largest remainders.
fn is_shared(whole: u64, parts: &[u64], weights: &[u128]) -> bool {
    let all: u128 = weights.iter().sum();
    if all == 0 {
        return parts.iter().all(|part| *part == 0);
    }
    let sum: u128 = parts.iter().map(|part| u128::from(*part)).sum();
    let exact = |weight: &u128| divided(whole.into(), *weight, all);
    let exact: Vec<(u128, u128)> = weights.iter().map(exact).collect();
    let is_near = |(part, (floor, _)): (&u64, &(u128, u128))| {
        u128::from(*part).checked_sub(*floor).is_some_and(|over| over <= 1)
    };
    let rest_of = |rounded: bool| {
        let rows = parts.iter().zip(&exact);
        rows.filter(move |(part, (floor, _))| (u128::from(**part) > *floor) == rounded)
            .map(|(_, (_, rest))| *rest)
    };
    let (least_up, most_down) = (rest_of(true).min(), rest_of(false).max());
    let in_order = least_up.zip(most_down).is_none_or(|(up, down)| up >= down);
    parts.len() == weights.len()
        && sum == u128::from(whole)
        && parts.iter().zip(&exact).all(is_near)
        && in_order
}

/// `a · b / c`, floored, and what that leaves.
fn divided(a: u128, b: u128, c: u128) -> (u128, u128) {
    let floor = wide::mul_div_floor(a, b, c).expect("a part of a whole");
    (floor, a.wrapping_mul(b).wrapping_sub(floor.wrapping_mul(c))) // the rest is below c, so that it fits
}

/// The same, ceiled.
fn ceiled(a: u128, b: u128, c: u128) -> u128 {
    let (floor, rest) = divided(a, b, c);
    floor + u128::from(rest > 0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn shares_are_all_of_the_whole_and_the_largest_remainders_are_rounded_up() {
        // 10 by 1, 2 and 4: exactly 1.43, 2.86 and 5.71.
        assert!(is_shared(10, &[1, 3, 6], &[1, 2, 4]));
        assert!(is_shared(10, &[0, 0], &[0, 0]), "nobody weighs anything");
        assert!(!is_shared(10, &[2, 3, 6], &[1, 2, 4]), "more than the whole");
        assert!(!is_shared(10, &[1, 2, 6], &[1, 2, 4]), "less");
        assert!(!is_shared(10, &[0, 4, 6], &[1, 2, 4]), "too far from its part");
        assert!(
            !is_shared(10, &[2, 3, 5], &[1, 2, 4]),
            "the last one's remainder is larger than the first's"
        );
        assert!(!is_shared(10, &[10], &[1, 2, 4]), "not everybody's");
    }
}

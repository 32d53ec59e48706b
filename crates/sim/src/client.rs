//! Those who ask: what they asked, what they heard, and whether the two and the log agree.

use std::any::Any;
use std::collections::BTreeMap;

use holmes_kernel::canon::{self, Digest};
use holmes_kernel::shard::Ticket;
use holmes_kernel::{Answer, Call, Code, Machine, Principal, Refusal, Time, Way};
use holmes_ledger::command::{Command as Pay, Kind, Reply, Transfer, TransferResult};
use holmes_proto::ledger::v1::TransferCode;
use holmes_runtime::rig::Seat;
use holmes_scheduling::command::{Command as Place, Line, Reply as Placed, Reported, Told as Metered};
use holmes_scheduling::state::LeaseId;

use crate::audit::Audit;
use crate::journal::Journal;
use crate::watch::{Found, Key, Watch};
use crate::world::World;

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
    /// Of what was said.
    digest: Digest,
    /// Copies whose answers may still come.
    under_way: Vec<Copied>,
    /// Copies in all.
    sent: u32,
    /// Copies that were answered with words that say: by this one nothing was done.
    refused: u32,
    /// The first answer that settled it, in words.
    settled: Option<Result<String, String>>,
    /// It is never right: whoever acknowledges it is wrong.
    nonsense: bool,
}

/// A copy of an order, under way.
#[derive(Clone, Copy, Debug)]
struct Copied {
    ticket: Ticket,
    /// Whether the order stood in the log, carried out, before this copy was sent.
    was_done: bool,
    sent_at: Time,
}

/// E-2.3: how long an id is good, and how far ahead of the clock it may be. Of its own here: the kernel's numbers are what is
/// held to these.
const GOOD_FOR_MS: u64 = 60 * 60 * 1_000;
const AHEAD_MS: u64 = 5 * 60 * 1_000;

/// Something else was asked for before under the same id, by the same caller.
const REUSED: &str = "REQUEST_ID_REUSED";

/// What was acknowledged against the rules.
pub type Wrong = String;

/// Every order of a day.
#[derive(Debug, Default)]
pub struct Clients {
    orders: Vec<Order>,
    /// How many orders go under each id or number.
    under: BTreeMap<Key, u32>,
    /// Answers that were heard.
    pub heard: u64,
    /// Those of them that say that something was done.
    pub done: u64,
    /// What was answered, in words, since somebody has asked for them.
    pub told: Option<Vec<String>>,
}

/// Whether a refusal says that by this copy nothing was done. Of what was on its way when a service went down nobody knows.
fn says_not_done(refusal: &Refusal) -> bool {
    !matches!(refusal.code, Code::Unavailable | Code::Deadline)
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
        let digest = said.digest();
        let (under_way, settled) = (Vec::new(), None);
        let (sent, refused, nonsense) = (0, 0, false);
        let order = Order { who, way, said, digest, under_way, sent, refused, settled, nonsense };
        *self.under.entry(order.key()).or_default() += 1;
        self.orders.push(order);
        self.orders.len() - 1
    }

    /// From now on whoever acknowledges an order is wrong.
    pub fn forbid(&mut self, at: usize) {
        self.orders[at].nonsense = true;
    }

    /// Sends an order, for the first time or again.
    pub fn send(&mut self, world: &World, watch: &Watch, at: usize) {
        let was_done = self.orders[at].is_done(watch);
        let Order { who, way, said, under_way, sent, .. } = &mut self.orders[at];
        let call = Call { way: *way, ..Call::request(*who, holmes_kernel::Id::default()) };
        *sent += 1;
        let ticket = match said.clone() {
            Said::Ledger(command) => world.ledger.post(call, command),
            Said::Staking(command) => world.staking.post(call, command),
            Said::Scheduling(command) => world.scheduling.post(call, command),
            Said::Market(command) => world.market.post(call, command),
            Said::Emission(command) => world.emission.post(call, command),
            Said::Treasury(command) => world.treasury.post(call, command),
            Said::Accounts(command) => world.accounts.post(call, command),
        };
        under_way.push(Copied { ticket, was_done, sent_at: world.rig.now() });
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
            for copied in std::mem::take(&mut order.under_way) {
                let told = match &order.said {
                    Said::Ledger(_) => told(&world.ledger, copied.ticket),
                    Said::Staking(_) => told(&world.staking, copied.ticket),
                    Said::Scheduling(_) => told(&world.scheduling, copied.ticket),
                    Said::Market(_) => told(&world.market, copied.ticket),
                    Said::Emission(_) => told(&world.emission, copied.ticket),
                    Said::Treasury(_) => told(&world.treasury, copied.ticket),
                    Said::Accounts(_) => told(&world.accounts, copied.ticket),
                };
                let Some(told) = told else {
                    order.under_way.push(copied);
                    continue;
                };
                self.heard += 1;
                self.done += u64::from(told.answer.is_ok());
                leases.extend(told.reply.downcast_ref::<holmes_scheduling::Reply>().cloned());
                wrong.extend(order.otherwise(&*told.reply, &watch.audit));
                if let Some(words) = &mut self.told {
                    words.push(order.in_words(&told.answer));
                }
                let (key, now) = (order.key(), world.rig.now());
                let is_first = self.under.get(&key) == Some(&1);
                if is_first && told.answer.as_ref().is_err_and(|refusal| refusal.reason == REUSED) {
                    wrong.push(format!("{key:?} was never used, and is refused as if it were"));
                }
                let found = watch.found(&key);
                if let Err(why) = order.settle(told.answer, copied, found, now) {
                    wrong.push(format!("{} {:?} of {}: {why}", order.service(), order.way, order.who));
                }
            }
        }
        for lease in leases {
            world.granted(&lease);
        }
        wrong
    }

    /// What clients were told, and the log denies: acknowledged and not there any more, or refused each time and done.
    pub fn belied(&self, watch: &Watch) -> Vec<Wrong> {
        let wrong = |order: &Order| match &order.settled {
            Some(Ok(_)) if watch.found(&order.key()).is_none() => {
                Some(format!("{:?} was acknowledged and is not in the log", order.way))
            }
            _ if order.is_done(watch) && order.is_refused() => {
                Some(format!("{:?} was refused, and stands in the log as done", order.way))
            }
            _ => None,
        };
        self.orders.iter().filter_map(wrong).collect()
    }
}

/// An answer as it was told.
struct Told {
    answer: Answered,
    /// The machine's own reply, or nothing.
    reply: Box<dyn Any>,
}

/// A reply in words, and its place.
type Answered = Result<(String, u64), Refusal>;

fn told<M: Machine>(seat: &Seat<M, Journal>, ticket: Ticket) -> Option<Told>
where
    M::Reply: std::fmt::Debug + 'static,
{
    let answer = seat.answer(ticket)?;
    Some(match answer {
        Ok(Answer { value, seq }) => Told { answer: Ok((format!("{value:?}"), seq)), reply: Box::new(value) },
        Err(refusal) => Told { answer: Err(refusal), reply: Box::new(()) },
    })
}

impl Said {
    fn digest(&self) -> Digest {
        match self {
            Said::Ledger(command) => canon::digest(command),
            Said::Staking(command) => canon::digest(command),
            Said::Scheduling(command) => canon::digest(command),
            Said::Market(command) => canon::digest(command),
            Said::Emission(command) => canon::digest(command),
            Said::Treasury(command) => canon::digest(command),
            Said::Accounts(command) => canon::digest(command),
        }
    }
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

    /// An answer to it, for who follows the day.
    fn in_words(&self, answer: &Answered) -> String {
        let (service, who) = (self.service(), self.who);
        match answer {
            Ok((words, seq)) => format!("{service}, to {who}: {words} at {seq}"),
            Err(refusal) => format!("{service}, to {who}: refused, {}", refusal.reason),
        }
    }

    fn key(&self) -> Key {
        let service = holmes_proto::service(self.service()).unwrap_or_default();
        Key { service, who: self.who, way: self.way.into() }
    }

    /// What is told as done is what was asked: E-2.3 of money, now or before; E-9.2 of calls.
    fn otherwise(&self, reply: &dyn Any, audit: &Audit) -> Option<Wrong> {
        if let Said::Scheduling(Place::ReportCalls { lease, lines }) = &self.said
            && let Some(Placed::Reported(reported)) = reply.downcast_ref()
        {
            return unmetered(*lease, lines, reported, audit);
        }
        if let Said::Ledger(Pay::RecordDeposit(of) | Pay::RecordWithdrawal(of)) = &self.said {
            let asked = Some((of.account, of.amount.units()));
            let is_done = matches!(reply.downcast_ref(), Some(Reply::Recorded { .. }));
            let moved = audit.books.moved(&of.reference);
            return (is_done && moved != asked)
                .then(|| format!("E-2.3: {of:?} was asked and told as done, and {moved:?} was moved"));
        }
        let Said::Ledger(Pay::CreateTransfers { transfers, .. }) = &self.said else { return None };
        let Reply::Transfers(results) = reply.downcast_ref()? else { return None };
        if transfers.len() != results.len() {
            return Some(format!("{} transfers were asked, and {} told", transfers.len(), results.len()));
        }
        let is_other = |(transfer, told): &(&Transfer, &TransferResult)| match &transfer.kind {
            _ if !matches!(told.code, TransferCode::Ok | TransferCode::Exists) => false,
            Kind::Single(of) | Kind::Hold { of, .. } if of.balancing => told.amount > of.amount,
            Kind::Single(of) | Kind::Hold { of, .. } => told.amount != of.amount,
            Kind::Post { amount, .. } => amount.is_some_and(|amount| told.amount != amount),
            Kind::Void { .. } => false,
        };
        let (transfer, told) = transfers.iter().zip(results).find(is_other)?;
        Some(format!("E-2.3: of {} {transfer:?} was asked, and told {told:?}", self.who))
    }

    /// Its entry, where one with this key is there and is its own.
    fn own<'a>(&self, found: Option<&'a Found>) -> Option<&'a Found> {
        found.filter(|found| found.digest == self.digest)
    }

    /// Whether it stands in the log as carried out.
    fn is_done(&self, watch: &Watch) -> bool {
        self.own(watch.found(&self.key())).is_some_and(|found| found.refused.is_none())
    }

    /// Whether every copy of it was answered with a refusal that says that nothing was done.
    fn is_refused(&self) -> bool {
        self.sent > 0 && self.refused == self.sent
    }

    /// Whether an answer may be, after what was answered before and beside what the log holds.
    fn settle(
        &mut self,
        answer: Answered,
        copied: Copied,
        found: Option<&Found>,
        now: Time,
    ) -> Result<(), Wrong> {
        let own = self.own(found);
        match &answer {
            Ok((words, _)) if self.nonsense => {
                return Err(format!("it is never right, and was acknowledged with {words}"));
            }
            Ok((words, seq)) => {
                may_say(own.ok_or("it was acknowledged and is not in the log")?, words, *seq)?;
                if let Some(Ok(before)) = &self.settled
                    && before != words
                {
                    return Err(format!("it was acknowledged with {before}, then with {words}"));
                }
            }
            Err(refusal) => {
                self.refused += u32::from(says_not_done(refusal));
                if refusal.reason == "ID_EXPIRED" && self.is_good(copied.sent_at, now) {
                    return Err(format!("its id is of the last hour, and it was refused: {refusal}"));
                }
                self.may_refuse(refusal, copied, own.is_some_and(|own| own.refused.is_none()))?;
            }
        }
        if self.settled.is_none() {
            match answer {
                Ok((words, _)) => self.settled = Some(Ok(words)),
                Err(refusal) if settles(&refusal) => self.settled = Some(Err(refusal.reason.into_owned())),
                Err(_) => {}
            }
        }
        Ok(())
    }

    /// Whether its id was neither too old nor too far ahead, from when it was sent until it was heard of.
    fn is_good(&self, sent_at: Time, now: Time) -> bool {
        let Way::Request(id) = self.way else { return false };
        let Some(moment) = id.moment() else { return false };
        moment.after_millis(GOOD_FOR_MS) >= now && moment <= sent_at.after_millis(AHEAD_MS)
    }

    /// Whether a refusal may be. One that says that nothing was done may not where something is, unless another copy, of
    /// which nobody knows, can have done it; nor may it be followed by one where it was done before.
    fn may_refuse(&self, refusal: &Refusal, copied: Copied, is_done: bool) -> Result<(), Wrong> {
        if refusal.code == Code::Internal {
            return Err(format!("a machine failed over it: {refusal}"));
        }
        if is_done && self.is_refused() {
            return Err(format!("it was refused, and stands in the log as done: {refusal}"));
        }
        if !says_not_done(refusal) || forgets(refusal) {
            return Ok(());
        }
        if matches!(self.settled, Some(Ok(_))) {
            return Err(format!("it was acknowledged, then refused: {refusal}"));
        }
        if copied.was_done {
            return Err(format!("it stood in the log as done, then it was refused: {refusal}"));
        }
        Ok(())
    }
}

/// E-9.2: a line that is told as metered is: by this report with its tokens, or before with those of then.
fn unmetered(lease: LeaseId, lines: &[Line], reported: &Reported, audit: &Audit) -> Option<Wrong> {
    let stands = |(line, told): (&Line, &Metered)| match (told, audit.metered(&lease.to_bytes(), line.call)) {
        (Metered::Metered(_), found) => found == Some([line.input_tokens, line.output_tokens]),
        (Metered::Before(..), found) => found.is_some(),
        (Metered::Refused(_), _) => true,
    };
    let all = lines.len() == reported.lines.len() && lines.iter().zip(&reported.lines).all(stands);
    (!all).then(|| format!("E-9.2: {lines:?} were reported and told as {reported:?}, which they are not"))
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

#[cfg(test)]
mod tests {
    use holmes_kernel::Id;

    use super::*;

    fn order() -> Order {
        let said = Said::Treasury(holmes_treasury::Command::RetryGenesis);
        let (who, way, digest) = (Principal::SYSTEM, Way::Request(Id::default()), said.digest());
        let (under_way, settled) = (Vec::new(), None);
        Order { who, way, said, digest, under_way, sent: 2, refused: 0, settled, nonsense: false }
    }

    fn found(order: &Order, refused: Option<&str>) -> Found {
        Found { first: 7, last: 7, digest: order.digest, refused: refused.map(str::to_owned) }
    }

    fn copied(ticket: Ticket, was_done: bool) -> Copied {
        Copied { ticket, was_done, sent_at: Time::default() }
    }

    #[test]
    fn an_id_is_good_for_an_hour_and_not_refused_as_too_old_before() {
        let asked = Time::from_millis(1_700_000_000_000);
        let told = |sent_at: Time, heard_at: Time| {
            let way = Way::Request(Id::v7(asked.millis(), [1; 10]));
            let expired = Refusal::new(Code::Precondition, "ID_EXPIRED", "no");
            Order { way, ..order() }.settle(
                Err(expired),
                Copied { sent_at, ..copied(2, false) },
                None,
                heard_at,
            )
        };
        let after = |minutes: u64| asked.after_millis(minutes * 60_000);
        assert!(told(after(10), after(60)).expect_err("wrong").contains("of the last hour"));
        assert_eq!(told(after(10), after(61)), Ok(()));
        let before = Time::from_millis(asked.millis() - 6 * 60_000);
        assert_eq!(told(before, asked), Ok(()), "it was too far ahead");
    }

    /// What is wrong with a refusal of the second copy, of which the first is still under way.
    fn refused(code: Code, reason: &'static str, was_done: bool, on_record: Option<&str>) -> Option<Wrong> {
        let mut order = order();
        let (copied, found) = (copied(2, was_done), found(&order, on_record));
        order.settle(Err(Refusal::new(code, reason, "no")), copied, Some(&found), Time::default()).err()
    }

    #[test]
    fn a_refusal_of_what_stood_in_the_log_as_done_is_wrong() {
        let wrong = refused(Code::Precondition, "INSUFFICIENT_FUNDS", true, None).expect("wrong");
        assert!(wrong.contains("as done, then it was refused"), "{wrong}");
    }

    #[test]
    fn a_refusal_that_leaves_it_open_or_that_is_on_record_is_right() {
        for (code, reason, was_done, on_record) in [
            (Code::Unavailable, "OUTCOME_UNKNOWN", true, None),
            (Code::Precondition, "ID_EXPIRED", true, None),
            (Code::Precondition, "INSUFFICIENT_FUNDS", false, None),
            (Code::Precondition, "INSUFFICIENT_FUNDS", false, Some("INSUFFICIENT_FUNDS")),
        ] {
            assert_eq!(refused(code, reason, was_done, on_record), None, "{reason}");
        }
    }

    #[test]
    fn when_every_copy_was_refused_nothing_may_be_done() {
        let mut order = order();
        let mut refuse = |ticket, found: Option<&Found>| {
            let no = Refusal::new(Code::Exhausted, "WINDOW_FULL", "no");
            order.settle(Err(no), copied(ticket, false), found, Time::default())
        };
        assert_eq!(refuse(1, None), Ok(()));
        let found = found(&self::order(), None);
        let wrong = refuse(2, Some(&found)).expect_err("wrong");
        assert!(wrong.contains("refused, and stands in the log as done"), "{wrong}");
    }
}

//! What the logs say, read beside the machines: one chain each, nothing twice, and the ledger's books computed anew from its
//! events alone.

use std::collections::{BTreeMap, BTreeSet};

use holmes_kernel::canon::Digest;
use holmes_kernel::id::PrincipalKind;
use holmes_kernel::ports::Journal as _;
use holmes_kernel::{Entry, Event, Frame, Id, LogId, Origin, Principal, ServiceId, Tail, Way};
use holmes_ledger::rows::{self, Row};
use holmes_proto::columns::ids;
use holmes_proto::ledger::v1::event::Event as Booked;
use holmes_proto::ledger::v1::{TransferCode, TransferKind};
use holmes_proto::{accounts, emission, ledger, market, scheduling, staking, treasury};
use holmes_store::journal::memory;
use holmes_testing::now;

use crate::world::{COIN, log};

/// What names a command for ever.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Key {
    /// Whom it was said to.
    pub service: ServiceId,
    /// By whom.
    pub who: Principal,
    /// Under which id or number.
    pub way: Number,
}

/// A request's id or a submitter's number.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Number {
    /// Of a request.
    Id(Id),
    /// Of a submission.
    Number(u64),
}

impl From<Way> for Number {
    fn from(way: Way) -> Number {
        match way {
            Way::Request(id) => Number::Id(id),
            Way::Submission(number) => Number::Number(number),
        }
    }
}

/// A command's entry.
#[derive(Clone, Debug)]
pub struct Found {
    /// Its first sequence number.
    pub first: u64,
    /// Its last.
    pub last: u64,
    /// Of the command.
    pub digest: Digest,
    /// The reason, where it was refused on record.
    pub refused: Option<String>,
}

/// What the logs have said so far.
#[derive(Debug, Default)]
pub struct Watch {
    tails: BTreeMap<LogId, Tail>,
    commands: BTreeMap<Key, Found>,
    /// The last number of each submitter.
    numbers: BTreeMap<(ServiceId, Principal), u64>,
    /// Up to where each log has taken in each other.
    taken: BTreeMap<(LogId, LogId), u64>,
    /// Sends that their target has not taken in: target, source, place.
    pub sent: BTreeSet<(ServiceId, ServiceId, u64)>,
    books: Books,
    /// What was taken in of logs that were not read so far yet.
    ahead: BTreeSet<(ServiceId, ServiceId, u64)>,
    wrong: Vec<String>,
    /// Frames read.
    pub frames: u64,
}

/// The ledger's books.
#[derive(Debug, Default)]
struct Books {
    balances: BTreeMap<Id, i128>,
    /// Open holds, and what each reserves.
    holds: BTreeMap<Id, u64>,
    ended: BTreeSet<Id>,
    owners: BTreeMap<Id, Principal>,
    frozen: BTreeSet<Id>,
    /// Of money that came in or went out.
    references: BTreeSet<String>,
    /// Transfers that happened.
    happened: BTreeSet<Id>,
}

impl Watch {
    /// Reads what has been written since it last looked; everything that must not be.
    pub fn look(&mut self, kept: &memory::Journal) -> Vec<String> {
        self.read::<ledger::v1::Event>(kept);
        self.read::<staking::v1::Event>(kept);
        self.read::<scheduling::v1::Event>(kept);
        self.read::<market::v1::Event>(kept);
        self.read::<emission::v1::Event>(kept);
        self.read::<treasury::v1::Event>(kept);
        self.read::<accounts::v1::Event>(kept);
        std::mem::take(&mut self.wrong)
    }

    /// A command's entry, if there is one.
    pub fn found(&self, key: &Key) -> Option<&Found> {
        self.commands.get(key)
    }

    /// The end of every log.
    pub fn tails(&self) -> impl Iterator<Item = (&LogId, &Tail)> {
        self.tails.iter()
    }

    /// Whether the ledger's state is what its events come to.
    pub fn books_agree(&self, state: &holmes_ledger::State) -> Vec<String> {
        let mut wrong = Vec::new();
        for (id, account) in state.accounts.iter() {
            let net = account.balance.net();
            let has = i128::from(net.0) - i128::from(net.1);
            let booked = self.books.balances.get(id).copied().unwrap_or(0);
            if has != booked {
                wrong.push(format!("account {id} has {has}, its events come to {booked}"));
            }
        }
        let open: BTreeMap<Id, u64> = state.holds.iter().map(|(id, hold)| (*id, hold.amount)).collect();
        if open != self.books.holds {
            wrong.push("the open holds are not those that events opened and did not end".into());
        }
        wrong
    }

    fn read<E: Event>(&mut self, kept: &memory::Journal) {
        let log = log(E::SERVICE.0);
        let tail = self.tails.get(&log).copied().unwrap_or_default();
        let Ok(frames) = now(kept.read(log, tail.seq, usize::MAX)) else { return };
        for frame in &frames {
            let tail = self.tails.get(&log).copied().unwrap_or_default();
            if let Err(why) = frame.follows(log, &tail) {
                self.wrong.push(format!("the log of {log} is no chain behind {}: {why}", tail.seq));
            }
            self.tails.insert(log, frame.tail());
            self.frames += 1;
            self.frame::<E>(frame);
        }
    }

    fn frame<E: Event>(&mut self, frame: &Frame) {
        let log = frame.header().log;
        let entries = match frame.entries() {
            Ok(entries) => entries,
            Err(why) => return self.wrong.push(format!("a frame of {log} cannot be read: {why}")),
        };
        for (first, entry) in entries {
            self.came(log, first, &entry);
            for (seq, bytes) in (first..).zip(&entry.events) {
                let Ok(event) = E::decode(bytes.clone()) else {
                    self.wrong.push(format!("the event at {seq} of {log} cannot be read"));
                    continue;
                };
                if let Some(send) = event.send() {
                    let send = (send.to, log.svc, seq);
                    if !self.ahead.remove(&send) {
                        self.sent.insert(send);
                    }
                }
            }
            if E::SERVICE == ledger::v1::Event::SERVICE {
                let events = entry.events.iter().filter_map(|bytes| {
                    <ledger::v1::Event as prost::Message>::decode(bytes.clone()).ok()?.event
                });
                let who = entry.asked_by();
                events.for_each(|event| self.wrong.extend(self.books.book(event, who)));
            }
        }
    }

    /// Nothing comes in twice, by whatever way.
    fn came(&mut self, log: LogId, first: u64, entry: &Entry) {
        let (service, who) = (log.svc, entry.asked_by());
        let (way, digest) = match &entry.origin {
            Some(Origin::Request(request)) => (Number::Id(request.id().unwrap_or_default()), &request.digest),
            Some(Origin::Submitter(submitter)) => {
                let last = self.numbers.entry((service, who)).or_default();
                if submitter.number != *last + 1 {
                    let what = format!("number {} of {who} at {service:?} follows {last}", submitter.number);
                    self.wrong.push(what);
                }
                *last = submitter.number;
                (Number::Number(submitter.number), &submitter.digest)
            }
            Some(Origin::Source(source)) => {
                let Some((from, at)) = source.place() else {
                    return self.wrong.push(format!("the entry at {first} of {log} comes from nowhere"));
                };
                let before = self.taken.entry((log, from)).or_default();
                if at.seq <= *before {
                    self.wrong
                        .push(format!("{log} has taken in {from} at {} again, behind {before}", at.seq));
                }
                *before = (*before).max(at.seq);
                let send = (service, from.svc, at.seq);
                if !self.sent.remove(&send) {
                    self.ahead.insert(send);
                }
                return;
            }
            _ => return,
        };
        let found = Found {
            first,
            last: first + entry.span() - 1,
            digest: digest.as_ref().try_into().unwrap_or_default(),
            refused: entry.refused.as_ref().map(|refused| refused.reason.clone()),
        };
        let key = Key { service, who, way };
        if let Some(before) = self.commands.insert(key.clone(), found) {
            self.wrong.push(format!("{key:?} ran twice, at {} and at {first}", before.first));
        }
    }
}

impl Books {
    fn book(&mut self, event: Booked, who: Principal) -> Vec<String> {
        self.begin();
        let mut wrong = Vec::new();
        match event {
            Booked::TransfersRecorded(recorded) => {
                for row in rows::rows(&recorded).filter(|row| row.code == TransferCode::Ok) {
                    wrong.extend(self.forbidden(&row, who));
                    wrong.extend(self.transfer(&row));
                }
            }
            Booked::HoldsExpired(expired) => {
                for id in ids(&expired.holds) {
                    wrong.extend(self.end(id).err());
                }
            }
            Booked::AccountOpened(e) => {
                let (id, owner) = (Id::from_slice(&e.account), Principal::from_slice(&e.owner));
                self.owners.extend(id.zip(owner));
            }
            Booked::AccountFrozen(e) => {
                let id = Id::from_slice(&e.account).unwrap_or_default();
                self.frozen.remove(&id);
                self.frozen.extend(e.frozen_out.then_some(id));
            }
            Booked::DepositRecorded(e) => {
                wrong.extend(self.refer(&e.reference));
                self.cross(&e.account, e.amount_units.into());
            }
            Booked::WithdrawalRecorded(e) => {
                wrong.extend(self.refer(&e.reference));
                wrong.extend(self.leaves_frozen(&Id::from_slice(&e.account).unwrap_or_default()));
                self.cross(&e.account, -i128::from(e.amount_units));
            }
            Booked::TokensDestroyed(e) => self.add(named("burn_inbox/HOL"), -i128::from(e.amount_units)),
            _ => {}
        }
        wrong
    }

    /// E-1.1: the whole cap stands in `genesis/HOL` before the first event.
    fn begin(&mut self) {
        self.balances.entry(named("genesis/HOL")).or_insert(i128::from(1_000_000_000 * COIN));
    }

    /// Notes a transfer that happened, and what forbids it: it did before, its account is another's, or frozen (E-2.1, E-2.5).
    fn forbidden(&mut self, row: &Row, who: Principal) -> Vec<String> {
        let mut wrong = Vec::new();
        if !self.happened.insert(row.id) {
            wrong.push(format!("transfer {} happened twice", row.id));
        }
        if !matches!(row.kind, TransferKind::Single | TransferKind::Hold) {
            return wrong;
        }
        wrong.extend(self.leaves_frozen(&row.debit));
        let of_the_house = matches!(who.kind, PrincipalKind::Service | PrincipalKind::Staff);
        if !of_the_house && self.owners.get(&row.debit) != Some(&who) {
            wrong.push(format!("{who} has moved money of account {}, which is not its own", row.debit));
        }
        wrong
    }

    fn leaves_frozen(&self, account: &Id) -> Option<String> {
        self.frozen.contains(account).then(|| format!("money left account {account}, which is frozen"))
    }

    /// What comes in or goes out has a reference that is unique for ever (design.md §7.1).
    fn refer(&mut self, reference: &str) -> Option<String> {
        let is_new = self.references.insert(reference.to_owned());
        (!is_new).then(|| format!("reference {reference:?} moved money twice"))
    }

    fn transfer(&mut self, row: &Row) -> Option<String> {
        match row.kind {
            TransferKind::Single => self.pay(row),
            TransferKind::Hold => {
                if self.holds.insert(row.id, row.amount).is_some() || self.ended.contains(&row.id) {
                    return Some(format!("hold {} was opened twice", row.id));
                }
            }
            TransferKind::Post => {
                let held = match self.end(row.hold) {
                    Ok(held) => held,
                    Err(wrong) => return Some(wrong),
                };
                self.pay(row);
                if row.amount > held {
                    return Some(format!("of hold {}, {held}, {} were posted", row.hold, row.amount));
                }
            }
            TransferKind::Void => return self.end(row.hold).err(),
            TransferKind::Unspecified => return Some("a transfer of no kind".into()),
        }
        None
    }

    /// E-2.2: a hold ends at most once.
    fn end(&mut self, id: Id) -> Result<u64, String> {
        let held = self.holds.remove(&id);
        self.ended.insert(id);
        held.ok_or_else(|| format!("hold {id} ended, and was not open"))
    }

    fn pay(&mut self, row: &Row) {
        self.add(row.debit, -i128::from(row.amount));
        self.add(row.credit, i128::from(row.amount) - i128::from(row.burned));
        self.add(named("burn_inbox/HOL"), row.burned.into());
    }

    fn cross(&mut self, account: &[u8], units: i128) {
        self.add(Id::from_slice(account).unwrap_or_default(), units);
        self.add(named("external/USD"), -units);
    }

    fn add(&mut self, account: Id, units: i128) {
        *self.balances.entry(account).or_default() += units;
    }
}

fn named(account: &str) -> Id {
    holmes_ledger::system_account(account)
}

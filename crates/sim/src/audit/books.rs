//! The ledger's books: balances, holds, and who may move what (E-2).

use std::collections::{BTreeMap, BTreeSet};

use holmes_kernel::id::PrincipalKind;
use holmes_kernel::{Id, Principal, ServiceId, Time};
use holmes_ledger::command::{Kind, Move, Transfer};
use holmes_ledger::rows::{self, Row};
use holmes_proto::columns::ids;
use holmes_proto::ledger::v1::event::Event as Booked;
use holmes_proto::ledger::v1::{TransferCode, TransferKind};

use super::{Seen, Wrong, raw};
use crate::world::COIN;

/// The ledger's books.
#[derive(Debug, Default)]
pub struct Books {
    balances: BTreeMap<Id, i128>,
    /// Open holds.
    holds: BTreeMap<Id, Held>,
    /// What open holds reserve of each account.
    reserved: BTreeMap<Id, i128>,
    owners: BTreeMap<Id, Principal>,
    frozen: BTreeSet<Id>,
    /// Transfers that happened.
    happened: BTreeMap<Id, Row>,
    /// Transfers that happen together or not at all.
    chains: Vec<Vec<Id>>,
    /// What was asked, under each transfer's id.
    asked: BTreeMap<Id, Vec<Kind>>,
    /// What was moved under each reference.
    moved: BTreeMap<String, (Id, u64)>,
    /// When the day's first deed was played: what was there before was asked of nobody here. None of logs whose day is not
    /// known.
    pub dawn: Option<Time>,
}

/// An open hold.
#[derive(Clone, Copy, Debug)]
struct Held {
    units: u64,
    debit: Id,
    credit: Id,
    opener: Principal,
    coordinator: Option<ServiceId>,
    expires: Option<Time>,
}

impl Books {
    /// Whether the ledger's state is what its events come to.
    pub fn agree(&self, state: &holmes_ledger::State) -> Wrong {
        let mut wrong = Wrong::new();
        for (id, account) in state.accounts.iter() {
            let net = account.balance.net();
            let has = i128::from(net.0) - i128::from(net.1);
            let booked = self.balances.get(id).copied().unwrap_or(0);
            if has != booked {
                wrong.push(format!("account {id} has {has}, its events come to {booked}"));
            }
        }
        let open: BTreeMap<Id, u64> = state.holds.iter().map(|(id, hold)| (*id, hold.amount)).collect();
        if open != self.holds.iter().map(|(id, held)| (*id, held.units)).collect() {
            wrong.push("the open holds are not those that events opened and did not end".into());
        }
        wrong
    }

    /// Whose an account is.
    pub fn owner(&self, account: Id) -> Option<Principal> {
        self.owners.get(&account).copied()
    }

    /// Notes what is asked of the ledger in one batch, and which of it happens together (E-2.2).
    pub fn ask(&mut self, transfers: &[Transfer]) {
        for chain in transfers.split_inclusive(|transfer| !transfer.linked) {
            if chain.len() > 1 {
                self.chains.push(chain.iter().map(|transfer| transfer.id).collect());
            }
        }
        for transfer in transfers {
            self.asked.entry(transfer.id).or_default().push(transfer.kind);
        }
    }

    /// What came in or went out under a reference: the account, and how much.
    pub fn moved(&self, reference: &str) -> Option<(Id, u64)> {
        self.moved.get(reference).copied()
    }

    /// E-2.2: open holds whose time is over.
    pub fn overdue(&self, now: Time) -> impl Iterator<Item = String> + '_ {
        let over = move |held: &Held| held.expires.is_some_and(|at| at < now);
        let overdue = self.holds.iter().filter(move |(_, held)| over(held));
        overdue.map(|(id, _)| format!("E-2.2: hold {id} is open and its time is over"))
    }

    /// Chains of which a part has happened.
    pub fn torn(&self) -> impl Iterator<Item = String> + '_ {
        let torn = |chain: &&Vec<Id>| {
            let happened = chain.iter().filter(|id| self.happened.contains_key(id)).count();
            happened > 0 && happened < chain.len()
        };
        self.chains
            .iter()
            .filter(torn)
            .map(|chain| format!("E-2.2: of linked transfers only some happened: {chain:?}"))
    }

    /// What an event reserves on behalf of a service: for what, and whose money it is.
    pub(super) fn reserved_by(&self, service: ServiceId, event: &Booked) -> Vec<(Id, Option<Principal>)> {
        let Booked::TransfersRecorded(recorded) = event else { return Vec::new() };
        let done = rows::rows(recorded).filter(|row| row.code == TransferCode::Ok);
        let by = |row: Row| {
            row.coordinator.filter(|by| by.service == service).map(|by| (by.id, self.owner(row.debit)))
        };
        done.filter_map(by).collect()
    }

    /// Books an event; what of it may not be.
    pub fn book(&mut self, seen: &Seen, event: Booked) -> Wrong {
        self.begin();
        let mut wrong = Wrong::new();
        if matches!(event, Booked::DepositRecorded(_) | Booked::WithdrawalRecorded(_))
            && !is_platform(seen.who)
        {
            wrong.push(format!("{} moves money over the border", seen.who));
        }
        match event {
            Booked::TransfersRecorded(recorded) => {
                for row in rows::rows(&recorded) {
                    match row.code {
                        TransferCode::Ok => wrong.extend(self.transfer(seen, &row)),
                        TransferCode::Exists => wrong.extend(self.unlike(&row)),
                        _ => {}
                    }
                }
            }
            Booked::HoldsExpired(expired) => {
                ids(&expired.holds).for_each(|id| wrong.extend(self.expires(seen, id)));
            }
            Booked::AccountOpened(e) => {
                let (id, owner) = (Id::from_slice(&e.account), Principal::from_slice(&e.owner));
                self.owners.extend(id.zip(owner));
            }
            Booked::AccountFrozen(e) => {
                let id = raw(&e.account);
                self.frozen.remove(&id);
                self.frozen.extend(e.frozen_out.then_some(id));
            }
            Booked::DepositRecorded(e) => {
                wrong.extend(self.refer(&e.reference, raw(&e.account), e.amount_units));
                self.cross(&e.account, e.amount_units.into());
            }
            Booked::WithdrawalRecorded(e) => {
                wrong.extend(self.refer(&e.reference, raw(&e.account), e.amount_units));
                wrong.extend(self.leaves_frozen(raw(&e.account)));
                self.cross(&e.account, -i128::from(e.amount_units));
                wrong.extend(self.overdrawn(raw(&e.account)));
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

    /// A transfer that happened, and what forbids it: it did before, its account is another's, frozen or has not as much
    /// (E-2.1, E-2.5).
    fn transfer(&mut self, seen: &Seen, row: &Row) -> Wrong {
        let mut wrong = Wrong::new();
        if self.happened.insert(row.id, *row).is_some() {
            wrong.push(format!("transfer {} happened twice", row.id));
        }
        wrong.extend(self.otherwise(seen, row));
        match row.kind {
            TransferKind::Single | TransferKind::Hold => {
                wrong.extend(self.leaves_frozen(row.debit));
                let (who, owner) = (seen.who, self.owner(row.debit));
                // Staff moves the platform's money and its own, no party's.
                let by_staff = who.kind == PrincipalKind::Staff && owner.is_none_or(|of| !is_party(of));
                if who.kind != PrincipalKind::Service && owner != Some(who) && !by_staff {
                    wrong.push(format!(
                        "{who} has moved money of account {}, which is not its own",
                        row.debit
                    ));
                }
                if row.kind == TransferKind::Single {
                    self.pay(row)
                } else {
                    self.hold(seen, row)
                }
                wrong.extend(self.overdrawn(row.debit));
            }
            TransferKind::Post | TransferKind::Void => match self.end(row.hold) {
                Ok(held) => wrong.extend(self.ended(seen, row, &held)),
                Err(why) => wrong.push(why),
            },
            TransferKind::Unspecified => wrong.push("a transfer of no kind".into()),
        }
        wrong
    }

    /// What happened is what was asked, all of it; of a balancing transfer, as much as there was (E-2.2). Nothing burns (E-2.4,
    /// profile H).
    fn otherwise(&self, seen: &Seen, row: &Row) -> Option<String> {
        let Some(asked) = self.asked.get(&row.id) else {
            let by_day = self.dawn.is_some_and(|dawn| seen.at > dawn);
            return by_day.then(|| format!("E-2.1: nobody has asked for this: {row:?}"));
        };
        let available = self.available(row.debit);
        let moves = |of: &Move| {
            let units = i128::from(of.amount.units());
            let units = if of.balancing { units.min(available) } else { units };
            (of.debit, of.credit, units) == (row.debit, row.credit, row.amount.into())
        };
        let held = self.holds.get(&row.hold).map(|held| held.units);
        let is = |kind: &Kind| match kind {
            Kind::Single(of) => row.kind == TransferKind::Single && moves(of),
            Kind::Hold { of, timeout_ms, .. } => {
                let expires = timeout_ms.map(|ms| seen.at.after_millis(ms));
                row.kind == TransferKind::Hold && moves(of) && row.expires == expires
            }
            Kind::Post { hold, amount } => {
                let units = amount.map_or(held, |amount| Some(amount.units()));
                row.kind == TransferKind::Post && row.hold == *hold && Some(row.amount) == units
            }
            Kind::Void { hold } => {
                row.kind == TransferKind::Void && row.hold == *hold && Some(row.amount) == held
            }
        };
        let right = row.burned == 0 && asked.iter().any(is);
        (!right).then(|| format!("E-2.1: {asked:?} was asked, and this happened: {row:?}"))
    }

    fn hold(&mut self, seen: &Seen, row: &Row) {
        let coordinator = row.coordinator.map(|by| by.service);
        let Row { debit, credit, expires, .. } = *row;
        let held = Held { units: row.amount, debit, credit, opener: seen.who, coordinator, expires };
        self.holds.insert(row.id, held);
        *self.reserved.entry(debit).or_default() += i128::from(row.amount);
    }

    /// E-2.2: what forbids that a hold ended so. Who coordinates it ends it, and where nobody does, who opened it; who would
    /// be paid may do without.
    fn ended(&mut self, seen: &Seen, row: &Row, held: &Held) -> Wrong {
        let mut wrong = Wrong::new();
        let may = match held.coordinator {
            Some(service) => seen.who == Principal::service(service),
            None => {
                let renounces = row.kind == TransferKind::Void && self.owner(held.credit) == Some(seen.who);
                renounces || seen.who == held.opener
            }
        };
        if !may {
            wrong.push(format!("E-2.2: {} ended hold {}, which is not its own", seen.who, row.hold));
        }
        if held.expires.is_some_and(|at| at <= seen.at) {
            wrong.push(format!("E-2.2: hold {} ended when its time was over", row.hold));
        }
        if (row.debit, row.credit) != (held.debit, held.credit) {
            wrong.push(format!("E-2.2: hold {} ended between other accounts", row.hold));
        }
        if row.kind == TransferKind::Post {
            self.pay(row);
        }
        if row.amount > held.units {
            wrong.push(format!("of hold {}, {}, {} were posted", row.hold, held.units, row.amount));
        }
        wrong
    }

    /// E-2.3: what was answered as there already is there, and the same.
    fn unlike(&self, row: &Row) -> Option<String> {
        let same = |first: &Row| {
            let sides = !matches!(row.kind, TransferKind::Single | TransferKind::Hold)
                || (first.debit, first.credit) == (row.debit, row.credit);
            sides
                && (first.kind, first.hold, first.digest) == (row.kind, row.hold, row.digest)
                && first.amount == row.amount
        };
        let is_there = self.happened.get(&row.id).is_some_and(same);
        (!is_there)
            .then(|| format!("E-2.3: transfer {} was answered as the one before, and is another", row.id))
    }

    /// What an account has, less what holds reserve of it.
    fn available(&self, account: Id) -> i128 {
        let of = |amounts: &BTreeMap<Id, i128>| amounts.get(&account).copied().unwrap_or(0);
        of(&self.balances) - of(&self.reserved)
    }

    /// E-2.1: what holds reserve counts, too. Only what stands for the outside may owe.
    fn overdrawn(&self, account: Id) -> Option<String> {
        let left = self.available(account);
        (left < 0).then(|| format!("E-2.1: account {account} is overdrawn by {}", -left))
    }

    fn leaves_frozen(&self, account: Id) -> Option<String> {
        self.frozen.contains(&account).then(|| format!("money left account {account}, which is frozen"))
    }

    /// What comes in or goes out has a reference that is unique for ever (design.md §7.1).
    fn refer(&mut self, reference: &str, account: Id, units: u64) -> Option<String> {
        let before = self.moved.insert(reference.to_owned(), (account, units));
        before.map(|_| format!("reference {reference:?} moved money twice"))
    }

    /// E-2.2: a hold ends at most once.
    fn end(&mut self, id: Id) -> Result<Held, String> {
        let held = self.holds.remove(&id).ok_or_else(|| format!("hold {id} ended, and was not open"))?;
        *self.reserved.entry(held.debit).or_default() -= i128::from(held.units);
        Ok(held)
    }

    /// E-2.2: not before its time.
    fn expires(&mut self, seen: &Seen, id: Id) -> Option<String> {
        match self.end(id) {
            Ok(held) if held.expires.is_some_and(|at| at <= seen.at) => None,
            Ok(_) => Some(format!("E-2.2: hold {id} expired before its time")),
            Err(wrong) => Some(wrong),
        }
    }

    fn pay(&mut self, row: &Row) {
        self.add(row.debit, -i128::from(row.amount));
        self.add(row.credit, i128::from(row.amount) - i128::from(row.burned));
        self.add(named("burn_inbox/HOL"), row.burned.into());
    }

    fn cross(&mut self, account: &[u8], units: i128) {
        self.add(raw(account), units);
        self.add(named("external/USD"), -units);
    }

    fn add(&mut self, account: Id, units: i128) {
        *self.balances.entry(account).or_default() += units;
    }
}

/// Who may move what is not its own, and over the border.
/// Somebody outside: an account, a node, a gateway.
fn is_party(who: Principal) -> bool {
    matches!(who.kind, PrincipalKind::Account | PrincipalKind::Node | PrincipalKind::Gateway)
}

fn is_platform(who: Principal) -> bool {
    matches!(who.kind, PrincipalKind::Service | PrincipalKind::Staff)
}

fn named(account: &str) -> Id {
    holmes_ledger::system_account(account)
}

//! What renters pay for a window, and who gets it (E-9.1, E-9.2): cumulative over a session, ceiled for who pays, floored for
//! who is paid.

use std::collections::BTreeMap;

use holmes_kernel::{Id, Principal};
use holmes_proto::columns::{ids, wide};
use holmes_proto::ledger::v1::{Transfer, TransferKind};
use holmes_proto::market::v1::event::Event as Sold;
use holmes_proto::market::v1::{
    AccountSet, CallsNoted, OwedPaid, OwedSent, SessionFunded, SessionOpened, Settled, SettlementSent,
    WindowEnded,
};

use super::{Seen, Wrong, asked_of_ledger, ceiled, divided, id, is_shared, owner, owners, raw};
use crate::world::{EPOCH_S, START, USD};

/// E-9.1: buyer's and seller's fee and the surcharge on the price of who pays in dollars, parts per billion.
const RATES: [u128; 3] = [20_000_000, 30_000_000, 25_000_000];
const PPB: u128 = 1_000_000_000;
const PICO_PER_MICRO: u128 = 1_000_000;
/// Millionths in a unit of work.
const MICRO: u128 = 1_000_000;

/// Who is paid what for a window: node, owner, credit.
type Key = (Id, Principal, i32);

/// Sessions, and who is paid where.
#[derive(Debug, Default)]
pub(super) struct Sales {
    sessions: BTreeMap<Id, Session>,
    accounts: BTreeMap<(Principal, u32), Id>,
    /// The price of the token that was sealed last, micro-dollars.
    price: Option<u64>,
    /// What waits for owners without an account, and what of it the ledger was asked to pay.
    owed: BTreeMap<(Principal, u32), [u64; 2]>,
}

#[derive(Debug)]
struct Session {
    renter: Principal,
    asset: u32,
    account: Id,
    hold: Id,
    /// Micro-dollars for one whole token; 0 of the dollar.
    token_price: u128,
    /// What a hold covers at once, micro-dollars.
    budget: u128,
    /// What may be billed in all, and what was, pico-dollars.
    cap: u128,
    billed: u128,
    /// It takes no calls any more.
    closed: bool,
    /// Pico-dollars of windows that are settled.
    settled: u128,
    /// Of the window that has ended and is not settled.
    ended: Option<WindowEnded>,
    ended_rows: BTreeMap<Key, Row>,
    /// Of the window that runs.
    rows: BTreeMap<Key, Row>,
    /// Work below one unit that goes into the next window, millionths.
    rest: BTreeMap<Key, u128>,
    sent: Option<SettlementSent>,
    totals: Totals,
}

/// What was metered of a node in a window.
#[derive(Clone, Copy, Debug, Default)]
struct Row {
    pico: u128,
    /// Work, millionths of a unit.
    work: u128,
}

impl Row {
    fn add(&mut self, more: Row) {
        (self.pico, self.work) = (self.pico + more.pico, self.work + more.work);
    }
}

/// What a session has come to: micro-dollars of price, base units of all else.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
struct Totals {
    charged: u128,
    paid: u128,
    fees: u128,
    surcharges: u128,
}

/// What a price comes to, micro-dollars: the two fees and the surcharge.
fn bill(price: u128, rates: [u128; 3]) -> [u128; 3] {
    rates.map(|rate| ceiled(price, rate, PPB))
}

impl Session {
    fn opened(event: &SessionOpened) -> Session {
        Session {
            renter: owner(&event.renter),
            asset: event.asset,
            account: raw(&event.account),
            hold: raw(&event.hold),
            token_price: event.token_price_micro_usd.into(),
            budget: event.budget_micro_usd.into(),
            cap: 0,
            billed: 0,
            closed: false,
            settled: 0,
            ended: None,
            ended_rows: BTreeMap::new(),
            rows: BTreeMap::new(),
            rest: BTreeMap::new(),
            sent: None,
            totals: Totals::default(),
        }
    }

    fn rates(&self) -> [u128; 3] {
        let [buyer, seller, surcharge] = RATES;
        [buyer, seller, if self.asset == USD { surcharge } else { 0 }]
    }

    /// What micro-dollars come to for the payer.
    fn paid_in(&self, micro: u128) -> u128 {
        if self.token_price == 0 { micro } else { ceiled(micro, PPB, self.token_price) }
    }

    /// What they come to for who is paid.
    fn paid_out(&self, micro: u128) -> u128 {
        if self.token_price == 0 { micro } else { divided(micro, PPB, self.token_price).0 }
    }

    /// What all that a price comes to is in base units, in all.
    fn totals(&self, price: u128) -> Totals {
        let [buyer, seller, surcharge] = bill(price, self.rates());
        Totals {
            charged: self.paid_in(price + buyer + surcharge),
            paid: self.paid_out(price - seller),
            fees: self.paid_out(buyer + seller),
            surcharges: self.paid_out(surcharge),
        }
    }

    /// A window that has ended is settled with what follows it.
    fn reopen(&mut self) {
        for (key, row) in std::mem::take(&mut self.ended_rows) {
            self.rest.remove(&key);
            self.rows.entry(key).or_default().add(row);
        }
        self.ended = None;
    }

    /// What was metered and not settled is nobody's.
    fn lost(&mut self) {
        self.reopen();
        self.billed -= std::mem::take(&mut self.rows).values().map(|row| row.pico).sum::<u128>();
    }

    /// E-9.1: base units that a hold reserves at most; a payer in the token has a margin of 5 %.
    fn held(&self) -> u128 {
        let units = self.paid_in(self.budget);
        if self.token_price == 0 { units } else { units + ceiled(units, 5, 100) }
    }

    /// E-9.1: as much may be metered as a buyer can pay from a hold of the budget, behind what is settled.
    fn funded(&mut self, event: &SessionFunded) -> Option<String> {
        let pays = |price: u128| {
            let [buyer, _, surcharge] = bill(price, self.rates());
            price + buyer + surcharge
        };
        let (covers, cap) = (pays(self.settled / PICO_PER_MICRO) + self.budget, wide(&event.cap_pico_usd));
        let cap = cap.unwrap_or(0);
        let (price, rest) = (cap / PICO_PER_MICRO, cap % PICO_PER_MICRO);
        let is_most = rest == 0 && pays(price) <= covers && pays(price + 1) > covers;
        let before = std::mem::replace(&mut self.cap, cap);
        (!is_most && cap != before).then(|| {
            let session = raw(&event.session);
            format!("E-9.1: session {session} may be metered {cap} with a hold that covers {covers}")
        })
    }

    /// E-9.1: nothing is billed to nobody while the hold covers it.
    fn noted(&mut self, event: &CallsNoted) -> Wrong {
        let key = (raw(&event.node), owner(&event.owner), event.credit);
        let [pico, work] =
            [&event.billed_pico_usd, &event.billed_micro_units].map(|sum| wide(sum).unwrap_or(0));
        self.rows.entry(key).or_default().add(Row { pico, work });
        self.billed += pico;
        let unbilled = wide(&event.unbilled_pico_usd).unwrap_or(0);
        let wrong =
            (self.billed > self.cap || (unbilled > 0 && self.billed + unbilled <= self.cap)).then(|| {
                let (billed, cap, session) = (self.billed, self.cap, raw(&event.session));
                format!("E-9.1: session {session} has billed {billed} of {cap}, and {unbilled} to nobody")
            });
        wrong.into_iter().collect()
    }

    /// E-9.1, E-9.2: what a window comes to is what the session comes to with it, less what it came to before; its rows
    /// share that by E-0.4.
    fn window(&mut self, event: WindowEnded) -> Wrong {
        self.reopen();
        self.ended_rows = std::mem::take(&mut self.rows);
        let pico: Vec<u128> =
            keys(&event).map(|key| self.ended_rows.get(&key).map_or(0, |row| row.pico)).collect();
        let work = self.work(&event);
        let all = self.settled + pico.iter().sum::<u128>();
        let (before, after) = (self.settled / PICO_PER_MICRO, all / PICO_PER_MICRO);
        let (fees_before, fees_after) = (bill(before, self.rates()), bill(after, self.rates()));
        let [buyer, seller, surcharge] = [0, 1, 2].map(|at| narrow(fees_after[at] - fees_before[at]));
        let (was, is) = (self.totals, self.totals(after));
        let prices: Vec<u128> = event.price_micro_usd.iter().map(|price| u128::from(*price)).collect();
        let nets = event.price_micro_usd.iter().zip(&event.seller_fee_micro_usd);
        let nets: Vec<u128> = nets.map(|(price, fee)| u128::from(price.saturating_sub(*fee))).collect();
        let paid = narrow(is.paid - was.paid);
        let right = [
            ("rows", pico.len() == self.ended_rows.len()),
            ("work", work == event.units),
            ("price", is_shared(narrow(after - before), &event.price_micro_usd, &pico)),
            ("buyer's fee", is_shared(buyer, &event.buyer_fee_micro_usd, &prices)),
            ("seller's fee", is_shared(seller, &event.seller_fee_micro_usd, &prices)),
            ("owners' part", is_shared(paid, &event.paid_units, &nets)),
            ("surcharge", event.surcharge_micro_usd == surcharge),
            ("charge", u128::from(event.charged_units) == is.charged - was.charged),
            ("fees' units", u128::from(event.fee_units) == is.fees - was.fees),
            ("surcharge's units", u128::from(event.surcharge_units) == is.surcharges - was.surcharges),
        ];
        let (session, window) = (raw(&event.session), event.window);
        self.ended = Some(event);
        let wrong = right.into_iter().filter(|(_, right)| !right);
        wrong
            .map(|(what, _)| {
                format!("E-9.1: session {session}, window {window}: the {what} is not what it comes to")
            })
            .collect()
    }

    /// E-3.2: whole units of the ended rows; what is below one goes on.
    fn work(&mut self, event: &WindowEnded) -> Vec<u64> {
        let units = keys(event).map(|key| {
            let row = self.ended_rows.entry(key).or_default();
            row.work += self.rest.remove(&key).unwrap_or(0);
            self.rest.insert(key, row.work % MICRO);
            narrow(row.work / MICRO)
        });
        units.collect()
    }

    /// E-9.1: who is asked to be paid for the ended window, by account.
    fn dues(&self, accounts: &BTreeMap<(Principal, u32), Id>, last: bool) -> BTreeMap<Id, u128> {
        let mut dues: BTreeMap<Id, u128> = BTreeMap::new();
        let mut out = self.totals.paid + self.totals.fees + self.totals.surcharges;
        let mut pay = |account: Id, units: u64| {
            out += u128::from(units);
            *dues.entry(account).or_default() += u128::from(units);
        };
        if let Some(event) = &self.ended {
            for ((_, owner, _), units) in keys(event).zip(&event.paid_units) {
                let account = accounts.get(&(owner, self.asset)).copied();
                pay(account.unwrap_or_else(|| self.purse("unclaimed")), *units);
            }
            pay(self.purse("fees"), event.fee_units);
            pay(self.purse("surcharges"), event.surcharge_units);
        }
        if last {
            let charged =
                self.totals.charged + self.ended.as_ref().map_or(0, |event| event.charged_units.into());
            *dues.entry(self.purse("rounding")).or_default() += charged.saturating_sub(out);
        }
        dues.retain(|_, units| *units > 0);
        dues
    }

    /// E-9.1: the hold pays what was charged, and everybody gets what is due, from the market's account.
    fn settles(&mut self, event: SettlementSent, accounts: &BTreeMap<(Principal, u32), Id>) -> Wrong {
        let market = self.purse("market");
        let mut wrong = Wrong::new();
        let mut paid: BTreeMap<Id, u128> = BTreeMap::new();
        for transfer in asked_of_ledger(&event.send) {
            let units = u128::from(transfer.amount_units);
            let [debit, credit] =
                [&transfer.debit_account_id, &transfer.credit_account_id].map(|text| id(text));
            let right = match transfer.kind() {
                TransferKind::Single => {
                    *paid.entry(credit).or_default() += units;
                    debit == market
                }
                TransferKind::Hold => {
                    let covered = units <= self.held();
                    (debit, credit) == (self.account, market) && transfer.coordinator.is_some() && covered
                }
                TransferKind::Post | TransferKind::Void => self.ends_hold(&transfer),
                TransferKind::Unspecified => false,
            };
            if !right {
                wrong.push(format!("E-9.1: session {} is settled by {transfer:?}", raw(&event.session)));
            }
        }
        let due = self.dues(accounts, event.last);
        if paid != due {
            wrong.push(format!("E-9.1: session {}: due is {due:?}, paid is {paid:?}", raw(&event.session)));
        }
        self.sent = Some(event);
        wrong
    }

    fn ends_hold(&self, transfer: &Transfer) -> bool {
        let charged = self.ended.as_ref().map_or(0, |event| event.charged_units);
        let kind = if charged > 0 { TransferKind::Post } else { TransferKind::Void };
        (transfer.kind(), transfer.amount_units, id(&transfer.hold_id)) == (kind, charged, self.hold)
    }

    /// The window that has ended is paid as it was asked.
    fn settled(&mut self, event: &Settled) -> Option<String> {
        let same = |ended: &WindowEnded| {
            (self.sent.is_some() || ended.charged_units == 0)
                && ended.window == event.window
                && (&ended.nodes, &ended.owners, &ended.credits)
                    == (&event.nodes, &event.owners, &event.credits)
                && (&ended.paid_units, ended.charged_units) == (&event.paid_units, event.charged_units)
                && (&ended.price_micro_usd, &ended.units) == (&event.price_micro_usd, &event.units)
        };
        let is_as_it_ended = self.ended.as_ref().is_some_and(same);
        self.ended = None;
        self.settled += std::mem::take(&mut self.ended_rows).values().map(|row| row.pico).sum::<u128>();
        self.totals = self.totals(self.settled / PICO_PER_MICRO);
        if let Some(sent) = self.sent.take()
            && let Some(hold) = Id::from_slice(&sent.hold)
        {
            self.hold = hold;
        }
        let session = raw(&event.session);
        (!is_as_it_ended).then(|| format!("E-9.2: session {session}: what is settled is not what ended"))
    }

    fn purse(&self, name: &str) -> Id {
        let asset = if self.asset == USD { "USD" } else { "HOL" };
        holmes_ledger::system_account(&format!("{name}/{asset}"))
    }
}

impl Sales {
    /// Whose a session is.
    pub(super) fn renter(&self, session: Id) -> Option<Principal> {
        self.sessions.get(&session).map(|session| session.renter)
    }

    pub(super) fn sold(&mut self, seen: &Seen, event: Sold) -> Wrong {
        match event {
            Sold::AccountSet(e) => return self.named(seen, &e),
            Sold::SessionOpened(e) => return self.opened(&e),
            Sold::HoldSent(e) => self.change(&e.session, |session| session.hold = raw(&e.hold)),
            Sold::CallsNoted(e) => return self.judge(&e.session, |session| session.noted(&e)),
            Sold::PriceSealed(e) => self.price = Some(e.token_price_micro_usd).filter(|price| *price > 0),
            Sold::SessionFunded(e) => {
                return self.judge(&e.session, |session| session.funded(&e).into_iter().collect());
            }
            Sold::WindowEnded(e) => return self.judge(&e.session.clone(), |session| session.window(e)),
            Sold::SettlementSent(e) => {
                let accounts = self.accounts.clone();
                return self.judge(&e.session.clone(), |session| session.settles(e, &accounts));
            }
            Sold::SessionClosed(e) => self.change(&e.session, |session| session.closed = true),
            Sold::CallsUnbilled(e) => {
                return self.judge(&e.session, |session| {
                    let takes = session.cap > 0 && !session.closed;
                    let wrong = takes.then(|| {
                        format!("E-9.1: session {} takes calls, and these are nobody's", raw(&e.session))
                    });
                    wrong.into_iter().collect()
                });
            }
            Sold::SettlementRefused(e) => self.refused(&e.session, owner(&e.owner)),
            Sold::Settled(e) => return self.settled(seen, &e),
            Sold::HoldLost(e) => self.change(&e.session, Session::lost),
            Sold::OwedSent(e) => return self.pays_owed(&e),
            Sold::OwedPaid(e) => self.paid_owed(&e),
            _ => {}
        }
        Wrong::new()
    }

    fn change(&mut self, session: &[u8], change: impl FnOnce(&mut Session)) {
        if let Some(session) = self.sessions.get_mut(&raw(session)) {
            change(session);
        }
    }

    fn judge(&mut self, session: &[u8], judge: impl FnOnce(&mut Session) -> Wrong) -> Wrong {
        self.sessions.get_mut(&raw(session)).map(judge).unwrap_or_default()
    }

    fn named(&mut self, seen: &Seen, event: &AccountSet) -> Wrong {
        let principal = owner(&event.principal);
        self.accounts.insert((principal, event.asset), raw(&event.account));
        let wrong = (principal != seen.who).then(|| format!("{} says where {principal} is paid", seen.who));
        wrong.into_iter().collect()
    }

    fn opened(&mut self, event: &SessionOpened) -> Wrong {
        let session = Session::opened(event);
        let rates = [event.buyer_fee_ppb, event.seller_fee_ppb, event.surcharge_ppb].map(u128::from);
        let at_price =
            event.asset == USD || self.price.is_none_or(|price| price == event.token_price_micro_usd);
        let is_right = rates == session.rates() && session.held() == u128::from(event.hold_units) && at_price;
        let wrong =
            (!is_right).then(|| format!("E-9.1: a session has other rates, hold or price: {event:?}"));
        self.sessions.insert(raw(&event.session), session);
        wrong.into_iter().collect()
    }

    /// An account that the ledger does not pay to is its owner's no more.
    fn refused(&mut self, session: &[u8], astray: Principal) {
        let found = self.sessions.get(&raw(session)).and_then(|session| {
            let sent = session.sent.as_ref()?;
            let payees = owners(&sent.payees).zip(ids(&sent.accounts));
            payees
                .into_iter()
                .find(|(payee, _)| *payee == astray)
                .map(|(_, account)| (session.asset, account))
        });
        if let Some((asset, account)) = found
            && self.accounts.get(&(astray, asset)) == Some(&account)
        {
            self.accounts.remove(&(astray, asset));
        }
    }

    fn settled(&mut self, seen: &Seen, event: &Settled) -> Wrong {
        let Some(session) = self.sessions.get_mut(&raw(&event.session)) else {
            return vec![format!("session {} is settled and was not opened", raw(&event.session))];
        };
        let payees: Vec<Principal> = session.sent.iter().flat_map(|sent| owners(&sent.payees)).collect();
        let owners = owners(&event.owners).zip(&event.paid_units);
        for (owner, units) in owners.filter(|(owner, units)| **units > 0 && !payees.contains(owner)) {
            self.owed.entry((owner, event.asset)).or_default()[0] += units;
        }
        let epoch = (seen.at.millis() - START.millis()) / (EPOCH_S * 1_000) + 1;
        let other = (event.epoch != epoch)
            .then(|| format!("E-0.5: what is settled in {epoch} is of {}", event.epoch));
        session.settled(event).into_iter().chain(other).collect()
    }

    fn paid_owed(&mut self, event: &OwedPaid) {
        let [owed, asked] = self.owed.entry((owner(&event.owner), event.asset)).or_default();
        *owed = owed.saturating_sub(std::mem::take(asked));
    }

    fn pays_owed(&mut self, event: &OwedSent) -> Wrong {
        let key = (owner(&event.owner), event.asset);
        let account = self.accounts.get(&key).copied();
        let [owed, asked] = self.owed.entry(key).or_default();
        *asked = event.units;
        let right = |transfer: &Transfer| {
            Some(id(&transfer.credit_account_id)) == account && transfer.amount_units == event.units
        };
        let transfers = asked_of_ledger(&event.send);
        let is_right = event.units <= *owed && transfers.len() == 1 && transfers.iter().all(right);
        let wrong = || format!("E-9.1: {} is paid {} of {owed} owed, by {transfers:?}", key.0, event.units);
        (!is_right).then(wrong).into_iter().collect()
    }
}

fn keys(event: &WindowEnded) -> impl Iterator<Item = Key> + '_ {
    let owners = owners(&event.owners);
    ids(&event.nodes).zip(owners).zip(&event.credits).map(|((node, owner), credit)| (node, owner, *credit))
}

fn narrow(wide: u128) -> u64 {
    u64::try_from(wide).unwrap_or(u64::MAX)
}

//! Emission on a disk that is always done, and a ledger whose moods the test chooses.

use std::collections::BTreeMap;

use holmes_emission::command::{Fact, Outcome, WorkRow};
use holmes_emission::state::{ACCOUNTS, Account, Awaited};
use holmes_emission::{Command, Emission, LEDGER, State, params};
use holmes_kernel::{Amount, Event as _, Id, LogId, Opened, Principal, PrincipalKind, ServiceId, Time};
use holmes_proto::emission::v1::Params;
use holmes_proto::ledger::v1 as ledger;
use holmes_testing::Driver;
use prost::Message;

pub(crate) const HOL: u64 = 1_000_000_000;
pub(crate) const EPOCH_MS: u64 = 45_000;
pub(crate) const START: Time = Time::from_millis(20_832 * 86_400_000);
pub(crate) const STAFF: Principal = Principal::new(PrincipalKind::Staff, Id::from_bytes([7; 16]));
pub(crate) const SOURCES: [ServiceId; 3] =
    [holmes_emission::STAKING, holmes_emission::SCHEDULING, holmes_emission::MARKET];
const LOG: LogId = LogId::new(1, ServiceId(6));

/// The n-th owner.
pub(crate) fn owner(n: u8) -> Principal {
    Principal::new(PrincipalKind::Account, Id::from_bytes([n; 16]))
}

/// The n-th node.
pub(crate) fn node_id(n: u8) -> Id {
    Id::from_bytes([100 + n; 16])
}

/// The account that the n-th node is paid to.
pub(crate) fn account(n: u8) -> Id {
    Id::from_bytes([200 + n; 16])
}

/// Epochs of 45 s from the start on, changed.
pub(crate) fn with(change: impl FnOnce(&mut Params)) -> Params {
    let mut params = params::defaults();
    (params.epoch_s, params.tge_at_ms) = (EPOCH_MS / 1_000, START.millis());
    change(&mut params);
    params
}

pub(crate) fn opened(params: &Params) -> Opened {
    Opened { cell: 1, params: params.encode_to_vec(), ..Opened::default() }
}

pub(crate) fn bonded(n: u8, of: u8, slashable: u64, rating_milli_cu: u32) -> Fact {
    Fact::Node {
        node: node_id(n),
        owner: owner(of),
        kind: 1,
        slashable: Amount::new(slashable),
        required: Amount::new(1_000 * HOL),
        rating_milli_cu,
        barred: false,
        registered: false,
    }
}

pub(crate) fn worked(n: u8, of: u8, full: bool, units: u64, fees_micro_usd: u64) -> WorkRow {
    WorkRow { node: node_id(n), owner: owner(of), full, units, fees_micro_usd }
}

/// Emission under the driver, and a ledger that carries out what the test lets it.
pub(crate) struct Play {
    pub(crate) emission: Driver<Emission>,
    /// The ledger's books, as it would have them.
    pub(crate) balances: BTreeMap<String, u64>,
}

impl Play {
    pub(crate) fn new(params: &Params) -> Play {
        let emission = Driver::<Emission>::new(LOG, START, opened(params));
        let state = emission.state();
        let pools = [Account::Trr, Account::Br, Account::Verifier].into_iter().zip(state.held);
        let balances = pools.map(|(account, units)| (state.account_id(account).to_string(), units)).collect();
        Play { emission, balances }
    }

    pub(crate) fn state(&self) -> &State {
        self.emission.state()
    }

    pub(crate) fn note(&mut self, source: ServiceId, facts: Vec<Fact>) {
        let at = self.emission.now;
        self.emission.hear(source, Command::Note { source, at, facts });
    }

    /// Answers one of the sends that wait. What is carried out moves money, and never more than there is.
    pub(crate) fn answer(&mut self, which: usize, refused: Option<&str>) {
        let waiting: Vec<u64> = self.state().awaited.keys().copied().collect();
        let Some(seq) = waiting.get(which % waiting.len().max(1)).copied() else { return };
        let is_payment = matches!(self.state().awaited[&seq], Awaited::Payments(_));
        let event = self.emission.event(seq);
        let sent = ledger::Command::decode(event.send().unwrap().command).unwrap();
        let Some(ledger::command::Command::CreateTransfers(request)) = sent.command else {
            let outcome = refused.map_or(Outcome::Done(vec![]), |reason| Outcome::Refused(reason.into()));
            self.emission.hear(LEDGER, Command::Answered { seq, outcome });
            return;
        };
        let mut reasons = Vec::new();
        for (at, transfer) in request.transfers.iter().enumerate() {
            // Of payments every second one fails: each stands by itself. A chain fails as a whole.
            let fails = refused.filter(|_| !is_payment || at % 2 == 0);
            reasons.push(fails.unwrap_or_default().to_owned());
            if fails.is_none() {
                let debit = self.balances.entry(transfer.debit_account_id.clone()).or_default();
                *debit = debit.checked_sub(transfer.amount_units).expect("nothing is overdrawn");
                *self.balances.entry(transfer.credit_account_id.clone()).or_default() +=
                    transfer.amount_units;
            }
        }
        self.emission.hear(LEDGER, Command::Answered { seq, outcome: Outcome::Done(reasons) });
    }

    /// Lets the ledger carry out whatever is asked, until it rests.
    pub(crate) fn settle(&mut self) {
        self.emission.wait(0);
        while !self.state().awaited.is_empty() {
            self.answer(0, None);
            self.emission.wait(0);
        }
    }

    /// The invariants hold, and the ledger has what emission believes.
    pub(crate) fn agrees(&self) {
        self.emission.check();
        for (account, held) in ACCOUNTS.into_iter().zip(self.state().held) {
            let id = self.state().account_id(account).to_string();
            assert_eq!(self.balances.get(&id).copied().unwrap_or_default(), held, "{account:?}");
        }
    }
}

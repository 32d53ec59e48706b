//! A renter's session: its hold, what was metered on it, and what was settled (E-9.1, E-9.2, E-10.2).

use std::collections::{BTreeMap, VecDeque};

use holmes_kernel::{Id, Principal, Time};
use holmes_proto::market::v1::{SessionOpened, SessionState, WorkCredit};
use serde::{Deserialize, Serialize};

use crate::fees::{Bill, Conversion, PICO_PER_MICRO, Rates};
use crate::params::Params;

/// Who worked, whose that is, and how it counts: [`WorkCredit`] as a number.
pub type RowKey = (Id, Principal, u8);

/// A session.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Session {
    /// Whose it is.
    pub renter: Principal,
    /// Asset that pays.
    pub asset: u32,
    /// The renter's account.
    pub account: Id,
    /// What a hold covers at once, micro-dollars.
    pub budget: u64,
    /// How micro-dollars become base units, from its opening to its end.
    pub conversion: Conversion,
    /// E-9.1: from its opening to its end.
    pub rates: Rates,
    /// When it was opened.
    pub opened_at: Time,
    /// When it ends at the latest.
    pub expires_at: Time,
    /// Where it stands.
    pub stage: Stage,
    /// Sequence number of the event whose send the ledger has not answered.
    pub asked: Option<u64>,
    /// The ledger's reason for not extending the hold; empty while it did.
    pub limited: String,
    /// Why it closes or is closed; empty before.
    pub reason: String,
    /// The hold that stands.
    pub hold: Option<Hold>,
    /// What may be charged since its beginning, micro-dollars.
    pub covers: u128,
    /// Price that may be metered since its beginning, pico-dollars.
    pub cap: u128,
    /// Sequence number of the event that funded it last.
    pub funded_seq: u64,
    /// Price that was metered and is billed, pico-dollars.
    pub metered: u128,
    /// Price that was metered and nobody pays, pico-dollars.
    pub unbilled: u128,
    /// A call has passed the cap since it was last funded.
    pub capped: bool,
    /// Calls metered.
    pub calls: u64,
    /// Metered in the window that runs.
    #[serde(with = "holmes_kernel::pairs")]
    pub rows: BTreeMap<RowKey, Row>,
    /// When the window that runs had its first call.
    pub window_at: Time,
    /// Calls of the window that runs.
    pub window_calls: u64,
    /// When the last call was metered; before the first, when it was funded.
    pub last_call_at: Time,
    /// A lease lasts until then: calls run, which are metered when they end.
    pub leased_until: Time,
    /// Price of all windows that have ended, pico-dollars.
    pub taken: u128,
    /// Number of the window that ended last.
    pub window: u64,
    /// The window that has ended and is not paid yet.
    pub ended: Option<Ended>,
    /// What the ledger was asked and has not answered, or what it refused last.
    pub sent: Option<Sent>,
    /// The last settlement has begun: nothing is metered any more.
    pub finishing: bool,
    /// The next hold is what is left of this one.
    pub shrink: bool,
    /// How often the ledger refused since it last settled.
    pub refusals: u32,
    /// How many sends it had: what makes their ids differ.
    pub sends: u32,
    /// When the ledger is asked again.
    pub retry_at: Time,
    /// Closing: its last settlement begins then.
    pub finishes_at: Time,
    /// Closed: when.
    pub closed_at: Time,
    /// What was settled.
    pub totals: Totals,
    /// Work below one unit that is carried on, millionths.
    #[serde(with = "holmes_kernel::pairs")]
    pub work_rest: BTreeMap<RowKey, u64>,
    /// Lines of its invoice, the newest.
    pub lines: VecDeque<Line>,
    /// When time alone does something with it.
    pub timer: Option<Time>,
}

/// Where a session stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Stage {
    /// The ledger has been asked for the hold.
    Opening,
    /// Takes calls.
    Open,
    /// Takes the rest of the calls that run.
    Closing,
    /// Over.
    Closed,
}

/// A hold in the ledger.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Hold {
    /// Its transfer id.
    pub id: Id,
    /// Base units.
    pub units: u64,
}

/// What was metered of a node.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Row {
    /// Calls.
    pub calls: u64,
    /// Tokens read.
    pub input_tokens: u64,
    /// Tokens written.
    pub output_tokens: u64,
    /// Billed price, pico-dollars.
    pub pico: u128,
    /// Billed work, millionths of a unit.
    pub micro_units: u128,
}

/// A window that has ended, and what it comes to.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Ended {
    /// Row by row.
    pub rows: Vec<EndedRow>,
    /// Surcharge, micro-dollars.
    pub surcharge: u64,
    /// What the renter pays, base units.
    pub charged: u64,
    /// For `fees/<asset>`, base units.
    pub fee_units: u64,
    /// For `surcharges/<asset>`, base units.
    pub surcharge_units: u64,
}

/// A row of a window that has ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct EndedRow {
    /// Whose.
    pub key: RowKey,
    /// What was metered.
    pub row: Row,
    /// Work units.
    pub units: u64,
    /// Price, micro-dollars.
    pub price: u64,
    /// Buyer's fee, micro-dollars.
    pub buyer_fee: u64,
    /// Seller's fee, micro-dollars.
    pub seller_fee: u64,
    /// What the owner gets, base units.
    pub paid: u64,
}

/// What the ledger was asked.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Sent {
    /// Owners and their accounts, as transfers 1, 2, … of the chain.
    pub payees: Vec<(Principal, Id)>,
    /// The next hold.
    pub hold: Option<Hold>,
    /// What may be charged with it, micro-dollars.
    pub covers: u128,
    /// Transfers of the chain.
    pub transfers: u32,
}

/// What was settled since the session's beginning.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Totals {
    /// Price, micro-dollars.
    pub price: u128,
    /// Base units that the renter paid.
    pub charged: u128,
    /// Base units for the nodes' owners.
    pub paid: u128,
    /// Base units for `fees/<asset>`.
    pub fees: u128,
    /// Base units for `surcharges/<asset>`.
    pub surcharges: u128,
    /// Base units for `rounding/<asset>`.
    pub rounding: u128,
}

impl Totals {
    /// Base units that lie in `market/<asset>` until the session closes: what conversion has left over.
    pub fn left_over(&self) -> u128 {
        let out = self.paid + self.fees + self.surcharges + self.rounding;
        self.charged.saturating_sub(out)
    }
}

/// A line of an invoice.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Line {
    /// Number of the window.
    pub window: u64,
    /// When the ledger had paid it.
    pub at: Time,
    /// What it came to.
    pub row: EndedRow,
}

/// What a session's time has come for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Step {
    /// The window is over.
    Settle,
    /// The ledger is asked again.
    Resend,
    /// It closes: no call came.
    Idle,
    /// It closes: it has lived as long as it may.
    Expire,
    /// Its last settlement.
    Finish,
    /// It is remembered no more.
    Forget,
}

impl Session {
    /// A session that was just opened.
    pub(super) fn opened(
        event: &SessionOpened,
        [account, hold]: [Id; 2],
        renter: Principal,
        now: Time,
        seq: u64,
    ) -> Session {
        Session {
            renter,
            asset: event.asset,
            account,
            budget: event.budget_micro_usd,
            conversion: Conversion { token_price: event.token_price_micro_usd },
            rates: Rates {
                buyer_ppb: event.buyer_fee_ppb,
                seller_ppb: event.seller_fee_ppb,
                surcharge_ppb: event.surcharge_ppb,
            },
            opened_at: now,
            expires_at: Time::from_micros(event.expires_at_us),
            stage: Stage::Opening,
            asked: Some(seq),
            limited: String::new(),
            reason: String::new(),
            hold: Some(Hold { id: hold, units: event.hold_units }),
            covers: 0,
            cap: 0,
            funded_seq: 0,
            metered: 0,
            unbilled: 0,
            capped: false,
            calls: 0,
            rows: BTreeMap::new(),
            window_at: now,
            window_calls: 0,
            last_call_at: now,
            leased_until: Time::default(),
            taken: 0,
            window: 0,
            ended: None,
            sent: None,
            finishing: false,
            shrink: false,
            refusals: 0,
            sends: 1,
            retry_at: Time::default(),
            finishes_at: Time::default(),
            closed_at: Time::default(),
            totals: Totals::default(),
            work_rest: BTreeMap::new(),
            lines: VecDeque::new(),
            timer: None,
        }
    }

    /// As the wire names where it stands (E-10.2).
    pub fn state(&self) -> SessionState {
        match self.stage {
            Stage::Opening => SessionState::Opening,
            Stage::Open if self.limited.is_empty() => SessionState::Active,
            Stage::Open => SessionState::InsufficientFunds,
            Stage::Closing => SessionState::Closing,
            Stage::Closed => SessionState::Closed,
        }
    }

    /// Whether calls are billed on it now, or the stable reason why not.
    ///
    /// # Errors
    /// `SESSION_NOT_FUNDED` or `SESSION_CLOSED`.
    pub fn takes_calls(&self) -> Result<(), &'static str> {
        match self.stage {
            Stage::Opening => Err("SESSION_NOT_FUNDED"),
            Stage::Closed => Err("SESSION_CLOSED"),
            // Closed before it was funded, or in its last settlement.
            Stage::Closing if self.finishing || self.funded_seq == 0 => Err("SESSION_CLOSED"),
            Stage::Open | Stage::Closing => Ok(()),
        }
    }

    /// Whether calls that run may still be metered, although it closes.
    pub fn drains(&self) -> bool {
        self.stage == Stage::Closing && self.takes_calls().is_ok()
    }

    /// Whether the ledger has been asked and has not answered.
    pub fn awaits(&self) -> bool {
        self.asked.is_some()
    }

    /// E-9.1: the bill of everything that was metered.
    pub fn bill(&self) -> Bill {
        Bill::of(self.metered / PICO_PER_MICRO, &self.rates)
    }

    /// What was charged, micro-dollars.
    pub fn charged_micro(&self) -> u128 {
        Bill::of(self.totals.price, &self.rates).buyer_pays()
    }

    /// E-9.1: whether so much of the hold is used that it is extended.
    fn is_used(&self, extend_at_ppb: u64) -> bool {
        let charged = self.charged_micro();
        let (used, all) =
            (self.bill().buyer_pays().saturating_sub(charged), self.covers.saturating_sub(charged));
        all > 0 && used.saturating_mul(1_000_000_000) >= all.saturating_mul(extend_at_ppb.into())
    }

    /// When it closes, unless a call is metered or a lease is granted or renewed before.
    pub fn idle_at(&self, params: &Params) -> Time {
        self.last_call_at.after_millis(params.idle_ms).max(self.leased_until)
    }

    /// What time alone does next with it, and when. Nothing while the ledger's answer is awaited.
    pub fn next(&self, params: &Params) -> Option<(Time, Step)> {
        if self.awaits() {
            return None;
        }
        match self.stage {
            Stage::Opening => None,
            Stage::Closed => Some((self.closed_at.after_millis(params.keep_closed_ms), Step::Forget)),
            Stage::Open | Stage::Closing if self.sent.is_some() => Some((self.retry_at, Step::Resend)),
            Stage::Closing => Some((self.finishes_at, Step::Finish)),
            Stage::Open => {
                let idle = (self.idle_at(params), Step::Idle);
                let expiry = (self.expires_at, Step::Expire);
                let settle = self.settles_at(params).map(|at| (at, Step::Settle));
                settle.into_iter().chain([expiry, idle]).min_by_key(|(at, _)| *at)
            }
        }
    }

    /// E-9.2: when the window that runs is over.
    fn settles_at(&self, params: &Params) -> Option<Time> {
        if self.rows.is_empty() {
            return None;
        }
        if self.window_calls >= params.window_calls || self.capped || self.is_used(params.extend_at_ppb) {
            return Some(self.window_at);
        }
        let end = self.window_at.after_millis(params.window_ms);
        let calendar = &params.calendar;
        let epoch_ends = calendar.ends(calendar.epoch(self.window_at));
        // E-0.5: so long before an epoch's end that the ledger can answer within it.
        let last_call = epoch_ends.micros().saturating_sub(params.seal_after_ms.saturating_mul(1_000));
        let last_call = Time::from_micros(last_call);
        Some(if last_call > self.window_at { end.min(last_call) } else { end })
    }
}

/// How work counts, as a number on the wire.
pub fn credit_of(number: u8) -> WorkCredit {
    WorkCredit::try_from(i32::from(number)).unwrap_or(WorkCredit::Unspecified)
}

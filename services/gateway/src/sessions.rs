//! Renters' sessions: one for each renter and asset, opened when it is first needed, whose hold covers many calls
//! (E-9.1). Idle ones are left to the market, which closes them.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use holmes_kernel::{Code, Id, Principal, Refusal, Time};
use holmes_proto::market::v1 as market;
use holmes_runtime::Clock;
use tokio::time::Instant;

use crate::guarded;
use crate::settings::{Settings, ms};
use crate::upstream::{Upstream, may_change, request_id};

/// A session that takes calls.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Session {
    /// Its id.
    pub(crate) id: Id,
    /// Where the market has funded it: scheduling must have read the market's log up to there.
    pub(crate) funded_seq: u64,
    ends: Time,
}

/// Who pays with what.
type Payer = (Principal, u32);

/// One payer's session; whoever opens it holds the lock, the others wait.
type Place = Arc<tokio::sync::Mutex<Option<Known>>>;

/// What is known of a payer.
#[derive(Debug)]
enum Known {
    Open(Session),
    /// No session opens, and so it is said until then without asking: who has no money could otherwise fill the logs.
    /// That money has come is known only by asking, so it is short.
    Refused(Refusal, Instant),
}

/// The sessions.
pub(crate) struct Sessions {
    upstream: Upstream,
    clock: Clock,
    wait: Duration,
    refused_for: Duration,
    left_ms: u64,
    most: usize,
    token_name: String,
    places: Mutex<BTreeMap<Payer, Place>>,
}

/// The first pause before the market is asked whether a hold stands; it grows.
const PAUSE: Duration = Duration::from_millis(5);
const LONGEST_PAUSE: Duration = Duration::from_millis(200);

impl Sessions {
    pub(crate) fn new(upstream: Upstream, clock: Clock, settings: &Settings) -> Sessions {
        Sessions {
            upstream,
            clock,
            wait: ms(settings.session_wait_ms),
            refused_for: ms(settings.session_refused_ms),
            left_ms: settings.session_left_ms,
            most: settings.most_sessions,
            token_name: settings.token_name.clone(),
            places: Mutex::default(),
        }
    }

    /// The payer's session, opened if there is none that lasts.
    pub(crate) async fn get_or_open(&self, renter: Principal, asset: u32) -> Result<Session, Refusal> {
        let place = self.place((renter, asset));
        let mut known = place.lock().await;
        let needed = self.clock.now().after_millis(self.left_ms);
        match &*known {
            Some(Known::Open(session)) if session.ends > needed => return Ok(session.clone()),
            Some(Known::Refused(refused, until)) if Instant::now() < *until => {
                return Err(again_at(refused, *until));
            }
            _ => {}
        }
        match self.open(renter, asset).await {
            Ok(opened) => {
                *known = Some(Known::Open(opened.clone()));
                Ok(opened)
            }
            Err(refused) if may_change(&refused) => Err(refused),
            Err(refused) => {
                let until = Instant::now() + self.refused_for;
                let told = again_at(&refused, until);
                *known = Some(Known::Refused(refused, until));
                Err(told)
            }
        }
    }

    /// Forgets a session that takes no more calls: the next call opens another one.
    pub(crate) async fn forget(&self, renter: Principal, asset: u32, session: Id) {
        let place = self.place((renter, asset));
        let mut known = place.lock().await;
        if matches!(&*known, Some(Known::Open(known)) if known.id == session) {
            *known = None;
        }
    }

    fn place(&self, payer: Payer) -> Place {
        let mut places = guarded(&self.places);
        if places.len() >= self.most && !places.contains_key(&payer) {
            // Forgotten ones are not lost: the market closes what stays idle.
            places.retain(|_, place| Arc::strong_count(place) > 1);
        }
        places.entry(payer).or_default().clone()
    }

    async fn open(&self, renter: Principal, asset: u32) -> Result<Session, Refusal> {
        let until = Instant::now() + self.wait;
        let request = market::OpenSessionRequest {
            request_id: request_id(),
            renter: renter.to_string(),
            asset,
            budget_micro_usd: 0,
        };
        let opened = self
            .upstream
            .definite(self.wait, || {
                let (mut market, request) = (self.upstream.market(), request.clone());
                async move { market.open_session(request).await }
            })
            .await?;
        let mut session = opened.session.ok_or_else(unreadable)?;
        let mut pause = PAUSE;
        loop {
            if let Some(session) = funded(&session, &self.token_name)? {
                return Ok(session);
            }
            if Instant::now() + pause > until {
                let message = "the hold of the session does not stand yet: try again";
                return Err(
                    Refusal::new(Code::Unavailable, "SESSION_NOT_FUNDED_YET", message).retry_after(1_000)
                );
            }
            tokio::time::sleep(pause).await;
            pause = (pause * 2).min(LONGEST_PAUSE);
            let asked = market::GetSessionRequest { session_id: session.session_id.clone() };
            let mut market = self.upstream.market();
            match self.upstream.once(market.get_session(asked)).await {
                Ok(answer) => session = answer.session.ok_or_else(unreadable)?,
                Err(refused) if may_change(&refused) => {}
                Err(refused) => return Err(refused),
            }
        }
    }
}

/// A refusal that is remembered until then, with the time to come again.
fn again_at(refused: &Refusal, until: Instant) -> Refusal {
    let left = until.saturating_duration_since(Instant::now()).as_millis();
    refused.clone().retry_after(u64::try_from(left).unwrap_or(u64::MAX).max(1))
}

/// The session where its hold stands, `None` while it is on its way.
fn funded(session: &market::Session, token_name: &str) -> Result<Option<Session>, Refusal> {
    match session.state() {
        market::SessionState::Active | market::SessionState::InsufficientFunds if session.funded_seq > 0 => {
            let id = session.session_id.parse().map_err(|_| unreadable())?;
            let ends = Time::from_micros(session.expires_at_us);
            Ok(Some(Session { id, funded_seq: session.funded_seq, ends }))
        }
        market::SessionState::Opening | market::SessionState::Active => Ok(None),
        _ => Err(unfunded(session, token_name)),
    }
}

/// Why a session was not funded, and what its renter can do.
fn unfunded(session: &market::Session, token_name: &str) -> Refusal {
    let reason = if session.reason.is_empty() { "INSUFFICIENT_FUNDS" } else { &session.reason };
    let what = match reason {
        "INSUFFICIENT_FUNDS" => format!(
            "at least {} must be available in account {}, whatever the call costs (`holmes wallet balance` shows what is); pay in, \
             then try again",
            first_hold(session, token_name),
            session.account_id
        ),
        "ACCOUNT_NOT_FOUND" | "ACCOUNT_CLOSED" => {
            "name an account of yours (SetAccount), then try again".into()
        }
        "ACCOUNT_FROZEN" => "the account is frozen: ask who runs the network".into(),
        _ => "see the reason, put it right, then try again".into(),
    };
    let message = format!("the ledger made no hold for the session ({reason}): {what}");
    Refusal { reason: reason.to_owned().into(), ..Refusal::new(Code::Precondition, "", message) }
}

/// What a session's first hold takes, in whole coins (E-0.1: a dollar has 6 decimals, a token 9).
fn first_hold(session: &market::Session, token_name: &str) -> String {
    let (name, decimals) = if session.token_price_micro_usd == 0 { ("USD", 6) } else { (token_name, 9) };
    let (units, one) = (session.first_hold_units, 10u64.pow(decimals));
    format!("{}.{:0width$} {name}", units / one, units % one, width = decimals as usize)
}

fn unreadable() -> Refusal {
    Refusal::new(Code::Internal, "UPSTREAM_MALFORMED", "the market's answer cannot be read: tell who runs it")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn session(state: market::SessionState, funded_seq: u64, reason: &str) -> market::Session {
        market::Session {
            session_id: "0192f3a0-7c1d-7b43-9b0e-3f1d2c4b5a69".to_owned(),
            state: state.into(),
            funded_seq,
            reason: reason.to_owned(),
            ..market::Session::default()
        }
    }

    #[test]
    fn a_session_takes_calls_once_its_hold_stands_also_when_it_cannot_grow() {
        use market::SessionState::*;
        let funded = |session| funded(&session, "HOL");
        assert_eq!(funded(session(Opening, 0, "")).unwrap(), None);
        assert_eq!(funded(session(Active, 7, "")).unwrap().unwrap().funded_seq, 7);
        assert_eq!(
            funded(session(InsufficientFunds, 7, "INSUFFICIENT_FUNDS")).unwrap().unwrap().funded_seq,
            7
        );
    }

    #[test]
    fn a_session_without_a_hold_says_the_ledgers_reason_and_what_to_do() {
        let mut poor = session(market::SessionState::Closed, 0, "INSUFFICIENT_FUNDS");
        (poor.account_id, poor.first_hold_units) = ("0192".to_owned(), 1_000_000);
        let refused = funded(&poor, "HOL").unwrap_err();
        assert_eq!((refused.code, refused.reason.as_ref()), (Code::Precondition, "INSUFFICIENT_FUNDS"));
        for words in ["at least 1.000000 USD", "in account 0192", "pay in"] {
            assert!(refused.message.contains(words), "{}", refused.message);
        }
        (poor.token_price_micro_usd, poor.first_hold_units) = (100_000, 10_500_000_000);
        let refused = funded(&poor, "HOL").unwrap_err();
        assert!(refused.message.contains("at least 10.500000000 HOL"), "{}", refused.message);
        let frozen = session(market::SessionState::Closing, 0, "ACCOUNT_FROZEN");
        assert_eq!(funded(&frozen, "HOL").unwrap_err().reason, "ACCOUNT_FROZEN");
    }
}

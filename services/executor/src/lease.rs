//! Which calls a node takes: those under a lease that is real, its own, of now, and not spent.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::sync::{Arc, Mutex, PoisonError};

use ed25519_dalek::{Signature, VerifyingKey};
use holmes_proto::scheduling::v1::{Lease, LeaseToken};
use holmes_proto::statements;
use prost::Message as _;

use crate::line::{LeaseId, Network};
use crate::refusal::Refusal;

/// How far the clocks of a node and of scheduling may be apart, microseconds.
const CLOCK_TOLERANCE_US: u64 = 5_000_000;
/// How long a lease that ended is remembered beyond its time, microseconds: its token is too old by then.
const REMEMBERED_US: u64 = 2 * CLOCK_TOLERANCE_US;
/// How long the end of a lease is remembered of which no call came, microseconds: longer than leases last.
const UNKNOWN_REMEMBERED_US: u64 = 600_000_000;
/// Most leases that are remembered at a time.
const MOST_LEASES: usize = 65_536;

/// What a lease allows, over all its calls. Prices in pico-dollars.
#[derive(Debug)]
pub(crate) struct Allowance {
    input_price: u128,
    output_price: u128,
    /// What may be spent, and what has been.
    state: Mutex<(u128, u128)>,
}

impl Allowance {
    fn of(lease: &Lease) -> Allowance {
        Allowance {
            input_price: lease.input_pico_usd.into(),
            output_price: lease.output_pico_usd.into(),
            state: Mutex::new((lease.allowance_pico_usd.into(), 0)),
        }
    }

    /// A lease that was renewed allows more, never less than before.
    fn raise(&self, allowed: u64) {
        let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        state.0 = state.0.max(allowed.into());
    }

    /// Spends the price of tokens read and written; false, and nothing is spent, where it is not allowed.
    pub(crate) fn spend(&self, input: u64, output: u64) -> bool {
        let price = |price: u128, tokens: u64| price.saturating_mul(tokens.into());
        let whole = price(self.input_price, input).saturating_add(price(self.output_price, output));
        let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        let spent = state.1.saturating_add(whole);
        let allowed = spent <= state.0;
        if allowed {
            state.1 = spent;
        }
        allowed
    }
}

/// A lease under which a call may run.
#[derive(Clone, Debug)]
pub(crate) struct Admitted {
    pub(crate) id: LeaseId,
    pub(crate) model: String,
    pub(crate) allowance: Arc<Allowance>,
}

/// For whom and when leases count.
#[derive(Clone, Debug)]
pub(crate) struct Terms {
    pub(crate) network: Network,
    /// What scheduling signs with.
    pub(crate) key: VerifyingKey,
    pub(crate) node: [u8; 16],
    pub(crate) gateway: [u8; 16],
    pub(crate) generation: u64,
}

/// The leases of one attachment.
#[derive(Debug)]
pub(crate) struct Leases {
    terms: Terms,
    /// The highest term that was seen.
    term: u64,
    open: BTreeMap<LeaseId, Open>,
    ended: BTreeSet<LeaseId>,
    /// When each of both can be forgotten, by the time it came.
    queue: VecDeque<(u64, LeaseId)>,
}

#[derive(Debug)]
struct Open {
    expires_at_us: u64,
    allowance: Arc<Allowance>,
}

impl Leases {
    pub(crate) fn new(terms: Terms, term: u64) -> Leases {
        Leases { terms, term, open: BTreeMap::new(), ended: BTreeSet::new(), queue: VecDeque::new() }
    }

    /// The highest term that was seen.
    pub(crate) fn term(&self) -> u64 {
        self.term
    }

    /// The lease of a token, when a call may run under it now.
    ///
    /// # Errors
    /// `LEASE_INVALID`, `LEASE_FORGED`, `LEASE_OF_OTHER_NODE`, `LEASE_OF_OTHER_GATEWAY`, `GENERATION_STALE`,
    /// `LEASE_EXPIRED`, `TERM_STALE`, `LEASE_ENDED`, `LEASES_FULL`. None is the renter's fault.
    pub(crate) fn admit(&mut self, token: &LeaseToken, now_us: u64) -> Result<Admitted, Refusal> {
        let (id, lease) = self.genuine(token)?;
        let terms = &self.terms;
        let term = u64::from_be_bytes(id[4..12].try_into().unwrap_or_default());
        let refuse = |reason, message: String| Err(Refusal::here(reason, message));
        if lease.node != terms.node.as_slice() {
            return refuse("LEASE_OF_OTHER_NODE", "the lease names another node".into());
        }
        if lease.gateway != terms.gateway.as_slice() {
            let message = "the lease names another gateway than the one that this node is attached to".into();
            return refuse("LEASE_OF_OTHER_GATEWAY", message);
        }
        if lease.generation != terms.generation {
            let (of, now) = (lease.generation, terms.generation);
            let message =
                format!("the lease is of attachment {of}, the node's is {now}: ask for another lease");
            return refuse("GENERATION_STALE", message);
        }
        if lease.expires_at_us.saturating_add(CLOCK_TOLERANCE_US) <= now_us {
            let late_ms = now_us.saturating_sub(lease.expires_at_us) / 1_000;
            let message = format!("the lease ended {late_ms} ms ago by this node's clock: renew it");
            return refuse("LEASE_EXPIRED", message);
        }
        if term < self.term {
            let message = format!("the lease is of term {term}, but term {} was seen already", self.term);
            return refuse("TERM_STALE", message);
        }
        if self.ended.contains(&id) {
            return refuse("LEASE_ENDED", "the lease has ended: ask for another one".into());
        }
        self.forget(now_us);
        if !self.open.contains_key(&id) && self.queue.len() >= MOST_LEASES {
            return refuse("LEASES_FULL", format!("the node remembers {MOST_LEASES} leases already"));
        }
        self.term = term;
        Ok(self.opened(id, &lease))
    }

    /// A lease has ended: its calls are to be refused from now on.
    pub(crate) fn end(&mut self, id: LeaseId, now_us: u64) {
        let known = self.open.remove(&id);
        if self.ended.insert(id) && known.is_none() {
            self.queue.push_back((now_us.saturating_add(UNKNOWN_REMEMBERED_US), id));
        }
    }

    /// What a token says, once its signature is checked.
    fn genuine(&self, token: &LeaseToken) -> Result<(LeaseId, Lease), Refusal> {
        let network = &self.terms.network;
        let statement = statements::lease(&network.genesis, network.cell, &token.lease);
        let forged = || {
            Refusal::here("LEASE_FORGED", "the lease is not signed by the scheduling that this node knows")
        };
        let signature = Signature::from_slice(&token.signature).map_err(|_| forged())?;
        self.terms.key.verify_strict(&statement, &signature).map_err(|_| forged())?;
        let invalid = || {
            Refusal::here(
                "LEASE_INVALID",
                "the lease's bytes are not those of a Lease with an id of 20 bytes",
            )
        };
        let lease = Lease::decode(token.lease.clone()).map_err(|_| invalid())?;
        let id = lease.lease.as_ref().try_into().map_err(|_| invalid())?;
        Ok((id, lease))
    }

    fn opened(&mut self, id: LeaseId, lease: &Lease) -> Admitted {
        let open = self.open.entry(id).or_insert_with(|| {
            self.queue.push_back((lease.expires_at_us.saturating_add(REMEMBERED_US), id));
            Open { expires_at_us: lease.expires_at_us, allowance: Arc::new(Allowance::of(lease)) }
        });
        open.expires_at_us = open.expires_at_us.max(lease.expires_at_us);
        open.allowance.raise(lease.allowance_pico_usd);
        Admitted { id, model: lease.model.clone(), allowance: open.allowance.clone() }
    }

    /// Forgets leases whose tokens are too old by now; one that was renewed or still computes waits for another turn.
    fn forget(&mut self, now_us: u64) {
        while let Some((at, id)) = self.queue.front().copied().filter(|(at, _)| *at < now_us) {
            self.queue.pop_front();
            let open = self.open.get(&id);
            let renewed =
                open.map(|open| open.expires_at_us.saturating_add(REMEMBERED_US)).filter(|end| *end > at);
            let busy = open.is_some_and(|open| Arc::strong_count(&open.allowance) > 1);
            match renewed.or(busy.then(|| now_us.saturating_add(REMEMBERED_US))) {
                Some(later) => self.queue.push_back((later, id)),
                None => {
                    self.open.remove(&id);
                    self.ended.remove(&id);
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use ed25519_dalek::{Signer as _, SigningKey};

    use super::*;

    const NOW: u64 = 1_800_000_000_000_000;
    const NETWORK: Network = Network { genesis: [7; 16], cell: 1 };

    fn scheduling() -> SigningKey {
        SigningKey::from_bytes(&[5; 32])
    }

    fn leases(term: u64) -> Leases {
        let key = scheduling().verifying_key();
        Leases::new(Terms { network: NETWORK, key, node: [1; 16], gateway: [2; 16], generation: 9 }, term)
    }

    fn lease(term: u64, seq: u64) -> Lease {
        Lease {
            lease: statements::lease_id(1, 4, term, seq).to_vec().into(),
            session: vec![3; 16].into(),
            node: vec![1; 16].into(),
            gateway: vec![2; 16].into(),
            generation: 9,
            model: "m".into(),
            expires_at_us: NOW + 60_000_000,
            allowance_pico_usd: 100,
            input_pico_usd: 2,
            output_pico_usd: 10,
        }
    }

    fn signed(key: &SigningKey, lease: &Lease) -> LeaseToken {
        let bytes = lease.encode_to_vec();
        let signature = key.sign(&statements::lease(&NETWORK.genesis, NETWORK.cell, &bytes));
        LeaseToken { lease: bytes.into(), signature: signature.to_bytes().to_vec().into() }
    }

    fn token(lease: &Lease) -> LeaseToken {
        signed(&scheduling(), lease)
    }

    fn reason(leases: &mut Leases, token: &LeaseToken, now: u64) -> String {
        leases.admit(token, now).unwrap_err().reason.into_owned()
    }

    #[test]
    fn a_lease_of_this_node_gateway_and_attachment_is_taken_until_its_time_and_five_seconds() {
        let mut leases = leases(0);
        let lease = lease(3, 1);
        let end = lease.expires_at_us + CLOCK_TOLERANCE_US;
        assert_eq!(leases.admit(&token(&lease), NOW).unwrap().model, "m");
        assert!(leases.admit(&token(&lease), end - 1).is_ok());
        assert_eq!(reason(&mut leases, &token(&lease), end), "LEASE_EXPIRED");
    }

    #[test]
    fn what_is_not_signed_by_scheduling_is_forged() {
        let mut leases = leases(0);
        let other = SigningKey::from_bytes(&[6; 32]);
        assert_eq!(reason(&mut leases, &signed(&other, &lease(3, 1)), NOW), "LEASE_FORGED");
        let mut changed = token(&lease(3, 1));
        changed.lease = Lease { allowance_pico_usd: u64::MAX, ..lease(3, 1) }.encode_to_vec().into();
        assert_eq!(reason(&mut leases, &changed, NOW), "LEASE_FORGED");
        let unsigned = LeaseToken { signature: Vec::new().into(), ..token(&lease(3, 1)) };
        assert_eq!(reason(&mut leases, &unsigned, NOW), "LEASE_FORGED");
        let no_id = Lease { lease: vec![1; 19].into(), ..lease(3, 1) };
        assert_eq!(reason(&mut leases, &token(&no_id), NOW), "LEASE_INVALID");
    }

    #[test]
    fn a_lease_of_another_node_gateway_or_attachment_is_refused() {
        let mut leases = leases(0);
        for (lease, wanted) in [
            (Lease { node: vec![9; 16].into(), ..lease(3, 1) }, "LEASE_OF_OTHER_NODE"),
            (Lease { gateway: vec![9; 16].into(), ..lease(3, 1) }, "LEASE_OF_OTHER_GATEWAY"),
            (Lease { generation: 8, ..lease(3, 1) }, "GENERATION_STALE"),
            (Lease { generation: 10, ..lease(3, 1) }, "GENERATION_STALE"),
        ] {
            assert_eq!(reason(&mut leases, &token(&lease), NOW), wanted);
        }
        assert_eq!(leases.term(), 0, "a lease that is refused raises no term");
    }

    #[test]
    fn a_term_lower_than_any_seen_is_refused() {
        let mut leases = leases(3);
        assert_eq!(reason(&mut leases, &token(&lease(2, 1)), NOW), "TERM_STALE");
        leases.admit(&token(&lease(3, 1)), NOW).unwrap();
        leases.admit(&token(&lease(5, 2)), NOW).unwrap();
        assert_eq!(reason(&mut leases, &token(&lease(4, 3)), NOW), "TERM_STALE");
        assert_eq!(leases.term(), 5);
    }

    #[test]
    fn a_lease_that_has_ended_starts_no_more_even_when_its_end_came_first() {
        let mut leases = leases(0);
        leases.admit(&token(&lease(3, 1)), NOW).unwrap();
        for seq in [1, 2] {
            leases.end(statements::lease_id(1, 4, 3, seq), NOW);
            assert_eq!(reason(&mut leases, &token(&lease(3, seq)), NOW), "LEASE_ENDED");
        }
    }

    #[test]
    fn calls_of_a_lease_share_one_allowance_and_a_renewal_raises_it() {
        let mut leases = leases(0);
        let first = leases.admit(&token(&lease(3, 1)), NOW).unwrap().allowance;
        let second = leases.admit(&token(&lease(3, 1)), NOW).unwrap().allowance;
        assert!(first.spend(5, 4));
        assert!(second.spend(0, 5));
        assert!(!first.spend(0, 1) && !second.spend(1, 0), "100 of 100 are spent");
        leases.admit(&token(&Lease { allowance_pico_usd: 110, ..lease(3, 1) }), NOW).unwrap();
        leases.admit(&token(&lease(3, 1)), NOW).unwrap(); // an older token takes nothing back
        assert!(first.spend(0, 1));
        assert!(!second.spend(0, 1));
        assert!(!second.spend(u64::MAX, u64::MAX), "what cannot be counted is not allowed");
    }

    #[test]
    fn leases_are_forgotten_after_their_time_unless_they_were_renewed_or_compute() {
        let mut leases = leases(0);
        drop(leases.admit(&token(&lease(3, 1)), NOW).unwrap());
        let busy = leases.admit(&token(&lease(3, 2)), NOW).unwrap();
        let renewed = Lease { expires_at_us: NOW + 120_000_000, ..lease(3, 3) };
        drop(leases.admit(&token(&lease(3, 3)), NOW).unwrap());
        drop(leases.admit(&token(&renewed), NOW).unwrap());
        leases.end(statements::lease_id(1, 4, 3, 1), NOW);
        let later = NOW + 60_000_000 + REMEMBERED_US + 1;
        leases.forget(later);
        assert_eq!(leases.open.len(), 2);
        assert!(leases.ended.is_empty());
        drop(busy);
        leases.forget(later + 2 * REMEMBERED_US + 60_000_000);
        assert!(leases.open.is_empty() && leases.queue.is_empty());
    }
}

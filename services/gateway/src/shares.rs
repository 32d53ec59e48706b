//! Which slots of the nodes each account holds: no account takes a model's nodes from all the others.
//!
//! A share is rounded to the nearest slot for an account that is alone, so that it can fill a node of two; and down as soon
//! as another one holds a slot of the same nodes, or waits for one. Then whoever holds more gives back what its calls leave.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex};

use holmes_kernel::{Code, Id, Principal, Refusal};

use crate::guarded;

/// The reason when an account holds its share.
pub(crate) const ACCOUNT_SLOTS_USED: &str = "ACCOUNT_SLOTS_USED";

/// The slots that accounts hold through this gateway, which is the only one of its nodes.
#[derive(Debug)]
pub(crate) struct Shares {
    percent: u64,
    held: Mutex<BTreeMap<Principal, Held>>,
}

/// What one account holds.
#[derive(Debug, Default)]
struct Held {
    /// Slots by node.
    nodes: BTreeMap<Id, u64>,
    /// Slots that are waited for, by model.
    coming: BTreeMap<String, u64>,
}

/// A slot that an account holds, or waits for; dropped, it is free.
#[derive(Debug)]
pub(crate) struct Share {
    shares: Arc<Shares>,
    renter: Principal,
    at: At,
}

#[derive(Debug)]
enum At {
    Model(String),
    Node(Id),
}

impl Shares {
    /// An account may hold about `percent` of a model's slots, and one in any case.
    pub(crate) fn new(percent: u8) -> Arc<Shares> {
        Arc::new(Shares { percent: percent.into(), held: Mutex::default() })
    }

    /// Takes a slot more of a model that these nodes serve, each with so many slots.
    pub(crate) fn take(
        self: &Arc<Self>,
        renter: Principal,
        model: &str,
        serving: &[(Id, u32)],
    ) -> Result<Share, Refusal> {
        let mut held = guarded(&self.held);
        let most = self.most(&held, renter, model, serving);
        let own = held.entry(renter).or_default();
        if own.of(model, serving) >= most {
            let message = format!(
                "your account holds {most} of the {} slots that serve {model:?}, which is its share: try again when one of \
                 its calls has ended",
                slots(serving)
            );
            own.tidy();
            return Err(Refusal::new(Code::Exhausted, ACCOUNT_SLOTS_USED, message).retry_after(1_000));
        }
        *own.coming.entry(model.to_owned()).or_default() += 1;
        Ok(Share { shares: self.clone(), renter, at: At::Model(model.to_owned()) })
    }

    /// Whether an account holds more than its share, now that others want slots too.
    pub(crate) fn is_above(&self, renter: Principal, model: &str, serving: &[(Id, u32)]) -> bool {
        let held = guarded(&self.held);
        let most = self.most(&held, renter, model, serving);
        held.get(&renter).is_some_and(|own| own.of(model, serving) > most)
    }

    /// How many slots an account may hold.
    fn most(
        &self,
        held: &BTreeMap<Principal, Held>,
        renter: Principal,
        model: &str,
        serving: &[(Id, u32)],
    ) -> u64 {
        let alone = held.iter().all(|(who, other)| *who == renter || other.of(model, serving) == 0);
        let share = slots(serving) * self.percent;
        let rounding = if alone { 50 } else { 0 };
        ((share + rounding) / 100).max(1)
    }
}

fn slots(serving: &[(Id, u32)]) -> u64 {
    serving.iter().map(|(_, slots)| u64::from(*slots)).sum()
}

impl Shares {
    /// Slots that all accounts together hold, by node.
    pub(crate) fn held(&self) -> BTreeMap<Id, u64> {
        let mut nodes = BTreeMap::new();
        for (node, count) in guarded(&self.held).values().flat_map(|held| &held.nodes) {
            *nodes.entry(*node).or_default() += count;
        }
        nodes
    }
}

impl Held {
    /// Slots of a model that these nodes serve.
    fn of(&self, model: &str, serving: &[(Id, u32)]) -> u64 {
        let at_nodes = serving.iter().filter_map(|(node, _)| self.nodes.get(node)).sum::<u64>();
        at_nodes + self.coming.get(model).copied().unwrap_or(0)
    }

    fn tidy(&mut self) {
        self.nodes.retain(|_, count| *count > 0);
        self.coming.retain(|_, count| *count > 0);
    }

    fn count(&mut self, at: &At) -> &mut u64 {
        match at {
            At::Model(model) => self.coming.entry(model.clone()).or_default(),
            At::Node(node) => self.nodes.entry(*node).or_default(),
        }
    }
}

impl Share {
    /// The slot is this node's.
    pub(crate) fn at(mut self, node: Id) -> Arc<Share> {
        let mut held = guarded(&self.shares.held);
        let own = held.entry(self.renter).or_default();
        *own.count(&self.at) -= 1;
        self.at = At::Node(node);
        *own.count(&self.at) += 1;
        drop(held);
        Arc::new(self)
    }
}

impl Drop for Share {
    fn drop(&mut self) {
        let mut held = guarded(&self.shares.held);
        let Some(own) = held.get_mut(&self.renter) else { return };
        *own.count(&self.at) -= 1;
        own.tidy();
        if own.nodes.is_empty() && own.coming.is_empty() {
            held.remove(&self.renter);
        }
    }
}

#[cfg(test)]
mod tests {
    use holmes_kernel::PrincipalKind;

    use super::*;

    fn id(number: u8) -> Id {
        Id::from_bytes([number; 16])
    }

    fn renter(number: u8) -> Principal {
        Principal::new(PrincipalKind::Account, id(number))
    }

    #[test]
    fn an_account_holds_its_share_of_a_models_slots_and_one_slot_in_any_case() {
        let shares = Shares::new(80);
        let serving = [(id(1), 4), (id(2), 1)];
        let mut own: Vec<_> =
            (0..4).map(|_| shares.take(renter(1), "m", &serving).unwrap().at(id(1))).collect();
        let refused = shares.take(renter(1), "m", &serving).unwrap_err();
        assert_eq!((refused.reason.as_ref(), refused.code), (ACCOUNT_SLOTS_USED, Code::Exhausted));
        assert!(refused.retry_after_ms.is_some() && refused.message.contains("4 of the 5"), "{refused}");
        assert!(shares.take(renter(2), "m", &serving).is_ok(), "another one has a share of its own");
        assert!(shares.take(renter(1), "n", &[(id(3), 1)]).is_ok(), "other nodes' slots are others");
        own.pop();
        assert!(shares.take(renter(1), "m", &serving).is_ok());
    }

    #[test]
    fn an_account_that_is_alone_fills_a_small_pool_and_gives_back_what_another_one_waits_for() {
        let shares = Shares::new(80);
        let serving = [(id(1), 2)];
        let first = shares.take(renter(1), "m", &serving).unwrap().at(id(1));
        let second = shares.take(renter(1), "m", &serving).unwrap().at(id(1));
        assert!(shares.take(renter(1), "m", &serving).is_err() && !shares.is_above(renter(1), "m", &serving));
        let waits = shares.take(renter(2), "m", &serving).unwrap();
        assert!(shares.is_above(renter(1), "m", &serving), "one of two is its share now");
        drop(second);
        assert!(!shares.is_above(renter(1), "m", &serving));
        assert!(shares.take(renter(1), "m", &serving).is_err(), "what is free is the other's");
        let other = waits.at(id(1));
        assert!(
            shares.take(renter(1), "m", &serving).is_err() && shares.take(renter(2), "m", &serving).is_err()
        );
        drop((first, other));
        let both = [(); 2].map(|()| shares.take(renter(2), "m", &serving).unwrap());
        drop(both);
        assert!(shares.take(renter(2), "n", &[(id(1), 1)]).is_ok(), "one slot in any case");
    }

    #[test]
    fn slots_that_are_waited_for_count_and_nothing_is_kept_of_who_holds_none() {
        let shares = Shares::new(50);
        let asked = shares.take(renter(1), "m", &[(id(1), 2)]).unwrap();
        assert!(shares.take(renter(1), "m", &[(id(1), 2)]).is_err());
        drop(asked);
        drop(shares.take(renter(1), "m", &[(id(1), 2)]).unwrap().at(id(1)));
        assert!(guarded(&shares.held).is_empty());
    }
}

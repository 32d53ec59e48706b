//! A node: whose it is, what it has bonded, where it stands.

use std::collections::VecDeque;

use holmes_kernel::{Amount, Id, Principal, Time};
use holmes_proto::staking::v1::{BondCause, BondChanged, NodeKind, NodeRegistered, NodeState};
use serde::{Deserialize, Serialize};

use crate::collateral::{self, Bases};
use crate::params::Params;

/// A node. It is never removed.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Node {
    /// Whose it is.
    pub owner: Principal,
    /// Ed25519.
    pub public_key: [u8; 32],
    /// [`NodeKind`] as a number.
    pub(crate) kind: u8,
    /// [`NodeState`] as a number.
    pub(crate) state: u8,
    /// Its own bond, base units; what unbonds is not in it.
    pub bond: u64,
    /// Unbonding and not yet paid: slashable all the same.
    pub unbonding: u64,
    /// Thousandths of a CU; the owner's claim until a hardware pass.
    pub rating_milli_cu: u32,
    /// The hardware pass counts until then.
    pub hardware_until: Time,
    /// The bases that it was told of (E-6.2).
    pub bases: Bases,
    /// Bonded at least as required, and of a compute node the hardware passed (E-0.6).
    pub qualified: bool,
    /// When time alone ends that.
    pub lapses_at: Option<Time>,
    /// Where payouts go.
    pub payout: Option<Id>,
    /// Holds that could be bonded, the oldest first.
    pub offers: VecDeque<Offer>,
    /// Holds that the ledger was asked to post.
    pub pending: u32,
    /// The ledger's reason for refusing the last hold; empty when it was posted.
    pub bond_refused: String,
    /// Why it was jailed or tombstoned.
    pub note: String,
    /// Its unbondings, in their order.
    pub unbondings: Vec<u64>,
}

/// A hold in the ledger, opened by a node's owner for its bond.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Offer {
    /// The hold's transfer id.
    pub hold: Id,
    /// The account that it debits.
    pub account: Id,
    /// Base units.
    pub amount: u64,
}

impl Node {
    /// A node that has just been registered.
    pub(super) fn registered(event: &NodeRegistered, owner: Principal, key: [u8; 32], base: Amount) -> Node {
        Node {
            owner,
            public_key: key,
            kind: event.kind as u8,
            state: NodeState::Registered as u8,
            bond: 0,
            unbonding: 0,
            rating_milli_cu: event.claim_milli_cu,
            hardware_until: Time::default(),
            bases: Bases::new(base),
            qualified: false,
            lapses_at: None,
            payout: None,
            offers: VecDeque::new(),
            pending: 0,
            bond_refused: String::new(),
            note: String::new(),
            unbondings: Vec::new(),
        }
    }

    /// What it bonds for.
    pub fn kind(&self) -> NodeKind {
        NodeKind::try_from(i32::from(self.kind)).unwrap_or(NodeKind::Unspecified)
    }

    /// Where it stands.
    pub fn state(&self) -> NodeState {
        NodeState::try_from(i32::from(self.state)).unwrap_or(NodeState::Unspecified)
    }

    /// The same elsewhere.
    pub fn at(self, state: NodeState) -> Node {
        Node { state: state as u8, ..self }
    }

    /// Whether it serves a purpose: active and qualified (E-6.2: N).
    pub fn counts(&self) -> bool {
        self.state() == NodeState::Active && self.qualified
    }

    /// E-6.2: what it must have bonded, given a base.
    pub fn required_by(&self, params: &Params, base: Amount) -> Amount {
        match self.kind() {
            NodeKind::Verifier => params.verifier_bond,
            NodeKind::Compute | NodeKind::Unspecified => {
                collateral::required(self.rating_milli_cu, base, params.least_per_cu, params.most_per_cu)
            }
        }
    }

    /// E-6.2: what it must have bonded at a moment.
    pub fn required(&self, params: &Params, now: Time) -> Amount {
        self.required_by(params, self.bases.at(now))
    }

    /// Whether it is bonded as required and its hardware has passed, at a moment (E-0.6).
    pub fn is_qualified(&self, params: &Params, now: Time) -> bool {
        let passed = self.kind() == NodeKind::Verifier || now < self.hardware_until;
        passed && self.bond >= self.required(params, now).units()
    }

    /// When time alone ends that it is qualified: its pass ends, or a rise that it does not follow comes into force.
    pub(super) fn next_lapse(&self, params: &Params, now: Time) -> Option<Time> {
        if !self.qualified {
            return None;
        }
        let pass = (self.kind() == NodeKind::Compute).then_some(self.hardware_until);
        let above = |(_, base): &(Time, Amount)| self.required_by(params, *base).units() > self.bond;
        let rise = self.bases.rises_after(now).find(above).map(|(at, _)| at);
        pass.into_iter().chain(rise).min()
    }

    /// The same as its bond, rating and the time make it: a registered node becomes active (E-6.1).
    pub fn settled(mut self, params: &Params, now: Time) -> Node {
        self.qualified = self.is_qualified(params, now);
        let rises = self.qualified && self.state() == NodeState::Registered;
        if rises { self.at(NodeState::Active) } else { self }
    }

    /// The event that makes it stand so.
    pub fn changed(&self, id: Id, params: &Params, now: Time, cause: BondCause) -> BondChanged {
        BondChanged {
            node: id.to_bytes().to_vec().into(),
            owner: self.owner.to_bytes().to_vec().into(),
            kind: self.kind.into(),
            state: self.state.into(),
            bond_units: self.bond,
            unbonding_units: self.unbonding,
            required_units: self.required(params, now).units(),
            rating_milli_cu: self.rating_milli_cu,
            hardware_until_us: self.hardware_until.micros(),
            qualified: self.qualified,
            cause: cause.into(),
            note: self.note.clone(),
        }
    }

    /// Lets such an event have happened.
    pub(super) fn become_so(&mut self, event: &BondChanged) {
        self.state = event.state as u8;
        self.bond = event.bond_units;
        self.unbonding = event.unbonding_units;
        self.rating_milli_cu = event.rating_milli_cu;
        self.hardware_until = Time::from_micros(event.hardware_until_us);
        self.qualified = event.qualified;
        self.note.clone_from(&event.note);
    }
}

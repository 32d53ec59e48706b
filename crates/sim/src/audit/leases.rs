//! How long leases hold: on a node that has room and can be reached, for a session that takes calls, for a minute at most and
//! then again (E-6.1, E-10.2); and what is metered under them: each call once, for no more than was allowed (E-9.1, E-9.2).
//! Scheduling's log alone says all of it.

use std::collections::{BTreeMap, BTreeSet};

use ed25519_dalek::{Signature, VerifyingKey};
use holmes_kernel::{Id, Time};
use holmes_proto::columns::ids;
use holmes_proto::scheduling::v1::event::Event as Placed;
use holmes_proto::scheduling::v1::{
    CallLine, CallsMetered, Capabilities, Lease as Renewed, LeaseEnd, LeaseEnded, LeaseGranted,
};
use holmes_proto::statements::call_line;
use prost::Message as _;
use prost::bytes::Bytes;

use super::{Seen, Wrong, owner, raw};
use crate::world::GENESIS;

/// The longest that a lease holds without being renewed.
const LONGEST_MS: u64 = 60_000;

/// A lease is told as ended before anything is told at more moments than these behind its time: where the clock has leapt, or
/// the disk has failed, others may come first.
const SOON: u32 = 3;
const APART_MS: u64 = 1_000;

/// Leases, and what they hang on.
#[derive(Debug, Default)]
pub(super) struct Leases {
    leases: BTreeMap<Bytes, Lease>,
    sessions: BTreeMap<Id, Session>,
    attached: BTreeMap<Id, Attached>,
    /// Whose leases are open, by node.
    open: BTreeMap<Id, BTreeSet<Bytes>>,
    /// Tokens of the calls that were metered, by lease and call.
    metered: BTreeMap<(Bytes, Bytes), [u64; 2]>,
    /// Those that were checkpointed.
    checkpointed: BTreeSet<(Bytes, Bytes)>,
    /// What nodes and gateways sign with.
    keys: BTreeMap<Id, Bytes>,
    /// The moment of the frame that is read.
    now: Time,
}

/// Where a node is attached, which attachment that is, and how many calls it takes at once.
#[derive(Clone, Copy, Debug)]
struct Attached {
    gateway: Id,
    generation: u64,
    slots: usize,
}

#[derive(Debug)]
struct Lease {
    node: Id,
    session: Id,
    expires_at: Time,
    terms: Terms,
    /// Pico-dollars: what may be metered, and what was.
    allowance: u128,
    metered: u128,
    /// Why it must end, whatever else comes.
    doomed: Option<LeaseEnd>,
    ended: bool,
    /// At how many moments behind its time, a second apart, anything was told while it is open; and the last of these.
    over_at: (u32, Time),
}

/// What a lease is granted for, and its calls are metered by.
#[derive(Debug, PartialEq)]
struct Terms {
    renter: Bytes,
    owner: Bytes,
    model: String,
    credit: i32,
    /// Pico-dollars and millionths of a unit, of a token read and one written.
    each: [u64; 4],
}

#[derive(Debug)]
struct Session {
    renter: Bytes,
    expires_at: Time,
    /// It gets no lease any more.
    closing: bool,
}

impl Leases {
    pub(super) fn happened(&mut self, seen: &Seen, event: &Placed) -> Wrong {
        let mut wrong = self.late(seen.at);
        wrong.extend(self.told(seen, event));
        wrong
    }

    fn told(&mut self, seen: &Seen, event: &Placed) -> Wrong {
        match event {
            Placed::NodeAttached(e) => {
                let slots = Capabilities::decode(e.capabilities.clone()).map_or(0, |offer| offer.slots);
                let (gateway, generation, slots) = (raw(&e.gateway), e.generation, slots as usize);
                self.attached.insert(raw(&e.node), Attached { gateway, generation, slots });
            }
            Placed::NodeDetached(e) => {
                self.attached.remove(&raw(&e.node));
                self.doom_of(raw(&e.node), LeaseEnd::NodeLost);
            }
            Placed::GatewayStarted(e) => drop(self.keys.insert(raw(&e.gateway), e.public_key.clone())),
            Placed::NodesNoted(e) => {
                self.keys.extend(e.nodes.iter().map(|node| (raw(&node.node), node.public_key.clone())));
                let barred = e.nodes.iter().filter(|node| !node.qualified).map(|node| raw(&node.node));
                for node in barred.chain(ids(&e.unqualified)).collect::<Vec<_>>() {
                    self.doom_of(node, LeaseEnd::NodeUnqualified);
                }
            }
            Placed::SessionNoted(e) => {
                let expires_at = Time::from_micros(e.expires_at_us);
                let renter = e.renter.clone();
                let fresh = Session { renter, expires_at, closing: false };
                self.sessions.entry(raw(&e.session)).or_insert(fresh);
            }
            Placed::SessionDraining(e) => self.close(raw(&e.session)),
            Placed::SessionDrained(e) => self.close(raw(&e.session)),
            Placed::SessionEnded(e) => self.close(raw(&e.session)),
            Placed::LeaseGranted(e) => return self.granted(seen, e),
            Placed::LeaseRenewed(e) => {
                return e.renewed.iter().flat_map(|it| self.renewed(seen, it)).collect();
            }
            Placed::LeaseEnded(e) => return self.ended(seen, e).into_iter().collect(),
            Placed::CallsMetered(e) => return self.metered(e),
            Placed::CallsCheckpointed(e) => {
                let leases = e.leases.chunks_exact(20).map(Bytes::copy_from_slice);
                self.checkpointed.extend(leases.zip(e.lines.iter().map(|line| line.call.clone())));
            }
            _ => {}
        }
        Wrong::new()
    }

    /// The gateway that a node is attached to.
    pub(super) fn gateway_of(&self, node: Id) -> Option<Id> {
        self.attached.get(&node).map(|attached| attached.gateway)
    }

    /// What was checkpointed of calls and never metered.
    pub(super) fn unmetered(&self) -> impl Iterator<Item = String> + '_ {
        let lost = self.checkpointed.iter().filter(|call| !self.metered.contains_key(*call));
        lost.map(|(_, call)| format!("E-9.2: call {} was checkpointed and never metered", raw(call)))
    }

    /// What is still open when nothing is on its way any more.
    pub(super) fn endless(&self) -> impl Iterator<Item = String> + '_ {
        let open = self.open.iter().filter(|(_, leases)| !leases.is_empty());
        open.map(|(node, leases)| format!("E-10.2: {} leases of node {node} never end", leases.len()))
    }

    /// E-10.2: what is over ends soon.
    fn late(&mut self, now: Time) -> Wrong {
        if now <= std::mem::replace(&mut self.now, now) {
            return Wrong::new(); // of the same frame
        }
        let mut late = Wrong::new();
        for lease in self.open.values().flatten() {
            let Some(lease) = self.leases.get_mut(lease).filter(|lease| lease.expires_at < now) else {
                continue;
            };
            let (moments, last) = lease.over_at;
            if last.after_millis(APART_MS) < now {
                lease.over_at = (moments + 1, now);
            }
            if moments > SOON {
                late.push(format!("E-10.2: a lease is open at {now:?}, though it is over: {lease:?}"));
            }
        }
        late
    }

    fn doom_of(&mut self, node: Id, why: LeaseEnd) {
        for lease in self.open.get(&node).into_iter().flatten() {
            if let Some(lease) = self.leases.get_mut(lease) {
                lease.doomed.get_or_insert(why);
            }
        }
    }

    fn close(&mut self, session: Id) {
        if let Some(session) = self.sessions.get_mut(&session) {
            session.closing = true;
        }
    }

    /// Whether a session gets a lease until then, now.
    fn lasts(&self, seen: &Seen, session: Id, until: Time) -> Option<String> {
        let known = self.sessions.get(&session);
        let takes = known.is_some_and(|session| {
            !session.closing && session.expires_at > seen.at && until <= session.expires_at
        });
        let short = until <= seen.at.after_millis(LONGEST_MS);
        (!takes || !short).then(|| {
            format!("E-10.2: at {:?} session {session} has a lease until {until:?}: {known:?}", seen.at)
        })
    }

    fn granted(&mut self, seen: &Seen, event: &LeaseGranted) -> Wrong {
        let (node, session) = (raw(&event.node), raw(&event.session));
        let expires_at = Time::from_micros(event.expires_at_us);
        let mut wrong: Wrong = self.lasts(seen, session, expires_at).into_iter().collect();
        let open = self.open.entry(node).or_default();
        open.insert(event.lease.clone());
        match self.attached.get(&node) {
            Some(it) if it.generation == event.generation && open.len() <= it.slots => {}
            other => wrong.push(format!(
                "E-6.1: node {node} has {} leases, one of attachment {}: it is {other:?}",
                open.len(),
                event.generation
            )),
        }
        let is_theirs = self.sessions.get(&session).is_some_and(|session| session.renter == event.renter);
        if !is_theirs {
            wrong
                .push(format!("E-10.2: {} has a lease of another's session {session}", owner(&event.renter)));
        }
        let terms = Terms {
            renter: event.renter.clone(),
            owner: event.owner.clone(),
            model: event.model.clone(),
            credit: event.credit,
            each: [
                event.input_pico_usd,
                event.output_pico_usd,
                event.input_micro_units,
                event.output_micro_units,
            ],
        };
        let allowance = event.allowance_pico_usd.into();
        let (doomed, ended, metered, over_at) = (None, false, 0, (0, Time::default()));
        let lease = Lease { node, session, expires_at, terms, allowance, metered, doomed, ended, over_at };
        self.leases.insert(event.lease.clone(), lease);
        wrong
    }

    fn renewed(&mut self, seen: &Seen, event: &Renewed) -> Wrong {
        let until = Time::from_micros(event.expires_at_us);
        let Some(lease) = self.leases.get_mut(&event.lease) else {
            return vec![format!("E-10.2: a lease is renewed that nobody has granted: {event:?}")];
        };
        let session = lease.session;
        let (goes_on, allowance) = (!lease.ended && lease.doomed.is_none(), event.allowance_pico_usd.into());
        let is_less = allowance < lease.allowance;
        (lease.expires_at, lease.allowance, lease.over_at) = (until, allowance, (0, Time::default()));
        let mut wrong: Wrong = self.lasts(seen, session, until).into_iter().collect();
        if !goes_on || is_less {
            wrong.push(format!("E-10.2: a lease is renewed that is over, or for less: {event:?}"));
        }
        wrong
    }

    /// For the first reason that it had, or by itself in its time, or with its session, or as its gateway asks.
    fn ended(&mut self, seen: &Seen, event: &LeaseEnded) -> Option<String> {
        let lease = self.leases.get_mut(&event.lease)?;
        let again = std::mem::replace(&mut lease.ended, true);
        self.open.entry(lease.node).or_default().remove(&event.lease);
        let closing = self.sessions.get(&lease.session).is_none_or(|session| session.closing);
        let right = match (lease.doomed, event.reason()) {
            (_, LeaseEnd::SessionClosed) => closing,
            (Some(why), reason) => why == reason,
            (None, LeaseEnd::Expired) => lease.expires_at <= seen.at,
            (None, reason) => reason == LeaseEnd::Released,
        };
        (again || !right)
            .then(|| format!("E-10.2: a lease ends {:?} as {:?}: {lease:?}", seen.at, event.reason()))
    }

    /// The tokens that were metered of a call under a lease.
    pub(super) fn tokens(&self, lease: &[u8], call: Id) -> Option<[u64; 2]> {
        let of = (Bytes::copy_from_slice(lease), Bytes::copy_from_slice(&call.to_bytes()));
        self.metered.get(&of).copied()
    }

    /// E-9.2: the node has signed that it has computed a call, and the gateway that it has delivered it.
    fn is_signed(&self, event: &CallsMetered, line: &CallLine) -> bool {
        let Ok(lease) = event.lease.as_ref().try_into() else { return false };
        let said = call_line(&GENESIS, 1, lease, line);
        let by = |who: &[u8], signature: &[u8]| {
            let key = self.keys.get(&raw(who)).and_then(|key| VerifyingKey::try_from(key.as_ref()).ok());
            let signature = Signature::from_slice(signature);
            key.zip(signature.ok()).is_some_and(|(key, it)| key.verify_strict(&said, &it).is_ok())
        };
        by(&event.node, &line.node_signature) && by(&event.gateway, &line.gateway_signature)
    }

    /// E-9.1, E-9.2: each call once, as it was signed, under a lease of that node and session, on its terms, and all for no
    /// more than it allows.
    fn metered(&mut self, event: &CallsMetered) -> Wrong {
        let (node, session) = (raw(&event.node), raw(&event.session));
        let mut wrong = Wrong::new();
        for line in &event.lines {
            let tokens = [line.input_tokens, line.output_tokens];
            if self.metered.insert((event.lease.clone(), line.call.clone()), tokens).is_some() {
                wrong.push(format!("E-9.2: call {} is metered twice", raw(&line.call)));
            }
            if !self.is_signed(event, line) {
                wrong
                    .push(format!("E-9.2: call {} is metered otherwise than it was signed", raw(&line.call)));
            }
        }
        let lease = self.leases.get_mut(&event.lease);
        let Some(lease) = lease.filter(|lease| (lease.node, lease.session) == (node, session)) else {
            wrong.push(format!("E-9.2: calls of node {node} are metered without a lease"));
            return wrong;
        };
        let terms = Terms {
            renter: event.renter.clone(),
            owner: event.owner.clone(),
            model: event.model.clone(),
            credit: event.credit,
            each: [
                event.input_pico_usd,
                event.output_pico_usd,
                event.input_micro_units,
                event.output_micro_units,
            ],
        };
        if terms != lease.terms {
            wrong.push(format!("E-9.2: calls are metered as {terms:?}, granted was {:?}", lease.terms));
        }
        let [input, output] = [lease.terms.each[0], lease.terms.each[1]].map(u128::from);
        let tokens = event.lines.iter().map(|line| [line.input_tokens, line.output_tokens].map(u128::from));
        lease.metered += tokens.map(|[read, written]| input * read + output * written).sum::<u128>();
        if lease.metered > lease.allowance {
            wrong.push(format!("E-9.1: more is metered than is allowed: {lease:?}"));
        }
        wrong
    }
}

//! How long leases hold: on a node that has room and can be reached, for a session that takes calls, for a minute at most and
//! then again (E-6.1, E-10.2); and what is metered under them: each call once, for no more than was allowed (E-9.1, E-9.2).
//! Scheduling's log alone says all of it.

use std::collections::{BTreeMap, BTreeSet};

use holmes_kernel::{Id, Time};
use holmes_proto::columns::ids;
use holmes_proto::scheduling::v1::event::Event as Placed;
use holmes_proto::scheduling::v1::{
    CallsMetered, Capabilities, Lease as Renewed, LeaseEnd, LeaseEnded, LeaseGranted,
};
use prost::Message as _;
use prost::bytes::Bytes;

use super::{Seen, Wrong, raw};

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
    /// Calls that were metered, with their leases.
    metered: BTreeSet<(Bytes, Bytes)>,
    /// Those that were checkpointed.
    checkpointed: BTreeSet<(Bytes, Bytes)>,
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
    /// Pico-dollars: of a token read and one written, what may be metered, and what was.
    prices: [u128; 2],
    allowance: u128,
    metered: u128,
    /// Why it must end, whatever else comes.
    doomed: Option<LeaseEnd>,
    ended: bool,
    /// At how many moments behind its time, a second apart, anything was told while it is open; and the last of these.
    over_at: (u32, Time),
}

#[derive(Debug)]
struct Session {
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
            Placed::NodesNoted(e) => {
                let barred = e.nodes.iter().filter(|node| !node.qualified).map(|node| raw(&node.node));
                for node in barred.chain(ids(&e.unqualified)).collect::<Vec<_>>() {
                    self.doom_of(node, LeaseEnd::NodeUnqualified);
                }
            }
            Placed::SessionNoted(e) => {
                let expires_at = Time::from_micros(e.expires_at_us);
                self.sessions.entry(raw(&e.session)).or_insert(Session { expires_at, closing: false });
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
        let lost = self.checkpointed.difference(&self.metered);
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
        let prices = [event.input_pico_usd, event.output_pico_usd].map(u128::from);
        let allowance = event.allowance_pico_usd.into();
        let (doomed, ended, metered, over_at) = (None, false, 0, (0, Time::default()));
        let lease = Lease { node, session, expires_at, prices, allowance, metered, doomed, ended, over_at };
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

    /// E-9.1, E-9.2: each call once, under a lease of that node and session, and all for no more than it allows.
    fn metered(&mut self, event: &CallsMetered) -> Wrong {
        let (node, session) = (raw(&event.node), raw(&event.session));
        let mut wrong = Wrong::new();
        for line in &event.lines {
            if !self.metered.insert((event.lease.clone(), line.call.clone())) {
                wrong.push(format!("E-9.2: call {} is metered twice", raw(&line.call)));
            }
        }
        let lease = self.leases.get_mut(&event.lease);
        let Some(lease) = lease.filter(|lease| (lease.node, lease.session) == (node, session)) else {
            wrong.push(format!("E-9.2: calls of node {node} are metered without a lease"));
            return wrong;
        };
        let [input, output] = lease.prices;
        let tokens = event.lines.iter().map(|line| [line.input_tokens, line.output_tokens].map(u128::from));
        lease.metered += tokens.map(|[read, written]| input * read + output * written).sum::<u128>();
        if lease.metered > lease.allowance {
            wrong.push(format!("E-9.1: more is metered than is allowed: {lease:?}"));
        }
        wrong
    }
}

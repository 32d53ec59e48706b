//! What each event does to the state. Total: what it names and cannot find is left alone; `check_step` sees it.

use holmes_kernel::{Id, Meta, Principal, PrincipalKind, Time};
use holmes_proto::columns::ids;
use holmes_proto::scheduling::v1::event::Event as Kind;
use holmes_proto::scheduling::v1::{
    DetachReason, Event, GatewayStarted, LeaseEnd, ModelNoted, NodeAttached, NodeDetached, NodeNoted,
    SessionDraining, SessionNoted,
};

use super::{Attachment, Gateway, Model, Node, Prices, Session, State};
use crate::offer::Offer;

/// Lets an event have happened.
pub fn evolve(state: &mut State, event: &Event, meta: &Meta) {
    if state.sealed.is_none() {
        state.sealed = Some(state.params.calendar.epoch(meta.ts).saturating_sub(1)); // E-0.5
    }
    state.at = meta.ts;
    state.forget(meta.ts);
    state.hear(meta);
    match &event.event {
        Some(Kind::LeaseGranted(e)) => state.lease_granted(e, meta),
        Some(Kind::LeaseEnded(e)) => state.lease_ended(e, meta),
        Some(Kind::LeaseRenewed(e)) => state.lease_renewed(e),
        Some(Kind::CallsMetered(e)) => state.calls_metered(e, meta),
        Some(Kind::CallsCheckpointed(e)) => state.calls_checkpointed(e, meta),
        Some(Kind::NodeAttached(e)) => state.node_attached(e, meta),
        Some(Kind::NodeDetached(e)) => state.node_detached(e, meta),
        Some(Kind::NodesNoted(e)) => {
            e.nodes.iter().for_each(|node| state.node_noted(node, meta));
            ids(&e.unqualified).for_each(|node| state.disqualify(node, meta));
        }
        Some(Kind::PresenceRecorded(e)) => state.presence_recorded(e),
        Some(Kind::BeatsWeighed(e)) => state.beats_weighed(e),
        Some(Kind::EpochAttendance(e)) => state.epoch_attendance(e),
        Some(Kind::EpochSealed(e)) => state.epoch_sealed(e),
        Some(Kind::GatewayStarted(e)) => state.gateway_started(e, meta),
        Some(Kind::GatewayLost(e)) => state.gateway_lost(&e.gateway, meta),
        Some(Kind::ModelNoted(e)) => state.model_noted(e),
        Some(Kind::SessionNoted(e)) => state.session_noted(e),
        Some(Kind::SessionDraining(e)) => state.session_draining(e),
        Some(Kind::SessionDrained(e)) => state.session_ended(&e.session),
        Some(Kind::SessionEnded(e)) => state.session_ended(&e.session),
        Some(Kind::GatewayHeard(_) | Kind::LinesAnswered(_)) | None => {} // heard above; answered by the event itself
    }
}

impl State {
    /// Every event that a gateway causes says that it is there.
    fn hear(&mut self, meta: &Meta) {
        let id = meta.principal.id;
        if meta.principal.kind != PrincipalKind::Gateway {
            return;
        }
        if let Some(gateway) = self.gateways.get_mut(&id).filter(|gateway| gateway.live) {
            let timeout = self.params.gateway_timeout_ms;
            self.silences.remove(&(gateway.heard_at.after_millis(timeout), id));
            gateway.heard_at = meta.ts;
            self.silences.insert((meta.ts.after_millis(timeout), id));
        }
    }

    fn gateway_started(&mut self, event: &GatewayStarted, meta: &Meta) {
        let (Some(id), Ok(public_key)) =
            (Id::from_slice(&event.gateway), event.public_key.as_ref().try_into())
        else {
            return;
        };
        let fresh =
            || Gateway { public_key, heard_at: meta.ts, live: true, nodes: Default::default(), drops: None };
        let gateway = self.gateways.get_or_insert_with(id, fresh);
        gateway.live = true;
        gateway.heard_at = meta.ts;
        self.silences.insert((meta.ts.after_millis(self.params.gateway_timeout_ms), id));
        self.drop_older(id, meta.seq, DetachReason::GatewayRestarted);
    }

    fn gateway_lost(&mut self, gateway: &[u8], meta: &Meta) {
        let Some(id) = Id::from_slice(gateway) else { return };
        let Some(gateway) = self.gateways.get_mut(&id) else { return };
        gateway.live = false;
        self.silences.remove(&(gateway.heard_at.after_millis(self.params.gateway_timeout_ms), id));
        self.drop_older(id, meta.seq, DetachReason::GatewayLost);
    }

    fn drop_older(&mut self, id: Id, seq: u64, reason: DetachReason) {
        if let Some(gateway) = self.gateways.get_mut(&id).filter(|gateway| !gateway.nodes.is_empty()) {
            gateway.drops = Some((seq, reason.into()));
            self.dropping.insert(id);
        }
    }

    /// Changes a node, and its place in the index with it.
    fn change(&mut self, id: Id, meta: &Meta, change: impl FnOnce(&mut Node)) {
        let score = self.params.score;
        let Some(node) = self.nodes.get_mut(&id) else { return };
        for served in node.serving() {
            if let Some(pool) = self.pools.get_mut(&served.name) {
                pool.remove(&node.entry(id, served.class, score));
                if pool.is_empty() {
                    self.pools.remove(&served.name);
                }
            }
        }
        change(node);
        node.changed = meta.seq;
        for served in node.serving() {
            let entry = node.entry(id, served.class, score);
            self.pools.entry(served.name.clone()).or_default().add(&entry);
        }
    }

    /// Changes how much a node is used, and its rank with it.
    pub(super) fn use_node(&mut self, id: Id, seq: u64, change: impl FnOnce(&mut Node)) {
        let score = self.params.score;
        let Some(node) = self.nodes.get_mut(&id) else { return };
        let before = node.rank(id, score);
        change(node);
        node.changed = seq;
        let after = node.rank(id, score);
        for served in node.serving() {
            if let Some(pool) = self.pools.get_mut(&served.name) {
                pool.rank(served.class, before, after);
            }
        }
    }

    fn node_noted(&mut self, noted: &NodeNoted, meta: &Meta) {
        let (Some(id), Some(owner)) = (Id::from_slice(&noted.node), Principal::from_slice(&noted.owner))
        else {
            return;
        };
        let Ok(public_key) = noted.public_key.as_ref().try_into() else { return };
        self.nodes.get_or_insert_with(id, || Node::new(owner, public_key));
        self.change(id, meta, |node| {
            node.qualify(noted.qualified, meta.ts);
            node.owner = owner;
            node.rating_milli_cu = noted.rating_milli_cu;
            node.required = noted.required_units;
        });
        if !noted.qualified {
            self.end_all_of(id, LeaseEnd::NodeUnqualified);
        }
    }

    fn disqualify(&mut self, id: Id, meta: &Meta) {
        self.change(id, meta, |node| node.qualify(false, meta.ts));
        self.end_all_of(id, LeaseEnd::NodeUnqualified);
    }

    fn node_attached(&mut self, event: &NodeAttached, meta: &Meta) {
        let ids = (Id::from_slice(&event.node), Id::from_slice(&event.gateway));
        let (Some(id), Some(gateway_id)) = ids else { return };
        let (Ok(offer), Ok(nonce)) = (Offer::read(&event.capabilities), event.nonce.as_ref().try_into())
        else {
            return;
        };
        let Some(gateway) = self.gateways.get_mut(&gateway_id) else { return };
        gateway.nodes.insert(meta.seq, id);
        self.change(id, meta, |node| {
            node.offer = Some(offer);
            node.nonce = nonce;
            node.attached = Some(Attachment { gateway: gateway_id, generation: meta.seq });
        });
    }

    fn node_detached(&mut self, event: &NodeDetached, meta: &Meta) {
        let Some(id) = Id::from_slice(&event.node) else { return };
        let Some(attached) = self.nodes.get(&id).and_then(|node| node.attached) else { return };
        self.change(id, meta, |node| node.attached = None);
        self.end_all_of(id, LeaseEnd::NodeLost);
        let Some(gateway) = self.gateways.get_mut(&attached.gateway) else { return };
        gateway.nodes.remove(&attached.generation);
        let oldest = gateway.nodes.first_key_value().map(|(generation, _)| *generation);
        if gateway.drops.is_some_and(|(before, _)| oldest.is_none_or(|oldest| oldest >= before)) {
            gateway.drops = None;
            self.dropping.remove(&attached.gateway);
        }
    }

    /// A node's leases: at most as many as a node may have slots.
    fn end_all_of(&mut self, node: Id, reason: LeaseEnd) {
        let leases: Vec<u64> =
            self.nodes.get(&node).into_iter().flat_map(|node| &node.leases).copied().collect();
        leases.into_iter().for_each(|lease| self.doom(lease, reason));
    }

    fn model_noted(&mut self, event: &ModelNoted) {
        let prices = Prices {
            input_pico: event.input_pico_usd,
            output_pico: event.output_pico_usd,
            input_micro_units: event.input_micro_units,
            output_micro_units: event.output_micro_units,
        };
        self.models.insert(event.model.clone(), Model { prices, withdrawn: event.withdrawn });
    }

    fn session_noted(&mut self, event: &SessionNoted) {
        let (Some(id), Some(renter)) = (Id::from_slice(&event.session), Principal::from_slice(&event.renter))
        else {
            return;
        };
        let Ok(cap) = event.cap_pico_usd.as_ref().try_into().map(u128::from_be_bytes) else { return };
        let session = self.sessions.get_or_insert_with(id, || Session {
            renter,
            cap,
            metered: 0,
            reserved: 0,
            expires_at: Time::default(),
            drains_until: None,
            drained_at: None,
            closed: false,
            leases: Default::default(),
            last_ended: Time::default(),
            unsettled: Default::default(),
        });
        session.cap = session.cap.max(cap);
        session.expires_at = Time::from_micros(event.expires_at_us);
    }

    fn session_draining(&mut self, event: &SessionDraining) {
        let Some(id) = Id::from_slice(&event.session) else { return };
        let Some(session) = self.sessions.get_mut(&id) else { return };
        session.drains_until = Some(Time::from_micros(event.drains_until_us));
        self.set_drain(id);
    }

    /// A closing session is drained so long after its last lease has ended. Those that are open end when its drain time
    /// is over.
    pub(super) fn set_drain(&mut self, id: Id) {
        let late_ms = self.params.late_close_ms;
        let Some(session) = self.sessions.get_mut(&id) else { return };
        let Some(latest) = session.drains_until.filter(|_| !session.closed) else { return };
        let at = if session.leases.is_empty() { session.last_ended.after_millis(late_ms) } else { latest };
        if let Some(before) = session.drained_at.replace(at) {
            self.drains.remove(&(before, id));
        }
        self.drains.insert((at, id));
    }

    fn session_ended(&mut self, session: &[u8]) {
        let Some(id) = Id::from_slice(session) else { return };
        let Some(session) = self.sessions.get_mut(&id) else { return };
        session.closed = true;
        if let Some(at) = session.drained_at.take() {
            self.drains.remove(&(at, id));
        }
        let leases: Vec<u64> = session.leases.iter().copied().collect();
        std::mem::take(&mut session.unsettled).into_iter().for_each(|lease| self.drop_running(lease));
        self.forget_session(id);
        leases.into_iter().for_each(|lease| self.doom(lease, LeaseEnd::SessionClosed));
    }
}

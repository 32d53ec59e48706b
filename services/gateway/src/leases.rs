//! Leases: each is one slot of a node for a session. One that a call has left is used for the session's next call of the
//! same model; idle ones are ended, so that others get the slot.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex};

use holmes_kernel::{Code, Id, Refusal, Time};
use holmes_proto::edge::AFTER;
use holmes_proto::scheduling::v1::{
    self as scheduling, CallLine, EndLeaseRequest, LeaseEnd, LeaseToken, PlaceRequest, PlaceResponse,
    RenewLeaseRequest,
};
use holmes_proto::statements::{LEASE_BYTES, lease_text};
use holmes_runtime::Clock;
use prost::Message as _;
use tokio::time::Instant;
use tonic::Request;

use crate::ask::Ask;
use crate::calls::SESSION_OVER;
use crate::guarded;
use crate::nodes::{Node, Nodes};
use crate::price::{PICO_PER_MICRO, pico};
use crate::running::{Ending, Running};
use crate::sessions::Session;
use crate::settings::{Settings, ms};
use crate::shares::{ACCOUNT_SLOTS_USED, Share, Shares};
use crate::upstream::{Upstream, request_id};

/// What a lease is good for: a session, a model, and the node that the renter named.
type Key = (Id, String, Option<Id>);

/// Reasons when leases of the session, idle ones too, hold what a call needs.
const SESSION_FULL: [&str; 3] = ["SESSION_BUDGET_EXCEEDED", "TOO_MANY_LEASES_OF_SESSION", ACCOUNT_SLOTS_USED];

/// Nodes that one placement may leave out.
pub(crate) const MOST_AVOIDED: usize = 8;

/// A lease that is open.
#[derive(Clone, Debug)]
pub(crate) struct Lease {
    pub(crate) id: [u8; LEASE_BYTES],
    /// What the node is shown.
    pub(crate) token: LeaseToken,
    pub(crate) session: Id,
    pub(crate) node: Id,
    pub(crate) generation: u64,
    pub(crate) expires: Time,
    /// Prices per token.
    input_pico: u64,
    output_pico: u64,
    /// Price that may be metered under it, and what was.
    allowance: u64,
    used: u64,
    /// Calls that were given back with it.
    calls: u32,
    key: Key,
    /// Whether it ends.
    pub(crate) ending: Ending,
    /// Its slot, in its renter's share.
    share: Option<Arc<Share>>,
}

impl Lease {
    /// What a line costs under it, without fees, pico-dollars.
    pub(crate) fn price(&self, line: &CallLine) -> u64 {
        pico(line.input_tokens, self.input_pico).saturating_add(pico(line.output_tokens, self.output_pico))
    }
}

/// The leases that no call uses now, and how leases are had.
pub(crate) struct Leases {
    upstream: Upstream,
    clock: Clock,
    settings: Settings,
    nodes: Arc<Nodes>,
    running: Arc<Running>,
    shares: Arc<Shares>,
    idle: Mutex<BTreeMap<Key, Vec<(Instant, Lease)>>>,
}

impl Leases {
    pub(crate) fn new(
        upstream: Upstream,
        clock: Clock,
        settings: Settings,
        nodes: Arc<Nodes>,
        running: Arc<Running>,
    ) -> Leases {
        let shares = Shares::new(settings.most_slots_percent);
        Leases { upstream, clock, settings, nodes, running, shares, idle: Mutex::default() }
    }

    /// A lease for a call that costs at most `price` pico-dollars and needs `context` tokens: an idle one, or a new one
    /// on none of the nodes to `avoid`.
    pub(crate) async fn take(
        self: &Arc<Self>,
        session: &Session,
        ask: &Ask,
        (price, context): (u64, u32),
        avoid: &[Id],
    ) -> Result<(Lease, Arc<Node>), Refusal> {
        let key = (session.id, ask.model.clone(), ask.node);
        while let Some(mut lease) = self.pop(&key) {
            if self.is_wanted(ask) {
                lease.share = None; // it counts no more when the next one is looked at
                self.end(lease, LeaseEnd::Released);
                continue;
            }
            let node = self.nodes.get(lease.node).filter(|node| {
                let fits = node.context(&ask.model).is_some_and(|most| most == 0 || most >= context);
                let fresh = lease.calls < self.settings.most_calls_per_lease;
                let lasts = lease.ending.borrow().is_none();
                node.generation == lease.generation && node.takes_calls() && fits && fresh && lasts
            });
            let Some(node) = node.filter(|node| !avoid.contains(&node.id)) else {
                self.end(lease, LeaseEnd::Released);
                continue;
            };
            if self.good_for(&lease, price) || self.renew(&mut lease, price).await.is_ok() {
                return Ok((lease, node));
            }
            self.end(lease, LeaseEnd::Released);
        }
        self.place(session, ask, (price, context), avoid).await
    }

    /// Whether the renter holds more of the model's slots than its share, because another one wants a slot too.
    fn is_wanted(&self, ask: &Ask) -> bool {
        self.shares.is_above(ask.renter, &ask.model, &self.nodes.slots(&ask.model))
    }

    /// Whether a lease has the time and the allowance for a call.
    fn good_for(&self, lease: &Lease, price: u64) -> bool {
        let needed = self.clock.now().after_millis(self.settings.lease_left_ms);
        lease.expires >= needed && lease.allowance.saturating_sub(lease.used) >= price
    }

    /// Keeps a lease for longer, for another call of this price (0: the one that runs).
    pub(crate) async fn renew(&self, lease: &mut Lease, price: u64) -> Result<(), Refusal> {
        let request = RenewLeaseRequest {
            request_id: request_id(),
            lease_id: lease_text(&lease.id),
            allowance_pico_usd: lease.allowance.max(lease.used.saturating_add(price)),
            duration_ms: 0,
        };
        let renewed = self
            .upstream
            .definite(ms(self.settings.upstream_ms), || {
                let (mut scheduling, request) = (self.upstream.scheduling(), request.clone());
                async move { scheduling.renew_lease(request).await }
            })
            .await?;
        let (used, calls, share) = (lease.used, lease.calls, lease.share.clone());
        *lease = read(renewed.token, lease.key.clone(), |_| lease.ending.clone())?;
        (lease.used, lease.calls, lease.share) = (used, calls, share);
        Ok(())
    }

    /// Gets a new lease, and waits a little for a free slot.
    async fn place(
        self: &Arc<Self>,
        session: &Session,
        ask: &Ask,
        (price, context): (u64, u32),
        avoid: &[Id],
    ) -> Result<(Lease, Arc<Node>), Refusal> {
        let until = Instant::now() + ms(self.settings.place_wait_ms);
        let mut allowance =
            price.max(1).max(self.settings.allowance_micro_usd.saturating_mul(PICO_PER_MICRO));
        let mut pause = ms(20);
        let mut waiting = None;
        loop {
            let request = PlaceRequest {
                request_id: request_id(),
                session_id: session.id.to_string(),
                model: ask.model.clone(),
                allowance_pico_usd: allowance,
                duration_ms: 0,
                avoid_node_ids: avoid.iter().take(MOST_AVOIDED).map(Id::to_string).collect(),
                node_id: ask.node.map(|node| node.to_string()).unwrap_or_default(),
                context,
            };
            let refused = match self.ask_in_share(request, session, ask, &mut waiting).await {
                Ok(placed) => {
                    let key = (session.id, ask.model.clone(), ask.node);
                    let mut lease = read(placed.token, key, |id| self.running.hold(id))?;
                    lease.share = waiting.take().map(|share| share.at(lease.node));
                    match self.nodes.get(lease.node).filter(|node| node.generation == lease.generation) {
                        Some(node) => return Ok((lease, node)),
                        // It went while it was chosen; scheduling hears of that too.
                        None => Refusal::new(
                            Code::Unavailable,
                            "NODE_GONE",
                            "the chosen node has gone: try again",
                        ),
                    }
                }
                Err(refused) => refused,
            };
            let reason = refused.reason.as_ref();
            if SESSION_OVER.contains(&reason) {
                return Err(refused);
            }
            let is_share = reason == ACCOUNT_SLOTS_USED;
            if allowance > price.max(1) && refused.code != Code::NotFound && !is_share {
                allowance = price.max(1); // what the call itself needs may fit where more does not
                continue;
            }
            let crowded = SESSION_FULL.contains(&reason);
            if crowded {
                self.end_idle_of(session.id);
            }
            let may_wait = crowded || matches!(refused.code, Code::Exhausted | Code::Unavailable);
            if !may_wait || Instant::now() + pause > until {
                return Err(refused);
            }
            tokio::time::sleep(pause).await;
            pause = (pause * 2).min(ms(250));
        }
    }

    /// Asks for a lease within the renter's share. What it waits for is held until it is there, so that others yield.
    async fn ask_in_share(
        &self,
        request: PlaceRequest,
        session: &Session,
        ask: &Ask,
        waiting: &mut Option<Share>,
    ) -> Result<PlaceResponse, Refusal> {
        if waiting.is_none() {
            *waiting = Some(self.shares.take(ask.renter, &ask.model, &self.nodes.slots(&ask.model))?);
        }
        self.ask(request, session).await
    }

    async fn ask(&self, request: PlaceRequest, session: &Session) -> Result<PlaceResponse, Refusal> {
        let placing = self.upstream.definite(ms(self.settings.upstream_ms), || {
            let (mut scheduling, request) = (self.upstream.scheduling(), request.clone());
            let funded = session.funded_seq;
            async move { scheduling.place(after_market(request, funded)).await }
        });
        placing.await
    }

    /// How many are open at each node.
    pub(crate) fn held(&self) -> BTreeMap<Id, u64> {
        self.shares.held()
    }

    /// How many no call uses now.
    pub(crate) fn idle(&self) -> u64 {
        guarded(&self.idle).values().map(|leases| leases.len() as u64).sum()
    }

    fn pop(&self, key: &Key) -> Option<Lease> {
        let mut idle = guarded(&self.idle);
        let leases = idle.get_mut(key)?;
        let lease = leases.pop().map(|(_, lease)| lease);
        if leases.is_empty() {
            idle.remove(key);
        }
        lease
    }

    /// Gives a lease back after a call; its line uses up allowance.
    pub(crate) fn give_back(&self, mut lease: Lease, line: Option<&CallLine>) {
        lease.used = lease.used.saturating_add(line.map_or(0, |line| lease.price(line)));
        lease.calls += 1;
        guarded(&self.idle).entry(lease.key.clone()).or_default().push((Instant::now(), lease));
    }

    /// Ends a lease that nothing is reported of any more; the node hears of it.
    fn end(self: &Arc<Self>, lease: Lease, reason: LeaseEnd) {
        self.end_behind(lease, reason, std::future::ready(()));
    }

    /// Ends a lease behind what is still reported under it: what it holds is for that, and for no other lease.
    pub(crate) fn end_behind(
        self: &Arc<Self>,
        lease: Lease,
        reason: LeaseEnd,
        reported: impl Future<Output = ()> + Send + 'static,
    ) {
        if let Some(node) = self.nodes.get(lease.node) {
            node.lease_over(lease.id);
        }
        let leases = self.clone();
        tokio::spawn(async move {
            reported.await;
            leases.tell(&lease, reason).await;
        });
    }

    async fn tell(&self, lease: &Lease, reason: LeaseEnd) {
        let request = EndLeaseRequest {
            request_id: request_id(),
            lease_id: lease_text(&lease.id),
            reason: reason.into(),
        };
        let told = self.upstream.definite(ms(self.settings.upstream_ms), || {
            let (mut scheduling, request) = (self.upstream.scheduling(), request.clone());
            async move { scheduling.end_lease(request).await }
        });
        if let Err(why) = told.await {
            // It ends by itself when its time is over.
            tracing::debug!(lease = lease_text(&lease.id), %why, "a lease could not be ended");
        }
    }

    /// Ends the leases that nobody has used for a while, or that no call may use any more.
    pub(crate) fn end_idle(self: &Arc<Self>) {
        let keep = ms(self.settings.lease_idle_ms);
        self.end_where(|since, lease| since.elapsed() >= keep || lease.ending.borrow().is_some());
    }

    /// Ends a session's idle leases: what they hold is needed.
    fn end_idle_of(self: &Arc<Self>, session: Id) {
        self.end_where(|_, lease| lease.session == session);
    }

    fn end_where(self: &Arc<Self>, is_over: impl Fn(&Instant, &Lease) -> bool) {
        let mut over = Vec::new();
        guarded(&self.idle).retain(|_, leases| {
            let ended = leases.extract_if(.., |(since, lease)| is_over(since, lease));
            over.extend(ended.map(|(_, lease)| lease));
            !leases.is_empty()
        });
        for lease in over {
            self.end(lease, LeaseEnd::Released);
        }
    }

    /// Ends all that no call uses: the gateway stops.
    pub(crate) async fn end_all(&self) {
        let all = std::mem::take(&mut *guarded(&self.idle));
        for (_, lease) in all.into_values().flatten() {
            self.tell(&lease, LeaseEnd::Released).await;
        }
    }

    /// Forgets the leases on an attachment that is gone: scheduling ends them.
    pub(crate) fn forget_node(&self, node: Id, generation: u64) {
        guarded(&self.idle).retain(|_, leases| {
            leases.retain(|(_, lease)| (lease.node, lease.generation) != (node, generation));
            !leases.is_empty()
        });
    }
}

/// A placement decides on what the market has said: scheduling reads its log up to there first.
fn after_market(request: PlaceRequest, seq: u64) -> Request<PlaceRequest> {
    let mut request = Request::new(request);
    if let Ok(after) = format!("market@{seq}").parse() {
        request.metadata_mut().insert(AFTER, after);
    }
    request
}

fn read(
    token: Option<LeaseToken>,
    key: Key,
    held: impl FnOnce([u8; LEASE_BYTES]) -> Ending,
) -> Result<Lease, Refusal> {
    let unreadable = || {
        let message = "scheduling's lease cannot be read: tell who runs the network";
        Refusal::new(Code::Internal, "UPSTREAM_MALFORMED", message)
    };
    let token = token.ok_or_else(unreadable)?;
    let lease = scheduling::Lease::decode(token.lease.clone()).map_err(|_| unreadable())?;
    let id = lease.lease.as_ref().try_into().map_err(|_| unreadable())?;
    Ok(Lease {
        id,
        ending: held(id),
        session: Id::from_slice(&lease.session).ok_or_else(unreadable)?,
        node: Id::from_slice(&lease.node).ok_or_else(unreadable)?,
        generation: lease.generation,
        expires: Time::from_micros(lease.expires_at_us),
        input_pico: lease.input_pico_usd,
        output_pico: lease.output_pico_usd,
        allowance: lease.allowance_pico_usd,
        used: 0,
        calls: 0,
        token,
        key,
        share: None,
    })
}

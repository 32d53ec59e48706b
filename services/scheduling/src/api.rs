//! The gRPC service of scheduling over a [`Handle`]: parses, checks signatures, submits or reads, answers, signs leases.

use std::sync::Arc;

use ed25519_dalek::{Signer as _, SigningKey};
use holmes_kernel::{Answer, At, Handle, Id, Principal, PrincipalKind, Refusal};
use holmes_proto::edge;
use holmes_proto::scheduling::v1 as wire;
use holmes_proto::scheduling::v1::scheduling_server::{Scheduling as Service, SchedulingServer};
use holmes_proto::statements;
use prost::Message as _;
use tonic::{Request, Response, Status};

use crate::Scheduling;
use crate::command::{Command, Rejection, Reply, Told};
use crate::decide::{ending, message};
use crate::explain::explain;
use crate::signatures;
use crate::state::{Lease, LeaseId, Network, State};
use crate::wire as parse;

/// The service.
#[derive(Clone, Debug)]
pub struct Api<H> {
    handle: H,
    signer: Arc<SigningKey>,
    network: Network,
}

/// The service as a gRPC server takes it. `signer` signs leases: its public half is what the parameters of the log
/// name, or no lease is given. `genesis` and `cell` are those that the log was opened with.
pub fn server<H: Handle<Scheduling>>(
    handle: H,
    signer: SigningKey,
    genesis: [u8; 16],
    cell: u16,
) -> SchedulingServer<Api<H>> {
    SchedulingServer::new(Api::new(handle, signer, genesis, cell))
}

fn unexpected() -> Status {
    edge::status(Refusal::new(
        holmes_kernel::Code::Internal,
        "INTERNAL",
        "the answer is another command's: report this defect",
    ))
}

impl<H: Handle<Scheduling>> Api<H> {
    /// The service over a machine.
    pub fn new(handle: H, signer: SigningKey, genesis: [u8; 16], cell: u16) -> Api<H> {
        Api { handle, signer: Arc::new(signer), network: Network { genesis, cell } }
    }

    /// Looks before a command: at what is there, or as new as the caller asks.
    async fn look_ahead<Q, T: Send + 'static>(
        &self,
        request: &Request<Q>,
        look: impl FnOnce(&State) -> Result<T, Rejection> + Send + 'static,
    ) -> Result<T, Status> {
        let at = match edge::at(request)? {
            At::Latest => At::Seq(0), // the command itself decides on the newest
            asked => asked,
        };
        let answer = self.handle.read(at, look).await.map_err(edge::status)?;
        answer.value.map_err(|why| edge::refused(&why))
    }

    /// Leases are signed with the key that the network knows, or not at all.
    async fn may_sign<Q>(&self, request: &Request<Q>) -> Result<(), Status> {
        let (ours, network) = (self.signer.verifying_key().to_bytes(), self.network);
        self.look_ahead(request, move |state| {
            let known = state.params.public_key == Some(ours) && state.network == network;
            if known { Ok(()) } else { Err(Rejection::SigningKeyMismatch) }
        })
        .await
    }

    fn token(&self, lease: &wire::Lease) -> wire::LeaseToken {
        let lease = lease.encode_to_vec();
        let said = statements::lease(&self.network.genesis, self.network.cell, &lease);
        let signature = self.signer.sign(&said).to_bytes().to_vec().into();
        wire::LeaseToken { lease: lease.into(), signature }
    }
}

/// Whether a party may look at a lease: the two sides, gateways and the platform.
fn may_see(who: Principal, lease: &Lease) -> bool {
    match who.kind {
        PrincipalKind::Account => who == lease.renter || who == lease.owner,
        PrincipalKind::Node => who.id == lease.node,
        _ => true,
    }
}

/// Whether a party may ask why a node was not taken: the lease's two sides, the node and its owner, the platform.
fn may_ask(who: Principal, state: &State, lease: &Lease, asked: Id) -> bool {
    match who.kind {
        PrincipalKind::Account => {
            may_see(who, lease) || state.nodes.get(&asked).is_some_and(|node| node.owner == who)
        }
        PrincipalKind::Node => who.id == asked,
        _ => true,
    }
}

/// What is recorded of a call under a lease: the place of its line, or none where a checkpoint waits.
fn recorded(state: &State, call: Id, lease: LeaseId) -> Option<Option<(u64, u32)>> {
    let Some(lease) = state.leases.get(&lease.seq).filter(|known| known.term == lease.term) else {
        return state.calls.find(&call).filter(Option::is_some);
    };
    let metered = lease.calls.get(&call).copied();
    metered.map(Some).or_else(|| lease.running.contains_key(&call).then_some(None))
}

fn forbidden(who: Principal, needs: &'static str) -> Rejection {
    Rejection::Forbidden { who, needs }
}

/// The caller, before its signatures are looked at: nobody but gateways makes us compute.
fn gateway<T>(request: &Request<T>) -> Result<Principal, Status> {
    let who = edge::principal(request)?;
    match who.kind {
        PrincipalKind::Gateway => Ok(who),
        _ => Err(edge::refused(&forbidden(who, "only gateways may"))),
    }
}

fn lease_of(granted: wire::LeaseGranted) -> wire::Lease {
    wire::Lease {
        lease: granted.lease,
        session: granted.session,
        node: granted.node,
        gateway: granted.gateway,
        generation: granted.generation,
        model: granted.model,
        expires_at_us: granted.expires_at_us,
        allowance_pico_usd: granted.allowance_pico_usd,
        input_pico_usd: granted.input_pico_usd,
        output_pico_usd: granted.output_pico_usd,
    }
}

fn lease_response(id: LeaseId, lease: &Lease) -> wire::GetLeaseResponse {
    wire::GetLeaseResponse {
        lease: Some(message(id, lease)),
        open: lease.is_open(),
        reason: lease.reason().into(),
        metered_pico_usd: lease.metered,
        placement: wire::Placement::decode(lease.placement.as_slice()).ok(),
    }
}

#[tonic::async_trait]
impl<H: Handle<Scheduling>> Service for Api<H> {
    async fn start_gateway(
        &self,
        request: Request<wire::StartGatewayRequest>,
    ) -> Result<Response<wire::StartGatewayResponse>, Status> {
        edge::principal(&request)?;
        let wanted = request.get_ref();
        let public_key = parse::start(wanted)?;
        if !signatures::is_key(&public_key) {
            return Err(edge::refused(&Rejection::KeyInvalid));
        }
        let command = Command::StartGateway { public_key };
        let answer = edge::submit(&self.handle, &request, &wanted.request_id, Ok(command)).await?;
        let params = |state: &State| state.params.clone();
        let params = self.handle.read(At::Seq(answer.seq), params).await.map_err(edge::status)?.value;
        Ok(edge::answered(answer, |_| wire::StartGatewayResponse {
            public_key: params.public_key.map(|key| key.to_vec()).unwrap_or_default().into(),
            tge_at_ms: params.calendar.tge_at().millis(),
            epoch_s: params.calendar.epoch_s(),
            beat_s: params.beat_s,
            seal_after_ms: params.seal_after_ms,
            gateway_timeout_ms: params.gateway_timeout_ms,
        }))
    }

    async fn attach(
        &self,
        request: Request<wire::AttachRequest>,
    ) -> Result<Response<wire::AttachResponse>, Status> {
        let wanted = request.get_ref();
        let gateway = gateway(&request)?.id.to_bytes();
        let attach = parse::attach(wanted)?;
        let id = attach.node;
        let look = move |state: &State| {
            let node = state.nodes.get(&id).ok_or(Rejection::NodeUnknown(id))?;
            Ok((state.network, node.public_key))
        };
        let (network, key) = self.look_ahead(&request, look).await?;
        signatures::check_attach(&network, &key, &gateway, &attach).map_err(|why| edge::refused(&why))?;
        let command = Command::Attach(attach);
        let Answer { value, seq } =
            edge::submit(&self.handle, &request, &wanted.request_id, Ok(command)).await?;
        let Reply::Attached { generation } = value else { return Err(unexpected()) };
        let response = wire::AttachResponse { generation };
        Ok(edge::answered(Answer { value: response, seq }, |response| response))
    }

    async fn detach(
        &self,
        request: Request<wire::DetachRequest>,
    ) -> Result<Response<wire::DetachResponse>, Status> {
        let wanted = request.get_ref();
        edge::done(&self.handle, &request, &wanted.request_id, parse::detach(wanted)).await
    }

    async fn report_presence(
        &self,
        request: Request<wire::ReportPresenceRequest>,
    ) -> Result<Response<wire::ReportPresenceResponse>, Status> {
        let wanted = request.get_ref();
        let command = parse::presence(wanted);
        let answer = edge::submit(&self.handle, &request, &wanted.request_id, command).await?;
        Ok(edge::answered(answer, |reply| match reply {
            Reply::Present { not_attached } => wire::ReportPresenceResponse {
                not_attached_node_ids: not_attached.iter().map(Id::to_string).collect(),
            },
            _ => wire::ReportPresenceResponse::default(),
        }))
    }

    async fn place(
        &self,
        request: Request<wire::PlaceRequest>,
    ) -> Result<Response<wire::PlaceResponse>, Status> {
        edge::principal(&request)?;
        let wanted = request.get_ref();
        let command = parse::place(wanted)?;
        self.may_sign(&request).await?;
        let Answer { value, seq } =
            edge::submit(&self.handle, &request, &wanted.request_id, Ok(command)).await?;
        let Reply::Placed(granted) = value else { return Err(unexpected()) };
        let credit = granted.credit as u32; // a WorkCredit: never negative
        let lease = lease_of(*granted);
        let id = LeaseId::from_slice(&lease.lease).ok_or_else(unexpected)?;
        let response = wire::PlaceResponse {
            token: Some(self.token(&lease)),
            lease_id: statements::lease_text(&id.to_bytes()),
            credit,
        };
        Ok(edge::answered(Answer { value: response, seq }, |response| response))
    }

    async fn renew_lease(
        &self,
        request: Request<wire::RenewLeaseRequest>,
    ) -> Result<Response<wire::RenewLeaseResponse>, Status> {
        edge::principal(&request)?;
        let wanted = request.get_ref();
        let command = parse::renew(wanted)?;
        self.may_sign(&request).await?;
        let Answer { value, seq } =
            edge::submit(&self.handle, &request, &wanted.request_id, Ok(command)).await?;
        let Reply::Renewed(lease) = value else { return Err(unexpected()) };
        let response = wire::RenewLeaseResponse { token: Some(self.token(&lease)) };
        Ok(edge::answered(Answer { value: response, seq }, |response| response))
    }

    async fn end_lease(
        &self,
        request: Request<wire::EndLeaseRequest>,
    ) -> Result<Response<wire::EndLeaseResponse>, Status> {
        let wanted = request.get_ref();
        edge::done(&self.handle, &request, &wanted.request_id, parse::end(wanted)).await
    }

    async fn report_calls(
        &self,
        request: Request<wire::ReportCallsRequest>,
    ) -> Result<Response<wire::ReportCallsResponse>, Status> {
        let wanted = request.get_ref();
        let who = gateway(&request)?;
        let (id, lines) = parse::report(wanted)?;
        let look = move |state: &State| {
            let lease = state.leases.get(&id.seq).filter(|lease| lease.term == id.term);
            let lease = lease.ok_or(Rejection::LeaseNotFound(id))?;
            let node = state.nodes.get(&lease.node).ok_or(Rejection::NodeUnknown(lease.node))?;
            let gateway = state.gateways.get(&who.id).ok_or(Rejection::GatewayUnknown(who.id))?;
            Ok((state.network, node.public_key, gateway.public_key))
        };
        let (network, node, gateway) = self.look_ahead(&request, look).await?;
        signatures::check_lines(&network, id, (&node, &gateway), &lines)
            .map_err(|why| edge::refused(&why))?;
        let command = Command::ReportCalls { lease: id, lines };
        let Answer { value, seq } =
            edge::submit(&self.handle, &request, &wanted.request_id, Ok(command)).await?;
        let Reply::Reported(reported) = value else { return Err(unexpected()) };
        let mut response = wire::ReportCallsResponse::default();
        for (at, told) in reported.lines.iter().enumerate() {
            response.receipts.push(reported.receipt(told, seq));
            if let Told::Refused(reason) = told {
                response.refused.push(wire::RefusedLine { line: at as u32, reason: reason.clone() });
            }
        }
        Ok(edge::answered(Answer { value: response, seq }, |response| response))
    }

    async fn report_running(
        &self,
        request: Request<wire::ReportRunningRequest>,
    ) -> Result<Response<wire::ReportRunningResponse>, Status> {
        let wanted = request.get_ref();
        let who = gateway(&request)?;
        let leases = parse::running(wanted)?;
        let ids: Vec<LeaseId> = leases.iter().map(|(id, _)| *id).collect();
        let look = move |state: &State| {
            let gateway = state.gateways.get(&who.id).ok_or(Rejection::GatewayUnknown(who.id))?;
            let node =
                |id: &LeaseId| state.lease(id, state.at).and_then(|lease| state.nodes.get(&lease.node));
            let keys = ids.iter().map(|id| node(id).map(|node| node.public_key));
            let ending = ids.iter().filter_map(|id| ending(state, *id).map(|end| (*id, end)));
            Ok((state.network, gateway.public_key, keys.collect::<Vec<_>>(), ending.collect::<Vec<_>>()))
        };
        let (network, gateway, keys, ending) = self.look_ahead(&request, look).await?;
        let mut checkpoints = Vec::new();
        for ((id, lines), node) in leases.into_iter().zip(keys) {
            let Some(node) = node else { continue }; // its lease is over, and the answer says so
            signatures::check_lines(&network, id, (&node, &gateway), &lines)
                .map_err(|why| edge::refused(&why))?;
            checkpoints.extend(lines.into_iter().map(|line| (id, line)));
        }
        let ending = ending.into_iter().map(|(id, (at, reason))| wire::EndingLease {
            lease_id: statements::lease_text(&id.to_bytes()),
            ends_at_us: at.micros(),
            reason: reason.into(),
        });
        let response = wire::ReportRunningResponse { ending: ending.collect() };
        if checkpoints.is_empty() {
            return Ok(Response::new(response));
        }
        let (id, command) = (&wanted.request_id, Ok(Command::Checkpoint(checkpoints)));
        let answer = edge::submit(&self.handle, &request, id, command).await?;
        Ok(edge::answered(answer, |_| response))
    }

    async fn find_call(
        &self,
        request: Request<wire::FindCallRequest>,
    ) -> Result<Response<wire::FindCallResponse>, Status> {
        gateway(&request)?;
        let wanted = request.get_ref();
        let id = edge::id("call_id", &wanted.call_id)?;
        let lease = match wanted.lease_id.as_str() {
            "" => None,
            text => Some(parse::lease_id("lease_id", text)?),
        };
        let look = move |state: &State| {
            let found = match lease {
                None => state.calls.find(&id),
                Some(lease) => recorded(state, id, lease),
            };
            found.ok_or(Rejection::CallNotFound(id))
        };
        let answer = edge::read(&self.handle, &request, look).await?;
        Ok(edge::answered(answer, |place| wire::FindCallResponse {
            receipt: place.map(|(seq, line)| statements::receipt_name(seq, line)).unwrap_or_default(),
        }))
    }

    async fn get_node(
        &self,
        request: Request<wire::GetNodeRequest>,
    ) -> Result<Response<wire::GetNodeResponse>, Status> {
        edge::principal(&request)?;
        let id = edge::id("node_id", &request.get_ref().node_id)?;
        let look = move |state: &State| {
            let node = state.nodes.get(&id).ok_or(Rejection::NodeNotFound(id))?;
            Ok(parse::node(state, id, node))
        };
        let answer = edge::read(&self.handle, &request, look).await?;
        Ok(edge::answered(answer, |node| wire::GetNodeResponse { node: Some(node) }))
    }

    async fn list_nodes(
        &self,
        request: Request<wire::ListNodesRequest>,
    ) -> Result<Response<wire::ListNodesResponse>, Status> {
        edge::principal(&request)?;
        let wanted = request.get_ref();
        let (attached, model) = (wanted.attached, wanted.model.clone());
        let from = edge::page_from(&wanted.page_token, 0)?;
        let size = edge::page_size(wanted.page_size);
        let look = move |state: &State| parse::page(state, attached, &model, from, size);
        let answer = edge::look(&self.handle, &request, look).await?;
        Ok(edge::answered(answer, |(nodes, next)| wire::ListNodesResponse {
            nodes,
            next_page_token: edge::next_page(next),
        }))
    }

    async fn get_lease(
        &self,
        request: Request<wire::GetLeaseRequest>,
    ) -> Result<Response<wire::GetLeaseResponse>, Status> {
        let who = edge::principal(&request)?;
        let id = parse::lease_id("lease_id", &request.get_ref().lease_id)?;
        let look = move |state: &State| {
            let lease = state.lease(&id, state.at).ok_or(Rejection::LeaseNotFound(id))?;
            // Leases are numbered: who could ask which there are could count the network's business.
            if may_see(who, lease) {
                Ok(lease_response(id, lease))
            } else {
                Err(Rejection::LeaseNotFound(id))
            }
        };
        let answer = edge::read(&self.handle, &request, look).await?;
        Ok(edge::answered(answer, |lease| lease))
    }

    async fn explain(
        &self,
        request: Request<wire::ExplainRequest>,
    ) -> Result<Response<wire::ExplainResponse>, Status> {
        let who = edge::principal(&request)?;
        let wanted = request.get_ref();
        let id = parse::lease_id("lease_id", &wanted.lease_id)?;
        let node = match wanted.node_id.as_str() {
            "" => None,
            text => Some(edge::id("node_id", text)?),
        };
        let look = move |state: &State| {
            let lease = state.lease(&id, state.at).ok_or(Rejection::LeaseNotFound(id))?;
            let asked = node.unwrap_or(lease.node);
            if !may_ask(who, state, lease, asked) {
                let needs = "a node asks about itself, its owner about it; the lease's renter and owner, and the platform, about all";
                let known = may_see(who, lease);
                return Err(if known { forbidden(who, needs) } else { Rejection::LeaseNotFound(id) });
            }
            explain(state, id, lease, asked)
        };
        let answer = edge::read(&self.handle, &request, look).await?;
        Ok(edge::answered(answer, |explained| explained))
    }
}

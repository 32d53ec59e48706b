//! The gRPC service of staking over a [`Handle`]: parses, submits or reads, answers.

use holmes_kernel::{Answer, At, Ctx, Handle, Id, LogId, Machine, Principal, Refusal, Time};
use holmes_proto::edge::{self, Needs};
use holmes_proto::staking::v1 as wire;
use holmes_proto::staking::v1::staking_server::{Staking as Service, StakingServer};
use tonic::{Request, Response, Status};

use crate::Staking;
use crate::command::{Command, Rejection, Reply};
use crate::state::State;
use crate::wire as parse;
use crate::wire::Malformed;

/// Most nodes of one page.
pub const MOST_PER_PAGE: u32 = 1_000;
/// Nodes of a page where the caller does not say.
const PER_PAGE: u32 = 100;

/// The service.
#[derive(Clone, Debug)]
pub struct Api<H> {
    handle: H,
}

/// The service as a gRPC server takes it.
pub fn server<H: Handle<Staking>>(handle: H) -> StakingServer<Api<H>> {
    StakingServer::new(Api::new(handle))
}

impl<H: Handle<Staking>> Api<H> {
    /// The service over a machine.
    pub fn new(handle: H) -> Api<H> {
        Api { handle }
    }

    async fn submit<T>(
        &self,
        request: &Request<T>,
        request_id: &str,
        command: Result<Command, Malformed>,
    ) -> Result<Answer<Reply>, Status> {
        let call = edge::call(request, request_id)?;
        self.handle.submit(call, command.map_err(invalid)?).await.map_err(edge::status)
    }

    /// Carries out a command that answers nothing but that it is so.
    async fn done<T, R: Default>(
        &self,
        request: &Request<T>,
        request_id: &str,
        command: Result<Command, Malformed>,
    ) -> Result<Response<R>, Status> {
        let answer = self.submit(request, request_id, command).await?;
        Ok(edge::answered(answer, |_| R::default()))
    }

    /// Carries out a command, or only says what it would do, at the moment of its request id.
    async fn submit_or_say<T>(
        &self,
        request: &Request<T>,
        request_id: &str,
        validate_only: bool,
        command: Result<Command, Malformed>,
    ) -> Result<Answer<Reply>, Status> {
        if !validate_only {
            return self.submit(request, request_id, command).await;
        }
        let (call, command) = (edge::call(request, request_id)?, command.map_err(invalid)?);
        let moment = edge::id("request_id", request_id)?.moment();
        let now = moment.ok_or_else(|| edge::invalid("request_id", "a UUIDv7"))?;
        let at = call.after.map_or(At::Latest, At::After);
        let look = move |state: &State| preview(state, &command, call.principal, now);
        let Answer { value, seq } = self.handle.read(at, look).await.map_err(edge::status)?;
        Ok(Answer { value: value.map_err(edge::status)?, seq })
    }
}

fn preview(state: &State, command: &Command, principal: Principal, now: Time) -> Result<Reply, Refusal> {
    let ctx = Ctx { now, principal, log: LogId::default(), term: 0, seq: 0 };
    let mut events = Vec::new();
    Staking::decide(state, command, &ctx, &mut events).map_err(|why| Refusal::of(&why))?;
    Ok(Staking::reply(command, &events))
}

fn invalid(why: Malformed) -> Status {
    edge::invalid(&why.field, why.expected)
}

fn not_found(id: Id) -> Status {
    edge::status(Refusal::of(&Rejection::NodeNotFound(id)))
}

#[tonic::async_trait]
impl<H: Handle<Staking>> Service for Api<H> {
    async fn register_node(
        &self,
        request: Request<wire::RegisterNodeRequest>,
    ) -> Result<Response<wire::RegisterNodeResponse>, Status> {
        let wanted = request.get_ref();
        edge::needs(&request, parse::needs_of(wanted))?;
        let answer = self.submit(&request, &wanted.request_id, parse::register_node(wanted)).await?;
        Ok(edge::answered(answer, |reply| match reply {
            Reply::Registered { node } => wire::RegisterNodeResponse { node_id: node.to_string() },
            _ => wire::RegisterNodeResponse::default(),
        }))
    }

    async fn set_rating(
        &self,
        request: Request<wire::SetRatingRequest>,
    ) -> Result<Response<wire::SetRatingResponse>, Status> {
        let wanted = request.get_ref();
        self.done(&request, &wanted.request_id, parse::set_rating(wanted)).await
    }

    async fn bond(
        &self,
        request: Request<wire::BondRequest>,
    ) -> Result<Response<wire::BondResponse>, Status> {
        let wanted = request.get_ref();
        let (id, only) = (&wanted.request_id, wanted.validate_only);
        edge::needs(&request, Needs::Nodes)?;
        let answer = self.submit_or_say(&request, id, only, parse::bond(wanted)).await?;
        Ok(edge::answered(answer, |reply| match reply {
            Reply::Bonding { amount } => wire::BondResponse { amount_units: amount.units() },
            _ => wire::BondResponse::default(),
        }))
    }

    async fn unbond(
        &self,
        request: Request<wire::UnbondRequest>,
    ) -> Result<Response<wire::UnbondResponse>, Status> {
        let wanted = request.get_ref();
        let (id, only) = (&wanted.request_id, wanted.validate_only);
        edge::needs(&request, Needs::Nodes)?;
        let answer = self.submit_or_say(&request, id, only, parse::unbond(wanted)).await?;
        Ok(edge::answered(answer, |reply| match reply {
            Reply::Unbonding { unbonding, amount, ready_at } => wire::UnbondResponse {
                unbonding,
                amount_units: amount.units(),
                ready_at_us: ready_at.micros(),
            },
            _ => wire::UnbondResponse::default(),
        }))
    }

    async fn set_payout_account(
        &self,
        request: Request<wire::SetPayoutAccountRequest>,
    ) -> Result<Response<wire::SetPayoutAccountResponse>, Status> {
        let wanted = request.get_ref();
        edge::needs(&request, Needs::Nodes)?;
        self.done(&request, &wanted.request_id, parse::set_payout(wanted)).await
    }

    async fn get_node(
        &self,
        request: Request<wire::GetNodeRequest>,
    ) -> Result<Response<wire::GetNodeResponse>, Status> {
        edge::principal(&request)?;
        let id = edge::id("node_id", &request.get_ref().node_id)?;
        let look = move |state: &State| state.nodes.get(&id).map(|node| parse::node(state, id, node));
        let answer = self.handle.read(edge::at(&request)?, look).await.map_err(edge::status)?;
        if answer.value.is_none() {
            return Err(not_found(id));
        }
        Ok(edge::answered(answer, |node| wire::GetNodeResponse { node }))
    }

    async fn list_nodes(
        &self,
        request: Request<wire::ListNodesRequest>,
    ) -> Result<Response<wire::ListNodesResponse>, Status> {
        let principal = edge::principal(&request)?;
        let wanted = request.get_ref();
        let owner = match wanted.owner.as_str() {
            "" => Some(principal),
            "*" => None,
            text => Some(parse::owner("owner", text).map_err(invalid)?),
        };
        let only = wire::NodeState::try_from(wanted.state)
            .map_err(|_| edge::invalid("state", "a state, or UNSPECIFIED for any"))?;
        let from = match wanted.page_token.as_str() {
            "" => 0,
            text => text
                .parse()
                .map_err(|_| edge::invalid("page_token", "the next_page_token of the page before"))?,
        };
        let size = if wanted.page_size == 0 { PER_PAGE } else { wanted.page_size.min(MOST_PER_PAGE) };
        let look = move |state: &State| parse::page(state, owner, only, from, size as usize);
        let answer = self.handle.read(edge::at(&request)?, look).await.map_err(edge::status)?;
        Ok(edge::answered(answer, |(nodes, next)| wire::ListNodesResponse {
            nodes,
            next_page_token: next.map(|next| next.to_string()).unwrap_or_default(),
        }))
    }

    async fn get_required(
        &self,
        request: Request<wire::GetRequiredRequest>,
    ) -> Result<Response<wire::GetRequiredResponse>, Status> {
        edge::principal(&request)?;
        let wanted = request.get_ref();
        let rating = wanted.rating_milli_cu;
        let node = match (wanted.node_id.as_str(), rating) {
            ("", 0) => return Err(edge::invalid("node_id", "a node's id, or a rating_milli_cu")),
            ("", _) => None,
            (text, 0) => Some(edge::id("node_id", text)?),
            _ => return Err(edge::invalid("rating_milli_cu", "nothing beside a node_id")),
        };
        let look = move |state: &State| match node {
            None => Ok(parse::required(state, rating)),
            Some(id) => state.nodes.get(&id).map(|node| parse::required_of(state, node)).ok_or(id),
        };
        let Answer { value, seq } =
            self.handle.read(edge::at(&request)?, look).await.map_err(edge::status)?;
        Ok(edge::answered(Answer { value: value.map_err(not_found)?, seq }, |required| required))
    }

    async fn jail(
        &self,
        request: Request<wire::JailRequest>,
    ) -> Result<Response<wire::JailResponse>, Status> {
        let wanted = request.get_ref();
        self.done(&request, &wanted.request_id, parse::jail(wanted)).await
    }

    async fn unjail(
        &self,
        request: Request<wire::UnjailRequest>,
    ) -> Result<Response<wire::UnjailResponse>, Status> {
        let wanted = request.get_ref();
        self.done(&request, &wanted.request_id, parse::unjail(wanted)).await
    }

    async fn tombstone(
        &self,
        request: Request<wire::TombstoneRequest>,
    ) -> Result<Response<wire::TombstoneResponse>, Status> {
        let wanted = request.get_ref();
        self.done(&request, &wanted.request_id, parse::tombstone(wanted)).await
    }
}

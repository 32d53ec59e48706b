//! The gRPC service of emission over a [`Handle`]: parses, submits or reads, answers.

use holmes_kernel::{Answer, At, Ctx, Handle, LogId, Machine, Principal, Refusal, Time};
use holmes_proto::edge::{self, Needs};
use holmes_proto::emission::v1 as wire;
use holmes_proto::emission::v1::emission_server::{Emission as Service, EmissionServer};
use tonic::{Request, Response, Status};

use crate::Emission;
use crate::command::{Command, Rejection, Reply};
use crate::state::State;
use crate::wire as parse;
use crate::wire::Malformed;

/// Most rows of one page.
pub const MOST_PER_PAGE: u32 = 1_000;
/// Rows of a page where the caller does not say.
const PER_PAGE: u32 = 100;

/// The service.
#[derive(Clone, Debug)]
pub struct Api<H> {
    handle: H,
}

/// The service as a gRPC server takes it.
pub fn server<H: Handle<Emission>>(handle: H) -> EmissionServer<Api<H>> {
    EmissionServer::new(Api::new(handle))
}

impl<H: Handle<Emission>> Api<H> {
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

    /// Looks at the state for a caller that is known; everybody may.
    async fn read<T, V: Send + 'static>(
        &self,
        request: &Request<T>,
        look: impl FnOnce(&State) -> Result<V, Rejection> + Send + 'static,
    ) -> Result<Answer<V>, Status> {
        edge::principal(request)?;
        let Answer { value, seq } = self.handle.read(edge::at(request)?, look).await.map_err(edge::status)?;
        Ok(Answer { value: value.map_err(|why| edge::status(Refusal::of(&why)))?, seq })
    }
}

fn preview(state: &State, command: &Command, principal: Principal, now: Time) -> Result<Reply, Refusal> {
    let ctx = Ctx { now, principal, log: LogId::default(), term: 0, seq: 0 };
    let mut events = Vec::new();
    Emission::decide(state, command, &ctx, &mut events).map_err(|why| Refusal::of(&why))?;
    Ok(Emission::reply(command, &events))
}

fn invalid(why: Malformed) -> Status {
    edge::invalid(&why.field, why.expected)
}

fn page_size(asked: u32) -> usize {
    let size = if asked == 0 { PER_PAGE } else { asked.min(MOST_PER_PAGE) };
    size as usize
}

#[tonic::async_trait]
impl<H: Handle<Emission>> Service for Api<H> {
    async fn get_epoch(
        &self,
        request: Request<wire::GetEpochRequest>,
    ) -> Result<Response<wire::GetEpochResponse>, Status> {
        let epoch = request.get_ref().epoch;
        let look = move |state: &State| {
            let found = if epoch == 0 { state.closed.values().next_back() } else { state.closed.get(&epoch) };
            found.map(parse::closed).ok_or(Rejection::EpochNotFound(epoch))
        };
        let answer = self.read(&request, look).await?;
        Ok(edge::answered(answer, |epoch| wire::GetEpochResponse { epoch: Some(epoch) }))
    }

    async fn list_epochs(
        &self,
        request: Request<wire::ListEpochsRequest>,
    ) -> Result<Response<wire::ListEpochsResponse>, Status> {
        let wanted = request.get_ref();
        let before = match wanted.page_token.as_str() {
            "" => u64::MAX,
            text => text
                .parse()
                .map_err(|_| edge::invalid("page_token", "the next_page_token of the page before"))?,
        };
        let size = page_size(wanted.page_size);
        let answer = self.read(&request, move |state: &State| Ok(parse::epochs(state, before, size))).await?;
        Ok(edge::answered(answer, |(epochs, next)| wire::ListEpochsResponse {
            epochs,
            next_page_token: next.map(|next| next.to_string()).unwrap_or_default(),
        }))
    }

    async fn get_pools(
        &self,
        request: Request<wire::GetPoolsRequest>,
    ) -> Result<Response<wire::GetPoolsResponse>, Status> {
        let answer = self.read(&request, |state: &State| Ok(parse::pools(state))).await?;
        Ok(edge::answered(answer, |pools| pools))
    }

    async fn get_node_rewards(
        &self,
        request: Request<wire::GetNodeRewardsRequest>,
    ) -> Result<Response<wire::GetNodeRewardsResponse>, Status> {
        let id = edge::id("node_id", &request.get_ref().node_id)?;
        let look = move |state: &State| {
            let node = state.nodes.get(&id).ok_or(Rejection::NodeNotFound(id))?;
            Ok(parse::rewards(state, id, node))
        };
        let answer = self.read(&request, look).await?;
        Ok(edge::answered(answer, |rewards| rewards))
    }

    async fn get_grant(
        &self,
        request: Request<wire::GetGrantRequest>,
    ) -> Result<Response<wire::GetGrantResponse>, Status> {
        let wanted = request.get_ref();
        let id = edge::id("node_id", &wanted.node_id)?;
        let epoch = parse::epoch("epoch", wanted.epoch).map_err(invalid)?;
        let look = move |state: &State| {
            let node = state.nodes.get(&id).ok_or(Rejection::NodeNotFound(id))?;
            let grant = node.grants.get(&epoch).ok_or(Rejection::GrantNotFound { node: id, epoch })?;
            Ok(parse::grant(state, id, node, epoch, grant))
        };
        let answer = self.read(&request, look).await?;
        Ok(edge::answered(answer, |grant| wire::GetGrantResponse { grant: Some(grant) }))
    }

    async fn list_grants(
        &self,
        request: Request<wire::ListGrantsRequest>,
    ) -> Result<Response<wire::ListGrantsResponse>, Status> {
        let caller = edge::principal(&request)?;
        let wanted = request.get_ref();
        let (node, owner) = match (wanted.node_id.as_str(), wanted.owner.as_str()) {
            ("", "") => (None, caller),
            ("", text) => (None, parse::owner("owner", text).map_err(invalid)?),
            (text, "") => (Some(edge::id("node_id", text)?), caller),
            _ => return Err(edge::invalid("owner", "nothing beside a node_id")),
        };
        let from = parse::from(&wanted.page_token).map_err(invalid)?;
        let size = page_size(wanted.page_size);
        let look = move |state: &State| match node.filter(|id| !state.nodes.contains(id)) {
            Some(unknown) => Err(Rejection::NodeNotFound(unknown)),
            None => Ok(parse::grants(state, node, owner, from, size)),
        };
        let answer = self.read(&request, look).await?;
        Ok(edge::answered(answer, |(grants, next)| wire::ListGrantsResponse {
            grants,
            next_page_token: next.map(parse::token).unwrap_or_default(),
        }))
    }

    async fn exit_grant(
        &self,
        request: Request<wire::ExitGrantRequest>,
    ) -> Result<Response<wire::ExitGrantResponse>, Status> {
        let wanted = request.get_ref();
        let (id, only) = (&wanted.request_id, wanted.validate_only);
        edge::needs(&request, Needs::Nodes)?;
        let answer = self.submit_or_say(&request, id, only, parse::exit_grant(wanted)).await?;
        Ok(edge::answered(answer, |reply| match reply {
            Reply::Exited { paid, burned } => {
                wire::ExitGrantResponse { paid_units: paid.units(), burned_units: burned.units() }
            }
            Reply::Done => wire::ExitGrantResponse::default(),
        }))
    }

    async fn close_epoch_without(
        &self,
        request: Request<wire::CloseEpochWithoutRequest>,
    ) -> Result<Response<wire::CloseEpochWithoutResponse>, Status> {
        let wanted = request.get_ref();
        let answer = self.submit(&request, &wanted.request_id, parse::close_without(wanted)).await?;
        Ok(edge::answered(answer, |_| wire::CloseEpochWithoutResponse {}))
    }
}

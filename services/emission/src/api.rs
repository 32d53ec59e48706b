//! The gRPC service of emission over a [`Handle`]: parses, submits or reads, answers.

use holmes_kernel::Handle;
use holmes_proto::edge::{self, Needs};
use holmes_proto::emission::v1 as wire;
use holmes_proto::emission::v1::emission_server::{Emission as Service, EmissionServer};
use tonic::{Request, Response, Status};

use crate::Emission;
use crate::command::{Rejection, Reply};
use crate::state::State;
use crate::wire as parse;

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
        let answer = edge::read(&self.handle, &request, look).await?;
        Ok(edge::answered(answer, |epoch| wire::GetEpochResponse { epoch: Some(epoch) }))
    }

    async fn list_epochs(
        &self,
        request: Request<wire::ListEpochsRequest>,
    ) -> Result<Response<wire::ListEpochsResponse>, Status> {
        edge::principal(&request)?;
        let wanted = request.get_ref();
        let before = edge::page_from(&wanted.page_token, u64::MAX)?;
        let size = edge::page_size(wanted.page_size);
        let answer =
            edge::read(&self.handle, &request, move |state: &State| Ok(parse::epochs(state, before, size)))
                .await?;
        Ok(edge::answered(answer, |(epochs, next)| wire::ListEpochsResponse {
            epochs,
            next_page_token: edge::next_page(next),
        }))
    }

    async fn get_pools(
        &self,
        request: Request<wire::GetPoolsRequest>,
    ) -> Result<Response<wire::GetPoolsResponse>, Status> {
        let answer = edge::read(&self.handle, &request, |state: &State| Ok(parse::pools(state))).await?;
        Ok(edge::answered(answer, |pools| pools))
    }

    async fn get_node_rewards(
        &self,
        request: Request<wire::GetNodeRewardsRequest>,
    ) -> Result<Response<wire::GetNodeRewardsResponse>, Status> {
        edge::principal(&request)?;
        let id = edge::id("node_id", &request.get_ref().node_id)?;
        let look = move |state: &State| {
            let node = state.nodes.get(&id).ok_or(Rejection::NodeNotFound(id))?;
            Ok(parse::rewards(state, id, node))
        };
        let answer = edge::read(&self.handle, &request, look).await?;
        Ok(edge::answered(answer, |rewards| rewards))
    }

    async fn get_grant(
        &self,
        request: Request<wire::GetGrantRequest>,
    ) -> Result<Response<wire::GetGrantResponse>, Status> {
        edge::principal(&request)?;
        let wanted = request.get_ref();
        let id = edge::id("node_id", &wanted.node_id)?;
        let epoch = parse::epoch("epoch", wanted.epoch)?;
        let look = move |state: &State| {
            let node = state.nodes.get(&id).ok_or(Rejection::NodeNotFound(id))?;
            let grant = node.grants.get(&epoch).ok_or(Rejection::GrantNotFound { node: id, epoch })?;
            Ok(parse::grant(state, id, node, epoch, grant))
        };
        let answer = edge::read(&self.handle, &request, look).await?;
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
            ("", text) => (None, parse::owner("owner", text)?),
            (text, "") => (Some(edge::id("node_id", text)?), caller),
            _ => return Err(edge::invalid("owner", "nothing beside a node_id")),
        };
        let from = parse::from(&wanted.page_token)?;
        let size = edge::page_size(wanted.page_size);
        let look = move |state: &State| match node.filter(|id| !state.nodes.contains(id)) {
            Some(unknown) => Err(Rejection::NodeNotFound(unknown)),
            None => Ok(parse::grants(state, node, owner, from, size)),
        };
        let answer = edge::read(&self.handle, &request, look).await?;
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
        edge::needs(&request, Needs::Admin)?; // it burns a part of what is the owner's
        let answer = edge::submit_or_say(&self.handle, &request, id, only, parse::exit_grant(wanted)).await?;
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
        let answer =
            edge::submit(&self.handle, &request, &wanted.request_id, parse::close_without(wanted)).await?;
        Ok(edge::answered(answer, |_| wire::CloseEpochWithoutResponse {}))
    }
}

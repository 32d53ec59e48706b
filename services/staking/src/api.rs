//! The gRPC service of staking over a [`Handle`]: parses, submits or reads, answers.

use holmes_kernel::Handle;
use holmes_proto::edge::{self, Needs};
use holmes_proto::staking::v1 as wire;
use holmes_proto::staking::v1::staking_server::{Staking as Service, StakingServer};
use tonic::{Request, Response, Status};

use crate::Staking;
use crate::command::{Rejection, Reply};
use crate::state::State;
use crate::wire as parse;

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
}

#[tonic::async_trait]
impl<H: Handle<Staking>> Service for Api<H> {
    async fn register_node(
        &self,
        request: Request<wire::RegisterNodeRequest>,
    ) -> Result<Response<wire::RegisterNodeResponse>, Status> {
        let wanted = request.get_ref();
        edge::needs(&request, parse::needs_of(wanted))?;
        let answer =
            edge::submit(&self.handle, &request, &wanted.request_id, parse::register_node(wanted)).await?;
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
        edge::done(&self.handle, &request, &wanted.request_id, parse::set_rating(wanted)).await
    }

    async fn bond(
        &self,
        request: Request<wire::BondRequest>,
    ) -> Result<Response<wire::BondResponse>, Status> {
        let wanted = request.get_ref();
        let (id, only) = (&wanted.request_id, wanted.validate_only);
        edge::needs(&request, Needs::Nodes)?;
        let answer = edge::submit_or_say(&self.handle, &request, id, only, parse::bond(wanted)).await?;
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
        // A bond that goes elsewhere than was said is money that moves.
        let elsewhere = !wanted.account_id.is_empty();
        edge::needs(&request, if elsewhere { Needs::Admin } else { Needs::Nodes })?;
        let answer = edge::submit_or_say(&self.handle, &request, id, only, parse::unbond(wanted)).await?;
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
        edge::needs(&request, Needs::Admin)?;
        edge::done(&self.handle, &request, &wanted.request_id, parse::set_payout(wanted)).await
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
        let principal = edge::principal(&request)?;
        let wanted = request.get_ref();
        let owner = match wanted.owner.as_str() {
            "" => Some(principal),
            "*" => None,
            text => Some(parse::owner("owner", text)?),
        };
        let only = wire::NodeState::try_from(wanted.state)
            .map_err(|_| edge::invalid("state", "a state, or UNSPECIFIED for any"))?;
        let from = edge::page_from(&wanted.page_token, 0)?;
        let size = edge::page_size(wanted.page_size);
        let look = move |state: &State| parse::page(state, owner, only, from, size);
        let answer = edge::look(&self.handle, &request, look).await?;
        Ok(edge::answered(answer, |(nodes, next)| wire::ListNodesResponse {
            nodes,
            next_page_token: edge::next_page(next),
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
            Some(id) => {
                let node = state.nodes.get(&id).ok_or(Rejection::NodeNotFound(id))?;
                Ok(parse::required_of(state, node))
            }
        };
        let answer = edge::read(&self.handle, &request, look).await?;
        Ok(edge::answered(answer, |required| required))
    }

    async fn jail(
        &self,
        request: Request<wire::JailRequest>,
    ) -> Result<Response<wire::JailResponse>, Status> {
        let wanted = request.get_ref();
        edge::done(&self.handle, &request, &wanted.request_id, parse::jail(wanted)).await
    }

    async fn unjail(
        &self,
        request: Request<wire::UnjailRequest>,
    ) -> Result<Response<wire::UnjailResponse>, Status> {
        let wanted = request.get_ref();
        edge::done(&self.handle, &request, &wanted.request_id, parse::unjail(wanted)).await
    }

    async fn tombstone(
        &self,
        request: Request<wire::TombstoneRequest>,
    ) -> Result<Response<wire::TombstoneResponse>, Status> {
        let wanted = request.get_ref();
        edge::done(&self.handle, &request, &wanted.request_id, parse::tombstone(wanted)).await
    }
}

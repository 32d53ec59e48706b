//! The treasury's gRPC service over a [`Handle`]: parses, submits or reads, answers.

use holmes_kernel::Handle;
use holmes_proto::edge;
use holmes_proto::treasury::v1 as wire;
use holmes_proto::treasury::v1::treasury_server::{Treasury as Service, TreasuryServer};
use tonic::{Request, Response, Status};

use crate::Treasury;
use crate::command::Command;
use crate::state::State;
use crate::wire as show;

/// The service.
#[derive(Clone, Debug)]
pub struct Api<H> {
    handle: H,
}

/// The service as a gRPC server takes it.
pub fn server<H: Handle<Treasury>>(handle: H) -> TreasuryServer<Api<H>> {
    TreasuryServer::new(Api::new(handle))
}

impl<H: Handle<Treasury>> Api<H> {
    /// The service over a machine.
    pub fn new(handle: H) -> Api<H> {
        Api { handle }
    }

    /// Every read is open to every known caller: how the cap was shared out is no secret.
    async fn look<T, R: Send + 'static>(
        &self,
        request: &Request<T>,
        look: fn(&State) -> R,
    ) -> Result<Response<R>, Status> {
        Ok(edge::answered(edge::look(&self.handle, request, look).await?, |value| value))
    }
}

#[tonic::async_trait]
impl<H: Handle<Treasury>> Service for Api<H> {
    async fn get_allocations(
        &self,
        request: Request<wire::GetAllocationsRequest>,
    ) -> Result<Response<wire::GetAllocationsResponse>, Status> {
        self.look(&request, show::allocations).await
    }

    async fn get_vesting(
        &self,
        request: Request<wire::GetVestingRequest>,
    ) -> Result<Response<wire::GetVestingResponse>, Status> {
        self.look(&request, show::vestings).await
    }

    async fn get_genesis(
        &self,
        request: Request<wire::GetGenesisRequest>,
    ) -> Result<Response<wire::GetGenesisResponse>, Status> {
        self.look(&request, show::genesis).await
    }

    async fn retry_genesis(
        &self,
        request: Request<wire::RetryGenesisRequest>,
    ) -> Result<Response<wire::RetryGenesisResponse>, Status> {
        edge::done(&self.handle, &request, &request.get_ref().request_id, Ok(Command::RetryGenesis)).await
    }
}

//! The gRPC service over a machine's door: the wire in, a command or a look at the state, the wire out.

use holmes_kernel::Handle;
use holmes_proto::edge::{answered, at, call, principal, status};
use holmes_proto::market::v1::market_server::{Market as Service, MarketServer};
use holmes_proto::market::v1::{BeginRequest, BeginResponse, GetStandingRequest, GetStandingResponse};
use tonic::{Request, Response, Status};

use crate::{Command, Market};

/// The service.
#[derive(Clone, Debug)]
pub struct Api<H> {
    handle: H,
}

/// The service as a gRPC server takes it.
pub fn server<H: Handle<Market>>(handle: H) -> MarketServer<Api<H>> {
    MarketServer::new(Api { handle })
}

#[tonic::async_trait]
impl<H: Handle<Market>> Service for Api<H> {
    async fn begin(&self, request: Request<BeginRequest>) -> Result<Response<BeginResponse>, Status> {
        let call = call(&request, &request.get_ref().request_id)?;
        let answer = self.handle.submit(call, Command::Begin).await.map_err(status)?;
        Ok(answered(answer, |_| BeginResponse {}))
    }

    async fn get_standing(
        &self,
        request: Request<GetStandingRequest>,
    ) -> Result<Response<GetStandingResponse>, Status> {
        principal(&request)?; // whoever is known may look
        let answer = self.handle.read(at(&request)?, |state| state.beginnings).await.map_err(status)?;
        Ok(answered(answer, |beginnings| GetStandingResponse { beginnings }))
    }
}

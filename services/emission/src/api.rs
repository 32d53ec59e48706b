//! The gRPC service over a machine's door: the wire in, a command or a look at the state, the wire out.

use holmes_kernel::Handle;
use holmes_proto::edge::{answered, at, call, principal, status};
use holmes_proto::emission::v1::emission_server::{Emission as Service, EmissionServer};
use holmes_proto::emission::v1::{BeginRequest, BeginResponse, GetStandingRequest, GetStandingResponse};
use tonic::{Request, Response, Status};

use crate::{Command, Emission};

/// The service.
#[derive(Clone, Debug)]
pub struct Api<H> {
    handle: H,
}

/// The service as a gRPC server takes it.
pub fn server<H: Handle<Emission>>(handle: H) -> EmissionServer<Api<H>> {
    EmissionServer::new(Api { handle })
}

#[tonic::async_trait]
impl<H: Handle<Emission>> Service for Api<H> {
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

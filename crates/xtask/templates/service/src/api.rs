//! The gRPC service over a machine's door: the wire in, a command or a look at the state, the wire out.

use holmes_kernel::Handle;
use holmes_proto::edge::{Needs, answered, at, call, needs, principal, status};
use holmes_proto::{{name}}::v1::{{name}}_server::{{{Name}} as Service, {{Name}}Server};
use holmes_proto::{{name}}::v1::{BeginRequest, BeginResponse, GetStandingRequest, GetStandingResponse};
use tonic::{Request, Response, Status};

use crate::{{{Name}}, Command};

/// The service.
#[derive(Clone, Debug)]
pub struct Api<H> {
    handle: H,
}

/// The service as a gRPC server takes it.
pub fn server<H: Handle<{{Name}}>>(handle: H) -> {{Name}}Server<Api<H>> {
    {{Name}}Server::new(Api { handle })
}

#[tonic::async_trait]
impl<H: Handle<{{Name}}>> Service for Api<H> {
    async fn begin(&self, request: Request<BeginRequest>) -> Result<Response<BeginResponse>, Status> {
        needs(&request, Needs::Party)?; // say what the proof must be: services/holmes/tests/it/scopes.rs asks
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

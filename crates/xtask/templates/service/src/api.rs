//! The gRPC service over a machine's door: the wire in, a command or a look at the state, the wire out.

use holmes_kernel::Handle;
use holmes_proto::edge::{self, Needs};
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
        // Say what the proof must be: services/holmes/tests/it/scopes.rs asks.
        edge::needs(&request, Needs::Party)?;
        edge::done(&self.handle, &request, &request.get_ref().request_id, Ok(Command::Begin)).await
    }

    async fn get_standing(
        &self,
        request: Request<GetStandingRequest>,
    ) -> Result<Response<GetStandingResponse>, Status> {
        let answer = edge::look(&self.handle, &request, |state| state.beginnings).await?;
        Ok(edge::answered(answer, |beginnings| GetStandingResponse { beginnings }))
    }
}

//! Calls of a service's gRPC methods without a network between.

use holmes_kernel::Principal;
use holmes_proto::edge::{Roles, Scope};
use tonic::{Request, Response, Status};
use tonic_types::StatusExt as _;

use crate::now;

/// A message of a caller whom the edge has let in, signed by an account that acts as everything: what a proof may do is
/// told apart where whole servers are asked.
pub fn request<T>(who: Principal, message: T) -> Request<T> {
    let mut request = Request::new(message);
    request.extensions_mut().insert(who);
    let roles = Roles::RENTER | Roles::OPERATOR | Roles::VERIFIER | Roles::STAFF;
    request.extensions_mut().insert(Scope::signature(roles));
    request
}

/// The stable reason of a refusal, which has a message for people too.
#[track_caller]
pub fn reason(status: &Status) -> String {
    let info = status.get_details_error_info().expect("every refusal has a reason");
    assert!(!status.message().is_empty() && info.domain == "holmes");
    info.reason
}

/// What a method answers: its message, or the reason of its refusal.
pub fn answer<T>(called: impl Future<Output = Result<Response<T>, Status>>) -> Result<T, String> {
    now(called).map(Response::into_inner).map_err(|status| reason(&status))
}

/// Calls a method of `$desk.api` and answers the message, or the reason of the refusal, when `$desk.settle()` has let the
/// others hear of it.
#[macro_export]
macro_rules! call {
    ($desk:ident.$rpc:ident, $who:expr, $message:expr) => {{
        let answer = $crate::grpc::answer($desk.api.$rpc($crate::grpc::request($who, $message)));
        $desk.settle();
        answer
    }};
}

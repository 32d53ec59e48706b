//! Between the wire and a machine: what every `api.rs` needs to read a call and to answer it, in one way for all.
//!
//! Callers may send the metadata `holmes-min-seq: 42` (a read at least that new; 0 means now), and
//! `holmes-after: market@42` (wait until this service has taken in another one's log up to there). Every answer
//! carries `holmes-seq`: the place in the log that it speaks of.

use std::time::Duration;

use holmes_kernel::{After, Amount, Answer, At, Call, Code, Id, Principal, Refusal};
use tonic::{Request, Response, Status};
use tonic_types::{ErrorDetails, StatusExt};

mod door;
mod roles;
mod scope;

pub use door::{
    MOST_PER_PAGE, done, look, next_page, page_from, page_size, read, refused, submit, submit_or_say,
};
pub use roles::Roles;
pub use scope::{Needs, Proof, Scope, needs};

/// The domain of every `google.rpc.ErrorInfo` that we send.
pub const DOMAIN: &str = "holmes";
/// Metadata: see the module.
pub const MIN_SEQ: &str = "holmes-min-seq";
/// Metadata: see the module.
pub const AFTER: &str = "holmes-after";
/// Metadata: see the module.
pub const SEQ: &str = "holmes-seq";

/// The request id that a signature covers, in a request's extensions: the message must name the same.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SignedRequest(pub Id);

/// Who asks; the runtime's authentication has put it there.
pub fn principal<T>(request: &Request<T>) -> Result<Principal, Status> {
    let known = request.extensions().get::<Principal>().copied();
    known.ok_or_else(|| {
        let message =
            "this call needs a known caller: send `authorization: Bearer <API key>` or sign the request";
        status(Refusal::new(Code::Unauthenticated, "UNAUTHENTICATED", message))
    })
}

/// The call of a request that changes something.
pub fn call<T>(request: &Request<T>, request_id: &str) -> Result<Call, Status> {
    let principal = principal(request)?;
    let request_id = id("request_id", request_id)?;
    signed_as(request, request_id).map_err(status)?;
    let mut call = Call::request(principal, request_id);
    call.after = after(request)?;
    call.traceparent = metadata(request, "traceparent")?.unwrap_or_default().to_owned();
    Ok(call)
}

/// Whether a request that is signed is signed under the id that it goes by: otherwise a signature would not say which
/// request it is for, and the same one could be sent again as another.
pub fn signed_as<T>(request: &Request<T>, id: Id) -> Result<(), Refusal> {
    if request.extensions().get::<SignedRequest>().is_some_and(|signed| signed.0 != id) {
        let message =
            "the signature covers another request id than the message names: sign the id that is sent";
        return Err(Refusal::new(Code::Unauthenticated, "SIGNATURE_OF_OTHER_REQUEST", message));
    }
    Ok(())
}

/// How new a read must be.
pub fn at<T>(request: &Request<T>) -> Result<At, Status> {
    if let Some(after) = after(request)? {
        return Ok(At::After(after));
    }
    match metadata(request, MIN_SEQ)? {
        None => Ok(At::Latest),
        Some(text) => {
            text.parse().map(At::Seq).map_err(|_| invalid(MIN_SEQ, "a sequence number in decimal digits"))
        }
    }
}

/// An answer on the wire.
pub fn answered<T, U>(answer: Answer<T>, make: impl FnOnce(T) -> U) -> Response<U> {
    let mut response = Response::new(make(answer.value));
    response.metadata_mut().insert(SEQ, answer.seq.into());
    response
}

/// Whether a server has said a status. What has a source was made on this side, of an error of the connection.
pub fn is_said(status: &Status) -> bool {
    std::error::Error::source(status).is_none()
}

/// A refusal on the wire: the class as code, the stable reason as `ErrorInfo`, the wait as `RetryInfo`.
pub fn status(refusal: Refusal) -> Status {
    status_with(refusal, std::collections::HashMap::new())
}

/// The same, with what else is to be known of it.
pub fn status_with(refusal: Refusal, more: std::collections::HashMap<String, String>) -> Status {
    let mut details = ErrorDetails::new();
    details.set_error_info(refusal.reason.as_ref(), DOMAIN, more);
    if let Some(ms) = refusal.retry_after_ms {
        details.set_retry_info(Some(Duration::from_millis(ms)));
    }
    Status::with_error_details(tonic::Code::from_i32(refusal.code as i32), refusal.message, details)
}

/// A field that is not what it must be.
pub fn invalid(field: &str, expected: &str) -> Status {
    let message = format!("{field} is not valid: expected {expected}");
    let mut details = ErrorDetails::new();
    details.set_error_info("FIELD_INVALID", DOMAIN, std::collections::HashMap::new());
    details.add_bad_request_violation(field, expected);
    Status::with_error_details(tonic::Code::InvalidArgument, message, details)
}

/// A field of a message that is not what it must be, where there is no caller to tell: a send has none.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{field} is not valid: expected {expected}")]
pub struct Malformed {
    /// Which field.
    pub field: String,
    /// What it must be.
    pub expected: &'static str,
}

impl From<Malformed> for Status {
    fn from(why: Malformed) -> Status {
        invalid(&why.field, why.expected)
    }
}

/// A field's value, or what is wrong with it.
pub type Parsed<T> = Result<T, Malformed>;

/// A field that is not what it must be.
pub fn malformed<T>(field: impl Into<String>, expected: &'static str) -> Parsed<T> {
    Err(Malformed { field: field.into(), expected })
}

/// An id in a text field, for callers and sends alike.
pub fn parsed_id(field: &str, text: &str) -> Parsed<Id> {
    text.parse().or_else(|_| malformed(field, AN_ID))
}

const AN_ID: &str = "an id of 32 hexadecimal digits, as in 0192f3a0-7c1d-7b43-9b0e-3f1d2c4b5a69";

/// What is signed, wherever something is signed: a row of fields, each behind its length (u32, little-endian), so that
/// no two rows give the same bytes.
pub fn signed_text(fields: &[&[u8]]) -> Vec<u8> {
    let mut bytes = Vec::new();
    for field in fields {
        bytes.extend((field.len() as u32).to_le_bytes());
        bytes.extend(*field);
    }
    bytes
}

/// An id in a text field.
pub fn id(field: &str, text: &str) -> Result<Id, Status> {
    text.parse().map_err(|_| invalid(field, AN_ID))
}

/// An amount that must not be nothing.
pub fn amount(field: &str, units: u64) -> Result<Amount, Status> {
    if units == 0 { Err(invalid(field, "an amount of at least 1 base unit")) } else { Ok(Amount::new(units)) }
}

fn after<T>(request: &Request<T>) -> Result<Option<After>, Status> {
    let Some(text) = metadata(request, AFTER)? else { return Ok(None) };
    let place = text
        .split_once('@')
        .and_then(|(name, seq)| Some(After { service: crate::service(name)?, seq: seq.parse().ok()? }));
    place.map(Some).ok_or_else(|| invalid(AFTER, "<service>@<sequence number>, as in market@42"))
}

fn metadata<'a, T>(request: &'a Request<T>, key: &str) -> Result<Option<&'a str>, Status> {
    let Some(value) = request.metadata().get(key) else { return Ok(None) };
    value.to_str().map(Some).map_err(|_| invalid(key, "printable ASCII"))
}

#[cfg(test)]
mod tests {
    use holmes_kernel::{PrincipalKind, ServiceId};

    use super::*;

    fn request(pairs: &[(&'static str, &str)]) -> Request<()> {
        let mut request = Request::new(());
        for (key, value) in pairs {
            request.metadata_mut().insert(*key, value.parse().unwrap());
        }
        request
    }

    #[test]
    fn a_read_is_as_new_as_the_metadata_asks() {
        assert_eq!(at(&request(&[])).unwrap(), At::Latest);
        assert_eq!(at(&request(&[(MIN_SEQ, "0")])).unwrap(), At::Seq(0));
        let after = At::After(After { service: ServiceId(1), seq: 7 });
        assert_eq!(at(&request(&[(AFTER, "ledger@7")])).unwrap(), after);
        for bad in ["ledger", "nobody@7", "ledger@-1", "@7"] {
            assert_eq!(at(&request(&[(AFTER, bad)])).unwrap_err().code(), tonic::Code::InvalidArgument);
        }
        assert!(at(&request(&[(MIN_SEQ, "-1")])).is_err());
    }

    #[test]
    fn a_call_needs_a_caller_and_an_id() {
        let mut request = request(&[]);
        let text = "0192f3a0-7c1d-7b43-9b0e-3f1d2c4b5a69";
        assert_eq!(call(&request, text).unwrap_err().code(), tonic::Code::Unauthenticated);
        let who = Principal::new(PrincipalKind::Account, Id::from_bytes([1; 16]));
        request.extensions_mut().insert(who);
        assert_eq!(call(&request, text).unwrap().principal, who);
        request.extensions_mut().insert(SignedRequest(Id::from_bytes([1; 16])));
        assert_eq!(call(&request, text).unwrap_err().code(), tonic::Code::Unauthenticated);
        assert_eq!(call(&request, "").unwrap_err().code(), tonic::Code::InvalidArgument);
    }

    #[test]
    fn rows_of_fields_that_differ_are_signed_as_different_texts() {
        assert_eq!(signed_text(&[b"ab", b""]), [2, 0, 0, 0, b'a', b'b', 0, 0, 0, 0]);
        assert_ne!(signed_text(&[b"ab", b"c"]), signed_text(&[b"a", b"bc"]));
    }

    #[test]
    fn a_refusal_keeps_its_reason_and_its_wait() {
        let refusal = Refusal::new(Code::Exhausted, "WINDOW_FULL", "wait").retry_after(1_500);
        let status = status(refusal);
        assert_eq!(status.code(), tonic::Code::ResourceExhausted);
        assert_eq!(status.get_details_error_info().unwrap().reason, "WINDOW_FULL");
        let retry = status.get_details_retry_info().unwrap();
        assert_eq!(retry.retry_delay, Some(Duration::from_millis(1_500)));
    }
}

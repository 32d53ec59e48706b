//! What every `api.rs` does with its machine's [`Handle`].

use std::str::FromStr;

use holmes_kernel::{Answer, Ctx, Handle, LogId, Machine, Principal, Refusal, Rejection, Time};
use tonic::{Request, Response, Status};

use super::{Parsed, answered, at, call, id, invalid, principal, status};

/// Most rows of one page.
pub const MOST_PER_PAGE: u32 = 1_000;
/// Rows of a page where the caller does not say.
const PER_PAGE: u32 = 100;

/// Carries a command out.
pub async fn submit<M: Machine, T>(
    handle: &impl Handle<M>,
    request: &Request<T>,
    request_id: &str,
    command: Parsed<M::Command>,
) -> Result<Answer<M::Reply>, Status> {
    let call = call(request, request_id)?;
    handle.submit(call, command?).await.map_err(status)
}

/// Carries out a command that answers nothing but that it is so.
pub async fn done<M: Machine, T, R: Default>(
    handle: &impl Handle<M>,
    request: &Request<T>,
    request_id: &str,
    command: Parsed<M::Command>,
) -> Result<Response<R>, Status> {
    let answer = submit(handle, request, request_id, command).await?;
    Ok(answered(answer, |_| R::default()))
}

/// Carries a command out, or with `validate_only` says what it would do at the moment of its request id.
pub async fn submit_or_say<M: Machine, T>(
    handle: &impl Handle<M>,
    request: &Request<T>,
    request_id: &str,
    validate_only: bool,
    command: Parsed<M::Command>,
) -> Result<Answer<M::Reply>, Status> {
    if !validate_only {
        return submit(handle, request, request_id, command).await;
    }
    let (who, command) = (call(request, request_id)?.principal, command?);
    let moment = id("request_id", request_id)?.moment();
    let now = moment.ok_or_else(|| invalid("request_id", "a UUIDv7"))?;
    let look = move |state: &M::State| preview::<M>(state, &command, who, now);
    let Answer { value, seq } = handle.read(at(request)?, look).await.map_err(status)?;
    Ok(Answer { value: value.map_err(status)?, seq })
}

fn preview<M: Machine>(
    state: &M::State,
    command: &M::Command,
    principal: Principal,
    now: Time,
) -> Result<M::Reply, Refusal> {
    let ctx = Ctx { now, principal, log: LogId::default(), term: 0, seq: 0 };
    let mut events = Vec::new();
    M::decide(state, command, &ctx, &mut events).map_err(|why| Refusal::of(&why))?;
    Ok(M::reply(command, &events))
}

/// Looks at the state for a caller that is known; `look` refuses what that caller may not see.
pub async fn read<M: Machine, T, V: Send + 'static>(
    handle: &impl Handle<M>,
    request: &Request<T>,
    look: impl FnOnce(&M::State) -> Result<V, M::Rejection> + Send + 'static,
) -> Result<Answer<V>, Status> {
    principal(request)?;
    let look = |state: &M::State| look(state).map_err(|why| Refusal::of(&why));
    let Answer { value, seq } = handle.read(at(request)?, look).await.map_err(status)?;
    Ok(Answer { value: value.map_err(status)?, seq })
}

/// Looks at what every known caller may see.
pub async fn look<M: Machine, T, V: Send + 'static>(
    handle: &impl Handle<M>,
    request: &Request<T>,
    look: impl FnOnce(&M::State) -> V + Send + 'static,
) -> Result<Answer<V>, Status> {
    principal(request)?;
    handle.read(at(request)?, look).await.map_err(status)
}

/// A machine's refusal on the wire.
pub fn refused(why: &impl Rejection) -> Status {
    status(Refusal::of(why))
}

/// How many rows a page has.
pub fn page_size(asked: u32) -> usize {
    let size = if asked == 0 { PER_PAGE } else { asked.min(MOST_PER_PAGE) };
    size as usize
}

/// Where a page begins: where the page before has said, or at the first.
pub fn page_from<P: FromStr>(token: &str, first: P) -> Result<P, Status> {
    if token.is_empty() {
        return Ok(first);
    }
    token.parse().map_err(|_| invalid("page_token", "the next_page_token of the page before"))
}

/// The token of the page behind this one; empty when there is none.
pub fn next_page(next: Option<impl ToString>) -> String {
    next.map(|next| next.to_string()).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_page_is_never_empty_and_never_endless() {
        assert_eq!([0, 1, 1_000, u32::MAX].map(page_size), [100, 1, 1_000, 1_000]);
    }

    #[test]
    fn a_page_begins_where_the_one_before_ended() {
        let token = next_page(Some(7u64));
        assert_eq!(page_from(&token, 0u64).unwrap(), 7);
        assert_eq!(page_from(&next_page(None::<u64>), 3u64).unwrap(), 3);
        assert_eq!(page_from("-1", 0u64).unwrap_err().code(), tonic::Code::InvalidArgument);
    }
}

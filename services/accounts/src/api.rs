//! The gRPC service of accounts over a [`Handle`]: parses, submits or reads, answers.

use holmes_kernel::{Handle, Id, Principal, PrincipalKind, Time};
use holmes_proto::accounts::v1 as wire;
use holmes_proto::accounts::v1::accounts_server::{Accounts as Service, AccountsServer};
use holmes_proto::edge;
use holmes_proto::edge::SignedRequest;
use tonic::{Request, Response, Status};

use crate::Accounts;
use crate::command::{By, Change, Command, Rejection};
use crate::state::State;
use crate::wire as parse;
use crate::wire::Malformed;

/// The service.
#[derive(Clone, Debug)]
pub struct Api<H> {
    handle: H,
}

/// The service as a gRPC server takes it.
pub fn server<H: Handle<Accounts>>(handle: H) -> AccountsServer<Api<H>> {
    AccountsServer::new(Api::new(handle))
}

impl<H: Handle<Accounts>> Api<H> {
    /// The service over a machine.
    pub fn new(handle: H) -> Api<H> {
        Api { handle }
    }

    /// Carries out a change; its answer follows from the request alone.
    async fn done<T, R>(
        &self,
        request: &Request<T>,
        request_id: &str,
        change: Result<Change, Malformed>,
        response: R,
    ) -> Result<Response<R>, Status> {
        let command = change.map(|change| Command { by: by(request), change });
        let answer = edge::submit(&self.handle, request, request_id, command).await?;
        Ok(edge::answered(answer, |_| response))
    }
}

/// What proves who calls, as it arrived: a signature that the edge has checked, or the API key that it has looked up.
/// A principal without either was named by who forwards the call, and changes nothing here.
fn by<T>(request: &Request<T>) -> By {
    if request.extensions().get::<SignedRequest>().is_some() {
        return By::Signature;
    }
    let bearer = request.metadata().get("authorization").and_then(|value| value.to_str().ok());
    match bearer.and_then(|value| value.strip_prefix("Bearer ")) {
        Some(key) => By::ApiKey(*blake3::hash(key.as_bytes()).as_bytes()),
        None => By::Nothing,
    }
}

/// The account that a caller means where it names none.
fn own<T>(request: &Request<T>) -> Result<Id, Status> {
    Ok(edge::principal(request)?.id)
}

/// No tenant sees another's: owners see their own account, services and staff all.
fn may_see(principal: &Principal, account: Id) -> bool {
    let own = principal.kind == PrincipalKind::Account && principal.id == account;
    own || sees_all(principal)
}

fn sees_all(principal: &Principal) -> bool {
    matches!(principal.kind, PrincipalKind::Service | PrincipalKind::Staff)
}

/// What the edge of another process asks for. What does not count is no error of who asks: the answer says why.
fn found_key(state: &State, key: &parse::Asked, now: Time) -> wire::FindKeyResponse {
    match key {
        parse::Asked::ApiKey(hash) => match state.api_key(hash, now) {
            Ok((who, scope)) => parse::key_found(who, None, Ok(scope)),
            Err(denied) => parse::key_denied(&denied),
        },
        parse::Asked::Principal(who) => match state.public_key(who) {
            Ok((key, counts)) => parse::key_found(*who, Some(key), counts.map(|()| state.signature(who))),
            Err(denied) => parse::key_denied(&denied),
        },
    }
}

/// A page of accounts from a place on, and where the next one begins.
fn page(state: &State, from: u32, size: usize) -> (Vec<wire::Account>, Option<u32>) {
    let end = from.saturating_add(size as u32);
    let rows = (from..end).map_while(|place| state.accounts.at(place));
    let accounts = rows.map(|(id, account)| parse::account(state, *id, account)).collect();
    (accounts, state.accounts.at(end).map(|_| end))
}

#[tonic::async_trait]
impl<H: Handle<Accounts>> Service for Api<H> {
    async fn create_account(
        &self,
        mut request: Request<wire::CreateAccountRequest>,
    ) -> Result<Response<wire::CreateAccountResponse>, Status> {
        let new = parse::new_account(request.get_ref())?;
        let account = new.account;
        let known = request.extensions().get::<Principal>().is_some();
        if !known {
            // A wallet that comes for the first time. What proves it is judged by the machine, before anything is
            // written in its name.
            request.extensions_mut().insert(Principal::new(PrincipalKind::Account, account));
        }
        let by = if known { by(&request) } else { By::OfferedKey };
        let command = Command { by, change: Change::CreateAccount(new) };
        let request_id = &request.get_ref().request_id;
        let answer = edge::submit(&self.handle, &request, request_id, Ok(command)).await?;
        Ok(edge::answered(answer, |_| wire::CreateAccountResponse { account_id: account.to_string() }))
    }

    async fn create_api_key(
        &self,
        request: Request<wire::CreateApiKeyRequest>,
    ) -> Result<Response<wire::CreateApiKeyResponse>, Status> {
        let wanted = request.get_ref();
        let change = parse::create_api_key(wanted, own(&request)?);
        self.done(&request, &wanted.request_id, change, wire::CreateApiKeyResponse {}).await
    }

    async fn revoke_api_key(
        &self,
        request: Request<wire::RevokeApiKeyRequest>,
    ) -> Result<Response<wire::RevokeApiKeyResponse>, Status> {
        let wanted = request.get_ref();
        let change = parse::revoke_api_key(wanted);
        self.done(&request, &wanted.request_id, change, wire::RevokeApiKeyResponse {}).await
    }

    async fn add_public_key(
        &self,
        request: Request<wire::AddPublicKeyRequest>,
    ) -> Result<Response<wire::AddPublicKeyResponse>, Status> {
        let wanted = request.get_ref();
        let change = parse::add_public_key(wanted, own(&request)?);
        self.done(&request, &wanted.request_id, change, wire::AddPublicKeyResponse {}).await
    }

    async fn rotate_key(
        &self,
        request: Request<wire::RotateKeyRequest>,
    ) -> Result<Response<wire::RotateKeyResponse>, Status> {
        let wanted = request.get_ref();
        let change = parse::rotate_key(wanted, own(&request)?);
        self.done(&request, &wanted.request_id, change, wire::RotateKeyResponse {}).await
    }

    async fn revoke_public_key(
        &self,
        request: Request<wire::RevokePublicKeyRequest>,
    ) -> Result<Response<wire::RevokePublicKeyResponse>, Status> {
        let wanted = request.get_ref();
        let change = parse::revoke_public_key(wanted);
        self.done(&request, &wanted.request_id, change, wire::RevokePublicKeyResponse {}).await
    }

    async fn register_node_key(
        &self,
        request: Request<wire::RegisterNodeKeyRequest>,
    ) -> Result<Response<wire::RegisterNodeKeyResponse>, Status> {
        let wanted = request.get_ref();
        let (change, id) = parse::register_node_key(wanted, own(&request)?)?;
        let response = wire::RegisterNodeKeyResponse { node_id: id.to_string() };
        self.done(&request, &wanted.request_id, Ok(change), response).await
    }

    async fn register_gateway_key(
        &self,
        request: Request<wire::RegisterGatewayKeyRequest>,
    ) -> Result<Response<wire::RegisterGatewayKeyResponse>, Status> {
        let wanted = request.get_ref();
        let (change, id) = parse::register_gateway_key(wanted, own(&request)?)?;
        let response = wire::RegisterGatewayKeyResponse { gateway_id: id.to_string() };
        self.done(&request, &wanted.request_id, Ok(change), response).await
    }

    async fn register_service_key(
        &self,
        request: Request<wire::RegisterServiceKeyRequest>,
    ) -> Result<Response<wire::RegisterServiceKeyResponse>, Status> {
        let wanted = request.get_ref();
        let change = parse::register_service_key(wanted);
        self.done(&request, &wanted.request_id, change, wire::RegisterServiceKeyResponse {}).await
    }

    async fn set_roles(
        &self,
        request: Request<wire::SetRolesRequest>,
    ) -> Result<Response<wire::SetRolesResponse>, Status> {
        let wanted = request.get_ref();
        self.done(&request, &wanted.request_id, parse::set_roles(wanted), wire::SetRolesResponse {}).await
    }

    async fn suspend_account(
        &self,
        request: Request<wire::SuspendAccountRequest>,
    ) -> Result<Response<wire::SuspendAccountResponse>, Status> {
        let wanted = request.get_ref();
        let change = parse::suspend(wanted);
        self.done(&request, &wanted.request_id, change, wire::SuspendAccountResponse {}).await
    }

    async fn reinstate_account(
        &self,
        request: Request<wire::ReinstateAccountRequest>,
    ) -> Result<Response<wire::ReinstateAccountResponse>, Status> {
        let wanted = request.get_ref();
        let change = parse::reinstate(wanted);
        self.done(&request, &wanted.request_id, change, wire::ReinstateAccountResponse {}).await
    }

    async fn get_account(
        &self,
        request: Request<wire::GetAccountRequest>,
    ) -> Result<Response<wire::GetAccountResponse>, Status> {
        let principal = edge::principal(&request)?;
        let text = &request.get_ref().account_id;
        let id = parse::id_or("account_id", text, principal.id)?;
        let look = move |state: &State| {
            let account = state.account(&id).filter(|_| may_see(&principal, id));
            let account = account.ok_or(Rejection::AccountNotFound(id))?;
            Ok(parse::account_and_keys(state, id, account))
        };
        let answer = edge::read(&self.handle, &request, look).await?;
        Ok(edge::answered(answer, |account| account))
    }

    async fn find_key(
        &self,
        request: Request<wire::FindKeyRequest>,
    ) -> Result<Response<wire::FindKeyResponse>, Status> {
        let principal = edge::principal(&request)?;
        if !matches!(principal.kind, PrincipalKind::Service | PrincipalKind::Gateway) {
            let needs = "only services and gateways look up keys";
            return Err(edge::refused(&Rejection::Forbidden { who: principal, needs }));
        }
        let key = parse::asked(request.get_ref())?;
        let at = Time::from_micros(request.get_ref().at_us);
        let look = move |state: &State| found_key(state, &key, at);
        let answer = edge::look(&self.handle, &request, look).await?;
        Ok(edge::answered(answer, |found| found))
    }

    async fn list_accounts(
        &self,
        request: Request<wire::ListAccountsRequest>,
    ) -> Result<Response<wire::ListAccountsResponse>, Status> {
        let principal = edge::principal(&request)?;
        if !sees_all(&principal) {
            let needs = "only services and staff list accounts";
            return Err(edge::refused(&Rejection::Forbidden { who: principal, needs }));
        }
        let wanted = request.get_ref();
        let from = edge::page_from(&wanted.page_token, 0)?;
        let size = edge::page_size(wanted.page_size);
        let look = move |state: &State| page(state, from, size);
        let answer = edge::look(&self.handle, &request, look).await?;
        Ok(edge::answered(answer, |(accounts, next)| wire::ListAccountsResponse {
            accounts,
            next_page_token: edge::next_page(next),
        }))
    }
}

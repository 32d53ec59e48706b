//! The gRPC service of the market over a [`Handle`]: parses, submits or reads, answers.

use holmes_kernel::{Answer, At, Handle, Id, Principal};
use holmes_proto::edge::{self, Needs};
use holmes_proto::market::v1 as wire;
use holmes_proto::market::v1::market_server::{Market as Service, MarketServer};
use tonic::{Request, Response, Status};

use crate::Market;
use crate::command::{Command, Rejection, Reply};
use crate::decide;
use crate::state::{Session, State};
use crate::wire as parse;
use crate::wire::Malformed;

/// The one source of the token's price.
const FIXED: &str = "fixed";

/// The service.
#[derive(Clone, Debug)]
pub struct Api<H> {
    handle: H,
}

/// The service as a gRPC server takes it.
pub fn server<H: Handle<Market>>(handle: H) -> MarketServer<Api<H>> {
    MarketServer::new(Api::new(handle))
}

impl<H: Handle<Market>> Api<H> {
    /// The service over a machine.
    pub fn new(handle: H) -> Api<H> {
        Api { handle }
    }

    /// Carries out a command that leads to a session, and answers that as it stands behind it.
    async fn session_after<T>(
        &self,
        request: &Request<T>,
        request_id: &str,
        command: Result<Command, Malformed>,
    ) -> Result<Answer<Option<wire::Session>>, Status> {
        let Answer { value, seq } = edge::submit(&self.handle, request, request_id, command).await?;
        let Reply::Session(id) = value else { return Ok(Answer { value: None, seq }) };
        let look =
            move |state: &State| state.sessions.get(&id).map(|session| parse::session(state, id, session));
        let Answer { value, .. } = self.handle.read(At::Seq(seq), look).await.map_err(edge::status)?;
        Ok(Answer { value, seq })
    }

    /// Looks at a session that the caller may see.
    async fn see<T, R: Send + 'static>(
        &self,
        request: &Request<T>,
        session_id: &str,
        look: impl FnOnce(&State, Id, &Session) -> R + Send + 'static,
    ) -> Result<Answer<R>, Status> {
        let who = edge::principal(request)?;
        let id = edge::id("session_id", session_id)?;
        let found = move |state: &State| {
            let session =
                state.sessions.get(&id).filter(|session| decide::may_act_for(&who, &session.renter));
            session.map(|session| look(state, id, session)).ok_or(Rejection::SessionNotFound(id))
        };
        edge::read(&self.handle, request, found).await
    }
}

/// Whose sessions are asked for: `None` for everybody's.
fn whose(who: Principal, text: &str) -> Result<Option<Principal>, Status> {
    let whose = match text {
        "" => Some(who),
        "*" => None,
        text => Some(parse::renter("renter", text)?),
    };
    if decide::may_list(&who, whose.as_ref()) {
        return Ok(whose);
    }
    let needs = "only gateways, services and staff see another's sessions, and only services and staff all";
    Err(edge::refused(&Rejection::Forbidden { who, needs }))
}

#[tonic::async_trait]
impl<H: Handle<Market>> Service for Api<H> {
    async fn set_model(
        &self,
        request: Request<wire::SetModelRequest>,
    ) -> Result<Response<wire::SetModelResponse>, Status> {
        let wanted = request.get_ref();
        edge::done(&self.handle, &request, &wanted.request_id, parse::set_model(wanted)).await
    }

    async fn list_models(
        &self,
        request: Request<wire::ListModelsRequest>,
    ) -> Result<Response<wire::ListModelsResponse>, Status> {
        let withdrawn = request.get_ref().withdrawn;
        let look = move |state: &State| {
            let shown = state.models.iter().filter(|(_, model)| withdrawn || !model.withdrawn);
            shown.map(|(name, model)| model.to_wire(name)).collect()
        };
        let answer = edge::look(&self.handle, &request, look).await?;
        Ok(edge::answered(answer, |models| wire::ListModelsResponse { models }))
    }

    async fn set_account(
        &self,
        request: Request<wire::SetAccountRequest>,
    ) -> Result<Response<wire::SetAccountResponse>, Status> {
        let wanted = request.get_ref();
        edge::needs(&request, Needs::Party)?;
        // Where there is no account yet nothing can go astray; another one in its place is money that moves.
        let (who, asset) = (edge::principal(&request)?, wanted.asset);
        let named = move |state: &State| state.accounts.get(&(who, asset)).copied();
        let named = self.handle.read(At::Latest, named).await.map_err(edge::status)?.value;
        if named.is_some_and(|named| named.to_string() != wanted.account_id) {
            edge::needs(&request, Needs::Admin)?;
        }
        edge::done(&self.handle, &request, &wanted.request_id, parse::set_account(wanted)).await
    }

    async fn quote(
        &self,
        request: Request<wire::QuoteRequest>,
    ) -> Result<Response<wire::QuoteResponse>, Status> {
        let wanted = request.get_ref().clone();
        let look = move |state: &State| {
            let asset = if wanted.asset == 0 { state.params.usd.id } else { wanted.asset };
            decide::known_asset(state, asset).map_err(|why| edge::refused(&why))?;
            let offered = state.models.get(&wanted.model).filter(|model| !model.withdrawn);
            let model =
                offered.ok_or_else(|| edge::refused(&Rejection::ModelNotFound(wanted.model.clone())))?;
            let quote = parse::quote(state, model, asset, wanted.input_tokens, wanted.output_tokens);
            quote.ok_or_else(|| edge::invalid("output_tokens", "so few tokens that their price fits 64 bits"))
        };
        let Answer { value, seq } = edge::look(&self.handle, &request, look).await?;
        Ok(edge::answered(Answer { value: value?, seq }, |quote| quote))
    }

    async fn open_session(
        &self,
        request: Request<wire::OpenSessionRequest>,
    ) -> Result<Response<wire::OpenSessionResponse>, Status> {
        let wanted = request.get_ref();
        edge::needs(&request, Needs::Renter)?;
        let command = parse::open_session(wanted);
        let answer = self.session_after(&request, &wanted.request_id, command).await?;
        Ok(edge::answered(answer, |session| wire::OpenSessionResponse { session }))
    }

    async fn close_session(
        &self,
        request: Request<wire::CloseSessionRequest>,
    ) -> Result<Response<wire::CloseSessionResponse>, Status> {
        let wanted = request.get_ref();
        edge::needs(&request, Needs::Renter)?;
        let command = parse::close_session(wanted);
        let answer = self.session_after(&request, &wanted.request_id, command).await?;
        Ok(edge::answered(answer, |session| wire::CloseSessionResponse { session }))
    }

    async fn get_session(
        &self,
        request: Request<wire::GetSessionRequest>,
    ) -> Result<Response<wire::GetSessionResponse>, Status> {
        let answer = self.see(&request, &request.get_ref().session_id, parse::session).await?;
        Ok(edge::answered(answer, |session| wire::GetSessionResponse { session: Some(session) }))
    }

    async fn list_sessions(
        &self,
        request: Request<wire::ListSessionsRequest>,
    ) -> Result<Response<wire::ListSessionsResponse>, Status> {
        let who = edge::principal(&request)?;
        let wanted = request.get_ref();
        let whose = whose(who, &wanted.renter)?;
        let behind = parse::page_from(&wanted.page_token)?;
        let size = edge::page_size(wanted.page_size);
        let look = move |state: &State| parse::page(state, whose, behind, size);
        let answer = edge::look(&self.handle, &request, look).await?;
        Ok(edge::answered(answer, |(sessions, more)| wire::ListSessionsResponse {
            sessions,
            next_page_token: more.map(parse::page_token).unwrap_or_default(),
        }))
    }

    async fn get_invoice(
        &self,
        request: Request<wire::GetInvoiceRequest>,
    ) -> Result<Response<wire::GetInvoiceResponse>, Status> {
        let answer = self.see(&request, &request.get_ref().session_id, parse::invoice).await?;
        Ok(edge::answered(answer, |invoice| invoice))
    }

    async fn get_price(
        &self,
        request: Request<wire::GetPriceRequest>,
    ) -> Result<Response<wire::GetPriceResponse>, Status> {
        let look = |state: &State| state.params.token_price;
        let answer = edge::look(&self.handle, &request, look).await?;
        Ok(edge::answered(answer, |token_price_micro_usd| wire::GetPriceResponse {
            token_price_micro_usd,
            sources: vec![wire::PriceSource { name: FIXED.into(), token_price_micro_usd }],
        }))
    }
}

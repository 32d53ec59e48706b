//! Sessions that a caller opens and closes: each lets the market send a hold to the ledger, and its end, so that a death
//! meets sends and answers between two logs.

use std::time::Duration;

use anyhow::{Result, bail, ensure};
use holmes_kernel::Id;
use holmes_proto::market::v1 as wire;
use holmes_proto::market::v1::market_client::MarketClient;
use tonic::transport::Channel;
use tonic::{Response, Status};

use crate::order::{Payer, is_honest};

/// The dollar, which the callers have.
const DOLLARS: u32 = 2;

/// A session, from its opening to its end.
pub(crate) struct Errand {
    pub(crate) open: Asked,
    pub(crate) close: Asked,
    /// As the market named it, once it has answered.
    pub(crate) session: Option<Id>,
    /// Whether it was seen closed: everything given back.
    pub(crate) is_over: bool,
}

/// A request to the market, and what became of it.
pub(crate) struct Asked {
    pub(crate) request: Id,
    pub(crate) is_answered: bool,
    pub(crate) why_not: Option<Status>,
}

impl Asked {
    fn new(request: Id) -> Asked {
        Asked { request, is_answered: false, why_not: None }
    }

    /// The session of an answer; `None` where the server could not answer.
    fn take(&mut self, answer: Result<Option<wire::Session>, Status>) -> Result<Option<wire::Session>> {
        match answer {
            Ok(Some(session)) => {
                self.is_answered = true;
                Ok(Some(session))
            }
            Ok(None) => bail!("request {} was answered without a session", self.request),
            Err(status) if is_honest(&status) => {
                self.why_not = Some(status);
                Ok(None)
            }
            Err(status) => bail!("request {} was refused as if it were wrong: {status}", self.request),
        }
    }
}

impl Errand {
    pub(crate) fn new(payer: &Payer) -> Errand {
        let (open, close) = (Asked::new(payer.id()), Asked::new(payer.id()));
        Errand { open, close, session: None, is_over: false }
    }

    /// Why it stays where it is; `None` when everything was answered.
    pub(crate) fn why_not(&self) -> Option<&Status> {
        let open = [&self.open, &self.close].into_iter().find(|asked| !asked.is_answered)?;
        open.why_not.as_ref().or(self.open.why_not.as_ref())
    }

    /// Whether both requests were answered.
    pub(crate) fn is_answered(&self) -> bool {
        self.open.is_answered && self.close.is_answered
    }

    /// Asks for what was not answered yet; whether everything is.
    pub(crate) async fn go_on(
        &mut self,
        payer: &Payer,
        market: &mut MarketClient<Channel>,
        deadline: Duration,
    ) -> Result<bool> {
        if !self.open.is_answered && !self.ask_to_open(payer, market, deadline).await? {
            return Ok(false);
        }
        if !self.close.is_answered {
            let message = wire::CloseSessionRequest {
                request_id: self.close.request.to_string(),
                session_id: self.session.map(|id| id.to_string()).unwrap_or_default(),
            };
            let answer = market.close_session(payer.signed(message, deadline)?).await;
            let answer = answer.map(Response::into_inner).map(|answer| answer.session);
            if let Some(session) = self.close.take(answer)? {
                self.same(&session)?;
            }
        }
        Ok(self.is_answered())
    }

    /// Asks for the session, for the first time or again: it is always the same one. Its state has gone on meanwhile.
    pub(crate) async fn ask_to_open(
        &mut self,
        payer: &Payer,
        market: &mut MarketClient<Channel>,
        deadline: Duration,
    ) -> Result<bool> {
        let message = wire::OpenSessionRequest {
            request_id: self.open.request.to_string(),
            asset: DOLLARS,
            ..wire::OpenSessionRequest::default()
        };
        let answer = market.open_session(payer.signed(message, deadline)?).await;
        let answer = answer.map(Response::into_inner).map(|answer| answer.session);
        let Some(session) = self.open.take(answer)? else { return Ok(false) };
        self.same(&session)?;
        Ok(true)
    }

    /// Looks whether the session is over: the market has heard from the ledger that the hold is given back.
    pub(crate) async fn look(
        &mut self,
        payer: &Payer,
        market: &mut MarketClient<Channel>,
        deadline: Duration,
    ) -> Result<()> {
        let Some(session) = self.session else { return Ok(()) };
        let message = wire::GetSessionRequest { session_id: session.to_string() };
        let found = market.get_session(payer.signed(message, deadline)?).await?.into_inner().session;
        self.is_over = found.is_some_and(|found| found.state() == wire::SessionState::Closed);
        Ok(())
    }

    fn same(&mut self, session: &wire::Session) -> Result<()> {
        let id: Id = session.session_id.parse()?;
        let first = *self.session.get_or_insert(id);
        ensure!(
            first == id,
            "request {} was answered with another session when asked again",
            self.open.request
        );
        Ok(())
    }
}

//! A question from a renter to a model and back, as a gateway serves it: session, placement, tokens, the node's signed
//! line, the gateway's beside it, the report. It takes no time unless the scenario says how long.

use std::time::Duration;

use anyhow::{Context as _, Result};
use ed25519_dalek::{Signature, Signer as _};
use holmes_engine::run::FinishReason;
use holmes_kernel::{Code, Id, Refusal};
use holmes_proto::inference::v1::{ChatMessage, Conversation, GenerateWork, generate_work, work};
use holmes_proto::market::v1 as market;
use holmes_proto::scheduling::v1::{
    CallLine, EndLeaseRequest, EndLeaseResponse, Finish, Lease, LeaseEnd, LeaseToken, PlaceRequest,
    PlaceResponse, RenewLeaseRequest, RenewLeaseResponse, ReportCallsRequest, ReportCallsResponse,
    ReportRunningRequest, ReportRunningResponse, RunningLease,
};
use holmes_proto::statements;
use prost_reflect::prost::Message as _;
use serde_json::{Value as Json, json};

use super::cast::{GATEWAY, derived};
use super::cluster::{CELL, Refused};
use super::engine::Answer;
use super::file::Ask;
use super::world::{Answered, World};

/// A gateway bounds what a prompt can have of tokens by its bytes, and adds so many for the template.
const TEMPLATE_TOKENS: u64 = 64 + 16;
/// A lease that ends sooner is renewed.
const RENEW_BEFORE_US: u64 = 30_000_000;
/// Pico-dollars of a micro-dollar.
const PICO_PER_MICRO: u64 = 1_000_000;

/// A call while it runs.
struct Call {
    id: Id,
    /// Keys what is committed to.
    secret: [u8; 32],
    work: work::Work,
    answer: Answer,
    allowance: u64,
    model: market::Model,
    /// What was told so far.
    told: Told,
}

/// What the answer says.
#[derive(Default)]
struct Told {
    text: String,
    billed: u64,
    input: u64,
    pico: u64,
    leases: Vec<String>,
    nodes: Vec<String>,
    receipts: Vec<String>,
}

/// A lease and whose it is.
struct Held {
    text: String,
    bytes: [u8; statements::LEASE_BYTES],
    node: String,
    expires_us: u64,
}

impl World<'_> {
    /// Asks, and answers what the renter has of it.
    pub(super) async fn ask(
        &mut self,
        who: &str,
        of: &Ask,
        prompt: String,
        lasts: Duration,
    ) -> Answered<Json> {
        let engine = self.engine.as_ref().context("nothing answers")?;
        let answer = match engine.answer(&prompt, of.max_tokens) {
            Ok(answer) => answer,
            Err(refusal) => return Ok(Err(Refused::here(refusal))),
        };
        let chats = engine.chats();
        let pays = of.pay.clone().unwrap_or_else(|| "USD".into());
        let session = match self.session(who, &pays).await? {
            Ok(session) => session,
            Err(refused) => return Ok(Err(refused)),
        };
        let (model, most) = match self.price(of, &prompt, &pays).await? {
            Ok(priced) => priced,
            Err(refused) => return Ok(Err(refused)),
        };
        let bound = (prompt.len() as u64 + TEMPLATE_TOKENS, u64::from(of.max_tokens));
        let allowance = bound.0 * model.input_pico_usd + bound.1 * model.output_pico_usd;
        let id = self.fresh();
        let secret = derived(self.plan.cast.seed(), "commitment", &id.to_string());
        let work = work::Work::Generate(asked(&prompt, of.max_tokens, chats));
        let mut call = Call { id, secret, work, answer, allowance, model, told: Told::default() };
        let finish = match self.deliver(&mut call, of, &session, lasts).await? {
            Ok(finish) => finish,
            Err(refused) => return Ok(Err(refused)),
        };
        let told = call.told;
        Ok(Ok(json!({
            "text": told.text,
            "finish": finish.as_str_name().trim_start_matches("FINISH_"),
            "inputTokens": told.input,
            "outputTokens": told.billed,
            "priceMicroUsd": told.pico.div_ceil(PICO_PER_MICRO),
            "mostMicroUsd": most,
            "session": session,
            "leases": told.leases,
            "nodes": told.nodes,
            "receipts": told.receipts,
            "pays": pays,
        })))
    }

    /// A session that takes calls: the one before, or a new one.
    async fn session(&mut self, who: &str, pays: &str) -> Answered<String> {
        let key = (who.to_owned(), pays.to_owned());
        if let Some(session) = self.desk.sessions.get(&key).cloned() {
            let stands = self.session_state(&session).await?;
            if stands.is_ok_and(|(takes_calls, _)| takes_calls) {
                return Ok(Ok(session));
            }
        }
        let asset = self.plan.assets.iter().find(|asset| asset.name == pays).map_or(0, |asset| asset.id);
        let renter = self.principal(who)?.to_string();
        let open =
            market::OpenSessionRequest { request_id: String::new(), renter, asset, budget_micro_usd: 0 };
        let opened: Result<market::OpenSessionResponse, Refused> =
            self.gateway("Market/OpenSession", &open).await?;
        let session = match opened {
            Ok(opened) => opened.session.unwrap_or_default().session_id,
            Err(refused) => return Ok(Err(refused)),
        };
        match self.session_state(&session).await? {
            Ok((true, _)) => {
                self.desk.sessions.insert(key, session.clone());
                Ok(Ok(session))
            }
            Ok((false, reason)) => {
                let message = format!("the session did not open: {reason}");
                let mut refused =
                    Refused::here(Refusal::new(Code::Precondition, "SESSION_NOT_OPENED", message));
                refused.reason = reason;
                Ok(Err(refused))
            }
            Err(refused) => Ok(Err(refused)),
        }
    }

    /// Whether a session takes calls, and why not.
    async fn session_state(&mut self, session: &str) -> Answered<(bool, String)> {
        let get = market::GetSessionRequest { session_id: session.to_owned() };
        let got: Result<market::GetSessionResponse, Refused> =
            self.gateway("Market/GetSession", &get).await?;
        Ok(got.map(|got| {
            let session = got.session.unwrap_or_default();
            use market::SessionState::{Active, InsufficientFunds};
            (matches!(session.state(), Active | InsufficientFunds), session.reason)
        }))
    }

    /// The model's prices, and what the call can cost at most.
    async fn price(&mut self, of: &Ask, prompt: &str, pays: &str) -> Answered<(market::Model, u64)> {
        let asset = self.plan.assets.iter().find(|asset| asset.name == pays).map_or(0, |asset| asset.id);
        let quote = market::QuoteRequest {
            model: of.model.clone(),
            input_tokens: prompt.len() as u64 + TEMPLATE_TOKENS,
            output_tokens: of.max_tokens.into(),
            asset,
        };
        let quoted: Result<market::QuoteResponse, Refused> = self.gateway("Market/Quote", &quote).await?;
        let most = match quoted {
            Ok(quoted) => quoted.total_micro_usd,
            Err(refused) => return Ok(Err(refused)),
        };
        let listed: Result<market::ListModelsResponse, Refused> =
            self.gateway("Market/ListModels", &market::ListModelsRequest { withdrawn: false }).await?;
        Ok(listed.map(|listed| {
            let model = listed.models.into_iter().find(|model| model.name == of.model);
            (model.unwrap_or_default(), most)
        }))
    }

    /// Delivers a call, at another node when one is lost.
    async fn deliver(
        &mut self,
        call: &mut Call,
        of: &Ask,
        session: &str,
        lasts: Duration,
    ) -> Answered<Finish> {
        let whole = call.answer.tokens.len();
        let stops = of.hangs_up_after.map_or(whole, |after| whole.min(after as usize));
        let breaks = of.node_lost_after.map(|after| after as usize).filter(|after| *after < stops);
        let mut lost = Vec::new();
        let mut from = 0;
        loop {
            let held = match self.place(call, of, session, &lost).await? {
                Ok(held) => held,
                Err(refused) => return Ok(Err(refused)),
            };
            call.told.leases.push(held.text.clone());
            call.told.nodes.push(held.node.clone());
            let is_lost = breaks.filter(|at| *at >= from && lost.is_empty());
            let to = is_lost.unwrap_or(stops);
            let time = lasts.mul_f64((to - from) as f64 / whole.max(1) as f64);
            let (reached, held) = match self.runs(call, held, (from, to), time).await? {
                Ok(ran) => ran,
                Err(refused) => return Ok(Err(refused)),
            };
            let finish = match (is_lost, reached < to) {
                (_, true) => Finish::Cancelled, // the lease ends: the call was stopped
                (Some(_), false) => Finish::NodeLost,
                (None, false) if stops < whole => Finish::Cancelled,
                (None, false) => finish_of(call.answer.finish),
            };
            if let Err(refused) = self.bills(call, &held, (from, reached), finish).await? {
                return Ok(Err(refused));
            }
            from = reached;
            if finish == Finish::NodeLost {
                self.lose(&held.node).await?;
                lost.push(self.party(&held.node)?.id().to_string());
                continue;
            }
            self.end_lease(&held, LeaseEnd::Released).await?;
            return Ok(Ok(finish));
        }
    }

    async fn place(&mut self, call: &Call, of: &Ask, session: &str, avoid: &[String]) -> Answered<Held> {
        let node_id = match &of.node {
            Some(name) => self.party(name)?.id().to_string(),
            None => String::new(),
        };
        let place = PlaceRequest {
            request_id: String::new(),
            session_id: session.to_owned(),
            model: of.model.clone(),
            allowance_pico_usd: call.allowance,
            duration_ms: 0,
            avoid_node_ids: avoid.to_vec(),
            node_id,
            context: 0,
        };
        let placed: Result<PlaceResponse, Refused> = self.gateway("Scheduling/Place", &place).await?;
        let placed = match placed {
            Ok(placed) => placed,
            Err(refused) => return Ok(Err(refused)),
        };
        let lease = self.genuine(placed.token.unwrap_or_default())?;
        let bytes = statements::lease_bytes(&placed.lease_id).context("a lease without a name")?;
        let id = Id::from_slice(&lease.node).unwrap_or_default();
        let mut names = self.plan.nodes.keys();
        let node = names.find(|name| self.party(name).is_ok_and(|party| party.id() == id)).cloned();
        let node = node.with_context(|| format!("the lease is of {id}, which no node of the scenario is"))?;
        Ok(Ok(Held { text: placed.lease_id, bytes, node, expires_us: lease.expires_at_us }))
    }

    /// Lets a call run for so long, and tells scheduling every second what it has come to. How many tokens there are then:
    /// fewer, where the lease ends before.
    async fn runs(
        &mut self,
        call: &Call,
        mut held: Held,
        (from, to): (usize, usize),
        time: Duration,
    ) -> Answered<(usize, Held)> {
        let (began, ends) = (self.after(), self.after() + time);
        let mut reached = if time.is_zero() { to } else { from };
        while self.after() < ends {
            let next = (self.after() + Duration::from_secs(1)).min(ends);
            self.advance_to(next).await?;
            let share = (self.after() - began).as_secs_f64() / time.as_secs_f64();
            reached = (from + ((to - from) as f64 * share) as usize).min(to);
            let line = self.line(call, &held, (from, reached), Finish::NodeLost)?;
            let leases = vec![RunningLease { lease_id: held.text.clone(), lines: vec![line] }];
            let report = ReportRunningRequest { request_id: String::new(), leases };
            let heard: Result<ReportRunningResponse, Refused> =
                self.gateway("Scheduling/ReportRunning", &report).await?;
            match heard {
                Ok(heard) if heard.ending.is_empty() => {}
                Ok(_) => return Ok(Ok((reached, held))),
                Err(refused) => return Ok(Err(refused)),
            }
            if held.expires_us < self.cluster.now().micros() + RENEW_BEFORE_US {
                held.expires_us = self.renewed(call, &held).await?.unwrap_or(held.expires_us);
            }
        }
        Ok(Ok((reached, held)))
    }

    /// When a lease ends that was renewed; nothing where it is not.
    async fn renewed(&mut self, call: &Call, held: &Held) -> Result<Option<u64>> {
        let renew = RenewLeaseRequest {
            request_id: String::new(),
            lease_id: held.text.clone(),
            allowance_pico_usd: call.allowance,
            duration_ms: 0,
        };
        let renewed: Result<RenewLeaseResponse, Refused> =
            self.gateway("Scheduling/RenewLease", &renew).await?;
        let Ok(renewed) = renewed else { return Ok(None) };
        Ok(Some(self.genuine(renewed.token.unwrap_or_default())?.expires_at_us))
    }

    /// The lease of a token, which a node takes only under scheduling's signature.
    fn genuine(&self, token: LeaseToken) -> Result<Lease> {
        let said = statements::lease(&self.cluster.network.genesis, CELL, &token.lease);
        let signature = Signature::from_slice(&token.signature).context("a lease's signature")?;
        let key = self.plan.cast.lease_key.verifying_key();
        key.verify_strict(&said, &signature)
            .context("no node would take this lease: scheduling has not signed it")?;
        Ok(Lease::decode(token.lease)?)
    }

    /// A call's line of tokens from here to there, as both sides sign it.
    fn line(&self, call: &Call, held: &Held, (from, to): (usize, usize), finish: Finish) -> Result<CallLine> {
        let text = call.answer.tokens[from..to].concat();
        let prompt = statements::prompt_commitment(&call.secret, &call.work).unwrap_or_default();
        let mut line = CallLine {
            call: call.id.to_bytes().to_vec().into(),
            input_tokens: call.answer.input,
            output_tokens: (to - from) as u64,
            finish: finish.into(),
            prompt_commitment: prompt.to_vec().into(),
            output_commitment: blake3::keyed_hash(&call.secret, text.as_bytes()).as_bytes().to_vec().into(),
            ..CallLine::default()
        };
        let said = statements::call_line(&self.cluster.network.genesis, CELL, &held.bytes, &line);
        line.node_signature = self.party(&held.node)?.key.sign(&said).to_bytes().to_vec().into();
        line.gateway_signature = self.party(GATEWAY)?.key.sign(&said).to_bytes().to_vec().into();
        Ok(line)
    }

    /// Reports what was delivered, and takes note of it.
    async fn bills(
        &mut self,
        call: &mut Call,
        held: &Held,
        part: (usize, usize),
        finish: Finish,
    ) -> Answered<()> {
        let line = self.line(call, held, part, finish)?;
        let (input, output) = (line.input_tokens, line.output_tokens);
        let report =
            ReportCallsRequest { request_id: String::new(), lease_id: held.text.clone(), lines: vec![line] };
        let reported: Result<ReportCallsResponse, Refused> =
            self.gateway("Scheduling/ReportCalls", &report).await?;
        let reported = match reported {
            Ok(reported) => reported,
            Err(refused) => return Ok(Err(refused)),
        };
        let told = &mut call.told;
        told.text.push_str(&call.answer.tokens[part.0..part.1].concat());
        if let Some(refused) = reported.refused.first() {
            let message = format!("the call's line is not metered: {}", refused.reason);
            let mut why = Refused::here(Refusal::new(Code::Precondition, "LINE_REFUSED", message));
            why.reason = refused.reason.clone();
            return Ok(Err(why));
        }
        told.input += input;
        told.billed += output;
        told.pico += input * call.model.input_pico_usd + output * call.model.output_pico_usd;
        told.receipts.extend(reported.receipts);
        Ok(Ok(()))
    }

    async fn end_lease(&mut self, held: &Held, reason: LeaseEnd) -> Result<()> {
        let end =
            EndLeaseRequest { request_id: String::new(), lease_id: held.text.clone(), reason: reason.into() };
        // One that has ended already has ended.
        let _ended: Result<EndLeaseResponse, Refused> = self.gateway("Scheduling/EndLease", &end).await?;
        Ok(())
    }
}

fn finish_of(reason: FinishReason) -> Finish {
    match reason {
        FinishReason::Stop => Finish::Stop,
        FinishReason::Length => Finish::Length,
        FinishReason::Cancelled => Finish::Cancelled,
    }
}

/// What the node is asked.
fn asked(prompt: &str, max_tokens: u32, chats: bool) -> GenerateWork {
    let prompt = match chats {
        true => {
            let message = ChatMessage { role: "user".into(), content: prompt.to_owned() };
            generate_work::Prompt::Chat(Conversation { messages: vec![message] })
        }
        false => generate_work::Prompt::Text(prompt.to_owned()),
    };
    GenerateWork { prompt: Some(prompt), max_tokens, ..GenerateWork::default() }
}

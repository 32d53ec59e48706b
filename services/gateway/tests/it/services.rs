//! Scripted market and scheduling: they keep what they were told, check signatures, and refuse what a test wants.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex};

use ed25519_dalek::{Signature, VerifyingKey};
use holmes_kernel::{Code, Id, Principal, Refusal};
use holmes_proto::edge::{principal, status};
use holmes_proto::market::v1 as market;
use holmes_proto::scheduling::v1 as scheduling;
use holmes_proto::statements;
use prost::Message as _;
use tonic::{Request, Response, Status};

pub const GENESIS: [u8; 16] = [3; 16];
pub const CELL: u16 = 1;
pub const INPUT_PICO: u64 = 1_000;
pub const OUTPUT_PICO: u64 = 10_000;

/// What both services keep.
#[derive(Default)]
pub struct Kept {
    pub gateway: Option<Principal>,
    pub gateway_key: Option<VerifyingKey>,
    pub attached: BTreeMap<Id, (u64, scheduling::Capabilities, VerifyingKey)>,
    pub detached: Vec<(Id, scheduling::DetachReason)>,
    pub leases: BTreeMap<[u8; 20], scheduling::Lease>,
    pub placed: Vec<scheduling::PlaceRequest>,
    pub after: Vec<String>,
    pub renewed: usize,
    pub ended: Vec<[u8; 20]>,
    pub reported: Vec<scheduling::CallLine>,
    /// What stands in the log, by sequence number.
    pub metered: BTreeMap<u64, scheduling::CallsMetered>,
    pub presence: Vec<scheduling::ReportPresenceRequest>,
    /// Checkpoints of calls that run, each with its lease.
    pub running: Vec<([u8; 20], scheduling::CallLine)>,
    /// How often it was reported what runs.
    pub running_reports: usize,
    /// Which leases end, and how: when (none: now), and why.
    pub ending: BTreeMap<[u8; 20], (Option<u64>, scheduling::LeaseEnd)>,
    /// Calls that are known by their ids, with their receipts.
    pub known: BTreeMap<String, String>,
    /// What renewals are refused with.
    pub refuse_renew: Option<Refusal>,
    pub sessions_opened: usize,
    /// Why the market makes no hold.
    pub no_hold: Option<&'static str>,
    /// Refusals of the next placements.
    pub refuse_place: Vec<Refusal>,
    /// Refusals of the next reports.
    pub refuse_report: Vec<Refusal>,
    /// Why lines are not metered.
    pub refuse_lines: Option<&'static str>,
    /// What presence is refused with, once.
    pub refuse_presence: Option<Refusal>,
    pub starts: usize,
    /// Length of a lease, ms.
    pub lease_ms: u64,
    pub next: u64,
}

impl Kept {
    /// Every line has both signatures.
    fn check_signatures(&self, lease: &[u8; 20], lines: &[scheduling::CallLine]) {
        let node = super::node::key_of(Id::from_slice(&self.leases[lease].node).unwrap()).verifying_key();
        let gateway = self.gateway_key.unwrap();
        for line in lines {
            let signed = statements::call_line(&GENESIS, CELL, lease, line);
            let is = |key: &VerifyingKey, bytes: &[u8]| {
                key.verify_strict(&signed, &Signature::from_slice(bytes).unwrap()).is_ok()
            };
            assert!(is(&node, &line.node_signature) && is(&gateway, &line.gateway_signature));
        }
    }

    /// What is known of a call, under any lease or this one.
    fn found(&self, call: &str, lease: &str) -> Option<String> {
        let call: Id = call.parse().unwrap();
        let lease = (!lease.is_empty()).then(|| lease_of(lease));
        let is = |line: &scheduling::CallLine| Id::from_slice(&line.call) == Some(call);
        let of_lease = |bytes: &[u8]| lease.is_none_or(|lease| lease == bytes);
        let metered = self.metered.iter().rev().filter(|(_, metered)| of_lease(&metered.lease));
        let named = metered.filter_map(|(seq, metered)| {
            metered.lines.iter().position(is).map(|line| statements::receipt_name(*seq, line as u32))
        });
        let waits = || self.running.iter().any(|(id, line)| of_lease(id) && is(line)).then(String::new);
        { named }.next().or_else(waits)
    }

    /// From now on every lease that there is ends.
    pub fn end_all(&mut self, at: Option<u64>, reason: scheduling::LeaseEnd) {
        self.ending.extend(self.leases.keys().map(|id| (*id, (at, reason))));
    }

    /// What was reported: finish and tokens written.
    pub fn lines(&self) -> Vec<(scheduling::Finish, u64)> {
        self.reported.iter().map(|line| (line.finish(), line.output_tokens)).collect()
    }
}

#[derive(Clone)]
pub struct Services(pub Arc<Mutex<Kept>>);

impl Services {
    pub fn scripted() -> Services {
        Services(Arc::new(Mutex::new(Kept { lease_ms: 60_000, next: 100, ..Kept::default() })))
    }

    pub fn kept<T>(&self, look: impl FnOnce(&mut Kept) -> T) -> T {
        look(&mut self.0.lock().unwrap())
    }

    /// Every call comes from the gateway, and says so.
    fn called_by_gateway<T>(&self, request: &Request<T>) {
        let who = principal(request).unwrap();
        self.kept(|kept| assert_eq!(kept.gateway, Some(who)));
    }
}

/// A renter's session: its number stands in it.
fn session_of(renter: &str) -> Id {
    let renter: Principal = renter.parse().unwrap();
    Id::v7(1_700_000_000_000, [renter.id.to_bytes()[0]; 10])
}

fn none<T>() -> Result<Response<T>, Status> {
    Err(Status::unimplemented("not scripted"))
}

fn model(name: &str, kind: market::ModelKind) -> market::Model {
    market::Model {
        name: name.to_owned(),
        kind: kind.into(),
        input_pico_usd: INPUT_PICO,
        output_pico_usd: OUTPUT_PICO,
        ..market::Model::default()
    }
}

#[tonic::async_trait]
impl market::market_server::Market for Services {
    async fn set_model(
        &self,
        _: Request<market::SetModelRequest>,
    ) -> Result<Response<market::SetModelResponse>, Status> {
        none()
    }

    async fn list_models(
        &self,
        request: Request<market::ListModelsRequest>,
    ) -> Result<Response<market::ListModelsResponse>, Status> {
        self.called_by_gateway(&request);
        let models =
            vec![model("talker", market::ModelKind::Generate), model("pointer", market::ModelKind::Embed)];
        Ok(Response::new(market::ListModelsResponse { models }))
    }

    async fn set_account(
        &self,
        _: Request<market::SetAccountRequest>,
    ) -> Result<Response<market::SetAccountResponse>, Status> {
        none()
    }

    async fn quote(
        &self,
        request: Request<market::QuoteRequest>,
    ) -> Result<Response<market::QuoteResponse>, Status> {
        self.called_by_gateway(&request);
        let asked = request.into_inner();
        let price = (asked.input_tokens * INPUT_PICO + asked.output_tokens * OUTPUT_PICO).div_ceil(1_000_000);
        let fee = price.div_ceil(50);
        Ok(Response::new(market::QuoteResponse {
            price_micro_usd: price,
            buyer_fee_micro_usd: fee,
            total_micro_usd: price + fee,
            total_units: price + fee,
            ..market::QuoteResponse::default()
        }))
    }

    async fn open_session(
        &self,
        request: Request<market::OpenSessionRequest>,
    ) -> Result<Response<market::OpenSessionResponse>, Status> {
        self.called_by_gateway(&request);
        let renter = &request.get_ref().renter;
        assert!(renter.starts_with("account/"));
        self.kept(|kept| kept.sessions_opened += 1);
        let session = market::Session {
            session_id: session_of(renter).to_string(),
            state: market::SessionState::Opening.into(),
            ..market::Session::default()
        };
        Ok(Response::new(market::OpenSessionResponse { session: Some(session) }))
    }

    async fn close_session(
        &self,
        _: Request<market::CloseSessionRequest>,
    ) -> Result<Response<market::CloseSessionResponse>, Status> {
        none()
    }

    async fn get_session(
        &self,
        request: Request<market::GetSessionRequest>,
    ) -> Result<Response<market::GetSessionResponse>, Status> {
        let no_hold = self.kept(|kept| kept.no_hold);
        let state =
            if no_hold.is_some() { market::SessionState::Closed } else { market::SessionState::Active };
        let session = market::Session {
            session_id: request.into_inner().session_id,
            state: state.into(),
            reason: no_hold.unwrap_or_default().to_owned(),
            funded_seq: if no_hold.is_some() { 0 } else { 77 },
            expires_at_us: u64::MAX / 2,
            ..market::Session::default()
        };
        Ok(Response::new(market::GetSessionResponse { session: Some(session) }))
    }

    async fn list_sessions(
        &self,
        _: Request<market::ListSessionsRequest>,
    ) -> Result<Response<market::ListSessionsResponse>, Status> {
        none()
    }

    async fn get_invoice(
        &self,
        _: Request<market::GetInvoiceRequest>,
    ) -> Result<Response<market::GetInvoiceResponse>, Status> {
        none()
    }

    async fn get_price(
        &self,
        _: Request<market::GetPriceRequest>,
    ) -> Result<Response<market::GetPriceResponse>, Status> {
        none()
    }
}

fn token(lease: &scheduling::Lease) -> scheduling::LeaseToken {
    scheduling::LeaseToken { lease: lease.encode_to_vec().into(), signature: vec![0; 64].into() }
}

fn lease_of(text: &str) -> [u8; 20] {
    statements::lease_bytes(text).unwrap()
}

#[tonic::async_trait]
impl scheduling::scheduling_server::Scheduling for Services {
    async fn start_gateway(
        &self,
        request: Request<scheduling::StartGatewayRequest>,
    ) -> Result<Response<scheduling::StartGatewayResponse>, Status> {
        self.called_by_gateway(&request);
        let key: [u8; 32] = request.get_ref().public_key.as_ref().try_into().unwrap();
        self.kept(|kept| {
            kept.starts += 1;
            kept.gateway_key = Some(VerifyingKey::from_bytes(&key).unwrap());
        });
        Ok(Response::new(scheduling::StartGatewayResponse {
            public_key: vec![8; 32].into(),
            tge_at_ms: 1_000,
            epoch_s: 86_400,
            beat_s: 1,
            seal_after_ms: 5_000,
            gateway_timeout_ms: 900,
        }))
    }

    async fn attach(
        &self,
        request: Request<scheduling::AttachRequest>,
    ) -> Result<Response<scheduling::AttachResponse>, Status> {
        self.called_by_gateway(&request);
        let asked = request.into_inner();
        let node: Id = asked.node_id.parse().unwrap();
        let gateway = self.kept(|kept| kept.gateway.unwrap().id);
        let nonce = asked.nonce.as_ref().try_into().unwrap();
        let signed = statements::attach(&GENESIS, CELL, &gateway.to_bytes(), &nonce, &asked.capabilities);
        let key = super::node::key_of(node);
        let signature = Signature::from_slice(&asked.signature).unwrap();
        if key.verifying_key().verify_strict(&signed, &signature).is_err() {
            let why = Refusal::new(Code::Unauthenticated, "SIGNATURE_WRONG", "it does not fit");
            return Err(status(why));
        }
        let capabilities = scheduling::Capabilities::decode(asked.capabilities).unwrap();
        let generation = self.kept(|kept| {
            kept.next += 1;
            kept.attached.insert(node, (kept.next, capabilities, key.verifying_key()));
            kept.next
        });
        Ok(Response::new(scheduling::AttachResponse { generation }))
    }

    async fn detach(
        &self,
        request: Request<scheduling::DetachRequest>,
    ) -> Result<Response<scheduling::DetachResponse>, Status> {
        let asked = request.into_inner();
        let node: Id = asked.node_id.parse().unwrap();
        self.kept(|kept| {
            if kept.attached.get(&node).is_some_and(|(generation, ..)| *generation == asked.generation) {
                kept.attached.remove(&node);
            }
            kept.detached.push((node, asked.reason()));
        });
        Ok(Response::new(scheduling::DetachResponse {}))
    }

    async fn report_presence(
        &self,
        request: Request<scheduling::ReportPresenceRequest>,
    ) -> Result<Response<scheduling::ReportPresenceResponse>, Status> {
        let refused = self.kept(|kept| {
            kept.presence.push(request.into_inner());
            kept.refuse_presence.clone().filter(|_| kept.starts < 2)
        });
        if let Some(refused) = refused {
            return Err(status(refused));
        }
        Ok(Response::new(scheduling::ReportPresenceResponse::default()))
    }

    async fn place(
        &self,
        request: Request<scheduling::PlaceRequest>,
    ) -> Result<Response<scheduling::PlaceResponse>, Status> {
        self.called_by_gateway(&request);
        let after = request.metadata().get("holmes-after").unwrap().to_str().unwrap().to_owned();
        let asked = request.into_inner();
        self.kept(|kept| {
            kept.after.push(after);
            kept.placed.push(asked.clone());
            if let Some(refused) = kept.refuse_place.pop() {
                return Err(status(refused));
            }
            let serves = |node: &Id, capabilities: &scheduling::Capabilities| {
                let long_enough = |served: &scheduling::ServedModel| served.context >= asked.context;
                capabilities.models.iter().any(|served| served.name == asked.model && long_enough(served))
                    && !asked.avoid_node_ids.contains(&node.to_string())
            };
            let found = kept.attached.iter().find(|(node, (_, offered, _))| serves(node, offered));
            let Some((node, (generation, ..))) = found else {
                return Err(status(Refusal::new(Code::Precondition, "NO_NODE_ABLE", "no node is able")));
            };
            let (node, generation) = (*node, *generation);
            kept.next += 1;
            let id = statements::lease_id(CELL, 4, 1, kept.next);
            let now = holmes_runtime::Clock::System.now();
            let lease = scheduling::Lease {
                lease: id.to_vec().into(),
                session: asked.session_id.parse::<Id>().unwrap().to_bytes().to_vec().into(),
                node: node.to_bytes().to_vec().into(),
                gateway: kept.gateway.unwrap().id.to_bytes().to_vec().into(),
                generation,
                model: asked.model.clone(),
                expires_at_us: now.after_millis(kept.lease_ms).micros(),
                allowance_pico_usd: asked.allowance_pico_usd,
                input_pico_usd: INPUT_PICO,
                output_pico_usd: OUTPUT_PICO,
            };
            kept.leases.insert(id, lease.clone());
            let lease_id = statements::lease_text(&id);
            Ok(Response::new(scheduling::PlaceResponse { token: Some(token(&lease)), lease_id, credit: 1 }))
        })
    }

    async fn renew_lease(
        &self,
        request: Request<scheduling::RenewLeaseRequest>,
    ) -> Result<Response<scheduling::RenewLeaseResponse>, Status> {
        let asked = request.into_inner();
        self.kept(|kept| {
            kept.renewed += 1;
            if let Some(refused) = kept.refuse_renew.clone() {
                return Err(status(refused));
            }
            let now = holmes_runtime::Clock::System.now();
            let expires = now.after_millis(60_000).micros();
            let lease = kept.leases.get_mut(&lease_of(&asked.lease_id)).unwrap();
            lease.expires_at_us = expires;
            lease.allowance_pico_usd = lease.allowance_pico_usd.max(asked.allowance_pico_usd);
            Ok(Response::new(scheduling::RenewLeaseResponse { token: Some(token(lease)) }))
        })
    }

    async fn end_lease(
        &self,
        request: Request<scheduling::EndLeaseRequest>,
    ) -> Result<Response<scheduling::EndLeaseResponse>, Status> {
        self.kept(|kept| kept.ended.push(lease_of(&request.get_ref().lease_id)));
        Ok(Response::new(scheduling::EndLeaseResponse {}))
    }

    async fn report_calls(
        &self,
        request: Request<scheduling::ReportCallsRequest>,
    ) -> Result<Response<scheduling::ReportCallsResponse>, Status> {
        self.called_by_gateway(&request);
        let asked = request.into_inner();
        self.kept(|kept| {
            if let Some(refused) = kept.refuse_report.pop() {
                return Err(status(refused));
            }
            let id = lease_of(&asked.lease_id);
            kept.check_signatures(&id, &asked.lines);
            kept.next += 1;
            let seq = kept.next;
            let names = (0..asked.lines.len()).map(|line| statements::receipt_name(seq, line as u32));
            if let Some(reason) = kept.refuse_lines {
                let refused = (0..asked.lines.len() as u32)
                    .map(|line| scheduling::RefusedLine { line, reason: reason.to_owned() });
                let receipts = vec![String::new(); asked.lines.len()];
                return Ok(Response::new(scheduling::ReportCallsResponse {
                    receipts,
                    refused: refused.collect(),
                }));
            }
            let receipts = names.collect();
            kept.reported.extend(asked.lines.clone());
            let metered = super::log::metered(&kept.leases[&id], asked.lines);
            kept.metered.insert(seq, metered);
            Ok(Response::new(scheduling::ReportCallsResponse { receipts, refused: Vec::new() }))
        })
    }

    async fn report_running(
        &self,
        request: Request<scheduling::ReportRunningRequest>,
    ) -> Result<Response<scheduling::ReportRunningResponse>, Status> {
        self.called_by_gateway(&request);
        let asked = request.into_inner();
        self.kept(|kept| {
            kept.running_reports += 1;
            let mut answer = scheduling::ReportRunningResponse::default();
            for running in &asked.leases {
                let id = lease_of(&running.lease_id);
                kept.check_signatures(&id, &running.lines);
                kept.running.extend(running.lines.iter().map(|line| (id, line.clone())));
                let ending = kept.ending.get(&id).map(|(at, reason)| scheduling::EndingLease {
                    lease_id: running.lease_id.clone(),
                    ends_at_us: at.unwrap_or_default(),
                    reason: (*reason).into(),
                });
                answer.ending.extend(ending);
            }
            Ok(Response::new(answer))
        })
    }

    async fn find_call(
        &self,
        request: Request<scheduling::FindCallRequest>,
    ) -> Result<Response<scheduling::FindCallResponse>, Status> {
        self.called_by_gateway(&request);
        let scheduling::FindCallRequest { call_id, lease_id } = request.get_ref();
        let receipt =
            self.kept(|kept| kept.known.get(call_id).cloned().or_else(|| kept.found(call_id, lease_id)));
        let free = || status(Refusal::new(Code::NotFound, "CALL_NOT_FOUND", "its id is free"));
        Ok(Response::new(scheduling::FindCallResponse { receipt: receipt.ok_or_else(free)? }))
    }

    async fn get_node(
        &self,
        _: Request<scheduling::GetNodeRequest>,
    ) -> Result<Response<scheduling::GetNodeResponse>, Status> {
        none()
    }

    async fn list_nodes(
        &self,
        _: Request<scheduling::ListNodesRequest>,
    ) -> Result<Response<scheduling::ListNodesResponse>, Status> {
        none()
    }

    async fn get_lease(
        &self,
        _: Request<scheduling::GetLeaseRequest>,
    ) -> Result<Response<scheduling::GetLeaseResponse>, Status> {
        none()
    }

    async fn explain(
        &self,
        _: Request<scheduling::ExplainRequest>,
    ) -> Result<Response<scheduling::ExplainResponse>, Status> {
        none()
    }
}

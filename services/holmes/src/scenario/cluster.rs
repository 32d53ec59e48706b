//! The network: every role of this binary over a journal in memory, in one rig, behind the authentication of a real port.

use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context as _, Result, anyhow};
use holmes_accounts::Accounts;
use holmes_kernel::{Id, Principal, Refusal, Time};
use holmes_proto::edge;
use holmes_runtime::auth::{Auth, Authenticated, Network};
use holmes_runtime::config::Config;
use holmes_runtime::rig::{Rig, Seat};
use holmes_runtime::{Clock, Peer};
use holmes_store::Journal;
use holmes_store::journal::memory;
use prost_reflect::prost::Message as _;
use prost_reflect::{DescriptorPool, DynamicMessage, MethodDescriptor};
use serde_json::Value as Json;
use tonic::service::Routes;
use tonic::{Request, Status};
use tonic_types::StatusExt as _;
use tower::Layer as _;

use super::check::Plan;
use super::fields;
use super::tell::Teller;
use crate::call::{Codec, path_of};
use crate::client::Proof;
use crate::keyring::Keyring;
use crate::readable::Readable;
use crate::roles::{self, Deps, Role, Seated};

/// The one deployment of a scenario.
pub(super) const CELL: u16 = 1;

/// The network.
pub(super) struct Cluster {
    pub rig: Rig<Journal>,
    pub journal: Journal,
    pub roles: Vec<Role>,
    pub network: Network,
    pub pool: DescriptorPool,
    seated: Vec<Seated>,
    clock: Clock,
    /// As callers from outside come in.
    port: Authenticated<Routes>,
    /// As the gateway of the same process does.
    inside: Routes,
    readable: Readable,
}

/// As whom something is asked.
pub(super) enum Caller {
    /// From outside, with a proof.
    Outside(Proof),
    /// From inside the process, as its gateway calls.
    Inside(Principal),
}

/// What a service has refused, as everybody who calls sees it.
#[derive(Clone, Debug)]
pub(super) struct Refused {
    pub code: String,
    pub reason: String,
    pub message: String,
    pub retry_after_ms: Option<u128>,
}

impl Refused {
    fn of(status: &Status) -> Refused {
        let info = status.get_details_error_info();
        let wait = status.get_details_retry_info().and_then(|info| info.retry_delay);
        Refused {
            code: format!("{:?}", status.code()),
            reason: info.map(|info| info.reason).unwrap_or_default(),
            message: status.message().to_owned(),
            retry_after_ms: wait.map(|wait| wait.as_millis()),
        }
    }

    /// A refusal of the part that is played here.
    pub(super) fn here(refusal: Refusal) -> Refused {
        Refused::of(&edge::status(refusal))
    }
}

impl Cluster {
    /// Opens every log with the scenario's profile, at its start.
    pub(super) fn open(plan: &mut Plan) -> Result<Cluster> {
        let journal = Journal::from(memory::Journal::new());
        let mut rig = Rig::new(journal.clone(), plan.start);
        let network = Network { genesis: plan.profile.hash(), cell: CELL };
        let deps = Deps { lease_key: Some(plan.cast.lease_key.clone()), network: network.clone() };
        let staff = plan.cast.party(super::cast::STAFF).context("every network has staff")?.public();
        plan.profile.staff_key(staff);
        plan.profile.lease_key(plan.cast.lease_key.verifying_key().to_bytes());
        plan.profile.begin_at(plan.calendar.tge_at().millis());
        let roles = roles::all();
        let seat = |role: &Role| role.seat(&mut rig, CELL, &plan.profile, &deps);
        let seated: Vec<Seated> = roles.iter().map(seat).collect::<Result<_>>()?;
        let mut routes = Routes::builder();
        seated.iter().for_each(|role| role.add_routes(&mut routes));
        let inside = routes.routes().prepare();
        let accounts = seated.iter().find_map(|role| role.door.downcast_ref::<Seat<Accounts, Journal>>());
        let clock = rig.clock();
        let keyring = Arc::new(Keyring::new(accounts.cloned(), clock.clone()));
        let limits = Config::default().server;
        let auth = Auth::new(
            keyring,
            network.clone(),
            clock.clone(),
            limits.max_request_bytes,
            limits.max_unproven_bytes,
        );
        let pool = DescriptorPool::decode(holmes_proto::DESCRIPTORS).context("the build's descriptors")?;
        let port = auth.layer(inside.clone());
        let readable = Readable::of_answers()?;
        Ok(Cluster { rig, journal, roles, network, pool, seated, clock, port, inside, readable })
    }

    /// The moment.
    pub(super) fn now(&self) -> Time {
        self.clock.now()
    }

    /// Lets time pass, and everything happen that is due.
    pub(super) fn advance(&mut self, by: Duration) {
        self.rig.advance(by);
    }

    /// The services, as a task of this process calls them.
    pub(super) fn peer(&self, principal: Principal) -> Peer {
        Peer::here(self.inside.clone(), principal)
    }

    /// The digest of a service's state as it stands.
    pub(super) fn digest(&self, service: &str) -> Option<holmes_kernel::canon::Digest> {
        self.seated.iter().find(|role| role.name == service).map(Seated::digest)
    }

    /// A method by name.
    pub(super) fn method(&self, name: &str) -> Result<MethodDescriptor> {
        fields::method(&self.pool, name).map_err(|why| anyhow!(why))
    }

    /// Calls a method, and lets every service hear what came of it. The request's id is set where it has one and none
    /// is given.
    pub(super) async fn call(
        &mut self,
        teller: &mut Teller,
        who: (&str, Caller),
        method: &MethodDescriptor,
        mut message: DynamicMessage,
        request_id: Id,
    ) -> Result<Result<DynamicMessage, Refused>> {
        let request_id = identified(method, &mut message, request_id)?;
        let shown = teller.traces().then(|| self.readable.message(&message));
        let path = path_of(method);
        let bytes = message.encode_to_vec();
        let mut request = Request::new(message);
        let answer = match who.1 {
            Caller::Outside(proof) => {
                let network = self.network.clone();
                proof.add_at(
                    self.now(),
                    request.metadata_mut(),
                    || Ok(network),
                    &path,
                    &bytes,
                    request_id,
                )?;
                unary(self.port.clone(), request, &path, method).await
            }
            Caller::Inside(principal) => unary(self.peer(principal), request, &path, method).await,
        };
        self.rig.settle();
        let answer = answer.map_err(|status| Refused::of(&status));
        if let Some(request) = shown {
            let reply = answer.as_ref().map(|message| self.readable.message(message)).map_err(Clone::clone);
            teller.trace(self.clock.now(), who.0, &path, &request, &reply)?;
        }
        Ok(answer)
    }

    /// A message as people and programs read it.
    pub(super) fn shown(&self, message: &DynamicMessage) -> Json {
        self.readable.message(message)
    }
}

/// Gives a request its id; answers the one that it has.
fn identified(method: &MethodDescriptor, message: &mut DynamicMessage, id: Id) -> Result<Id> {
    let Some(field) = method.input().get_field_by_name("request_id") else { return Ok(id) };
    match message.get_field(&field).as_str() {
        Some(text) if !text.is_empty() => Ok(text.parse().unwrap_or(id)), // the service says what is wrong with it
        _ => {
            message.set_field(&field, prost_reflect::Value::String(id.to_string()));
            Ok(id)
        }
    }
}

async fn unary<S>(
    service: S,
    request: Request<DynamicMessage>,
    path: &str,
    method: &MethodDescriptor,
) -> Result<DynamicMessage, Status>
where
    S: tonic::client::GrpcService<tonic::body::Body, ResponseBody = tonic::body::Body>,
    S::Error: Into<Box<dyn std::error::Error + Send + Sync>>,
{
    let path = path.parse().map_err(|_| Status::internal("the method has no usable name"))?;
    let mut grpc = tonic::client::Grpc::new(service);
    grpc.ready().await.map_err(|why| Status::unknown(why.into().to_string()))?;
    grpc.unary(request, path, Codec(method.clone())).await.map(tonic::Response::into_inner)
}

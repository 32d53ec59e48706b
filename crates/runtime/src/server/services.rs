//! The gRPC services of a port. One list: what is routed is what health and reflection tell of.

use std::convert::Infallible;

use tokio::sync::watch;
use tonic::body::Body;
use tonic::server::NamedService;
use tonic::service::{Routes, RoutesBuilder};
use tonic_health::ServingStatus;
use tonic_health::pb::health_server::HealthServer;
use tonic_health::server::{HealthReporter, HealthService};

use super::ServerError;
use crate::driver::Status;
use crate::reach::{Elsewhere, Reach};

/// A gRPC service as routes take it.
pub trait Grpc:
    tower::Service<
        http::Request<Body>,
        Response = http::Response<Body>,
        Error = Infallible,
        Future: Send + 'static,
    > + NamedService
    + Clone
    + Send
    + Sync
    + 'static
{
}

impl<S> Grpc for S where
    S: tower::Service<
            http::Request<Body>,
            Response = http::Response<Body>,
            Error = Infallible,
            Future: Send + 'static,
        > + NamedService
        + Clone
        + Send
        + Sync
        + 'static
{
}

/// The gRPC services of a port. None can be called that is not told of: there is no other way in.
#[derive(Default)]
pub struct Services {
    routes: RoutesBuilder,
    added: Vec<(&'static str, watch::Receiver<Status>)>,
    /// Those of other processes, to which calls are passed on.
    passed_on: Vec<String>,
}

impl Services {
    /// Adds a service, which is healthy while `status` says that it serves.
    pub fn add(&mut self, service: impl Grpc, status: watch::Receiver<Status>) -> &mut Services {
        self.added.push((name(&service), status));
        self.routes.add_service(service);
        self
    }

    /// Passes calls on to the services of other processes, as far as `reach` says where they are.
    pub fn pass_on(&mut self, reach: &Reach) -> &mut Services {
        let here: Vec<&str> = self.added.iter().map(|(name, _)| *name).collect();
        let others: Vec<String> = reach.services().filter(|name| !here.contains(&name.as_str())).collect();
        let mut routes = std::mem::take(&mut self.routes).routes();
        let router = std::mem::take(routes.axum_router_mut());
        *routes.axum_router_mut() = others.iter().fold(router, |router, name| {
            router.route_service(&format!("/{name}/{{*rest}}"), Elsewhere::new(reach.clone()))
        });
        self.routes = routes.into();
        self.passed_on = others;
        self
    }

    /// The services alone, for calls from within the process.
    pub fn here(self) -> Routes {
        self.routes.routes()
    }

    /// The services with health and reflection, and who tells of them all.
    pub(super) fn told(self) -> Result<(Routes, HealthReporter), ServerError> {
        let reporter = HealthReporter::new();
        let health = HealthServer::new(HealthService::from_health_reporter(reporter.clone()));
        let mut served: Vec<&str> = self.added.iter().map(|(name, _)| *name).collect();
        served.extend(self.passed_on.iter().map(String::as_str));
        served.extend([
            name(&health),
            "grpc.reflection.v1.ServerReflection",
            "grpc.reflection.v1alpha.ServerReflection",
        ]);
        // What this process serves, not all that the build knows.
        let reflection = || {
            let builder = tonic_reflection::server::Builder::configure()
                .register_encoded_file_descriptor_set(holmes_proto::DESCRIPTORS)
                .register_encoded_file_descriptor_set(tonic_health::pb::FILE_DESCRIPTOR_SET)
                .register_encoded_file_descriptor_set(tonic_reflection::pb::v1::FILE_DESCRIPTOR_SET)
                .register_encoded_file_descriptor_set(tonic_reflection::pb::v1alpha::FILE_DESCRIPTOR_SET);
            served.iter().fold(builder, |builder, name| builder.with_service_name(*name))
        };
        let (v1, v1alpha) = (reflection().build_v1()?, reflection().build_v1alpha()?);
        for (service, status) in self.added {
            tokio::spawn(follow(service, status, reporter.clone()));
        }
        let routes = self.routes.routes().add_service(health).add_service(v1).add_service(v1alpha);
        Ok((routes, reporter))
    }
}

fn name<S: NamedService>(_: &S) -> &'static str {
    S::NAME
}

/// Tells of a service: it is healthy while its machine serves, here or where calls are passed on to.
async fn follow(service: &'static str, mut machine: watch::Receiver<Status>, reporter: HealthReporter) {
    loop {
        let serving = matches!(*machine.borrow_and_update(), Status::Serving | Status::StandingBy);
        let now = if serving { ServingStatus::Serving } else { ServingStatus::NotServing };
        reporter.set_service_status(service, now).await;
        if machine.changed().await.is_err() {
            return reporter.set_service_status(service, ServingStatus::NotServing).await;
        }
    }
}

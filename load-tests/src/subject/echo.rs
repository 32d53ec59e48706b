//! The limit of gRPC here: the ledger's own request through bare tonic, answered at once with the ledger's own answer.
//! No authentication, no limits, no machine, no disk; client and server in one process, as with the ledger.

use std::collections::BTreeMap;
use std::convert::Infallible;
use std::sync::Arc;
use std::task::{Context, Poll};

use anyhow::{Result, ensure};
use holmes_kernel::Id;
use holmes_proto::ledger::v1::{
    CreateTransfersRequest, CreateTransfersResponse, TransferCode, TransferResult,
};
use holmes_runtime::fresh_id;
use tonic::body::Body;
use tonic::codegen::http::uri::PathAndQuery;
use tonic::codegen::{BoxFuture, Service, StdError, http};
use tonic::server::{NamedService, UnaryService};
use tonic::transport::server::TcpIncoming;
use tonic::transport::{Channel, Server};
use tonic_prost::ProstCodec;

use super::ledger_grpc::{CONNECTIONS, request, with_key};
use super::{Doing, Kept, Start, Subject, settings};

/// The server's side.
#[derive(Clone)]
struct Answering;

impl NamedService for Answering {
    const NAME: &'static str = "bench.Echo";
}

impl Service<http::Request<Body>> for Answering {
    type Response = http::Response<Body>;
    type Error = Infallible;
    type Future = BoxFuture<Self::Response, Self::Error>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, asked: http::Request<Body>) -> Self::Future {
        Box::pin(async move {
            let codec = ProstCodec::<CreateTransfersResponse, CreateTransfersRequest>::default();
            Ok(tonic::server::Grpc::new(codec).unary(Answering, asked).await)
        })
    }
}

impl UnaryService<CreateTransfersRequest> for Answering {
    type Response = CreateTransfersResponse;
    type Future = BoxFuture<tonic::Response<CreateTransfersResponse>, tonic::Status>;

    fn call(&mut self, asked: tonic::Request<CreateTransfersRequest>) -> Self::Future {
        let ok =
            TransferResult { code: TransferCode::Ok.into(), amount_units: 1, ..TransferResult::default() };
        let results = vec![ok; asked.get_ref().transfers.len()];
        Box::pin(async move {
            Ok(tonic::Response::new(CreateTransfersResponse { results, ..Default::default() }))
        })
    }
}

pub(super) struct Echo {
    channels: Vec<Channel>,
    accounts: Vec<Id>,
    server: tokio::task::JoinHandle<Result<(), tonic::transport::Error>>,
}

impl Echo {
    pub(super) async fn start(start: &Start<'_>) -> Result<Echo> {
        let incoming = TcpIncoming::bind(([127, 0, 0, 1], 0).into())?.with_nodelay(Some(true));
        let address = format!("http://{}", incoming.local_addr()?);
        let server = tokio::spawn(Server::builder().add_service(Answering).serve_with_incoming(incoming));
        let mut channels = Vec::new();
        for _ in 0..CONNECTIONS.min(start.callers) {
            channels.push(Channel::from_shared(address.clone())?.connect().await?);
        }
        Ok(Echo { channels, accounts: (0..start.accounts).map(|_| fresh_id()).collect(), server })
    }
}

impl Subject for Echo {
    fn settings(&self) -> BTreeMap<String, String> {
        settings([
            ("gRPC", format!("{CONNECTIONS} connections; clients and server in one process share the cores")),
            ("on the way", "nothing".into()),
        ])
    }

    fn batch<'a>(&'a self, caller: usize, ids: &'a [Id]) -> Doing<'a, ()> {
        Box::pin(async move {
            let channel = self.channels[caller % self.channels.len()].clone();
            let mut client = tonic::client::Grpc::new(channel);
            client.ready().await.map_err(|why| anyhow::anyhow!(StdError::from(why)))?;
            let asked = with_key(tonic::Request::new(request(ids, &self.accounts)));
            let codec = ProstCodec::<CreateTransfersRequest, CreateTransfersResponse>::default();
            let answer = client.unary(asked, PathAndQuery::from_static("/bench.Echo/Echo"), codec).await?;
            ensure!(answer.get_ref().results.len() == ids.len(), "the echo lost something");
            Ok(())
        })
    }

    fn read_back(self: Arc<Self>) -> Doing<'static, Kept> {
        self.server.abort();
        Box::pin(async { Ok(Kept::Nothing) })
    }
}

//! Our ledger over gRPC: a real server with authentication, limits, deadlines and metrics, and clients on loopback in the
//! same process.

use std::collections::BTreeMap;
use std::pin::Pin;
use std::sync::Arc;

use anyhow::{Context as _, Result, ensure};
use holmes_kernel::{Code, Id, Principal, Refusal};
use holmes_proto::edge::{Roles, Scope};
use holmes_proto::ledger::v1::ledger_client::LedgerClient;
use holmes_proto::ledger::v1::{CreateTransfersRequest, Transfer, TransferCode, TransferKind};
use holmes_runtime::auth::{Auth, Keys, Network};
use holmes_runtime::config::Server as Settings;
use holmes_runtime::server::{Services, bind, serve};
use holmes_runtime::{Clock, fresh_id};
use tokio::sync::watch;
use tonic::metadata::AsciiMetadataValue;
use tonic::transport::Channel;

use super::events::our_settings;
use super::ledger::{Bed, MARKET};
use super::{Doing, Kept, Start, Subject, pair};

const KEY: &str = "hk_load";
/// Connections that the callers share.
pub(super) const CONNECTIONS: usize = 4;

/// One key, which is the market's.
struct OneKey;

type Answer<T> = Pin<Box<dyn Future<Output = Result<T, Refusal>> + Send>>;

fn unknown<T: Send + 'static>() -> Answer<T> {
    Box::pin(std::future::ready(Err(Refusal::new(Code::Unauthenticated, "KEY_UNKNOWN", "not the one key"))))
}

impl Keys for OneKey {
    fn api_key(&self, hash: [u8; 32]) -> Answer<(Principal, Scope)> {
        if hash == *blake3::hash(KEY.as_bytes()).as_bytes() {
            Box::pin(std::future::ready(Ok((MARKET, Scope::key(Roles::NONE, false)))))
        } else {
            unknown()
        }
    }

    fn public_key(&self, _: Principal) -> Answer<([u8; 32], Result<Scope, Refusal>)> {
        unknown()
    }
}

pub(super) struct OverGrpc {
    bed: Bed,
    clients: Vec<LedgerClient<Channel>>,
    stop: watch::Sender<bool>,
    server: tokio::task::JoinHandle<Result<()>>,
}

impl OverGrpc {
    pub(super) async fn start(start: &Start<'_>) -> Result<OverGrpc> {
        let bed = Bed::new(start.dir, start.accounts).await?;
        let settings = Settings { listen: ([127, 0, 0, 1], 0).into(), ..Settings::default() };
        let listener = bind(settings.listen, "--").await?;
        let address = format!("http://{}", listener.local_addr()?);
        let mut services = Services::default();
        services.add(holmes_ledger::api::server(bed.ledger.clone()), bed.ledger.status());
        let network = Network { genesis: [0; 16], cell: 1 };
        let (largest, unproven) = (settings.max_request_bytes, settings.max_unproven_bytes);
        let auth = Auth::new(Arc::new(OneKey), network, Clock::System, largest, unproven);
        let (stop, stopped) = watch::channel(false);
        let server =
            tokio::spawn(async move { Ok(serve(listener, None, services, auth, &settings, stopped).await?) });
        let mut clients = Vec::new();
        for _ in 0..CONNECTIONS.min(start.callers) {
            clients.push(LedgerClient::new(Channel::from_shared(address.clone())?.connect().await?));
        }
        Ok(OverGrpc { bed, clients, stop, server })
    }
}

impl Subject for OverGrpc {
    fn settings(&self) -> BTreeMap<String, String> {
        let mut settings = our_settings();
        let how = format!("{CONNECTIONS} connections; clients and server in one process share the cores");
        settings.insert("gRPC".into(), how);
        settings.insert(
            "on the way".into(),
            "API key, limits, deadline, metrics, as `holmes serve` has them".into(),
        );
        settings
    }

    fn batch<'a>(&'a self, caller: usize, ids: &'a [Id]) -> Doing<'a, ()> {
        Box::pin(async move {
            let mut client = self.clients[caller % self.clients.len()].clone();
            let asked = tonic::Request::new(request(ids, &self.bed.accounts));
            let answer = client.create_transfers(with_key(asked)).await?.into_inner();
            let failed = answer.results.iter().find(|result| result.code() != TransferCode::Ok);
            ensure!(answer.results.len() == ids.len() && failed.is_none(), "a transfer failed: {failed:?}");
            Ok(())
        })
    }

    fn read_back(self: Arc<Self>) -> Doing<'static, Kept> {
        Box::pin(async move {
            let OverGrpc { bed, clients, stop, server } =
                Arc::into_inner(self).context("a caller still holds the ledger")?;
            drop(clients);
            stop.send_replace(true);
            server.await??;
            bed.read_back().await
        })
    }
}

/// What a caller sends: also what the bare echo is asked.
pub(super) fn request(ids: &[Id], accounts: &[Id]) -> CreateTransfersRequest {
    let transfers = ids.iter().map(|id| {
        let (debit, credit) = pair(*id, accounts.len());
        Transfer {
            transfer_id: id.to_string(),
            kind: TransferKind::Single.into(),
            debit_account_id: accounts[debit].to_string(),
            credit_account_id: accounts[credit].to_string(),
            amount_units: 1,
            ..Transfer::default()
        }
    });
    CreateTransfersRequest {
        request_id: fresh_id().to_string(),
        transfers: transfers.collect(),
        ..Default::default()
    }
}

/// The same with the key.
pub(super) fn with_key<T>(mut request: tonic::Request<T>) -> tonic::Request<T> {
    request.metadata_mut().insert("authorization", AsciiMetadataValue::from_static("Bearer hk_load"));
    request
}

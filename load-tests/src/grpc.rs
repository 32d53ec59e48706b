//! Durable commands over gRPC: a real server with authentication, limits and tracing, real clients on loopback in the
//! same process, one transfer a call.

use std::path::Path;
use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Result, ensure};
use holmes_kernel::{Code, Principal, Refusal};
use holmes_proto::edge::{Roles, Scope};
use holmes_proto::ledger::v1::ledger_client::LedgerClient;
use holmes_proto::ledger::v1::{CreateTransfersRequest, Transfer, TransferCode, TransferKind};
use holmes_runtime::auth::{Auth, Keys, Network};
use holmes_runtime::config::Server as Settings;
use holmes_runtime::server::{Health, bind, serve};
use holmes_runtime::{Clock, fresh_id};
use tokio::sync::watch;
use tonic::metadata::AsciiMetadataValue;
use tonic::service::Routes;
use tonic::transport::Channel;

use crate::Figure;
use crate::bed::{Bed, Load, MARKET, pair};

const KEY: &str = "hk_load";
const CALLERS: usize = 64;
const CONNECTIONS: usize = 4;

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

/// 64 callers on four connections.
pub(crate) async fn figures(dir: &Path, length: Duration) -> Result<Vec<Figure>> {
    let scratch = tempfile::tempdir_in(dir)?;
    let bed = Bed::new(scratch.path()).await?;
    let settings = Settings { listen: ([127, 0, 0, 1], 0).into(), ..Settings::default() };
    let listener = bind(settings.listen, "--").await?;
    let address = format!("http://{}", listener.local_addr()?);
    let routes = Routes::new(holmes_ledger::api::server(bed.ledger.clone()));
    let network = Network { genesis: [0; 16], cell: 1 };
    let auth = Auth::new(
        Arc::new(OneKey),
        network,
        Clock::System,
        settings.max_request_bytes,
        settings.max_unproven_bytes,
    );
    let (stop, stopped) = watch::channel(false);
    let server =
        tokio::spawn(
            async move { serve(listener, routes, Health::default(), auth, &settings, stopped).await },
        );
    let mut clients = Vec::new();
    for _ in 0..CONNECTIONS {
        clients.push(LedgerClient::new(Channel::from_shared(address.clone())?.connect().await?));
    }
    let (clients, accounts) = (Arc::new(clients), Arc::new(bed.accounts.clone()));
    let load = Load::run(CALLERS, length, move |caller| {
        let (mut client, accounts) = (clients[caller % CONNECTIONS].clone(), accounts.clone());
        async move {
            let answer = client.create_transfers(request(pair(&accounts))).await?.into_inner();
            ensure!(
                answer.results.iter().all(|result| result.code() == TransferCode::Ok),
                "a transfer failed"
            );
            Ok(())
        }
    })
    .await?;
    stop.send_replace(true);
    server.await??;
    bed.end().await?;
    Ok(vec![Figure {
        name: format!("ledger over gRPC, {CALLERS} callers × 1"),
        unit: "commands",
        per_second: load.calls as f64 / load.seconds,
        p50_ms: Some(load.ms(0.5)),
        p99_ms: Some(load.ms(0.99)),
        note: format!("{CONNECTIONS} connections, client and server share the cores"),
    }])
}

fn request(
    (debit, credit): (holmes_kernel::Id, holmes_kernel::Id),
) -> tonic::Request<CreateTransfersRequest> {
    let transfer = Transfer {
        transfer_id: fresh_id().to_string(),
        kind: TransferKind::Single.into(),
        debit_account_id: debit.to_string(),
        credit_account_id: credit.to_string(),
        amount_units: 1,
        ..Transfer::default()
    };
    let request_id = fresh_id().to_string();
    let mut request = tonic::Request::new(CreateTransfersRequest {
        request_id,
        transfers: vec![transfer],
        ..Default::default()
    });
    request.metadata_mut().insert("authorization", AsciiMetadataValue::from_static("Bearer hk_load"));
    request
}

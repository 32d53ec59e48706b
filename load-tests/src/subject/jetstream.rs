//! JetStream on its file store with `sync_interval: always`: every message is forced to disk before it is acknowledged.
//! As a message an event, all of a batch under way at once; and as its atomic batches, which commit together.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context as _, Result, bail, ensure};
use async_nats::jetstream::consumer::{AckPolicy, pull};
use async_nats::jetstream::context::ContextBuilder;
use async_nats::jetstream::message::PublishMessage;
use async_nats::jetstream::{Context, stream};
use async_nats::{Client, HeaderMap, header};
use holmes_kernel::Id;
use serde::Deserialize;
use tokio_stream::StreamExt as _;

use super::server::{NATS, Server, command, free_port, need, version};
use super::{Doing, Kept, Start, Subject, event_bytes, event_id, settings};

const STREAM: &str = "EVENTS";
const SUBJECT: &str = "events";
/// More than this the server does not take in one atomic batch.
const MOST_IN_A_BATCH: usize = 1_000;
const PATIENCE: Duration = Duration::from_secs(30);

/// How events become messages.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Way {
    /// A message each.
    Each,
    /// A message each, committed together.
    Batch,
}

pub(super) struct Jetstream {
    server: Server,
    version: String,
    way: Way,
    clients: Vec<(Client, Context)>,
}

impl Jetstream {
    pub(super) async fn start(start: &Start<'_>, way: Way) -> Result<Jetstream> {
        ensure!(
            way == Way::Each || start.batch <= MOST_IN_A_BATCH,
            "an atomic batch has at most {MOST_IN_A_BATCH} messages"
        );
        let nats = need(NATS)?;
        let port = free_port()?;
        let file = start.dir.join("nats.conf");
        // Inside `jetstream` every setting has a line of its own: two on one line do not parse.
        let store = start.dir.join("store");
        let config = format!(
            "listen: 127.0.0.1:{port}\njetstream {{\n  store_dir: \"{}\"\n  sync_interval: always\n}}\n",
            store.display()
        );
        std::fs::write(&file, config)?;
        let mut serve = command(&nats, false);
        serve.arg("-c").arg(&file);
        let mut server = Server::start(serve, start.dir)?;
        let address = format!("127.0.0.1:{port}");
        let first = server.answers(|| connect(&address)).await?;
        let config = stream::Config {
            name: STREAM.into(),
            subjects: vec![SUBJECT.into()],
            allow_atomic_publish: way == Way::Batch,
            ..stream::Config::default()
        };
        first.1.create_stream(config).await?;
        let mut clients = vec![first];
        while clients.len() < start.callers.min(MOST_CONNECTIONS) {
            clients.push(connect(&address).await?);
        }
        Ok(Jetstream { server, version: version(&nats)?, way, clients })
    }

    async fn each(&self, context: &Context, ids: &[Id]) -> Result<()> {
        let mut under_way = Vec::with_capacity(ids.len());
        for id in ids {
            let message = PublishMessage::build().payload(event_bytes(*id).into());
            under_way.push(context.send_publish(SUBJECT, message).await?);
        }
        for acknowledgement in under_way {
            acknowledgement.await?;
        }
        Ok(())
    }

    /// The client has no publisher of batches: the headers are set by hand.
    async fn together(&self, client: &Client, ids: &[Id]) -> Result<()> {
        let name = ids[0].to_string();
        for (n, id) in (1..).zip(ids) {
            let mut headers = HeaderMap::new();
            headers.insert(header::NATS_BATCH_ID, name.as_str());
            headers.insert(header::NATS_BATCH_SEQUENCE, n.to_string().as_str());
            let body = event_bytes(*id).into();
            if n == ids.len() {
                headers.insert(header::NATS_BATCH_COMMIT, "1");
                let answer = client.request_with_headers(SUBJECT, headers, body).await?;
                let committed: Committed = serde_json::from_slice(&answer.payload)?;
                ensure!(
                    committed.count == Some(ids.len()),
                    "the batch was not committed: {:?}",
                    committed.error
                );
            } else if n == 1 {
                let answer = client.request_with_headers(SUBJECT, headers, body).await?;
                if !answer.payload.is_empty() {
                    bail!("the batch was refused: {}", String::from_utf8_lossy(&answer.payload));
                }
            } else {
                client.publish_with_headers(SUBJECT, headers, body).await?;
            }
        }
        Ok(())
    }

    async fn read(&self) -> Result<Vec<Id>> {
        let (_, context) = self.clients.first().context("a connection")?;
        let mut stream = context.get_stream(STREAM).await?;
        let count = usize::try_from(stream.info().await?.state.messages)?;
        let config = pull::Config { ack_policy: AckPolicy::None, ..pull::Config::default() };
        let consumer = stream.create_consumer(config).await?;
        let mut messages = consumer.stream().max_messages_per_batch(2_000).messages().await?;
        let mut ids = Vec::with_capacity(count);
        while ids.len() < count {
            let next = tokio::time::timeout(PATIENCE, messages.next()).await;
            let message =
                next.context("the stream gave less than it says that it holds")?.context("its end")??;
            ids.push(event_id(&message.payload)?);
        }
        Ok(ids)
    }
}

/// What a commit answers.
#[derive(Deserialize)]
struct Committed {
    count: Option<usize>,
    error: Option<serde_json::Value>,
}

/// Callers beyond share connections: each costs the server a few threads' worth of work.
const MOST_CONNECTIONS: usize = 64;

async fn connect(address: &str) -> Result<(Client, Context)> {
    let client = async_nats::ConnectOptions::new().request_timeout(Some(PATIENCE)).connect(address).await?;
    // More under way than this would wait for each other for ever.
    let context = ContextBuilder::new().timeout(PATIENCE).ack_timeout(PATIENCE).max_ack_inflight(1 << 16);
    Ok((client.clone(), context.build(client)))
}

impl Subject for Jetstream {
    fn processes(&self) -> Vec<u32> {
        vec![self.server.id()]
    }

    fn settings(&self) -> BTreeMap<String, String> {
        settings([
            ("version", self.version.clone()),
            ("sync_interval", "always".into()),
            ("store", "file, one replica".into()),
            ("connections", format!("{}, over TCP on loopback", self.clients.len())),
            (
                "a batch is",
                match self.way {
                    Way::Each => "that many messages, all under way at once".into(),
                    Way::Batch => "an atomic batch".into(),
                },
            ),
        ])
    }

    fn batch<'a>(&'a self, caller: usize, ids: &'a [Id]) -> Doing<'a, ()> {
        Box::pin(async move {
            let (client, context) = &self.clients[caller % self.clients.len()];
            match self.way {
                Way::Batch if ids.len() > 1 => self.together(client, ids).await,
                Way::Each | Way::Batch => self.each(context, ids).await,
            }
        })
    }

    fn read_back(self: Arc<Self>) -> Doing<'static, Kept> {
        Box::pin(async move { Ok(Kept::all(self.read().await?)) })
    }
}

//! The connection: how the servers are reached, as whom, and what they last complained about.

use std::path::PathBuf;
use std::sync::{Arc, Mutex, PoisonError};

use async_nats::jetstream::context::{Context, ContextBuilder};
use async_nats::{Client, ConnectOptions, Event};
use holmes_kernel::ports::BusError;

use super::{Bus, Names, PATIENCE};

/// How the servers are reached.
#[derive(Clone, Debug)]
pub struct Options {
    /// `host:port`, or `tls://host:port`.
    pub servers: Vec<String>,
    /// What this connection is called in the servers' own lists.
    pub name: String,
    /// As whom.
    pub proof: Proof,
    /// The services' names, which are those of streams and subjects.
    pub names: Names,
}

/// Who we are to the servers.
#[derive(Clone, Debug, Default)]
pub struct Proof {
    /// User and password.
    pub user: Option<(String, String)>,
    /// File with the certificates of those who may sign a server's.
    pub ca: Option<PathBuf>,
    /// Files with our certificate and its key.
    pub certificate: Option<(PathBuf, PathBuf)>,
}

/// What is known of the connection.
#[derive(Debug)]
pub(super) struct Session {
    pub(super) client: Client,
    pub(super) context: Context,
    pub(super) names: Names,
    servers: String,
    /// The last complaint. A request that is denied is otherwise only one that takes too long.
    complaint: Arc<Mutex<Option<String>>>,
}

impl Session {
    /// That the bus did not answer, and what the servers said meanwhile.
    pub(super) fn away(&self, why: &dyn std::error::Error) -> BusError {
        let words = in_words(why);
        let said = self.complaint.lock().unwrap_or_else(PoisonError::into_inner).take();
        match said {
            Some(said) => BusError::Away(format!("{}: {words}; it said: {said}", self.servers)),
            None => BusError::Away(format!("{}: {words}", self.servers)),
        }
    }
}

impl Bus {
    /// A handle on servers that may be away now: what is asked meanwhile is answered [`BusError::Away`].
    pub async fn open(options: Options) -> Result<Bus, BusError> {
        Bus::with(options, true).await
    }

    /// A handle on servers that answer.
    pub async fn connect(options: Options) -> Result<Bus, BusError> {
        Bus::with(options, false).await
    }

    async fn with(options: Options, later: bool) -> Result<Bus, BusError> {
        let Options { servers, name, proof, names } = options;
        let complaint = Arc::new(Mutex::new(None));
        let heard = complaint.clone();
        let mut connect = ConnectOptions::new()
            .name(name)
            .connection_timeout(PATIENCE)
            .request_timeout(Some(PATIENCE))
            .event_callback(move |event| {
                hear(&heard, &event);
                std::future::ready(())
            });
        if later {
            connect = connect.retry_on_initial_connect();
        }
        if let Some((user, password)) = proof.user {
            // Answers come to an inbox of the user's own, so that others may be kept from listening to them.
            connect = connect.custom_inbox_prefix(format!("_INBOX.{user}")).user_and_password(user, password);
        }
        if let Some(ca) = proof.ca {
            connect = connect.add_root_certificates(ca).require_tls(true);
        }
        if let Some((certificate, key)) = proof.certificate {
            connect = connect.add_client_certificate(certificate, key).require_tls(true);
        }
        let all = servers.join(", ");
        let client = connect.connect(&servers).await;
        let client = client.map_err(|why| BusError::Away(format!("NATS at {all}: {}", in_words(&why))))?;
        let context = ContextBuilder::new().timeout(PATIENCE).ack_timeout(PATIENCE).build(client.clone());
        let servers = format!("NATS at {all}");
        Ok(Bus { session: Arc::new(Session { client, context, names, servers, complaint }) })
    }

    /// Waits until everything that was sent has left.
    pub async fn flush(&self) {
        if let Err(why) = self.session.client.flush().await {
            tracing::debug!(%why, "not all that was sent to NATS has left");
        }
    }
}

/// An error with its causes, none of them twice.
fn in_words(why: &dyn std::error::Error) -> String {
    let mut words = why.to_string();
    let mut cause = why.source();
    while let Some(error) = cause {
        let said = error.to_string();
        if !words.contains(&said) {
            words = format!("{words}: {said}");
        }
        cause = error.source();
    }
    words
}

fn hear(complaint: &Mutex<Option<String>>, event: &Event) {
    match event {
        Event::Connected => tracing::info!("connected to NATS"),
        Event::Disconnected => tracing::warn!("the connection to NATS is lost; it is being made anew"),
        Event::ServerError(_) | Event::ClientError(_) => {
            tracing::warn!(%event, "NATS complains");
            *complaint.lock().unwrap_or_else(PoisonError::into_inner) = Some(event.to_string());
        }
        _ => tracing::debug!(%event, "NATS"),
    }
}

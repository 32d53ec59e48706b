//! Keys as the accounts of another process tell them. What was told counts for a second, so a revoked key stops within
//! one; while accounts do not answer, what was told counts for a minute: people go on who were there already.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use holmes_kernel::{Code, Principal, Refusal, Time};
use holmes_proto::accounts::v1::accounts_client::AccountsClient;
use holmes_proto::accounts::v1::find_key_request::Key;
use holmes_proto::accounts::v1::{FindKeyRequest, FindKeyResponse};
use holmes_proto::edge::{MIN_SEQ, Roles, Scope};
use holmes_runtime::Peer;
use holmes_runtime::auth::Signs;
use tokio::sync::Semaphore;
use tokio::time::Instant;
use tonic::metadata::MetadataValue;

/// How long an answer counts.
const FRESH: Duration = Duration::from_secs(1);
/// How long it counts while accounts do not answer.
const STALE: Duration = Duration::from_secs(60);
/// How long accounts may take, and where an earlier answer still counts.
const PATIENCE: Duration = Duration::from_secs(5);
const IMPATIENCE: Duration = Duration::from_millis(300);
/// Questions under way at a time: they share a connection, and anybody can have one asked.
const MOST_ASKED: usize = 512;
/// Answers that are kept at most.
const MOST: usize = 65_536;

/// The accounts of another process.
#[derive(Clone)]
pub(crate) struct Asked {
    accounts: AccountsClient<Peer>,
    told: Arc<Mutex<HashMap<Vec<u8>, Told>>>,
    asking: Arc<Semaphore>,
}

/// When something was told, and what.
type Told = (Instant, FindKeyResponse);

impl Asked {
    /// Asks by a peer that accounts know as a service or a gateway.
    pub(crate) fn new(peer: Peer) -> Asked {
        Asked {
            accounts: AccountsClient::new(peer),
            told: Arc::default(),
            asking: Arc::new(Semaphore::new(MOST_ASKED)),
        }
    }

    /// Whose API key has a hash, and what it may do.
    pub(crate) async fn api_key(&self, hash: [u8; 32], now: Time) -> Result<(Principal, Scope), Refusal> {
        let found = self.find(Key::ApiKeyHash(hash.to_vec().into()), hash.to_vec(), now).await?;
        if let Some(denied) = denied(&found) {
            return Err(denied);
        }
        let who = Principal::from_slice(&found.principal).ok_or_else(unreadable)?;
        Ok((who, Scope::key(Roles::read(&found.roles).ok_or_else(unreadable)?, found.admin)))
    }

    /// Which key a principal signs with, and what its signature may do.
    pub(crate) async fn public_key(&self, who: Principal) -> Result<Signs, Refusal> {
        let bytes = who.to_bytes().to_vec();
        let found = self.find(Key::Principal(bytes.clone().into()), bytes, Time::default()).await?;
        let denied = denied(&found);
        let Ok(key) = found.public_key.as_ref().try_into() else {
            return Err(denied.unwrap_or_else(unreadable));
        };
        let roles = Roles::read(&found.roles).ok_or_else(unreadable)?;
        Ok((key, denied.map_or(Ok(Scope::signature(roles)), Err)))
    }

    async fn find(&self, key: Key, name: Vec<u8>, now: Time) -> Result<FindKeyResponse, Refusal> {
        let kept = self.kept(&name);
        if let Some((at, found)) = &kept
            && at.elapsed() < FRESH
        {
            return Ok(found.clone());
        }
        let mut request = tonic::Request::new(FindKeyRequest { key: Some(key), at_us: now.micros() });
        // Whatever is durable now.
        request.metadata_mut().insert(MIN_SEQ, MetadataValue::from_static("0"));
        let mut accounts = self.accounts.clone();
        let stale = kept.as_ref().is_some_and(|(at, _)| at.elapsed() < STALE);
        let patience = if stale { IMPATIENCE } else { PATIENCE };
        let asked = async {
            let _asking = self.asking.acquire().await; // never closed
            accounts.find_key(request).await
        };
        let away = match tokio::time::timeout(patience, asked).await {
            Ok(Ok(found)) => {
                let found = found.into_inner();
                self.keep(name, &found);
                return Ok(found);
            }
            Ok(Err(status)) => format!("{:?}: {}", status.code(), status.message()),
            Err(_) => "no answer in time".to_owned(),
        };
        match kept {
            Some((at, found)) if at.elapsed() < STALE => Ok(found),
            _ => {
                tracing::warn!(why = away, "accounts do not tell whose key it is");
                let message = "who calls cannot be found out now: try again with the same request id";
                Err(Refusal::new(Code::Unavailable, "KEYS_AWAY", message).retry_after(500))
            }
        }
    }

    fn kept(&self, name: &[u8]) -> Option<Told> {
        self.told.lock().unwrap_or_else(PoisonError::into_inner).get(name).cloned()
    }

    /// Keeps what counts; what does not may count in a moment.
    fn keep(&self, name: Vec<u8>, found: &FindKeyResponse) {
        let mut told = self.told.lock().unwrap_or_else(PoisonError::into_inner);
        if !found.denied_reason.is_empty() {
            told.remove(&name);
            return;
        }
        if told.len() >= MOST {
            told.retain(|_, (at, _)| at.elapsed() < FRESH);
        }
        if told.len() < MOST {
            told.insert(name, (Instant::now(), found.clone()));
        }
    }
}

/// Why a key counts for nothing, as accounts have said it.
fn denied(found: &FindKeyResponse) -> Option<Refusal> {
    let code = match found.denied_reason.as_str() {
        "" => return None,
        "KEY_UNKNOWN" | "KEY_REVOKED" | "KEY_EXPIRED" => Code::Unauthenticated,
        _ => Code::Forbidden,
    };
    let mut denied = Refusal::new(code, "", found.denied_message.clone());
    denied.reason = found.denied_reason.clone().into();
    Some(denied)
}

fn unreadable() -> Refusal {
    Refusal::new(Code::Internal, "KEY_UNREADABLE", "accounts say of the key what this build cannot read")
}

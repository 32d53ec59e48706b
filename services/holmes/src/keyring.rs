//! What the edge of a process knows of keys: what the service `accounts` says, in this process or in another one.

use std::pin::Pin;

use holmes_accounts::{Accounts, Denied, State};
use holmes_kernel::{At, Code, Handle, Principal, Refusal};
use holmes_proto::edge::Scope;
use holmes_runtime::auth::{Keys, Signs};
use holmes_runtime::{Clock, MachineHandle};
use tokio::sync::watch;

mod asked;

pub(crate) use asked::Asked;

/// Keys as accounts tell them; `H` is the door of those of this process.
pub(crate) struct Keyring<H = MachineHandle<Accounts>> {
    tell: Tell<H>,
    clock: Clock,
}

/// Which accounts tell.
pub(crate) enum Tell<H = MachineHandle<Accounts>> {
    /// Those of this process, while it owns their log.
    Here(watch::Receiver<Option<H>>),
    /// Those of another one.
    Elsewhere(Box<Asked>),
    /// Nobody has said where they are.
    Nobody,
}

impl<H> From<Option<H>> for Tell<H> {
    fn from(accounts: Option<H>) -> Tell<H> {
        accounts.map_or(Tell::Nobody, |accounts| Tell::Here(watch::channel(Some(accounts)).1))
    }
}

impl<H: Handle<Accounts>> Keyring<H> {
    /// A keyring over accounts.
    pub(crate) fn new(tell: impl Into<Tell<H>>, clock: Clock) -> Keyring<H> {
        Keyring { tell: tell.into(), clock }
    }
}

/// Whoever asks here is not passed on: who it is would have to be known for that.
fn moved() -> Refusal {
    let message = "another process owns the log of accounts: ask that one";
    Refusal::new(Code::Unavailable, "KEYS_AWAY", message).retry_after(200)
}

fn nobody() -> Refusal {
    let message = "this process does not run the role accounts and is not told where it is (cluster.peers), so it knows no \
                   keys: call one that does";
    Refusal::new(Code::Unauthenticated, "KEYS_ELSEWHERE", message)
}

type Answer<T> = Pin<Box<dyn Future<Output = Result<T, Refusal>> + Send>>;

impl<H: Handle<Accounts>> Keys for Keyring<H> {
    fn api_key(&self, hash: [u8; 32]) -> Answer<(Principal, Scope)> {
        let now = self.clock.now();
        match &self.tell {
            Tell::Here(accounts) => {
                let accounts = accounts.borrow().clone();
                Box::pin(async move {
                    // Whatever is durable now: a revoked key stops when its revocation is acknowledged.
                    let look = move |state: &State| state.api_key(&hash, now);
                    let found = accounts.ok_or_else(moved)?.read(At::Seq(0), look).await?;
                    found.value.map_err(|denied| Refusal::of(&denied))
                })
            }
            Tell::Elsewhere(asked) => {
                let asked = asked.clone();
                Box::pin(async move { asked.api_key(hash, now).await })
            }
            Tell::Nobody => Box::pin(async { Err(nobody()) }),
        }
    }

    fn public_key(&self, principal: Principal) -> Answer<Signs> {
        match &self.tell {
            Tell::Here(accounts) => {
                let accounts = accounts.borrow().clone();
                Box::pin(async move {
                    let look = move |state: &State| {
                        let (key, counts) = state.public_key(&principal)?;
                        Ok((key, counts.map(|()| state.signature(&principal))))
                    };
                    let found = accounts.ok_or_else(moved)?.read(At::Seq(0), look).await?;
                    let (key, scope) = found.value.map_err(|denied: Denied| Refusal::of(&denied))?;
                    Ok((key, scope.map_err(|denied| Refusal::of(&denied))))
                })
            }
            Tell::Elsewhere(asked) => {
                let asked = asked.clone();
                Box::pin(async move { asked.public_key(principal).await })
            }
            Tell::Nobody => Box::pin(async { Err(nobody()) }),
        }
    }
}

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
    /// Those of this process, while it owns their log, and otherwise those of another one, where it is told where.
    Here(watch::Receiver<Option<H>>, Option<Box<Asked>>),
    /// Those of another one.
    Elsewhere(Box<Asked>),
    /// Nobody has said where they are.
    Nobody,
}

impl<H> From<Option<H>> for Tell<H> {
    fn from(accounts: Option<H>) -> Tell<H> {
        accounts.map_or(Tell::Nobody, |accounts| Tell::Here(watch::channel(Some(accounts)).1, None))
    }
}

impl<H: Handle<Accounts>> Keyring<H> {
    /// A keyring over accounts.
    pub(crate) fn new(tell: impl Into<Tell<H>>, clock: Clock) -> Keyring<H> {
        Keyring { tell: tell.into(), clock }
    }
}

fn nobody() -> Refusal {
    let message = "this process does not run the role accounts and is not told where it is (cluster.peers), so it knows no \
                   keys: call one that does";
    Refusal::new(Code::Unauthenticated, "KEYS_ELSEWHERE", message)
}

type Answer<T> = Pin<Box<dyn Future<Output = Result<T, Refusal>> + Send>>;

/// Who tells at the moment.
enum Now<H> {
    Here(H),
    Elsewhere(Box<Asked>),
}

impl<H: Handle<Accounts>> Keyring<H> {
    fn now(&self) -> Result<Now<H>, Refusal> {
        let asked = |asked: &Asked| Now::Elsewhere(Box::new(asked.clone()));
        match &self.tell {
            Tell::Here(accounts, elsewhere) => match (accounts.borrow().clone(), elsewhere) {
                (Some(accounts), _) => Ok(Now::Here(accounts)),
                (None, Some(elsewhere)) => Ok(asked(elsewhere)),
                (None, None) => Err(nobody()),
            },
            Tell::Elsewhere(elsewhere) => Ok(asked(elsewhere)),
            Tell::Nobody => Err(nobody()),
        }
    }
}

impl<H: Handle<Accounts>> Keys for Keyring<H> {
    fn knows(&self) -> bool {
        matches!(self.now(), Ok(Now::Here(_)) | Err(_))
    }

    fn api_key(&self, hash: [u8; 32]) -> Answer<(Principal, Scope)> {
        let (who, now) = (self.now(), self.clock.now());
        Box::pin(async move {
            let accounts = match who? {
                Now::Here(accounts) => accounts,
                Now::Elsewhere(asked) => return asked.api_key(hash, now).await,
            };
            // Whatever is durable now: a revoked key stops when its revocation is acknowledged.
            let found = accounts.read(At::Seq(0), move |state| state.api_key(&hash, now)).await?;
            found.value.map_err(|denied| Refusal::of(&denied))
        })
    }

    fn public_key(&self, principal: Principal) -> Answer<Signs> {
        let who = self.now();
        Box::pin(async move {
            let accounts = match who? {
                Now::Here(accounts) => accounts,
                Now::Elsewhere(asked) => return asked.public_key(principal).await,
            };
            let look = move |state: &State| {
                let (key, counts) = state.public_key(&principal)?;
                Ok((key, counts.map(|()| state.signature(&principal))))
            };
            let found = accounts.read(At::Seq(0), look).await?;
            let (key, scope) = found.value.map_err(|denied: Denied| Refusal::of(&denied))?;
            Ok((key, scope.map_err(|denied| Refusal::of(&denied))))
        })
    }
}

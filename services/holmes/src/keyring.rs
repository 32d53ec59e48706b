//! What the edge of a process knows of keys: what the service `accounts` says.

use std::pin::Pin;

use holmes_accounts::{Accounts, Denied, State};
use holmes_kernel::{At, Code, Handle, Principal, Refusal};
use holmes_proto::edge::Scope;
use holmes_runtime::auth::{Keys, Signs};
use holmes_runtime::{Clock, MachineHandle};

/// Keys by the accounts of this process, where it runs them; `H` is their door.
pub(crate) struct Keyring<H = MachineHandle<Accounts>> {
    accounts: Option<H>,
    clock: Clock,
}

impl<H: Handle<Accounts>> Keyring<H> {
    /// A keyring over a process's accounts.
    pub(crate) fn new(accounts: Option<H>, clock: Clock) -> Keyring<H> {
        Keyring { accounts, clock }
    }

    fn accounts(&self) -> Result<H, Refusal> {
        self.accounts.clone().ok_or_else(|| {
            let message =
                "this process does not run the role accounts, so it knows no keys: call one that does";
            Refusal::new(Code::Unauthenticated, "KEYS_ELSEWHERE", message)
        })
    }
}

type Answer<T> = Pin<Box<dyn Future<Output = Result<T, Refusal>> + Send>>;

impl<H: Handle<Accounts>> Keys for Keyring<H> {
    fn api_key(&self, hash: [u8; 32]) -> Answer<(Principal, Scope)> {
        let (accounts, now) = (self.accounts(), self.clock.now());
        Box::pin(async move {
            // Whatever is durable now: a revoked key stops when its revocation is acknowledged.
            let found = accounts?.read(At::Seq(0), move |state| state.api_key(&hash, now)).await?;
            found.value.map_err(|denied| Refusal::of(&denied))
        })
    }

    fn public_key(&self, principal: Principal) -> Answer<Signs> {
        let accounts = self.accounts();
        Box::pin(async move {
            let look = move |state: &State| {
                let (key, counts) = state.public_key(&principal)?;
                Ok((key, counts.map(|()| state.signature(&principal))))
            };
            let found = accounts?.read(At::Seq(0), look).await?;
            let (key, scope) = found.value.map_err(|denied: Denied| Refusal::of(&denied))?;
            Ok((key, scope.map_err(|denied| Refusal::of(&denied))))
        })
    }
}

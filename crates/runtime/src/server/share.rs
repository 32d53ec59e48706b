//! How many places one account may hold of those that all known callers share: an eighth, so that one alone shuts nobody
//! out. Nodes, gateways, services and staff are the network's own.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use holmes_kernel::{Id, Principal, PrincipalKind};

/// The part of all places that one account may hold.
const PART: usize = 8;

/// Places that accounts hold.
#[derive(Debug)]
pub(super) struct Shares {
    held: Mutex<HashMap<Id, usize>>,
    most: usize,
}

/// A place in its account's share; given back when it is dropped.
#[derive(Debug)]
pub(super) struct Share {
    of: Arc<Shares>,
    account: Id,
}

impl Shares {
    /// Shares of so many places.
    pub(super) fn new(places: usize) -> Arc<Shares> {
        Arc::new(Shares { held: Mutex::default(), most: places.div_ceil(PART) })
    }

    /// A place for a caller: `Ok(None)` for one who has no share.
    ///
    /// # Errors
    /// With the size of the share when it is used up.
    pub(super) fn take(self: &Arc<Shares>, who: &Principal) -> Result<Option<Share>, usize> {
        if who.kind != PrincipalKind::Account {
            return Ok(None);
        }
        let mut held = self.lock();
        let count = held.entry(who.id).or_default();
        if *count >= self.most {
            return Err(self.most);
        }
        *count += 1;
        Ok(Some(Share { of: self.clone(), account: who.id }))
    }

    fn lock(&self) -> MutexGuard<'_, HashMap<Id, usize>> {
        self.held.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for Share {
    fn drop(&mut self) {
        let mut held = self.of.lock();
        if let Some(count) = held.get_mut(&self.account) {
            *count -= 1;
            if *count == 0 {
                held.remove(&self.account); // whoever has come and gone leaves nothing behind
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_account_holds_an_eighth_at_most_and_gives_back_what_it_held() {
        let shares = Shares::new(16);
        let account = |n| Principal::new(PrincipalKind::Account, Id::from_bytes([n; 16]));
        let held: Vec<_> = (0..2).map(|_| shares.take(&account(1)).unwrap().unwrap()).collect();
        assert_eq!(shares.take(&account(1)).unwrap_err(), 2);
        assert!(shares.take(&account(2)).unwrap().is_some(), "another one has its own");
        let staff = Principal::new(PrincipalKind::Staff, Id::from_bytes([1; 16]));
        assert!(shares.take(&staff).unwrap().is_none(), "who runs the network has no share");
        drop(held);
        assert!(shares.take(&account(1)).is_ok());
        assert!(shares.lock().is_empty(), "nothing is kept of who has gone");
    }
}

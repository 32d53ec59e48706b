//! How many places accounts and nodes may hold of those that all known callers share: one an eighth, so that it alone
//! shuts nobody out, and all of them together three quarters, since anyone makes their keys for nothing. Gateways,
//! services and staff are the network's own; so is a node that has attached, which a bond stands for.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use holmes_kernel::{Principal, PrincipalKind};

/// The part of all places that one account may hold.
const PART: usize = 8;

/// Places that accounts hold.
#[derive(Debug)]
pub(super) struct Shares {
    held: Mutex<Held>,
    places: usize,
}

#[derive(Debug, Default)]
struct Held {
    of: HashMap<Principal, usize>,
    together: usize,
}

/// A place in its account's share; given back when it is dropped.
#[derive(Debug)]
pub(super) struct Share {
    of: Arc<Shares>,
    who: Principal,
}

/// Why an account gets no place.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Full {
    /// It holds so many, as many as one may.
    Own(usize),
    /// Accounts hold so many together, as many as they may.
    Together(usize),
}

impl Shares {
    /// Shares of so many places.
    pub(super) fn new(places: usize) -> Arc<Shares> {
        Arc::new(Shares { held: Mutex::default(), places })
    }

    /// A place for a caller: `Ok(None)` for one who has no share.
    pub(super) fn take(self: &Arc<Shares>, who: &Principal) -> Result<Option<Share>, Full> {
        if !matches!(who.kind, PrincipalKind::Account | PrincipalKind::Node) {
            return Ok(None);
        }
        let (most, most_together) = (self.places.div_ceil(PART), who.room(self.places as u64) as usize);
        let mut held = self.lock();
        let own = held.of.get(who).copied().unwrap_or_default();
        if own >= most {
            return Err(Full::Own(most));
        }
        if held.together >= most_together {
            return Err(Full::Together(most_together));
        }
        held.of.insert(*who, own + 1);
        held.together += 1;
        Ok(Some(Share { of: self.clone(), who: *who }))
    }

    fn lock(&self) -> MutexGuard<'_, Held> {
        self.held.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for Share {
    fn drop(&mut self) {
        let mut held = self.of.lock();
        held.together -= 1;
        if let Some(count) = held.of.get_mut(&self.who) {
            *count -= 1;
            if *count == 0 {
                held.of.remove(&self.who); // whoever has come and gone leaves nothing behind
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use holmes_kernel::Id;

    use super::*;

    #[test]
    fn an_account_holds_an_eighth_at_most_and_gives_back_what_it_held() {
        let shares = Shares::new(16);
        let account = |n| Principal::new(PrincipalKind::Account, Id::from_bytes([n; 16]));
        let held: Vec<_> = (0..2).map(|_| shares.take(&account(1)).unwrap().unwrap()).collect();
        assert_eq!(shares.take(&account(1)).unwrap_err(), Full::Own(2));
        assert!(shares.take(&account(2)).unwrap().is_some(), "another one has its own");
        let staff = Principal::new(PrincipalKind::Staff, Id::from_bytes([1; 16]));
        assert!(shares.take(&staff).unwrap().is_none(), "who runs the network has no share");
        drop(held);
        assert!(shares.take(&account(1)).is_ok());
        let held = shares.lock();
        assert!(held.of.is_empty() && held.together == 0, "nothing is kept of who has gone");
    }

    #[test]
    fn accounts_together_leave_a_quarter_to_those_who_run_the_network() {
        let shares = Shares::new(16);
        let kind = |n| if n % 2 == 0 { PrincipalKind::Account } else { PrincipalKind::Node };
        let take = |n| shares.take(&Principal::new(kind(n), Id::from_bytes([n; 16])));
        let mut held: Vec<_> = (0..12).map(|n| take(n).unwrap().unwrap()).collect();
        assert_eq!(take(12).unwrap_err(), Full::Together(12));
        held.pop();
        assert!(take(12).is_ok());
    }
}

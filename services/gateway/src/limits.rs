//! Who may run how many calls, and which calls there were: overload is refused at once, and no call runs twice.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::sync::{Arc, Mutex};

use holmes_kernel::{Code, Id, Principal, Refusal};

use crate::guarded;
use crate::settings::Settings;

/// The calls in progress and those of a while ago.
#[derive(Debug)]
pub(crate) struct Limits {
    most: usize,
    most_per_renter: usize,
    most_remembered: usize,
    state: Mutex<Running>,
}

#[derive(Debug, Default)]
struct Running {
    all: usize,
    renters: BTreeMap<Principal, usize>,
    known: BTreeSet<Id>,
    /// Calls that have ended, the oldest first: what is forgotten when there are too many, and by a restart, the log
    /// still knows.
    ended: VecDeque<Id>,
}

/// A call that was let in. Dropped, its place is free; its id stays known once [`Admitted::ran`] was called.
#[derive(Debug)]
pub(crate) struct Admitted {
    limits: Arc<Limits>,
    renter: Principal,
    call: Id,
    ran: bool,
}

impl Limits {
    pub(crate) fn new(settings: &Settings) -> Arc<Limits> {
        Arc::new(Limits {
            most: settings.most_calls,
            most_per_renter: settings.most_calls_per_renter,
            most_remembered: settings.most_remembered,
            state: Mutex::default(),
        })
    }

    /// Lets a call in.
    pub(crate) fn admit(self: &Arc<Self>, renter: Principal, call: Id) -> Result<Admitted, Refusal> {
        let mut state = guarded(&self.state);
        if state.known.contains(&call) {
            return Err(crate::calls::call_exists(""));
        }
        let own = state.renters.get(&renter).copied().unwrap_or(0);
        if own >= self.most_per_renter || state.all >= self.most {
            let whose = if own >= self.most_per_renter { "you have" } else { "the gateway has" };
            let message =
                format!("{whose} as many calls in progress as are taken: try again when one has ended");
            return Err(Refusal::new(Code::Exhausted, "TOO_MANY_CALLS", message).retry_after(1_000));
        }
        state.all += 1;
        *state.renters.entry(renter).or_default() += 1;
        state.known.insert(call);
        Ok(Admitted { limits: self.clone(), renter, call, ran: false })
    }

    /// Calls in progress.
    pub(crate) fn running(&self) -> usize {
        guarded(&self.state).all
    }
}

impl Admitted {
    /// A node has been given the call: from now on its id is used up.
    pub(crate) fn ran(&mut self) {
        self.ran = true;
    }
}

impl Drop for Admitted {
    fn drop(&mut self) {
        let mut state = guarded(&self.limits.state);
        state.all -= 1;
        if let Some(own) = state.renters.get_mut(&self.renter) {
            *own -= 1;
            if *own == 0 {
                state.renters.remove(&self.renter);
            }
        }
        if !self.ran {
            state.known.remove(&self.call);
            return;
        }
        state.ended.push_back(self.call);
        if state.ended.len() > self.limits.most_remembered
            && let Some(oldest) = state.ended.pop_front()
        {
            state.known.remove(&oldest);
        }
    }
}

#[cfg(test)]
mod tests {
    use holmes_kernel::PrincipalKind;

    use super::*;

    fn renter(number: u8) -> Principal {
        Principal::new(PrincipalKind::Account, Id::from_bytes([number; 16]))
    }

    fn call(number: u8) -> Id {
        Id::from_bytes([number; 16])
    }

    fn limits(most_calls: usize, most_calls_per_renter: usize, most_remembered: usize) -> Arc<Limits> {
        Limits::new(&Settings { most_calls, most_calls_per_renter, most_remembered, ..Settings::default() })
    }

    #[test]
    fn a_renter_has_so_many_calls_and_all_together_have_so_many() {
        let limits = limits(3, 2, 9);
        let first = limits.admit(renter(1), call(1)).unwrap();
        let _second = limits.admit(renter(1), call(2)).unwrap();
        assert_eq!(limits.admit(renter(1), call(3)).unwrap_err().reason, "TOO_MANY_CALLS");
        let _third = limits.admit(renter(2), call(3)).unwrap();
        assert_eq!(limits.admit(renter(2), call(4)).unwrap_err().reason, "TOO_MANY_CALLS");
        drop(first);
        assert_eq!(limits.running(), 2);
        assert!(limits.admit(renter(1), call(4)).is_ok());
    }

    #[test]
    fn an_id_is_used_up_by_a_call_that_ran_and_by_no_other() {
        let limits = limits(9, 9, 9);
        drop(limits.admit(renter(1), call(1)).unwrap());
        let mut admitted = limits.admit(renter(1), call(1)).unwrap();
        assert_eq!(limits.admit(renter(2), call(1)).unwrap_err().reason, "CALL_EXISTS");
        admitted.ran();
        drop(admitted);
        assert_eq!(limits.admit(renter(1), call(1)).unwrap_err().reason, "CALL_EXISTS");
    }

    #[test]
    fn what_is_remembered_is_bounded_and_the_oldest_goes_first() {
        let limits = limits(9, 9, 2);
        for number in 1..=3 {
            limits.admit(renter(1), call(number)).unwrap().ran();
        }
        assert!(limits.admit(renter(1), call(1)).is_ok());
        assert!(limits.admit(renter(1), call(3)).is_err());
    }
}

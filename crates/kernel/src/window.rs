//! What was asked lately, so that no id ever runs twice although memory is bounded: an id is remembered until its own
//! moment is older than the window, and older ids are refused. Full means refuse, never forget early.

use std::collections::VecDeque;

use serde::{Deserialize, Serialize};

use crate::weak::{Guard, is_off};
use crate::{Id, Place, Principal, Table, Time};

/// How old an id may be when it arrives.
pub const WINDOW_AGE_MS: u64 = 60 * 60 * 1_000;
/// How far ahead of log time an id may be: clients' clocks differ.
pub const WINDOW_AHEAD_MS: u64 = 5 * 60 * 1_000;

/// Entries leave in whole buckets of this length, so that forgetting costs nothing on the way of a request.
const BUCKET_MS: u64 = 10_000;

/// How much a window holds.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct WindowLimits {
    /// Entries in all, of which accounts and nodes fill three quarters ([`Principal::room`]).
    pub entries: u64,
    /// Entries of one principal.
    pub per_principal: u64,
}

impl WindowLimits {
    /// 20 million entries, a tenth of them for one principal (E-2.3).
    pub const DEFAULT: WindowLimits = WindowLimits { entries: 20_000_000, per_principal: 2_000_000 };
}

/// Why an id is not taken.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum NotTaken {
    /// Not a UUIDv7.
    NotAnId,
    /// Older than the window, or too far ahead.
    Expired,
    /// No room, in all or for this principal.
    Full,
}

/// Ids of the last hour and what is remembered of each. With `PER_PRINCIPAL` an id belongs to the one who sent it;
/// otherwise it is one for all.
#[derive(Debug, Serialize, Deserialize)]
pub struct Window<V, const PER_PRINCIPAL: bool> {
    limits: WindowLimits,
    len: u64,
    /// Who has how many entries. An entry names its owner by place.
    owners: Table<Principal, u64>,
    /// One bucket for each [`BUCKET_MS`], without gaps, the oldest first.
    buckets: VecDeque<Table<Key, Kept<V>>>,
    /// Number of the first bucket: its moment in ms / [`BUCKET_MS`].
    first: u64,
}

/// Owner's place (0 where ids are one for all) and id.
type Key = (Place, Id);

#[derive(Debug, Serialize, Deserialize)]
struct Kept<V> {
    owner: Place,
    value: V,
}

impl<V, const PER_PRINCIPAL: bool> Window<V, PER_PRINCIPAL> {
    /// An empty window.
    pub fn new(limits: WindowLimits) -> Self {
        Window { limits, len: 0, owners: Table::new(), buckets: VecDeque::new(), first: 0 }
    }

    /// How many ids are remembered.
    pub fn len(&self) -> u64 {
        self.len
    }

    /// Whether no id is remembered.
    pub fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// What is remembered of an id.
    pub fn get(&self, principal: &Principal, id: Id) -> Option<&V> {
        let bucket = id.moment()?.millis() / BUCKET_MS;
        let at = usize::try_from(bucket.checked_sub(self.first)?).ok()?;
        let owner = if PER_PRINCIPAL { self.owners.place(principal)? } else { 0 };
        self.buckets.get(at)?.get(&(owner, id)).map(|kept| &kept.value)
    }

    /// Whether a new id may be taken at a moment: its age, and room. It does not look whether the id is there.
    pub fn admits(&self, principal: &Principal, id: Id, now: Time) -> Result<(), NotTaken> {
        let moment = id.moment().ok_or(NotTaken::NotAnId)?;
        let too_old = moment.after_millis(WINDOW_AGE_MS) < now && !is_off(Guard::Age);
        if too_old || moment > now.after_millis(WINDOW_AHEAD_MS) {
            return Err(NotTaken::Expired);
        }
        let gone = self.outdated(now);
        let leaving = |owner: Place| -> u64 {
            let of_owner =
                |b: &Table<Key, Kept<V>>| b.values().filter(|kept| kept.owner == owner).count() as u64;
            self.buckets.iter().take(gone).map(of_owner).sum()
        };
        let dropped: u64 = self.buckets.iter().take(gone).map(|bucket| bucket.len() as u64).sum();
        if self.len - dropped >= principal.room(self.limits.entries) {
            return Err(NotTaken::Full);
        }
        let Some(place) = self.owners.place(principal) else { return Ok(()) };
        let mine = self.owners.at(place).map_or(0, |(_, count)| *count);
        // What is about to leave is counted only when it decides.
        if mine >= self.limits.per_principal && mine - leaving(place) >= self.limits.per_principal {
            return Err(NotTaken::Full);
        }
        Ok(())
    }

    /// Remembers an id. One that is no UUIDv7, or so far from the others that it cannot have been admitted, is not kept.
    pub fn insert(&mut self, principal: Principal, id: Id, value: V) {
        let Some(moment) = id.moment() else { return };
        let bucket = moment.millis() / BUCKET_MS;
        if self.buckets.is_empty() {
            self.first = bucket;
        }
        let end = (self.first + self.buckets.len() as u64).max(bucket + 1);
        if end - self.first.min(bucket) > MOST_BUCKETS {
            return;
        }
        while self.first > bucket {
            self.buckets.push_front(Table::new());
            self.first -= 1;
        }
        let at = bucket - self.first;
        while self.buckets.len() as u64 <= at {
            self.buckets.push_back(Table::new());
        }
        self.owners.get_or_insert_with(principal, || 0);
        let Some(owner) = self.owners.place(&principal) else { return };
        let key = (if PER_PRINCIPAL { owner } else { 0 }, id);
        let before = self.buckets[at as usize].insert(key, Kept { owner, value });
        match before {
            None => {
                self.count(owner, 1);
                self.len += 1;
            }
            Some(kept) if kept.owner != owner => {
                self.count(owner, 1);
                self.forget(kept.owner);
            }
            Some(_) => {}
        }
    }

    /// Forgets the ids that are refused for their age from this moment on.
    pub fn advance(&mut self, now: Time) {
        for _ in 0..self.outdated(now) {
            let Some(bucket) = self.buckets.pop_front() else { return };
            self.first += 1;
            self.len -= bucket.len() as u64;
            for kept in bucket.values() {
                self.forget(kept.owner);
            }
        }
    }

    /// How many buckets hold only ids older than the window.
    fn outdated(&self, now: Time) -> usize {
        let oldest = now.millis().saturating_sub(WINDOW_AGE_MS) / BUCKET_MS;
        let gone = usize::try_from(oldest.saturating_sub(self.first)).unwrap_or(usize::MAX);
        gone.min(self.buckets.len())
    }

    fn count(&mut self, owner: Place, more: u64) {
        if let Some(count) = self.owners.at_mut(owner) {
            *count += more;
        }
    }

    fn forget(&mut self, owner: Place) {
        let Some(count) = self.owners.at_mut(owner) else { return };
        *count = count.saturating_sub(1);
        if *count == 0
            && let Some(principal) = self.owners.at(owner).map(|(principal, _)| *principal)
        {
            self.owners.remove(&principal);
        }
    }
}

/// A bound on the span of buckets: twice what ages allow, so that a damaged id cannot make a window grow.
const MOST_BUCKETS: u64 = 2 * (WINDOW_AGE_MS + WINDOW_AHEAD_MS) / BUCKET_MS;

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use proptest::prelude::*;

    use super::*;
    use crate::canon;
    use crate::id::{PrincipalKind, ServiceId};

    const START_MS: u64 = 1_700_000_000_000;

    fn who(n: u8) -> Principal {
        Principal::new(PrincipalKind::Account, Id::from_bytes([n; 16]))
    }

    fn id(ms: u64, n: u8) -> Id {
        Id::v7(ms, [n; 10])
    }

    fn window(entries: u64, per_principal: u64) -> Window<u32, true> {
        Window::new(WindowLimits { entries, per_principal })
    }

    #[test]
    fn an_id_is_remembered_for_an_hour_and_refused_afterwards() {
        let mut window = window(10, 10);
        let (asked, now) = (id(START_MS, 1), Time::from_millis(START_MS));
        assert_eq!(window.admits(&who(1), asked, now), Ok(()));
        window.insert(who(1), asked, 7);
        let last = now.after_millis(WINDOW_AGE_MS);
        window.advance(last);
        assert_eq!(window.get(&who(1), asked), Some(&7));
        assert_eq!(window.admits(&who(1), asked, last.next()), Err(NotTaken::Expired));
        window.advance(last.after_millis(BUCKET_MS));
        assert_eq!(window.get(&who(1), asked), None);
        assert!(window.is_empty() && window.owners.is_empty());
    }

    #[test]
    fn an_id_from_the_future_or_of_another_kind_is_refused() {
        let now = Time::from_millis(START_MS);
        let ahead = id(START_MS + WINDOW_AHEAD_MS, 1);
        assert_eq!(window(1, 1).admits(&who(1), ahead, now), Ok(()));
        assert_eq!(
            window(1, 1).admits(&who(1), id(START_MS + WINDOW_AHEAD_MS + 1, 1), now),
            Err(NotTaken::Expired)
        );
        assert_eq!(window(1, 1).admits(&who(1), Id::from_bytes([0x11; 16]), now), Err(NotTaken::NotAnId));
    }

    #[test]
    fn a_full_window_refuses_until_something_is_old_enough_and_never_forgets_early() {
        let mut window = window(3, 2);
        let now = Time::from_millis(START_MS);
        for n in 0..2 {
            window.insert(who(1), id(START_MS, n), 0);
        }
        assert_eq!(
            window.admits(&who(1), id(START_MS, 9), now),
            Err(NotTaken::Full),
            "the principal's quota"
        );
        window.insert(who(2), id(START_MS, 0), 0);
        assert_eq!(window.admits(&who(3), id(START_MS, 9), now), Err(NotTaken::Full), "the whole window");
        let later = START_MS + WINDOW_AGE_MS + 2 * BUCKET_MS;
        assert_eq!(
            window.admits(&who(1), id(later, 9), Time::from_millis(later)),
            Ok(()),
            "old entries do not count"
        );
    }

    #[test]
    fn accounts_that_fill_the_window_leave_room_to_the_platform() {
        let (mut window, now) = (window(8, 8), Time::from_millis(START_MS));
        for n in 0..6 {
            assert_eq!(window.admits(&who(n), id(START_MS, n), now), Ok(()));
            window.insert(who(n), id(START_MS, n), 0);
        }
        assert_eq!(window.admits(&who(9), id(START_MS, 9), now), Err(NotTaken::Full));
        let market = Principal::service(ServiceId(7));
        for n in 6..8 {
            assert_eq!(window.admits(&market, id(START_MS, n), now), Ok(()));
            window.insert(market, id(START_MS, n), 0);
        }
        assert_eq!(window.admits(&market, id(START_MS, 9), now), Err(NotTaken::Full));
    }

    #[test]
    fn two_principals_may_use_one_id_only_where_ids_belong_to_principals() {
        let mut per = window(9, 9);
        per.insert(who(1), id(START_MS, 1), 1);
        per.insert(who(2), id(START_MS, 2), 2); // both are known
        assert_eq!(per.get(&who(2), id(START_MS, 1)), None);
        assert_eq!(per.get(&who(1), id(START_MS, 2)), None);
        let mut shared: Window<u32, false> = Window::new(WindowLimits::DEFAULT);
        shared.insert(who(1), id(START_MS, 1), 1);
        assert_eq!(shared.get(&who(2), id(START_MS, 1)), Some(&1));
    }

    #[test]
    fn damaged_ids_do_not_make_a_window_grow() {
        let mut window = window(1_000_000, 1_000_000);
        window.insert(who(1), id(START_MS, 1), 7);
        for n in 0..50 {
            window.insert(who(1), id(START_MS - n * WINDOW_AGE_MS, 2), 8);
            window.insert(who(1), id(START_MS + n * WINDOW_AGE_MS, 3), 9);
        }
        window.insert(who(1), id(0, 4), 8);
        window.insert(who(1), id((1 << 48) - 1, 4), 8);
        assert!(window.buckets.len() as u64 <= MOST_BUCKETS, "{} buckets", window.buckets.len());
        assert_eq!(window.get(&who(1), id(START_MS, 1)), Some(&7));
    }

    proptest! {
        #[test]
        fn it_remembers_exactly_the_ids_that_are_young_enough(
            asked in proptest::collection::vec((0u8..4, 0u64..WINDOW_AGE_MS, 0u8..20), 0..60),
            waits in proptest::collection::vec(0u64..WINDOW_AGE_MS / 4, 60),
        ) {
            let (mut window, mut model) = (window(1_000, 1_000), BTreeMap::new());
            let mut now = START_MS + WINDOW_AGE_MS;
            for ((p, back, n), wait) in asked.into_iter().zip(waits) {
                now += wait;
                window.advance(Time::from_millis(now));
                let asked = id(now - back, n);
                if window.admits(&who(p), asked, Time::from_millis(now)).is_ok() {
                    window.insert(who(p), asked, n.into());
                    model.insert((p, asked), u32::from(n));
                }
            }
            let oldest = now - WINDOW_AGE_MS;
            for ((p, asked), value) in &model {
                if asked.moment().unwrap().millis() >= oldest {
                    prop_assert_eq!(window.get(&who(*p), *asked), Some(value));
                }
            }
            let held = window.buckets.iter().map(|b| b.len() as u64).sum::<u64>();
            prop_assert_eq!(held, window.len());
            prop_assert_eq!(window.owners.values().sum::<u64>(), window.len());
            let copy: Window<u32, true> = canon::decode(&canon::encode(&window)).unwrap();
            prop_assert_eq!(canon::digest(&copy), canon::digest(&window));
        }
    }
}

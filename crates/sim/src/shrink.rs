//! Cuts a day that goes wrong down to what it needs for that.

use crate::deed::Deed;

/// What is left of a day that goes wrong, and what is said of it then. Only a day that goes wrong for the same kind of reason
/// takes its place: another would be another bug's, and this one's would be lost. `fails` says the first reason.
pub fn same(deeds: Vec<Deed>, most: usize, mut fails: impl FnMut(&[Deed]) -> Option<String>) -> Shrunk {
    let Some(reason) = fails(&deeds) else { return Shrunk { deeds, reason: String::new() } };
    let (kind, mut last) = (kind(&reason), reason);
    let deeds = shrink(deeds, most, |deeds| {
        let same = fails(deeds).filter(|reason| self::kind(reason) == kind);
        let is_same = same.is_some();
        last = same.unwrap_or_else(|| std::mem::take(&mut last));
        is_same
    });
    Shrunk { deeds, reason: last }
}

/// What is left of a day.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Shrunk {
    /// Its deeds.
    pub deeds: Vec<Deed>,
    /// The first reason for which it goes wrong; empty when it does not.
    pub reason: String,
}

/// A reason without what differs from day to day: ids, numbers, bytes. The names of rules (E-1.1) stay.
pub fn kind(reason: &str) -> String {
    let words = reason.split(|c: char| !(c.is_alphanumeric() || matches!(c, '-' | '.' | '_')));
    let words = words.map(|word| word.trim_matches(|c: char| !c.is_alphanumeric()));
    let says = |word: &&str| word.starts_with("E-") || !word.contains(|c: char| c.is_ascii_digit());
    words.filter(|word| !word.is_empty()).filter(says).collect::<Vec<_>>().join(" ")
}

/// The fewest deeds that still fail: parts are left out, halves first, then ever smaller ones, as long as that goes on
/// failing. `fails` is asked at most `most` times.
fn shrink(mut deeds: Vec<Deed>, most: usize, mut fails: impl FnMut(&[Deed]) -> bool) -> Vec<Deed> {
    let mut asked = 0;
    let mut part = deeds.len().div_ceil(2);
    while part > 0 && asked < most {
        let mut at = 0;
        let mut cut = false;
        while at < deeds.len() && asked < most {
            let end = (at + part).min(deeds.len());
            let without: Vec<Deed> = [&deeds[..at], &deeds[end..]].concat();
            asked += 1;
            if fails(&without) {
                (deeds, cut) = (without, true);
            } else {
                at = end;
            }
        }
        // What could not be left out before may be now: once more at the same size, then at a smaller one.
        if !cut || part > 1 {
            part /= 2;
        }
    }
    deeds
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_a_failure_does_not_need_is_left_out() {
        let deeds: Vec<Deed> = (0..100).map(|ms| Deed::Wait { ms }).collect();
        let needs = |deeds: &[Deed]| [7, 70].iter().all(|needed| deeds.contains(&Deed::Wait { ms: *needed }));
        assert_eq!(shrink(deeds, 1_000, needs), [Deed::Wait { ms: 7 }, Deed::Wait { ms: 70 }]);
    }

    #[test]
    fn what_fails_for_another_reason_is_not_what_is_left() {
        let deeds: Vec<Deed> = (0..100).map(|ms| Deed::Wait { ms }).collect();
        let has = |deeds: &[Deed], ms| deeds.contains(&Deed::Wait { ms });
        // Without 7 another bug shows, which needs less.
        let fails = |deeds: &[Deed]| match (has(deeds, 7), has(deeds, 70)) {
            (true, true) => Some(format!("hold 0190-{} ended, and was not open", deeds.len())),
            (false, _) => Some("the services of a rig never stop talking".to_owned()),
            _ => None,
        };
        let shrunk = same(deeds, 1_000, fails);
        assert_eq!(shrunk.deeds, [Deed::Wait { ms: 7 }, Deed::Wait { ms: 70 }]);
        assert_eq!(shrunk.reason, "hold 0190-2 ended, and was not open");
    }

    #[test]
    fn reasons_are_of_one_kind_when_only_their_numbers_differ() {
        let of = |id: &str, has: u64| format!("ledger: account {id} has {has}, its events come to -3");
        assert_eq!(kind(&of("0190a2b4-aaaa-7bcd-8aaa-ffffeeee0001", 7)), kind(&of("ffff0000-1", 120)));
        assert_eq!(kind("at rest: supply: 3 more"), kind("at rest: supply: 11 more"));
        assert_ne!(kind("at rest: supply: 3 more"), kind("at rest: bonds: 3 more"));
        assert_ne!(
            kind("E-1.1: HOL is not conserved: 5 debits"),
            kind("E-2.2: HOL is not conserved: 5 debits")
        );
        assert_eq!(
            kind("[Key { id: [1, 2] }] ran twice, at 7"),
            kind("[Key { id: [1, 2, 3] }] ran twice, at 1")
        );
    }

    #[test]
    fn it_ends_when_it_has_asked_often_enough() {
        let deeds: Vec<Deed> = (0..100).map(|ms| Deed::Wait { ms }).collect();
        assert_eq!(shrink(deeds, 1, |_| true).len(), 50);
    }
}

//! Cuts a day that goes wrong down to what it needs for that.

use crate::deed::Deed;

/// The fewest deeds that still fail: parts are left out, halves first, then ever smaller ones, as long as that goes on
/// failing. `fails` is asked at most `most` times.
pub fn shrink(mut deeds: Vec<Deed>, most: usize, mut fails: impl FnMut(&[Deed]) -> bool) -> Vec<Deed> {
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
    fn it_ends_when_it_has_asked_often_enough() {
        let deeds: Vec<Deed> = (0..100).map(|ms| Deed::Wait { ms }).collect();
        assert_eq!(shrink(deeds, 1, |_| true).len(), 50);
    }
}

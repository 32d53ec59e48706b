//! Ids for what is asked: UUIDv7 as callers make them, without asking the operating system for each one, so that the
//! maker costs the measured process little.

use std::time::{SystemTime, UNIX_EPOCH};

use holmes_kernel::{Id, Time};

/// Makes ids that no other maker of this run makes.
#[derive(Clone, Debug)]
pub(crate) struct Ids {
    maker: u16,
    count: u64,
}

impl Ids {
    /// Makers differ by their number.
    pub(crate) fn new(maker: usize) -> Ids {
        Ids { maker: u16::try_from(maker).unwrap_or(u16::MAX), count: 0 }
    }

    /// So many ids of this moment.
    pub(crate) fn take(&mut self, count: usize) -> Vec<Id> {
        let ms = now_ms();
        (0..count).map(|_| self.next(ms)).collect()
    }

    /// A few ids of another moment.
    pub(crate) fn at<const N: usize>(&mut self, moment: Time) -> [Id; N] {
        std::array::from_fn(|_| self.next(moment.millis()))
    }

    fn next(&mut self, ms: u64) -> Id {
        self.count += 1;
        let mut random = [0; 10];
        // The version and the variant take bits of the first and the third byte.
        random[3..5].copy_from_slice(&self.maker.to_be_bytes());
        random[5..].copy_from_slice(&self.count.to_be_bytes()[3..]);
        Id::v7(ms, random)
    }
}

fn now_ms() -> u64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    u64::try_from(since.as_millis()).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    #[test]
    fn ids_of_all_makers_differ_and_are_of_this_moment() {
        let mut makers = [Ids::new(0), Ids::new(1), Ids::new(511)];
        let all: Vec<Id> =
            makers.iter_mut().flat_map(|maker| maker.take(300).into_iter().chain(maker.take(300))).collect();
        assert!(all.iter().all(|id| id.moment().is_some()));
        assert_eq!(all.iter().collect::<BTreeSet<_>>().len(), all.len());
    }
}

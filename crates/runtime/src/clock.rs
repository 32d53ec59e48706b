//! Where the time comes from: the machine's clock, or a hand in tests and scenarios.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use holmes_kernel::Time;

/// A source of the present moment.
#[derive(Clone, Debug, Default)]
pub enum Clock {
    /// The operating system's.
    #[default]
    System,
    /// Set by hand.
    Manual(Arc<AtomicU64>),
}

impl Clock {
    /// A clock that stands until it is moved.
    pub fn manual(start: Time) -> Clock {
        Clock::Manual(Arc::new(AtomicU64::new(start.micros())))
    }

    /// The present moment. Before 1970 counts as 1970: log time never goes back, so nothing depends on it.
    pub fn now(&self) -> Time {
        match self {
            Clock::System => {
                let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or(Duration::ZERO);
                Time::from_micros(u64::try_from(since.as_micros()).unwrap_or(u64::MAX))
            }
            Clock::Manual(at) => Time::from_micros(at.load(Ordering::Acquire)),
        }
    }

    /// Moves a manual clock; the system's goes by itself.
    pub fn advance(&self, by: Duration) {
        if let Clock::Manual(at) = self {
            at.fetch_add(u64::try_from(by.as_micros()).unwrap_or(u64::MAX), Ordering::AcqRel);
        }
    }
}

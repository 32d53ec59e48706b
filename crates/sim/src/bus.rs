//! The lines between services: what one has written reaches another at once, late, in parts, or again.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use holmes_kernel::ServiceId;
use holmes_runtime::rig::{Bus, Carry};
use serde::{Deserialize, Serialize};

/// What becomes of a line for a while.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Trouble {
    /// Nothing comes over it, the next so many times that it is looked at. What one source says waits meanwhile, what others
    /// say does not: so their order changes.
    Silent(u32),
    /// One frame comes at a time, so many times.
    Slow(u32),
    /// What was heard is heard again, from so many events before.
    Again(u64),
}

/// Every line with trouble: reader, source.
#[derive(Clone, Debug, Default)]
pub struct Lines(Arc<Mutex<Troubles>>);

type Troubles = BTreeMap<(ServiceId, ServiceId), Vec<Trouble>>;

impl Lines {
    /// Something becomes of a line; what was to come of it before comes after.
    pub fn trouble(&self, reader: ServiceId, source: ServiceId, trouble: Trouble) {
        self.lock().entry((reader, source)).or_default().push(trouble);
    }

    /// All lines are whole.
    pub fn mend(&self) {
        self.lock().clear();
    }

    fn lock(&self) -> MutexGuard<'_, Troubles> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Bus for Lines {
    fn carry(&mut self, reader: ServiceId, source: ServiceId) -> Carry {
        let mut lines = self.lock();
        let Some(line) = lines.get_mut(&(reader, source)) else { return Carry::All };
        let carry = match line.last_mut() {
            Some(Trouble::Silent(left)) if *left > 0 => {
                *left -= 1;
                return Carry::First(0);
            }
            Some(Trouble::Slow(left)) if *left > 0 => {
                *left -= 1;
                return Carry::First(1);
            }
            Some(Trouble::Again(back)) => Carry::Again(*back),
            Some(Trouble::Silent(_) | Trouble::Slow(_)) | None => Carry::All,
        };
        line.pop();
        carry
    }
}

//! Callers who have not proven who they are. What they may hold of a process is counted apart from what the others may,
//! and when they hold all of it, whoever came first gives way: nobody can shut the door by standing in it.

use std::collections::BTreeMap;
use std::pin::Pin;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll};

use tokio::sync::oneshot;

/// Those who are inside.
#[derive(Debug)]
pub(crate) struct Guests {
    most: usize,
    inside: Mutex<Inside>,
}

#[derive(Debug, Default)]
struct Inside {
    next: u64,
    /// By the order in which they came; each hears through its sender that it has to give way.
    guests: BTreeMap<u64, oneshot::Sender<()>>,
}

/// One of them; dropped, it has left, or is a guest no longer.
#[derive(Debug)]
pub(crate) struct Guest {
    guests: Arc<Guests>,
    number: u64,
}

/// Resolves when a guest has to give way; never for one who has left the guests.
#[derive(Debug)]
pub(crate) struct GiveWay(Option<oneshot::Receiver<()>>);

impl Guests {
    /// Room for `most`.
    pub(crate) fn new(most: usize) -> Arc<Guests> {
        Arc::new(Guests { most, inside: Mutex::default() })
    }

    /// Lets one in; when all places are taken, the one that came first gives way.
    pub(crate) fn enter(self: &Arc<Self>) -> (Guest, GiveWay) {
        let (tell, told) = oneshot::channel();
        let mut inside = self.lock();
        while inside.guests.len() >= self.most {
            Self::push_out(&mut inside);
        }
        let number = inside.next;
        inside.next += 1;
        inside.guests.insert(number, tell);
        (Guest { guests: self.clone(), number }, GiveWay(Some(told)))
    }

    /// How many are inside.
    pub(crate) fn count(&self) -> usize {
        self.lock().guests.len()
    }

    /// Makes the one that came first give way; `false` when there is none.
    pub(crate) fn make_room(&self) -> bool {
        Self::push_out(&mut self.lock())
    }

    fn push_out(inside: &mut Inside) -> bool {
        let first = inside.guests.pop_first();
        first.is_some_and(|(_, tell)| tell.send(()).is_ok())
    }

    fn lock(&self) -> MutexGuard<'_, Inside> {
        self.inside.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for Guest {
    fn drop(&mut self) {
        self.guests.lock().guests.remove(&self.number);
    }
}

impl GiveWay {
    /// Waits until it has to give way.
    pub(crate) async fn told(&mut self) {
        std::future::poll_fn(|cx| if self.poll(cx) { Poll::Ready(()) } else { Poll::Pending }).await;
    }

    /// Whether it has to give way now; else whoever polls is woken when it has to.
    pub(crate) fn poll(&mut self, cx: &mut Context<'_>) -> bool {
        let Some(told) = &mut self.0 else { return false };
        let Poll::Ready(told) = Pin::new(told).poll(cx) else { return false };
        self.0 = None; // it is told once
        told.is_ok()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn gives_way(guest: &mut (Guest, GiveWay)) -> bool {
        guest.1.poll(&mut Context::from_waker(std::task::Waker::noop()))
    }

    #[test]
    fn the_first_gives_way_to_the_one_too_many_and_whoever_has_left_to_nobody() {
        let guests = Guests::new(2);
        let (mut first, mut second) = (guests.enter(), guests.enter());
        assert!(!gives_way(&mut first));
        let mut third = guests.enter();
        assert!(gives_way(&mut first) && !gives_way(&mut second));
        let (guest, mut proven) = second;
        drop(guest);
        let _fourth = guests.enter();
        let _fifth = guests.enter();
        assert!(!proven.poll(&mut Context::from_waker(std::task::Waker::noop())));
        assert!(gives_way(&mut third));
    }
}

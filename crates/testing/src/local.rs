//! A driver as a handle.

use std::sync::{Arc, Mutex, MutexGuard};

use holmes_kernel::{Answer, At, Call, Handle, Machine, Refusal, Way};

use crate::Driver;

/// A [`Driver`] behind a [`Handle`], for what is built over one: a service's API.
pub struct Local<M: Machine>(Arc<Mutex<Driver<M>>>);

impl<M: Machine> Local<M> {
    /// The handle of a driver.
    pub fn new(driver: Driver<M>) -> Local<M> {
        Local(Arc::new(Mutex::new(driver)))
    }

    /// The driver itself.
    pub fn driver(&self) -> MutexGuard<'_, Driver<M>> {
        self.0.lock().unwrap()
    }
}

impl<M: Machine> Clone for Local<M> {
    fn clone(&self) -> Self {
        Local(self.0.clone())
    }
}

impl<M: Machine> Handle<M> for Local<M> {
    fn submit(
        &self,
        call: Call,
        command: M::Command,
    ) -> impl Future<Output = Result<Answer<M::Reply>, Refusal>> + Send {
        let mut driver = self.driver();
        let answer = match call.way {
            Way::Request(id) => driver.ask_as(call.principal, id, command),
            Way::Submission(number) => driver.submit(call.principal, number, command),
        };
        let seq = driver.decided();
        std::future::ready(answer.map(|value| Answer { value, seq }))
    }

    fn read<T: Send + 'static>(
        &self,
        _at: At,
        look: impl FnOnce(&M::State) -> T + Send + 'static,
    ) -> impl Future<Output = Result<Answer<T>, Refusal>> + Send {
        let driver = self.driver();
        std::future::ready(Ok(Answer { value: look(driver.state()), seq: driver.decided() }))
    }
}

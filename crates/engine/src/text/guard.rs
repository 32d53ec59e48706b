//! Calls into the tokenizers crate, which panics on some hostile files: on merges that are longer than any token, for
//! example. Such a panic is a refusal, and the refusal is all that is said of it.

use std::cell::Cell;
use std::panic::{AssertUnwindSafe, catch_unwind, set_hook, take_hook};
use std::sync::Once;

use super::TextError;

thread_local! {
    /// Whether this thread is inside a call whose panic is a refusal.
    static REFUSES: Cell<bool> = const { Cell::new(false) };
}

/// Runs a call; its error or its panic says that the tokenizer is damaged.
pub(super) fn guarded<T>(call: impl FnOnce() -> tokenizers::Result<T>) -> Result<T, TextError> {
    quieten();
    let outer = REFUSES.replace(true);
    let result = catch_unwind(AssertUnwindSafe(call));
    REFUSES.set(outer);
    match result {
        Ok(Ok(value)) => Ok(value),
        Ok(Err(e)) => Err(TextError::Tokenizer(e.to_string())),
        Err(_) => Err(TextError::Tokenizer("its parts contradict each other".into())),
    }
}

/// A panic is told by the hook before anybody can catch it. There is one hook for all threads, so it is wrapped once,
/// and asks of each panic whether its own thread is inside a guarded call; every other one is told as before.
fn quieten() {
    static WRAPPED: Once = Once::new();
    WRAPPED.call_once(|| {
        let tell = take_hook();
        set_hook(Box::new(move |panic| {
            if !REFUSES.get() {
                tell(panic);
            }
        }));
    });
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::env;
    use std::process::Command;
    use std::thread;

    const CHILD: &str = "HOLMES_ENGINE_PANICS";
    const NAME: &str = "text::guard::tests::only_a_guarded_panic_is_silent_and_only_on_its_own_thread";

    /// What the process of the test below runs.
    fn panics() {
        let refused: Result<(), TextError> = guarded(|| {
            thread::spawn(|| panic!("told: of another thread")).join().unwrap_err();
            let inner = guarded::<()>(|| panic!("silent: inside"));
            assert_eq!(inner.unwrap_err().reason(), "TOKENIZER_INVALID");
            panic!("silent: after the inner one")
        });
        assert_eq!(refused.unwrap_err().reason(), "TOKENIZER_INVALID");
        catch_unwind(|| panic!("told: of this thread, afterwards")).unwrap_err();
    }

    #[test]
    fn only_a_guarded_panic_is_silent_and_only_on_its_own_thread() {
        if env::var_os(CHILD).is_some() {
            return panics();
        }
        let mut child = Command::new(env::current_exe().unwrap());
        let ran = child.args([NAME, "--exact", "--nocapture"]).env(CHILD, "1").output().unwrap();
        let told = String::from_utf8(ran.stderr).unwrap();
        assert!(ran.status.success(), "{told}");
        assert_eq!((told.matches("told:").count(), told.matches("silent:").count()), (2, 0), "{told}");
    }
}

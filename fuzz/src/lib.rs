//! What the binaries share.

use std::sync::Once;

/// Feeds a target. A panic that the product itself catches is its answer to a bad input: libFuzzer's hook, which ends the
/// process at every panic, gives way, and what nobody catches still ends it.
pub fn run(name: &str, bytes: &[u8]) {
    static HOOK: Once = Once::new();
    HOOK.call_once(|| drop(std::panic::take_hook()));
    let target = holmes_fuzzing::target(name).expect("a target of crates/fuzzing");
    (target.run)(bytes);
}

//! No crate or service names a network profile: profiles are data that genesis reads.

use std::collections::BTreeSet;

use super::Finding;
use super::code::{Kind, Token};
use super::tree::{File, Tree};

/// The profiles that the economy describes; files under deploy/profiles/ add to them.
const KNOWN: [&str; 3] = ["hol", "hf", "demo"];

/// Where a profile's name may stand: the binary chooses one, xtask is no part of the network, and to the engine
/// "hf" is a file format.
const EXEMPT: [&str; 3] = ["services/holmes/", "crates/xtask/", "crates/engine/"];

const WHY: &str = "a network is what its profile says; code that asks which one it is in forks the network";

/// Every profile named by name or by file.
pub(crate) fn check(tree: &Tree) -> Vec<Finding> {
    let files = tree
        .files
        .iter()
        .filter_map(|file| file.path.strip_prefix("deploy/profiles/")?.strip_suffix(".toml"));
    let names: BTreeSet<&str> = files.chain(KNOWN).collect();
    let in_scope = |file: &&File| {
        let ours = file.path.starts_with("crates/")
            || file.path.starts_with("services/")
            || file.path.starts_with("proto/");
        ours && !file.is_test && !EXEMPT.iter().any(|dir| file.path.starts_with(dir))
    };
    let mut findings = Vec::new();
    for file in tree.files.iter().filter(in_scope) {
        let Some(code) = &file.code else { continue };
        for (at, token) in code.shipped.iter().enumerate() {
            if names.iter().any(|name| is_named(name, token, &code.shipped[..at])) {
                let what = format!("a profile is named: {}", token.text);
                let fix = "make what differs a parameter, and let the profile set it";
                findings.push(Finding::new(&file.path, token.line, what, WHY, fix));
            }
        }
    }
    findings
}

/// `"hol"`, `"….hol.toml"`, `Profile::Hol`.
fn is_named(name: &str, token: &Token, before: &[Token]) -> bool {
    match token.kind {
        Kind::String => {
            let file = token.text.rsplit('/').next().unwrap_or(&token.text);
            token.text == name || file.strip_suffix(".toml") == Some(name)
        }
        Kind::Word => {
            let [.., profile, a, b] = before else { return false };
            profile.text.ends_with("Profile")
                && a.text == ":"
                && b.text == ":"
                && token.text.eq_ignore_ascii_case(name)
        }
        _ => false,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn found_in(path: &str, source: &str) -> usize {
        check(&Tree::of([("deploy/profiles/lab.toml", ""), (path, source)])).len()
    }

    #[test]
    fn a_named_profile_is_found() {
        for source in [
            "if profile == \"hol\" {}",
            "include_str!(\"../../deploy/profiles/demo.toml\")",
            "match p { Profile::Hf => 1 }",
            "let x = \"lab\";",
        ] {
            assert_eq!(found_in("services/treasury/src/decide.rs", source), 1, "{source}");
            assert_eq!(found_in("crates/kernel/src/lib.rs", source), 1, "{source}");
        }
    }

    #[test]
    fn symbols_tests_the_binary_and_the_engine_are_free() {
        assert_eq!(found_in("services/treasury/src/decide.rs", "let asset = \"HOL\"; // profile \"hol\""), 0);
        assert_eq!(
            found_in("services/treasury/src/decide.rs", "#[cfg(test)] const P: &str = \"hol.toml\";"),
            0
        );
        assert_eq!(found_in("services/holmes/src/main.rs", "let p = \"demo\";"), 0);
        assert_eq!(found_in("crates/engine/src/format.rs", "let p = \"hf\";"), 0);
    }
}

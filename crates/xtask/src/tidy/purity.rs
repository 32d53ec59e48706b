//! Nothing that could differ between two machines, or two runs, stands where facts are decided.

use super::Finding;
use super::code::{Code, Kind, Token};
use super::tree::{File, Tree};

/// What is kept out, and words that bring it in. A path is written in words and marks.
struct Ban {
    name: &'static str,
    words: &'static [&'static [&'static str]],
    why: &'static str,
    fix: &'static str,
}

const BANS: [Ban; 6] = [
    Ban {
        name: "a clock",
        words: &[&["SystemTime"], &["Instant"], &["now_v7"], &["Utc"]],
        why: "a replay must see the time that was",
        fix: "take the time from Ctx or Meta",
    },
    Ban {
        name: "randomness",
        words: &[&["rand"], &["fastrand"], &["getrandom"], &["thread_rng"], &["OsRng"], &["new_v4"]],
        why: "a replay must draw what was drawn",
        fix: "take ids and seeds from Ctx",
    },
    Ban {
        name: "an unordered map",
        words: &[&["HashMap"], &["HashSet"], &["hashbrown"], &["foldhash"], &["RandomState"]],
        why: "its order differs between processes, and so would the log",
        fix: "use kernel::Table, or BTreeMap",
    },
    Ban {
        name: "the environment",
        words: &[&["env"], &["fs"], &["net"], &["process"], &["thread"]],
        why: "a machine sees its state, its command and its Ctx, and nothing else",
        fix: "bring it in as a parameter or a command",
    },
    Ban {
        name: "async",
        words: &[&["async"], &["await"], &["tokio"]],
        why: "machines are synchronous; waiting is the runtime's",
        fix: "keep it to api.rs",
    },
    Ban {
        name: "work left to do",
        words: &[&["todo", "!"], &["unimplemented", "!"]],
        why: "what is not built is absent, not stubbed",
        fix: "build it, or take the path to it away",
    },
];

const FLOAT: (&str, &str, &str) = (
    "a float",
    "rounding differs between machines, and money has none",
    "use Amount, Ratio, Q128 or an integer of a smaller unit",
);
const LEFT_TO_DO: &str = "work left to do";
/// These are banned only as modules of the standard library.
const STD_ONLY: &str = "the environment";

/// Where a ban does not hold, and why.
const ALLOWED: [(&str, &str, &str); 2] = [
    (
        "crates/table/src/lib.rs",
        "an unordered map",
        "the one place that hashes: an index beside a slab, and iteration is in slab order",
    ),
    ("crates/table/src/parts.rs", "an unordered map", "that index"),
];

/// Every use of what is kept out, and every allowance that nothing needs.
pub(crate) fn check(tree: &Tree) -> Vec<Finding> {
    let machines = tree.machine_services();
    let is_pure = |file: &File| {
        let in_machine = file.path.strip_prefix("services/").and_then(|path| path.split_once("/src/"));
        let in_machine = in_machine.is_some_and(|(name, rest)| {
            machines.contains(name) && rest != "api.rs" && !rest.starts_with("api/")
        });
        let under_it = ["crates/kernel/src/", "crates/table/src/"];
        !file.is_test && (in_machine || under_it.iter().any(|dir| file.path.starts_with(dir)))
    };
    let mut findings = Vec::new();
    for file in &tree.files {
        let Some(code) = &file.code else { continue };
        let mut found = if is_pure(file) { impure(&file.path, code) } else { left_to_do(&file.path, code) };
        for (path, name, _) in ALLOWED.iter().filter(|(path, ..)| *path == file.path) {
            let before = found.len();
            found.retain(|finding| !finding.what.starts_with(name));
            if found.len() == before {
                let what = format!("{name} is allowed here, and there is none");
                let why = "an allowance that nothing needs hides the next one that should fail";
                found.push(Finding::new(
                    path,
                    1,
                    what,
                    why,
                    "take it out of crates/xtask/src/tidy/purity.rs",
                ));
            }
        }
        findings.extend(found);
    }
    findings
}

fn impure(path: &str, code: &Code) -> Vec<Finding> {
    let mut findings: Vec<_> = BANS.iter().flat_map(|ban| uses(path, code, ban)).collect();
    let floats = code.shipped.iter().filter(|t| {
        t.kind == Kind::Float || (t.kind == Kind::Word && matches!(t.text.as_str(), "f32" | "f64"))
    });
    let (what, why, fix) = FLOAT;
    findings.extend(floats.map(|token| Finding::new(path, token.line, named(what, token), why, fix)));
    findings
}

fn left_to_do(path: &str, code: &Code) -> Vec<Finding> {
    BANS.iter().filter(|ban| ban.name == LEFT_TO_DO).flat_map(|ban| uses(path, code, ban)).collect()
}

fn uses(path: &str, code: &Code, ban: &Ban) -> Vec<Finding> {
    let at = ban.words.iter().flat_map(|words| code.find(words));
    let at = at.filter(|&at| ban.name != STD_ONLY || is_from_std(code, at));
    at.map(|at| {
        let token = &code.shipped[at];
        Finding::new(path, token.line, named(ban.name, token), ban.why, ban.fix)
    })
    .collect()
}

fn named(what: &str, token: &Token) -> String {
    format!("{what}: {}", token.text)
}

/// `std::env`, or `env` in the first row of `std::{…}`.
fn is_from_std(code: &Code, at: usize) -> bool {
    let before = &code.shipped[..at];
    let is_path_of_std = |tokens: &[Token]| {
        let [.., root, a, b] = tokens else { return false };
        root.text == "std" && a.text == ":" && b.text == ":"
    };
    if is_path_of_std(before) {
        return true;
    }
    let mut depth = 0usize;
    for (index, token) in before.iter().enumerate().rev() {
        match token.text.as_str() {
            ";" => return false,
            "}" => depth += 1,
            "{" if depth == 0 => return is_path_of_std(&before[..index]),
            "{" => depth -= 1,
            _ => {}
        }
    }
    false
}

#[cfg(test)]
mod tests {
    use super::*;

    fn found_in(path: &str, source: &str) -> Vec<String> {
        let tree = Tree::of([
            ("services/ledger/Cargo.toml", ""),
            ("services/gateway/Cargo.toml", ""),
            (path, source),
        ]);
        check(&tree)
            .into_iter()
            .map(|finding| finding.what.split(':').next().unwrap_or("").to_owned())
            .collect()
    }

    #[test]
    fn everything_impure_is_found_in_a_decision() {
        for (source, what) in [
            ("fn f(x: f64) {}", "a float"),
            ("const X: u64 = 1.5 as u64;", "a float"),
            ("let t = std::time::SystemTime::now();", "a clock"),
            ("use std::time::Instant;", "a clock"),
            ("use rand::Rng;", "randomness"),
            ("use std::collections::HashMap;", "an unordered map"),
            ("fn f(x: &HashSet<u8>) {}", "an unordered map"),
            ("let x = std::env::var(name);", "the environment"),
            ("use std::{fmt, env};", "the environment"),
            ("use std::{collections::{BTreeMap, BTreeSet}, fs};", "the environment"),
            ("async fn f() {}", "async"),
            ("todo!()", "work left to do"),
            ("unimplemented!(\"later\")", "work left to do"),
        ] {
            for path in [
                "services/ledger/src/decide.rs",
                "services/ledger/src/curve.rs",
                "crates/kernel/src/shard.rs",
            ] {
                assert_eq!(found_in(path, source), [what], "{path}: {source}");
            }
        }
    }

    #[test]
    fn words_in_comments_strings_and_tests_are_no_use() {
        for source in [
            "// f64 and HashMap\nfn f() {}",
            "const X: &str = \"SystemTime\";",
            "#[cfg(test)] mod tests { use std::collections::HashMap; fn f() -> f64 { 1.5 } }",
            "fn env(process: u8, thread: u8) {}",
            "use crate::{env, fs};",
        ] {
            assert!(found_in("services/ledger/src/decide.rs", source).is_empty(), "{source}");
        }
    }

    #[test]
    fn the_api_the_edge_and_the_tests_may_wait_and_measure() {
        let source = "async fn f() -> f64 { std::env::var(x) }";
        for path in [
            "services/ledger/src/api.rs",
            "services/ledger/tests/it.rs",
            "services/gateway/src/lib.rs",
            "crates/engine/src/lib.rs",
        ] {
            assert!(found_in(path, source).is_empty(), "{path}");
        }
    }

    #[test]
    fn a_file_named_tests_is_free_only_if_it_is_declared_for_tests() {
        let found = |declared| {
            let test = ("services/ledger/src/decide/tests.rs", "use std::collections::HashMap;");
            check(&Tree::of([
                ("services/ledger/Cargo.toml", ""),
                ("services/ledger/src/decide.rs", declared),
                test,
            ]))
            .len()
        };
        assert_eq!(found("#[cfg(test)] mod tests;"), 0);
        assert_eq!(found("mod tests;"), 1);
    }

    #[test]
    fn work_left_to_do_is_found_everywhere() {
        assert_eq!(found_in("crates/engine/src/lib.rs", "fn f() { todo!() }"), ["work left to do"]);
    }

    #[test]
    fn an_allowance_lets_through_what_it_names_and_must_be_needed() {
        assert!(found_in("crates/table/src/lib.rs", "use hashbrown::HashTable;").is_empty());
        assert_eq!(
            found_in("crates/table/src/lib.rs", "use hashbrown::HashTable; type X = f32;"),
            ["a float"]
        );
        assert_eq!(found_in("crates/table/src/lib.rs", "").len(), 1);
    }
}

//! Every state-machine service has the same files, so that who knows one knows all.

use super::{Finding, tree::Tree};

const FILES: [(&str, &str); 8] = [
    ("src/lib.rs", "the card: purpose, commands, events, invariants; wires the machine"),
    ("src/command.rs", "typed commands, replies, Rejection"),
    ("src/state.rs", "State, evolve, reply, due, check, check_step"),
    ("src/decide.rs", "decide, with given/when/then tests beside it"),
    ("src/params.rs", "governed numbers with unit, default, minimum, maximum, largest step"),
    ("src/react.rs", "an entry of another service's log to an optional command"),
    ("src/api.rs", "wire to command or query"),
    ("tests/it.rs", "the one integration binary"),
];

const WHY: &str = "every service has the same rooms, so that who knows one knows all";

/// Missing rooms, and test binaries beside the one.
pub(crate) fn check(tree: &Tree) -> Vec<Finding> {
    let mut findings = Vec::new();
    for service in tree.machine_services() {
        for (file, holds) in FILES {
            let path = format!("services/{service}/{file}");
            if tree.get(&path).is_none() {
                findings.push(Finding::new(
                    &path,
                    1,
                    format!("{file} is missing"),
                    WHY,
                    format!("add it: {holds}"),
                ));
            }
        }
        let tests = format!("services/{service}/tests/");
        for file in &tree.files {
            let Some(name) = file.path.strip_prefix(&tests) else { continue };
            if name.ends_with(".rs") && !name.contains('/') && name != "it.rs" {
                let why = "each file here is linked as a binary of its own";
                let fix = format!("move it to tests/it/{name} and declare it in it.rs");
                findings.push(Finding::new(
                    &file.path,
                    1,
                    "a second integration binary".to_owned(),
                    why,
                    fix,
                ));
            }
        }
        let main = format!("services/{service}/src/main.rs");
        if tree.get(&main).is_some() {
            let what = "a state-machine service is no program".to_owned();
            findings.push(Finding::new(
                &main,
                1,
                what,
                "there is one binary, of roles",
                "add a role to services/holmes",
            ));
        }
    }
    findings
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ledger_without(missing: &str, extra: &[&str]) -> Vec<Finding> {
        let mut paths: Vec<_> = FILES.iter().map(|(file, _)| format!("services/ledger/{file}")).collect();
        paths.push("services/ledger/Cargo.toml".to_owned());
        paths.push("services/gateway/Cargo.toml".to_owned());
        paths.extend(extra.iter().map(|file| format!("services/ledger/{file}")));
        paths.retain(|path| *path != format!("services/ledger/{missing}"));
        check(&Tree::of(paths.iter().map(|path| (path.as_str(), ""))))
    }

    #[test]
    fn a_service_with_all_its_rooms_is_in_order() {
        assert_eq!(ledger_without("", &["src/transfer.rs", "src/decide/hold.rs", "tests/it/golden.rs"]), []);
    }

    #[test]
    fn each_missing_room_is_found() {
        let rooms = ["lib", "command", "state", "decide", "params", "react", "api"];
        let rooms = rooms.map(|room| format!("src/{room}.rs"));
        for file in rooms.iter().map(String::as_str).chain(["tests/it.rs"]) {
            let found = ledger_without(file, &[]);
            assert_eq!(found.len(), 1, "{file}: {found:?}");
            assert!(found[0].path.ends_with(file), "{found:?}");
        }
    }

    #[test]
    fn a_second_test_binary_and_a_main_are_found() {
        assert_eq!(ledger_without("", &["tests/golden.rs"]).len(), 1);
        assert_eq!(ledger_without("", &["src/main.rs"]).len(), 1);
    }
}

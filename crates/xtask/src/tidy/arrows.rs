//! Which crate may depend on which, and which crates outside have one caller. The picture is in
//! docs/explanation/architecture.md; a new arrow is a decision and gets a line here and an ADR.

use cargo_metadata::camino::Utf8Path;
use cargo_metadata::{DependencyKind, Metadata};

use super::{Finding, tree::Tree};

/// A package of the workspace.
pub(crate) struct Member {
    /// Its directory from the root.
    dir: String,
    name: String,
    deps: Vec<Dep>,
}

/// A dependency that a package names itself.
struct Dep {
    name: String,
    kind: DependencyKind,
    /// Another package of the workspace, by its directory.
    ours: Option<String>,
    default_features: bool,
    features: Vec<String>,
}

/// What a directory's crate may name: in what ships (build scripts included), and beyond that in its tests.
struct Room {
    ships: &'static [&'static str],
    tests: &'static [&'static str],
}

const MACHINE: &str = "services/*";
const EVERYTHING: &[&str] = &["*"];

/// The arrows. `services/*` stands for every state-machine service.
const ROOMS: [(&str, Room); 17] = [
    ("crates/table", Room { ships: &[], tests: &[] }),
    ("crates/kernel", Room { ships: &["crates/table"], tests: &[] }),
    ("proto", Room { ships: &["crates/kernel"], tests: &[] }),
    ("crates/store", Room { ships: &["crates/kernel"], tests: &[] }),
    ("crates/engine", Room { ships: &[], tests: &[] }),
    (
        "crates/runtime",
        Room { ships: &["crates/kernel", "proto", "crates/consumer"], tests: &["crates/store"] },
    ),
    ("crates/consumer", Room { ships: &["crates/kernel", "proto"], tests: &["crates/store"] }),
    ("crates/fuzzing", Room { ships: EVERYTHING, tests: &[] }),
    ("crates/sim", Room { ships: EVERYTHING, tests: &[] }),
    ("crates/testing", Room { ships: &["crates/kernel", "proto"], tests: &[] }),
    ("crates/xtask", Room { ships: &[], tests: &[] }),
    // The ledger and staking in tests: what is sent to the one and heard from the other is tested with the real ones.
    (
        MACHINE,
        Room {
            ships: &["crates/kernel", "proto"],
            tests: &[
                "crates/runtime",
                "crates/store",
                "crates/testing",
                "services/ledger",
                "services/staking",
            ],
        },
    ),
    ("services/gateway", EDGE),
    ("services/executor", EDGE),
    ("services/explorer", EDGE),
    ("services/holmes", Room { ships: EVERYTHING, tests: &["crates/sim"] }),
    ("load-tests", Room { ships: EVERYTHING, tests: &[] }),
];

const EDGE: Room =
    Room { ships: &["crates/kernel", "proto", "crates/runtime", "crates/engine"], tests: &["crates/store"] };

/// The one service that opens a connection.
const DIALS: &str = "services/executor";

/// Crates that only development uses: nothing that ships may name them.
const DEV_ONLY: [&str; 5] = ["crates/fuzzing", "crates/sim", "crates/testing", "crates/xtask", "load-tests"];

/// Where figures are taken. It may name what it measures beside ours: a peer is not asked through a trait of ours.
const FIGURES: &str = "load-tests";

/// Crates outside with one caller among ours.
const ONE_CALLER: [(&str, &str); 7] = [
    ("fjall", "crates/store"),
    ("redb", "crates/store"),
    ("scylla", "crates/store"),
    ("async-nats", "crates/store"),
    ("cudarc", "crates/engine"),
    ("opentelemetry-otlp", "crates/runtime"),
    ("figment", "crates/runtime"),
];

/// What brings a runtime, a socket, a clock or chance: not in the kernel, proto or a state-machine service.
const IMPURE: [&str; 12] = [
    "async-std",
    "axum",
    "chrono",
    "fastrand",
    "getrandom",
    "hyper",
    "quinn",
    "rand",
    "reqwest",
    "rustls",
    "smol",
    "tokio",
];

const ARROWS: &str = "the house has few arrows so that an edit stays where it is made";

/// The workspace's packages.
pub(crate) fn members(metadata: &Metadata) -> Vec<Member> {
    let relative =
        |path: &Utf8Path| path.strip_prefix(&metadata.workspace_root).ok().map(Utf8Path::to_string);
    let dep = |dep: &cargo_metadata::Dependency| Dep {
        name: dep.name.clone(),
        kind: dep.kind,
        ours: dep.path.as_deref().and_then(relative),
        default_features: dep.uses_default_features,
        features: dep.features.clone(),
    };
    let member = |package: &cargo_metadata::Package| Member {
        dir: package.manifest_path.parent().and_then(relative).unwrap_or_default(),
        name: package.name.to_string(),
        deps: package.dependencies.iter().map(dep).collect(),
    };
    metadata.packages.iter().map(member).collect()
}

/// Every arrow that the house does not have.
pub(crate) fn check(members: &[Member], tree: &Tree) -> Vec<Finding> {
    let machines = tree.machine_services();
    let mut findings = Vec::new();
    for member in members {
        let is_machine = member.dir.strip_prefix("services/").is_some_and(|name| machines.contains(name));
        let key = if is_machine { MACHINE } else { &member.dir };
        let manifest = format!("{}/Cargo.toml", member.dir);
        let line = |name: &str| tree.get(&manifest).map_or(1, |file| file.line_of(name));
        let Some((_, room)) = ROOMS.iter().find(|(dir, _)| *dir == key) else {
            let what = format!("{} is not a room of the house", member.name);
            let fix = "move it into one, or give it a line in crates/xtask/src/tidy/arrows.rs and an ADR";
            findings.push(Finding::new(&manifest, 1, what, ARROWS, fix));
            continue;
        };
        for dep in &member.deps {
            let problems = [
                ours(member, room, dep),
                outside(member, key, dep),
                tonic(member, key, dep),
                weakened(member, dep),
            ];
            for (what, why, fix) in problems.into_iter().flatten() {
                findings.push(Finding::new(&manifest, line(&dep.name), what, why, fix));
            }
        }
    }
    findings
}

type Problem = Option<(String, &'static str, String)>;

fn ours(member: &Member, room: &Room, dep: &Dep) -> Problem {
    let to = dep.ours.as_deref()?;
    let in_tests = dep.kind == DependencyKind::Development;
    let allowed = |dirs: &[&str]| dirs.contains(&to) || dirs == EVERYTHING;
    let dev_only = DEV_ONLY.contains(&to) && !DEV_ONLY.contains(&member.dir.as_str());
    if to == member.dir || (in_tests && (allowed(room.ships) || allowed(room.tests))) {
        return None;
    }
    if allowed(room.ships) && !dev_only {
        return None;
    }
    let what = format!("{} must not depend on {}", member.name, dep.name);
    let fix = if allowed(room.tests) {
        "make it a dev-dependency: only its tests may name it".to_owned()
    } else {
        format!("it may name {}; what crosses between services is proto", list(room.ships))
    };
    Some((what, ARROWS, fix))
}

fn outside(member: &Member, key: &str, dep: &Dep) -> Problem {
    let peer = key == FIGURES && dep.name == "async-nats";
    if let Some((_, caller)) =
        ONE_CALLER.iter().find(|(name, caller)| *name == dep.name && *caller != key && !peer)
    {
        let what = format!("{} must not depend on {}", member.name, dep.name);
        let why = "what can be exchanged is known to one crate only";
        return Some((what, why, format!("only {caller} may name it; ask it through a trait of the kernel")));
    }
    let pure = ["crates/kernel", "proto", MACHINE].contains(&key) && dep.kind != DependencyKind::Development;
    if pure && IMPURE.contains(&dep.name.as_str()) {
        let what = format!("{} must not depend on {}", member.name, dep.name);
        let why = "machines are pure and synchronous: runtimes, sockets, clocks and chance stay outside";
        return Some((what, why, "take what it would give from Ctx, or let crates/runtime do it".to_owned()));
    }
    None
}

/// Services name the generated traits, and nothing that opens a socket. Only the executor dials: it knows its gateway by
/// a URL, which no role can give it.
fn tonic(member: &Member, key: &str, dep: &Dep) -> Problem {
    let bound = key == "proto" || (key.starts_with("services/") && key != "services/holmes");
    if dep.name != "tonic" || !bound || dep.kind == DependencyKind::Development {
        return None;
    }
    let known = |feature: &String| feature == "codegen" || (key == DIALS && feature == "channel");
    if !dep.default_features && dep.features.iter().all(known) {
        return None;
    }
    let what = format!("{} takes more of tonic than its generated code needs", member.name);
    let why = "a service knows its wire types and no transport";
    Some((what, why, "tonic with default-features = false and features = [\"codegen\"]".to_owned()))
}

/// Guards that can be switched off are for the simulator's own build: it asks for them by a feature of its own, which no
/// other build has.
fn weakened(member: &Member, dep: &Dep) -> Problem {
    let asks = dep.features.iter().any(|feature| feature.ends_with("weakened"));
    let what = || format!("{} lets the guards of {} be switched off", member.name, dep.name);
    let why = "what ships, and every test but one, has all its guards on for ever";
    let fix = "take the feature `weakened` out: only `cargo test --features holmes-sim/weakened` asks for it";
    asks.then(|| (what(), why, fix.to_owned()))
}

fn list(dirs: &[&str]) -> String {
    if dirs.is_empty() { "no crate of ours".to_owned() } else { format!("only {}", dirs.join(", ")) }
}

#[cfg(test)]
mod tests {
    use super::*;
    use DependencyKind::{Build, Development, Normal};

    fn dep(to: &str, kind: DependencyKind) -> Dep {
        let ours = to.contains('/') || to == "proto" || to == "load-tests";
        let name = to.rsplit('/').next().unwrap_or(to).to_owned();
        let ours = ours.then(|| to.to_owned());
        Dep { name, kind, ours, default_features: true, features: Vec::new() }
    }

    fn findings(dir: &str, dep: Dep) -> Vec<Finding> {
        let manifest = format!("{dir}/Cargo.toml");
        let tree = Tree::of([(manifest.as_str(), format!("[dependencies]\n{} = 1\n", dep.name))]);
        check(&[Member { dir: dir.to_owned(), name: dir.to_owned(), deps: vec![dep] }], &tree)
    }

    #[test]
    fn arrows_of_the_house_are_allowed() {
        for (from, to, kind) in [
            ("proto", "crates/kernel", Normal),
            ("crates/store", "crates/kernel", Normal),
            ("crates/runtime", "proto", Normal),
            ("crates/runtime", "crates/store", Development),
            ("services/ledger", "crates/kernel", Normal),
            ("services/ledger", "proto", Normal),
            ("services/ledger", "crates/runtime", Development),
            ("services/ledger", "crates/store", Development),
            ("services/ledger", "crates/testing", Development),
            ("services/holmes", "crates/testing", Development),
            ("crates/testing", "crates/kernel", Normal),
            ("services/gateway", "crates/runtime", Normal),
            ("services/executor", "crates/engine", Normal),
            ("services/holmes", "services/ledger", Normal),
            ("services/holmes", "crates/store", Normal),
            ("crates/sim", "services/ledger", Normal),
            ("crates/store", "fjall", Normal),
            ("crates/engine", "cudarc", Normal),
            ("load-tests", "async-nats", Normal),
            ("crates/runtime", "tokio", Normal),
            ("services/ledger", "tokio", Development),
            ("services/ledger", "serde", Normal),
        ] {
            assert_eq!(findings(from, dep(to, kind)), [], "{from} -> {to}");
        }
    }

    #[test]
    fn arrows_that_the_house_does_not_have_are_found() {
        for (from, to, kind) in [
            ("crates/kernel", "proto", Normal),
            ("crates/kernel", "crates/store", Development),
            ("proto", "crates/runtime", Build),
            ("crates/store", "proto", Normal),
            ("crates/store", "crates/runtime", Normal),
            ("crates/runtime", "crates/store", Normal),
            ("crates/engine", "crates/kernel", Normal),
            ("crates/xtask", "crates/kernel", Normal),
            ("services/ledger", "services/accounts", Normal),
            ("services/ledger", "services/accounts", Development),
            ("services/ledger", "crates/store", Normal),
            ("services/ledger", "crates/runtime", Normal),
            ("services/ledger", "crates/engine", Normal),
            ("services/gateway", "services/ledger", Normal),
            ("services/gateway", "crates/store", Normal),
            ("services/holmes", "crates/sim", Normal),
            ("services/holmes", "crates/testing", Normal),
            ("services/ledger", "crates/testing", Normal),
            ("crates/testing", "services/ledger", Normal),
            ("crates/runtime", "fjall", Normal),
            ("services/holmes", "scylla", Development),
            ("services/holmes", "async-nats", Normal),
            ("load-tests", "fjall", Normal),
            ("services/executor", "cudarc", Normal),
            ("services/ledger", "tokio", Normal),
            ("crates/kernel", "rand", Normal),
        ] {
            assert_eq!(findings(from, dep(to, kind)).len(), 1, "{from} -> {to}");
        }
    }

    #[test]
    fn a_crate_that_the_house_does_not_know_is_found() {
        let found = findings("crates/utils", dep("serde", Normal));
        assert!(found[0].what.contains("not a room"), "{found:?}");
    }

    #[test]
    fn a_finding_names_the_line_of_the_manifest() {
        let found = findings("services/ledger", dep("crates/store", Normal));
        assert_eq!((found[0].path.as_str(), found[0].line), ("services/ledger/Cargo.toml", 2));
        assert!(found[0].fix.contains("dev-dependency"), "{found:?}");
    }

    #[test]
    fn nobody_asks_for_guards_that_can_be_switched_off() {
        let asks =
            |to: &str, feature: &str| Dep { features: vec![feature.to_owned()], ..dep(to, Development) };
        assert_eq!(findings("crates/sim", asks("crates/kernel", "weakened")).len(), 1);
        assert_eq!(findings("services/holmes", asks("crates/sim", "weakened")).len(), 1);
        assert_eq!(findings("services/holmes", asks("crates/store", "conformance")), []);
    }

    #[test]
    fn services_take_only_the_generated_code_of_tonic() {
        let tonic = |default_features, features: &[&str]| Dep {
            default_features,
            features: features.iter().map(|feature| (*feature).to_owned()).collect(),
            ..dep("tonic", Normal)
        };
        assert_eq!(findings("services/ledger", tonic(false, &["codegen"])), []);
        assert_eq!(findings("services/ledger", tonic(true, &["codegen"])).len(), 1);
        assert_eq!(findings("services/gateway", tonic(false, &["codegen", "transport"])).len(), 1);
        assert_eq!(findings("services/gateway", tonic(false, &["codegen", "channel"])).len(), 1);
        assert_eq!(findings("services/executor", tonic(false, &["codegen", "channel"])), []);
        assert_eq!(findings("services/executor", tonic(false, &["codegen", "transport"])).len(), 1);
        assert_eq!(findings("crates/runtime", tonic(true, &["transport"])), []);
    }
}

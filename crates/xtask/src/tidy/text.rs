//! What is committed is true on any machine: no registry's host, no path of one machine.

use super::{Finding, tree::File, tree::Tree};

/// Written in halves, so that this file does not find itself.
const HOSTS: [&str; 12] = [
    concat!("pypi", ".org"),
    concat!("files.python", "hosted.org"),
    concat!("//crates", ".io"),
    concat!("static.crates", ".io"),
    concat!("index.crates", ".io"),
    concat!("registry.npmjs", ".org"),
    concat!("proxy.golang", ".org"),
    concat!("sum.golang", ".org"),
    concat!("repo1.maven", ".org"),
    concat!("repo.maven", ".apache.org"),
    concat!("hugging", "face.co"),
    concat!("deb.debian", ".org"),
];

const PATHS: [&str; 6] = [
    concat!("/ho", "me/"),
    concat!("/ro", "ot/"),
    concat!("/Us", "ers/"),
    concat!("/wo", "rk/"),
    concat!("/fa", "rm/"),
    concat!("/tmp/bash", "_jobs"),
];

/// Lock files name registries; that is what they are for.
const LOCKS: [&str; 1] = ["Cargo.lock"];

/// Hosts and machine paths in what is committed.
pub(crate) fn check(tree: &Tree) -> Vec<Finding> {
    tree.files.iter().filter(|file| !LOCKS.contains(&file.path.as_str())).flat_map(in_file).collect()
}

fn in_file(file: &File) -> Vec<Finding> {
    let mut findings = Vec::new();
    for (number, line) in file.text.lines().enumerate() {
        let number = number + 1;
        if let Some(host) = HOSTS.iter().find(|host| line.contains(**host)) {
            let what = format!("a registry's host: {}", host.trim_start_matches('/'));
            let why = "which registry is asked is the machine's setting: mirrors and closed networks exist";
            findings.push(Finding::new(
                &file.path,
                number,
                what,
                why,
                "name the package, and let its client find it",
            ));
        }
        if file.path.ends_with("Dockerfile") {
            continue; // paths inside an image are the image's own
        }
        if let Some(path) = PATHS.iter().find(|path| starts_path(line, path)) {
            let what = format!("a path of one machine: {path}…");
            let why = "it is there on no other";
            findings.push(Finding::new(&file.path, number, what, why, "make it relative, or a parameter"));
        }
    }
    findings
}

/// Whether the text stands in the line as the beginning of an absolute path.
fn starts_path(line: &str, path: &str) -> bool {
    line.match_indices(path).any(|(at, _)| {
        let before = line[..at].chars().next_back();
        before.is_none_or(|c| {
            !c.is_alphanumeric() && !matches!(c, '_' | '-' | '.' | '/' | '}' | ')' | '>' | '*' | '~')
        })
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn found(path: &str, line: &str) -> usize {
        check(&Tree::of([(path, line)])).len()
    }

    #[test]
    fn every_host_and_every_machine_path_is_found() {
        let known = [
            "https://pypi%.org/simple",
            "https://crates%.io",
            "https://registry.npmjs%.org/x",
            "https://hugging%face.co/a",
        ];
        for line in known.map(|line| line.replace('%', "")) {
            assert_eq!(found("a.md", &line), 1, "{line}");
        }
        for line in ["cd /wo%rk/x", "(/ho%me/me)", "path=/ro%ot/.cargo"].map(|line| line.replace('%', "")) {
            assert_eq!(found("a.sh", &line), 1, "{line}");
            assert_eq!(found("deploy/Dockerfile", &line), 0, "{line}");
        }
        for host in HOSTS {
            assert_eq!(found("a.sh", &format!("curl https:{host}/x")), 1, "{host}");
        }
        for path in PATHS {
            assert_eq!(found("README.md", &format!("see {path}x")), 1, "{path}");
            assert_eq!(found("a.rs", &format!("\"{path}x\"")), 1, "{path}");
        }
    }

    #[test]
    fn parts_of_other_paths_and_names_are_not() {
        for line in
            ["src/work/x.rs", "$DIR/home/x", "target/root/x", "./work/x", "the crates.io-index", "crates.io"]
        {
            let line = line.replace("$DIR", "${DIR}");
            assert_eq!(found("a.md", &line), 0, "{line}");
        }
        assert_eq!(found("Cargo.lock", HOSTS[0]), 0);
    }
}

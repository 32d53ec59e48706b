//! Files that fit a head, a kernel that stays small, and one file name per module.

use super::{Finding, tree::File, tree::Tree};

const WARN_LINES: usize = 500;
const MAX_LINES: usize = 700;
const KERNEL_WARN_LINES: usize = 3_000;
const KERNEL_MAX_LINES: usize = 3_500;

/// Sizes of files, the kernel's size, `mod.rs`.
pub(crate) fn check(tree: &Tree) -> Vec<Finding> {
    let mut findings: Vec<_> =
        tree.files.iter().filter_map(|file| file_size(file, WARN_LINES, MAX_LINES)).collect();
    findings.extend(tree.files.iter().filter_map(mod_rs));
    findings.extend(kernel_size(tree, KERNEL_WARN_LINES, KERNEL_MAX_LINES));
    findings
}

fn file_size(file: &File, warn: usize, max: usize) -> Option<Finding> {
    let counted = file.path.ends_with(".rs") || file.path.ends_with(".proto");
    let generated = file.text.lines().take(5).any(|line| line.contains(concat!("@", "generated")));
    let lines = file.text.lines().count();
    if !counted || generated || lines <= warn {
        return None;
    }
    let what = format!("{lines} lines, of {max} at most");
    let finding = Finding::new(
        &file.path,
        lines,
        what,
        "a file is read whole",
        format!("split it by its nouns, to {warn} or fewer"),
    );
    Some(if lines > max { finding } else { finding.warn() })
}

fn mod_rs(file: &File) -> Option<Finding> {
    let (dir, name) = file.path.rsplit_once('/')?;
    (name == "mod.rs").then(|| {
        let what = "a file named mod.rs".to_owned();
        Finding::new(&file.path, 1, what, "ten tabs named mod.rs tell nothing", format!("name it {dir}.rs"))
    })
}

/// What ships of the kernel, tests not counted.
fn kernel_size(tree: &Tree, warn: usize, max: usize) -> Option<Finding> {
    let files = tree.files.iter().filter(|file| file.path.starts_with("crates/kernel/src/") && !file.is_test);
    let lines = |file: &File| {
        let tests = file.code.as_ref().map_or(0, |code| code.test_lines);
        file.text.lines().count().saturating_sub(tests)
    };
    let total: usize = files.map(lines).sum();
    if total <= warn {
        return None;
    }
    let what = format!("the kernel has {total} lines without its tests, of about {warn}");
    let why = "a shared crate that grows without limit becomes a bag";
    let fix = "move out what only one service needs, or what carries no invariant";
    let finding = Finding::new("crates/kernel/src/lib.rs", 1, what, why, fix);
    Some(if total > max { finding } else { finding.warn() })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn file_of(path: &str, text: String) -> Tree {
        Tree::of([(path, text)])
    }

    #[test]
    fn long_files_warn_and_longer_ones_fail() {
        let verdict = |path: &str, lines: usize| {
            check(&file_of(path, "x\n".repeat(lines))).first().map(|finding| finding.warning)
        };
        assert_eq!(verdict("crates/store/src/a.rs", 500), None);
        assert_eq!(verdict("crates/store/src/a.rs", 501), Some(true));
        assert_eq!(verdict("crates/store/src/a.rs", 701), Some(false));
        assert_eq!(verdict("proto/holmes/a.proto", 701), Some(false));
        assert_eq!(verdict("docs/a.md", 701), None);
    }

    #[test]
    fn generated_files_may_be_long() {
        let text = format!("// {}\n{}", concat!("@", "generated"), "x\n".repeat(900));
        assert_eq!(check(&file_of("a.rs", text)), []);
    }

    #[test]
    fn mod_rs_is_found() {
        let found = check(&file_of("crates/store/src/journal/mod.rs", String::new()));
        assert_eq!(found[0].fix, "name it crates/store/src/journal.rs");
    }

    #[test]
    fn the_kernel_is_counted_without_its_tests() {
        let shipped = "a;\n".repeat(6);
        let tests = "#[cfg(test)]\nmod tests {\n}\n";
        let text = format!("{shipped}{tests}");
        let tree =
            Tree::of([("crates/kernel/src/lib.rs", text.as_str()), ("crates/kernel/tests/it.rs", &text)]);
        assert_eq!(kernel_size(&tree, 6, 9), None);
        assert_eq!(kernel_size(&tree, 5, 9).map(|finding| finding.warning), Some(true));
        assert_eq!(kernel_size(&tree, 4, 5).map(|finding| finding.warning), Some(false));
    }
}

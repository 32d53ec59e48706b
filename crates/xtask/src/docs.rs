//! The book: every page reachable, every link alive, and it builds.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context as _, Result, bail};

use crate::{sh, tools};

pub(crate) const EXAMPLES: &str = "Examples:
  cargo xtask docs          the book lies in target/book/index.html";

/// Builds the book, if there is one.
pub(crate) fn run(root: &Path) -> Result<()> {
    let docs = root.join("docs");
    if !docs.join("book.toml").exists() {
        eprintln!("note: no docs/book.toml, so there is no book to build");
        return Ok(());
    }
    let mut pages = Vec::new();
    collect(&docs, &mut pages)?;
    let summary = fs::read_to_string(docs.join("SUMMARY.md")).context("docs/SUMMARY.md cannot be read")?;
    let mut problems = unlisted(&docs, &pages, &summary);
    let mut own = pages;
    own.extend(["README.md", "CONTRIBUTING.md", "CHANGELOG.md"].map(|name| root.join(name)));
    for page in own.iter().filter(|page| page.exists()) {
        let text = fs::read_to_string(page).with_context(|| format!("cannot read {}", page.display()))?;
        let shown = page.strip_prefix(root).unwrap_or(page).display().to_string();
        problems.extend(dead_links(&shown, page.parent().unwrap_or(root), &text));
    }
    if !problems.is_empty() {
        bail!("{}", problems.join("\n"));
    }
    let mdbook = tools::need(root, &tools::MDBOOK)?;
    sh::run(Command::new(mdbook).current_dir(root).args(["build", "docs"]))
}

fn collect(dir: &Path, pages: &mut Vec<PathBuf>) -> Result<()> {
    for entry in fs::read_dir(dir).with_context(|| format!("cannot list {}", dir.display()))? {
        let path = entry?.path();
        if path.is_dir() {
            collect(&path, pages)?;
        } else if path.extension().is_some_and(|kind| kind == "md") {
            pages.push(path);
        }
    }
    pages.sort();
    Ok(())
}

fn unlisted(docs: &Path, pages: &[PathBuf], summary: &str) -> Vec<String> {
    let mut problems = Vec::new();
    for page in pages {
        let name = page.strip_prefix(docs).unwrap_or(page).display().to_string();
        if name != "SUMMARY.md" && !summary.contains(&format!("({name})")) {
            problems.push(format!(
                "docs/{name}:1: no line of SUMMARY.md leads here; the book leaves it out; list it there"
            ));
        }
    }
    problems
}

/// Relative links whose file does not exist. Code blocks are text, not links.
fn dead_links(shown: &str, dir: &Path, text: &str) -> Vec<String> {
    let mut problems = Vec::new();
    let mut in_code = false;
    for (number, line) in text.lines().enumerate() {
        if line.trim_start().starts_with("```") {
            in_code = !in_code;
        }
        if in_code {
            continue;
        }
        for target in
            line.split("](").skip(1).filter_map(|rest| rest.split_once(')')).map(|(target, _)| target)
        {
            let file = target.split(['#', ' ']).next().unwrap_or("");
            if !file.is_empty() && !file.contains(':') && !dir.join(file).exists() {
                let number = number + 1;
                problems.push(format!(
                    "{shown}:{number}: the link to {file} leads nowhere; name a file that is there"
                ));
            }
        }
    }
    problems
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_link_to_a_missing_file_is_found_by_its_line() {
        let dir = tempfile::tempdir().expect("a directory");
        fs::write(dir.path().join("there.md"), "").expect("written");
        let text = "[a](there.md#part) [b](https://example.org/x)\n```\n[c](code.md)\n```\n[d](gone.md)";
        let found = dead_links("page.md", dir.path(), text);
        assert_eq!(found.len(), 1, "{found:?}");
        assert!(found[0].starts_with("page.md:5:"), "{found:?}");
    }

    #[test]
    fn a_page_that_the_summary_does_not_list_is_found() {
        let docs = Path::new("docs");
        let pages = [docs.join("SUMMARY.md"), docs.join("a.md"), docs.join("adr/b.md")];
        let found = unlisted(docs, &pages, "- [A](a.md)\n");
        assert_eq!(found.len(), 1, "{found:?}");
        assert!(found[0].starts_with("docs/adr/b.md"), "{found:?}");
    }
}

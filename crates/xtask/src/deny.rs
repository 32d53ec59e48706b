//! Dependencies: what `deny.toml` bans, their licences, their sources.

use std::path::Path;

use anyhow::Result;

use crate::{sh, tools};

/// `cargo deny`, without the advisory database: that is fetched from a host of its own, and this runs offline.
pub(crate) fn run(root: &Path) -> Result<()> {
    let deny = tools::need(root, &tools::DENY)?;
    let mut command = std::process::Command::new(deny);
    sh::run(command.current_dir(root).args([
        "check",
        "--hide-inclusion-graph",
        "--allow",
        "unused-wrapper",
        "bans",
        "licenses",
        "sources",
    ]))
}

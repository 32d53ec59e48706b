//! The protobuf files under their linter.

use std::path::Path;
use std::process::Command;

use anyhow::Result;

use crate::{sh, tools};

/// `buf lint`, by the rules in `proto/buf.yaml`.
pub(crate) fn run(root: &Path) -> Result<()> {
    let proto = root.join("proto");
    if !proto.join("buf.yaml").exists() {
        eprintln!("note: no proto/buf.yaml, so there is nothing to lint");
        return Ok(());
    }
    let buf = tools::need(root, &tools::BUF)?;
    sh::run(Command::new(buf).current_dir(proto).arg("lint"))
}

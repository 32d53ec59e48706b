//! `holmes keys`: Ed25519 key files and API keys. Secrets are made here and stay here: the network learns public keys
//! and hashes.

use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail};
use ed25519_dalek::{Signer as _, SigningKey};
use holmes_accounts::possession::{self, Network};
use holmes_kernel::{Id, Principal, PrincipalKind, ServiceId};
use holmes_runtime::config::Config;
use holmes_runtime::fresh_id;
use holmes_staking::possession as staking;
use serde::Serialize;

use crate::output::{self, Format};
use crate::profile::Profile;
use crate::whole;

/// First word of a key file, so that nothing else is taken for one.
const MARK: &str = "holmes-ed25519-secret";

/// What is made or shown.
#[derive(Debug, clap::Args)]
#[command(after_help = "Examples:
  holmes keys new node.key          a key pair for a node, wallet or member of staff
  holmes keys show node.key         its public key and id
  holmes keys api                   an API key: the secret for its owner, the hash for CreateApiKey
  holmes keys id                    a fresh id for what a caller names: accounts, keys, transfers, requests
  holmes keys offer wallet.key      the public key with its proof, for CreateAccount, AddPublicKey, RotateKey
  holmes keys offer node.key --as node --owner ACCOUNT            for Accounts/RegisterNodeKey
  holmes keys offer billing.key --as service --number 100         the request of Accounts/RegisterServiceKey
  holmes keys offer node.key --as staking-node --owner ACCOUNT --rating 1000    for Staking/RegisterNode

Public keys, hashes and proofs are printed in base64, as requests and profiles take them.")]
pub(crate) struct Args {
    #[command(subcommand)]
    action: Action,
}

#[derive(Debug, clap::Subcommand)]
enum Action {
    /// Make a key pair; only its owner can read the file.
    New {
        /// File to make; an existing one is never overwritten.
        file: PathBuf,
    },
    /// Show a key file's public key and id.
    Show {
        /// The key file.
        file: PathBuf,
    },
    /// Make an API key; nothing is stored.
    Api,
    /// Make an id: a UUIDv7 of now.
    Id,
    /// Print a public key as JSON with the proof that its secret is here, for one holder in one network.
    Offer {
        /// The key file.
        file: PathBuf,
        /// For whom the key will sign.
        #[arg(long = "as", value_enum, default_value_t)]
        holder: Holder,
        /// The account that has the key or answers for it; by default the account whose id is the key's.
        #[arg(long)]
        owner: Option<Id>,
        /// Of a service: its number, 1 to 65,535; the network's own have small ones.
        #[arg(long, value_parser = clap::value_parser!(u16).range(1..), required_if_eq("holder", "service"))]
        number: Option<u16>,
        /// What its owner calls it.
        #[arg(long, default_value = "")]
        label: String,
        /// Of a node that is to be bonded: its claimed power, thousandths of an RTX 4090 (E-3.1), at least 500.
        #[arg(long, default_value_t = 1_000, value_name = "MILLI_CU")]
        rating: u32,
        /// Profile of the network: a built-in name or a file.
        #[arg(long)]
        profile: Option<String>,
    },
}

/// For whom a key signs.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, clap::ValueEnum)]
enum Holder {
    /// An account.
    #[default]
    Account,
    /// A node, or a verifier.
    Node,
    /// A gateway.
    Gateway,
    /// A service of the network, under a number of its own: for Accounts/RegisterServiceKey.
    Service,
    /// A compute node that is to be bonded: prints the request of Staking/RegisterNode.
    StakingNode,
}

#[derive(Serialize)]
struct Public {
    id: String,
    public_key: String,
}

#[derive(Serialize)]
struct ApiKey {
    api_key: String,
    key_hash: String,
}

/// Makes or shows keys.
pub(crate) fn run(args: Args, config: Config, format: Format) -> Result<()> {
    match args.action {
        Action::New { file } => {
            let key = make(&file)?;
            eprintln!("{} holds the secret: keep a copy where nobody else can read it", file.display());
            show(&key, format)
        }
        Action::Show { file } => show(&read(&file)?, format),
        Action::Api => {
            let api_key = fresh_api_key()?;
            let key_hash = output::base64(blake3::hash(api_key.as_bytes()).as_bytes());
            eprintln!("the key is shown once; the network gets its hash");
            output::rows(format, &["API KEY", "HASH"], &[ApiKey { api_key, key_hash }], |row| {
                vec![row.api_key.clone(), row.key_hash.clone()]
            })
        }
        Action::Id => output::text(&fresh_id().to_string()),
        Action::Offer { file, holder, owner, number, label, rating, profile } => {
            let profile = Profile::load(&profile.unwrap_or(config.cell.profile))?;
            let network = Network { genesis: profile.hash(), cell: config.cell.number };
            let mut offered = match number.filter(|_| holder == Holder::Service) {
                Some(number) => return output::text(&service(&read(&file)?, number, &network).to_string()),
                None => offer(&read(&file)?, holder, owner, &network)?,
            };
            if holder == Holder::StakingNode {
                offered["kind"] = "NODE_KIND_COMPUTE".into();
                offered["rating_milli_cu"] = rating.into();
            } else {
                offered["label"] = label.into();
            }
            output::text(&offered.to_string())
        }
    }
}

/// A public key as requests take it: `accounts.proto` says what its proof covers.
fn offer(
    key: &SigningKey,
    holder: Holder,
    owner: Option<Id>,
    network: &Network,
) -> Result<serde_json::Value> {
    let public = key.verifying_key().to_bytes();
    let own = Id::of_key(&public);
    let owner = match (holder, owner) {
        (_, Some(owner)) => owner,
        (Holder::Account, None) => own,
        _ => bail!("an account answers for a machine: name it with --owner"),
    };
    let account = Principal::new(PrincipalKind::Account, owner);
    let of = |holder| possession::statement(network, holder, Some(owner), &public);
    let statement = match holder {
        Holder::Account => of(account),
        Holder::Node => of(Principal::new(PrincipalKind::Node, own)),
        Holder::Gateway => of(Principal::new(PrincipalKind::Gateway, own)),
        Holder::Service => bail!("a service has a number: name it with --number"),
        Holder::StakingNode => {
            let network = staking::Network { genesis: network.genesis, cell: network.cell };
            staking::statement(&network, account, &public)
        }
    };
    let proof = key.sign(&statement).to_bytes();
    let (public, proof) = (output::base64(&public), output::base64(&proof));
    Ok(serde_json::json!({ "public_key": public, "possession": proof }))
}

/// The request of Accounts/RegisterServiceKey.
fn service(key: &SigningKey, number: u16, network: &Network) -> serde_json::Value {
    let public = key.verifying_key().to_bytes();
    let statement = possession::statement(network, Principal::service(ServiceId(number)), None, &public);
    let proof = output::base64(&key.sign(&statement).to_bytes());
    let key = serde_json::json!({ "public_key": output::base64(&public), "possession": proof });
    serde_json::json!({ "service_number": number, "key": key })
}

/// Reads a key file.
pub(crate) fn read(file: &Path) -> Result<SigningKey> {
    let bytes = std::fs::read(file).with_context(|| format!("{} cannot be read", file.display()))?;
    let secret = secret(&bytes).ok_or_else(|| NotAKey(file.display().to_string()))?;
    Ok(SigningKey::from_bytes(&secret))
}

/// The secret in a key file's bytes.
fn secret(bytes: &[u8]) -> Option<[u8; 32]> {
    let digits = std::str::from_utf8(bytes).ok()?.trim().strip_prefix(MARK)?.strip_prefix(' ')?;
    if digits.len() != 64 || !digits.bytes().all(|digit| digit.is_ascii_hexdigit()) {
        return None;
    }
    let mut secret = [0; 32];
    for (at, byte) in secret.iter_mut().enumerate() {
        *byte = u8::from_str_radix(&digits[2 * at..2 * at + 2], 16).ok()?;
    }
    Some(secret)
}

/// A file that was named as a key's holds something else.
#[derive(Debug, thiserror::Error)]
#[error("{0} is not a key file: make one with `holmes keys new FILE`")]
pub(crate) struct NotAKey(String);

impl NotAKey {
    pub(crate) const REASON: &str = "KEY_FILE_INVALID";
}

/// The text of a new API key.
pub(crate) fn fresh_api_key() -> Result<String> {
    Ok(format!("hk_{}", output::hex(&random::<32>()?)))
}

/// Makes a key file.
pub(crate) fn make(file: &Path) -> Result<SigningKey> {
    let secret = random::<32>()?;
    let text = format!("{MARK} {}\n", output::hex(&secret));
    whole::make(file, 0o600, text.as_bytes()).with_context(|| {
        format!("{} cannot be made (an existing key is never overwritten)", file.display())
    })?;
    Ok(SigningKey::from_bytes(&secret))
}

fn show(key: &SigningKey, format: Format) -> Result<()> {
    let public = key.verifying_key().to_bytes();
    let row = Public { id: Id::of_key(&public).to_string(), public_key: output::base64(&public) };
    output::rows(format, &["ID", "PUBLIC KEY"], &[row], |row| vec![row.id.clone(), row.public_key.clone()])
}

fn random<const N: usize>() -> Result<[u8; N]> {
    let mut bytes = [0; N];
    getrandom::fill(&mut bytes)
        .map_err(|why| anyhow::anyhow!("the operating system gives no randomness: {why}"))?;
    Ok(bytes)
}

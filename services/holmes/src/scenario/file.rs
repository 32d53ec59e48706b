//! A scenario as it is written: YAML, every key named here, every place known for messages about it.

use std::collections::BTreeMap;
use std::fmt;
use std::path::{Path, PathBuf};

use serde::Deserialize;
use serde_json::Value as Json;
use serde_saphyr::Spanned;

/// The whole file.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct File {
    /// What it is called: lower-case words with hyphens.
    pub name: Spanned<String>,
    /// What it teaches.
    pub about: Spanned<String>,
    /// What keys and ids follow from, with the names of who has them.
    #[serde(default)]
    pub seed: u64,
    /// The network's profile: a built-in name or a file.
    pub profile: Option<Spanned<String>>,
    /// Parameters over those of the profile, service by service.
    pub params: Option<Spanned<toml::Table>>,
    /// When it begins.
    pub start: Option<Spanned<String>>,
    /// What answers questions.
    pub engine: Option<Spanned<Engine>>,
    /// How the gateway reports who is there.
    #[serde(default)]
    pub presence: Presence,
    /// Who takes part.
    #[serde(default)]
    pub people: BTreeMap<String, Spanned<Person>>,
    /// What they run.
    #[serde(default)]
    pub nodes: BTreeMap<String, Spanned<Node>>,
    /// What happens.
    pub steps: Vec<Spanned<Step>>,
    /// What must be so at the end.
    pub expect: Option<Spanned<Closing>>,
}

/// What answers questions.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub(super) enum Engine {
    /// Every token follows from those before it by a hash: no arithmetic, the same on every machine.
    Fake,
    /// The model that the binary carries, on the CPU.
    Tiny,
}

/// How the gateway reports who is there.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub(super) enum Presence {
    /// As a real one: before its silence would be taken for its end.
    #[default]
    Always,
    /// Once an epoch, at its end, for the whole of it; nodes are attached only then. For years.
    OnceAnEpoch,
}

/// Who takes part.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Person {
    /// As what.
    pub is: Kind,
    /// What is paid into accounts of theirs at the beginning: "25 USD".
    #[serde(default)]
    pub has: Vec<Spanned<String>>,
    /// Of a service: its number.
    pub number: Option<u16>,
}

/// As what somebody takes part.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub(super) enum Kind {
    /// Rents.
    Renter,
    /// Runs nodes.
    Operator,
    /// Runs verifiers.
    Verifier,
    /// Has an account and no role.
    Holder,
    /// Runs the cell, beside the first staff that every network has.
    Staff,
    /// Another service, known by its number.
    Service,
}

/// A node.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Node {
    /// Who answers for it.
    pub owner: Spanned<String>,
    /// What it claims to be.
    #[serde(default = "default_hardware")]
    pub hardware: String,
    /// What staff attests, milli-CU.
    #[serde(default = "default_rating")]
    pub rating: u32,
    /// Calls at a time.
    #[serde(default = "default_slots")]
    pub slots: u32,
    /// What is bonded: "5000 HOL"; by default a little more than is required. "none" leaves it to steps.
    pub bond: Option<Spanned<String>>,
    /// Whether it attaches at the beginning.
    #[serde(default = "yes")]
    pub attached: bool,
}

fn default_hardware() -> String {
    "4090".into()
}

fn default_rating() -> u32 {
    1_000
}

fn default_slots() -> u32 {
    4
}

fn yes() -> bool {
    true
}

/// One step: it calls, asks or does.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Step {
    /// When; at once, where nothing is said.
    pub at: Option<Spanned<String>>,
    /// Who.
    #[serde(rename = "as")]
    pub who: Option<Spanned<String>>,
    /// By what it is proven who calls.
    #[serde(default)]
    pub by: By,
    /// A method.
    pub call: Option<Spanned<String>>,
    /// Its request.
    pub with: Option<Spanned<Json>>,
    /// A question to a model.
    pub ask: Option<Spanned<Ask>>,
    /// What happens to the network.
    #[serde(rename = "do")]
    pub deed: Option<Spanned<String>>,
    /// The name of the reply, for later steps.
    pub save: Option<Spanned<String>>,
    /// What the reply must have, at least.
    pub expect: Option<Spanned<Json>>,
    /// The reason with which it must be refused.
    pub refused: Option<Spanned<String>>,
    /// How often; `${n}` counts from 1.
    pub repeat: Option<Spanned<u64>>,
    /// How long after each other.
    pub every: Option<Spanned<String>>,
}

/// By what it is proven who calls.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub(super) enum By {
    /// A signature over the request.
    #[default]
    Signature,
    /// An API key with the caller's roles.
    ApiKey,
    /// The same with the scope admin.
    AdminKey,
    /// A signature by a key that is not the caller's.
    WrongKey,
    /// Nothing.
    Nothing,
}

/// A question to a model.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Ask {
    /// Which.
    #[serde(default = "default_model")]
    pub model: String,
    /// What.
    pub prompt: String,
    /// How long the answer may be.
    pub max_tokens: u32,
    /// What pays: the name of an asset.
    pub pay: Option<String>,
    /// The node that the renter names.
    pub node: Option<String>,
    /// The renter hangs up after so many tokens.
    pub hangs_up_after: Option<u32>,
    /// The node is lost after so many tokens; another one goes on.
    pub node_lost_after: Option<u32>,
    /// How long it takes.
    pub lasts: Option<String>,
}

fn default_model() -> String {
    crate::models::OWN_MODEL.into()
}

/// What must be so at the end. That every invariant holds is always expected.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Closing {
    /// What lies in accounts: `dora.USD` or `ecosystem/HOL` → "25 USD" or ">= 1 HOL".
    #[serde(default)]
    pub balances: BTreeMap<String, Spanned<String>>,
    /// What exists and was destroyed of an asset.
    #[serde(default)]
    pub supply: BTreeMap<String, Spanned<Supply>>,
}

/// What exists and was destroyed of an asset.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Supply {
    /// "1000000000 HOL".
    pub existing: Option<Spanned<String>>,
    /// "0 HOL".
    pub destroyed: Option<Spanned<String>>,
}

/// Something is wrong with the file.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Wrong(pub Vec<(u64, String)>);

impl Wrong {
    pub(super) fn of(self, file: &Path) -> WrongIn {
        WrongIn { file: file.to_owned(), all: self.0 }
    }
}

/// The same, where it is known in which file.
#[derive(Debug, thiserror::Error)]
pub(crate) struct WrongIn {
    file: PathBuf,
    all: Vec<(u64, String)>,
}

impl WrongIn {
    /// What a script may branch on.
    pub(crate) const REASON: &str = "SCENARIO_INVALID";
}

impl fmt::Display for WrongIn {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let lines = self.all.iter().map(|(line, what)| format!("{}:{line}: {what}", self.file.display()));
        f.write_str(&lines.collect::<Vec<_>>().join("\n"))
    }
}

/// Reads YAML; what is misspelt is named with its line and what was probably meant.
pub(super) fn parse(text: &str) -> Result<File, Wrong> {
    let options = serde_saphyr::options! { with_snippet: false };
    if text.trim().is_empty() {
        return Err(Wrong(vec![(1, "the file is empty: docs/scenarios has some to begin with".into())]));
    }
    serde_saphyr::from_str_with_options(text, options).map_err(|why| {
        let line = why.location().map_or(1, |at| at.line());
        let what = in_words(&why);
        let quotes = if wants_quotes(text, line, &what) { WANTS_QUOTES } else { "" };
        Wrong(vec![(line, what + quotes)])
    })
}

const WANTS_QUOTES: &str =
    "; inside { } and [ ] what is referred to stands in quotes, as in { account_id: \"${alice.USD}\" }";

/// Whether the braces of `${…}` were taken for YAML's own.
fn wants_quotes(text: &str, line: u64, what: &str) -> bool {
    let before = usize::try_from(line).unwrap_or(usize::MAX).saturating_sub(1);
    what.contains("flow") && text.lines().nth(before).is_some_and(|line| line.contains("${"))
}

fn in_words(why: &serde_saphyr::Error) -> String {
    match why {
        serde_saphyr::Error::SerdeUnknownField { field, expected, .. } => {
            format!("there is no key `{field}` here{}", meant(field, expected))
        }
        serde_saphyr::Error::SerdeUnknownVariant { variant, expected, .. } => {
            format!("`{variant}` is none of its values{}", meant(variant, expected))
        }
        serde_saphyr::Error::SerdeMissingField { field, .. } => format!("the key `{field}` is missing here"),
        other => other.to_string(),
    }
}

/// Beside what was probably meant more would only hide it.
const MOST_NAMED: usize = 20;

/// What was probably meant, and what there is.
pub(super) fn meant<T: AsRef<str>>(word: &str, known: &[T]) -> String {
    let lower = word.to_lowercase();
    let near = known
        .iter()
        .map(|known| (strsim::damerau_levenshtein(&lower, &known.as_ref().to_lowercase()), known.as_ref()))
        .min()
        .filter(|(distance, known)| *distance <= 2.max(known.len() / 3));
    let all: Vec<&str> = known.iter().map(AsRef::as_ref).collect();
    match (near, all.is_empty()) {
        (Some((_, near)), _) if all.len() > MOST_NAMED => format!(": did you mean `{near}`?"),
        (Some((_, near)), _) => format!(": did you mean `{near}`? There are: {}", all.join(", ")),
        (None, false) => format!(": there are {}", all.join(", ")),
        (None, true) => ": there are none".to_owned(),
    }
}

//! What a file means, and everything that can be found wrong with it without playing it: names that nobody has, methods
//! and fields that are not there, moments that are past, expectations that nothing would ever be held to.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use holmes_kernel::{Calendar, Time};
use holmes_proto::ledger::v1::{Asset, Params};
use prost_reflect::prost::Message as _;
use prost_reflect::{DescriptorPool, MethodDescriptor};
use serde_json::{Value as Json, json};
use serde_saphyr::Spanned;

use super::cast::{self, Cast};
use super::file::{self, Ask, By, Engine, File, Kind, Node, Person, Presence, Wrong, meant};
use super::names::{self, Reference};
use super::{expect, fields};
use crate::output;
use crate::profile::Profile;
use crate::{roles, when};

mod steps;

/// A scenario that can be played.
pub(super) struct Plan {
    pub name: String,
    pub about: String,
    pub profile: Profile,
    pub start: Time,
    pub calendar: Calendar,
    pub engine: Option<Engine>,
    pub presence: Presence,
    pub people: BTreeMap<String, Person>,
    pub nodes: BTreeMap<String, Node>,
    pub assets: Vec<Asset>,
    pub cast: Cast,
    pub steps: Vec<Planned>,
    pub closing: file::Closing,
    /// How long it lasts at least.
    lasts: Duration,
}

/// Epochs that are closed in seconds; each takes every service some milliseconds.
const MANY_EPOCHS: u64 = 10_000;

impl Plan {
    /// What to know before it is played: that it takes long, and what would not.
    pub(super) fn warning(&self) -> Option<String> {
        let (epochs, epoch_s) = (self.lasts.as_secs() / self.calendar.epoch_s(), self.calendar.epoch_s());
        (epochs > MANY_EPOCHS).then(|| {
            format!(
                "{} closes {epochs} epochs of {epoch_s} s, which takes long: with `profile: hol` an epoch is a day, \
                 and with `presence: once-an-epoch` years take seconds",
                self.name
            )
        })
    }
}

/// A step that can be played.
#[derive(Clone)]
pub(super) struct Planned {
    /// From 1 on.
    pub number: usize,
    pub line: u64,
    /// How long after the start; at once where nothing is said.
    pub at: Option<Duration>,
    pub what: What,
    pub save: Option<String>,
    pub expect: Option<Json>,
    pub refused: Option<String>,
    pub repeat: u64,
    pub every: Duration,
}

/// What a step is.
#[derive(Clone)]
pub(super) enum What {
    Call { who: String, by: By, method: MethodDescriptor, with: Json },
    Ask { who: String, ask: Ask, lasts: Duration },
    Do(Deed),
}

/// What can happen to a network.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Deed {
    /// States are thrown away and rebuilt from their logs: all, or one service's.
    Restart(Option<String>),
    /// Time passes.
    Advance(Duration),
    /// A node's stream breaks.
    Lose(String),
    /// A node attaches, again perhaps.
    Attach(String),
    /// The gateway falls silent.
    StopGateway,
    /// The gateway starts anew.
    StartGateway,
}

/// What the members of an answer to `ask` are called.
pub(super) const ANSWER: [&str; 11] = [
    "text",
    "finish",
    "inputTokens",
    "outputTokens",
    "priceMicroUsd",
    "mostMicroUsd",
    "session",
    "leases",
    "nodes",
    "receipts",
    "pays",
];

/// Reads a file's text.
pub(super) fn plan(text: &str) -> Result<Plan, Wrong> {
    let file = file::parse(text)?;
    let mut checker = Checker::new(&file)?;
    checker.people(&file);
    let steps = file.steps.iter().enumerate().filter_map(|(at, step)| checker.step(at + 1, step)).collect();
    let closing = checker.closing(&file);
    if file.steps.is_empty() {
        checker.wrong(1, "there are no steps: nothing would be played");
    }
    if !checker.wrongs.is_empty() {
        checker.wrongs.sort();
        return Err(Wrong(checker.wrongs));
    }
    let unspan = |of: &BTreeMap<String, Spanned<Person>>| {
        of.iter().map(|(name, person)| (name.clone(), person.value.clone())).collect()
    };
    Ok(Plan {
        name: file.name.value.clone(),
        about: file.about.value.clone(),
        profile: checker.profile,
        start: checker.start,
        calendar: checker.calendar,
        engine: file.engine.as_ref().map(|engine| engine.value),
        presence: file.presence,
        people: unspan(&file.people),
        nodes: file.nodes.iter().map(|(name, node)| (name.clone(), node.value.clone())).collect(),
        assets: checker.assets,
        cast: checker.cast,
        steps,
        closing,
        lasts: checker.now,
    })
}

fn line<T>(of: &Spanned<T>) -> u64 {
    of.referenced.line()
}

/// "25 USD": the asset, and how many base units.
pub(super) fn amount<'a>(assets: &'a [Asset], text: &str) -> Result<(&'a Asset, u64), String> {
    let how = || format!("{text:?} is no amount: write a number and an asset, as in \"25 USD\"");
    let (coins, name) = text.trim().split_once(' ').ok_or_else(how)?;
    let names: Vec<&str> = assets.iter().map(|asset| asset.name.as_str()).collect();
    let asset = assets.iter().find(|asset| asset.name == name.trim());
    let asset = asset.ok_or_else(|| format!("no asset is called {name}{}", meant(name, &names)))?;
    match output::units(coins, asset.decimals) {
        Ok(units) => Ok((asset, units)),
        Err(output::NotAnAmount::Zero) => Ok((asset, 0)),
        Err(why) => Err(format!("{text:?} is no amount: {why}")),
    }
}

/// Goes through a file from its beginning, and remembers what it has met.
struct Checker {
    wrongs: Vec<(u64, String)>,
    pool: DescriptorPool,
    profile: Profile,
    start: Time,
    calendar: Calendar,
    assets: Vec<Asset>,
    cast: Cast,
    /// Assets of everybody's accounts.
    has: BTreeMap<String, BTreeSet<String>>,
    nodes: BTreeSet<String>,
    engine: bool,
    /// Names of replies, and the types that they have; none for an answer to a question.
    saved: BTreeMap<String, Option<MethodDescriptor>>,
    /// How long after the start it is, at least.
    now: Duration,
}

impl Checker {
    /// Opens the network's profile; without one nothing else can be said.
    fn new(file: &File) -> Result<Checker, Wrong> {
        let at = |line: u64| move |why: String| Wrong(vec![(line, why)]);
        let named = file.profile.as_ref();
        let profile_line = named.map_or(1, line);
        let base = Profile::load(named.map_or("", |name| &name.value))
            .map_err(|why| at(profile_line)(format!("{why:#}")))?;
        let params_line = file.params.as_ref().map_or(profile_line, line);
        let (people, nodes) = (&file.people, &file.nodes);
        let cast = Cast::new(
            file.seed,
            people.iter().map(|(name, of)| (name, &of.value)),
            nodes.iter().map(|(name, of)| (name, &of.value)),
        );
        let mut over = file.params.as_ref().map(|over| over.value.clone()).unwrap_or_default();
        let opened = |over: &toml::Table| {
            let profile = base.overlaid(&file.name.value, over);
            profile.map_err(|why| at(params_line)(format!("{why:#}")))
        };
        let assets = assets(&opened(&over)?).map_err(at(params_line))?;
        let opens = |over: &toml::Table, line: u64, why: &str| {
            let profile = opened(over)?;
            roles::openable(profile).map_err(|error| at(line)(format!("{why}{error:#}")))
        };
        opens(&over, params_line, "")?;
        let grants = grants(file, &cast, &assets).map_err(|wrong| Wrong(vec![wrong]))?;
        if let Some(most) = grants.iter().max_by_key(|grant| grant.units).map(|grant| grant.line) {
            let grants = grants.into_iter().map(|grant| grant.written.into());
            let treasury = over.entry("treasury").or_insert_with(|| toml::Table::new().into());
            if let Some(treasury) = treasury.as_table_mut() {
                let list = treasury.entry("grants").or_insert_with(|| toml::Value::Array(Vec::new()));
                if let Some(list) = list.as_array_mut() {
                    list.extend(grants);
                }
            }
            opens(&over, most, "what people have of tokens comes out of genesis: ")?;
        }
        let profile = opened(&over)?;
        let epoch_s = profile.epoch_s().map_err(|why| at(params_line)(format!("{why:#}")))?;
        let start = start(file.start.as_ref()).map_err(|wrong| Wrong(vec![wrong]))?;
        let grid_ms = epoch_s * 1_000;
        let tge = Time::from_millis(start.millis() / grid_ms * grid_ms);
        let (wrongs, has, saved) = (Vec::new(), BTreeMap::new(), BTreeMap::new());
        let pool = DescriptorPool::decode(holmes_proto::DESCRIPTORS)
            .map_err(|why| at(1)(format!("the build's descriptors: {why}")))?;
        Ok(Checker {
            wrongs,
            pool,
            profile,
            start,
            calendar: Calendar::new(tge, epoch_s),
            assets,
            cast,
            has,
            nodes: nodes.keys().cloned().collect(),
            engine: file.engine.is_some(),
            saved,
            now: Duration::ZERO,
        })
    }

    fn wrong(&mut self, line: u64, what: impl Into<String>) {
        self.wrongs.push((line, what.into()));
    }

    fn people(&mut self, file: &File) {
        if file.name.value.is_empty() || !file.name.value.bytes().all(is_of_a_name) {
            self.wrong(line(&file.name), "a name has lower-case letters, digits and hyphens");
        }
        let named = file.people.iter().map(|(name, of)| (name, line(of)));
        let named = named.chain(file.nodes.iter().map(|(name, of)| (name, line(of))));
        for (name, line) in named.collect::<Vec<_>>() {
            if cast::TAKEN.contains(&name.as_str()) || !name.bytes().all(is_of_a_name) {
                self.wrong(
                    line,
                    format!(
                        "{name} cannot be a name: lower-case letters, digits and hyphens, not {:?}",
                        cast::TAKEN
                    ),
                );
            }
            if file.people.contains_key(name) && file.nodes.contains_key(name) {
                self.wrong(line, format!("{name} is a person and a node: give one of them another name"));
            }
        }
        for (name, person) in &file.people {
            self.person(name, person);
        }
        for node in file.nodes.values() {
            self.node(file, node);
        }
    }

    fn person(&mut self, name: &str, person: &Spanned<Person>) {
        let is_service = person.value.is == Kind::Service;
        if is_service != person.value.number.is_some() {
            self.wrong(line(person), format!("{name}: a service has a `number`, and nobody else has"));
        }
        for text in &person.value.has {
            match amount(&self.assets, &text.value) {
                Ok((asset, _)) => {
                    let asset = asset.name.clone();
                    if !self.has.entry(name.to_owned()).or_default().insert(asset.clone()) {
                        self.wrong(line(text), format!("{name} has {asset} twice: write one amount"));
                    }
                }
                Err(why) => self.wrong(line(text), why),
            }
        }
        if matches!(person.value.is, Kind::Staff | Kind::Service) && !person.value.has.is_empty() {
            self.wrong(
                line(person),
                format!("{name}: only renters, operators, verifiers and holders have money here"),
            );
        }
    }

    fn node(&mut self, file: &File, node: &Spanned<Node>) {
        let owner = &node.value.owner;
        let is_operator = file.people.get(&owner.value).is_some_and(|of| of.value.is == Kind::Operator);
        if !is_operator {
            let known: Vec<&String> = file.people.keys().collect();
            self.wrong(line(owner), format!("{} is no operator{}", owner.value, meant(&owner.value, &known)));
        }
        let bonds = node.value.bond.as_ref().is_none_or(|bond| bond.value != "none");
        if let Some(bond) = node.value.bond.as_ref().filter(|bond| bond.value != "none")
            && let Err(why) = amount(&self.assets, &bond.value)
        {
            self.wrong(line(bond), why);
        }
        let is_poor = self.has.get(&owner.value).is_none_or(BTreeSet::is_empty);
        if bonds && is_operator && is_poor {
            self.wrong(line(owner), format!("{} has nothing to bond: say what under `has`", owner.value));
        }
    }

    /// Whether everything that is named is known by then.
    fn references(&mut self, json: &Json, line: u64, repeats: bool) {
        let mut wrongs = Vec::new();
        let looked = names::expand(json, &mut |reference| {
            if let Err(why) = self.knows(reference, repeats) {
                wrongs.push(why);
            }
            Ok(Json::Null)
        });
        wrongs.extend(looked.err());
        for why in wrongs {
            self.wrong(line, why);
        }
    }

    fn knows(&self, reference: &Reference, repeats: bool) -> Result<(), String> {
        match reference {
            Reference::Id(name) if !name.contains(names::TURN) => Ok(()),
            Reference::Id(_) | Reference::Turn if repeats => Ok(()),
            Reference::Id(_) | Reference::Turn => Err("${n} counts repetitions: write `repeat`".into()),
            Reference::Time(_) => Ok(()),
            Reference::Account(name) => self.knows_account(name),
            Reference::Amount(text) => amount(&self.assets, text).map(drop),
            Reference::Named(name, path) => self.knows_name(name, path),
        }
    }

    /// An account of the platform. Which there are is known only when it is played.
    fn knows_account(&self, name: &str) -> Result<(), String> {
        match name.split_once('/') {
            Some((_, asset)) => self.knows_asset(asset),
            None => Err(format!("{name} is no account: write NAME.ASSET, or NAME/ASSET of the platform's")),
        }
    }

    fn knows_asset(&self, asset: &str) -> Result<(), String> {
        let names: Vec<&str> = self.assets.iter().map(|asset| asset.name.as_str()).collect();
        match names.contains(&asset) {
            true => Ok(()),
            false => Err(format!("no asset is called {asset}{}", meant(asset, &names))),
        }
    }

    fn knows_name(&self, name: &str, path: &[String]) -> Result<(), String> {
        if let Some(of) = self.saved.get(name) {
            return match (of, path.first()) {
                (Some(method), Some(_)) => {
                    let shape =
                        path.iter().rfold(Json::from("${n}"), |inner, step| match step.parse::<usize>() {
                            Ok(_) => json!([inner]),
                            Err(_) => json!({ step: inner }),
                        });
                    fields::misfits(&shape, &method.output(), "").pop().map_or(Ok(()), Err)
                }
                (None, Some(first)) if !ANSWER.contains(&first.as_str()) => {
                    Err(format!("an answer has no {first}{}", meant(first, &ANSWER)))
                }
                _ => Ok(()),
            };
        }
        if self.cast.party(name).is_none() {
            let mut known = self.cast.names();
            known.extend(self.saved.keys().cloned());
            return Err(format!("nothing is called {name} by then{}", meant(name, &known)));
        }
        let assets = self.has.get(name).cloned().unwrap_or_default();
        let known: Vec<String> =
            ["principal".to_owned(), "key".to_owned()].into_iter().chain(assets).collect();
        match path {
            [] => Ok(()),
            [one] if known.contains(one) => Ok(()),
            other => Err(format!("{name} has no {}{}", other.join("."), meant(&other.join("."), &known))),
        }
    }

    fn closing(&mut self, file: &File) -> file::Closing {
        let Some(closing) = &file.expect else { return file::Closing::default() };
        for (account, wanted) in &closing.value.balances {
            let known = match account.split_once('.') {
                Some((name, asset)) => self.knows_name(name, &[asset.to_owned()]),
                None => self.knows_account(account),
            };
            let of = account.rsplit(['.', '/']).next().unwrap_or_default();
            if let Err(why) = known.and_then(|()| self.amount_of(of, &wanted.value)) {
                self.wrong(line(wanted), why);
            }
        }
        for (asset, supply) in &closing.value.supply {
            if let Err(why) = self.knows_asset(asset) {
                self.wrong(line(supply), why);
            }
            for wanted in [&supply.value.existing, &supply.value.destroyed].into_iter().flatten() {
                if let Err(why) = self.amount_of(asset, &wanted.value) {
                    self.wrong(line(wanted), why);
                }
            }
        }
        closing.value.clone()
    }

    /// Whether an amount can be held to this asset: coins of another say nothing of it.
    fn amount_of(&self, asset: &str, wanted: &str) -> Result<(), String> {
        match expect::amount(&self.assets, wanted)? {
            (_, of, _) if of.name == asset => Ok(()),
            (_, of, _) => Err(format!("{wanted:?} is in {}, and what is held to it in {asset}", of.name)),
        }
    }
}

fn is_of_a_name(sign: u8) -> bool {
    sign.is_ascii_lowercase() || sign.is_ascii_digit() || sign == b'-'
}

/// When it begins: at the year's beginning where nothing is said.
fn start(text: Option<&Spanned<String>>) -> Result<Time, (u64, String)> {
    let (line, text) = text.map_or((1, "2026-01-01T00:00:00Z"), |text| (line(text), text.value.as_str()));
    match when::place(text) {
        Ok(when::Place::At(at)) => Ok(at),
        _ => Err((line, format!("{text:?} is no moment: write one as in 2026-01-01T00:00:00Z"))),
    }
}

/// The assets of a network.
fn assets(profile: &Profile) -> Result<Vec<Asset>, String> {
    let params = profile.params("ledger", &holmes_ledger::params::encoded_defaults());
    let params = params.map_err(|why| format!("{why:#}"))?;
    Params::decode(params.as_slice()).map(|params| params.assets).map_err(|why| why.to_string())
}

/// What genesis pays to somebody.
struct Grant {
    units: u64,
    line: u64,
    /// As a profile has it.
    written: toml::Table,
}

/// What genesis pays to people: tokens of which all exist from the first moment (E-1.1).
fn grants(file: &File, cast: &Cast, assets: &[Asset]) -> Result<Vec<Grant>, (u64, String)> {
    let mut grants = Vec::new();
    for (name, person) in &file.people {
        for text in &person.value.has {
            let (asset, units) = amount(assets, &text.value).map_err(|why| (line(text), why))?;
            let Some(party) = cast.party(name).filter(|_| asset.cap_units > 0 && units > 0) else { continue };
            let mut written = toml::Table::new();
            written.insert("name".into(), name.replace('-', "_").into());
            written.insert("owner".into(), party.principal().to_string().into());
            written.insert("amount_units".into(), units.to_string().into());
            grants.push(Grant { units, line: line(text), written });
        }
    }
    Ok(grants)
}

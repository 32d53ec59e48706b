//! The files that a data directory keeps beside its logs: keys, and when the first epoch began. Each is made before the
//! first log that depends on it. From then on one that is missing, damaged or another directory's is refused: a new one in
//! its place would silently lose what the log can never name again.

use std::borrow::Cow;
use std::collections::BTreeMap;
use std::fs::File;
use std::io::ErrorKind;
use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result, bail};
use ed25519_dalek::SigningKey;
use holmes_accounts::Accounts;
use holmes_kernel::{Calendar, Event as _, Id, LogId, Machine, Opened, Replica, ServiceId, Time};
use holmes_runtime::recover::{Extent, recover};
use holmes_scheduling::Scheduling;
use holmes_store::Journal;
use prost_reflect::Value;

use crate::profile::Profile;
use crate::roles::{self, Role};
use crate::{keys, output, whole};

/// A file, and what a refusal says of it.
struct Kind {
    name: Cow<'static, str>,
    lost: &'static str,
    remedy: &'static str,
}

/// What signs for staff.
pub(crate) const STAFF_KEY: &str = "staff.key";

const STAFF: Kind = Kind {
    name: Cow::Borrowed(STAFF_KEY),
    lost: "it signs what only staff may do, and a new one would be a key that the network does not know",
    remedy: "Restore it from a backup; where staff signs with a key that is kept elsewhere, start with --no-staff-key \
             (that staff can add a key: holmes keys new, holmes keys offer, Accounts/AddPublicKey)",
};
const LEASE: Kind = Kind {
    name: Cow::Borrowed("scheduling.key"),
    lost: "leases are signed with it, and nodes trust no lease of another key than the log of scheduling names",
    remedy: "Restore it from a backup: no other key can take its place",
};
const GATEWAY: Kind = Kind {
    name: Cow::Borrowed("gateway.key"),
    lost: "only its gateway can report the calls that it had open",
    remedy: "Restore it from a backup; or give those calls up and begin as a new gateway: move away what is there, then \
             holmes keys new FILE",
};
const BEGINNING: Kind = Kind {
    name: Cow::Borrowed("tge_at_ms"),
    lost: "it says when the first epoch began, and a log that is opened later would count its epochs otherwise",
    remedy: "Restore it from a backup",
};
const PROFILE: Kind = Kind {
    name: Cow::Borrowed("profile.toml"),
    lost: "it opened the logs, and they go on with no other",
    remedy: "Restore it from a backup, or name the one that opened them (--profile)",
};
/// The key by which a process of a role asks the cell's other processes.
fn service_key(role: &str) -> Kind {
    Kind {
        name: Cow::Owned(format!("service-{role}.key")),
        lost: "the cell's other processes know the service by it",
        remedy: "Restore it from a backup; or make another (holmes keys new FILE) and let staff register it (holmes keys offer \
                 FILE --as service --number N, Accounts/RegisterServiceKey)",
    }
}

/// The files that a process of a role holds.
pub(crate) fn names_of(role: &str) -> Vec<String> {
    match role {
        roles::GATEWAY => vec![GATEWAY.name.to_string()],
        "scheduling" => vec![service_key(role).name.into_owned(), LEASE.name.to_string()],
        role => vec![service_key(role).name.into_owned()],
    }
}

/// Of any of them while no log depends on it.
const UNUSED: &str = "No log depends on it yet: remove it, and the next start makes a new one";

/// A file that was refused.
#[derive(Debug, thiserror::Error)]
#[error("{file} {what}: {lost}. {remedy}")]
pub(crate) struct Refused {
    /// Stable, for scripts.
    pub reason: &'static str,
    file: String,
    what: String,
    lost: &'static str,
    remedy: String,
}

/// The profile of a directory: the one that is named, or the one that opened its logs.
pub(crate) fn profile(path: &Path, name: &str) -> Result<Profile> {
    let file = path.join(&*PROFILE.name);
    Profile::load(name).map_err(|why| {
        if Path::new(name) != file {
            return why;
        }
        // A parser goes on to show the line, which may hold anything.
        let cause = why.root_cause().to_string();
        let what = format!("cannot be used ({})", cause.lines().next().unwrap_or_default());
        refused("KEPT_FILE_DAMAGED", &PROFILE, &file, what, PROFILE.remedy)
    })
}

/// The profile's file, where the directory has one.
pub(crate) fn profile_file(path: &Path) -> Option<PathBuf> {
    Some(path.join(&*PROFILE.name)).filter(|file| file.is_file())
}

/// Keeps the profile that is about to open the logs, unless it is there.
pub(crate) fn keep_profile(path: &Path, text: &str) -> Result<()> {
    if profile_file(path).is_some() {
        return Ok(());
    }
    let file = path.join(&*PROFILE.name);
    whole::make(&file, 0o644, text.as_bytes())
        .with_context(|| format!("{} cannot be written", file.display()))
}

fn refused(reason: &'static str, kind: &Kind, file: &Path, what: String, remedy: &str) -> anyhow::Error {
    let file = file.display().to_string();
    let remedy = remedy.replace("FILE", &file);
    Refused { reason, file, what, lost: kind.lost, remedy }.into()
}

/// What the files hold.
pub(crate) struct Kept {
    /// Signs for staff, unless that key is kept elsewhere.
    pub staff: Option<SigningKey>,
    /// Signs leases.
    pub lease: SigningKey,
    /// Countersigns calls, where a gateway is wanted.
    pub gateway: Option<SigningKey>,
    /// When the first epoch began, ms since the Unix epoch.
    pub began_at_ms: u64,
}

impl Kept {
    /// Has logs opened with it.
    pub(crate) fn open_with(&self, profile: &mut Profile) {
        if let Some(staff) = &self.staff {
            profile.staff_key(staff.verifying_key().to_bytes());
        }
        profile.lease_key(self.lease.verifying_key().to_bytes());
        profile.begin_at(self.began_at_ms);
    }
}

/// What a process that runs some roles of a cell holds.
pub(crate) struct Held {
    /// Signs as the first of its roles with a log.
    pub service: Option<SigningKey>,
    /// Signs leases, where it runs scheduling.
    pub lease: Option<SigningKey>,
    /// Countersigns calls, where it runs a gateway.
    pub gateway: Option<SigningKey>,
}

/// The keys of the cell's own processes, as its logs are opened with them.
pub(crate) struct Processes {
    /// Of each service.
    pub services: Vec<(ServiceId, [u8; 32])>,
    /// Of its gateway.
    pub gateway: [u8; 32],
}

/// A data directory whose logs can be read.
pub(crate) struct Directory<'a> {
    path: &'a Path,
    journal: &'a Journal,
    cell: u16,
    profile: &'a Profile,
    /// What each log was opened with.
    opened: BTreeMap<&'static str, Opened>,
}

impl<'a> Directory<'a> {
    /// Reads what each log was opened with; one that was opened with another profile is another network's.
    pub(crate) async fn of(
        path: &'a Path,
        journal: &'a Journal,
        cell: u16,
        profile: &'a Profile,
        roles: &[Role],
    ) -> Result<Directory<'a>> {
        let mut opened = BTreeMap::new();
        for role in roles {
            let Some(of) = role.opened(journal, cell).await? else { continue };
            if of.profile_hash != profile.hash() {
                let kept = path.join(&*PROFILE.name);
                if Path::new(profile.name()) == kept {
                    let what = format!("is not the profile that the log of {} was opened with", role.name);
                    return Err(refused("KEPT_FILE_DIFFERS", &PROFILE, &kept, what, PROFILE.remedy));
                }
                bail!(
                    "the log of {} was opened with another profile: name that one (--profile), or another directory (--dir)",
                    role.name
                );
            }
            opened.insert(role.name, of);
        }
        Ok(Directory { path, journal, cell, profile, opened })
    }

    /// Reads the files, and makes those that no log depends on yet.
    pub(crate) async fn kept(&self, now: Time, staff: bool, gateway: bool) -> Result<Kept> {
        let staff = if staff { self.staff().await? } else { None };
        let lease = self.lease()?;
        let gateway = if gateway { Some(self.gateway().await?) } else { None };
        let kept = Kept { staff, lease, gateway, began_at_ms: self.began_at_ms(now)? };
        // Before a log depends on them: a power cut must not leave the log without them, nor take the directory's own name.
        File::open(self.path)?.sync_all().with_context(|| format!("{}", self.path.display()))?;
        if let Some(above) = self.path.canonicalize().ok().and_then(|path| File::open(path.parent()?).ok()) {
            above.sync_all().with_context(|| format!("the directory of {}", self.path.display()))?;
        }
        Ok(kept)
    }

    /// Reads what a process of some roles holds; the cell's logs have been opened with it.
    pub(crate) fn held(&self, roles: &[Role], gateway: bool) -> Result<Held> {
        let first = roles.first();
        let service = first.map(|role| self.key(&service_key(role.name), true)).transpose()?;
        let leases = roles.iter().any(|role| role.name == "scheduling");
        let lease = leases.then(|| self.lease_key(true)).transpose()?;
        let gateway = gateway.then(|| self.key(&GATEWAY, true)).transpose()?;
        Ok(Held { service, lease, gateway })
    }

    /// Reads the keys of the cell's own processes, and makes those that no log depends on yet.
    pub(crate) fn processes(&self, roles: &[Role], gateway: &SigningKey) -> Result<Processes> {
        let of = |role: &Role| {
            let kind = service_key(role.name);
            if self.opened.contains_key("accounts") && !self.file(&kind).exists() {
                let file = self.file(&kind).display().to_string();
                eprintln!(
                    "{file} is new: accounts know it when staff has registered it (holmes keys offer {file} --as service \
                     --number {}, Accounts/RegisterServiceKey)",
                    role.service.0
                );
            }
            let key = self.key(&kind, self.opened.contains_key(role.name))?;
            Ok((role.service, key.verifying_key().to_bytes()))
        };
        let services = roles.iter().map(of).collect::<Result<_>>()?;
        Ok(Processes { services, gateway: gateway.verifying_key().to_bytes() })
    }

    /// The key of staff. A profile that names its staff says that their keys are elsewhere.
    async fn staff(&self) -> Result<Option<SigningKey>> {
        if self.profile.names("accounts", "staff_public_keys") {
            return Ok(None);
        }
        let key = self.key(&STAFF, self.opened.contains_key("accounts"))?;
        let public = key.verifying_key().to_bytes();
        let first = self.opened_with("accounts", "staff_public_keys")?.unwrap_or_else(|| Value::List(vec![]));
        let is_first = first.as_list().is_some_and(|keys| keys.contains(&bytes(public)));
        if self.opened.contains_key("accounts") && !is_first {
            // Staff may have taken another key since.
            let accounts = self.replay::<Accounts>().await?;
            if accounts.state().public_keys.get(&public).is_none() {
                return Err(self.differs(&STAFF, &key, "the log of accounts knows no such key"));
            }
        }
        Ok(Some(key))
    }

    fn lease(&self) -> Result<SigningKey> {
        self.lease_key(self.opened.contains_key("scheduling"))
    }

    fn lease_key(&self, is_needed: bool) -> Result<SigningKey> {
        let key = self.key(&LEASE, is_needed)?;
        match self.opened_with("scheduling", "public_key")? {
            Some(named) if named != bytes(key.verifying_key().to_bytes()) => {
                let named = output::base64(named.as_bytes().map_or(&[], |named| named));
                Err(self.differs(&LEASE, &key, &format!("the log of scheduling names {named}")))
            }
            _ => Ok(key),
        }
    }

    /// The key of the gateway. A directory may have logs long before it has one.
    async fn gateway(&self) -> Result<SigningKey> {
        let file = self.file(&GATEWAY);
        let had_one = !file.exists()
            && self.opened.contains_key("scheduling")
            && !self.replay::<Scheduling>().await?.state().gateways.is_empty();
        self.key(&GATEWAY, had_one || file.exists())
    }

    /// A key file, made where none is needed yet.
    fn key(&self, kind: &Kind, is_needed: bool) -> Result<SigningKey> {
        let file = self.file(kind);
        match file.exists() {
            true => keys::read(&file).map_err(|why| match why.downcast_ref::<keys::NotAKey>() {
                Some(_) => self.damaged(kind, "is no key file", is_needed),
                None => why,
            }),
            false if is_needed => Err(self.missing(kind, kind.remedy.to_owned())),
            false => keys::make(&file),
        }
    }

    /// E-0.5: when the network's first epoch began, ms since the Unix epoch. It is fixed when the first log is opened and
    /// kept beside the logs, so that one that is opened later begins its epochs with the others.
    fn began_at_ms(&self, now: Time) -> Result<u64> {
        let (file, said) = (self.file(&BEGINNING), self.said_to_begin()?);
        let remedy = |(service, ms): &(&str, u64)| {
            format!(
                "The log of {service} says {ms}: write that number into the file, or restore it from a backup"
            )
        };
        let text = match std::fs::read(&file) {
            Ok(text) => text,
            Err(why) if why.kind() == ErrorKind::NotFound => match &said {
                Some(said) => return Err(self.missing(&BEGINNING, remedy(said))),
                None => return self.begin(&file, now),
            },
            Err(why) => return Err(why).with_context(|| format!("{} cannot be read", file.display())),
        };
        let found: Option<u64> = std::str::from_utf8(&text).ok().and_then(|text| text.trim().parse().ok());
        match (found, &said) {
            (Some(found), Some(of)) if found != of.1 => {
                Err(self.refused("KEPT_FILE_DIFFERS", &BEGINNING, format!("says {found}"), remedy(of)))
            }
            (Some(found), _) => Ok(found),
            (None, Some(of)) => {
                let what = "holds no number of ms since the Unix epoch".to_owned();
                Err(self.refused("KEPT_FILE_DAMAGED", &BEGINNING, what, remedy(of)))
            }
            (None, None) => {
                Err(self.damaged(&BEGINNING, "holds no number of ms since the Unix epoch", false))
            }
        }
    }

    /// What a log says of the beginning: the log's service, and ms since the Unix epoch.
    fn said_to_begin(&self) -> Result<Option<(&'static str, u64)>> {
        for service in self.opened.keys() {
            if let Some(Value::U64(ms)) = self.opened_with(service, &BEGINNING.name)? {
                return Ok(Some((service, ms)));
            }
        }
        Ok(None)
    }

    fn begin(&self, file: &Path, now: Time) -> Result<u64> {
        let since_1970 = Calendar::new(Time::default(), self.profile.epoch_s()?);
        let first = since_1970.begins(since_1970.epoch(now)).millis();
        whole::make(file, 0o644, format!("{first}\n").as_bytes())
            .with_context(|| format!("{} cannot be written", file.display()))?;
        Ok(first)
    }

    /// A parameter that a log was opened with, as far as it came from here and not from the profile.
    fn opened_with(&self, service: &str, field: &str) -> Result<Option<Value>> {
        let Some(opened) = self.opened.get(service) else { return Ok(None) };
        if self.profile.names(service, field) {
            return Ok(None);
        }
        self.profile.parameter(service, &opened.params, field)
    }

    async fn replay<M: Machine>(&self) -> Result<Replica<M>> {
        let log = LogId::new(self.cell, M::Event::SERVICE);
        Ok(recover::<M, Journal>(self.journal, log, Extent::ALL, |_| ()).await?)
    }

    fn file(&self, kind: &Kind) -> PathBuf {
        self.path.join(&*kind.name)
    }

    fn missing(&self, kind: &Kind, remedy: String) -> anyhow::Error {
        self.refused("KEPT_FILE_MISSING", kind, "is missing".into(), remedy)
    }

    fn damaged(&self, kind: &Kind, what: &str, is_needed: bool) -> anyhow::Error {
        let remedy = if is_needed { kind.remedy } else { UNUSED };
        self.refused("KEPT_FILE_DAMAGED", kind, what.into(), remedy.into())
    }

    fn differs(&self, kind: &Kind, key: &SigningKey, from: &str) -> anyhow::Error {
        let public = key.verifying_key().to_bytes();
        let what =
            format!("is another key, {} ({}), and {from}", output::base64(&public), Id::of_key(&public));
        self.refused("KEPT_FILE_DIFFERS", kind, what, kind.remedy.into())
    }

    fn refused(&self, reason: &'static str, kind: &Kind, what: String, remedy: String) -> anyhow::Error {
        refused(reason, kind, &self.file(kind), what, &remedy)
    }
}

fn bytes(public_key: [u8; 32]) -> Value {
    Value::Bytes(public_key.to_vec().into())
}

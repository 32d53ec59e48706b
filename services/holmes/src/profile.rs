//! A network's profile: what its logs are opened with. One section for each service; what a section does not name
//! keeps the service's default.

use std::path::Path;

use anyhow::{Context, Result, bail};
use holmes_kernel::ServiceId;
use holmes_kernel::canon::{self, Digest};
use holmes_runtime::auth::Network;
use holmes_runtime::config::Config;
use prost_reflect::prost::Message as _;
use prost_reflect::{DescriptorPool, DynamicMessage, MessageDescriptor, Value};

use crate::kept::Processes;

/// The profiles that the binary carries.
const BUILT_IN: &[(&str, &str)] = &[
    ("demo", include_str!("../../../deploy/profiles/demo.toml")),
    ("hol", include_str!("../../../deploy/profiles/hol.toml")),
];

/// A profile.
pub(crate) struct Profile {
    text: String,
    name: String,
    hash: Digest,
    sections: toml::Table,
    pool: DescriptorPool,
    /// What a network is given at its opening where its profile is silent: parameters by their name.
    given: Vec<(&'static str, Value)>,
}

/// E-0.5: length of an epoch where a profile does not say another, seconds.
const EPOCH_S: u64 = 86_400;

impl Profile {
    /// A built-in profile by its name, the first of them when none is named, or a file.
    pub(crate) fn load(name: &str) -> Result<Profile> {
        let name = if name.is_empty() { BUILT_IN[0].0 } else { name };
        let text = match BUILT_IN.iter().find(|(known, _)| *known == name) {
            Some((_, text)) => (*text).to_owned(),
            None if Path::new(name).is_file() => {
                std::fs::read_to_string(name).with_context(|| format!("profile {name} cannot be read"))?
            }
            None => {
                let known: Vec<&str> = BUILT_IN.iter().map(|(name, _)| *name).collect();
                bail!("there is no profile {name}: name one of {} or a file", known.join(", "));
            }
        };
        Profile::parse(name, &text).with_context(|| format!("profile {name}"))
    }

    /// The profile with other parameters in their sections, under a name of its own.
    pub(crate) fn overlaid(&self, name: &str, over: &toml::Table) -> Result<Profile> {
        let mut sections = self.sections.clone();
        for (service, of) in over {
            let of = of.as_table().with_context(|| format!("[{service}] is not a section"))?;
            let section = sections.entry(service.clone()).or_insert_with(|| toml::Table::new().into());
            let section = section.as_table_mut().with_context(|| format!("[{service}] is not a section"))?;
            section.extend(of.iter().map(|(key, value)| (key.clone(), value.clone())));
        }
        Profile::parse(name, &toml::to_string(&sections).context("a profile that TOML cannot say")?)
    }

    fn parse(name: &str, text: &str) -> Result<Profile> {
        let named = name.to_owned();
        let sections: toml::Table = text.parse().context("not a TOML file")?;
        let pool = DescriptorPool::decode(holmes_proto::DESCRIPTORS).context("the build's descriptors")?;
        for name in sections.keys() {
            if holmes_proto::service(name).is_none() {
                let known: Vec<&str> = holmes_proto::SERVICES.iter().map(|(_, name)| *name).collect();
                bail!("section [{name}] names no service; there are: {}", known.join(", "));
            }
        }
        Ok(Profile {
            text: text.to_owned(),
            name: named,
            hash: canon::hash(text.as_bytes()),
            sections,
            pool,
            given: Vec::new(),
        })
    }

    /// What it is called.
    pub(crate) fn name(&self) -> &str {
        &self.name
    }

    /// The profile as it was written.
    pub(crate) fn text(&self) -> &str {
        &self.text
    }

    /// BLAKE3-128 of the profile's text: the same in every log of a cell.
    pub(crate) fn hash(&self) -> Digest {
        self.hash
    }

    /// Gives a network whose profile names no staff its first: somebody must be able to administer it.
    pub(crate) fn staff_key(&mut self, public_key: [u8; 32]) {
        self.given.push(("staff_public_keys", Value::List(vec![Value::Bytes(public_key.to_vec().into())])));
    }

    /// Gives the network the key that its leases are signed with.
    pub(crate) fn lease_key(&mut self, public_key: [u8; 32]) {
        self.given.push(("public_key", Value::Bytes(public_key.to_vec().into())));
    }

    /// Gives the network the keys by which its own processes know each other.
    pub(crate) fn processes(&mut self, processes: &Processes) -> Result<()> {
        let kind = self.pool.get_message_by_name("holmes.accounts.v1.ServiceKey").context("no ServiceKey")?;
        let service = |(id, key): &(ServiceId, [u8; 32])| {
            let mut message = DynamicMessage::new(kind.clone());
            message.set_field_by_name("service_number", Value::U32(id.0.into()));
            message.set_field_by_name("public_key", Value::Bytes(key.to_vec().into()));
            Value::Message(message)
        };
        let gateway = Value::Bytes(processes.gateway.to_vec().into());
        self.given.push(("service_keys", Value::List(processes.services.iter().map(service).collect())));
        self.given.push(("gateway_public_keys", Value::List(vec![gateway])));
        Ok(())
    }

    /// Gives the network the beginning of its first epoch, ms since the Unix epoch (E-0.5).
    pub(crate) fn begin_at(&mut self, tge_at_ms: u64) {
        self.given.push(("tge_at_ms", Value::U64(tge_at_ms)));
    }

    /// Whether the profile itself says what a parameter of a service is.
    pub(crate) fn names(&self, service: &str, field: &str) -> bool {
        let section = self.sections.get(service).and_then(toml::Value::as_table);
        let of = self.params_of(service).ok().and_then(|kind| kind.get_field_by_name(field));
        let (Some(section), Some(of)) = (section, of) else { return false };
        section.contains_key(of.name()) || section.contains_key(of.json_name())
    }

    /// A parameter of a service among encoded ones; none where it is not set, or the service has no such parameter.
    pub(crate) fn parameter(&self, service: &str, params: &[u8], field: &str) -> Result<Option<Value>> {
        let kind = self.params_of(service)?;
        let params = DynamicMessage::decode(kind.clone(), params)
            .with_context(|| format!("what the log of {service} was opened with"))?;
        let field = kind.get_field_by_name(field).filter(|field| params.has_field(field));
        Ok(field.map(|field| params.get_field(&field).into_owned()))
    }

    fn params_of(&self, service: &str) -> Result<MessageDescriptor> {
        let name = format!("holmes.{service}.v1.Params");
        self.pool.get_message_by_name(&name).with_context(|| format!("there is no message {name}"))
    }

    /// E-0.5: length of an epoch, seconds; every section that names it must say the same.
    pub(crate) fn epoch_s(&self) -> Result<u64> {
        let mut found: Option<(&str, i64)> = None;
        for (name, section) in &self.sections {
            let Some(epoch_s) = section.get("epoch_s").and_then(toml::Value::as_integer) else { continue };
            match found {
                Some((other, said)) if said != epoch_s => {
                    bail!(
                        "[{other}] says epoch_s = {said}, [{name}] says {epoch_s}: a network has one (E-0.5)"
                    )
                }
                _ => found = Some((name, epoch_s)),
            }
        }
        match found {
            Some((name, epoch_s)) => u64::try_from(epoch_s)
                .ok()
                .filter(|epoch_s| *epoch_s > 0)
                .with_context(|| format!("[{name}] epoch_s = {epoch_s}: at least 1")),
            None => Ok(EPOCH_S),
        }
    }

    /// A service's parameters: its defaults with what the profile names, encoded.
    pub(crate) fn params(&self, service: &str, defaults: &[u8]) -> Result<Vec<u8>> {
        let kind = self.params_of(service)?;
        let mut params =
            DynamicMessage::decode(kind.clone(), defaults).context("the build's own defaults")?;
        if let Some(section) = self.sections.get(service) {
            let section = section.as_table().with_context(|| format!("[{service}] is not a section"))?;
            let json = serde_json::to_value(section).with_context(|| format!("[{service}]"))?;
            let named = DynamicMessage::deserialize(kind.clone(), json).with_context(|| {
                let fields: Vec<String> = kind.fields().map(|field| field.name().to_owned()).collect();
                format!("[{service}] has these keys: {}", fields.join(", "))
            })?;
            for key in section.keys() {
                if let Some(field) =
                    kind.fields().find(|field| field.name() == key || field.json_name() == key)
                {
                    params.set_field(&field, named.get_field(&field).into_owned());
                }
            }
        }
        for (name, value) in &self.given {
            if let Some(field) = kind.get_field_by_name(name)
                && !params.has_field(&field)
            {
                params.set_field(&field, value.clone());
            }
        }
        Ok(params.encode_to_vec())
    }
}

/// The network that signatures count in: the profile's, in the configuration's cell.
pub(crate) fn network(config: &Config) -> Result<Network> {
    Ok(Network { genesis: Profile::load(&config.cell.profile)?.hash(), cell: config.cell.number })
}

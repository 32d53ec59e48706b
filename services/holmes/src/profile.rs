//! A network's profile: what its logs are opened with. One section for each service; what a section does not name
//! keeps the service's default.

use std::path::Path;

use anyhow::{Context, Result, bail};
use holmes_kernel::canon::{self, Digest};
use prost_reflect::prost::Message as _;
use prost_reflect::{DescriptorPool, DynamicMessage, Value};

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
    /// The staff key of a network whose profile names no staff.
    staff: Option<[u8; 32]>,
}

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
            staff: None,
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
        self.staff = Some(public_key);
    }

    /// A service's parameters: its defaults with what the profile names, encoded.
    pub(crate) fn params(&self, service: &str, defaults: &[u8]) -> Result<Vec<u8>> {
        let name = format!("holmes.{service}.v1.Params");
        let kind =
            self.pool.get_message_by_name(&name).with_context(|| format!("there is no message {name}"))?;
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
        if let (Some(key), Some(field)) = (self.staff, kind.get_field_by_name("staff_public_keys"))
            && !params.has_field(&field)
        {
            params.set_field(&field, Value::List(vec![Value::Bytes(key.to_vec().into())]));
        }
        Ok(params.encode_to_vec())
    }
}

//! What a node offers: the bytes that it has signed, read once.

use std::collections::BTreeSet;

use holmes_proto::edge::{Parsed, malformed};
use holmes_proto::scheduling::v1 as wire;
use prost::Message;
use serde::{Deserialize, Serialize};

use crate::matching::context_class;
use crate::params::{MOST_CAPABILITY_BYTES, MOST_CLAIM_BYTES, MOST_MODELS, MOST_NAME_BYTES};

/// What a node offers.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Offer {
    /// The bytes of `Capabilities`, as they were signed.
    pub bytes: Vec<u8>,
    /// Calls that it computes at the same time.
    pub slots: u32,
    /// The models it serves.
    pub models: Vec<Served>,
}

/// A model that a node serves.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Served {
    /// Its name in the market.
    pub name: String,
    /// Its context, as the index groups it.
    pub class: u32,
}

impl Offer {
    /// Reads the bytes of `Capabilities`.
    ///
    /// # Errors
    /// Which field is not what it must be.
    pub fn read(bytes: &[u8]) -> Parsed<Offer> {
        if bytes.len() > MOST_CAPABILITY_BYTES {
            return malformed("capabilities", "at most 8,192 bytes");
        }
        let Ok(read) = wire::Capabilities::decode(bytes) else {
            return malformed("capabilities", "the bytes of holmes.scheduling.v1.Capabilities");
        };
        if read.slots == 0 {
            return malformed("capabilities.slots", "at least 1");
        }
        if read.models.len() > MOST_MODELS {
            return malformed("capabilities.models", "at most 16 models");
        }
        let claims = [&read.hardware, &read.region, &read.software];
        if claims.iter().any(|claim| claim.len() > MOST_CLAIM_BYTES) {
            return malformed("capabilities", "hardware, region and software of at most 64 bytes each");
        }
        let mut names = BTreeSet::new();
        let models = read.models.iter().map(|model| {
            if !names.insert(&model.name) {
                return malformed("capabilities.models", "each model once");
            }
            served(model)
        });
        let models = models.collect::<Parsed<Vec<Served>>>()?;
        Ok(Offer { bytes: bytes.to_vec(), slots: read.slots, models })
    }

    /// The same as people read it.
    pub fn message(&self) -> wire::Capabilities {
        wire::Capabilities::decode(self.bytes.as_slice()).unwrap_or_default()
    }

    /// A model that it serves.
    pub fn serves(&self, model: &str) -> Option<&Served> {
        self.models.iter().find(|served| served.name == model)
    }
}

/// Whether a text can name a model.
pub fn is_name(text: &str) -> bool {
    !text.is_empty() && text.len() <= MOST_NAME_BYTES && text.bytes().all(|byte| byte.is_ascii_graphic())
}

fn served(model: &wire::ServedModel) -> Parsed<Served> {
    if !is_name(&model.name) {
        return malformed("capabilities.models.name", "1 to 128 printable ASCII characters without spaces");
    }
    if model.digest.len() != 32 {
        return malformed("capabilities.models.digest", "a BLAKE3-256 of 32 bytes");
    }
    if model.context == 0 {
        return malformed("capabilities.models.context", "at least 1 token");
    }
    Ok(Served { name: model.name.clone(), class: context_class(model.context) })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn model(name: &str) -> wire::ServedModel {
        wire::ServedModel { name: name.into(), digest: vec![1; 32].into(), context: 9_000 }
    }

    fn offer(models: Vec<wire::ServedModel>) -> wire::Capabilities {
        wire::Capabilities { models, slots: 4, hardware: "4090".into(), ..wire::Capabilities::default() }
    }

    #[test]
    fn what_was_signed_is_read_and_kept_as_it_is() {
        let message = offer(vec![model("a"), model("b")]);
        let read = Offer::read(&message.encode_to_vec()).unwrap();
        assert_eq!((read.slots, read.message()), (4, message));
        assert_eq!(read.serves("b"), Some(&Served { name: "b".into(), class: 8_192 }));
        assert_eq!(read.serves("c"), None);
    }

    #[test]
    fn an_offer_that_says_too_much_or_nothing_is_refused() {
        let with = |change: fn(&mut wire::Capabilities)| {
            let mut message = offer(vec![model("a")]);
            change(&mut message);
            message.encode_to_vec()
        };
        let bad = [
            vec![0xff],
            vec![0; MOST_CAPABILITY_BYTES + 1],
            with(|m| m.slots = 0),
            with(|m| m.models = (0..17).map(|n| model(&n.to_string())).collect()),
            with(|m| m.models.push(model("a"))),
            with(|m| m.models[0].name = String::new()),
            with(|m| m.models[0].name = "a b".into()),
            with(|m| m.models[0].name = "x".repeat(129)),
            with(|m| m.models[0].digest = vec![1; 31].into()),
            with(|m| m.models[0].context = 0),
            with(|m| m.region = "x".repeat(65)),
        ];
        for bytes in bad {
            assert!(Offer::read(&bytes).is_err(), "{bytes:?} was taken");
        }
    }
}

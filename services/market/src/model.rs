//! What is offered, and at which prices (E-9.1, E-3.2).

use holmes_proto::market::v1 as wire;
use holmes_proto::market::v1::ModelKind;
use serde::{Deserialize, Serialize};

/// Most bytes of a model's name.
pub const MOST_NAME_BYTES: usize = 64;
/// Most pico-dollars and most millionths of a unit of one token: a dollar and a million units. With so much, what any
/// call comes to fits 128 bits by far.
pub const MOST_PER_TOKEN: u64 = 1_000_000_000_000;

/// A model that is offered, or was.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Model {
    /// [`ModelKind`] as a number.
    pub kind: u8,
    /// Pico-dollars for one token read.
    pub input_pico: u64,
    /// Pico-dollars for one token written.
    pub output_pico: u64,
    /// E-3.2: work of one token read, millionths of a unit.
    pub input_micro_units: u64,
    /// E-3.2: work of one token written, millionths of a unit.
    pub output_micro_units: u64,
    /// It is no longer offered.
    pub withdrawn: bool,
}

impl Model {
    /// What it does.
    pub fn kind(&self) -> ModelKind {
        ModelKind::try_from(i32::from(self.kind)).unwrap_or(ModelKind::Unspecified)
    }

    /// As the wire has it.
    pub fn to_wire(&self, name: &str) -> wire::Model {
        wire::Model {
            name: name.to_owned(),
            kind: self.kind().into(),
            input_pico_usd: self.input_pico,
            output_pico_usd: self.output_pico,
            input_micro_units: self.input_micro_units,
            output_micro_units: self.output_micro_units,
            withdrawn: self.withdrawn,
        }
    }

    /// The event by which it is so.
    pub fn priced(&self, name: &str) -> wire::ModelPriced {
        wire::ModelPriced {
            model: name.to_owned(),
            kind: self.kind().into(),
            input_pico_usd: self.input_pico,
            output_pico_usd: self.output_pico,
            input_micro_units: self.input_micro_units,
            output_micro_units: self.output_micro_units,
            withdrawn: self.withdrawn,
        }
    }

    /// The model of an event.
    pub fn of(event: &wire::ModelPriced) -> Model {
        Model {
            kind: event.kind as u8,
            input_pico: event.input_pico_usd,
            output_pico: event.output_pico_usd,
            input_micro_units: event.input_micro_units,
            output_micro_units: event.output_micro_units,
            withdrawn: event.withdrawn,
        }
    }

    /// The price of so many tokens, pico-dollars.
    pub fn price_pico(&self, input_tokens: u64, output_tokens: u64) -> u128 {
        let of = |tokens: u64, price: u64| u128::from(tokens) * u128::from(price);
        of(input_tokens, self.input_pico).saturating_add(of(output_tokens, self.output_pico))
    }
}

/// A model as somebody wants it.
///
/// # Errors
/// What it would have to be.
pub fn read(wire: &wire::Model) -> Result<Model, &'static str> {
    if !is_name(&wire.name) {
        return Err("a name has 1 to 64 of a-z, 0-9, \"-\", \".\" and \"_\"");
    }
    let kind = match wire.kind() {
        ModelKind::Unspecified => return Err("a kind is GENERATE or EMBED"),
        kind => kind,
    };
    let outputs = [wire.output_pico_usd, wire.output_micro_units];
    if kind == ModelKind::Embed && outputs != [0, 0] {
        return Err("an embedding model writes no tokens: leave output_pico_usd and output_micro_units at 0");
    }
    let numbers = [wire.input_pico_usd, wire.input_micro_units].into_iter().chain(outputs);
    if numbers.into_iter().any(|number| number > MOST_PER_TOKEN) {
        return Err("prices and work are at most 10^12 per token");
    }
    if !wire.withdrawn && (wire.input_pico_usd, wire.output_pico_usd) == (0, 0) {
        return Err(
            "what is offered has a price: give input_pico_usd or output_pico_usd, or withdraw the model",
        );
    }
    Ok(Model {
        kind: kind as u8,
        input_pico: wire.input_pico_usd,
        output_pico: wire.output_pico_usd,
        input_micro_units: wire.input_micro_units,
        output_micro_units: wire.output_micro_units,
        withdrawn: wire.withdrawn,
    })
}

fn is_name(name: &str) -> bool {
    let plain = |b: u8| b.is_ascii_lowercase() || b.is_ascii_digit() || matches!(b, b'-' | b'.' | b'_');
    !name.is_empty() && name.len() <= MOST_NAME_BYTES && name.bytes().all(plain)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_offered_has_a_price_and_what_is_withdrawn_needs_none() {
        let free = wire::Model { name: "m".into(), kind: ModelKind::Embed.into(), ..Default::default() };
        assert!(read(&free).is_err_and(|why| why.contains("has a price")));
        assert!(read(&wire::Model { input_pico_usd: 1, ..free.clone() }).is_ok());
        assert!(read(&wire::Model { withdrawn: true, ..free }).is_ok());
    }
}

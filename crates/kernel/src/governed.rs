//! A governed number: what a profile gives it at genesis, and what governance may make of it.

use crate::machine::BadParams;

/// Unit, default and bounds of a parameter. Every service lists its own in `params.rs`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Governed {
    /// Its field in the service's `Params`.
    pub name: &'static str,
    /// Its unit.
    pub unit: &'static str,
    /// What a profile that does not name it gets.
    pub default: u64,
    /// The least value.
    pub min: u64,
    /// The greatest value.
    pub max: u64,
    /// The most by which one change may move it.
    pub step: u64,
}

impl Governed {
    /// A parameter. The default lies within the bounds, or the build fails.
    pub const fn new(
        name: &'static str,
        unit: &'static str,
        default: u64,
        (min, max): (u64, u64),
        step: u64,
    ) -> Governed {
        assert!(min <= default && default <= max, "the default of a parameter lies within its bounds");
        Governed { name, unit, default, min, max, step }
    }

    /// The value, if it lies within the bounds.
    pub fn check(&self, value: u64) -> Result<u64, BadParams> {
        if (self.min..=self.max).contains(&value) {
            return Ok(value);
        }
        let Governed { name, unit, min, max, .. } = self;
        Err(BadParams(format!("{name} = {value} is not within {min} and {max} {unit}")))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_value_out_of_its_bounds_is_refused_with_them() {
        let rate = Governed::new("burn_rate_ppb", "ppb", 0, (0, 10), 1);
        assert_eq!(rate.check(10), Ok(10));
        let words = "burn_rate_ppb = 11 is not within 0 and 10 ppb";
        assert_eq!(rate.check(11), Err(BadParams(words.into())));
    }
}

//! What a profile gives a service at genesis: governed numbers, which governance may move, and names.
//!
//! E-14.6: nothing is computed from a value that changed in mid-epoch. A log's opening gives all of them, and no event changes
//! one; those by which governance will must name the epoch from which they bind (E-0.5).

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

/// The place of a governed number in a service's parameters as they are written.
pub type Place<P> = fn(&mut P) -> &mut u64;

/// Writes the table `GOVERNED` of parameters as they are written: each number with its field.
#[macro_export]
macro_rules! governed {
    ($params:ty: $($field:ident, $unit:literal, $default:expr, $min:expr, $max:expr, $step:expr;)*) => {
        /// The governed numbers, in the order of their fields; what each is stands at its field.
        pub const GOVERNED: &[($crate::Governed, $crate::governed::Place<$params>)] = &[$((
            $crate::Governed::new(stringify!($field), $unit, $default, ($min, $max), $step),
            |params| &mut params.$field,
        )),*];
    };
}

/// Gives every number of a table its default.
pub fn fill<P>(params: &mut P, table: &[(Governed, Place<P>)]) {
    for (number, place) in table {
        *place(params) = number.default;
    }
}

/// Refuses parameters of which a number lies out of its bounds.
pub fn check_all<P: Clone>(params: &P, table: &[(Governed, Place<P>)]) -> Result<(), BadParams> {
    let mut params = params.clone();
    table.iter().try_for_each(|(number, place)| number.check(*place(&mut params)).map(|_| ()))
}

/// The name of an asset.
pub fn asset_name(field: &str, name: &str) -> Result<String, BadParams> {
    let plain = |b: u8| b.is_ascii_uppercase() || b.is_ascii_digit();
    named(field, name, 12, plain, "upper-case letters and digits")
}

/// The name of a pool or of another part of an asset's supply: what its account is called before the asset.
pub fn pool_name(field: &str, name: &str) -> Result<String, BadParams> {
    let plain = |b: u8| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'_';
    named(field, name, 64, plain, "of a-z, 0-9 and _")
}

fn named(field: &str, name: &str, most: usize, plain: fn(u8) -> bool, of: &str) -> Result<String, BadParams> {
    if name.is_empty() || name.len() > most || !name.bytes().all(plain) {
        return Err(BadParams(format!("{field} {name:?}: 1 to {most} {of}")));
    }
    Ok(name.to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_name_of_an_asset_is_one_to_twelve_upper_case_letters_and_digits() {
        assert_eq!(["H", "USD", "A23456789012"].map(|name| asset_name("name", name).is_ok()), [true; 3]);
        for name in ["", "hol", "HOL/X", "H L", "HÖL", "A234567890123"] {
            let words = format!("name {name:?}: 1 to 12 upper-case letters and digits");
            assert_eq!(asset_name("name", name), Err(BadParams(words)));
        }
    }

    #[test]
    fn the_name_of_a_pool_is_one_to_sixty_four_small_letters_digits_and_underlines() {
        assert_eq!(pool_name("pool", "br_pool2"), Ok("br_pool2".into()));
        for name in ["", "BR", "br-pool", "br/HOL", &"a".repeat(65)] {
            assert!(pool_name("pool", name).is_err(), "{name:?} was taken");
        }
    }

    #[test]
    fn a_value_out_of_its_bounds_is_refused_with_them() {
        let rate = Governed::new("burn_rate_ppb", "ppb", 0, (0, 10), 1);
        assert_eq!(rate.check(10), Ok(10));
        let words = "burn_rate_ppb = 11 is not within 0 and 10 ppb";
        assert_eq!(rate.check(11), Err(BadParams(words.into())));
    }
}

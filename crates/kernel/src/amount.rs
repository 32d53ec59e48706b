//! Money (E-0.1): base units in a u64, checked operations only, a decimal string where people read it.

use std::fmt;
use std::str::FromStr;

use serde::de::{self, Deserialize, Deserializer};
use serde::{Serialize, Serializer};

/// An amount of one asset in base units (HOL and HF: 10^-9, USD: 10^-6). Which asset it is stands beside it.
///
/// There is no `+`: overflow must be somebody's rejection, so every operation answers `None` instead of wrapping.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Amount(u64);

impl Amount {
    /// Nothing.
    pub const ZERO: Amount = Amount(0);
    /// The largest amount that can be written.
    pub const MAX: Amount = Amount(u64::MAX);

    /// So many base units.
    pub const fn new(units: u64) -> Amount {
        Amount(units)
    }

    /// Base units.
    pub const fn units(self) -> u64 {
        self.0
    }

    /// Base units as the type in which formulas are computed.
    pub const fn wide(self) -> u128 {
        self.0 as u128
    }

    /// The amount of a formula's result; `None` when it does not fit.
    pub fn from_wide(units: u128) -> Option<Amount> {
        u64::try_from(units).ok().map(Amount)
    }

    /// Whether this is nothing.
    pub const fn is_zero(self) -> bool {
        self.0 == 0
    }

    /// The sum; `None` on overflow.
    pub const fn checked_add(self, other: Amount) -> Option<Amount> {
        match self.0.checked_add(other.0) {
            Some(units) => Some(Amount(units)),
            None => None,
        }
    }

    /// The difference; `None` when it would be negative.
    pub const fn checked_sub(self, other: Amount) -> Option<Amount> {
        match self.0.checked_sub(other.0) {
            Some(units) => Some(Amount(units)),
            None => None,
        }
    }

    /// The difference, or nothing when it would be negative.
    pub const fn saturating_sub(self, other: Amount) -> Amount {
        Amount(self.0.saturating_sub(other.0))
    }

    /// The sum of many; `None` on overflow.
    pub fn sum(amounts: impl IntoIterator<Item = Amount>) -> Option<Amount> {
        amounts.into_iter().try_fold(Amount::ZERO, Amount::checked_add)
    }
}

impl fmt::Display for Amount {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(&self.0, f)
    }
}

/// Why a text is not an amount.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error(
    "{0:?} is not an amount: write base units as decimal digits without sign, point or space, at most 18446744073709551615"
)]
pub struct NotAnAmount(String);

impl FromStr for Amount {
    type Err = NotAnAmount;

    fn from_str(text: &str) -> Result<Amount, NotAnAmount> {
        let digits = !text.is_empty() && text.bytes().all(|b| b.is_ascii_digit());
        let canonical = digits && (text == "0" || !text.starts_with('0'));
        let units = if canonical { text.parse().ok() } else { None };
        // A hostile text may be long: the message quotes its beginning only.
        units.map(Amount).ok_or_else(|| NotAnAmount(text.chars().take(32).collect()))
    }
}

impl Serialize for Amount {
    fn serialize<S: Serializer>(&self, s: S) -> Result<S::Ok, S::Error> {
        if s.is_human_readable() { s.collect_str(self) } else { s.serialize_u64(self.0) }
    }
}

impl<'de> Deserialize<'de> for Amount {
    fn deserialize<D: Deserializer<'de>>(d: D) -> Result<Amount, D::Error> {
        if d.is_human_readable() {
            String::deserialize(d)?.parse().map_err(de::Error::custom)
        } else {
            u64::deserialize(d).map(Amount)
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn a_text_that_is_not_plain_digits_is_refused() {
        for text in ["", "-1", "+1", " 1", "1 ", "1.0", "1e3", "01", "0x1", "18446744073709551616", "１"] {
            assert!(text.parse::<Amount>().is_err(), "{text:?} was taken");
        }
        assert_eq!("18446744073709551615".parse(), Ok(Amount::MAX));
    }

    #[test]
    fn json_carries_a_decimal_string() {
        assert_eq!(serde_json::to_string(&Amount::MAX).unwrap(), "\"18446744073709551615\"");
        assert!(serde_json::from_str::<Amount>("7").is_err(), "a JSON number may have lost digits");
    }

    proptest! {
        #[test]
        fn text_and_back_is_the_same(units: u64) {
            let amount = Amount::new(units);
            prop_assert_eq!(amount.to_string().parse(), Ok(amount));
        }

        #[test]
        fn what_was_added_can_be_taken_away(a: u64, b: u64) {
            let (a, b) = (Amount::new(a), Amount::new(b));
            match a.checked_add(b) {
                Some(sum) => prop_assert_eq!(sum.checked_sub(b), Some(a)),
                None => prop_assert!(a.wide() + b.wide() > u128::from(u64::MAX)),
            }
        }
    }
}

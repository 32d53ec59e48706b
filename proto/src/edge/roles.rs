//! What an account may act as: a set of the closed row of roles.

use std::fmt;
use std::ops::BitOr;

use serde::{Deserialize, Serialize};

use crate::accounts::v1::Role;

/// A set of roles.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Roles(u8);

/// Every role with the name it prints as.
const ALL: [(Role, &str); 4] = [
    (Role::Renter, "renter"),
    (Role::Operator, "operator"),
    (Role::Verifier, "verifier"),
    (Role::Staff, "staff"),
];

impl Roles {
    /// No role: holds tokens.
    pub const NONE: Roles = Roles(0);
    /// Rents compute and inference.
    pub const RENTER: Roles = Roles::of(Role::Renter);
    /// Runs nodes.
    pub const OPERATOR: Roles = Roles::of(Role::Operator);
    /// Runs verifiers.
    pub const VERIFIER: Roles = Roles::of(Role::Verifier);
    /// Runs the cell.
    pub const STAFF: Roles = Roles::of(Role::Staff);

    const fn of(role: Role) -> Roles {
        Roles(1 << role as u8)
    }

    /// Whether all of `other` are among these.
    pub const fn contain(self, other: Roles) -> bool {
        self.0 & other.0 == other.0
    }

    /// Those that are in both.
    pub const fn both(self, other: Roles) -> Roles {
        Roles(self.0 & other.0)
    }

    /// Whether any of `other` is among these.
    pub const fn meet(self, other: Roles) -> bool {
        self.0 & other.0 != 0
    }

    /// Whether there is none.
    pub const fn is_empty(self) -> bool {
        self.0 == 0
    }

    /// From the wire's numbers; `None` when one of them is no role.
    pub fn read(numbers: &[i32]) -> Option<Roles> {
        let role = |number: &i32| Role::try_from(*number).ok().filter(|role| *role != Role::Unspecified);
        numbers.iter().try_fold(Roles::NONE, |roles, number| Some(roles | Roles::of(role(number)?)))
    }

    /// The wire's numbers, rising.
    pub fn numbers(self) -> Vec<i32> {
        self.each().map(|(role, _)| *role as i32).collect()
    }

    fn each(self) -> impl Iterator<Item = &'static (Role, &'static str)> {
        ALL.iter().filter(move |(role, _)| self.contain(Roles::of(*role)))
    }
}

impl BitOr for Roles {
    type Output = Roles;

    fn bitor(self, other: Roles) -> Roles {
        Roles(self.0 | other.0)
    }
}

impl fmt::Display for Roles {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let names: Vec<_> = self.each().map(|(_, name)| *name).collect();
        f.write_str(if names.is_empty() { "no role" } else { "" })?;
        f.write_str(&names.join(", "))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_set_survives_the_wire_and_only_roles_are_read() {
        for bits in 0..16u8 {
            let roles = Roles(bits << 1);
            assert_eq!(Roles::read(&roles.numbers()), Some(roles));
        }
        for wrong in [-1, 0, 5, i32::MAX] {
            assert_eq!(Roles::read(&[1, wrong]), None, "{wrong}");
        }
    }

    #[test]
    fn a_set_is_within_another_only_when_all_of_it_is() {
        let both = Roles::RENTER | Roles::OPERATOR;
        assert!(both.contain(Roles::RENTER) && both.contain(Roles::NONE) && both.contain(both));
        assert!(!both.contain(Roles::STAFF | Roles::RENTER));
        assert!(
            both.meet(Roles::OPERATOR | Roles::STAFF) && !both.meet(Roles::STAFF) && !both.meet(Roles::NONE)
        );
        assert_eq!(both.both(Roles::OPERATOR | Roles::STAFF), Roles::OPERATOR);
        assert_eq!(both.to_string(), "renter, operator");
        assert_eq!(Roles::NONE.to_string(), "no role");
    }
}

//! Names of things: moments, ids, principals, logs and places in them.

use std::fmt;
use std::str::FromStr;

use serde::de::{self, Deserializer};
use serde::{Deserialize, Serialize, Serializer};
use uuid::Uuid;

/// A moment of log time: microseconds since the Unix epoch. Fine enough that a log of 100,000 frames a second, whose
/// times rise strictly, does not run ahead of the clock.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Time(u64);

impl Time {
    /// So many microseconds since the Unix epoch.
    pub const fn from_micros(us: u64) -> Time {
        Time(us)
    }

    /// So many milliseconds since the Unix epoch; the last moment there is when that is too far.
    pub const fn from_millis(ms: u64) -> Time {
        Time(ms.saturating_mul(1_000))
    }

    /// Microseconds since the Unix epoch.
    pub const fn micros(self) -> u64 {
        self.0
    }

    /// Whole milliseconds since the Unix epoch, as ids carry them.
    pub const fn millis(self) -> u64 {
        self.0 / 1_000
    }

    /// So much later; the last moment there is when that is too far.
    pub const fn after_millis(self, ms: u64) -> Time {
        Time(self.0.saturating_add(ms.saturating_mul(1_000)))
    }

    /// The next moment.
    pub const fn next(self) -> Time {
        Time(self.0.saturating_add(1))
    }
}

/// A 128-bit id. Accounts, sessions, requests and transfers are UUIDv7, chosen by the caller; nodes, verifiers and
/// gateways are BLAKE3-128 of their public key. Printed as a UUID, ordered as its bytes.
#[derive(Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Id(u128);

impl Id {
    /// From 16 bytes, big-endian.
    pub const fn from_bytes(bytes: [u8; 16]) -> Id {
        Id(u128::from_be_bytes(bytes))
    }

    /// From a slice; `None` unless it is 16 bytes long.
    pub fn from_slice(bytes: &[u8]) -> Option<Id> {
        bytes.try_into().ok().map(Id::from_bytes)
    }

    /// 16 bytes, big-endian.
    pub const fn to_bytes(self) -> [u8; 16] {
        self.0.to_be_bytes()
    }

    /// The id of a public key: BLAKE3-128 of its bytes.
    pub fn of_key(key: &[u8; 32]) -> Id {
        Id::from_bytes(crate::canon::hash(key))
    }

    /// The UUIDv7 that `cause` and `n` determine, at the cause's moment: the same send or reaction always gets the
    /// same id, on any machine.
    pub fn derive(at: Time, cause: &[u8], n: u32) -> Id {
        let mut hasher = blake3::Hasher::new();
        hasher.update(&(cause.len() as u64).to_le_bytes()).update(cause).update(&n.to_le_bytes());
        let mut random = [0; 10];
        random.copy_from_slice(&hasher.finalize().as_bytes()[..10]);
        Id::v7(at.millis(), random)
    }

    /// The UUIDv7 of a moment and 80 random bits (six of which give way to version and variant).
    pub fn v7(ms: u64, random: [u8; 10]) -> Id {
        let mut bytes = [0; 16];
        bytes[..6].copy_from_slice(&ms.to_be_bytes()[2..]);
        bytes[6..].copy_from_slice(&random);
        bytes[6] = 0x70 | (bytes[6] & 0x0f);
        bytes[8] = 0x80 | (bytes[8] & 0x3f);
        Id::from_bytes(bytes)
    }

    /// The moment inside a UUIDv7; `None` when this is not one.
    pub fn moment(self) -> Option<Time> {
        let version = (self.0 >> 76) & 0xf;
        let variant = (self.0 >> 62) & 0x3;
        (version == 7 && variant == 2).then(|| Time::from_millis((self.0 >> 80) as u64))
    }
}

impl Serialize for Id {
    fn serialize<S: Serializer>(&self, s: S) -> Result<S::Ok, S::Error> {
        if s.is_human_readable() { s.collect_str(self) } else { s.serialize_u128(self.0) }
    }
}

impl<'de> Deserialize<'de> for Id {
    fn deserialize<D: Deserializer<'de>>(d: D) -> Result<Id, D::Error> {
        if d.is_human_readable() {
            String::deserialize(d)?.parse().map_err(de::Error::custom)
        } else {
            u128::deserialize(d).map(Id)
        }
    }
}

impl fmt::Display for Id {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(&Uuid::from_u128(self.0), f)
    }
}

impl fmt::Debug for Id {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

/// Why a text is not an id.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{0:?} is not an id: write 32 hexadecimal digits as in 0192f3a0-7c1d-7b43-9b0e-3f1d2c4b5a69")]
pub struct NotAnId(String);

impl FromStr for Id {
    type Err = NotAnId;

    fn from_str(text: &str) -> Result<Id, NotAnId> {
        // Braces and `urn:uuid:`, which are longer, would be another text for the same id.
        let uuid = Uuid::try_parse(text).ok().filter(|_| matches!(text.len(), 32 | 36));
        uuid.map(|uuid| Id(uuid.as_u128())).ok_or_else(|| NotAnId(text.chars().take(48).collect()))
    }
}

/// What kind of party acts.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[repr(u8)]
pub enum PrincipalKind {
    /// The log itself: due commands and provisioning.
    System = 0,
    /// Another service of the cluster.
    Service = 1,
    /// The people who run the cell.
    Staff = 2,
    /// The owner of an account: renter, operator or token holder.
    Account = 3,
    /// A node or verifier, by its key.
    Node = 4,
    /// A gateway, by its key.
    Gateway = 5,
}

/// Who acts: a kind and an id. Seventeen bytes in an entry.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Principal {
    /// What kind of party.
    pub kind: PrincipalKind,
    /// Which one of its kind.
    pub id: Id,
}

impl Serialize for Principal {
    fn serialize<S: Serializer>(&self, s: S) -> Result<S::Ok, S::Error> {
        // People read the text, which also serves as a key of their maps.
        if s.is_human_readable() { s.collect_str(self) } else { (self.kind, self.id).serialize(s) }
    }
}

impl<'de> Deserialize<'de> for Principal {
    fn deserialize<D: Deserializer<'de>>(d: D) -> Result<Principal, D::Error> {
        if d.is_human_readable() {
            return String::deserialize(d)?.parse().map_err(de::Error::custom);
        }
        let (kind, id) = Deserialize::deserialize(d)?;
        Ok(Principal { kind, id })
    }
}

impl Principal {
    /// The log itself.
    pub const SYSTEM: Principal = Principal { kind: PrincipalKind::System, id: Id(0) };

    /// A principal of a kind.
    pub const fn new(kind: PrincipalKind, id: Id) -> Principal {
        Principal { kind, id }
    }

    /// Another service of the cluster.
    pub const fn service(service: ServiceId) -> Principal {
        Principal { kind: PrincipalKind::Service, id: Id(service.0 as u128) }
    }

    /// How much of a limit that all share is this principal's to fill. Accounts and nodes, which anyone makes for
    /// nothing, leave a quarter of it, so that however many of them come, the platform goes on working.
    pub const fn room(&self, limit: u64) -> u64 {
        match self.kind {
            PrincipalKind::Account | PrincipalKind::Node => limit - limit / 4,
            PrincipalKind::System
            | PrincipalKind::Service
            | PrincipalKind::Staff
            | PrincipalKind::Gateway => limit,
        }
    }

    /// The bytes in an entry: kind, then id big-endian.
    pub fn to_bytes(self) -> [u8; 17] {
        let mut bytes = [0; 17];
        bytes[0] = self.kind as u8;
        bytes[1..].copy_from_slice(&self.id.to_bytes());
        bytes
    }

    /// The principal of an entry's bytes; `None` when they are none.
    pub fn from_slice(bytes: &[u8]) -> Option<Principal> {
        let (kind, id) = bytes.split_first()?;
        let kind = match kind {
            0 => PrincipalKind::System,
            1 => PrincipalKind::Service,
            2 => PrincipalKind::Staff,
            3 => PrincipalKind::Account,
            4 => PrincipalKind::Node,
            5 => PrincipalKind::Gateway,
            _ => return None,
        };
        Some(Principal { kind, id: Id::from_slice(id)? })
    }
}

impl fmt::Display for Principal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.kind {
            PrincipalKind::System => f.write_str("system"),
            PrincipalKind::Service => write!(f, "service/{}", self.id.0),
            PrincipalKind::Staff => write!(f, "staff/{}", self.id),
            PrincipalKind::Account => write!(f, "account/{}", self.id),
            PrincipalKind::Node => write!(f, "node/{}", self.id),
            PrincipalKind::Gateway => write!(f, "gateway/{}", self.id),
        }
    }
}

/// Why a text is not a principal.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error(
    "{0:?} is not a principal: write account/<id>, node/<id>, gateway/<id>, staff/<id> or service/<number>"
)]
pub struct NotAPrincipal(String);

impl FromStr for Principal {
    type Err = NotAPrincipal;

    /// As it prints; the log itself cannot be named.
    fn from_str(text: &str) -> Result<Principal, NotAPrincipal> {
        let parsed = || {
            let (kind, id) = text.split_once('/')?;
            let kind = match kind {
                "service" => return id.parse().ok().map(|number| Principal::service(ServiceId(number))),
                "staff" => PrincipalKind::Staff,
                "account" => PrincipalKind::Account,
                "node" => PrincipalKind::Node,
                "gateway" => PrincipalKind::Gateway,
                _ => return None,
            };
            Some(Principal::new(kind, id.parse().ok()?))
        };
        parsed().ok_or_else(|| NotAPrincipal(text.chars().take(48).collect()))
    }
}

/// A service's number in frames; its name stands in its events' `.proto`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(transparent)]
pub struct ServiceId(pub u16);

/// A log: one service in one cell.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct LogId {
    /// The deployment.
    pub cell: u16,
    /// The service.
    pub svc: ServiceId,
    /// Always 0: growth beyond one log is more cells.
    pub shard: u16,
}

impl LogId {
    /// The log of a service in a cell.
    pub const fn new(cell: u16, svc: ServiceId) -> LogId {
        LogId { cell, svc, shard: 0 }
    }
}

impl fmt::Display for LogId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "cell {} service {} shard {}", self.cell, self.svc.0, self.shard)
    }
}

/// The hash that links a frame to all before it.
pub type Chain = [u8; 32];

/// A place in a log that a rewound log cannot fake: the sequence number, and the term and chain of its frame.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct Position {
    /// Term of the frame that holds `seq`.
    pub term: u64,
    /// Sequence number; 0 stands before the first.
    pub seq: u64,
    /// Chain of the frame that holds `seq`.
    pub chain: Chain,
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn a_derived_id_depends_on_cause_and_number_and_keeps_the_moment() {
        let at = Time::from_millis(1_700_000_000_123);
        let id = Id::derive(at, b"session 7", 0);
        assert_eq!(id, Id::derive(at, b"session 7", 0));
        assert_ne!(id, Id::derive(at, b"session 7", 1));
        assert_eq!(id.moment(), Some(at));
    }

    #[test]
    fn a_text_that_is_not_a_principal_is_refused() {
        for text in ["", "system", "account/", "account/7", "service/-1", "service/65536", "renter/7", "/"] {
            assert!(text.parse::<Principal>().is_err(), "{text:?} was taken");
        }
    }

    #[test]
    fn a_text_that_is_not_an_id_is_refused() {
        for text in
            ["", "0192f3a0", "+192f3a07c1d7b439b0e3f1d2c4b5a69", "0192f3a0_7c1d_7b43_9b0e_3f1d2c4b5a69"]
        {
            assert!(text.parse::<Id>().is_err(), "{text:?} was taken");
        }
        let hyphens_elsewhere = "0192f3a07-c1d-7b43-9b0e-3f1d2c4b5a69";
        assert!(hyphens_elsewhere.parse::<Id>().is_err());
    }

    proptest! {
        #[test]
        fn an_id_prints_and_reads_back(bytes: [u8; 16]) {
            let id = Id::from_bytes(bytes);
            prop_assert_eq!(id.to_string().parse(), Ok(id));
            prop_assert_eq!(Id::from_slice(&id.to_bytes()), Some(id));
        }

        #[test]
        fn a_principal_is_its_bytes(kind in 0u8..8, id: [u8; 16]) {
            let mut bytes = vec![kind];
            bytes.extend(id);
            match Principal::from_slice(&bytes) {
                Some(principal) => prop_assert_eq!(principal.to_bytes().to_vec(), bytes),
                None => prop_assert!(kind > 5),
            }
        }

        #[test]
        fn a_principal_prints_and_reads_back(kind in 1u8..6, id: [u8; 16], number: u16) {
            let service = Principal::service(ServiceId(number));
            prop_assert_eq!(service.to_string().parse(), Ok(service));
            let mut bytes = vec![if kind == 1 { 2 } else { kind }];
            bytes.extend(id);
            let principal = Principal::from_slice(&bytes).unwrap();
            prop_assert_eq!(principal.to_string().parse(), Ok(principal));
        }

        #[test]
        fn a_version_7_id_tells_its_moment(ms in 0u64..1 << 48, random: [u8; 10]) {
            prop_assert_eq!(Id::v7(ms, random).moment(), Some(Time::from_millis(ms)));
        }
    }
}

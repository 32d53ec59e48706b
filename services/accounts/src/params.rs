//! The governed numbers of accounts: unit, default, bounds and largest step of each; and who administers the cell
//! first. Profiles fill them at genesis; from then on they live in the state.

use holmes_kernel::{BadParams, Governed, ServiceId};
use holmes_proto::accounts::v1 as wire;
use prost::Message;
use serde::{Deserialize, Serialize};

use crate::Roles;

/// Most bytes of an account's name.
pub const MOST_NAME_BYTES: usize = 64;
/// Most bytes of a key's label.
pub const MOST_LABEL_BYTES: usize = 64;
/// Most bytes of a suspension's cause.
pub const MOST_CAUSE_BYTES: usize = 128;
/// Most keys of each kind that a cell begins with.
const MOST_FIRST: usize = 64;

/// So that accounts, which are never forgotten, cannot be created without end. The last quarter is for staff to create.
pub const MOST_ACCOUNTS: Governed =
    Governed::new("most_accounts", "accounts", 10_000_000, (1_000, 100_000_000), 10_000_000);
/// One for each program of a renter, with room for rotation.
pub const MOST_API_KEYS: Governed = Governed::new("most_api_keys", "keys", 64, (2, 1_024), 64);
/// One for each device of a person, with room for rotation.
pub const MOST_PUBLIC_KEYS: Governed = Governed::new("most_public_keys", "keys", 8, (2, 64), 8);
/// As many boxes as a large operator has.
pub const MOST_MACHINES: Governed = Governed::new("most_machines", "keys", 10_000, (10, 1_000_000), 100_000);
/// So that revoked keys, which are never forgotten, cannot pile up without end.
pub const MOST_KEYS_EVER: Governed =
    Governed::new("most_keys_ever", "keys", 20_000, (1_000, 2_000_000), 200_000);

/// All of them.
pub const GOVERNED: [Governed; 5] =
    [MOST_ACCOUNTS, MOST_API_KEYS, MOST_PUBLIC_KEYS, MOST_MACHINES, MOST_KEYS_EVER];

/// The parameters as the machine uses them.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Params {
    /// Whether wallets may create their own accounts.
    pub self_registration: bool,
    /// Roles that such an account may take.
    pub open_roles: Roles,
    /// Accounts in all.
    pub most_accounts: u64,
    /// API keys of one account that are not revoked.
    pub most_api_keys: u64,
    /// Public keys of one account or service that are not revoked.
    pub most_public_keys: u64,
    /// Nodes and gateways of one account whose keys are not revoked.
    pub most_machines: u64,
    /// Keys that one account ever had.
    pub most_keys_ever: u64,
}

/// Who administers the cell first.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct FirstStaff {
    /// Ed25519 public keys.
    pub public_keys: Vec<[u8; 32]>,
    /// BLAKE3-256 of API keys.
    pub api_key_hashes: Vec<[u8; 32]>,
}

/// What of the cell's own signs from its beginning.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct FirstProcesses {
    /// Services and their Ed25519 public keys.
    pub services: Vec<(ServiceId, [u8; 32])>,
    /// Ed25519 public keys of gateways.
    pub gateways: Vec<[u8; 32]>,
}

/// The defaults, with the given first staff: what a profile starts from.
pub fn defaults(staff: &FirstStaff) -> wire::Params {
    let bytes = |keys: &[[u8; 32]]| keys.iter().map(|key| key.to_vec().into()).collect();
    wire::Params {
        staff_public_keys: bytes(&staff.public_keys),
        staff_api_key_hashes: bytes(&staff.api_key_hashes),
        self_registration: true,
        open_roles: (Roles::RENTER | Roles::OPERATOR | Roles::VERIFIER).numbers(),
        most_accounts: MOST_ACCOUNTS.default,
        most_api_keys: MOST_API_KEYS.default,
        most_public_keys: MOST_PUBLIC_KEYS.default,
        most_machines: MOST_MACHINES.default,
        most_keys_ever: MOST_KEYS_EVER.default,
        service_keys: Vec::new(),
        gateway_public_keys: Vec::new(),
    }
}

/// The defaults as a log's opening holds them, with no staff yet: a profile names it.
pub fn encoded_defaults() -> Vec<u8> {
    defaults(&FirstStaff::default()).encode_to_vec()
}

/// Reads the parameters of a log's opening.
///
/// # Errors
/// When a number is out of its bounds, a role is none or staff, or nobody could administer the cell.
pub fn read(wire: &wire::Params) -> Result<(Params, FirstStaff, FirstProcesses), BadParams> {
    let open_roles = Roles::read(&wire.open_roles).ok_or_else(|| BadParams("open_roles: no role".into()))?;
    if open_roles.contain(Roles::STAFF) {
        return Err(BadParams("open_roles holds staff: anybody could administer the cell".into()));
    }
    let params = Params {
        self_registration: wire.self_registration,
        open_roles,
        most_accounts: MOST_ACCOUNTS.check(wire.most_accounts)?,
        most_api_keys: MOST_API_KEYS.check(wire.most_api_keys)?,
        most_public_keys: MOST_PUBLIC_KEYS.check(wire.most_public_keys)?,
        most_machines: MOST_MACHINES.check(wire.most_machines)?,
        most_keys_ever: MOST_KEYS_EVER.check(wire.most_keys_ever)?,
    };
    let staff = FirstStaff {
        public_keys: distinct("staff_public_keys", &wire.staff_public_keys)?,
        api_key_hashes: distinct("staff_api_key_hashes", &wire.staff_api_key_hashes)?,
    };
    if staff.public_keys.is_empty() && staff.api_key_hashes.is_empty() {
        let what = "no staff key: name one in staff_public_keys or staff_api_key_hashes, or nobody could \
                    administer the cell";
        return Err(BadParams(what.into()));
    }
    if staff.public_keys.iter().any(|key| staff.api_key_hashes.contains(key)) {
        return Err(BadParams("a staff public key stands among staff_api_key_hashes".into()));
    }
    Ok((params, staff, first_processes(wire)?))
}

fn first_processes(wire: &wire::Params) -> Result<FirstProcesses, BadParams> {
    let numbers: Vec<u32> = wire.service_keys.iter().map(|key| key.service_number).collect();
    let keys: Vec<_> = wire.service_keys.iter().map(|key| key.public_key.clone()).collect();
    let mut services = Vec::with_capacity(numbers.len());
    for (number, key) in numbers.into_iter().zip(distinct("service_keys", &keys)?) {
        let number = u16::try_from(number).ok().filter(|number| *number > 0);
        let number = number.ok_or_else(|| BadParams("service_keys: a service has a number".into()))?;
        services.push((ServiceId(number), key));
    }
    Ok(FirstProcesses { services, gateways: distinct("gateway_public_keys", &wire.gateway_public_keys)? })
}

fn distinct<B: AsRef<[u8]>>(name: &str, row: &[B]) -> Result<Vec<[u8; 32]>, BadParams> {
    if row.len() > MOST_FIRST {
        return Err(BadParams(format!("{} {name}; at most {MOST_FIRST}", row.len())));
    }
    let mut keys = Vec::with_capacity(row.len());
    for bytes in row {
        let key: [u8; 32] = bytes
            .as_ref()
            .try_into()
            .map_err(|_| BadParams(format!("{name}: {} bytes; each has 32", bytes.as_ref().len())))?;
        if keys.contains(&key) {
            return Err(BadParams(format!("{name} holds one twice")));
        }
        keys.push(key);
    }
    Ok(keys)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn good() -> wire::Params {
        defaults(&FirstStaff { public_keys: vec![[1; 32]], api_key_hashes: vec![[2; 32]] })
    }

    fn service(service_number: u32, key: u8) -> wire::ServiceKey {
        wire::ServiceKey { service_number, public_key: vec![key; 32].into() }
    }

    #[test]
    fn the_defaults_lie_within_their_bounds() {
        read(&good()).unwrap();
        for number in GOVERNED {
            assert_eq!(number.check(number.default), Ok(number.default), "{}", number.name);
        }
    }

    #[test]
    fn parameters_out_of_bounds_are_refused() {
        let bad = [
            wire::Params { most_accounts: 0, ..good() },
            wire::Params { most_api_keys: MOST_API_KEYS.max + 1, ..good() },
            wire::Params { open_roles: vec![4], ..good() },
            wire::Params { open_roles: vec![0], ..good() },
            wire::Params { staff_public_keys: vec![vec![1; 31].into()], ..good() },
            wire::Params { staff_public_keys: vec![vec![1; 32].into(); 2], ..good() },
            wire::Params { staff_public_keys: vec![vec![2; 32].into()], ..good() },
            wire::Params { service_keys: vec![service(0, 3)], ..good() },
            wire::Params { service_keys: vec![service(70_000, 3)], ..good() },
            wire::Params { service_keys: vec![service(1, 3), service(2, 3)], ..good() },
            wire::Params { gateway_public_keys: vec![vec![1; 33].into()], ..good() },
            defaults(&FirstStaff::default()),
        ];
        for params in bad {
            assert!(read(&params).is_err(), "{params:?} was taken");
        }
    }
}

//! All that accounts knows, as a function of its log.

mod check;
mod evolve;
mod lookup;

use std::collections::BTreeSet;

use holmes_kernel::Place;
use holmes_kernel::machine::BadParams;
use holmes_kernel::{Id, Opened, Principal, PrincipalKind, Table, Time};
use holmes_proto::accounts::v1 as wire;
use prost::Message;
use serde::{Deserialize, Serialize};

pub use check::{check, check_step};
pub use evolve::evolve;
pub use lookup::Denied;

use crate::Roles;
use crate::params::{self, FirstProcesses, FirstStaff, Params};
use crate::possession::{self, Network};

/// The state of accounts. Nothing in it is ever removed, so a place names what it names for ever.
#[derive(Debug, Serialize, Deserialize)]
pub struct State {
    /// The governed numbers.
    pub params: Params,
    /// Where proofs of possession count.
    pub network: Network,
    /// Every account there ever was.
    pub accounts: Table<Id, Account>,
    /// The accounts with the role staff.
    pub staff: BTreeSet<Id>,
    /// Every API key there ever was, by its id.
    pub api_keys: Table<Id, ApiKey>,
    /// The same by its hash.
    ///
    /// Looking up takes no constant time, and need not: who measures it learns how far the hash of his guess agrees
    /// with a stored one, and a hash that agrees further cannot be aimed at. Only a comparison of the secret itself
    /// would give it away byte by byte, and the secret is never here.
    pub hashes: Table<[u8; 32], Place>,
    /// Every public key there ever was.
    pub public_keys: Table<[u8; 32], PublicKey>,
    /// The public keys of an account, node, gateway or service, the oldest first.
    pub holders: Table<Principal, Vec<Place>>,
}

/// A party.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Account {
    /// What people call it.
    pub name: String,
    /// What it may act as.
    pub roles: Roles,
    /// When it came to be; the epoch's beginning for the first staff.
    pub created: Time,
    /// Why nothing of it counts, while that is so.
    pub suspended: Option<String>,
    /// Its API keys, the oldest first.
    pub api_keys: Vec<Place>,
    /// Keys of the nodes and gateways that it answers for, the oldest first.
    pub machines: Vec<Place>,
}

/// An API key, of which only the hash is known.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ApiKey {
    /// Whose.
    pub account: Id,
    /// BLAKE3-256 of its text.
    pub hash: [u8; 32],
    /// What its owner calls it.
    pub label: String,
    /// What it may act as, as far as its account does.
    pub roles: Roles,
    /// Whether it may move money, and change keys, roles and accounts.
    pub admin: bool,
    /// When it was created.
    pub created: Time,
    /// When it ends by itself.
    pub expires: Option<Time>,
    /// When it was revoked.
    pub revoked: Option<Time>,
}

/// An Ed25519 public key.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct PublicKey {
    /// For whom it signs.
    pub holder: Principal,
    /// The account that answers for it; nobody for a service.
    pub owner: Option<Id>,
    /// What its owner calls it.
    pub label: String,
    /// When it was added.
    pub added: Time,
    /// When it was revoked.
    pub revoked: Option<Time>,
}

/// The state before the first command: an account for each key of the first staff.
///
/// # Errors
/// When the parameters cannot be read or are out of their bounds, or nobody could administer the cell.
pub fn init(opened: &Opened) -> Result<State, BadParams> {
    let wire = wire::Params::decode(opened.params.as_slice())
        .map_err(|why| BadParams(format!("not holmes.accounts.v1.Params: {why}")))?;
    let (params, staff, processes) = params::read(&wire)?;
    let genesis = opened.profile_hash.as_slice().try_into();
    let genesis = genesis.map_err(|_| BadParams("the profile's hash has not 16 bytes".into()))?;
    let cell =
        u16::try_from(opened.cell).map_err(|_| BadParams(format!("there is no cell {}", opened.cell)))?;
    let mut state = State {
        params,
        network: Network { genesis, cell },
        accounts: Table::new(),
        staff: BTreeSet::new(),
        api_keys: Table::new(),
        hashes: Table::new(),
        public_keys: Table::new(),
        holders: Table::new(),
    };
    state.add_first_staff(&staff)?;
    state.add_first_processes(&processes)?;
    Ok(state)
}

impl State {
    fn add_first_staff(&mut self, staff: &FirstStaff) -> Result<(), BadParams> {
        for public_key in &staff.public_keys {
            if !possession::is_key(public_key) {
                return Err(BadParams("one of staff_public_keys is no usable Ed25519 key".into()));
            }
            let account = self.add_staff_account(public_key);
            let holder = Principal::new(PrincipalKind::Account, account);
            let label = FIRST_STAFF.to_owned();
            let key =
                PublicKey { holder, owner: Some(account), label, added: Time::default(), revoked: None };
            self.add_public_key(*public_key, key);
        }
        for hash in &staff.api_key_hashes {
            let account = self.add_staff_account(hash);
            let key = ApiKey {
                account,
                hash: *hash,
                label: FIRST_STAFF.to_owned(),
                roles: Roles::STAFF,
                admin: true,
                created: Time::default(),
                expires: None,
                revoked: None,
            };
            self.add_api_key(account, key);
        }
        Ok(())
    }

    /// The keys of the cell's own processes; for its gateways the first staff answers.
    fn add_first_processes(&mut self, processes: &FirstProcesses) -> Result<(), BadParams> {
        let first = self.accounts.iter().next().map(|(id, _)| *id);
        let services = processes.services.iter().map(|(id, key)| (Principal::service(*id), None, key));
        let gateway = |key| Principal::new(PrincipalKind::Gateway, Id::of_key(key));
        let gateways = processes.gateways.iter().map(|key| (gateway(key), first, key));
        for (holder, owner, key) in services.chain(gateways) {
            if !possession::is_key(key) || self.public_keys.contains(key) {
                return Err(BadParams(format!("the key of {holder} is no usable Ed25519 key of its own")));
            }
            let label = FIRST_PROCESS.to_owned();
            self.add_public_key(
                *key,
                PublicKey { holder, owner, label, added: Time::default(), revoked: None },
            );
        }
        Ok(())
    }

    fn add_staff_account(&mut self, key: &[u8; 32]) -> Id {
        let id = Id::of_key(key);
        self.accounts.insert(id, Account { name: FIRST_STAFF.to_owned(), ..Account::default() });
        self.set_roles(id, Roles::STAFF);
        id
    }

    fn set_roles(&mut self, id: Id, roles: Roles) {
        let Some(account) = self.accounts.get_mut(&id) else { return };
        account.roles = roles;
        if roles.contain(Roles::STAFF) {
            self.staff.insert(id);
        } else {
            self.staff.remove(&id);
        }
    }

    fn add_api_key(&mut self, id: Id, key: ApiKey) {
        let (account, hash) = (key.account, key.hash);
        self.api_keys.get_or_insert_with(id, || key);
        let Some(place) = self.api_keys.place(&id) else { return };
        self.hashes.insert(hash, place);
        if let Some(account) = self.accounts.get_mut(&account) {
            account.api_keys.push(place);
        }
    }

    fn add_public_key(&mut self, public_key: [u8; 32], key: PublicKey) {
        let PublicKey { holder, owner, .. } = key;
        self.public_keys.get_or_insert_with(public_key, || key);
        let Some(place) = self.public_keys.place(&public_key) else { return };
        self.holders.get_or_insert_with(holder, Vec::new).push(place);
        if holder.kind != PrincipalKind::Account
            && let Some(account) = owner.and_then(|id| self.accounts.get_mut(&id))
        {
            account.machines.push(place);
        }
    }
}

/// Name and label of what a profile begins with.
const FIRST_STAFF: &str = "first staff";
/// Label of the keys of processes that a profile begins with.
const FIRST_PROCESS: &str = "first process";

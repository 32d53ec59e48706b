//! Who takes part: keys and ids that follow from the scenario's seed and the name of who has them.

use std::collections::BTreeMap;

use ed25519_dalek::SigningKey;
use holmes_kernel::{Id, Principal, PrincipalKind, ServiceId, Time};

use super::file::{Kind, Node, Person};

/// The first staff, which every network has.
pub(super) const STAFF: &str = "staff";
/// The one gateway, whose part is played.
pub(super) const GATEWAY: &str = "gateway";
/// Names that are taken.
pub(super) const TAKEN: [&str; 3] = [STAFF, GATEWAY, "n"];

/// What sets what we derive apart from anything else that is hashed.
const CONTEXT: &str = "holmes scenario v1";

/// Bytes that follow from a seed and a name.
pub(super) fn derived<const N: usize>(seed: u64, what: &str, name: &str) -> [u8; N] {
    let mut hasher = blake3::Hasher::new_derive_key(CONTEXT);
    for part in [&seed.to_le_bytes()[..], what.as_bytes(), name.as_bytes()] {
        hasher.update(&(part.len() as u64).to_le_bytes());
        hasher.update(part);
    }
    let mut bytes = [0; N];
    hasher.finalize_xof().fill(&mut bytes);
    bytes
}

/// An id of a moment that follows from a seed and a name.
pub(super) fn id(seed: u64, at: Time, what: &str, name: &str) -> Id {
    Id::v7(at.millis(), derived(seed, what, name))
}

/// Somebody with a key.
#[derive(Clone)]
pub(super) struct Party {
    pub kind: PrincipalKind,
    pub key: SigningKey,
    /// Of a service: its number.
    pub number: Option<u16>,
    /// Accounts in the ledger, by asset.
    pub accounts: BTreeMap<String, Id>,
}

impl Party {
    fn new(seed: u64, kind: PrincipalKind, name: &str) -> Party {
        let key = SigningKey::from_bytes(&derived(seed, "key", name));
        Party { kind, key, number: None, accounts: BTreeMap::new() }
    }

    /// Its public key.
    pub(super) fn public(&self) -> [u8; 32] {
        self.key.verifying_key().to_bytes()
    }

    /// Its id: the hash of its key.
    pub(super) fn id(&self) -> Id {
        Id::of_key(&self.public())
    }

    /// As whom it calls.
    pub(super) fn principal(&self) -> Principal {
        match self.number {
            Some(number) => Principal::service(ServiceId(number)),
            None => Principal::new(self.kind, self.id()),
        }
    }
}

/// Everybody.
pub(super) struct Cast {
    seed: u64,
    parties: BTreeMap<String, Party>,
    /// What scheduling signs leases with.
    pub lease_key: SigningKey,
}

impl Cast {
    /// The people and nodes of a scenario.
    pub(super) fn new<'a>(
        seed: u64,
        people: impl Iterator<Item = (&'a String, &'a Person)>,
        nodes: impl Iterator<Item = (&'a String, &'a Node)>,
    ) -> Cast {
        let mut parties = BTreeMap::new();
        let mut add = |name: &str, kind| {
            parties.insert(name.to_owned(), Party::new(seed, kind, name));
        };
        add(STAFF, PrincipalKind::Staff);
        add(GATEWAY, PrincipalKind::Gateway);
        nodes.for_each(|(name, _)| add(name, PrincipalKind::Node));
        for (name, person) in people {
            let kind = match person.is {
                Kind::Staff => PrincipalKind::Staff,
                Kind::Service => PrincipalKind::Service,
                Kind::Renter | Kind::Operator | Kind::Verifier | Kind::Holder => PrincipalKind::Account,
            };
            let party = Party { number: person.number, ..Party::new(seed, kind, name) };
            parties.insert(name.clone(), party);
        }
        let lease_key = SigningKey::from_bytes(&derived(seed, "key", "leases"));
        Cast { seed, parties, lease_key }
    }

    /// Somebody by name.
    pub(super) fn party(&self, name: &str) -> Option<&Party> {
        self.parties.get(name)
    }

    /// The names of all.
    pub(super) fn names(&self) -> Vec<String> {
        self.parties.keys().cloned().collect()
    }

    /// Takes note of an account in the ledger.
    pub(super) fn has_account(&mut self, name: &str, asset: &str, account: Id) {
        if let Some(party) = self.parties.get_mut(name) {
            party.accounts.insert(asset.to_owned(), account);
        }
    }

    /// The text of an API key of somebody's.
    pub(super) fn api_key(&self, name: &str, admin: bool) -> String {
        let what = if admin { "admin key" } else { "API key" };
        format!("hk_{}", crate::output::hex(&derived::<32>(self.seed, what, name)))
    }

    /// A key that nobody has registered.
    pub(super) fn wrong_key(&self, name: &str) -> SigningKey {
        SigningKey::from_bytes(&derived(self.seed, "wrong key", name))
    }

    /// What everything follows from.
    pub(super) fn seed(&self) -> u64 {
        self.seed
    }
}

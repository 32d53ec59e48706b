//! The proof that a public key comes from who has its private half. Without it somebody could register another's key as
//! his own, and so take its node, or its place, before it comes.

use ed25519_dalek::{Signature, VerifyingKey};
use holmes_kernel::{Id, Principal};
use holmes_proto::edge::signed_text;
use serde::{Deserialize, Serialize};

/// What sets a key's statement apart from every other signed text.
const CONTEXT: &[u8] = b"holmes key v1";

/// Where a statement counts: nowhere else, so that a test network's keys open nothing in the real one.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Network {
    /// BLAKE3-128 of the profile that opened the network.
    pub genesis: [u8; 16],
    /// The deployment.
    pub cell: u16,
}

/// A public key that its possessor offers.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct OfferedKey {
    /// Ed25519.
    pub public_key: [u8; 32],
    /// What its owner calls it; not personal data.
    pub label: String,
    /// The proof: both halves of a signature over [`statement`].
    pub possession: [[u8; 32]; 2],
}

/// Why an offered key is not taken.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum NotProven {
    /// No Ed25519 key, or one under which signatures prove nothing.
    Key,
    /// The signature does not fit.
    Signature,
}

/// What the key signs: "I speak for `holder`, and the account `owner` answers for me". Each field behind its length.
pub fn statement(network: &Network, holder: Principal, owner: Option<Id>, public_key: &[u8; 32]) -> Vec<u8> {
    let owner = owner.map(Id::to_bytes);
    let fields: [&[u8]; 6] = [
        CONTEXT,
        &network.genesis,
        &network.cell.to_le_bytes(),
        &holder.to_bytes(),
        owner.as_ref().map_or(&[], |id| id.as_slice()),
        public_key,
    ];
    signed_text(&fields)
}

/// Whether bytes are a key under which a signature proves something.
pub fn is_key(public_key: &[u8; 32]) -> bool {
    usable(public_key).is_some()
}

fn usable(public_key: &[u8; 32]) -> Option<VerifyingKey> {
    VerifyingKey::from_bytes(public_key).ok().filter(|key| !key.is_weak())
}

/// Checks the proof. Strict: of the signatures that a lenient check would take, exactly one passes, so that two
/// implementations cannot disagree about a log.
///
/// # Errors
/// When the key is none, or the signature is not its own over this very statement.
pub fn check(
    network: &Network,
    holder: Principal,
    owner: Option<Id>,
    key: &OfferedKey,
) -> Result<(), NotProven> {
    let verifying = usable(&key.public_key).ok_or(NotProven::Key)?;
    let [r, s] = key.possession;
    let signed = statement(network, holder, owner, &key.public_key);
    verifying.verify_strict(&signed, &Signature::from_components(r, s)).map_err(|_| NotProven::Signature)
}

#[cfg(test)]
mod tests {
    use ed25519_dalek::{Signer as _, SigningKey};
    use holmes_kernel::PrincipalKind;

    use super::*;

    const HERE: Network = Network { genesis: [7; 16], cell: 1 };

    fn offered(network: &Network, holder: Principal, owner: Option<Id>) -> OfferedKey {
        let key = SigningKey::from_bytes(&[3; 32]);
        let public_key = key.verifying_key().to_bytes();
        let signature = key.sign(&statement(network, holder, owner, &public_key));
        let possession = [*signature.r_bytes(), *signature.s_bytes()];
        OfferedKey { public_key, label: String::new(), possession }
    }

    #[test]
    fn a_statement_counts_only_for_the_holder_owner_network_and_cell_it_names() {
        let (one, two) = (Id::from_bytes([1; 16]), Id::from_bytes([2; 16]));
        let node = Principal::new(PrincipalKind::Node, one);
        let key = offered(&HERE, node, Some(one));
        assert_eq!(check(&HERE, node, Some(one), &key), Ok(()));
        let gateway = Principal::new(PrincipalKind::Gateway, one);
        for (network, holder, owner) in [
            (HERE, gateway, Some(one)),
            (HERE, node, Some(two)),
            (HERE, node, None),
            (Network { cell: 2, ..HERE }, node, Some(one)),
            (Network { genesis: [8; 16], ..HERE }, node, Some(one)),
        ] {
            assert_eq!(check(&network, holder, owner, &key), Err(NotProven::Signature));
        }
    }

    #[test]
    fn keys_under_which_anything_verifies_are_refused() {
        let node = Principal::new(PrincipalKind::Node, Id::from_bytes([1; 16]));
        let good = offered(&HERE, node, None);
        let mut identity = [0; 32];
        identity[0] = 1; // the neutral point: of small order
        for public_key in [[0; 32], identity, [2; 32]] {
            let key = OfferedKey { public_key, ..good.clone() };
            assert_eq!(check(&HERE, node, None, &key), Err(NotProven::Key), "{public_key:?}");
        }
    }
}

//! The proof that a node's key is its owner's. A node's id is the hash of its public key, which others see: without the
//! proof anybody could register another's node before its owner comes.

use ed25519_dalek::{Signature, VerifyingKey};
use holmes_kernel::Principal;
use holmes_proto::edge::signed_text;
use serde::{Deserialize, Serialize};

use crate::command::Rejection;

/// What sets a node's statement apart from every other signed text.
const CONTEXT: &[u8] = b"holmes node v1";

/// Where a statement counts: nowhere else, so that a test network's nodes are nobody's in the real one.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Network {
    /// BLAKE3-128 of the profile that opened the network; zeros where it names none.
    pub genesis: [u8; 16],
    /// The deployment.
    pub cell: u16,
}

/// What the node signs: "I am `owner`'s". Each field behind its length.
pub fn statement(network: &Network, owner: Principal, public_key: &[u8; 32]) -> Vec<u8> {
    let fields: [&[u8]; 5] =
        [CONTEXT, &network.genesis, &network.cell.to_le_bytes(), &owner.to_bytes(), public_key];
    signed_text(&fields)
}

/// Checks the proof. Strict: of the signatures that a lenient check would take exactly one passes, so that two
/// implementations cannot disagree about a log.
///
/// # Errors
/// `KEY_INVALID`, `POSSESSION_INVALID`.
pub fn check(
    network: &Network,
    owner: Principal,
    public_key: &[u8; 32],
    [r, s]: [[u8; 32]; 2],
) -> Result<(), Rejection> {
    let key = VerifyingKey::from_bytes(public_key).ok().filter(|key| !key.is_weak());
    let key = key.ok_or(Rejection::KeyInvalid)?;
    let signed = statement(network, owner, public_key);
    key.verify_strict(&signed, &Signature::from_components(r, s)).map_err(|_| Rejection::PossessionInvalid)
}

#[cfg(test)]
mod tests {
    use ed25519_dalek::{Signer as _, SigningKey};
    use holmes_kernel::{Id, PrincipalKind};

    use super::*;

    const HERE: Network = Network { genesis: [7; 16], cell: 1 };

    #[test]
    fn a_proof_counts_only_for_the_owner_network_and_cell_it_names() {
        let owner = |n| Principal::new(PrincipalKind::Account, Id::from_bytes([n; 16]));
        let key = SigningKey::from_bytes(&[3; 32]);
        let public_key = key.verifying_key().to_bytes();
        let signature = key.sign(&statement(&HERE, owner(1), &public_key));
        let halves = [*signature.r_bytes(), *signature.s_bytes()];
        assert_eq!(check(&HERE, owner(1), &public_key, halves), Ok(()));
        for (network, owner) in [
            (HERE, owner(2)),
            (Network { cell: 2, ..HERE }, owner(1)),
            (Network { genesis: [8; 16], ..HERE }, owner(1)),
        ] {
            let checked = check(&network, owner, &public_key, halves);
            assert_eq!(checked, Err(Rejection::PossessionInvalid));
        }
    }

    #[test]
    fn a_key_under_which_anything_verifies_is_refused() {
        let owner = Principal::new(PrincipalKind::Account, Id::from_bytes([1; 16]));
        let mut identity = [0; 32];
        identity[0] = 1; // the neutral point: of small order
        for key in [[0; 32], identity, [2; 32]] {
            assert_eq!(check(&HERE, owner, &key, [[0; 32]; 2]), Err(Rejection::KeyInvalid), "{key:?}");
        }
    }
}

//! The signatures of nodes and gateways. Checked at the edge, so that the machine's thread does no cryptography; a
//! party's key never changes, since its id is the key's hash.

use ed25519_dalek::{Signature, VerifyingKey};
use holmes_proto::statements::{attach as attach_statement, call_line};

use crate::command::{Attach, Line, Rejection};
use crate::state::{LeaseId, Network};

/// Checks that the node of a key has signed this attachment to this gateway.
///
/// # Errors
/// `SIGNATURE_INVALID`.
pub fn check_attach(
    network: &Network,
    public_key: &[u8; 32],
    gateway: &[u8; 16],
    attach: &Attach,
) -> Result<(), Rejection> {
    let said = attach_statement(&network.genesis, network.cell, gateway, &attach.nonce, &attach.offer.bytes);
    let what = "signature does not prove that the node attaches here";
    check(public_key, &said, attach.signature, || what.to_owned())
}

/// Checks that node and gateway have signed every line of a report.
///
/// # Errors
/// `SIGNATURE_INVALID` with the line.
pub fn check_lines(
    network: &Network,
    lease: LeaseId,
    (node, gateway): (&[u8; 32], &[u8; 32]),
    lines: &[Line],
) -> Result<(), Rejection> {
    for (at, line) in lines.iter().enumerate() {
        let said = call_line(&network.genesis, network.cell, &lease.to_bytes(), &line.message());
        check(node, &said, line.node_signature, || format!("lines[{at}].node_signature does not fit"))?;
        check(gateway, &said, line.gateway_signature, || {
            format!("lines[{at}].gateway_signature does not fit")
        })?;
    }
    Ok(())
}

/// Whether a key is one under which a signature proves anything.
pub fn is_key(public_key: &[u8; 32]) -> bool {
    VerifyingKey::from_bytes(public_key).is_ok_and(|key| !key.is_weak())
}

/// Strict: of the signatures that a lenient check would take exactly one passes, so that two implementations cannot
/// disagree about a log.
fn check(
    public_key: &[u8; 32],
    said: &[u8],
    [r, s]: [[u8; 32]; 2],
    what: impl FnOnce() -> String,
) -> Result<(), Rejection> {
    let key = VerifyingKey::from_bytes(public_key).ok().filter(|key| !key.is_weak());
    let signature = Signature::from_components(r, s);
    let fits = key.is_some_and(|key| key.verify_strict(said, &signature).is_ok());
    if fits { Ok(()) } else { Err(Rejection::SignatureInvalid(what())) }
}

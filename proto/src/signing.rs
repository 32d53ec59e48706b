//! What a signed request is: which bytes are signed, and of what. `docs/reference/signing.md` says the same to clients.

use holmes_kernel::{Id, Principal};

use crate::edge::signed_text;

/// What a signature covers, beside the request itself: it is worth nothing in another network, cell or version.
#[derive(Clone, Debug)]
pub struct Network {
    /// BLAKE3-128 of the profile that opened the network.
    pub genesis: [u8; 16],
    /// The deployment.
    pub cell: u16,
}

/// The bytes that a client signs for a request; `path` is `/holmes.<service>.v1.<Service>/<Method>`.
pub fn signing_input(
    network: &Network,
    path: &str,
    message: &[u8],
    request_id: Id,
    expires_ms: u64,
    principal: Principal,
) -> Vec<u8> {
    let body = blake3::hash(message);
    let fields: [&[u8]; 8] = [
        b"holmes request v1",
        &network.genesis,
        &network.cell.to_le_bytes(),
        path.as_bytes(),
        body.as_bytes(),
        &request_id.to_bytes(),
        &expires_ms.to_le_bytes(),
        &principal.to_bytes(),
    ];
    signed_text(&fields)
}

/// The request id that a message names: in every request that changes something it is the first field, as text.
pub fn request_id_of(message: &[u8]) -> Option<Id> {
    first_text(message)?.parse().ok()
}

/// The first field of a message, where that is a short text.
pub fn first_text(message: &[u8]) -> Option<&str> {
    let (&tag, rest) = message.split_first()?;
    let (&len, rest) = rest.split_first()?;
    let text = rest.get(..usize::from(len)).filter(|_| tag == FIRST_TEXT && len < 128)?;
    std::str::from_utf8(text).ok()
}

/// Field 1, and that a length follows.
const FIRST_TEXT: u8 = 0x0a;

/// The message inside a unary gRPC body: behind one byte of flags and four of length. A body that is not exactly one
/// message is hashed as it stands, so no signature fits it.
pub fn message_of(body: &[u8]) -> &[u8] {
    match body.get(..5) {
        Some([0, a, b, c, d]) if u32::from_be_bytes([*a, *b, *c, *d]) as usize == body.len() - 5 => {
            &body[5..]
        }
        _ => body,
    }
}

//! What nodes, gateways and scheduling sign, said once for all who sign and all who check; and how leases and receipts
//! are named. The comments of `scheduling.proto` describe the same bytes for others.

use prost::Message as _;

use crate::edge::signed_text;
use crate::inference::v1::{generate_work, work};
use crate::scheduling::v1::CallLine;

/// Bytes of a lease's id: cell (u16), service (u16), term (u64), seq (u64), big-endian.
pub const LEASE_BYTES: usize = 20;

/// What sets a node's statement that it attaches apart from every other signed text.
const ATTACH: &[u8] = b"holmes attach v1";
/// The same of a call.
const CALL: &[u8] = b"holmes call v1";
/// The same of a lease.
const LEASE: &[u8] = b"holmes lease v1";

/// What a node signs when it attaches to a gateway: it offers this there, in answer to this question. `genesis` is the
/// BLAKE3-128 of the profile that opened the network, zeros where it names none; `capabilities` are the bytes of
/// `Capabilities` as they are sent.
pub fn attach(
    genesis: &[u8; 16],
    cell: u16,
    gateway: &[u8; 16],
    nonce: &[u8; 16],
    capabilities: &[u8],
) -> Vec<u8> {
    let offered = blake3::hash(capabilities);
    signed_text(&[ATTACH, genesis, &cell.to_le_bytes(), gateway, nonce, offered.as_bytes()])
}

/// What a node signs of a call that it has computed, and the gateway of a call that it has delivered. The signatures of
/// the line are not in it.
pub fn call_line(genesis: &[u8; 16], cell: u16, lease: &[u8; LEASE_BYTES], line: &CallLine) -> Vec<u8> {
    signed_text(&[
        CALL,
        genesis,
        &cell.to_le_bytes(),
        lease,
        &line.call,
        &line.input_tokens.to_le_bytes(),
        &line.output_tokens.to_le_bytes(),
        &line.finish.to_le_bytes(),
        &line.prompt_commitment,
        &line.output_commitment,
    ])
}

/// What scheduling signs of a lease: the bytes of `Lease` as they are sent.
pub fn lease(genesis: &[u8; 16], cell: u16, lease: &[u8]) -> Vec<u8> {
    signed_text(&[LEASE, genesis, &cell.to_le_bytes(), lease])
}

/// The commitment to what was asked, BLAKE3-256 keyed with the call's key; `None` when nothing was. Of a plain prompt: its
/// bytes. Of a conversation: the bytes of its protobuf message, fields in the order of their numbers. Of texts to embed:
/// each behind its length (u32, little-endian).
pub fn prompt_commitment(key: &[u8; 32], asked: &work::Work) -> Option<[u8; 32]> {
    let hash = |bytes: &[u8]| *blake3::keyed_hash(key, bytes).as_bytes();
    Some(match asked {
        work::Work::Generate(generate) => match generate.prompt.as_ref()? {
            generate_work::Prompt::Text(text) => hash(text.as_bytes()),
            generate_work::Prompt::Chat(chat) => hash(&chat.encode_to_vec()),
        },
        work::Work::Embed(embed) => {
            let texts: Vec<&[u8]> = embed.texts.iter().map(|text| text.as_bytes()).collect();
            hash(&signed_text(&texts))
        }
    })
}

/// The name of a receipt: a line of a `CallsMetered` at this place in scheduling's log, lines counted from 0.
pub fn receipt_name(seq: u64, line: u32) -> String {
    format!("receipts/{seq}.{line}")
}

/// A lease's id of its parts.
pub fn lease_id(cell: u16, service: u16, term: u64, seq: u64) -> [u8; LEASE_BYTES] {
    let mut bytes = [0; LEASE_BYTES];
    bytes[..2].copy_from_slice(&cell.to_be_bytes());
    bytes[2..4].copy_from_slice(&service.to_be_bytes());
    bytes[4..12].copy_from_slice(&term.to_be_bytes());
    bytes[12..].copy_from_slice(&seq.to_be_bytes());
    bytes
}

/// A lease's id in text: "<cell>.<service>.<term>.<seq>".
pub fn lease_text(lease: &[u8; LEASE_BYTES]) -> String {
    let number = |bytes: &[u8]| bytes.iter().fold(0u64, |number, byte| number << 8 | u64::from(*byte));
    let [cell, service, term, seq] = [&lease[..2], &lease[2..4], &lease[4..12], &lease[12..]].map(number);
    format!("{cell}.{service}.{term}.{seq}")
}

/// A lease's id of its text; `None` when it is not written exactly as [`lease_text`] writes it.
pub fn lease_bytes(text: &str) -> Option<[u8; LEASE_BYTES]> {
    let mut parts = text.split('.');
    let mut next = || parts.next();
    let (cell, service, term, seq) = (next()?, next()?, next()?, next()?);
    let lease = lease_id(cell.parse().ok()?, service.parse().ok()?, term.parse().ok()?, seq.parse().ok()?);
    (lease_text(&lease) == text).then_some(lease)
}

#[cfg(test)]
mod tests {
    use crate::inference::v1::{ChatMessage, Conversation, EmbedWork, GenerateWork};

    use super::*;

    const GENESIS: [u8; 16] = [0x11; 16];

    fn line() -> CallLine {
        CallLine {
            call: vec![0x22; 16].into(),
            input_tokens: 300,
            output_tokens: 5,
            finish: 2,
            prompt_commitment: vec![0x33; 32].into(),
            output_commitment: vec![0x44; 32].into(),
            node_signature: vec![0x55; 64].into(),
            gateway_signature: vec![0x66; 64].into(),
        }
    }

    fn hex(bytes: &[u8]) -> String {
        bytes.iter().map(|byte| format!("{byte:02x}")).collect()
    }

    /// A field as it is signed: its length, then itself, both in hexadecimal digits.
    fn field(length: &str, content: &str) -> String {
        format!("{length}000000{content}")
    }

    fn context(text: &str, length: &str) -> String {
        field(length, &hex(text.as_bytes())) + &field("10", &"11".repeat(16)) + &field("02", "0201")
    }

    #[test]
    fn a_node_that_attaches_signs_these_bytes() {
        // BLAKE3-256 of "abc", from the function's published vectors.
        let abc = "6437b3ac38465133ffb63b75273a8db548c558465d79db03fd359c6cd5bd9d85";
        let golden = context("holmes attach v1", "10")
            + &field("10", &"77".repeat(16))
            + &field("10", &"88".repeat(16))
            + &field("20", abc);
        assert_eq!(hex(&attach(&GENESIS, 0x0102, &[0x77; 16], &[0x88; 16], b"abc")), golden);
    }

    #[test]
    fn both_parties_of_a_call_sign_these_bytes() {
        let lease = lease_id(0x0102, 4, 5, 6);
        let golden = context("holmes call v1", "0e")
            + &field("14", "0102000400000000000000050000000000000006")
            + &field("10", &"22".repeat(16))
            + &field("08", "2c01000000000000")
            + &field("08", "0500000000000000")
            + &field("04", "02000000")
            + &field("20", &"33".repeat(32))
            + &field("20", &"44".repeat(32));
        assert_eq!(hex(&call_line(&GENESIS, 0x0102, &lease, &line())), golden);
        let unsigned = CallLine { node_signature: Vec::new().into(), ..line() };
        assert_eq!(hex(&call_line(&GENESIS, 0x0102, &lease, &unsigned)), golden);
    }

    #[test]
    fn scheduling_signs_these_bytes_of_a_lease() {
        let golden = context("holmes lease v1", "0f") + &field("03", "010203");
        assert_eq!(hex(&lease(&GENESIS, 0x0102, &[1, 2, 3])), golden);
    }

    #[test]
    fn leases_and_receipts_have_names_that_read_back() {
        let lease = lease_id(1, 4, u64::MAX, 42);
        assert_eq!(lease_text(&lease), "1.4.18446744073709551615.42");
        assert_eq!(lease_bytes(&lease_text(&lease)), Some(lease));
        assert_eq!(receipt_name(42, 7), "receipts/42.7");
    }

    #[test]
    fn a_text_that_is_no_leases_name_is_none() {
        for text in [
            "",
            "1.4.5",
            "1.4.5.6.7",
            "1.4.5.",
            "65536.4.5.6",
            "1.4.-5.6",
            "1.4.+5.6",
            "01.4.5.6",
            " 1.4.5.6",
        ] {
            assert_eq!(lease_bytes(text), None, "{text:?}");
        }
    }

    #[test]
    fn a_prompt_is_committed_to_as_its_bytes() {
        let key = [9; 32];
        let generate =
            |prompt| work::Work::Generate(GenerateWork { prompt: Some(prompt), ..Default::default() });
        let embed = |texts: &[&str]| {
            let texts = texts.iter().map(|text| (*text).to_owned()).collect();
            work::Work::Embed(EmbedWork { texts })
        };
        let hash = |bytes: &[u8]| Some(*blake3::keyed_hash(&key, bytes).as_bytes());
        let text = generate(generate_work::Prompt::Text("hi".into()));
        assert_eq!(prompt_commitment(&key, &text), hash(b"hi"));
        let message = ChatMessage { role: "user".into(), content: "hi".into() };
        let chat = generate(generate_work::Prompt::Chat(Conversation { messages: vec![message] }));
        assert_eq!(prompt_commitment(&key, &chat), hash(b"\x0a\x0a\x0a\x04user\x12\x02hi"));
        let texts = prompt_commitment(&key, &embed(&["a", "bc"]));
        assert_eq!(texts, hash(b"\x01\0\0\0a\x02\0\0\0bc"));
        assert_ne!(texts, prompt_commitment(&key, &embed(&["ab", "c"])));
        assert_ne!(prompt_commitment(&[8; 32], &text), prompt_commitment(&key, &text));
        assert_eq!(prompt_commitment(&key, &work::Work::Generate(GenerateWork::default())), None);
    }
}

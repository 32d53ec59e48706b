//! What a node signs of a call, and what the commitments in it are made of.
//!
//! Commitments are BLAKE3-256 keyed with the call's key. Of a plain prompt: its bytes. Of a conversation: the bytes of
//! its protobuf message, fields in the order of their numbers. Of texts to embed: each behind its length (u32
//! little-endian). Of an answer: the bytes of the text that was sent, from the first token that was sent; of vectors:
//! the bytes of `Vectors.values`.

use ed25519_dalek::{Signer as _, SigningKey};
use holmes_proto::edge::signed_text;
use holmes_proto::inference::v1::{Work, generate_work, work};
use holmes_proto::scheduling::v1::{CallLine, Finish};
use holmes_proto::statements::{self, LEASE_BYTES};
use prost::Message as _;

/// A lease's id.
pub(crate) type LeaseId = [u8; LEASE_BYTES];

/// Where signatures count.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Network {
    pub(crate) genesis: [u8; 16],
    pub(crate) cell: u16,
}

/// The commitment to what was asked; `None` when nothing was.
pub(crate) fn prompt_commitment(key: &[u8; 32], work: &Work) -> Option<[u8; 32]> {
    let hash = |bytes: &[u8]| *blake3::keyed_hash(key, bytes).as_bytes();
    Some(match work.work.as_ref()? {
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

/// What has been done of a call, ready to be signed at any moment.
#[derive(Clone, Debug)]
pub(crate) struct Tally {
    call: [u8; 16],
    lease: LeaseId,
    pub(crate) input: u64,
    pub(crate) output: u64,
    prompt_commitment: [u8; 32],
    answer: blake3::Hasher,
}

impl Tally {
    pub(crate) fn new(call: [u8; 16], lease: LeaseId, key: &[u8; 32], prompt_commitment: [u8; 32]) -> Tally {
        let answer = blake3::Hasher::new_keyed(key);
        Tally { call, lease, input: 0, output: 0, prompt_commitment, answer }
    }

    /// So many tokens more, and the bytes that they are.
    pub(crate) fn sent(&mut self, tokens: u64, bytes: &[u8]) {
        self.output += tokens;
        self.answer.update(bytes);
    }

    /// The line as of now, with the node's signature.
    pub(crate) fn line(&self, key: &SigningKey, network: &Network, finish: Finish) -> CallLine {
        let mut line = CallLine {
            call: self.call.to_vec().into(),
            input_tokens: self.input,
            output_tokens: self.output,
            finish: finish.into(),
            prompt_commitment: self.prompt_commitment.to_vec().into(),
            output_commitment: self.answer.finalize().as_bytes().to_vec().into(),
            ..CallLine::default()
        };
        let statement = statements::call_line(&network.genesis, network.cell, &self.lease, &line);
        line.node_signature = key.sign(&statement).to_bytes().to_vec().into();
        line
    }
}

#[cfg(test)]
mod tests {
    use holmes_proto::inference::v1::{ChatMessage, Conversation, EmbedWork, GenerateWork};

    use super::*;

    const KEY: [u8; 32] = [9; 32];

    fn generate(prompt: generate_work::Prompt) -> Work {
        let generate = GenerateWork { prompt: Some(prompt), ..GenerateWork::default() };
        Work { model: "m".into(), work: Some(work::Work::Generate(generate)) }
    }

    fn embed(texts: &[&str]) -> Work {
        let texts = texts.iter().map(|text| (*text).to_owned()).collect();
        Work { model: "m".into(), work: Some(work::Work::Embed(EmbedWork { texts })) }
    }

    #[test]
    fn a_prompt_is_committed_to_as_its_bytes() {
        let hash = |bytes: &[u8]| Some(*blake3::keyed_hash(&KEY, bytes).as_bytes());
        let text = generate(generate_work::Prompt::Text("hi".into()));
        assert_eq!(prompt_commitment(&KEY, &text), hash(b"hi"));
        let message = ChatMessage { role: "user".into(), content: "hi".into() };
        let chat = Conversation { messages: vec![message] };
        let chat = generate(generate_work::Prompt::Chat(chat));
        assert_eq!(prompt_commitment(&KEY, &chat), hash(b"\x0a\x0a\x0a\x04user\x12\x02hi"));
        assert_eq!(prompt_commitment(&KEY, &embed(&["a", "bc"])), hash(b"\x01\0\0\0a\x02\0\0\0bc"));
        assert_ne!(
            prompt_commitment(&KEY, &embed(&["ab", "c"])),
            prompt_commitment(&KEY, &embed(&["a", "bc"]))
        );
        assert_ne!(prompt_commitment(&[8; 32], &text), prompt_commitment(&KEY, &text));
        assert_eq!(prompt_commitment(&KEY, &Work::default()), None);
    }

    #[test]
    fn a_line_is_signed_for_its_network_and_names_what_was_sent() {
        let key = SigningKey::from_bytes(&[3; 32]);
        let network = Network { genesis: [7; 16], cell: 1 };
        let mut tally = Tally::new([1; 16], [2; 20], &KEY, [5; 32]);
        tally.input = 4;
        tally.sent(2, b"he");
        tally.sent(1, b"llo");
        let line = tally.line(&key, &network, Finish::Stop);
        assert_eq!((line.input_tokens, line.output_tokens), (4, 3));
        assert_eq!(line.output_commitment.as_ref(), blake3::keyed_hash(&KEY, b"hello").as_bytes());
        let statement = statements::call_line(&[7; 16], 1, &[2; 20], &line);
        let signature = ed25519_dalek::Signature::from_slice(&line.node_signature).unwrap();
        assert!(key.verifying_key().verify_strict(&statement, &signature).is_ok());
        let elsewhere = statements::call_line(&[7; 16], 2, &[2; 20], &line);
        assert!(key.verifying_key().verify_strict(&elsewhere, &signature).is_err());
    }
}

//! What a node signs of a call, and what the commitments in it are made of.
//!
//! Commitments are BLAKE3-256 keyed with the call's key: to the prompt as `statements` says; to an answer, the bytes of the
//! text that was sent, from the first token that was sent; to vectors, the bytes of `Vectors.values`.

use ed25519_dalek::{Signer as _, SigningKey};
use holmes_proto::scheduling::v1::{CallLine, Finish};
use holmes_proto::statements::{self, LEASE_BYTES};

/// A lease's id.
pub(crate) type LeaseId = [u8; LEASE_BYTES];

/// Where signatures count.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Network {
    pub(crate) genesis: [u8; 16],
    pub(crate) cell: u16,
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
    use super::*;

    const KEY: [u8; 32] = [9; 32];

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

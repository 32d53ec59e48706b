//! What nodes sign and the gateway countersigns: lines of calls, checked against what was delivered.

use ed25519_dalek::{Signature, Signer as _, SigningKey, VerifyingKey};
use holmes_kernel::Id;
use holmes_proto::scheduling::v1::{CallLine, Finish};
use holmes_proto::statements::{self, LEASE_BYTES};
use holmes_runtime::auth::Network;

/// What a line of a call is held against.
#[derive(Debug)]
pub(crate) struct Facts<'a> {
    pub(crate) network: &'a Network,
    /// The node's key.
    pub(crate) node: &'a VerifyingKey,
    pub(crate) lease: [u8; LEASE_BYTES],
    pub(crate) call: Id,
    /// No prompt of this call has more tokens.
    pub(crate) most_input: u64,
    /// What the node must have committed to, of the prompt and of the answer as far as it has sent it.
    pub(crate) commitments: [[u8; 32]; 2],
    /// Tokens that this node has sent, all of which went to the renter or were on their way when the renter left.
    pub(crate) delivered: u64,
}

/// Why a line is refused for ever.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Untrue(pub(crate) &'static str);

/// Whether a line says what was, in one of these ends, under the node's signature.
pub(crate) fn check(line: &CallLine, facts: &Facts<'_>, ends: &[Finish]) -> Result<(), Untrue> {
    if Id::from_slice(&line.call) != Some(facts.call) {
        return Err(Untrue("CALL_OTHER"));
    }
    if !ends.contains(&line.finish()) {
        return Err(Untrue("FINISH_WRONG"));
    }
    if [line.prompt_commitment.as_ref(), line.output_commitment.as_ref()]
        != facts.commitments.each_ref().map(<[u8; 32]>::as_slice)
    {
        return Err(Untrue("COMMITMENT_WRONG"));
    }
    if line.output_tokens > facts.delivered {
        return Err(Untrue("ABOVE_DELIVERED"));
    }
    if line.input_tokens > facts.most_input {
        return Err(Untrue("INPUT_ABOVE_BOUND"));
    }
    let Ok(signature) = Signature::from_slice(&line.node_signature) else {
        return Err(Untrue("SIGNATURE_MALFORMED"));
    };
    let signed = statements::call_line(&facts.network.genesis, facts.network.cell, &facts.lease, line);
    facts.node.verify_strict(&signed, &signature).map_err(|_| Untrue("SIGNATURE_WRONG"))
}

/// The line with the gateway's signature: it has delivered that.
pub(crate) fn countersigned(
    mut line: CallLine,
    network: &Network,
    lease: &[u8; LEASE_BYTES],
    key: &SigningKey,
) -> CallLine {
    let signed = statements::call_line(&network.genesis, network.cell, lease, &line);
    line.gateway_signature = key.sign(&signed).to_bytes().to_vec().into();
    line
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const NETWORK: Network = Network { genesis: [3; 16], cell: 1 };
    const LEASE: [u8; LEASE_BYTES] = [9; LEASE_BYTES];

    fn node() -> SigningKey {
        SigningKey::from_bytes(&[5; 32])
    }

    fn line(input_tokens: u64, output_tokens: u64, finish: Finish) -> CallLine {
        let mut line = CallLine {
            call: vec![7; 16].into(),
            input_tokens,
            output_tokens,
            finish: finish.into(),
            prompt_commitment: vec![1; 32].into(),
            output_commitment: vec![2; 32].into(),
            ..CallLine::default()
        };
        let signed = statements::call_line(&NETWORK.genesis, NETWORK.cell, &LEASE, &line);
        line.node_signature = node().sign(&signed).to_bytes().to_vec().into();
        line
    }

    fn checked(line: &CallLine) -> Result<(), Untrue> {
        let key = node().verifying_key();
        let facts = Facts {
            network: &NETWORK,
            node: &key,
            lease: LEASE,
            call: Id::from_bytes([7; 16]),
            most_input: 100,
            commitments: [[1; 32], [2; 32]],
            delivered: 10,
        };
        check(line, &facts, &[Finish::Stop, Finish::Length])
    }

    #[test]
    fn a_line_that_says_what_was_delivered_is_true() {
        assert_eq!(checked(&line(100, 10, Finish::Stop)), Ok(()));
        assert_eq!(checked(&line(1, 0, Finish::Length)), Ok(()));
    }

    #[test]
    fn a_line_above_what_was_delivered_is_refused_though_it_is_signed() {
        assert_eq!(checked(&line(100, 11, Finish::Stop)), Err(Untrue("ABOVE_DELIVERED")));
        assert_eq!(checked(&line(101, 1, Finish::Stop)), Err(Untrue("INPUT_ABOVE_BOUND")));
        assert_eq!(checked(&line(1, 1, Finish::NodeLost)), Err(Untrue("FINISH_WRONG")));
    }

    proptest! {
        #[test]
        fn no_field_can_be_changed_under_a_signature(which in 0..5usize, bit in 0..8u32) {
            let mut changed = line(50, 8, Finish::Stop);
            let flip = |bytes: &prost::bytes::Bytes| {
                let mut bytes = bytes.to_vec();
                bytes[which] ^= 1 << bit;
                prost::bytes::Bytes::from(bytes)
            };
            match which {
                0 => changed.input_tokens ^= 1,
                1 => changed.output_tokens ^= 1,
                2 => changed.prompt_commitment = flip(&changed.prompt_commitment),
                3 => changed.output_commitment = flip(&changed.output_commitment),
                _ => changed.node_signature = flip(&changed.node_signature),
            }
            let reason = if matches!(which, 2 | 3) { "COMMITMENT_WRONG" } else { "SIGNATURE_WRONG" };
            prop_assert_eq!(checked(&changed), Err(Untrue(reason)));
        }
    }

    #[test]
    fn the_gateway_signs_what_the_node_has_signed() {
        let gateway = SigningKey::from_bytes(&[6; 32]);
        let line = countersigned(line(1, 2, Finish::Stop), &NETWORK, &LEASE, &gateway);
        let signed = statements::call_line(&NETWORK.genesis, NETWORK.cell, &LEASE, &line);
        let signature = Signature::from_slice(&line.gateway_signature).unwrap();
        assert!(gateway.verifying_key().verify_strict(&signed, &signature).is_ok());
    }
}

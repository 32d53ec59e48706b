//! What nodes and gateways sign: that a node attaches, and what came of calls. Nothing of it can be changed under a
//! signature, and it counts in one network, at one gateway, under one key.

use std::sync::OnceLock;

use arbitrary::Unstructured;
use ed25519_dalek::{Signer as _, SigningKey};
use holmes_kernel::Id;
use holmes_proto::scheduling::v1 as sent;
use holmes_proto::statements::{attach, call_line, lease_bytes};
use holmes_scheduling::signatures::{check_attach, check_lines};
use holmes_scheduling::state::Network;
use holmes_scheduling::wire;
use prost_reflect::prost::Message;
use prost_reflect::prost::bytes::Bytes;

use super::NOW_MS;
use crate::bytes;

const LEASE: &str = "1.4.1.7";

/// Where a statement counts, and whose it is.
#[derive(Clone)]
struct Where {
    network: Network,
    gateway: [u8; 16],
    keys: [[u8; 32]; 2],
}

fn here() -> Where {
    let network = Network { genesis: [5; 16], cell: 1 };
    Where { network, gateway: [7; 16], keys: [node(), gateway()].map(|key| key.verifying_key().to_bytes()) }
}

fn node() -> SigningKey {
    SigningKey::from_bytes(&[11; 32])
}

fn gateway() -> SigningKey {
    SigningKey::from_bytes(&[12; 32])
}

fn signed(key: &SigningKey, said: &[u8]) -> Bytes {
    key.sign(said).to_bytes().to_vec().into()
}

/// What a gateway sends when a node has attached.
fn attachment() -> &'static sent::AttachRequest {
    static SENT: OnceLock<sent::AttachRequest> = OnceLock::new();
    SENT.get_or_init(|| {
        let (Where { network, gateway, .. }, nonce) = (here(), [3; 16]);
        let model = sent::ServedModel { name: "one".into(), digest: vec![1; 32].into(), context: 8_192 };
        let offer = sent::Capabilities { models: vec![model], slots: 4, ..Default::default() };
        let capabilities = offer.encode_to_vec();
        let said = attach(&network.genesis, network.cell, &gateway, &nonce, &capabilities);
        sent::AttachRequest {
            request_id: Id::v7(NOW_MS, [1; 10]).to_string(),
            node_id: Id::of_key(&here().keys[0]).to_string(),
            capabilities: capabilities.into(),
            nonce: nonce.to_vec().into(),
            signature: signed(&node(), &said),
        }
    })
}

/// What a gateway reports of a lease's calls.
fn report() -> &'static sent::ReportCallsRequest {
    static SENT: OnceLock<sent::ReportCallsRequest> = OnceLock::new();
    SENT.get_or_init(|| {
        let lines = (1..=2).map(|n| {
            let mut line = sent::CallLine {
                call: Id::v7(NOW_MS, [n; 10]).to_bytes().to_vec().into(),
                input_tokens: 300,
                output_tokens: 5 * u64::from(n),
                finish: sent::Finish::Stop.into(),
                prompt_commitment: vec![4; 32].into(),
                output_commitment: vec![n; 32].into(),
                ..Default::default()
            };
            let Where { network, .. } = here();
            let said = call_line(&network.genesis, network.cell, &lease_bytes(LEASE).unwrap(), &line);
            line.node_signature = signed(&node(), &said);
            line.gateway_signature = signed(&gateway(), &said);
            line
        });
        let request_id = Id::v7(NOW_MS, [2; 10]).to_string();
        sent::ReportCallsRequest { request_id, lease_id: LEASE.into(), lines: lines.collect() }
    })
}

/// A right statement fits; changed, or said elsewhere, it does not.
pub(super) fn changed(u: &mut Unstructured<'_>) -> arbitrary::Result<()> {
    let mut at = here();
    let (byte, by): (usize, u8) = (u.arbitrary()?, u.int_in_range(1..=255)?);
    let what = u.int_in_range(0..=15u8)?;
    let flip = |bytes: &mut [u8]| bytes[byte % bytes.len()] ^= by;
    match what {
        0 => flip(&mut at.network.genesis),
        1 => at.network.cell ^= u16::from(by),
        2 => flip(&mut at.gateway),
        3 => flip(&mut at.keys[0]),
        4 => flip(&mut at.keys[1]),
        _ => {}
    }
    let as_sent = |whole: Vec<u8>, u: &mut Unstructured<'_>| {
        if what > 4 { bytes::garbled(whole, u) } else { Ok(whole) }
    };
    if u.arbitrary()? {
        attaches(&at, what, &as_sent(attachment().encode_to_vec(), u)?);
    } else {
        reports(&at, what, &as_sent(report().encode_to_vec(), u)?);
    }
    Ok(())
}

fn attaches(at: &Where, what: u8, bytes: &[u8]) {
    let right = wire::attach(attachment()).unwrap();
    assert!(check_attach(&here().network, &here().keys[0], &here().gateway, &right).is_ok());
    let Ok(read) = sent::AttachRequest::decode(bytes) else { return };
    let Ok(said) = wire::attach(&read) else { return };
    // The node's id is not signed: it names the key that must fit.
    let is_right = (&said.offer, said.nonce, said.signature) == (&right.offer, right.nonce, right.signature);
    let fits = check_attach(&at.network, &at.keys[0], &at.gateway, &said).is_ok();
    // The gateway's key signs nothing here.
    assert_eq!(fits, is_right && !(0..=3).contains(&what), "change {what}: {said:?}");
}

fn reports(at: &Where, what: u8, bytes: &[u8]) {
    let (lease, right) = wire::report(report()).unwrap();
    let keys = here().keys;
    assert!(check_lines(&here().network, lease, (&keys[0], &keys[1]), &right).is_ok());
    let Ok(read) = sent::ReportCallsRequest::decode(bytes) else { return };
    let Ok((said_of, said)) = wire::report(&read) else { return };
    let is_right = said_of == lease && said.iter().all(|line| right.contains(line));
    let fits = check_lines(&at.network, said_of, (&at.keys[0], &at.keys[1]), &said).is_ok();
    // A gateway reports under its key, which its id is made of.
    assert_eq!(fits, is_right && ![0, 1, 3, 4].contains(&what), "change {what}: {said:?}");
}

//! Who calls: every proof that does not hold is refused, each with its own reason.

use holmes_kernel::{Id, Principal};
use tonic::metadata::{Ascii, MetadataValue};
use tonic::transport::Channel;
use tonic::{Code, Request};

use crate::toy::{API_KEY, NETWORK, NOW, PATH, Say, Up, node, node_key, reason, renter, say, say_at, words};
use prost::Message as _;

const OTHER_PATH: &str = "/holmes.toy.v1.Toy/Shout";

/// What a client signs, and in which way it then cheats.
#[derive(Clone)]
struct Signer {
    genesis: [u8; 16],
    cell: u16,
    path: &'static str,
    message: Say,
    request_id: Id,
    expires_ms: u64,
    principal: Principal,
    key: ed25519_dalek::SigningKey,
}

fn request_id() -> Id {
    Id::v7(NOW.millis(), [4; 10])
}

fn signer() -> Signer {
    let message = Say { request_id: request_id().to_string(), words: b"hello".to_vec(), how: 0 };
    Signer {
        genesis: NETWORK.genesis,
        cell: NETWORK.cell,
        path: PATH,
        message,
        request_id: request_id(),
        expires_ms: NOW.millis() + 60_000,
        principal: node(),
        key: node_key(),
    }
}

impl Signer {
    /// The signature, written down here once more from the documentation, not by the code that is tested.
    fn signature(&self) -> String {
        use ed25519_dalek::Signer as _;
        let mut input = Vec::new();
        for field in [
            b"holmes request v1".as_slice(),
            &self.genesis,
            &self.cell.to_le_bytes(),
            self.path.as_bytes(),
            blake3::hash(&self.message.encode_to_vec()).as_bytes(),
            &self.request_id.to_bytes(),
            &self.expires_ms.to_le_bytes(),
            &self.principal.to_bytes(),
        ] {
            input.extend(u32::try_from(field.len()).unwrap().to_le_bytes());
            input.extend(field);
        }
        hex(&self.key.sign(&input).to_bytes())
    }

    fn request(&self) -> Request<Say> {
        let mut request = Request::new(self.message.clone());
        let fields = [
            ("holmes-principal", hex(&self.principal.to_bytes())),
            ("holmes-request-id", self.request_id.to_string()),
            ("holmes-expires", self.expires_ms.to_string()),
            ("holmes-signature", self.signature()),
        ];
        for (name, value) in fields {
            request.metadata_mut().insert(name, value.parse().unwrap());
        }
        request
    }
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

async fn refused(channel: &Channel, request: Request<Say>) -> (Code, String) {
    let status = say(channel, request).await.unwrap_err();
    (status.code(), reason(&status))
}

fn with(mut request: Request<Say>, name: &'static str, value: &str) -> Request<Say> {
    request.metadata_mut().insert(name, value.parse().unwrap());
    request
}

#[tokio::test]
async fn a_caller_without_a_proof_is_nobody_and_one_with_a_key_is_its_owner() {
    let up = Up::start(|_| {}).await;
    let channel = up.channel().await;
    assert_eq!(say(&channel, words(0)).await.unwrap().principal, "");
    let bearer = format!("Bearer {API_KEY}");
    let known = say(&channel, with(words(0), "authorization", &bearer)).await.unwrap();
    assert_eq!(known.principal, renter().to_string());
    let mut needs_one = words(0);
    needs_one.get_mut().request_id = request_id().to_string();
    assert_eq!(refused(&channel, needs_one).await, (Code::Unauthenticated, "UNAUTHENTICATED".into()));
}

#[tokio::test]
async fn a_signed_call_is_its_signers() {
    let up = Up::start(|_| {}).await;
    let channel = up.channel().await;
    let said = say(&channel, signer().request()).await.unwrap();
    assert_eq!((said.principal, said.bytes), (node().to_string(), 5));
    let again = say(&channel, signer().request()).await.unwrap();
    assert_eq!(again.bytes, 5, "the same call again is the same request: the window answers it");
}

#[tokio::test]
async fn every_proof_that_does_not_hold_is_refused_with_its_reason() {
    let up = Up::start(|settings| settings.max_request_bytes = 4_096).await;
    let channel = up.channel().await;
    let good = signer();
    let signed_by = |change: fn(&mut Signer)| {
        let mut signer = signer();
        change(&mut signer);
        signer
    };
    // What is sent is the good request; what was signed is another one.
    let stolen = |change: fn(&mut Signer)| {
        let signature = signed_by(change).signature();
        with(good.request(), "holmes-signature", &signature)
    };
    let plain = |name, value: &str| with(words(0), name, value);
    let changed = |name, value: &str| with(good.request(), name, value);
    let mut not_ascii = good.request();
    let odd = MetadataValue::<Ascii>::try_from(&b"caf\xc3\xa9"[..]).unwrap();
    not_ascii.metadata_mut().insert("holmes-principal", odd.clone());
    let mut odd_key = words(0);
    odd_key.metadata_mut().insert("authorization", odd);
    let mut incomplete = good.request();
    incomplete.metadata_mut().remove("holmes-expires");
    let large = signed_by(|s| s.message.words = vec![1; 5_000]).request();
    let mut other_id = good.clone();
    other_id.message.request_id = Id::v7(NOW.millis(), [7; 10]).to_string();

    let cases: Vec<(&str, Request<Say>, &str)> = vec![
        ("a wrong API key", plain("authorization", "Bearer guess"), "KEY_UNKNOWN"),
        ("an empty API key", plain("authorization", "Bearer "), "KEY_UNKNOWN"),
        ("another scheme", plain("authorization", "Basic Zm9v"), "KEY_MALFORMED"),
        ("a key that is no text", odd_key, "HEADER_MALFORMED"),
        ("expired", signed_by(|s| s.expires_ms = NOW.millis() - 1).request(), "SIGNATURE_EXPIRED"),
        ("expired just now", signed_by(|s| s.expires_ms = NOW.millis()).request(), "SIGNATURE_EXPIRED"),
        ("too long", signed_by(|s| s.expires_ms = NOW.millis() + 300_001).request(), "SIGNATURE_TOO_LONG"),
        ("for ever", signed_by(|s| s.expires_ms = u64::MAX).request(), "SIGNATURE_TOO_LONG"),
        ("a tampered body", stolen(|s| s.message.words = b"hellp".to_vec()), "SIGNATURE_WRONG"),
        ("another method", stolen(|s| s.path = OTHER_PATH), "SIGNATURE_WRONG"),
        ("another network", stolen(|s| s.genesis[0] ^= 1), "SIGNATURE_WRONG"),
        ("another cell", stolen(|s| s.cell += 1), "SIGNATURE_WRONG"),
        ("a later expiry", stolen(|s| s.expires_ms -= 1), "SIGNATURE_WRONG"),
        (
            "replayed with another id",
            stolen(|s| s.request_id = Id::v7(NOW.millis(), [8; 10])),
            "SIGNATURE_WRONG",
        ),
        ("the message names another id", other_id.request(), "SIGNATURE_OF_OTHER_REQUEST"),
        (
            "another's key",
            stolen(|s| s.key = ed25519_dalek::SigningKey::from_bytes(&[8; 32])),
            "SIGNATURE_WRONG",
        ),
        ("an unknown signer", signed_by(|s| s.principal = renter()).request(), "KEY_UNKNOWN"),
        ("odd digits", changed("holmes-signature", "abc"), "SIGNATURE_MALFORMED"),
        ("no digits", changed("holmes-signature", &"zz".repeat(64)), "SIGNATURE_MALFORMED"),
        ("a short signature", changed("holmes-signature", &"00".repeat(63)), "SIGNATURE_MALFORMED"),
        ("an endless signature", changed("holmes-signature", &"00".repeat(3_000)), "SIGNATURE_MALFORMED"),
        ("no principal", changed("holmes-principal", ""), "SIGNATURE_MALFORMED"),
        (
            "an unknown kind",
            changed("holmes-principal", &format!("09{}", "22".repeat(16))),
            "SIGNATURE_MALFORMED",
        ),
        ("a negative expiry", changed("holmes-expires", "-1"), "SIGNATURE_MALFORMED"),
        ("no id", changed("holmes-request-id", "7"), "SIGNATURE_MALFORMED"),
        ("a field that is no text", not_ascii, "HEADER_MALFORMED"),
        ("a field missing", incomplete, "SIGNATURE_INCOMPLETE"),
        ("two proofs", changed("authorization", &format!("Bearer {API_KEY}")), "TWO_PROOFS"),
        ("too large", large, "REQUEST_TOO_LARGE"),
    ];
    for (what, request, expected) in cases {
        let code =
            if expected == "REQUEST_TOO_LARGE" { Code::ResourceExhausted } else { Code::Unauthenticated };
        assert_eq!(refused(&channel, request).await, (code, expected.into()), "{what}");
    }
    say(&channel, good.request()).await.expect("and the good one still goes");
}

#[tokio::test]
async fn a_signature_serves_one_method_and_no_compressed_body() {
    let up = Up::start(|_| {}).await;
    let channel = up.channel().await;
    for (path, gzip) in [(OTHER_PATH, false), (PATH, true)] {
        let status = say_at(&channel, path, signer().request(), gzip).await.unwrap_err();
        assert_eq!(reason(&status), "SIGNATURE_WRONG", "{path} {gzip}");
    }
}

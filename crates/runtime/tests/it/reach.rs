//! Calls to other processes: found, brought again, within TLS, and refused with the wrong certificate.

use std::net::SocketAddr;
use std::path::Path;
use std::time::Duration;

use holmes_runtime::config::{self, Clients};
use holmes_runtime::{Reach, Tls};
use rcgen::{BasicConstraints, CertificateParams, ExtendedKeyUsagePurpose as Purpose, IsCa, Issuer, KeyPair};
use tonic::{Code, Request, Status};
use tonic_prost::ProstCodec;

use crate::support::until;
use crate::toy::{PATH, Said, Say, Up, known, reason};

/// Who signs certificates.
struct Authority {
    pem: String,
    issuer: Issuer<'static, KeyPair>,
}

impl Authority {
    fn new() -> Authority {
        let mut params = CertificateParams::default();
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        let key = KeyPair::generate().unwrap();
        let pem = params.self_signed(&key).unwrap().pem();
        Authority { pem, issuer: Issuer::new(params, key) }
    }

    /// Certifies a process under a name.
    fn certify(&self, dir: &Path, name: &str) -> config::Tls {
        std::fs::create_dir_all(dir).unwrap();
        let mut params = CertificateParams::new(vec![name.to_owned()]).unwrap();
        params.extended_key_usages = vec![Purpose::ServerAuth, Purpose::ClientAuth];
        let key = KeyPair::generate().unwrap();
        let certificate = params.signed_by(&key, &self.issuer).unwrap();
        let write = |file: &str, text: String| {
            let path = dir.join(file);
            std::fs::write(&path, text).unwrap();
            path
        };
        config::Tls {
            authority: write("authority.pem", self.pem.clone()),
            key: write("key.pem", key.serialize_pem()),
            certificate: write("certificate.pem", certificate.pem()),
        }
    }
}

fn loaded(files: &config::Tls, clients: Clients) -> Tls {
    Tls::load(files, clients).unwrap().unwrap()
}

/// Asks for a second at most.
async fn ask(reach: &Reach) -> Result<Said, Status> {
    let patient = reach.of("ledger").patient(Duration::from_secs(1));
    let mut grpc = tonic::client::Grpc::new(patient);
    grpc.ready().await.map_err(|why| Status::unknown(why.to_string()))?;
    let codec = ProstCodec::<Say, Said>::default();
    let path = http::uri::PathAndQuery::from_static(PATH);
    let asked = grpc.unary(known(0), path, codec);
    crate::support::patiently(asked).await.map(tonic::Response::into_inner)
}

fn book(scheme: &str, addresses: &[SocketAddr]) -> String {
    let at: Vec<String> = addresses.iter().map(|at| format!("{scheme}://{at}")).collect();
    format!("ledger={}", at.join("|"))
}

#[tokio::test]
async fn an_address_book_is_read_or_what_is_wrong_in_it_is_told() {
    for wrong in [
        "ledger",
        "nobody=http://a:1",
        "ledger=a:1",
        "ledger=http://a",
        "ledger=http://:1",
        "ledger=http://a:99999",
        "ledger=ftp://a:1",
        "ledger=http://a:1,ledger=http://b:1",
        "ledger=https://a:1", // without a certificate of ours
    ] {
        let refused = Reach::read(wrong, None).err().unwrap_or_else(|| panic!("{wrong} was taken"));
        assert!(refused.to_string().contains("says no address"), "{refused}");
    }
    let reach = Reach::read(" ledger=http://a:1|http://b:2 , *=http://holmes-{service}:7070", None).unwrap();
    assert!(reach.knows("ledger") && reach.knows("market") && !reach.knows("gateway"));
    assert!(!Reach::read("ledger=http://a:1", None).unwrap().knows("market"));
}

#[tokio::test]
async fn a_call_goes_on_to_the_next_process_where_one_is_away_and_waits_where_all_are() {
    let up = Up::start(|_| {}).await;
    let free = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let away = free.local_addr().unwrap();
    drop(free);
    let reach = Reach::read(&book("http", &[away, up.address]), None).unwrap();
    for _ in 0..3 {
        ask(&reach).await.unwrap();
    }
    let nobody = Reach::read(&book("http", &[away]), None).unwrap();
    let refused = ask(&nobody).await.unwrap_err();
    assert_eq!((refused.code(), reason(&refused).as_str()), (Code::Unavailable, "SERVICE_AWAY"));
    let mut grpc = tonic::client::Grpc::new(reach.of("market"));
    grpc.ready().await.unwrap();
    let path = http::uri::PathAndQuery::from_static(PATH);
    let unknown = grpc.unary(Request::new(Say::default()), path, ProstCodec::<Say, Said>::default()).await;
    assert_eq!(reason(&unknown.unwrap_err()), "PEER_UNKNOWN");
}

#[tokio::test]
async fn within_tls_only_the_cells_processes_connect_and_only_to_whom_they_mean() {
    let (dir, cell, other) = (tempfile::tempdir().unwrap(), Authority::new(), Authority::new());
    let at = |name: &str| dir.path().join(name);
    let ledger = loaded(&cell.certify(&at("ledger"), "ledger.holmes"), Clients::Cell);
    let up = Up::within(Some(ledger), |_| {}).await;
    let book = book("https", &[up.address]);

    let market = loaded(&cell.certify(&at("market"), "market.holmes"), Clients::Plain);
    ask(&Reach::read(&book, Some(&market)).unwrap()).await.unwrap();

    let foreign = loaded(&other.certify(&at("foreign"), "market.holmes"), Clients::Plain);
    let refused = ask(&Reach::read(&book, Some(&foreign)).unwrap()).await.unwrap_err();
    assert_eq!(reason(&refused), "SERVICE_AWAY", "of another authority");

    // It trusts the right authority, and shows a certificate of the wrong one.
    let mixed = config::Tls {
        authority: at("market").join("authority.pem"),
        ..other.certify(&at("mixed"), "market.holmes")
    };
    let refused = ask(&Reach::read(&book, Some(&loaded(&mixed, Clients::Plain))).unwrap()).await;
    assert_eq!(reason(&refused.unwrap_err()), "SERVICE_AWAY", "known to nobody here");

    let plain = Reach::read(&book.replace("https", "http"), None).unwrap();
    assert!(ask(&plain).await.is_err(), "without TLS");

    // A process of the cell that is not the one that is meant.
    let staking = loaded(&cell.certify(&at("staking"), "staking.holmes"), Clients::Cell);
    let wrong = Up::within(Some(staking), |_| {}).await;
    let elsewhere = format!("ledger=https://{}", wrong.address);
    let refused = ask(&Reach::read(&elsewhere, Some(&market)).unwrap()).await.unwrap_err();
    assert_eq!(reason(&refused), "SERVICE_AWAY", "a foreign role");
}

#[tokio::test]
async fn certificates_that_change_are_read_again_and_bad_ones_are_not_taken() {
    let (dir, first, second) = (tempfile::tempdir().unwrap(), Authority::new(), Authority::new());
    let at = |name: &str| dir.path().join(name);
    let files = first.certify(&at("ledger"), "ledger.holmes");
    let up = Up::within(Some(loaded(&files, Clients::Cell)), |_| {}).await;
    let book = book("https", &[up.address]);
    let old = loaded(&first.certify(&at("old"), "market.holmes"), Clients::Plain);
    let new = loaded(&second.certify(&at("new"), "market.holmes"), Clients::Plain);
    let reached = async |tls: &Tls| ask(&Reach::read(&book, Some(tls)).unwrap()).await.is_ok();
    assert!(reached(&old).await);
    std::fs::write(&files.certificate, "nothing of the kind").unwrap();
    tokio::time::sleep(Duration::from_secs(6)).await;
    assert!(reached(&old).await, "the old ones stay");
    second.certify(&at("ledger"), "ledger.holmes");
    until(|| async { reached(&new).await }).await;
    assert!(!reached(&old).await);
}

#[tokio::test]
async fn files_that_do_not_go_together_are_refused_with_the_key_that_names_them() {
    let (dir, authority) = (tempfile::tempdir().unwrap(), Authority::new());
    let good = authority.certify(&dir.path().join("a"), "ledger.holmes");
    let other = authority.certify(&dir.path().join("b"), "ledger.holmes");
    let told = |files: &config::Tls| Tls::load(files, Clients::Cell).err().unwrap().to_string();
    assert!(told(&config::Tls { key: other.key, ..good.clone() }).contains("do not go together"));
    assert!(told(&config::Tls { certificate: good.key.clone(), ..good.clone() }).contains("tls.certificate"));
    assert!(told(&config::Tls { authority: "absent.pem".into(), ..good.clone() }).contains("tls.authority"));
    assert!(Tls::load(&config::Tls::default(), Clients::Plain).unwrap().is_none());
}

//! TLS between the processes of a cell: each shows a certificate that the cell's own authority has signed, as a server and as
//! a client, and a service is who its certificate says (`ledger.holmes`), wherever it runs. Files that change are read again;
//! connections that are open stay as they are.

use std::path::{Path, PathBuf};
use std::sync::{Arc, PoisonError, RwLock};
use std::time::{Duration, SystemTime};

use rustls::pki_types::pem::PemObject as _;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName};
use rustls::server::WebPkiClientVerifier;
use rustls::{ClientConfig, RootCertStore, ServerConfig};
use tokio_rustls::{TlsAcceptor, TlsConnector};

use crate::config::{self, Clients};

/// How often files are looked at.
const LOOK: Duration = Duration::from_secs(5);

/// Why certificates cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum TlsError {
    /// A file is away, or holds something else.
    #[error("{key} {file}: {why}")]
    File {
        /// The configuration key that names it.
        key: &'static str,
        /// The file.
        file: String,
        /// What is wrong.
        why: String,
    },
    /// Key, certificate and authority do not go together.
    #[error("tls.certificate, tls.key and tls.authority do not go together: {0}")]
    Together(String),
}

/// A process's certificates, as its files hold them now.
#[derive(Clone)]
pub struct Tls {
    files: Arc<config::Tls>,
    clients: Clients,
    now: Arc<RwLock<Loaded>>,
}

struct Loaded {
    server: Arc<ServerConfig>,
    client: Arc<ClientConfig>,
    /// When the files were written.
    written: Vec<SystemTime>,
}

impl Tls {
    /// Reads the files; `None` where none are named. Called on a runtime, it looks after them as long as they are used.
    ///
    /// # Errors
    /// When they cannot be used.
    pub fn load(files: &config::Tls, clients: Clients) -> Result<Option<Tls>, TlsError> {
        if files.certificate.as_os_str().is_empty() {
            return Ok(None);
        }
        let now = Arc::new(RwLock::new(loaded(files, clients)?));
        let tls = Tls { files: Arc::new(files.clone()), clients, now };
        tokio::spawn(look_after(tls.files.clone(), clients, Arc::downgrade(&tls.now)));
        Ok(Some(tls))
    }

    /// For a port; `None` where it does not speak TLS.
    pub(crate) fn acceptor(&self) -> Option<TlsAcceptor> {
        let now = self.now.read().unwrap_or_else(PoisonError::into_inner);
        (self.clients != Clients::Plain).then(|| TlsAcceptor::from(now.server.clone()))
    }

    /// For a connection to another process.
    pub(crate) fn connector(&self) -> TlsConnector {
        let now = self.now.read().unwrap_or_else(PoisonError::into_inner);
        TlsConnector::from(now.client.clone())
    }
}

/// Who a process of a service must be by its certificate.
pub(crate) fn name_of(service: &str) -> Option<ServerName<'static>> {
    ServerName::try_from(format!("{}.holmes", service.replace('_', "-"))).ok()
}

async fn look_after(files: Arc<config::Tls>, clients: Clients, now: std::sync::Weak<RwLock<Loaded>>) {
    loop {
        tokio::time::sleep(LOOK).await;
        let Some(now) = now.upgrade() else { return };
        let then = now.read().unwrap_or_else(PoisonError::into_inner).written.clone();
        if written(&files) == then {
            continue;
        }
        match loaded(&files, clients) {
            Ok(loaded) => {
                *now.write().unwrap_or_else(PoisonError::into_inner) = loaded;
                tracing::info!("certificates were read again");
            }
            Err(why) => {
                tracing::error!(%why, "certificates have changed and cannot be used: the old ones stay")
            }
        }
    }
}

fn paths(files: &config::Tls) -> [(&'static str, &PathBuf); 3] {
    [("tls.authority", &files.authority), ("tls.certificate", &files.certificate), ("tls.key", &files.key)]
}

fn written(files: &config::Tls) -> Vec<SystemTime> {
    let at = |path: &Path| std::fs::metadata(path).and_then(|found| found.modified());
    paths(files).iter().map(|(_, path)| at(path).unwrap_or(SystemTime::UNIX_EPOCH)).collect()
}

fn loaded(files: &config::Tls, clients: Clients) -> Result<Loaded, TlsError> {
    let written = written(files); // before they are read: what changes meanwhile is read again
    let chain = certificates("tls.certificate", &files.certificate)?;
    let mut roots = RootCertStore::empty();
    for certificate in certificates("tls.authority", &files.authority)? {
        roots.add(certificate).map_err(|why| wrong("tls.authority", &files.authority, &why))?;
    }
    let key = || PrivateKeyDer::from_pem_file(&files.key).map_err(|why| wrong("tls.key", &files.key, &why));
    let together = |why: rustls::Error| TlsError::Together(why.to_string());
    let (provider, roots) = (Arc::new(rustls::crypto::ring::default_provider()), Arc::new(roots));
    let server = ServerConfig::builder_with_provider(provider.clone());
    let server = server.with_safe_default_protocol_versions().map_err(together)?;
    let server = match clients {
        Clients::Cell => {
            let verifier =
                WebPkiClientVerifier::builder_with_provider(roots.clone(), provider.clone()).build();
            server.with_client_cert_verifier(verifier.map_err(|why| TlsError::Together(why.to_string()))?)
        }
        Clients::Plain | Clients::Anybody => server.with_no_client_auth(),
    };
    let mut server = server.with_single_cert(chain.clone(), key()?).map_err(together)?;
    let client = ClientConfig::builder_with_provider(provider);
    let client = client.with_safe_default_protocol_versions().map_err(together)?;
    let client = client.with_root_certificates(roots).with_client_auth_cert(chain, key()?);
    let mut client = client.map_err(together)?;
    server.alpn_protocols = vec![b"h2".to_vec()];
    client.alpn_protocols = vec![b"h2".to_vec()];
    Ok(Loaded { server: Arc::new(server), client: Arc::new(client), written })
}

fn certificates(key: &'static str, file: &Path) -> Result<Vec<CertificateDer<'static>>, TlsError> {
    let found = CertificateDer::pem_file_iter(file).map_err(|why| wrong(key, file, &why))?;
    let found: Vec<_> = found.collect::<Result<_, _>>().map_err(|why| wrong(key, file, &why))?;
    if found.is_empty() {
        return Err(wrong(key, file, &"it holds no certificate in PEM"));
    }
    Ok(found)
}

fn wrong(key: &'static str, file: &Path, why: &dyn std::fmt::Display) -> TlsError {
    TlsError::File { key, file: file.display().to_string(), why: why.to_string() }
}

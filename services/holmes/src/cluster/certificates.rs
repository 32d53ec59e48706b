//! Certificates of a cluster on this machine: an authority of its own at every start, whose key nobody keeps.

use std::path::Path;

use anyhow::{Context as _, Result};
use holmes_runtime::config::Tls;
use rcgen::{
    BasicConstraints, CertificateParams, ExtendedKeyUsagePurpose, IsCa, Issuer, KeyPair, KeyUsagePurpose,
};

/// Who signs.
pub(super) struct Authority {
    pem: String,
    issuer: Issuer<'static, KeyPair>,
}

impl Authority {
    pub(super) fn new() -> Result<Authority> {
        let mut params = CertificateParams::default();
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::DigitalSignature];
        let key = KeyPair::generate()?;
        let pem = params.self_signed(&key)?.pem();
        Ok(Authority { pem, issuer: Issuer::new(params, key) })
    }

    /// Writes what a process of a role shows to the others, and by what it knows them.
    pub(super) fn equip(&self, role: &str, dir: &Path) -> Result<Tls> {
        let name = format!("{}.holmes", role.replace('_', "-"));
        let mut params = CertificateParams::new(vec![name, "127.0.0.1".to_owned()])?;
        params.extended_key_usages =
            vec![ExtendedKeyUsagePurpose::ServerAuth, ExtendedKeyUsagePurpose::ClientAuth];
        let key = KeyPair::generate()?;
        let certificate = params.signed_by(&key, &self.issuer)?;
        let files = Tls {
            authority: dir.join("authority.pem"),
            certificate: dir.join("certificate.pem"),
            key: dir.join("certificate.key"),
        };
        // The key first and alone: who reads a certificate reads its own key with it.
        for (file, mode, text) in [
            (&files.key, 0o600, key.serialize_pem()),
            (&files.certificate, 0o644, certificate.pem()),
            (&files.authority, 0o644, self.pem.clone()),
        ] {
            let _ = std::fs::remove_file(file); // of the start before
            crate::whole::make(file, mode, text.as_bytes()).with_context(|| format!("{}", file.display()))?;
        }
        Ok(files)
    }
}

//! Our certificate, and callers who come by TLS.

use std::fmt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use rcgen::{CertificateParams, DistinguishedName, DnType, IsCa, KeyPair, KeyUsagePurpose, date_time_ymd};
use rustls::crypto::{CryptoProvider, ring};
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, pem};
use rustls::server::{ClientHello, NoServerSessionStorage, ResolvesServerCert};
use rustls::sign::CertifiedKey;
use rustls::{Error, ServerConfig};
use tokio::sync::watch;
use tokio_rustls::TlsAcceptor;

use crate::atomic_file::{self, Readers};
use crate::dial::{Stream, public_key};

/// Where the certificate and its key are.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum CertificateSource {
    /// The operator's.
    Configured { certificate: PathBuf, key: PathBuf },
    /// Made by ourselves, once, and kept in this directory.
    SelfSigned(PathBuf),
}

/// A certificate with its key.
pub type Credentials = Arc<CertifiedKey>;

#[derive(Debug, thiserror::Error)]
pub enum CertificateError {
    #[error("can't read {}: {error}; listen.cert and listen.key name files that this user may read", path.display())]
    Read { path: PathBuf, error: pem::Error },
    #[error("there is no certificate in {}; PEM is expected, with the server's own certificate first", .0.display())]
    Empty(PathBuf),
    #[error("the key in {} can't be used: {error}; PEM is expected, of an RSA or ECDSA key or Ed25519", path.display())]
    Key { path: PathBuf, error: Error },
    #[error(
        "the key in {} isn't that of the certificate in {}; listen.key and listen.cert name the two",
        key.display(),
        certificate.display()
    )]
    Mismatch { certificate: PathBuf, key: PathBuf },
    #[error("can't make a certificate: {0}")]
    Generate(#[from] rcgen::Error),
    #[error("can't keep {}: {error}; see that this user may write there and that the disk isn't full", path.display())]
    Write { path: PathBuf, error: std::io::Error },
}

impl CertificateError {
    /// Whether the files are at fault, not the machine.
    pub fn is_configuration_error(&self) -> bool {
        !matches!(self, CertificateError::Generate(_) | CertificateError::Write { .. })
    }
}

impl CertificateSource {
    pub fn paths(&self) -> [PathBuf; 2] {
        match self {
            CertificateSource::Configured { certificate, key } => [certificate.clone(), key.clone()],
            CertificateSource::SelfSigned(dir) => [dir.join("tls-cert.pem"), dir.join("tls-key.pem")],
        }
    }

    /// What is in them, and if there is nothing of our own yet, it is made first.
    pub fn load(&self) -> Result<Credentials, CertificateError> {
        let [certificate, key] = self.paths();
        if let CertificateSource::SelfSigned(_) = self
            && !(certificate.exists() && key.exists())
        {
            generate(&certificate, &key)?;
        }
        let unreadable = |path: &Path| {
            let path = path.to_owned();
            move |error| CertificateError::Read { path, error }
        };
        let chain = CertificateDer::pem_file_iter(&certificate).map_err(unreadable(&certificate))?;
        let chain = chain.collect::<Result<Vec<_>, _>>().map_err(unreadable(&certificate))?;
        let Some(own) = chain.first() else { return Err(CertificateError::Empty(certificate)) };
        let secret = PrivateKeyDer::from_pem_file(&key).map_err(unreadable(&key))?;
        let unusable = |error| CertificateError::Key { path: key.clone(), error };
        let secret = ring::sign::any_supported_type(&secret).map_err(unusable)?;
        // rustls' own comparison can't read certificates of version 1, which openssl's plainest recipe makes.
        if secret.public_key() != public_key(own) {
            return Err(CertificateError::Mismatch { certificate, key });
        }
        Ok(Arc::new(CertifiedKey::new(chain, secret)))
    }
}

/// Takes TLS callers in, each with what is our certificate by then.
#[derive(Clone)]
pub struct Acceptor(TlsAcceptor);

impl Acceptor {
    pub fn new(credentials: watch::Receiver<Credentials>) -> Result<Acceptor, Error> {
        let provider = Arc::new(ring::default_provider()) as Arc<CryptoProvider>;
        let mut config = ServerConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()?
            .with_no_client_auth()
            .with_cert_resolver(Arc::new(ReloadingResolver(credentials)));
        // A caller who comes back should not be known by it, and what can't be resumed need not be remembered.
        config.session_storage = Arc::new(NoServerSessionStorage {});
        config.send_tls13_tickets = 0;
        Ok(Acceptor(TlsAcceptor::from(Arc::new(config))))
    }

    pub async fn accept(&self, stream: Box<dyn Stream>) -> std::io::Result<Box<dyn Stream>> {
        Ok(Box::new(self.0.accept(stream).await?))
    }
}

impl fmt::Debug for Acceptor {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Acceptor")
    }
}

/// The certificate of the moment: sessions that stand are left alone when it changes.
#[derive(Debug)]
struct ReloadingResolver(watch::Receiver<Credentials>);

impl ResolvesServerCert for ReloadingResolver {
    fn resolve(&self, _: ClientHello<'_>) -> Option<Credentials> {
        Some(self.0.borrow().clone())
    }
}

/// A certificate that says nothing of us: wallets remember it, and look at nothing in it. Its dates are those of anybody
/// else's, as the day on which a node was set up is nobody's business.
fn generate(certificate: &Path, key: &Path) -> Result<(), CertificateError> {
    let mut params = CertificateParams::default();
    params.distinguished_name = DistinguishedName::new();
    params.distinguished_name.push(DnType::CommonName, "localhost");
    (params.not_before, params.not_after) = (date_time_ymd(2020, 1, 1), date_time_ymd(2120, 1, 1));
    params.is_ca = IsCa::ExplicitNoCa;
    params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
    let pair = KeyPair::generate()?;
    let made = params.self_signed(&pair)?;
    write_private(key, &pair.serialize_pem())?;
    write_private(certificate, &made.pem())
}

/// Writes a file that only the daemon may read.
fn write_private(path: &Path, text: &str) -> Result<(), CertificateError> {
    atomic_file::write(path, text.as_bytes(), Readers::Owner)
        .map_err(|error| CertificateError::Write { path: path.to_owned(), error })
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt;

    use super::*;

    #[test]
    fn self_signed_certificate_is_generated_once() {
        let dir = tempfile::tempdir().unwrap();
        let files = CertificateSource::SelfSigned(dir.path().to_owned());
        let first = files.load().unwrap();
        assert_eq!(files.load().unwrap().cert, first.cert);
        let [_, key] = files.paths();
        assert_eq!(std::fs::metadata(key).unwrap().permissions().mode() & 0o777, 0o600);
    }

    #[test]
    fn mismatched_files_are_refused() {
        let data = |name: &str| Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/data").join(name);
        let load = |certificate: &str, key: &str| {
            CertificateSource::Configured { certificate: data(certificate), key: data(key) }
                .load()
                .map(|_| ())
                .map_err(|e| e.to_string())
        };
        assert_eq!(load("v3-ec.pem", "v3-ec.key"), Ok(()));
        assert_eq!(load("v1-rsa.pem", "v1-rsa.key"), Ok(()));
        assert!(load("v3-ec.pem", "other-ec.key").unwrap_err().contains("isn't that of"));
        assert!(load("v3-ec.key", "v3-ec.key").unwrap_err().contains("no certificate"));
        assert!(load("none.pem", "v3-ec.key").unwrap_err().contains("none.pem"));
    }
}

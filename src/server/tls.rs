//! Certificate of the node, and TLS handshakes with clients.

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

/// Source of the certificate and its key.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum CertificateSource {
    /// Files of the operator.
    Configured {
        /// PEM file with the certificate chain, the server's own certificate first.
        certificate: PathBuf,
        /// PEM file with the private key.
        key: PathBuf,
    },
    /// Self-signed certificate in this directory, generated at the first load.
    SelfSigned(PathBuf),
    /// The same for the onion name.
    ///
    /// With the certificate of the clearnet name, any client would see that both names are one node.
    OnionSelfSigned(PathBuf),
}

/// Certificate chain with its private key.
pub type Credentials = Arc<CertifiedKey>;

/// Error of loading or generating a certificate.
#[derive(Debug, thiserror::Error)]
pub enum CertificateError {
    /// A file can't be read or is not PEM.
    #[error("can't read {}: {error}; set listen.cert and listen.key to PEM files that the daemon's user may read", path.display())]
    Read {
        /// File that was read.
        path: PathBuf,
        /// Error of reading or parsing it.
        error: pem::Error,
    },
    /// The file has no certificate.
    #[error("no certificate in {}; set listen.cert to a PEM file that starts with the server's own certificate", .0.display())]
    Empty(PathBuf),
    /// The key has an unsupported type or is invalid.
    #[error("the key in {} can't be used: {error}; set listen.key to a PEM file with an RSA, ECDSA or Ed25519 key", path.display())]
    Key {
        /// File of the key.
        path: PathBuf,
        /// Error of rustls.
        error: Error,
    },
    /// Key and certificate do not belong together.
    #[error(
        "the key in {} isn't that of the certificate in {}; set listen.key and listen.cert to a matching pair",
        key.display(),
        certificate.display()
    )]
    Mismatch {
        /// File of the certificate.
        certificate: PathBuf,
        /// File of the key.
        key: PathBuf,
    },
    /// A certificate can't be generated.
    #[error("can't generate a certificate: {0}")]
    Generate(#[from] rcgen::Error),
    /// A generated file can't be written.
    #[error("can't write {}: {error}; check permissions and free space of the data directory", path.display())]
    Write {
        /// File that was written.
        path: PathBuf,
        /// Error of the file system.
        error: std::io::Error,
    },
}

impl CertificateError {
    /// Returns whether the operator must change files or configuration.
    pub fn is_configuration_error(&self) -> bool {
        !matches!(self, CertificateError::Generate(_) | CertificateError::Write { .. })
    }
}

impl CertificateSource {
    /// Returns the paths of the certificate and the key.
    pub fn paths(&self) -> [PathBuf; 2] {
        match self {
            CertificateSource::Configured { certificate, key } => [certificate.clone(), key.clone()],
            CertificateSource::SelfSigned(dir) => [dir.join("tls-cert.pem"), dir.join("tls-key.pem")],
            CertificateSource::OnionSelfSigned(dir) => [dir.join("onion-tls-cert.pem"), dir.join("onion-tls-key.pem")],
        }
    }

    /// Loads certificate and key. A missing self-signed certificate is generated first.
    pub fn load(&self) -> Result<Credentials, CertificateError> {
        let [certificate, key] = self.paths();
        let is_generated = !matches!(self, CertificateSource::Configured { .. });
        if is_generated && !(certificate.exists() && key.exists()) {
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
        // The comparison in rustls rejects X.509 version 1, which `openssl x509 -req` issues by
        // default.
        if secret.public_key() != public_key(own) {
            return Err(CertificateError::Mismatch { certificate, key });
        }
        Ok(Arc::new(CertifiedKey::new(chain, secret)))
    }
}

/// Encrypted bytes that a session holds while its client does not read: one TLS record. The default of rustls is 64 KiB.
const MAX_UNSENT_BYTES: usize = 16 * 1024;

/// Acceptor of TLS handshakes, with the current certificate.
#[derive(Clone)]
pub struct Acceptor(TlsAcceptor);

impl Acceptor {
    /// Creates an acceptor that follows changes of the certificate.
    ///
    /// # Errors
    /// Returns an error of rustls about its protocol versions.
    pub fn new(credentials: watch::Receiver<Credentials>) -> Result<Acceptor, Error> {
        let provider = Arc::new(ring::default_provider()) as Arc<CryptoProvider>;
        let mut config = ServerConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()?
            .with_no_client_auth()
            .with_cert_resolver(Arc::new(ReloadingResolver(credentials)));
        // Without session resumption, the visits of a client can't be linked by a ticket.
        config.session_storage = Arc::new(NoServerSessionStorage {});
        config.send_tls13_tickets = 0;
        Ok(Acceptor(TlsAcceptor::from(Arc::new(config))))
    }

    /// Performs the handshake with a client.
    ///
    /// # Errors
    /// Returns an error if the handshake fails.
    pub async fn accept(&self, stream: Box<dyn Stream>) -> std::io::Result<Box<dyn Stream>> {
        let mut stream = self.0.accept(stream).await?;
        stream.get_mut().1.set_buffer_limit(Some(MAX_UNSENT_BYTES));
        Ok(Box::new(stream))
    }
}

impl fmt::Debug for Acceptor {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Acceptor")
    }
}

/// Resolver that uses the current certificate for each handshake. Open sessions keep theirs.
#[derive(Debug)]
struct ReloadingResolver(watch::Receiver<Credentials>);

impl ResolvesServerCert for ReloadingResolver {
    fn resolve(&self, _: ClientHello<'_>) -> Option<Credentials> {
        Some(self.0.borrow().clone())
    }
}

/// Generates a self-signed certificate that identifies neither the node nor its age.
///
/// Wallets pin the certificate and check none of its fields. Name and dates are the same on every
/// node.
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

/// Writes a file that only the daemon's user can read.
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
    fn certificate_of_onion_name_is_another_one() {
        let dir = tempfile::tempdir().unwrap();
        let load = |source: fn(PathBuf) -> CertificateSource| source(dir.path().to_owned()).load().unwrap();
        let onion = load(CertificateSource::OnionSelfSigned);
        assert_ne!(load(CertificateSource::SelfSigned).cert, onion.cert);
        assert_eq!(load(CertificateSource::OnionSelfSigned).cert, onion.cert);
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

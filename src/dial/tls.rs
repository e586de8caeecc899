//! TLS to servers with self-signed certificates.
//!
//! Any certificate is accepted, except where a password is sent, and its key is recorded. The
//! handshake still verifies that the server holds the key.

use std::sync::Arc;
use std::time::Duration;

use rustls::SignatureScheme::{RSA_PKCS1_SHA256, RSA_PKCS1_SHA384, RSA_PKCS1_SHA512};
use rustls::client::Resumption;
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::crypto::{CryptoProvider, WebPkiSupportedAlgorithms, ring};
use rustls::pki_types::{CertificateDer, ServerName, SubjectPublicKeyInfoDer, UnixTime};
use rustls::{
    CertificateError, ClientConfig, DigitallySignedStruct, Error, PeerMisbehaved, RootCertStore, SignatureScheme,
};
use sha2::{Digest, Sha256};
use tokio::time::timeout;
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;
use webpki::RawPublicKeyEntity;
use x509_parser::prelude::{FromDer, X509Certificate};

use super::Stream;
use super::handshake_signature::{self, ADDITIONAL_SCHEMES};
use crate::connect::{ProbeError, TlsCertificate};
use crate::peer::Host;

/// Timeout of a handshake, which takes up to four round trips through Tor.
const HANDSHAKE_TIMEOUT: Duration = Duration::from_secs(20);

/// A TLS client.
#[derive(Clone)]
pub struct Tls {
    connector: TlsConnector,
}

impl Tls {
    /// Creates a client that accepts any certificate whose key the server holds.
    pub fn new() -> Result<Tls, Error> {
        let provider = Arc::new(ring::default_provider());
        let verifier = Arc::new(AcceptAnyCertificate { algorithms: provider.signature_verification_algorithms });
        let mut config = ClientConfig::builder_with_provider(provider as Arc<CryptoProvider>)
            .with_safe_default_protocol_versions()?
            .dangerous()
            .with_custom_certificate_verifier(verifier)
            .with_no_client_auth();
        // A session ticket would make the node trackable, and would skip the proof of the key.
        config.resumption = Resumption::disabled();
        Ok(Tls { connector: TlsConnector::from(Arc::new(config)) })
    }

    /// Creates a client that accepts only certificates of public authorities.
    ///
    /// It is used for servers that receive a password.
    pub fn with_webpki_roots() -> Result<Tls, Error> {
        let roots = RootCertStore { roots: webpki_roots::TLS_SERVER_ROOTS.to_vec() };
        let mut config = ClientConfig::builder_with_provider(Arc::new(ring::default_provider()))
            .with_safe_default_protocol_versions()?
            .with_root_certificates(roots)
            .with_no_client_auth();
        config.resumption = Resumption::disabled();
        Ok(Tls { connector: TlsConnector::from(Arc::new(config)) })
    }

    /// Performs a handshake and returns the encrypted stream and the server's certificate.
    pub async fn connect<S: Stream>(
        &self,
        host: &Host,
        stream: S,
    ) -> Result<(TlsStream<S>, Option<TlsCertificate>), ProbeError> {
        let name = match host {
            Host::Ip(ip) => ServerName::from(*ip),
            Host::Onion(_) | Host::Dns(_) => ServerName::try_from(host.to_string()).map_err(|_| ProbeError::Tls)?,
        };
        let stream = match timeout(HANDSHAKE_TIMEOUT, self.connector.connect(name, stream)).await {
            Ok(Ok(stream)) => stream,
            Ok(Err(_)) => return Err(ProbeError::Tls),
            Err(_) => return Err(ProbeError::Timeout),
        };
        let certificate = stream.get_ref().1.peer_certificates().and_then(|chain| chain.first()).and_then(summarize);
        Ok((stream, certificate))
    }
}

impl std::fmt::Debug for Tls {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Tls")
    }
}

/// Accepts any certificate, and verifies signatures with the key alone.
///
/// webpki rejects certificates of version 1, which common openssl commands create.
#[derive(Debug)]
struct AcceptAnyCertificate {
    algorithms: WebPkiSupportedAlgorithms,
}

impl AcceptAnyCertificate {
    /// Verifies a signature with the first `max_algorithms` algorithms of its scheme.
    ///
    /// With TLS 1.2 a scheme allows several algorithms, with TLS 1.3 only the first.
    fn verify(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
        max_algorithms: usize,
    ) -> Result<HandshakeSignatureValid, Error> {
        if !self.supported_verify_schemes().contains(&signed.scheme) {
            return Err(PeerMisbehaved::SignedHandshakeWithUnadvertisedSigScheme.into());
        }
        let bad_encoding = Error::InvalidCertificate(CertificateError::BadEncoding);
        let Ok((_, certificate)) = X509Certificate::from_der(certificate) else { return Err(bad_encoding) };
        let key = &certificate.tbs_certificate.subject_pki;
        let spki = SubjectPublicKeyInfoDer::from(key.raw);
        let entity = RawPublicKeyEntity::try_from(&spki).map_err(|_| bad_encoding)?;
        let algorithms = self.algorithms.mapping.iter().find(|(scheme, _)| *scheme == signed.scheme);
        let mut algorithms = algorithms.iter().flat_map(|(_, algorithms)| *algorithms).take(max_algorithms);
        let is_valid = algorithms.any(|one| entity.verify_signature(*one, message, signed.signature()).is_ok())
            || handshake_signature::is_valid(key, signed.scheme, message, signed.signature());
        if is_valid {
            Ok(HandshakeSignatureValid::assertion())
        } else {
            Err(Error::InvalidCertificate(CertificateError::BadSignature))
        }
    }
}

impl ServerCertVerifier for AcceptAnyCertificate {
    fn verify_server_cert(
        &self,
        _: &CertificateDer<'_>,
        _: &[CertificateDer<'_>],
        _: &ServerName<'_>,
        _: &[u8],
        _: UnixTime,
    ) -> Result<ServerCertVerified, Error> {
        Ok(ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        self.verify(message, certificate, signed, usize::MAX)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        if matches!(signed.scheme, RSA_PKCS1_SHA256 | RSA_PKCS1_SHA384 | RSA_PKCS1_SHA512) {
            return Err(PeerMisbehaved::SignedHandshakeWithUnadvertisedSigScheme.into());
        }
        self.verify(message, certificate, signed, 1)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        [self.algorithms.supported_schemes().as_slice(), &ADDITIONAL_SCHEMES].concat()
    }
}

/// Returns the public key of a certificate, if it can be parsed.
pub fn public_key(certificate: &CertificateDer<'_>) -> Option<SubjectPublicKeyInfoDer<'static>> {
    let (_, certificate) = X509Certificate::from_der(certificate).ok()?;
    Some(SubjectPublicKeyInfoDer::from(certificate.tbs_certificate.subject_pki.raw.to_vec()))
}

fn summarize(certificate: &CertificateDer<'_>) -> Option<TlsCertificate> {
    let (_, certificate) = X509Certificate::from_der(certificate).ok()?;
    let minute = certificate.validity.not_before.timestamp().div_euclid(60);
    let batch = Sha256::new().chain_update(certificate.issuer.as_raw()).chain_update(minute.to_be_bytes()).finalize();
    let [a, b, c, d, e, f, g, h, ..]: [u8; 32] = batch.into();
    let key = Sha256::digest(certificate.tbs_certificate.subject_pki.raw).into();
    Some(TlsCertificate { key, batch: [a, b, c, d, e, f, g, h] })
}

#[cfg(test)]
mod tests {
    use rustls::pki_types::PrivateKeyDer;
    use rustls::pki_types::pem::PemObject;
    use rustls::{ServerConfig, SupportedProtocolVersion, version};
    use tokio_rustls::TlsAcceptor;

    use super::*;

    const V1_RSA: [&[u8]; 2] =
        [include_bytes!("../../tests/data/v1-rsa.pem"), include_bytes!("../../tests/data/v1-rsa.key")];
    const V3_EC: [&[u8]; 2] =
        [include_bytes!("../../tests/data/v3-ec.pem"), include_bytes!("../../tests/data/v3-ec.key")];

    /// Connects over a pipe to a server with this certificate and key.
    async fn connect(
        certificate: &[u8],
        key: &[u8],
        version: &'static SupportedProtocolVersion,
    ) -> Result<Option<TlsCertificate>, ProbeError> {
        let certificate = CertificateDer::from_pem_slice(certificate).unwrap();
        let key = PrivateKeyDer::from_pem_slice(key).unwrap();
        let config = ServerConfig::builder_with_provider(Arc::new(ring::default_provider()))
            .with_protocol_versions(&[version])
            .unwrap()
            .with_no_client_auth()
            .with_cert_resolver(Arc::new(FixedCertificate(certificate, key)));
        let (client, server_end) = tokio::io::duplex(16 * 1024);
        let server = tokio::spawn(TlsAcceptor::from(Arc::new(config)).accept(server_end));
        let connected = Tls::new().unwrap().connect(&"localhost".parse().unwrap(), client).await;
        let _ = server.await;
        connected.map(|(_, certificate)| certificate)
    }

    /// Presents a certificate even if the key does not match, which rustls' builder refuses.
    #[derive(Debug)]
    struct FixedCertificate(CertificateDer<'static>, PrivateKeyDer<'static>);

    impl rustls::server::ResolvesServerCert for FixedCertificate {
        fn resolve(&self, _: rustls::server::ClientHello<'_>) -> Option<Arc<rustls::sign::CertifiedKey>> {
            let key = ring::sign::any_supported_type(&self.1).unwrap();
            Some(Arc::new(rustls::sign::CertifiedKey::new(vec![self.0.clone()], key)))
        }
    }

    #[tokio::test]
    async fn self_signed_certificate_of_any_version_is_accepted() {
        for version in [&version::TLS12, &version::TLS13] {
            let [certificate, key] = V1_RSA;
            let v1 = connect(certificate, key, version).await.unwrap();
            let [certificate, key] = V3_EC;
            let v3 = connect(certificate, key, version).await.unwrap();
            assert!(v1.is_some() && v3.is_some() && v1 != v3);
        }
    }

    #[tokio::test]
    async fn server_without_the_private_key_is_rejected() {
        // A key of the same kind that is not the certificate's.
        let other = include_bytes!("../../tests/data/other-ec.key");
        for version in [&version::TLS12, &version::TLS13] {
            assert_eq!(connect(V3_EC[0], other, version).await.unwrap_err(), ProbeError::Tls);
        }
    }
}

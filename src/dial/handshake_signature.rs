//! Signatures of TLS handshakes by keys that the TLS library can't verify.
//!
//! Electrum and its servers use OpenSSL, which accepts more kinds of keys: P-521, RSA of 1024 bits, and RSA keys for PSS.

use p521::ecdsa::signature::hazmat::PrehashVerifier;
use p521::ecdsa::{Signature, VerifyingKey};
use rsa::pkcs1::DecodeRsaPublicKey;
use rsa::sha2::{Digest, Sha256, Sha384, Sha512};
use rsa::traits::PublicKeyParts;
use rsa::{Pkcs1v15Sign, Pss, RsaPublicKey};
use rustls::SignatureScheme;
use x509_parser::oid_registry::{
    OID_KEY_TYPE_EC_PUBLIC_KEY, OID_NIST_EC_P521, OID_PKCS1_RSAENCRYPTION, OID_PKCS1_RSASSAPSS,
};
use x509_parser::x509::SubjectPublicKeyInfo;

/// Schemes of RSA keys that are marked for PSS in their certificate (RFC 8446, section 4.2.3), which rustls has no names for.
const RSA_PSS_PSS_SHA256: SignatureScheme = SignatureScheme::Unknown(0x0809);
const RSA_PSS_PSS_SHA384: SignatureScheme = SignatureScheme::Unknown(0x080a);
const RSA_PSS_PSS_SHA512: SignatureScheme = SignatureScheme::Unknown(0x080b);

/// Schemes that [`is_valid`] adds to those of the TLS library, in the order of preference.
pub(super) const ADDITIONAL_SCHEMES: [SignatureScheme; 4] =
    [SignatureScheme::ECDSA_NISTP521_SHA512, RSA_PSS_PSS_SHA256, RSA_PSS_PSS_SHA384, RSA_PSS_PSS_SHA512];

/// Minimum size of an RSA key in bytes. Shorter keys can be factored.
const MIN_RSA_BYTES: usize = 128;

/// Returns whether a key signed a message with a scheme. False for kinds of keys that are not known here.
pub(super) fn is_valid(
    key: &SubjectPublicKeyInfo<'_>,
    scheme: SignatureScheme,
    message: &[u8],
    signature: &[u8],
) -> bool {
    let Some((hash, padding)) = Hash::of(scheme) else { return false };
    let digest = hash.digest(message);
    let bits = &key.subject_public_key.data;
    let is_p521 = || {
        let curve = key.algorithm.parameters.as_ref().and_then(|curve| curve.as_oid().ok());
        curve.is_some_and(|curve| curve == OID_NIST_EC_P521)
    };
    match (padding, &key.algorithm.algorithm) {
        (Padding::Ecdsa, kind) if *kind == OID_KEY_TYPE_EC_PUBLIC_KEY && is_p521() => {
            let (Ok(key), Ok(signature)) = (VerifyingKey::from_sec1_bytes(bits), Signature::from_der(signature)) else {
                return false;
            };
            key.verify_prehash(&digest, &signature).is_ok()
        }
        (Padding::Pkcs1, kind) if *kind == OID_PKCS1_RSAENCRYPTION => {
            let padding = match hash {
                Hash::Sha256 => Pkcs1v15Sign::new::<Sha256>(),
                Hash::Sha384 => Pkcs1v15Sign::new::<Sha384>(),
                Hash::Sha512 => Pkcs1v15Sign::new::<Sha512>(),
            };
            rsa_key(bits).is_some_and(|key| key.verify(padding, &digest, signature).is_ok())
        }
        (Padding::Pss, kind) if *kind == OID_PKCS1_RSAENCRYPTION || *kind == OID_PKCS1_RSASSAPSS => {
            // TLS fixes the length of the salt to that of the hash.
            let padding = match hash {
                Hash::Sha256 => Pss::new_with_salt::<Sha256>(digest.len()),
                Hash::Sha384 => Pss::new_with_salt::<Sha384>(digest.len()),
                Hash::Sha512 => Pss::new_with_salt::<Sha512>(digest.len()),
            };
            rsa_key(bits).is_some_and(|key| key.verify(padding, &digest, signature).is_ok())
        }
        _ => false,
    }
}

#[derive(Clone, Copy)]
enum Hash {
    Sha256,
    Sha384,
    Sha512,
}

enum Padding {
    Ecdsa,
    Pkcs1,
    Pss,
}

impl Hash {
    /// Returns the hash and the form of the signatures of a scheme.
    fn of(scheme: SignatureScheme) -> Option<(Hash, Padding)> {
        use SignatureScheme::*;
        Some(match scheme {
            // TLS 1.2 names the hash only. Servers with a P-521 key choose SHA-384 or SHA-512.
            ECDSA_NISTP256_SHA256 => (Hash::Sha256, Padding::Ecdsa),
            ECDSA_NISTP384_SHA384 => (Hash::Sha384, Padding::Ecdsa),
            ECDSA_NISTP521_SHA512 => (Hash::Sha512, Padding::Ecdsa),
            RSA_PKCS1_SHA256 => (Hash::Sha256, Padding::Pkcs1),
            RSA_PKCS1_SHA384 => (Hash::Sha384, Padding::Pkcs1),
            RSA_PKCS1_SHA512 => (Hash::Sha512, Padding::Pkcs1),
            RSA_PSS_SHA256 | RSA_PSS_PSS_SHA256 => (Hash::Sha256, Padding::Pss),
            RSA_PSS_SHA384 | RSA_PSS_PSS_SHA384 => (Hash::Sha384, Padding::Pss),
            RSA_PSS_SHA512 | RSA_PSS_PSS_SHA512 => (Hash::Sha512, Padding::Pss),
            _ => return None,
        })
    }

    fn digest(self, message: &[u8]) -> Vec<u8> {
        match self {
            Hash::Sha256 => Sha256::digest(message).to_vec(),
            Hash::Sha384 => Sha384::digest(message).to_vec(),
            Hash::Sha512 => Sha512::digest(message).to_vec(),
        }
    }
}

/// Parses an RSA key of 1024 to 4096 bits.
fn rsa_key(bits: &[u8]) -> Option<RsaPublicKey> {
    RsaPublicKey::from_pkcs1_der(bits).ok().filter(|key| key.size() >= MIN_RSA_BYTES)
}

#[cfg(test)]
mod tests {
    use rustls::pki_types::CertificateDer;
    use rustls::pki_types::pem::PemObject;
    use x509_parser::prelude::{FromDer, X509Certificate};

    use super::*;

    const MESSAGE: &[u8] = b"signed message";
    const CASES: [(&[u8], &[u8], SignatureScheme); 3] = [
        (
            include_bytes!("../../tests/data/signatures/p521.pem"),
            include_bytes!("../../tests/data/signatures/p521.sig"),
            SignatureScheme::ECDSA_NISTP521_SHA512,
        ),
        (
            include_bytes!("../../tests/data/signatures/rsa-1024.pem"),
            include_bytes!("../../tests/data/signatures/rsa-1024.sig"),
            SignatureScheme::RSA_PKCS1_SHA256,
        ),
        (
            include_bytes!("../../tests/data/signatures/rsa-pss.pem"),
            include_bytes!("../../tests/data/signatures/rsa-pss.sig"),
            RSA_PSS_PSS_SHA256,
        ),
    ];

    fn verify(certificate: &[u8], scheme: SignatureScheme, message: &[u8], signature: &[u8]) -> bool {
        let certificate = CertificateDer::from_pem_slice(certificate).unwrap();
        let (_, certificate) = X509Certificate::from_der(&certificate).unwrap();
        is_valid(&certificate.tbs_certificate.subject_pki, scheme, message, signature)
    }

    #[test]
    fn only_the_signature_of_this_key_and_message_is_valid() {
        for (certificate, signature, scheme) in CASES {
            assert!(verify(certificate, scheme, MESSAGE, signature), "{scheme:?}");
            assert!(!verify(certificate, scheme, b"another message", signature), "{scheme:?}");
            for byte in [0, signature.len() / 2, signature.len() - 1] {
                let mut changed = signature.to_vec();
                changed[byte] ^= 1;
                assert!(!verify(certificate, scheme, MESSAGE, &changed), "{scheme:?} {byte}");
            }
            for length in [0, 1, signature.len() - 1] {
                assert!(!verify(certificate, scheme, MESSAGE, &signature[..length]), "{scheme:?} {length}");
            }
            for (other, _, other_scheme) in CASES.into_iter().filter(|(_, _, other)| *other != scheme) {
                assert!(!verify(other, other_scheme, MESSAGE, signature), "{scheme:?} by {other_scheme:?}");
                assert!(!verify(certificate, other_scheme, MESSAGE, signature), "{scheme:?} as {other_scheme:?}");
            }
            assert!(!verify(certificate, SignatureScheme::ED25519, MESSAGE, signature), "{scheme:?}");
        }
    }
}

//! TLS of real OpenSSL servers: kinds of keys, and cipher suites.

use std::net::SocketAddr;
use std::process::{Command, Stdio};
use std::time::Duration;

use tokio::net::TcpStream;
use waypost::connect::ProbeError;
use waypost::dial::Tls;

use super::support::{ChildGuard, TestDir, free_address, run, wait_until};

/// Options of `openssl req` for each kind of key, and whether TLS works with it.
const KEYS: [(&str, &[&str], bool); 10] = [
    ("P-256", &["ec", "-pkeyopt", "ec_paramgen_curve:P-256"], true),
    ("P-384", &["ec", "-pkeyopt", "ec_paramgen_curve:P-384"], true),
    ("P-521", &["ec", "-pkeyopt", "ec_paramgen_curve:P-521"], true),
    ("RSA-1024", &["rsa:1024"], true),
    ("RSA-2048", &["rsa:2048"], true),
    ("RSA-4096", &["rsa:4096"], true),
    ("RSA-PSS", &["rsa-pss", "-pkeyopt", "rsa_keygen_bits:2048"], true),
    ("Ed25519", &["ed25519"], true),
    ("Ed448", &["ed448"], false),
    ("RSA-512", &["rsa:512"], false),
];

const VERSIONS: [&str; 2] = ["-tls1_2", "-tls1_3"];

#[tokio::test]
async fn handshake_works_with_every_kind_of_key_that_servers_have() {
    let dir = TestDir::new();
    for (name, options, works) in KEYS {
        let (certificate, key) = certificate(&dir, name, options);
        for version in VERSIONS {
            let expected = match (name, version) {
                // With TLS 1.2, OpenSSL wants the curve for the key exchange too, and rustls has no scheme for the other.
                ("P-521" | "RSA-PSS", "-tls1_2") => false,
                _ => works,
            };
            let connected = handshake(&certificate, &key, &[version, "-cipher", "DEFAULT@SECLEVEL=0"]).await;
            assert_eq!(connected.is_ok(), expected, "{name} {version}: {connected:?}");
        }
    }
    let stored = ["tests/data/rsa-8192.pem", "tests/data/rsa-8192.key"];
    assert!(handshake(stored[0], stored[1], &[]).await.is_ok(), "RSA-8192");
}

#[tokio::test]
async fn handshake_without_a_common_cipher_is_an_error() {
    let dir = TestDir::new();
    let (certificate, key) = certificate(&dir, "RSA", &["rsa:2048"]);
    for (ciphers, works) in [
        ("ECDHE-RSA-AES256-GCM-SHA384", true),
        ("ECDHE-RSA-CHACHA20-POLY1305", true),
        ("ECDHE-RSA-AES256-SHA384", false),
        ("DHE-RSA-AES256-GCM-SHA384", false),
        ("AES256-GCM-SHA384", false),
    ] {
        let connected = handshake(&certificate, &key, &["-tls1_2", "-cipher", ciphers]).await;
        assert_eq!(connected, if works { Ok(()) } else { Err(ProbeError::Tls) }, "{ciphers}");
    }
}

/// Connects to an OpenSSL server with these options.
async fn handshake(certificate: &str, key: &str, options: &[&str]) -> Result<(), ProbeError> {
    let address = free_address();
    let mut server = Command::new("openssl");
    server.args(["s_server", "-www", "-accept", &address.to_string(), "-cert", certificate, "-key", key]).args(options);
    let _server = ChildGuard::spawn(server.stdout(Stdio::null()).stderr(Stdio::null()));
    wait_until(10, "openssl listens", || std::net::TcpStream::connect(address).is_ok());
    let stream = connect(address).await;
    let tls = Tls::new().unwrap();
    tls.connect(&"server.example".parse().unwrap(), stream).await.map(drop)
}

async fn connect(address: SocketAddr) -> TcpStream {
    tokio::time::timeout(Duration::from_secs(5), TcpStream::connect(address)).await.unwrap().unwrap()
}

/// Creates a self-signed certificate, and returns the paths of the certificate and its key.
fn certificate(dir: &TestDir, name: &str, options: &[&str]) -> (String, String) {
    let path = |ending: &str| dir.path(&format!("{name}.{ending}")).to_str().unwrap().to_owned();
    let (certificate, key) = (path("pem"), path("key"));
    let mut openssl = Command::new("openssl");
    openssl.args(["req", "-x509", "-nodes", "-subj", "/CN=server.example", "-days", "30", "-newkey"]).args(options);
    run(openssl.args(["-keyout", &key, "-out", &certificate]).stderr(Stdio::null()));
    (certificate, key)
}

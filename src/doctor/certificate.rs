//! Dates and names of the certificate for clients.

use std::time::Duration;

use x509_parser::extensions::GeneralName;
use x509_parser::prelude::{FromDer, X509Certificate};

use super::{Finding, Subject};
use crate::clock::Time;
use crate::config::{Config, ListenKind};
use crate::peer::Host;
use crate::server::CertificateSource;

/// Remaining time below which the certificate should have been renewed. ACME clients renew 30 days before the end.
const RENEWAL_DUE: Duration = Duration::from_hours(14 * 24);

/// Checks the certificate of the TLS listeners. There is nothing to check without one.
pub(super) fn check(config: &Config, now: Time) -> Vec<Finding> {
    let source = &config.listen.certificate;
    let has_tls = [ListenKind::Tls, ListenKind::Wss].iter().any(|kind| !config.listen.addresses(*kind).is_empty());
    let is_present = source.paths().iter().all(|path| path.exists());
    if matches!(source, CertificateSource::SelfSigned(_)) && !(has_tls && is_present) {
        return Vec::new();
    }
    // Errors of configured files are part of the configuration.
    let Ok(credentials) = source.load() else { return Vec::new() };
    let parsed = credentials.cert.first().map(|der| X509Certificate::from_der(der));
    match parsed {
        Some(Ok((_, certificate))) => {
            findings(&certificate, config.identity.clearnet_names().map(|(host, _)| host), now)
        }
        _ => {
            vec![Finding::failure(Subject::Certificate, "the certificate can't be parsed", "create a new certificate")]
        }
    }
}

fn findings<'a>(certificate: &X509Certificate<'_>, hosts: impl Iterator<Item = &'a Host>, now: Time) -> Vec<Finding> {
    let validity = certificate.validity();
    let date = |secs: i64| Time::from_wall_millis(u64::try_from(secs).unwrap_or(0).saturating_mul(1000));
    let (begin, end) = (date(validity.not_before.timestamp()), date(validity.not_after.timestamp()));
    let renew = "renew it: clients with an authority's certificate refuse an expired one";
    let dates = if end <= now {
        Finding::failure(Subject::Certificate, format!("the certificate expired at {end}"), renew)
    } else if begin > now {
        let advice = "set the clock of this machine, or wait";
        Finding::failure(Subject::Certificate, format!("the certificate is valid only from {begin}"), advice)
    } else if end.since(now) < RENEWAL_DUE {
        Finding::warning(Subject::Certificate, format!("the certificate expires at {end}"), renew)
    } else {
        Finding::ok(Subject::Certificate, format!("the certificate is valid until {end}"))
    };
    let mut findings = vec![dates];
    // Clients accept any name in a self-signed certificate, as they recognise its key.
    let is_self_signed = certificate.issuer() == certificate.subject();
    let named = names(certificate);
    for host in hosts.filter(|_| !is_self_signed) {
        let Host::Dns(name) = host else { continue };
        if !named.iter().any(|pattern| matches(pattern, name.as_str())) {
            let text = format!("the certificate does not name {}", name.as_str());
            let advice = "request one for all own names: wallets accept another only after they pinned it";
            findings.push(Finding::warning(Subject::Certificate, text, advice));
        }
    }
    findings
}

/// Returns the DNS names of the certificate, in lower case.
fn names(certificate: &X509Certificate<'_>) -> Vec<String> {
    let Ok(Some(extension)) = certificate.subject_alternative_name() else { return Vec::new() };
    let names = extension.value.general_names.iter().filter_map(|name| match name {
        GeneralName::DNSName(name) => Some(name.to_ascii_lowercase()),
        _ => None,
    });
    names.collect()
}

/// Returns whether a name of a certificate covers a host (RFC 6125): a wildcard stands for one label.
fn matches(pattern: &str, host: &str) -> bool {
    match pattern.strip_prefix("*.") {
        Some(parent) => host.split_once('.').is_some_and(|(_, rest)| rest == parent),
        None => pattern == host,
    }
}

#[cfg(test)]
mod tests {
    use rcgen::{CertificateParams, CertifiedIssuer, Issuer, KeyPair, date_time_ymd};

    use super::*;
    use crate::doctor::Level;

    /// Returns the findings for a certificate that another one signed.
    fn findings_for(name: &str, end: (i32, u8, u8), host: &str) -> Vec<Finding> {
        let mut authority = CertificateParams::new(vec![]).unwrap();
        authority.is_ca = rcgen::IsCa::Ca(rcgen::BasicConstraints::Unconstrained);
        authority.distinguished_name.push(rcgen::DnType::CommonName, "authority");
        let authority: CertifiedIssuer<'_, KeyPair> =
            CertifiedIssuer::self_signed(authority, KeyPair::generate().unwrap()).unwrap();
        let issuer: &Issuer<'_, KeyPair> = &authority;
        let mut params = CertificateParams::new(vec![name.to_owned()]).unwrap();
        params.not_before = date_time_ymd(2026, 1, 1);
        params.not_after = date_time_ymd(end.0, end.1, end.2);
        let certificate = params.signed_by(&KeyPair::generate().unwrap(), issuer).unwrap();
        let (_, certificate) = X509Certificate::from_der(certificate.der()).unwrap();
        // 2026-11-27
        findings(&certificate, std::iter::once(&host.parse().unwrap()), Time::from_wall_millis(1_795_737_600_000))
    }

    fn levels(name: &str, end: (i32, u8, u8), host: &str) -> Vec<Level> {
        findings_for(name, end, host).iter().map(|finding| finding.level).collect()
    }

    #[test]
    fn expired_and_soon_expiring_certificates_are_found() {
        assert_eq!(levels("a.example", (2027, 2, 1), "a.example"), [Level::Ok]);
        assert_eq!(levels("a.example", (2026, 12, 5), "a.example"), [Level::Warning]);
        assert_eq!(levels("a.example", (2026, 11, 1), "a.example"), [Level::Failure]);
    }

    #[test]
    fn certificate_of_another_name_is_a_warning() {
        assert_eq!(levels("*.example.org", (2027, 2, 1), "a.example.org"), [Level::Ok]);
        for (name, host) in [("b.example.org", "a.example.org"), ("*.example.org", "b.a.example.org")] {
            assert_eq!(levels(name, (2027, 2, 1), host), [Level::Ok, Level::Warning], "{name} {host}");
        }
    }
}

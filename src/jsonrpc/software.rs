//! Software names in `server.version` and `server.features`.

/// Software name and version of Waypost in protocol fields.
pub const USER_AGENT: &str = concat!("Waypost ", env!("CARGO_PKG_VERSION"));

/// Maximum length of a software name in characters.
pub const MAX_SOFTWARE_CHARS: usize = 60;

/// What Waypost appends to the name of its backend.
const SUFFIX: &str = concat!("-Waypost-", env!("CARGO_PKG_VERSION"));

/// Returns the name that clients get in front of a backend with this name.
///
/// Wallets detect batching and other abilities by the name: Sparrow compares its start with known
/// servers, and reads the version up to the first hyphen. The backend's name therefore comes first,
/// and a hyphen follows its version. A long name is cut, so that no peer cuts what Waypost appends.
pub fn software_in_front_of(backend: &str) -> String {
    let name: String = backend.chars().take(MAX_SOFTWARE_CHARS.saturating_sub(SUFFIX.len())).collect();
    format!("{}{SUFFIX}", name.trim_end())
}

/// Returns whether a software name is that of a Waypost, with or without a backend.
///
/// Any name that contains the word counts. A server that uses it only loses sessions.
pub fn is_waypost(software: &str) -> bool {
    software.contains("Waypost")
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Returns the version that Sparrow reads: after the name, up to the first hyphen.
    fn sparrow_version(software: &str, name: &str) -> Option<String> {
        let lower = software.to_lowercase();
        let rest = lower.strip_prefix(name)?.trim();
        let version = rest.split('-').next().unwrap_or(rest);
        let is_version = version.split('.').all(|part| !part.is_empty() && part.bytes().all(|b| b.is_ascii_digit()));
        is_version.then(|| version.to_owned())
    }

    #[test]
    fn backend_stays_recognisable_for_sparrow() {
        for (backend, name, version) in [
            ("Fulcrum 2.1.1", "fulcrum", "2.1.1"),
            ("electrs/0.10.5", "electrs/", "0.10.5"),
            ("mempool-electrs 3.3.0-dev-249848d", "mempool-electrs", "3.3.0"),
        ] {
            let software = software_in_front_of(backend);
            assert_eq!(sparrow_version(&software, name).as_deref(), Some(version), "{software}");
            assert!(software.starts_with(backend) && is_waypost(&software), "{software}");
        }
        // Sparrow looks for this name anywhere, and BlueWallet compares the start of this one.
        assert!(software_in_front_of("ElectrumX 2.0.0").to_lowercase().contains("electrumx"));
        assert!(software_in_front_of("ElectrumPersonalServer 0.2.4").starts_with("ElectrumPersonalServer"));
    }

    #[test]
    fn long_backend_name_leaves_waypost_recognisable() {
        for backend in ["x".repeat(60), format!("{} y", "x".repeat(44)), String::new()] {
            let software = software_in_front_of(&backend);
            assert!(software.len() <= MAX_SOFTWARE_CHARS && is_waypost(&software), "{software}");
            assert!(software.ends_with(SUFFIX) && !software.contains(" -"), "{software}");
        }
        assert!(is_waypost(USER_AGENT) && !is_waypost("ElectrumX 2.0.0"));
    }
}

//! Old names of keys, for errors that state the new name.

/// Old and new names. An old name is an error, not an alias.
const RENAMED: &[(&str, &str)] = &[
    ("backend.line_bytes", "backend.max_line_bytes"),
    ("backend.public", "backend.serve_public"),
    ("discovery.forget", "discovery.expire_after"),
    ("discovery.onion_probes", "discovery.max_tor_probes"),
    ("discovery.probes", "discovery.max_probes"),
    ("discovery.recent", "discovery.max_age"),
    ("discovery.recheck", "discovery.recheck_interval"),
    ("discovery.retry", "discovery.initial_retry"),
    ("identity.link", "identity.link_identities"),
    ("irc.stay", "irc.persistent"),
    ("limits.batch", "limits.max_batch"),
    ("limits.handshake", "limits.handshake_timeout"),
    ("limits.idle", "limits.idle_timeout"),
    ("limits.line", "limits.line_timeout"),
    ("limits.passed_requests_per_second", "limits.forwarded_requests_per_second"),
    ("limits.sessions", "limits.max_sessions"),
    ("status.hosts", "status.allowed_hosts"),
    ("status.http", "status.listen"),
    ("tor.arti", "tor.arti_config"),
];

/// Returns advice for an unknown key that is an old name.
///
/// `is_set` returns whether the text sets a dotted key.
pub(super) fn advice(unknown: &str, is_set: impl Fn(&str) -> bool) -> Option<String> {
    RENAMED.iter().find_map(|(old, new)| {
        let name = old.rsplit('.').next()?;
        (name == unknown && is_set(old)).then(|| format!("{old}: this key is now named {new}"))
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::{ConfigFile, key_types};

    #[test]
    fn old_key_error_names_the_new_key() {
        for (old, new) in RENAMED {
            let text = format!("# a comment\n{old} = 1\n");
            let error = toml::from_str::<ConfigFile>(&text).unwrap_err();
            let described = key_types::describe(&text, &error, key_types::as_line);
            assert_eq!(described, format!("{old}: this key is now named {new}"));
        }
    }

    #[test]
    fn new_names_are_keys() {
        for (_, new) in RENAMED {
            let error = toml::from_str::<ConfigFile>(&format!("{new} = {{}}\n")).unwrap_err();
            assert!(!error.message().contains("unknown field"), "{new}: {error}");
        }
    }
}

//! The keys `tor.socks…`: SOCKS port of an external Tor, and the login there.

use std::path::Path;

use super::{ConfigFile, InvalidValue, TorSection, invalid};
use crate::dial::{SocksLogin, SocksPort};
use crate::secret::Secret;
use crate::socks_address::SocksAddress;

/// Default addresses: those of C tor and of Tor Browser.
const DEFAULT_ADDRESSES: [&str; 2] = ["127.0.0.1:9050", "127.0.0.1:9150"];

/// Prefix of user names that Tor reserves for extensions.
const RESERVED_PREFIX: &str = "<torS0X>";

/// Checks the keys and returns the ports to try, in this order.
///
/// A password file that can't be read is added to `unread`.
pub(super) fn resolve(
    section: &TorSection,
    is_only: bool,
    unread: &mut Vec<InvalidValue>,
) -> Result<Vec<SocksPort>, InvalidValue> {
    let login = resolve_login(section, unread)?;
    let port = |address| SocksPort { address, login: login.clone() };
    match &section.socks {
        Some(address) if is_only && address.is_dns_name() => {
            let reason = format!(
                "{address}: a DNS server outside Tor may see the look-up of this name, which tor.only excludes; use an IP \
                 address, unix:PATH, or a name without a dot"
            );
            Err(invalid("tor.socks", reason))
        }
        Some(address) => Ok(vec![port(address.clone())]),
        None => {
            let addresses = DEFAULT_ADDRESSES.iter().filter_map(|text| text.parse::<SocksAddress>().ok());
            Ok(addresses.map(port).collect())
        }
    }
}

/// Refuses shared circuits on a node with two sides.
///
/// Otherwise a peer that both sides contact sees that they are one node.
pub(super) fn check_isolation(file: &ConfigFile) -> Result<(), InvalidValue> {
    let is_exact = file.tor.socks_exact_login == Some(true);
    let has_onion_side = file.listen.onion_tcp.as_ref().is_some_and(|addresses| !addresses.is_empty());
    if is_exact && has_onion_side && file.identity.link_identities != Some(true) {
        let reason = "with listen.onion_tcp, a shared circuit would show peers that both names are one node; remove the \
                      key, or set identity.link_identities = true";
        return Err(invalid("tor.socks_exact_login", reason.to_owned()));
    }
    Ok(())
}

fn resolve_login(section: &TorSection, unread: &mut Vec<InvalidValue>) -> Result<Option<SocksLogin>, InvalidValue> {
    let Some(user) = section.socks_user.clone() else {
        let keys = [
            ("tor.socks_password", section.socks_password.is_some()),
            ("tor.socks_password_file", section.socks_password_file.is_some()),
            ("tor.socks_exact_login", section.socks_exact_login == Some(true)),
        ];
        return match keys.iter().find(|(_, is_set)| *is_set) {
            Some((key, _)) => Err(invalid(key, "needs tor.socks_user".to_owned())),
            None => Ok(None),
        };
    };
    if user.is_empty() || user.len() > SocksLogin::MAX_USER_BYTES {
        let reason = format!("must have from 1 to {} bytes", SocksLogin::MAX_USER_BYTES);
        return Err(invalid("tor.socks_user", reason));
    }
    if user.starts_with(RESERVED_PREFIX) {
        let reason = format!("must not begin with {RESERVED_PREFIX}, which Tor reserves");
        return Err(invalid("tor.socks_user", reason));
    }
    let (key, password) = match (&section.socks_password, &section.socks_password_file) {
        (Some(password), None) => ("tor.socks_password", password.clone()),
        (None, Some(path)) => {
            let password = read_password(path).unwrap_or_else(|error| {
                unread.push(error);
                Secret::new("unread")
            });
            ("tor.socks_password_file", password)
        }
        (Some(_), Some(_)) => {
            let reason = "conflicts with tor.socks_password; remove one of the two";
            return Err(invalid("tor.socks_password_file", reason.to_owned()));
        }
        (None, None) => {
            let reason = "missing; set it, or tor.socks_password_file, together with tor.socks_user";
            return Err(invalid("tor.socks_password", reason.to_owned()));
        }
    };
    if !(1..=SocksLogin::MAX_PASSWORD_BYTES).contains(&password.expose().len()) {
        return Err(invalid(key, format!("must have from 1 to {} bytes", SocksLogin::MAX_PASSWORD_BYTES)));
    }
    Ok(Some(SocksLogin { user, password, is_exact: section.socks_exact_login.unwrap_or(false) }))
}

/// Reads a password from a file. A final line break is no part of it.
fn read_password(path: &Path) -> Result<Secret, InvalidValue> {
    let text = std::fs::read_to_string(path).map_err(|error| {
        let reason = format!("can't read {}: {error}; let the user of Waypost read the file", path.display());
        invalid("tor.socks_password_file", reason)
    })?;
    Ok(Secret::new(text.trim_end_matches(['\r', '\n'])))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::Config;

    fn resolved(text: &str) -> Result<Vec<SocksPort>, InvalidValue> {
        let file: ConfigFile = toml::from_str(&format!("data_dir = \"/d\"\n{text}")).unwrap();
        Config::resolve(file).map(|config| config.tor.settings.socks)
    }

    #[test]
    fn login_comes_from_the_keys_or_a_file() {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("password");
        std::fs::write(&file, "swordfish\n").unwrap();
        for password in ["socks_password = \"swordfish\"".to_owned(), format!("socks_password_file = {file:?}")] {
            let ports = resolved(&format!("[tor]\nsocks = \"tor:9050\"\nsocks_user = \"wp\"\n{password}\n")).unwrap();
            let [port] = ports.as_slice() else { panic!("{ports:?}") };
            let login = port.login.as_ref().unwrap();
            assert_eq!((login.user.as_str(), login.password.expose(), login.is_exact), ("wp", "swordfish", false));
            assert!(!format!("{ports:?}").contains("swordfish"));
        }
    }

    #[test]
    fn incomplete_login_names_the_missing_key() {
        let key = |text: &str| resolved(&format!("[tor]\n{text}\n")).unwrap_err().key;
        assert_eq!(key("socks_user = \"wp\""), "tor.socks_password");
        assert_eq!(key("socks_password = \"pw\""), "tor.socks_password");
        assert_eq!(key("socks_exact_login = true"), "tor.socks_exact_login");
        assert_eq!(key("socks_user = \"wp\"\nsocks_password = \"\""), "tor.socks_password");
        assert_eq!(key("socks_user = \"<torS0X>1\"\nsocks_password = \"pw\""), "tor.socks_user");
        let embedded = "mode = \"off\"\nsocks_user = \"wp\"\nsocks_password = \"pw\"";
        assert_eq!(key(embedded), "tor.socks_user");
    }

    #[test]
    fn unreadable_password_stops_the_daemon_but_no_other_command() {
        let text = "data_dir = \"/d\"\n[tor]\nsocks_user = \"wp\"\nsocks_password_file = \"/nowhere/pw\"\n";
        let config = Config::resolve(toml::from_str(text).unwrap()).unwrap();
        assert_eq!(config.check_files().unwrap_err().key, "tor.socks_password_file");
    }

    #[test]
    fn only_tor_accepts_no_name_that_dns_would_resolve() {
        for socks in ["tor:9050", "localhost:9050", "unix:/run/tor/socks", "10.0.0.1:9050"] {
            assert!(resolved(&format!("[tor]\nsocks = \"{socks}\"\nonly = true\n")).is_ok(), "{socks}");
        }
        let error = resolved("[tor]\nsocks = \"tor.example.org:9050\"\nonly = true\n").unwrap_err();
        assert!(error.key == "tor.socks" && error.reason.contains("without a dot"), "{error}");
        assert!(resolved("[tor]\nsocks = \"tor.example.org:9050\"\n").is_ok());
    }

    #[test]
    fn exact_login_requires_linked_names() {
        let text = |link: bool| {
            format!(
                "[listen]\nonion_tcp = [\"127.0.0.1:50011\"]\n[identity]\nlink_identities = {link}\n\
                 [tor]\nsocks_user = \"wp\"\nsocks_password = \"pw\"\nsocks_exact_login = true\n"
            )
        };
        assert_eq!(resolved(&text(false)).unwrap_err().key, "tor.socks_exact_login");
        assert!(resolved(&text(true)).unwrap().iter().all(SocksPort::shares_circuits));
    }
}

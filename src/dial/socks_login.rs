//! Logins at a SOCKS port, by which Tor isolates streams.

use std::fmt;

use data_encoding::HEXLOWER;
use sha2::{Digest, Sha256};
use tor_socksproto::SocksAuth;

use crate::secret::Secret;
use crate::socks_address::SocksAddress;

/// SOCKS port, with the login of a proxy in front of Tor.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SocksPort {
    /// Address of the port.
    pub address: SocksAddress,
    /// Login of the operator. `None`: Tor itself, which accepts any.
    pub login: Option<SocksLogin>,
}

/// Login that the operator configured.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SocksLogin {
    /// User name, or the start of each user name. At most [`SocksLogin::MAX_USER_BYTES`].
    pub user: String,
    /// Password, from 1 to 255 bytes.
    pub password: Secret,
    /// Whether the proxy accepts this user name only, so that streams may share circuits.
    pub is_exact: bool,
}

/// Bytes of a group's hash in a user name, so that no groups collide.
const GROUP_BYTES: usize = 16;

/// Separator between the operator's user name and the group.
const SEPARATOR: char = '+';

/// Name of the group of requests that Tor answers by itself.
const CHECK: &str = "check";

impl SocksLogin {
    /// Longest user name in bytes, which leaves room for a group.
    ///
    /// SOCKS allows 255 bytes (RFC 1929).
    pub const MAX_USER_BYTES: usize = 255 - 1 - 2 * GROUP_BYTES;

    /// Longest password in bytes, from RFC 1929.
    pub const MAX_PASSWORD_BYTES: usize = 255;

    fn auth(&self, group: impl fmt::Display) -> SocksAuth {
        let user = if self.is_exact { self.user.clone() } else { format!("{}{SEPARATOR}{group}", self.user) };
        SocksAuth::Username(user.into_bytes(), self.password.expose().as_bytes().to_vec())
    }
}

impl SocksPort {
    /// Returns whether streams of different isolation groups may share circuits.
    pub fn shares_circuits(&self) -> bool {
        self.login.as_ref().is_some_and(|login| login.is_exact)
    }

    /// Returns the login of a stream of an isolation group.
    ///
    /// The secret of the process keeps streams of other programs apart.
    pub(super) fn auth(&self, group: &impl fmt::Display, secret: &Secret) -> SocksAuth {
        match &self.login {
            // SOCKS allows user names of 255 bytes, and no host name is longer.
            None => SocksAuth::Username(group.to_string().into_bytes(), secret.expose().as_bytes().to_vec()),
            Some(login) => {
                let hash = Sha256::digest(format!("{}\n{group}", secret.expose()));
                let (name, _) = hash.split_at(GROUP_BYTES);
                login.auth(HEXLOWER.encode(name))
            }
        }
    }

    /// Returns the login of a request that Tor answers by itself.
    pub(super) fn check_auth(&self) -> SocksAuth {
        self.login.as_ref().map_or(SocksAuth::NoAuth, |login| login.auth(CHECK))
    }

    /// Returns why the proxy rejected the login, with advice.
    pub(super) fn rejection(&self) -> &'static str {
        match &self.login {
            None => "a login is required; set tor.socks_user and tor.socks_password",
            Some(SocksLogin { is_exact: true, .. }) => {
                "the login is rejected; correct tor.socks_user and tor.socks_password"
            }
            Some(SocksLogin { is_exact: false, .. }) => {
                "the login is rejected; correct tor.socks_user and tor.socks_password, or set tor.socks_exact_login = true \
                 if the proxy accepts no user name that only begins with tor.socks_user"
            }
        }
    }
}

impl From<SocksAddress> for SocksPort {
    fn from(address: SocksAddress) -> SocksPort {
        SocksPort { address, login: None }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Returns user and password of streams of two groups.
    fn logins(login: Option<SocksLogin>) -> [(String, String); 2] {
        let port = SocksPort { address: "tor:9050".parse().unwrap(), login };
        [&"a.example", &"b.example"].map(|group| match port.auth(group, &Secret::new("secret")) {
            SocksAuth::Username(user, password) => {
                (String::from_utf8(user).unwrap(), String::from_utf8(password).unwrap())
            }
            other => panic!("{other:?}"),
        })
    }

    fn login(user: &str, is_exact: bool) -> Option<SocksLogin> {
        Some(SocksLogin { user: user.to_owned(), password: Secret::new("pw"), is_exact })
    }

    #[test]
    fn login_isolates_groups_unless_it_is_exact() {
        let [one, other] = logins(None);
        assert_eq!((one.0.as_str(), one.1.as_str()), ("a.example", "secret"));
        assert_ne!(one.0, other.0);
        let [one, other] = logins(login("wp", false));
        assert_ne!(one.0, other.0);
        for (user, password) in [one, other] {
            assert!(user.starts_with("wp+") && user.len() == 35 && password == "pw", "{user}");
        }
        assert_eq!(logins(login("wp", true)), [("wp".to_owned(), "pw".to_owned()), ("wp".to_owned(), "pw".to_owned())]);
    }

    #[test]
    fn longest_user_name_fits_in_socks() {
        let [(user, _), _] = logins(login(&"x".repeat(SocksLogin::MAX_USER_BYTES), false));
        assert_eq!(user.len(), 255);
    }
}

//! Reload: keys that a running daemon can apply, and comparison of configurations.

use std::collections::BTreeMap;

use super::Config;
use crate::server::CertificateSource;

impl Config {
    /// Returns this configuration with the reloadable keys of `new`.
    ///
    /// All other keys take effect at the next start.
    pub fn with_reloadable_from(&self, new: &Config) -> Config {
        let mut applied = self.clone();
        applied.limits = new.limits.clone();
        applied.effective.limits = new.effective.limits.clone();
        applied.listen.trusted_proxies = new.listen.trusted_proxies.clone();
        applied.effective.listen.trusted_proxies = new.effective.listen.trusted_proxies.clone();
        applied.log_level = new.log_level.clone();
        applied.effective.log.level = new.effective.log.level.clone();
        applied.use_ban_lists_of(new);
        applied.use_as_map_of(new);
        applied.use_certificate_of(new);
        // Without a server before or after, other parts of the node differ too.
        if self.backend.has_server()
            && new.backend.has_server()
            && self.backend.uses_peers() == new.backend.uses_peers()
        {
            applied.use_backend_of(new);
        }
        if self.book.chain == new.book.chain {
            applied.book.seeds = new.book.seeds.clone();
            applied.effective.discovery.seeds = new.effective.discovery.seeds.clone();
        }
        applied
    }

    /// Replaces the ban lists. The default one stays in the data directory, which is not reloadable.
    pub fn use_ban_lists_of(&mut self, other: &Config) {
        self.ban_file = other.ban_file.clone();
        self.ban_lists = other.ban_lists.clone();
        self.ban_list_key = other.ban_list_key.clone();
        let (discovery, new) = (&mut self.effective.discovery, &other.effective.discovery);
        discovery.ban_file = new.ban_file.clone();
        discovery.ban_lists = new.ban_lists.clone();
        discovery.ban_list_key = new.ban_list_key.clone();
    }

    /// Replaces the backend's servers.
    pub fn use_backend_of(&mut self, other: &Config) {
        self.backend.electrum = other.backend.electrum.clone();
        self.effective.backend.electrum = other.effective.backend.electrum.clone();
    }

    /// Replaces the AS map.
    pub fn use_as_map_of(&mut self, other: &Config) {
        self.as_map_file = other.as_map_file.clone();
        self.book.as_map = other.book.as_map.clone();
        self.effective.discovery.asmap = other.effective.discovery.asmap.clone();
    }

    /// Replaces the certificate. A self-signed one stays in the data directory, which is not reloadable.
    pub fn use_certificate_of(&mut self, other: &Config) {
        self.listen.certificate = match &other.listen.certificate {
            configured @ CertificateSource::Configured { .. } => configured.clone(),
            CertificateSource::SelfSigned(_) | CertificateSource::OnionSelfSigned(_) => {
                CertificateSource::SelfSigned(self.data_dir.clone())
            }
        };
        self.effective.listen.cert = other.effective.listen.cert.clone();
        self.effective.listen.key = other.effective.listen.key.clone();
    }

    /// Returns the keys with different values, such as `discovery.seeds`, sorted.
    pub fn diff_keys(&self, other: &Config) -> Result<Vec<String>, toml::ser::Error> {
        let (mut left, mut right) = (self.flatten()?, other.flatten()?);
        let mut keys: Vec<String> = left.keys().chain(right.keys()).cloned().collect();
        keys.sort();
        keys.dedup();
        keys.retain(|key| left.remove(key) != right.remove(key));
        Ok(keys)
    }

    /// Returns each dotted key with its value.
    fn flatten(&self) -> Result<BTreeMap<String, toml::Value>, toml::ser::Error> {
        let mut flat = BTreeMap::new();
        flatten(&toml::Table::try_from(&self.effective)?, "", &mut flat);
        // The key names a file, whose content is compared as well.
        if let Some(arti) = flat.get_mut("tor.arti_config") {
            *arti = toml::Value::Array(vec![arti.clone(), self.tor.settings.arti.clone().into()]);
        }
        let clients = self.tor.settings.service.as_ref().and_then(|service| service.clients.as_ref());
        if let (Some(value), Some(keys)) = (flat.get_mut("listen.onion_clients"), clients) {
            let keys = keys.iter().map(|key| key.to_string().into());
            *value = toml::Value::Array(std::iter::once(value.clone()).chain(keys).collect());
        }
        if let Some(value) = flat.get_mut("tor.onion_auth_dir") {
            let keys = &self.tor.settings.peer_keys;
            let keys = keys.iter().map(|key| format!("{} {}", key.onion, key.key.expose()).into());
            *value = toml::Value::Array(std::iter::once(value.clone()).chain(keys).collect());
        }
        // Secrets are hidden in the output, but compared.
        let irc = &self.effective.irc;
        let login = self.tor.settings.socks.first().and_then(|port| port.login.as_ref());
        let tor = &self.effective.tor;
        let tor_key = if tor.socks_password.is_some() { "tor.socks_password" } else { "tor.socks_password_file" };
        let secrets = [
            ("irc.password", irc.password.as_ref()),
            ("irc.sasl_password", irc.sasl_password.as_ref()),
            (tor_key, login.map(|login| &login.password)),
        ];
        for (key, secret) in secrets {
            flat.extend(secret.map(|secret| (key.to_owned(), secret.expose().into())));
        }
        Ok(flat)
    }
}

/// Adds each value of a table to `flat` under its dotted key.
pub(super) fn flatten(table: &toml::Table, prefix: &str, flat: &mut BTreeMap<String, toml::Value>) {
    for (key, value) in table {
        match value {
            toml::Value::Table(inner) => flatten(inner, &format!("{prefix}{key}."), flat),
            value => drop(flat.insert(format!("{prefix}{key}"), value.clone())),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::ConfigFile;

    fn config(text: &str) -> Config {
        let raw: ConfigFile = toml::from_str(&format!("data_dir = \"/d\"\n{text}")).unwrap();
        Config::resolve(raw).unwrap()
    }

    fn differences(one: &str, other: &str) -> Vec<String> {
        config(one).diff_keys(&config(other)).unwrap()
    }

    /// Returns the keys that a reload applies, and those left for the next start.
    fn reloaded(one: &str, other: &str) -> (Vec<String>, Vec<String>) {
        let (running, new) = (config(one), config(other));
        let applied = running.with_reloadable_from(&new);
        (running.diff_keys(&applied).unwrap(), applied.diff_keys(&new).unwrap())
    }

    #[test]
    fn equal_values_in_other_notation_are_no_difference() {
        assert_eq!(differences("", ""), [""; 0]);
        let default =
            "[listen]\ntcp = [\"127.0.0.1:50001\"]\n[limits]\nidle_timeout = \"600s\"\n[log]\nlevel = \"info\"\n";
        assert_eq!(differences("", default), [""; 0]);
    }

    #[test]
    fn differing_keys_are_named() {
        assert_eq!(differences("[tor]\nmode = \"off\"\n", "[tor]\nmode = \"socks\"\n"), ["tor.mode"]);
        let other = "[listen]\nws = [\"127.0.0.1:1\"]\n[identity]\nbanner = \"b\"\n[limits]\nmax_batch = 2\n";
        assert_eq!(differences("", other), ["identity.banner", "limits.max_batch", "listen.ws"]);
        assert_eq!(differences(other, ""), ["identity.banner", "limits.max_batch", "listen.ws"]);
        let named = "[identity]\nhost = \"a.example\"\ntcp_port = 1\n";
        assert_eq!(differences(named, &format!("{named}address = \"5.9.0.9\"\n")), ["identity.address"]);
    }

    #[test]
    fn differing_secret_is_named_but_never_printed() {
        let irc = |password: &str| format!("[irc]\nenabled = true\npassword = {password:?}\n");
        assert_eq!(differences(&irc("first"), &irc("swordfish")), ["irc.password"]);
        assert!(!toml::to_string(&config(&irc("swordfish")).effective()).unwrap().contains("swordfish"));
    }

    #[test]
    fn reloadable_keys_are_applied_and_others_left() {
        let all = "[listen]\ncert = \"c\"\nkey = \"k\"\ntrusted_proxies = [\"10.0.0.1\"]\n[limits]\nmax_batch = 2\n\
                   exempt = [\"10.0.0.2\"]\n[discovery]\nseeds = []\nban_file = \"b\"\nban_lists = [\"c\"]\n\
                   ban_list_key = \"RWQf6LRCGA9i53mlYecO4IzT51TGPpvWucNSCh1CBM0QTaLn73Y7GFO3\"\n\
                   [log]\nlevel = \"debug\"\n";
        let keys = [
            "discovery.ban_file",
            "discovery.ban_list_key",
            "discovery.ban_lists",
            "discovery.seeds",
            "limits.exempt",
            "limits.max_batch",
            "listen.cert",
            "listen.key",
            "listen.trusted_proxies",
            "log.level",
        ];
        assert_eq!(reloaded("", all), (keys.map(str::to_owned).into(), Vec::new()));
        assert_eq!(reloaded(all, ""), (keys.map(str::to_owned).into(), Vec::new()), "in the other direction");
        let (applied, left) = reloaded("", "[tor]\nmode = \"off\"\n[log]\nformat = \"json\"\nlevel = \"warn\"\n");
        assert_eq!(
            (applied, left),
            (vec!["log.level".to_owned()], vec!["log.format".to_owned(), "tor.mode".to_owned()])
        );
    }

    #[test]
    fn seeds_of_another_chain_wait_for_the_next_start() {
        let (applied, left) = reloaded("", "network = \"testnet4\"\n");
        assert_eq!(applied, [""; 0]);
        assert!(left.contains(&"network".to_owned()) && left.contains(&"discovery.seeds".to_owned()), "{left:?}");
    }

    #[test]
    fn self_signed_certificate_stays_in_the_running_data_directory() {
        let configured = config("[listen]\ncert = \"c\"\nkey = \"k\"\n");
        let other_dir = Config::resolve(ConfigFile { data_dir: Some("/e".into()), ..ConfigFile::default() }).unwrap();
        let applied = configured.with_reloadable_from(&other_dir);
        assert_eq!(applied.listen.certificate, CertificateSource::SelfSigned("/d".into()));
        assert_eq!(applied.diff_keys(&other_dir).unwrap(), ["data_dir"]);
    }

    #[test]
    fn changed_content_of_arti_config_is_a_difference() {
        let mut one = config("");
        one.effective.tor.arti_config = Some("arti.toml".into());
        let mut other = one.clone();
        assert_eq!(one.diff_keys(&other).unwrap(), [""; 0]);
        other.tor.settings.arti = "[bridges]\n".to_owned();
        assert_eq!(one.diff_keys(&other).unwrap(), ["tor.arti_config"]);
    }
}

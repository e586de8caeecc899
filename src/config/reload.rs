//! What a running daemon can take over from a configuration that was read again, and how two configurations differ.

use std::collections::BTreeMap;

use super::Config;
use crate::server::CertificateSource;

impl Config {
    /// This, with what can change under a running daemon as the other has it. All else is for the next start.
    pub fn with_reloadable_from(&self, new: &Config) -> Config {
        let mut taken = self.clone();
        taken.limits = new.limits.clone();
        taken.ban_file = new.ban_file.clone();
        taken.log_level = new.log_level.clone();
        taken.listen.certificate = match &new.listen.certificate {
            given @ CertificateSource::Configured { .. } => given.clone(),
            // Our own lies where our data does, and that doesn't move.
            CertificateSource::SelfSigned(_) => CertificateSource::SelfSigned(self.data_dir.clone()),
        };
        if self.book.network == new.book.network {
            taken.book.seeds = new.book.seeds.clone();
        }
        taken
    }

    /// The keys that have another value in the other one, as `discovery.seeds`.
    pub fn diff_keys(&self, other: &Config) -> Result<Vec<String>, toml::ser::Error> {
        let (mut ours, mut theirs) = (self.flatten()?, other.flatten()?);
        let mut keys: Vec<String> = ours.keys().chain(theirs.keys()).cloned().collect();
        keys.sort();
        keys.dedup();
        keys.retain(|key| ours.remove(key) != theirs.remove(key));
        Ok(keys)
    }

    /// Each key with its value.
    fn flatten(&self) -> Result<BTreeMap<String, toml::Value>, toml::ser::Error> {
        let mut flat = BTreeMap::new();
        flatten(&toml::Table::try_from(self.keys())?, "", &mut flat);
        // The key alone names a file, whose content counts as well.
        if let Some(arti) = flat.get_mut("tor.arti_config") {
            *arti = toml::Value::Array(vec![arti.clone(), self.tor.settings.arti.clone().into()]);
        }
        Ok(flat)
    }
}

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

    /// What is taken over, and what is left for the next start.
    fn reloaded(one: &str, other: &str) -> (Vec<String>, Vec<String>) {
        let (running, new) = (config(one), config(other));
        let taken = running.with_reloadable_from(&new);
        (running.diff_keys(&taken).unwrap(), taken.diff_keys(&new).unwrap())
    }

    #[test]
    fn what_is_written_otherwise_and_means_the_same_is_no_difference() {
        assert_eq!(differences("", ""), [""; 0]);
        let default =
            "[listen]\ntcp = [\"127.0.0.1:50001\"]\n[limits]\nidle_timeout = \"600s\"\n[log]\nlevel = \"info\"\n";
        assert_eq!(differences("", default), [""; 0]);
    }

    #[test]
    fn each_key_that_differs_is_named() {
        assert_eq!(differences("[tor]\nmode = \"off\"\n", "[tor]\nmode = \"socks\"\n"), ["tor.mode"]);
        let other = "[listen]\nws = [\"127.0.0.1:1\"]\n[identity]\nbanner = \"b\"\n[limits]\nmax_batch = 2\n";
        assert_eq!(differences("", other), ["identity.banner", "limits.max_batch", "listen.ws"]);
        assert_eq!(differences(other, ""), ["identity.banner", "limits.max_batch", "listen.ws"]);
        let named = "[identity]\nhost = \"a.example\"\ntcp_port = 1\n";
        assert_eq!(differences(named, &format!("{named}address = \"5.9.0.9\"\n")), ["identity.address"]);
    }

    #[test]
    fn a_secret_that_differs_is_named_though_it_is_never_shown() {
        let irc = |password: &str| format!("[irc]\nenabled = true\npassword = {password:?}\n");
        assert_eq!(differences(&irc("first"), &irc("swordfish")), ["irc.password"]);
        assert!(!toml::to_string(&config(&irc("swordfish")).to_section()).unwrap().contains("swordfish"));
    }

    #[test]
    fn what_a_running_daemon_can_take_over_it_takes() {
        let all = "[listen]\ncert = \"c\"\nkey = \"k\"\n[limits]\nmax_batch = 2\n[discovery]\nseeds = []\nban_file = \"b\"\n\
                   [log]\nlevel = \"debug\"\n";
        let keys =
            ["discovery.ban_file", "discovery.seeds", "limits.max_batch", "listen.cert", "listen.key", "log.level"];
        assert_eq!(reloaded("", all), (keys.map(str::to_owned).into(), Vec::new()));
        assert_eq!(reloaded(all, ""), (keys.map(str::to_owned).into(), Vec::new()), "and back");
        let (taken, left) = reloaded("", "[tor]\nmode = \"off\"\n[log]\nformat = \"json\"\nlevel = \"warn\"\n");
        assert_eq!((taken, left), (vec!["log.level".to_owned()], vec!["log.format".to_owned(), "tor.mode".to_owned()]));
    }

    #[test]
    fn seeds_of_another_chain_are_left_for_the_next_start() {
        let (taken, left) = reloaded("", "network = \"testnet4\"\n");
        assert_eq!(taken, [""; 0]);
        assert!(left.contains(&"network".to_owned()) && left.contains(&"discovery.seeds".to_owned()), "{left:?}");
    }

    #[test]
    fn our_own_certificate_stays_with_our_data() {
        let given = config("[listen]\ncert = \"c\"\nkey = \"k\"\n");
        let elsewhere = Config::resolve(ConfigFile { data_dir: Some("/e".into()), ..ConfigFile::default() }).unwrap();
        let taken = given.with_reloadable_from(&elsewhere);
        assert_eq!(taken.listen.certificate, CertificateSource::SelfSigned("/d".into()));
        assert_eq!(taken.diff_keys(&elsewhere).unwrap(), ["data_dir"]);
    }

    #[test]
    fn what_a_named_file_says_counts() {
        let mut one = config("");
        one.tor.arti = Some("arti.toml".into());
        let mut other = one.clone();
        assert_eq!(one.diff_keys(&other).unwrap(), [""; 0]);
        other.tor.settings.arti = "[bridges]\n".to_owned();
        assert_eq!(one.diff_keys(&other).unwrap(), ["tor.arti_config"]);
    }
}

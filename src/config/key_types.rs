//! Type and example of each key, for error messages and the reference.

use toml::de::{DeTable, DeValue};

use super::renamed_keys;

/// Keys whose values have the same type.
struct Form {
    /// Description of the type.
    kind: &'static str,
    /// Keys with an example each, in TOML.
    examples: &'static [(&'static str, &'static str)],
}

const FORMS: &[Form] = &[
    Form {
        kind: "a list of IP addresses with ports",
        examples: &[
            ("listen.tcp", "[\"127.0.0.1:50001\"]"),
            ("listen.tls", "[\"0.0.0.0:50002\"]"),
            ("listen.ws", "[\"0.0.0.0:50003\"]"),
            ("listen.wss", "[\"0.0.0.0:50004\"]"),
            ("listen.onion_tcp", "[\"127.0.0.1:50011\"]"),
            ("listen.onion_tls", "[\"127.0.0.1:50012\"]"),
            ("status.public", "[\"127.0.0.1:4281\"]"),
            ("status.public_onion", "[\"127.0.0.1:4282\"]"),
        ],
    },
    Form { kind: "IP:PORT, HOST:PORT or unix:PATH", examples: &[("tor.socks", "\"127.0.0.1:9050\"")] },
    Form { kind: "an IP address with a port, or off", examples: &[("status.listen", "\"127.0.0.1:4280\"")] },
    Form { kind: "a host with a port", examples: &[("irc.server", "\"irc.libera.chat:6697\"")] },
    Form {
        kind: "a list of servers with their ports",
        examples: &[
            ("discovery.seeds", "[\"electrum.example.org s50002 t50001\"]"),
            ("identity.other_names", "[\"b.example.org s50002 t50001\"]"),
        ],
    },
    Form {
        kind: "a list of IP addresses or networks",
        examples: &[("listen.trusted_proxies", "[\"10.0.0.1\"]"), ("limits.exempt", "[\"10.0.0.0/8\"]")],
    },
    Form { kind: "a list of paths", examples: &[("discovery.ban_lists", "[\"blacklist.json\"]")] },
    Form { kind: "a list of host names", examples: &[("status.allowed_hosts", "[\"waypost.example.org\"]")] },
    Form { kind: "a host name or IP address", examples: &[("identity.host", "\"electrum.example.org\"")] },
    Form { kind: "a list of IP addresses", examples: &[("identity.bind", "[\"93.184.215.14\"]")] },
    Form { kind: "an IP address", examples: &[("identity.address", "\"93.184.215.14\"")] },
    Form {
        kind: "an onion name",
        examples: &[("identity.onion_host", "\"explorerzydxu5ecjrkwceayqybizmpjjznk5izmitf2modhcusuqlid.onion\"")],
    },
    Form {
        kind: "tcp://HOST:PORT, tls://HOST:PORT, unix:PATH or peers",
        examples: &[("backend.electrum", "\"tcp://127.0.0.1:60001\"")],
    },
    Form {
        kind: "a port, from 1 to 65535",
        examples: &[
            ("listen.onion_tls_port", "50002"),
            ("chain.tcp_port", "50001"),
            ("chain.ssl_port", "50002"),
            ("identity.tcp_port", "50001"),
            ("identity.ssl_port", "50002"),
            ("identity.ws_port", "50003"),
            ("identity.wss_port", "50004"),
        ],
    },
    Form { kind: "a port or a list of ports", examples: &[("listen.onion_port", "50001")] },
    Form {
        kind: "a duration",
        examples: &[
            ("discovery.recheck_interval", "\"24h\""),
            ("discovery.max_age", "\"24h\""),
            ("discovery.expire_after", "\"14d\""),
            ("discovery.initial_retry", "\"5m\""),
            ("irc.interval", "\"6h\""),
            ("limits.handshake_timeout", "\"10s\""),
            ("limits.idle_timeout", "\"10m\""),
            ("limits.line_timeout", "\"30s\""),
        ],
    },
    Form {
        kind: "a whole number",
        examples: &[
            ("chain.min_tip", "961760"),
            ("listen.onion_introduction_points", "3"),
            ("discovery.fallback_onions", "3"),
            ("discovery.max_probes", "32"),
            ("discovery.max_tor_probes", "8"),
            ("backend.max_line_bytes", "5000000"),
            ("limits.max_sessions", "10000"),
            ("limits.sessions_per_source", "50"),
            ("limits.requests_per_second", "25"),
            ("limits.source_requests_per_second", "25"),
            ("limits.bytes_in_per_second", "65536"),
            ("limits.bytes_out_per_second", "1048576"),
            ("limits.forwarded_requests_per_second", "300"),
            ("limits.max_batch", "400"),
        ],
    },
    Form {
        kind: "true or false",
        examples: &[
            ("listen.onion", "true"),
            ("identity.announce", "true"),
            ("identity.link_identities", "false"),
            ("tor.only", "true"),
            ("tor.socks_exact_login", "true"),
            ("discovery.allow_private", "false"),
            ("backend.serve_public", "false"),
            ("irc.enabled", "true"),
            ("irc.tls", "true"),
            ("irc.tor", "true"),
            ("irc.persistent", "false"),
            ("irc.advertise", "false"),
            ("status.peer_metrics", "true"),
        ],
    },
    Form {
        kind: "a path in quotes",
        examples: &[
            ("data_dir", "\"/var/lib/waypost\""),
            ("listen.cert", "\"cert.pem\""),
            ("listen.key", "\"key.pem\""),
            ("listen.onion_clients", "\"authorized_clients\""),
            ("tor.arti_config", "\"arti.toml\""),
            ("tor.onion_auth_dir", "\"onion_auth\""),
            ("tor.socks_password_file", "\"/run/credentials/waypost.service/tor\""),
            ("discovery.ban_file", "\"bans\""),
            ("discovery.asmap", "\"asmap.dat\""),
        ],
    },
    Form {
        kind: "text in quotes",
        examples: &[
            ("network", "\"bitcoin\""),
            ("chain.genesis_hash", "\"000000000019d6...\""),
            ("chain.pin", "\"953567:00000000000000000001b3...\""),
            ("identity.banner", "\"Welcome\""),
            ("identity.donation_address", "\"bc1q...\""),
            ("tor.socks_user", "\"waypost\""),
            ("tor.socks_password", "\"...\""),
            ("discovery.ban_list_key", "\"RWQf6LRCGA9i53mlYecO4IzT51TGPpvWucNSCh1CBM0QTaLn73Y7GFO3\""),
            ("irc.channel", "\"#electrum\""),
            ("irc.nick_prefix", "\"E_\""),
            ("irc.key", "\"0123...\""),
            ("irc.password", "\"...\""),
            ("irc.sasl_user", "\"waypost\""),
            ("irc.sasl_password", "\"...\""),
            ("log.level", "\"info\""),
        ],
    },
    Form { kind: "exact, first80 or whole", examples: &[("chain.header", "\"first80\"")] },
    Form { kind: "none or sha256d", examples: &[("chain.work", "\"none\"")] },
    Form { kind: "auto, embedded, socks or off", examples: &[("tor.mode", "\"auto\"")] },
    Form { kind: "v2", examples: &[("backend.proxy_protocol", "\"v2\"")] },
    Form { kind: "text or json", examples: &[("log.format", "\"json\"")] },
];

/// Keys whose values never appear in messages.
const SECRETS: &[&str] =
    &["tor.socks_user", "tor.socks_password", "irc.password", "irc.sasl_user", "irc.sasl_password"];

/// Describes a TOML error in one line with the key and an example.
///
/// `write` formats the example. The message of `toml` itself would quote the line, which may contain a secret.
pub(super) fn describe(text: &str, error: &toml::de::Error, write: impl Fn(&str, &str) -> String) -> String {
    let message = error.message().lines().collect::<Vec<_>>().join(", ");
    let unknown = message.strip_prefix("unknown field `").and_then(|rest| rest.split('`').next());
    if let Some(advice) = unknown.and_then(|name| renamed_keys::advice(name, |key| line_of(text, key).is_some())) {
        return advice;
    }
    let Some(key) = error.span().and_then(|span| key_at(text, span.start)) else { return message };
    let Some((kind, example)) = form_of(&key) else {
        let has_keys =
            FORMS.iter().flat_map(|form| form.examples).any(|(name, _)| name.starts_with(&format!("{key}.")));
        return if has_keys {
            format!("{key}: expected a table, written [{key}]")
        } else {
            format!("{key}: {message}")
        };
    };
    let example = write(&key, example);
    // The expectation of serde is the name of a Rust type.
    let cause = message.split(", expected ").next().unwrap_or_default();
    if SECRETS.contains(&key.as_str()) || cause.starts_with("expected ") {
        format!("{key}: expected {kind}, for example {example}")
    } else {
        format!("{key}: {cause}; expected {kind}, for example {example}")
    }
}

/// Returns the type of a key's value and an example.
pub(super) fn form_of(key: &str) -> Option<(&'static str, &'static str)> {
    FORMS.iter().find_map(|form| {
        let (_, example) = form.examples.iter().find(|(name, _)| *name == key)?;
        Some((form.kind, *example))
    })
}

/// Writes an example as a line of a file, below the header of its table.
pub(super) fn as_line(key: &str, example: &str) -> String {
    let name = key.rsplit('.').next().unwrap_or(key);
    format!("{name} = {example}")
}

/// Returns the line on which a key's value begins.
pub(super) fn line_of(text: &str, key: &str) -> Option<usize> {
    let document = DeTable::parse(text).ok()?;
    let mut parts = key.split('.');
    let mut value = document.get_ref().get(parts.next()?)?;
    for part in parts {
        value = value.get_ref().as_table()?.get(part)?;
    }
    let before = text.get(..value.span().start)?;
    Some(before.matches('\n').count() + 1)
}

/// Finds the key whose value covers this byte of the text.
fn key_at(text: &str, offset: usize) -> Option<String> {
    let document = DeTable::parse(text).ok()?;
    key_in(document.get_ref(), "", offset)
}

fn key_in(table: &DeTable<'_>, prefix: &str, offset: usize) -> Option<String> {
    table.iter().find_map(|(name, value)| {
        let key = format!("{prefix}{}", name.get_ref());
        let inner = match value.get_ref() {
            DeValue::Table(inner) => key_in(inner, &format!("{key}."), offset),
            _ => None,
        };
        // The span of a table contains its keys, so an unknown key must not name the table.
        let is_value = !value.get_ref().is_table() || form_of(&key).is_some();
        inner.or_else(|| (is_value && value.span().contains(&offset)).then_some(key))
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::ConfigFile;

    fn parse(text: &str) -> Result<ConfigFile, String> {
        toml::from_str(text).map_err(|error| describe(text, &error, as_line))
    }

    /// Lists all keys, from the parser's errors about unknown ones.
    fn all_keys() -> Vec<String> {
        let names = |text: &str| -> Vec<String> {
            let error = parse(text).unwrap_err();
            let list = error.split(", expected ").nth(1).unwrap();
            list.split('`').skip(1).step_by(2).map(str::to_owned).collect()
        };
        let mut keys = Vec::new();
        for top in names("no_such_key = 1\n") {
            match top.as_str() {
                "network" | "data_dir" => keys.push(top),
                table => keys
                    .extend(names(&format!("[{table}]\nno_such_key = 1\n")).iter().map(|key| format!("{table}.{key}"))),
            }
        }
        assert!(keys.len() > 50, "{keys:?}");
        keys
    }

    #[test]
    fn every_key_has_an_example_that_is_accepted() {
        let mut described: Vec<&str> = FORMS.iter().flat_map(|form| form.examples).map(|(key, _)| *key).collect();
        let mut keys = all_keys();
        keys.sort();
        described.sort_unstable();
        assert_eq!(keys, described);
        for (key, example) in FORMS.iter().flat_map(|form| form.examples) {
            let text = format!("{key} = {example}\n");
            assert!(parse(&text).is_ok(), "{text}{:?}", parse(&text));
        }
    }

    #[test]
    fn value_of_the_wrong_type_names_key_and_example() {
        for (key, example) in FORMS.iter().flat_map(|form| form.examples) {
            for value in ["[[1]]", "-1.5", "1979-05-27", "{}"] {
                let line = as_line(key, example);
                for text in [format!("{key} = {value}\n"), format!("\n{key} = [\n  {value},\n  {value}\n]\n")] {
                    let Err(error) = parse(&text) else { panic!("{text} is accepted") };
                    assert!(error.starts_with(&format!("{key}: ")) && error.contains(&line), "{text}{error}");
                }
            }
        }
    }

    #[test]
    fn secrets_are_not_repeated() {
        for key in SECRETS {
            let error = parse(&format!("{key} = 13371337\n")).unwrap_err();
            assert!(!error.contains("1337"), "{error}");
        }
    }

    #[test]
    fn value_instead_of_a_table_names_the_table() {
        assert_eq!(parse("listen = 5\n").unwrap_err(), "listen: expected a table, written [listen]");
    }
}

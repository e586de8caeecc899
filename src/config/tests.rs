use super::*;
use crate::backend::BackendAccess;
use crate::chain::Chain;
use crate::route::RoutingPolicy;

fn load_text(text: &str, environment: &[(&str, &str)]) -> Result<Config, ConfigError> {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("waypost.toml");
    std::fs::write(&path, format!("data_dir = \"/d\"\n{text}")).unwrap();
    let environment = environment.iter().map(|(name, value)| (OsString::from(name), OsString::from(value)));
    load(Some(&path), environment, ConfigFile::default())
}

/// Returns the error without the path, which differs from run to run.
fn error(text: &str, environment: &[(&str, &str)]) -> String {
    let text = load_text(text, environment).unwrap_err().to_string();
    text.split_once("waypost.toml").map_or(text.clone(), |(_, rest)| rest.to_owned())
}

#[test]
fn configuration_without_file_has_defaults() {
    let flags = ConfigFile { data_dir: Some("/d".into()), ..ConfigFile::default() };
    let config = load(None, std::iter::empty(), flags).unwrap();
    assert_eq!(config.listen.addresses(ListenKind::Tcp), ["127.0.0.1:50001".parse().unwrap()]);
    assert_eq!(config.book.seeds.len(), 13);
    assert_eq!(config.tor.settings.socks.len(), 2);
}

#[test]
fn flags_override_environment_and_environment_overrides_file() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("waypost.toml");
    std::fs::write(&path, "network = \"signet\"\ndata_dir = \"/file\"\n[discovery]\nmax_probes = 5").unwrap();
    let environment = [("WAYPOST_NETWORK", "testnet4"), ("WAYPOST_DATA_DIR", "/environment"), ("PATH", "/bin")];
    let environment = environment.iter().map(|(name, value)| (OsString::from(name), OsString::from(value)));
    let flags = ConfigFile { network: Some(Chain::REGTEST.name.clone()), ..ConfigFile::default() };
    let config = load(Some(&path), environment, flags).unwrap();
    assert_eq!(config.book.chain, Chain::REGTEST);
    assert_eq!(config.data_dir, Path::new("/environment"));
    assert_eq!(config.book.max_probes, 5);
}

#[test]
fn environment_sets_any_key() {
    let environment = [
        ("WAYPOST_LISTEN__TCP", "[\"0.0.0.0:1\"]"),
        ("WAYPOST_TOR__MODE", "off"),
        ("WAYPOST_DISCOVERY__INITIAL_RETRY", "1m"),
        ("WAYPOST_DISCOVERY__ALLOW_PRIVATE", "true"),
    ];
    let config = load_text("", &environment).unwrap();
    assert_eq!(config.listen.addresses(ListenKind::Tcp), ["0.0.0.0:1".parse().unwrap()]);
    assert_eq!(config.tor.settings.mode, crate::tor::Mode::Off);
    assert_eq!(config.book.initial_retry.as_secs(), 60);
    assert!(config.book.allow_private);
}

#[test]
fn errors_name_file_line_and_key() {
    insta::assert_snapshot!("unknown_key", error("[discovery]\nrechek = \"1h\"\n", &[]));
    insta::assert_snapshot!("no_toml", error("[irc]\nsasl_password = swordfish\n[limits\n", &[]));
    insta::assert_snapshot!("no_duration", error("[discovery]\ninitial_retry = \"soon\"\n", &[]));
    insta::assert_snapshot!("no_such_mode", error("[tor]\nmode = \"on\"\n", &[]));
    insta::assert_snapshot!("seed_without_port", error("\n[discovery]\nseeds = [\"a.example\"]\n", &[]));
    insta::assert_snapshot!("name_without_port", error("[identity]\nhost = \"a.example\"\n", &[]));
    insta::assert_snapshot!("out_of_range", error("[discovery]\nmax_probes = 0\n", &[]));
    insta::assert_snapshot!("out_of_range_in_environment", error("", &[("WAYPOST_DISCOVERY__MAX_PROBES", "0")]));
    insta::assert_snapshot!("unknown_variable", error("", &[("WAYPOST_NETWROK", "bitcoin")]));
    insta::assert_snapshot!("no_log_level", error("[log]\nlevel = \"lou,d=er=\"\n", &[]));
}

#[test]
fn private_identity_address_is_rejected() {
    let name = |address: &str| format!("[identity]\nhost = \"a.example\"\ntcp_port = 1\naddress = \"{address}\"\n");
    for (address, kept) in [("5.9.0.9", "5.9.0.9"), ("2a01:4f8::1", "2a01:4f8::1"), ("::ffff:5.9.0.9", "5.9.0.9")] {
        let config = load_text(&name(address), &[]).unwrap();
        assert_eq!(config.identity.address, kept.parse().ok());
        assert_eq!(config.effective().identity.address, kept.parse().ok());
    }
    for private in ["127.0.1.1", "192.168.1.2", "fd00::1", "::ffff:10.0.0.1", "100.64.0.1"] {
        assert!(error(&name(private), &[]).contains(": identity.address: "), "{private}");
        let allowed = format!("{}[discovery]\nallow_private = true\n", name(private));
        assert!(load_text(&allowed, &[]).is_ok(), "{private}");
        assert!(load_text(&allowed.replace(private, "0.0.0.0"), &[]).is_err());
    }
    insta::assert_snapshot!("address_not_public", error(&name("192.168.1.2"), &[]));
    insta::assert_snapshot!("address_without_name", error("[identity]\naddress = \"5.9.0.9\"\n", &[]));
    let literal = name("5.9.0.9").replace("a.example", "5.9.0.9");
    insta::assert_snapshot!("address_with_a_literal_host", error(&literal, &[]));
}

#[test]
fn printed_configuration_reads_back_equal() {
    let text = "network = \"regtest\"\n[identity]\nhost = \"wp.example.com\"\ntcp_port = 1\naddress = \"5.9.0.9\"\n[tor]\nsocks = \"127.0.0.1:7\"";
    let config = load_text(text, &[]).unwrap();
    let printed = toml::to_string(config.effective()).unwrap();
    let read_back = Config::resolve(toml::from_str(&printed).unwrap()).unwrap();
    assert_eq!(read_back.effective(), config.effective());
}

#[test]
fn contradicting_tor_keys_are_rejected() {
    let onion = "explorerzydxu5ecjrkwceayqybizmpjjznk5izmitf2modhcusuqlid.onion";
    let external = format!("[identity]\nonion_host = \"{onion}\"\n[listen]\nonion_tcp = [\"127.0.0.1:50011\"]\n");
    let config = load_text(&external, &[]).unwrap();
    assert_eq!(config.tor.settings.mode, crate::tor::Mode::Socks);
    assert!(config.tor.settings.service.is_none());
    assert_eq!(config.book.local_hosts[0].to_string(), onion);
    let config = load_text("[tor]\nonly = true\n", &[]).unwrap();
    assert_eq!(config.book.routing, RoutingPolicy::TorOnly);
    assert_eq!(config.listen.addresses(ListenKind::Tcp), ["127.0.0.1:50001".parse().unwrap()]);
    insta::assert_snapshot!("only_and_off", error("[tor]\nmode = \"off\"\nonly = true\n", &[]));
    insta::assert_snapshot!(
        "onion_host_without_listener",
        error(&format!("[identity]\nonion_host = \"{onion}\"\n"), &[])
    );
    insta::assert_snapshot!("onion_host_is_clearnet_name", error("[identity]\nonion_host = \"a.example\"\n", &[]));
    let both = format!("{external}onion = true\n");
    insta::assert_snapshot!("two_onion_services", error(&both, &[]));
    insta::assert_snapshot!("onion_without_embedded", error("[listen]\nonion = true\n[tor]\nmode = \"socks\"\n", &[]));
}

#[test]
fn unusable_further_name_is_rejected() {
    let named = |names: &str, rest: &str| {
        format!("[identity]\nhost = \"a.example\"\ntcp_port = 1\nother_names = {names}\n{rest}")
    };
    let config = load_text(&named(r#"["b.example t50001 s50002", "5.9.0.9 s443"]"#, ""), &[]).unwrap();
    let hosts: Vec<String> = config.book.local_hosts.iter().map(ToString::to_string).collect();
    assert_eq!(hosts, ["a.example", "b.example", "5.9.0.9"]);
    for (names, rest, reason) in [
        (r#"["b.example"]"#, "", "no port is named"),
        (r#"["b.example s"]"#, "", "is not a port"),
        (r#"["b.example s50002 x"]"#, "", "is not a port"),
        (r#"["a.example s2"]"#, "", "named twice"),
        (r#"["b.example s2", "b.example t1"]"#, "", "named twice"),
        (r#"["explorerzydxu5ecjrkwceayqybizmpjjznk5izmitf2modhcusuqlid.onion t1"]"#, "", "identity.onion_host"),
        (r#"["b.example s2", "c.example s2", "d.example s2", "e.example s2"]"#, "", "at most 3"),
        (r#"["b.example s2", "c.example s2", "d.example s2"]"#, "link_identities = true\n", "at most 2"),
        (r#"["b.example t5"]"#, "[backend]\nelectrum = \"tcp://b.example:5\"\n", "identity.other_names"),
    ] {
        let error = error(&named(names, rest), &[]);
        assert!(error.contains(reason), "{names}: {error}");
    }
    assert!(error("[identity]\nother_names = [\"b.example t1\"]\n", &[]).contains("needs identity.host"));
}

#[test]
fn impossible_address_of_announcements_is_rejected() {
    let named = "[identity]\nhost = \"a.example\"\ntcp_port = 1\nbind = ";
    let config = load_text(&format!("{named}[\"::ffff:127.0.0.1\", \"192.0.2.7\"]\n"), &[]).unwrap();
    assert_eq!(config.announce_from, ["127.0.0.1".parse::<std::net::IpAddr>().unwrap(), "192.0.2.7".parse().unwrap()]);
    let absent = config.check_bind().unwrap_err().to_string();
    assert!(absent.starts_with("identity.bind: 192.0.2.7 ") && absent.contains("`ip address`"), "{absent}");
    assert_eq!(load_text(&format!("{named}[]\n"), &[]).unwrap().check_bind(), Ok(()));
    for (text, reason) in [
        ("[identity]\nbind = [\"127.0.0.1\"]\n".to_owned(), "needs identity.host"),
        (format!("{named}[\"0.0.0.0\"]\n"), "expected addresses of this machine"),
        (format!("{named}[\"127.0.0.1\"]\n[tor]\nonly = true\n"), "tor.only"),
    ] {
        let error = error(&text, &[]);
        assert!(error.contains("identity.bind: ") && error.contains(reason), "{error}");
    }
}

#[test]
fn unusable_backend_is_rejected() {
    let config = load_text("[backend]\nelectrum = \"peers\"\n", &[]).unwrap();
    assert!(config.book.peers_as_backend && !config.book.announce);
    let access =
        |text: &str, kind, address: &str| load_text(text, &[]).unwrap().backend.access(kind, address.parse().unwrap());
    let peers = "[backend]\nelectrum = \"peers\"\n";
    assert_eq!(access(peers, ListenKind::Tcp, "127.0.0.1:50001"), BackendAccess::All);
    assert_eq!(access(peers, ListenKind::Onion, "10.0.0.1:50001"), BackendAccess::All);
    assert_eq!(access(peers, ListenKind::Tls, "0.0.0.0:50002"), BackendAccess::None);
    assert_eq!(access(&format!("{peers}serve_public = true\n"), ListenKind::Tls, "0.0.0.0:50002"), BackendAccess::All);
    let both = "[backend]\nelectrum = [\"tcp://127.0.0.1:60001\", \"peers\"]\n";
    assert_eq!(access(both, ListenKind::Tls, "0.0.0.0:50002"), BackendAccess::Servers);
    assert_eq!(access(both, ListenKind::Onion, "10.0.0.1:50001"), BackendAccess::All);
    assert!(load_text(both, &[]).unwrap().book.announce);
    assert_eq!(access("", ListenKind::Tcp, "127.0.0.1:50001"), BackendAccess::None);
    let announced = "[backend]\nelectrum = \"peers\"\n[identity]\nannounce = true\n";
    insta::assert_snapshot!("peers_announced", error(announced, &[]));
    insta::assert_snapshot!("no_backend", error("[backend]\nelectrum = \"127.0.0.1:50001\"\n", &[]));
    insta::assert_snapshot!(
        "remote_backend_with_tor_only",
        error("[tor]\nonly = true\n[backend]\nelectrum = \"tcp://electrs.example:50001\"\n", &[])
    );
}

#[test]
fn irc_section_has_defaults_and_limits() {
    assert!(load_text("", &[]).unwrap().irc.is_none());
    let irc = load_text("[irc]\nenabled = true\n", &[]).unwrap().irc.unwrap();
    assert_eq!((irc.server.to_string().as_str(), irc.tls, irc.tor), ("irc.libera.chat:6697", true, false));
    assert_eq!((irc.visit.channel.as_str(), irc.visit.nick_prefix.as_str()), ("#electrum", "E_"));
    let irc = load_text("network = \"testnet4\"\n[tor]\nonly = true\n[irc]\nenabled = true\n", &[]).unwrap().irc;
    assert!(irc.as_ref().is_some_and(|irc| irc.tor && irc.visit.nick_prefix == "ET_"));
    let irc_error = |more: &str| error(&format!("[irc]\nenabled = true\n{more}"), &[]);
    insta::assert_snapshot!("irc_too_often", irc_error("interval = \"1m\"\n"));
    insta::assert_snapshot!("irc_too_rarely", irc_error("interval = \"1000000000y\"\n"));
    insta::assert_snapshot!("irc_without_tls_through_exit", irc_error("tls = false\ntor = true\n"));
    insta::assert_snapshot!("irc_password_without_tls", irc_error("tls = false\npassword = \"x\"\n"));
    insta::assert_snapshot!("irc_no_channel", irc_error("channel = \"electrum\"\n"));
    insta::assert_snapshot!("irc_advertise_without_host", irc_error("persistent = true\nadvertise = true\n"));
    let host = "a-name-that-is-rather-long.electrum.example.org";
    let long = format!("persistent = true\nadvertise = true\n[identity]\nhost = \"{host}\"\ntcp_port = 50001\n");
    insta::assert_snapshot!("irc_name_too_long", irc_error(&long));
}

#[cfg(feature = "embedded-tor")]
#[test]
fn arti_config_is_read_and_checked() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("waypost.toml");
    std::fs::write(&path, "data_dir = \"/d\"\n[tor]\narti_config = \"arti.toml\"\n").unwrap();
    let load = || load(Some(&path), std::iter::empty(), ConfigFile::default());
    let reason = load().unwrap_err().to_string();
    assert!(
        reason.contains("tor.arti_config") && reason.contains("arti.toml") && reason.contains("line 3"),
        "{reason}"
    );
    std::fs::write(dir.path().join("arti.toml"), "[bridges]\nenabeld = true\n").unwrap();
    let reason = load().unwrap_err().to_string();
    assert!(reason.contains("unknown Arti settings") && reason.contains("bridges.enabeld"), "{reason}");
    std::fs::write(dir.path().join("arti.toml"), "[bridges]\nenabled = \"auto\"\n").unwrap();
    assert!(load().unwrap().tor.settings.arti.contains("auto"));
}

#[test]
fn error_in_flag_names_the_flag() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("waypost.toml");
    std::fs::write(&path, "data_dir = \"/d\"\n[log]\nlevel = \"info\"\n").unwrap();
    let flags = |level: &str| {
        let log = LogSection { level: Some(level.to_owned()), ..LogSection::default() };
        load(Some(&path), std::iter::empty(), ConfigFile { log, ..ConfigFile::default() })
    };
    assert!(flags("warn").is_ok());
    let error = flags("warning").unwrap_err().to_string();
    assert!(error.starts_with("--log: log.level: \"warning\" is not a level"), "{error}");
}

#[test]
fn kubernetes_variables_are_ignored_and_reported() {
    let environment = [
        ("WAYPOST_SERVICE_HOST", "10.0.0.7"),
        ("WAYPOST_PORT", "tcp://10.0.0.7:50001"),
        ("WAYPOST_LISTEN__ONION_PORT", "50007"),
    ];
    let config = load_text("", &environment).unwrap();
    assert_eq!(config.ignored_variables, ["WAYPOST_SERVICE_HOST", "WAYPOST_PORT"]);
    assert_eq!(config.effective().listen.onion_port.as_ref().map(|ports| ports.first().get()), Some(50007));
    for (name, value) in [("WAYPOST_NETWROK", "bitcoin"), ("WAYPOST_IDENTITY_TCP_PORT", "50001")] {
        let error = load_text("", &[(name, value)]).unwrap_err().to_string();
        assert!(error.contains(name), "{error}");
    }
}

#[test]
fn value_of_wrong_type_names_key_and_example() {
    insta::assert_snapshot!("address_for_a_list", error("[listen]\ntcp = \"127.0.0.1:50001\"\n", &[]));
    insta::assert_snapshot!("address_without_port", error("[listen]\ntcp = [\n  \"127.0.0.1\",\n]\n", &[]));
    insta::assert_snapshot!("name_for_an_address", error("[tor]\nsocks = \"localhost\"\n", &[]));
    insta::assert_snapshot!("text_for_a_list", error("discovery.seeds = \"x\"\n", &[]));
    insta::assert_snapshot!("no_network", error("network = \"no-such-coin\"\n", &[]));
    insta::assert_snapshot!("no_port", error("[identity]\ntcp_port = 70000\n", &[]));
    insta::assert_snapshot!("address_in_environment", error("", &[("WAYPOST_LISTEN__TCP", "127.0.0.1:50001")]));
    insta::assert_snapshot!("socks_in_environment", error("", &[("WAYPOST_TOR__SOCKS", "localhost")]));
    insta::assert_snapshot!("number_in_environment", error("", &[("WAYPOST_LIMITS__MAX_BATCH", "many")]));
    insta::assert_snapshot!("table_in_environment", error("", &[("WAYPOST_LISTEN", "{ tcp = 5 }")]));
}

#[test]
fn backend_at_a_listener_is_rejected() {
    let listen = "[listen]\ntcp = [\"0.0.0.0:50001\"]\ntls = [\"[::]:50002\"]\nonion_tcp = [\"127.0.0.1:50011\"]\n\
                  [identity]\nhost = \"wp.example.com\"\ntcp_port = 50001\n";
    let load = |electrum: &str| load_text(&format!("{listen}[backend]\nelectrum = {electrum:?}\n"), &[]);
    for own in [
        "tcp://127.0.0.1:50001",
        "tcp://127.8.9.10:50001",
        "tcp://0.0.0.0:50001",
        "tls://[::1]:50002",
        "tcp://localhost:50001",
        "tls://localhost:50002",
        "tcp://127.0.0.1:50011",
        "tcp://wp.example.com:50001",
        "tcp://127.0.0.1:4280",
        "unix:/d/control.sock",
    ] {
        let error = load(own).unwrap_err().to_string();
        assert!(error.contains("backend.electrum: ") && error.contains("is Waypost itself"), "{own}: {error}");
    }
    for other in [
        "tcp://127.0.0.1:60001",
        "tcp://192.0.2.7:50001",
        "tls://127.0.0.1:50002",
        "tcp://127.0.0.2:50011",
        "tcp://wp.example.com:60001",
        "tcp://electrs.example.com:50001",
        "unix:/d/electrs.sock",
        "peers",
    ] {
        assert!(load(other).is_ok(), "{other}: {:?}", load(other).err());
    }
    insta::assert_snapshot!("backend_is_listener", error("[backend]\nelectrum = \"tcp://localhost:50001\"\n", &[]));
}

#[test]
fn unusable_file_is_named_with_its_key() {
    let dir = tempfile::tempdir().unwrap();
    let path = |name: &str| dir.path().join(name);
    let check = |text: &str| {
        let raw: ConfigFile = toml::from_str(&format!("data_dir = {:?}\n{text}", dir.path())).unwrap();
        Config::resolve(raw).unwrap().check_files().map_err(|error| error.to_string())
    };
    let tls = "[listen]\ntls = [\"127.0.0.1:50002\"]\n";
    assert_eq!(check(tls), Ok(()), "files that Waypost creates may be missing");
    assert!(!path("tls-cert.pem").exists(), "a check creates no file");
    let given = format!("[listen]\ncert = {:?}\nkey = {:?}\n", path("cert.pem"), path("key.pem"));
    let error = check(&given).unwrap_err();
    assert!(error.starts_with("listen.cert: ") && error.contains("cert.pem"), "{error}");
    crate::server::CertificateSource::SelfSigned(dir.path().to_owned()).load().unwrap();
    std::fs::copy(path("tls-cert.pem"), path("cert.pem")).unwrap();
    let error = check(&given).unwrap_err();
    assert!(error.starts_with("listen.key: ") && error.contains("key.pem"), "{error}");
    std::fs::copy(path("tls-key.pem"), path("key.pem")).unwrap();
    assert_eq!(check(&given), Ok(()));
    std::fs::remove_file(path("tls-cert.pem")).unwrap();
    crate::server::CertificateSource::SelfSigned(dir.path().to_owned()).load().unwrap();
    std::fs::copy(path("tls-key.pem"), path("key.pem")).unwrap();
    let error = check(&given).unwrap_err();
    assert!(error.starts_with("listen.key: ") && error.contains("isn't that of"), "{error}");
    std::fs::write(path("bans"), "a b\n").unwrap();
    let error = check("").unwrap_err();
    assert!(error.starts_with("discovery.ban_file: ") && error.contains("/bans: line 1"), "{error}");
    let error = check("[discovery]\nban_file = \"/nowhere/bans\"\n").unwrap_err();
    assert!(error.starts_with("discovery.ban_file: /nowhere/bans: "), "{error}");
    std::fs::write(path("bans"), "[\"a b\"]").unwrap();
    assert_eq!(check(""), Ok(()), "invalid entries of a JSON list are skipped");
    let error = check("[discovery]\nban_lists = [\"/nowhere/list\"]\n").unwrap_err();
    assert!(error.starts_with("discovery.ban_lists: /nowhere/list: "), "{error}");
}

#[test]
fn ban_list_named_twice_is_rejected() {
    let resolve = |keys: &str| {
        let raw: ConfigFile = toml::from_str(&format!("data_dir = \"/d\"\n[discovery]\n{keys}")).unwrap();
        Config::resolve(raw).map(|config| config.ban_files().len()).map_err(|error| error.to_string())
    };
    assert_eq!(resolve("ban_file = \"/a\"\nban_lists = [\"/b\", \"/d/bans\"]\n"), Ok(3));
    for keys in
        ["ban_lists = [\"/b\", \"/b\"]\n", "ban_lists = [\"/d/bans\"]\n", "ban_file = \"/a\"\nban_lists = [\"/a\"]\n"]
    {
        let error = resolve(keys).unwrap_err();
        assert!(error.starts_with("discovery.ban_lists: /") && error.contains("named twice"), "{error}");
    }
    let error = resolve("ban_list_key = \"RWQ\"\n").unwrap_err();
    assert!(error.starts_with("discovery.ban_list_key: not a public key of minisign"), "{error}");
}

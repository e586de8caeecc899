use super::*;
use crate::jsonrpc::{USER_AGENT, software_in_front_of};

fn ips(texts: &[&str]) -> Vec<IpAddr> {
    texts.iter().map(|text| text.parse().unwrap()).collect()
}

fn lookup(configured: Option<&str>, local: &[&str], exits: &[&[&str]]) -> Lookup {
    let configured = configured.map(|text| text.parse().unwrap());
    Lookup { configured, is_primary: true, local: ips(local), exits: exits.iter().map(|found| ips(found)).collect() }
}

fn situation(tor: TorAvailability) -> Situation {
    Situation { tor, has_direct: true, allows_private: false }
}

fn check(via: Route, outcomes: [Result<Option<&str>, ProbeError>; 2]) -> PathCheck {
    let [tls, tcp] = outcomes.map(|outcome| {
        let ip = Some("5.9.0.9".parse().unwrap());
        outcome.map(|software| VerifiedEndpoint { ip, software: software.map(str::to_owned), web_sockets: Vec::new() })
    });
    let port = |transport, number, outcome| PortResult { transport, port: Port::new(number).unwrap(), outcome };
    let ports = vec![port(Transport::Tls, 50002, tls), port(Transport::Tcp, 50001, tcp)];
    let addresses = ips(&["5.9.0.9"]);
    PathCheck { ports, addresses, refusal: None, ..PathCheck::refused(via, String::new()) }
}

#[test]
fn paths_depend_on_tor_and_direct_access() {
    assert_eq!(situation(TorAvailability::Ready).paths(), [Route::Tor]);
    assert_eq!(situation(TorAvailability::Unproven).paths(), [Route::Direct, Route::Tor]);
    assert_eq!(situation(TorAvailability::Absent).paths(), [Route::Direct]);
    let private = Situation { allows_private: true, ..situation(TorAvailability::Ready) };
    assert_eq!(private.paths(), [Route::Direct, Route::Tor]);
    let only_tor = |tor| Situation { has_direct: false, ..situation(tor) };
    assert_eq!(only_tor(TorAvailability::Ready).paths(), [Route::Tor]);
    assert_eq!(only_tor(TorAvailability::Unproven).paths(), [Route::Tor]);
    assert_eq!(only_tor(TorAvailability::Absent).paths(), []);
    assert_eq!(conclude(only_tor(TorAvailability::Absent), &Lookup::default(), &[]), Conclusion::Pending);
}

#[test]
fn only_reached_web_sockets_are_advertised() {
    let endpoint = |transport, number| (transport, Port::new(number).unwrap());
    let mut check = check(Route::Tor, [Ok(None), Err(ProbeError::Closed)]);
    check.web_sockets = vec![endpoint(Transport::Tls, 50004), endpoint(Transport::Tcp, 50003)];
    if let Ok(reached) = &mut check.ports[0].outcome {
        reached.web_sockets = vec![endpoint(Transport::Tls, 50004)];
    }
    let Conclusion::Reached { ports, warnings, .. } =
        conclude(situation(TorAvailability::Ready), &Lookup::default(), &[check])
    else {
        panic!("not reached");
    };
    assert_eq!((ports.wss().map(Port::get), ports.ws(), ports.tcp()), (Some(50004), None, None));
    assert_eq!(warnings[0], "port 50003 of the WebSocket is not advertised: it was not reached there");
}

#[test]
fn private_address_is_not_dialled() {
    for private in ["127.0.1.1", "127.0.0.1", "192.168.1.5", "10.0.0.1", "::1", "fd00::1", "169.254.0.1"] {
        let reason = lookup(None, &[private], &[]).dial_addresses(Route::Direct, false).unwrap_err();
        assert!(reason.contains(private) && reason.contains("identity.address"), "{reason}");
        assert!(lookup(None, &[], &[&[private], &[private]]).dial_addresses(Route::Tor, false).is_err(), "{private}");
        assert!(lookup(Some(private), &[], &[]).dial_addresses(Route::Direct, false).is_err(), "{private}");
        let allowed = lookup(None, &[private], &[]).dial_addresses(Route::Direct, true).unwrap();
        assert_eq!((allowed.addresses, allowed.warnings), (ips(&[private]), Vec::new()));
    }
    let mixed = lookup(None, &["10.0.0.1", "5.9.0.9"], &[]).dial_addresses(Route::Direct, false).unwrap();
    assert_eq!(mixed.addresses, ips(&["5.9.0.9"]));
    assert!(mixed.warnings[0].contains("also resolves to 10.0.0.1"), "{:?}", mixed.warnings);
}

#[test]
fn address_from_single_exit_is_not_dialled() {
    let single = lookup(None, &["127.0.1.1"], &[&["6.6.6.6"]]);
    assert!(!single.is_settled() && single.dial_addresses(Route::Tor, false).is_err());
    let differing = lookup(None, &[], &[&["6.6.6.6"], &["5.9.0.9"]]);
    assert!(differing.dial_addresses(Route::Tor, false).unwrap_err().contains("6.6.6.6 and 5.9.0.9"));
    let majority = lookup(None, &[], &[&["6.6.6.6"], &["5.9.0.9"], &["5.9.0.9"]]);
    assert_eq!(majority.dial_addresses(Route::Tor, false).unwrap().addresses, ips(&["5.9.0.9"]));
    // The resolver of this machine counts as a source.
    let confirmed = lookup(None, &["5.9.0.9"], &[&["5.9.0.9"]]);
    assert!(confirmed.is_settled());
}

#[test]
fn configured_address_replaces_lookup_and_mismatch_is_a_warning() {
    let split = lookup(Some("5.9.0.9"), &["192.168.1.5"], &[&["5.9.0.9"], &["5.9.0.9"]]);
    for via in Route::ALL {
        let found = split.dial_addresses(via, false).unwrap();
        assert_eq!((found.addresses, found.warnings), (ips(&["5.9.0.9"]), Vec::new()));
    }
    let other = lookup(Some("5.9.0.9"), &[], &[&["5.9.0.8"], &["5.9.0.8"]]).dial_addresses(Route::Tor, false).unwrap();
    assert_eq!(other.addresses, ips(&["5.9.0.9"]));
    assert!(other.warnings[0].contains("resolves to 5.9.0.8 through Tor"), "{:?}", other.warnings);
    // An unconfirmed answer of one exit causes no warning.
    let unconfirmed = lookup(Some("5.9.0.9"), &[], &[&["6.6.6.6"]]).dial_addresses(Route::Tor, false).unwrap();
    assert_eq!(unconfirmed.warnings, Vec::<String>::new());
}

#[test]
fn failed_port_is_not_advertised() {
    let tls_only = check(Route::Tor, [Ok(Some(USER_AGENT)), Err(ProbeError::Refused)]);
    let Conclusion::Reached { via, ip, ports, warnings } =
        conclude(situation(TorAvailability::Ready), &Lookup::default(), &[tls_only])
    else {
        panic!("not reached");
    };
    assert_eq!((via, ip, ports), (Route::Tor, ips(&["5.9.0.9"]).pop(), Ports::new(None, Port::new(50002)).unwrap()));
    assert!(warnings.len() == 1 && warnings[0].contains("TCP port 50001"), "{warnings:?}");
    let in_front = software_in_front_of("ElectrumX 1.16");
    let own = check(Route::Direct, [Ok(Some(USER_AGENT)), Ok(Some(&in_front))]);
    let Conclusion::Reached { warnings, .. } =
        conclude(situation(TorAvailability::Disabled), &Lookup::default(), &[own])
    else {
        panic!("not reached");
    };
    assert_eq!(warnings, Vec::<String>::new(), "Waypost answers, with or without a backend");
    let other = check(Route::Direct, [Ok(Some("ElectrumX 1.16")), Ok(None)]);
    let Conclusion::Reached { warnings, .. } =
        conclude(situation(TorAvailability::Disabled), &Lookup::default(), &[other])
    else {
        panic!("not reached");
    };
    assert!(warnings.len() == 1 && warnings[0].contains("answered by ElectrumX"), "{warnings:?}");
}

#[test]
fn failure_names_path_and_advice() {
    let failing = |via| check(via, [Err(ProbeError::Unreachable), Err(ProbeError::Refused)]);
    let unreached =
        |tor, configured, checks: &[PathCheck]| match conclude(situation(tor), &lookup(configured, &[], &[]), checks) {
            Conclusion::Unreached { reason, via } => (reason, via),
            other => panic!("{other:?}"),
        };
    let (reason, via) = unreached(TorAvailability::Ready, None, &[failing(Route::Tor)]);
    assert!(
        via == Route::Tor && reason.contains("through Tor, at 5.9.0.9, TLS port 50002") && reason.contains("firewall")
    );
    let (reason, via) = unreached(TorAvailability::Disabled, None, &[failing(Route::Direct)]);
    assert!(via == Route::Direct && reason.contains("hairpin NAT") && reason.contains("with Tor"), "{reason}");
    // A configured address is assumed to work only if Tor is disabled.
    assert_eq!(unreached(TorAvailability::Absent, Some("5.9.0.9"), &[failing(Route::Direct)]).1, Route::Direct);
    let assumed =
        conclude(situation(TorAvailability::Disabled), &lookup(Some("5.9.0.9"), &[], &[]), &[failing(Route::Direct)]);
    assert!(matches!(assumed, Conclusion::Assumed { ip, .. } if ip == ips(&["5.9.0.9"])[0]), "{assumed:?}");
    // An endpoint that closed the connection was reached, so the address is wrong.
    let wrong = check(Route::Direct, [Err(ProbeError::Closed), Err(ProbeError::Refused)]);
    assert_eq!(unreached(TorAvailability::Disabled, Some("5.9.0.9"), &[wrong]).1, Route::Direct);
}

#[test]
fn failure_of_tor_is_inconclusive() {
    assert!(check(Route::Tor, [Err(ProbeError::TorUnavailable), Err(ProbeError::TorUnavailable)]).is_inconclusive());
    assert!(!check(Route::Tor, [Ok(None), Err(ProbeError::TorUnavailable)]).is_inconclusive());
    assert!(PathCheck::unresolved(Route::Tor, ProbeError::TorUnavailable).is_inconclusive());
    assert!(!PathCheck::unresolved(Route::Tor, ProbeError::NameNotFound).is_inconclusive());
    assert!(!check(Route::Tor, [Err(ProbeError::Refused), Err(ProbeError::Refused)]).is_inconclusive());
}

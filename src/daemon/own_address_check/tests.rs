use super::*;

fn ips(texts: &[&str]) -> Vec<IpAddr> {
    texts.iter().map(|text| text.parse().unwrap()).collect()
}

fn lookup(configured: Option<&str>, local: &[&str], exits: &[&[&str]]) -> Lookup {
    let configured = configured.map(|text| text.parse().unwrap());
    Lookup { configured, local: ips(local), exits: exits.iter().map(|found| ips(found)).collect() }
}

fn situation(tor: TorAvailability) -> Situation {
    Situation { tor, has_direct: true, allows_private: false }
}

fn check(via: Route, outcomes: [Result<Option<&str>, ProbeError>; 2]) -> PathCheck {
    let [tls, tcp] = outcomes.map(|outcome| {
        let ip = Some("5.9.0.9".parse().unwrap());
        outcome.map(|software| VerifiedEndpoint { ip, software: software.map(str::to_owned) })
    });
    let port = |transport, number, outcome| PortResult { transport, port: Port::new(number).unwrap(), outcome };
    let ports = vec![port(Transport::Tls, 50002, tls), port(Transport::Tcp, 50001, tcp)];
    let addresses = ips(&["5.9.0.9"]);
    PathCheck { via, refusal: None, unresolved: None, addresses, ports, warnings: Vec::new() }
}

#[test]
fn ready_tor_alone_decides_and_nothing_else_is_tried() {
    assert_eq!(situation(TorAvailability::Ready).paths(), [Route::Tor]);
    assert_eq!(situation(TorAvailability::Unproven).paths(), [Route::Direct, Route::Tor]);
    assert_eq!(situation(TorAvailability::Absent).paths(), [Route::Direct]);
    // Private addresses can't be reached through Tor.
    let private = Situation { allows_private: true, ..situation(TorAvailability::Ready) };
    assert_eq!(private.paths(), [Route::Direct, Route::Tor]);
    let only_tor = |tor| Situation { has_direct: false, ..situation(tor) };
    assert_eq!(only_tor(TorAvailability::Ready).paths(), [Route::Tor]);
    assert_eq!(only_tor(TorAvailability::Unproven).paths(), [Route::Tor]);
    assert_eq!(only_tor(TorAvailability::Absent).paths(), []);
    assert_eq!(conclude(only_tor(TorAvailability::Absent), &Lookup::default(), &[]), Conclusion::Pending);
}

#[test]
fn addresses_that_are_not_public_are_never_dialled() {
    for private in ["127.0.1.1", "127.0.0.1", "192.168.1.5", "10.0.0.1", "::1", "fd00::1", "169.254.0.1"] {
        let reason = lookup(None, &[private], &[]).candidates(Route::Direct, false).unwrap_err();
        assert!(reason.contains(private) && reason.contains("identity.address"), "{reason}");
        assert!(lookup(None, &[], &[&[private], &[private]]).candidates(Route::Tor, false).is_err(), "{private}");
        assert!(lookup(Some(private), &[], &[]).candidates(Route::Direct, false).is_err(), "{private}");
        let allowed = lookup(None, &[private], &[]).candidates(Route::Direct, true).unwrap();
        assert_eq!((allowed.addresses, allowed.warnings), (ips(&[private]), Vec::new()));
    }
    let mixed = lookup(None, &["10.0.0.1", "5.9.0.9"], &[]).candidates(Route::Direct, false).unwrap();
    assert_eq!(mixed.addresses, ips(&["5.9.0.9"]));
    assert!(mixed.warnings[0].contains("also means 10.0.0.1"), "{:?}", mixed.warnings);
}

#[test]
fn a_single_exit_names_no_address() {
    let alone = lookup(None, &["127.0.1.1"], &[&["6.6.6.6"]]);
    assert!(!alone.is_settled() && alone.candidates(Route::Tor, false).is_err());
    let disagree = lookup(None, &[], &[&["6.6.6.6"], &["5.9.0.9"]]);
    assert!(disagree.candidates(Route::Tor, false).unwrap_err().contains("6.6.6.6 and 5.9.0.9"));
    let outvoted = lookup(None, &[], &[&["6.6.6.6"], &["5.9.0.9"], &["5.9.0.9"]]);
    assert_eq!(outvoted.candidates(Route::Tor, false).unwrap().addresses, ips(&["5.9.0.9"]));
    // The resolver of this machine is another witness.
    let agrees = lookup(None, &["5.9.0.9"], &[&["5.9.0.9"]]);
    assert!(agrees.is_settled());
}

#[test]
fn a_configured_address_replaces_the_look_up_and_a_mismatch_is_shown() {
    let split = lookup(Some("5.9.0.9"), &["192.168.1.5"], &[&["5.9.0.9"], &["5.9.0.9"]]);
    for via in Route::ALL {
        let found = split.candidates(via, false).unwrap();
        assert_eq!((found.addresses, found.warnings), (ips(&["5.9.0.9"]), Vec::new()));
    }
    let other = lookup(Some("5.9.0.9"), &[], &[&["5.9.0.8"], &["5.9.0.8"]]).candidates(Route::Tor, false).unwrap();
    assert_eq!(other.addresses, ips(&["5.9.0.9"]));
    assert!(other.warnings[0].contains("means 5.9.0.8 through Tor"), "{:?}", other.warnings);
    // The word of one exit is no reason to warn.
    let liar = lookup(Some("5.9.0.9"), &[], &[&["6.6.6.6"]]).candidates(Route::Tor, false).unwrap();
    assert_eq!(liar.warnings, Vec::<String>::new());
}

#[test]
fn only_ports_that_answer_are_advertised() {
    let one = check(Route::Tor, [Ok(Some(USER_AGENT)), Err(ProbeError::Refused)]);
    let Conclusion::Reached { via, ip, ports, warnings } =
        conclude(situation(TorAvailability::Ready), &Lookup::default(), &[one])
    else {
        panic!("it was reached");
    };
    assert_eq!((via, ip, ports), (Route::Tor, ips(&["5.9.0.9"]).pop(), Ports::new(None, Port::new(50002)).unwrap()));
    assert!(warnings.len() == 1 && warnings[0].contains("TCP port 50001"), "{warnings:?}");
    let other = check(Route::Direct, [Ok(Some("ElectrumX 1.16")), Ok(None)]);
    let Conclusion::Reached { warnings, .. } = conclude(situation(TorAvailability::Off), &Lookup::default(), &[other])
    else {
        panic!("it was reached");
    };
    assert!(warnings.len() == 1 && warnings[0].contains("answered by ElectrumX"), "{warnings:?}");
}

#[test]
fn a_failure_says_by_which_path_and_what_to_do() {
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
    let (reason, via) = unreached(TorAvailability::Off, None, &[failing(Route::Direct)]);
    assert!(via == Route::Direct && reason.contains("hairpin NAT") && reason.contains("with Tor"), "{reason}");
    // The operator's word counts only where nothing else can be had.
    assert_eq!(unreached(TorAvailability::Absent, Some("5.9.0.9"), &[failing(Route::Direct)]).1, Route::Direct);
    let assumed =
        conclude(situation(TorAvailability::Off), &lookup(Some("5.9.0.9"), &[], &[]), &[failing(Route::Direct)]);
    assert!(matches!(assumed, Conclusion::Assumed { ip, .. } if ip == ips(&["5.9.0.9"])[0]), "{assumed:?}");
    // What answered otherwise was reached, and is wrong.
    let wrong = check(Route::Direct, [Err(ProbeError::Closed), Err(ProbeError::Refused)]);
    assert_eq!(unreached(TorAvailability::Off, Some("5.9.0.9"), &[wrong]).1, Route::Direct);
}

#[test]
fn trouble_of_tor_itself_is_inconclusive() {
    assert!(check(Route::Tor, [Err(ProbeError::TorUnavailable), Err(ProbeError::TorUnavailable)]).is_inconclusive());
    assert!(!check(Route::Tor, [Ok(None), Err(ProbeError::TorUnavailable)]).is_inconclusive());
    assert!(PathCheck::unresolved(Route::Tor, ProbeError::TorUnavailable).is_inconclusive());
    assert!(!PathCheck::unresolved(Route::Tor, ProbeError::NameNotFound).is_inconclusive());
    assert!(!check(Route::Tor, [Err(ProbeError::Refused), Err(ProbeError::Refused)]).is_inconclusive());
}

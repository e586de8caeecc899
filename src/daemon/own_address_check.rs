//! How the own clearnet name is tested: which addresses are dialled, by which path, and what the results mean.
//!
//! Only decisions, without I/O: `clearnet_name` looks up and dials.

use std::net::IpAddr;

use crate::connect::{FailureOrigin, ProbeError};
use crate::jsonrpc::USER_AGENT;
use crate::netgroup::is_public;
use crate::peer::{Port, Ports, Transport};
use crate::route::Route;
use crate::tor_state::TorState;

/// Circuits on which an address must be named before it is dialled, unless this machine's resolver names it as well.
/// A single exit could name an address of its own.
const WITNESSES: usize = 2;

/// What is there to test the name with.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Situation {
    pub tor: Outside,
    /// Whether this process may open connections past Tor.
    pub has_direct: bool,
    /// Whether addresses that are not public may be used: those can't be reached through Tor.
    pub allows_private: bool,
}

/// Whether Tor can test the name, from outside of the operator's network.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Outside {
    Ready,
    /// It is there, and didn't reach anything yet.
    Uncertain,
    Absent,
    /// Absent for good: it is switched off.
    Off,
}

/// What was found out about the name's addresses.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct LookUp {
    /// `identity.address`, or an address in place of the name.
    pub configured: Option<IpAddr>,
    /// As this machine's resolver has it.
    pub here: Vec<IpAddr>,
    /// As Tor's exits have it, for each circuit that had an answer.
    pub exits: Vec<Vec<IpAddr>>,
}

/// Addresses that may be dialled, and what an operator should know about them.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Candidates {
    pub addresses: Vec<IpAddr>,
    pub warnings: Vec<String>,
}

/// One test of the name, by one path.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Trial {
    pub via: Route,
    /// Why nothing was dialled, if nothing was.
    pub refusal: Option<String>,
    /// Why the name could not be looked up, if that is why.
    pub unresolved: Option<ProbeError>,
    pub addresses: Vec<IpAddr>,
    pub ports: Vec<PortResult>,
    pub warnings: Vec<String>,
}

/// What became of one port.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PortResult {
    pub transport: Transport,
    pub port: Port,
    pub outcome: Result<Answered, ProbeError>,
}

/// An endpoint that answered as the name.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Answered {
    pub ip: Option<IpAddr>,
    pub software: Option<String>,
}

/// What the trials mean.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Conclusion {
    Reached {
        via: Route,
        ip: Option<IpAddr>,
        /// Those that answered.
        ports: Ports,
        warnings: Vec<String>,
    },
    /// It can't be tested from here, and the operator names the address.
    Assumed { ip: IpAddr, warning: String },
    Unreached {
        reason: String,
        /// The path of the trial that decided. A direct one says little: a router may only take connections from outside.
        via: Route,
    },
    /// There is no path yet.
    Waits,
}

impl Situation {
    pub fn new(tor: &TorState, has_tor: bool, has_direct: bool, allows_private: bool) -> Situation {
        let tor = match (tor, has_tor) {
            (TorState::Off, _) => Outside::Off,
            (_, false) => Outside::Absent,
            (TorState::Ready, true) => Outside::Ready,
            (_, true) => Outside::Uncertain,
        };
        Situation { tor, has_direct, allows_private }
    }

    /// The paths to try, in order, until the name is reached.
    pub fn paths(&self) -> &'static [Route] {
        match (self.tor, self.has_direct) {
            (Outside::Ready, true) if !self.allows_private => &[Route::Tor],
            (Outside::Ready | Outside::Uncertain, true) => &[Route::Direct, Route::Tor],
            (Outside::Ready | Outside::Uncertain, false) => &[Route::Tor],
            (Outside::Absent | Outside::Off, true) => &[Route::Direct],
            (Outside::Absent | Outside::Off, false) => &[],
        }
    }
}

impl LookUp {
    /// The addresses to dial by a path; or why there is none.
    pub fn candidates(&self, via: Route, allows_private: bool) -> Result<Candidates, String> {
        let found = match via {
            Route::Direct => self.here.clone(),
            Route::Tor => self.confirmed(),
        };
        let is_fit = |ip: &IpAddr| allows_private || is_public(*ip);
        let (fit, unfit): (Vec<IpAddr>, Vec<IpAddr>) = found.into_iter().partition(is_fit);
        let mut warnings = Vec::new();
        if !fit.is_empty() && !unfit.is_empty() {
            warnings.push(format!(
                "the name also means {}, which isn't public: other servers reject such a name",
                list(&unfit)
            ));
        }
        if let Some(configured) = self.configured {
            if !is_fit(&configured) {
                return Err(format!(
                    "{configured} isn't public; configure the address by which others reach this machine"
                ));
            }
            if !fit.is_empty() && !fit.contains(&configured) {
                let whose = if via == Route::Tor { "through Tor" } else { "here" };
                let found = list(&fit);
                warnings.push(format!("the name means {found} {whose}, and not {configured} as configured"));
            }
            return Ok(Candidates { addresses: vec![configured], warnings });
        }
        if !fit.is_empty() {
            return Ok(Candidates { addresses: fit, warnings });
        }
        Err(match (via, unfit.as_slice()) {
            (Route::Tor, []) if self.exits.iter().any(|found| !found.is_empty()) => {
                format!("Tor's exits name different addresses: {}", list(&self.exits.concat()))
            }
            (_, []) => "the name has no address in DNS".to_owned(),
            (Route::Direct, unfit) => format!(
                "the name means {} on this machine, which isn't public; correct the hosts file or DNS, or set identity.address",
                list(unfit)
            ),
            (Route::Tor, unfit) => format!("the name means {} in DNS, which isn't public; correct DNS", list(unfit)),
        })
    }

    /// Whether enough circuits agree that no further one has to be asked.
    pub fn is_settled(&self) -> bool {
        !self.confirmed().is_empty()
    }

    /// What exits say, as far as more than one of them does or this machine's resolver agrees.
    fn confirmed(&self) -> Vec<IpAddr> {
        let witnesses = |ip: &IpAddr| {
            let exits = self.exits.iter().filter(|found| found.contains(ip)).count();
            exits + usize::from(self.here.contains(ip))
        };
        let mut confirmed: Vec<IpAddr> = Vec::new();
        for ip in self.exits.iter().flatten() {
            if !confirmed.contains(ip) && witnesses(ip) >= WITNESSES {
                confirmed.push(*ip);
            }
        }
        confirmed
    }
}

impl Trial {
    /// One in which nothing was dialled.
    pub fn refused(via: Route, reason: String) -> Trial {
        let (addresses, ports, warnings) = (Vec::new(), Vec::new(), Vec::new());
        Trial { via, refusal: Some(reason), unresolved: None, addresses, ports, warnings }
    }

    /// One in which no circuit had an answer to the look-up.
    pub fn unresolved(via: Route, failure: ProbeError) -> Trial {
        let reason = format!("the look-up of the name {via} failed: {failure}");
        Trial { unresolved: Some(failure), ..Trial::refused(via, reason) }
    }

    fn has_reached(&self) -> bool {
        self.ports.iter().any(|port| port.outcome.is_ok())
    }

    /// Whether it failed for a reason that says nothing about the name.
    pub fn is_inconclusive(&self) -> bool {
        let in_look_up = self.unresolved.is_some_and(|failure| failure.blame() == FailureOrigin::Local);
        !self.has_reached() && (in_look_up || self.ports.iter().any(|port| is_local(&port.outcome)))
    }

    /// What went wrong, with the path.
    fn failures(&self) -> String {
        if let Some(reason) = &self.refusal {
            return reason.clone();
        }
        let ports = self.ports.iter().filter_map(|port| {
            let failure = port.outcome.as_ref().err()?;
            Some(format!("{} port {}: {failure}", port.transport, port.port))
        });
        let whence = if self.via == Route::Tor { "through Tor" } else { "from this machine" };
        format!("{whence}, at {}, {}", list(&self.addresses), ports.collect::<Vec<_>>().join(", "))
    }
}

/// What these trials mean together.
pub fn conclude(situation: Situation, look_up: &LookUp, trials: &[Trial]) -> Conclusion {
    if let Some(trial) = trials.iter().find(|trial| trial.has_reached()) {
        return reached(trial);
    }
    let Some(last) = trials.last() else { return Conclusion::Waits };
    let reason = trials.iter().map(Trial::failures).collect::<Vec<_>>().join("; ");
    if last.via == Route::Tor {
        let advice = match last.refusal {
            Some(_) => "",
            None => "; open the ports in the firewall, also to Tor's exits, and forward them in the router",
        };
        return Conclusion::Unreached { reason: format!("{reason}{advice}"), via: Route::Tor };
    }
    let is_cut_off = last.ports.iter().all(|port| is_cut_off(&port.outcome));
    match look_up.configured {
        Some(ip) if situation.tor == Outside::Off && last.refusal.is_none() && is_cut_off => Conclusion::Assumed {
            ip,
            warning: format!(
                "{reason}; without Tor it can't be tested from outside, so it is advertised at {ip} on the operator's word"
            ),
        },
        _ if last.refusal.is_none() && is_cut_off => Conclusion::Unreached {
            reason: format!(
                "{reason}; behind a router without hairpin NAT that proves nothing: with Tor, the name is tested from outside"
            ),
            via: Route::Direct,
        },
        _ => Conclusion::Unreached { reason, via: Route::Direct },
    }
}

fn reached(trial: &Trial) -> Conclusion {
    let mut warnings = trial.warnings.clone();
    let port = |transport| {
        let result = trial.ports.iter().find(|port| port.transport == transport && port.outcome.is_ok());
        result.map(|result| result.port)
    };
    let Some(ports) = Ports::new(port(Transport::Tcp), port(Transport::Tls)) else { return Conclusion::Waits };
    for result in &trial.ports {
        match &result.outcome {
            Err(failure) => {
                warnings.push(format!("{} port {} can't be reached: {failure}", result.transport, result.port));
            }
            Ok(answered) => {
                warnings.extend(answered.software.as_deref().filter(|name| *name != USER_AGENT).map(|name| {
                    format!("{} port {} is answered by {name}, not by this program", result.transport, result.port)
                }))
            }
        }
    }
    let ip = trial.ports.iter().find_map(|port| port.outcome.as_ref().ok()?.ip);
    Conclusion::Reached { via: trial.via, ip, ports, warnings }
}

fn is_local(outcome: &Result<Answered, ProbeError>) -> bool {
    outcome.as_ref().is_err_and(|failure| failure.blame() == FailureOrigin::Local)
}

/// Whether no connection came about, as behind a router without hairpin NAT.
fn is_cut_off(outcome: &Result<Answered, ProbeError>) -> bool {
    matches!(outcome, Err(ProbeError::Refused | ProbeError::Unreachable))
}

fn list(addresses: &[IpAddr]) -> String {
    addresses.iter().map(IpAddr::to_string).collect::<Vec<_>>().join(" and ")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ips(texts: &[&str]) -> Vec<IpAddr> {
        texts.iter().map(|text| text.parse().unwrap()).collect()
    }

    fn look_up(configured: Option<&str>, here: &[&str], exits: &[&[&str]]) -> LookUp {
        let configured = configured.map(|text| text.parse().unwrap());
        LookUp { configured, here: ips(here), exits: exits.iter().map(|found| ips(found)).collect() }
    }

    fn situation(tor: Outside) -> Situation {
        Situation { tor, has_direct: true, allows_private: false }
    }

    fn trial(via: Route, outcomes: [Result<Option<&str>, ProbeError>; 2]) -> Trial {
        let [tls, tcp] = outcomes.map(|outcome| {
            let ip = Some("5.9.0.9".parse().unwrap());
            outcome.map(|software| Answered { ip, software: software.map(str::to_owned) })
        });
        let port = |transport, number, outcome| PortResult { transport, port: Port::new(number).unwrap(), outcome };
        let ports = vec![port(Transport::Tls, 50002, tls), port(Transport::Tcp, 50001, tcp)];
        let addresses = ips(&["5.9.0.9"]);
        Trial { via, refusal: None, unresolved: None, addresses, ports, warnings: Vec::new() }
    }

    #[test]
    fn ready_tor_alone_decides_and_nothing_else_is_tried() {
        assert_eq!(situation(Outside::Ready).paths(), [Route::Tor]);
        assert_eq!(situation(Outside::Uncertain).paths(), [Route::Direct, Route::Tor]);
        assert_eq!(situation(Outside::Absent).paths(), [Route::Direct]);
        // Private addresses can't be reached through Tor.
        let private = Situation { allows_private: true, ..situation(Outside::Ready) };
        assert_eq!(private.paths(), [Route::Direct, Route::Tor]);
        let only_tor = |tor| Situation { has_direct: false, ..situation(tor) };
        assert_eq!(only_tor(Outside::Ready).paths(), [Route::Tor]);
        assert_eq!(only_tor(Outside::Uncertain).paths(), [Route::Tor]);
        assert_eq!(only_tor(Outside::Absent).paths(), []);
        assert_eq!(conclude(only_tor(Outside::Absent), &LookUp::default(), &[]), Conclusion::Waits);
    }

    #[test]
    fn addresses_that_are_not_public_are_never_dialled() {
        for private in ["127.0.1.1", "127.0.0.1", "192.168.1.5", "10.0.0.1", "::1", "fd00::1", "169.254.0.1"] {
            let reason = look_up(None, &[private], &[]).candidates(Route::Direct, false).unwrap_err();
            assert!(reason.contains(private) && reason.contains("identity.address"), "{reason}");
            assert!(look_up(None, &[], &[&[private], &[private]]).candidates(Route::Tor, false).is_err(), "{private}");
            assert!(look_up(Some(private), &[], &[]).candidates(Route::Direct, false).is_err(), "{private}");
            let allowed = look_up(None, &[private], &[]).candidates(Route::Direct, true).unwrap();
            assert_eq!((allowed.addresses, allowed.warnings), (ips(&[private]), Vec::new()));
        }
        let mixed = look_up(None, &["10.0.0.1", "5.9.0.9"], &[]).candidates(Route::Direct, false).unwrap();
        assert_eq!(mixed.addresses, ips(&["5.9.0.9"]));
        assert!(mixed.warnings[0].contains("also means 10.0.0.1"), "{:?}", mixed.warnings);
    }

    #[test]
    fn a_single_exit_names_no_address() {
        let alone = look_up(None, &["127.0.1.1"], &[&["6.6.6.6"]]);
        assert!(!alone.is_settled() && alone.candidates(Route::Tor, false).is_err());
        let disagree = look_up(None, &[], &[&["6.6.6.6"], &["5.9.0.9"]]);
        assert!(disagree.candidates(Route::Tor, false).unwrap_err().contains("6.6.6.6 and 5.9.0.9"));
        let outvoted = look_up(None, &[], &[&["6.6.6.6"], &["5.9.0.9"], &["5.9.0.9"]]);
        assert_eq!(outvoted.candidates(Route::Tor, false).unwrap().addresses, ips(&["5.9.0.9"]));
        // The resolver of this machine is another witness.
        let agrees = look_up(None, &["5.9.0.9"], &[&["5.9.0.9"]]);
        assert!(agrees.is_settled());
    }

    #[test]
    fn a_configured_address_replaces_the_look_up_and_a_mismatch_is_shown() {
        let split = look_up(Some("5.9.0.9"), &["192.168.1.5"], &[&["5.9.0.9"], &["5.9.0.9"]]);
        for via in Route::ALL {
            let found = split.candidates(via, false).unwrap();
            assert_eq!((found.addresses, found.warnings), (ips(&["5.9.0.9"]), Vec::new()));
        }
        let other = look_up(Some("5.9.0.9"), &[], &[&["5.9.0.8"], &["5.9.0.8"]]).candidates(Route::Tor, false).unwrap();
        assert_eq!(other.addresses, ips(&["5.9.0.9"]));
        assert!(other.warnings[0].contains("means 5.9.0.8 through Tor"), "{:?}", other.warnings);
        // The word of one exit is no reason to warn.
        let liar = look_up(Some("5.9.0.9"), &[], &[&["6.6.6.6"]]).candidates(Route::Tor, false).unwrap();
        assert_eq!(liar.warnings, Vec::<String>::new());
    }

    #[test]
    fn only_ports_that_answer_are_advertised() {
        let one = trial(Route::Tor, [Ok(Some(USER_AGENT)), Err(ProbeError::Refused)]);
        let Conclusion::Reached { via, ip, ports, warnings } =
            conclude(situation(Outside::Ready), &LookUp::default(), &[one])
        else {
            panic!("it was reached");
        };
        assert_eq!(
            (via, ip, ports),
            (Route::Tor, ips(&["5.9.0.9"]).pop(), Ports::new(None, Port::new(50002)).unwrap())
        );
        assert!(warnings.len() == 1 && warnings[0].contains("TCP port 50001"), "{warnings:?}");
        let other = trial(Route::Direct, [Ok(Some("ElectrumX 1.16")), Ok(None)]);
        let Conclusion::Reached { warnings, .. } = conclude(situation(Outside::Off), &LookUp::default(), &[other])
        else {
            panic!("it was reached");
        };
        assert!(warnings.len() == 1 && warnings[0].contains("answered by ElectrumX"), "{warnings:?}");
    }

    #[test]
    fn a_failure_says_by_which_path_and_what_to_do() {
        let failing = |via| trial(via, [Err(ProbeError::Unreachable), Err(ProbeError::Refused)]);
        let unreached = |tor, configured, trials: &[Trial]| match conclude(
            situation(tor),
            &look_up(configured, &[], &[]),
            trials,
        ) {
            Conclusion::Unreached { reason, via } => (reason, via),
            other => panic!("{other:?}"),
        };
        let (reason, via) = unreached(Outside::Ready, None, &[failing(Route::Tor)]);
        assert!(
            via == Route::Tor
                && reason.contains("through Tor, at 5.9.0.9, TLS port 50002")
                && reason.contains("firewall")
        );
        let (reason, via) = unreached(Outside::Off, None, &[failing(Route::Direct)]);
        assert!(via == Route::Direct && reason.contains("hairpin NAT") && reason.contains("with Tor"), "{reason}");
        // The operator's word counts only where nothing else can be had.
        assert_eq!(unreached(Outside::Absent, Some("5.9.0.9"), &[failing(Route::Direct)]).1, Route::Direct);
        let assumed = conclude(situation(Outside::Off), &look_up(Some("5.9.0.9"), &[], &[]), &[failing(Route::Direct)]);
        assert!(matches!(assumed, Conclusion::Assumed { ip, .. } if ip == ips(&["5.9.0.9"])[0]), "{assumed:?}");
        // What answered otherwise was reached, and is wrong.
        let wrong = trial(Route::Direct, [Err(ProbeError::Closed), Err(ProbeError::Refused)]);
        assert_eq!(unreached(Outside::Off, Some("5.9.0.9"), &[wrong]).1, Route::Direct);
    }

    #[test]
    fn trouble_of_tor_itself_is_inconclusive() {
        assert!(
            trial(Route::Tor, [Err(ProbeError::TorUnavailable), Err(ProbeError::TorUnavailable)]).is_inconclusive()
        );
        assert!(!trial(Route::Tor, [Ok(None), Err(ProbeError::TorUnavailable)]).is_inconclusive());
        assert!(Trial::unresolved(Route::Tor, ProbeError::TorUnavailable).is_inconclusive());
        assert!(!Trial::unresolved(Route::Tor, ProbeError::NameNotFound).is_inconclusive());
        assert!(!trial(Route::Tor, [Err(ProbeError::Refused), Err(ProbeError::Refused)]).is_inconclusive());
    }
}

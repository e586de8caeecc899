//! Strategies of the attacker, composed of tricks.

use std::time::Duration;

use super::world::Scale;

/// One element of an attack.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Trick {
    /// Onion services that answer.
    Onions,
    /// Onion names without a service.
    JunkOnions,
    /// One name on each rented IPv4 address.
    Addresses,
    /// Ten more names on each rented IPv4 address.
    Names,
    /// 60 names on an address in the /16 of each of 20 honest servers.
    Neighbours,
    /// Hundreds of hosts in one IPv6 /48.
    Site,
    /// Each host in a /48 of its own, within one IPv6 /32.
    Prefix,
    /// The book has only its seeds when the attack begins.
    EmptyBook,
    /// The attack begins after a third of the run.
    Late,
    /// The attackers are perfect for two thirds of the run, and lie only then.
    Patience,
    /// Another block at the compared height.
    OtherBlock,
    /// A tip that is far ahead.
    TipAhead,
    /// All attackers disappear at once.
    Vanish,
    /// Only ten honest onion services exist.
    FewOnions,
    /// All attackers disappear for six of twelve hours.
    Flap,
    /// New ports on each visit, and wrong ports of honest servers.
    Ports,
    /// Another address and key on each visit.
    Relocate,
}

/// Attack that is simulated.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Strategy {
    Nothing,
    OnionFlood,
    AddressFlood,
    NameFlood,
    Neighbours,
    Site,
    Prefix,
    EarlyMass,
    LateMass,
    Patience,
    OtherBlock,
    TipAhead,
    Vanish,
    Flap,
    JunkOnions,
    Ports,
    Relocate,
    Everything,
}

/// Tricks of a strategy.
#[derive(Debug, Clone, Copy)]
pub(super) struct Plan(&'static [Trick]);

impl Strategy {
    pub(super) const ALL: [Strategy; 18] = [
        Strategy::Nothing,
        Strategy::OnionFlood,
        Strategy::AddressFlood,
        Strategy::NameFlood,
        Strategy::Neighbours,
        Strategy::Site,
        Strategy::Prefix,
        Strategy::EarlyMass,
        Strategy::LateMass,
        Strategy::Patience,
        Strategy::OtherBlock,
        Strategy::TipAhead,
        Strategy::Vanish,
        Strategy::Flap,
        Strategy::JunkOnions,
        Strategy::Ports,
        Strategy::Relocate,
        Strategy::Everything,
    ];

    /// Returns the words for a table of results.
    pub(super) fn description(self) -> &'static str {
        match self {
            Strategy::Nothing => "none",
            Strategy::OnionFlood => "onion names",
            Strategy::AddressFlood => "one name at each address",
            Strategy::NameFlood => "eleven names at each address",
            Strategy::Neighbours => "many names in networks of honest servers",
            Strategy::Site => "hosts of one IPv6 /48",
            Strategy::Prefix => "each host in a /48 of its own",
            Strategy::EarlyMass => "all at once, when the peer database is empty",
            Strategy::LateMass => "all at once, after a third of the time",
            Strategy::Patience => "hostile after two thirds of the time",
            Strategy::OtherBlock => "another block",
            Strategy::TipAhead => "a tip that is far ahead",
            Strategy::Vanish => "all disappear at once",
            Strategy::Flap => "all disappear for six of twelve hours",
            Strategy::JunkOnions => "onion names without a service",
            Strategy::Ports => "new ports on each visit",
            Strategy::Relocate => "another address on each visit",
            Strategy::Everything => "all tricks together, when the peer database is empty",
        }
    }

    pub(super) fn plan(self) -> Plan {
        use Trick::*;
        Plan(match self {
            Strategy::Nothing => &[],
            Strategy::OnionFlood => &[Onions],
            Strategy::AddressFlood => &[Addresses],
            Strategy::NameFlood => &[Addresses, Names],
            Strategy::Neighbours => &[Neighbours],
            Strategy::Site => &[Site],
            Strategy::Prefix => &[Prefix],
            Strategy::EarlyMass => &[Onions, Addresses, Prefix, EmptyBook],
            Strategy::LateMass => &[Onions, Addresses, Prefix, Late],
            Strategy::Patience => &[Onions, Addresses, Patience, OtherBlock],
            Strategy::OtherBlock => &[Onions, OtherBlock],
            Strategy::TipAhead => &[Onions, TipAhead],
            Strategy::Vanish => &[Onions, Vanish, FewOnions],
            Strategy::Flap => &[Onions, Addresses, Flap],
            Strategy::JunkOnions => &[JunkOnions],
            Strategy::Ports => &[Onions, Addresses, Ports],
            Strategy::Relocate => &[Addresses, Names, Relocate],
            Strategy::Everything => &[
                Onions, JunkOnions, Addresses, Names, Neighbours, Prefix, Ports, Relocate, EmptyBook, Patience,
                OtherBlock,
            ],
        })
    }
}

impl Plan {
    pub(super) fn has(self, trick: Trick) -> bool {
        self.0.contains(&trick)
    }

    /// Returns the time from the start of the run to the first name of the attacker.
    pub(super) fn arrival(self, scale: Scale) -> Duration {
        if self.has(Trick::Late) { days(scale) / 3 } else { Duration::ZERO }
    }

    /// Returns the time from the start of the run to the first lie or absence.
    pub(super) fn turn(self, scale: Scale) -> Duration {
        if self.has(Trick::Patience) { days(scale) * 2 / 3 } else { Duration::from_hours(48) }
    }

    /// Returns the tip, relative to the real one, that attackers report after the turn.
    pub(super) fn tip_lead(self) -> u32 {
        if self.has(Trick::TipAhead) { 100_000 } else { 0 }
    }
}

fn days(scale: Scale) -> Duration {
    Duration::from_hours(24) * scale.days
}

//! Names from peers, clients and operators. A parsed name, when printed, parses to the same value.
#![no_main]

use std::fmt::{Debug, Display};
use std::str::FromStr;

use libfuzzer_sys::fuzz_target;
use waypost::ban_list::{Bans, ListKey, Pattern, remove_pattern};
use waypost::chain::Chain;
use waypost::peer::{Host, RealName, Version};

/// Public key of minisign.
const LIST_KEY: &str = "RWTvOSVys029uwc9QOdd7HholMXpAgAqVMRZBF18SWGuaUJhBgxwzZ6H";

fuzz_target!(|bytes: &[u8]| {
    let Ok(text) = std::str::from_utf8(bytes) else { return };
    check_round_trip::<Host>(text);
    check_round_trip::<Version>(text);
    let ports = Chain::BITCOIN.default_ports;
    if let Ok(name) = RealName::parse(text, ports) {
        assert_eq!(RealName::parse(&name.to_string(), ports).as_ref(), Ok(&name));
    }
    if let Ok(Host::Dns(name)) = text.parse() {
        let registrable = name.registrable();
        assert!(name.ancestors().any(|domain| domain == registrable));
    }
    if let Ok(pattern) = text.parse::<Pattern>() {
        check_round_trip::<Pattern>(text);
        let line = pattern.to_string();
        assert_eq!(Bans::parse(&line).map(|bans| bans.len()), Ok(1));
        assert_eq!(remove_pattern(&line, &pattern).as_deref(), Some(""));
    }
    let _ = Bans::parse(text);
    let _ = text.parse::<ListKey>();
    let key: ListKey = LIST_KEY.parse().expect("a valid key");
    let _ = key.verify(bytes, text);
});

fn check_round_trip<T: FromStr + Display + Debug + PartialEq>(text: &str)
where
    T::Err: Debug,
{
    if let Ok(value) = text.parse::<T>() {
        assert_eq!(value.to_string().parse::<T>().expect("a printed value can be parsed"), value);
    }
}

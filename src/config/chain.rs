//! The `network` key and the `[chain]` section: the chain of this node.

use std::borrow::Cow;
use std::sync::Arc;

use serde::{Deserialize, Serialize};

use super::{ChainSection, ConfigFile, InvalidValue, invalid};
use crate::chain::{Chain, ChainName, ChainParams, Pin, PinProof, WorkRule, hash_from_hex};
use crate::peer::{Port, Ports};

/// How the work of headers of a custom chain is checked.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum WorkCheck {
    /// Not at all.
    #[default]
    None,
    /// The double SHA-256 of a header must meet the target that it states.
    Sha256d,
}

/// Returns the chain, and fills in defaults.
pub(super) fn resolve(file: &mut ConfigFile) -> Result<Chain, InvalidValue> {
    let name = file.network.get_or_insert_with(|| Chain::default().name.clone()).clone();
    let is_custom = file.chain != ChainSection::default();
    match (Chain::built_in(&name), is_custom) {
        (Some(chain), false) => Ok(chain),
        (Some(_), true) => {
            let reason = format!("{name} is built in; remove the [chain] section, or choose another name");
            Err(invalid("network", reason))
        }
        (None, false) => {
            let known: Vec<_> = Chain::BUILT_IN.iter().map(ToString::to_string).collect();
            let reason = format!("unknown chain; use one of {}, or describe it in [chain]", known.join(", "));
            Err(invalid("network", reason))
        }
        (None, true) => custom(name, &mut file.chain).map(|params| Chain::Custom(Arc::new(params))),
    }
}

/// Returns what an operator should know about a chain without protection against other chains.
pub(super) fn warnings(chain: &Chain) -> Vec<String> {
    let Chain::Custom(params) = chain else { return Vec::new() };
    let mut warnings = Vec::new();
    if params.pin.is_none_or(|pin| pin.height == 0) {
        let text = "chain.pin is not set: servers of another chain with this genesis can't be told apart";
        warnings.push(text.to_owned());
    }
    if params.work == WorkRule::Unchecked {
        let text = "chain.work is \"none\": inventing headers costs nothing, so the chain is judged by backend.electrum \
                    or the votes of peers";
        warnings.push(text.to_owned());
    }
    warnings
}

fn custom(name: ChainName, section: &mut ChainSection) -> Result<ChainParams, InvalidValue> {
    let Some(genesis_hash) = section.genesis_hash.as_mut() else {
        return Err(invalid("chain.genesis_hash", "missing; set the hash of the first block".to_owned()));
    };
    genesis_hash.make_ascii_lowercase();
    let Some(genesis) = hash_from_hex(genesis_hash) else {
        return Err(invalid("chain.genesis_hash", "expected 64 hexadecimal digits".to_owned()));
    };
    let usual = Chain::default().default_ports;
    let port = |set: &mut Option<Port>, usual: Option<Port>| *set.get_or_insert(usual.unwrap_or(Port::MIN));
    let tcp = port(&mut section.tcp_port, usual.tcp());
    let tls = port(&mut section.ssl_port, usual.tls());
    let pin = match section.pin.as_deref() {
        // The block after genesis must name it, so a server is not verified without any header.
        None => Pin { height: 0, hash: genesis, shown_by: PinProof::NextHeader, min_tip: section.min_tip.unwrap_or(1) },
        Some(text) => {
            let parsed = parse_pin(text, section.min_tip);
            parsed.ok_or_else(|| {
                let reason = "expected HEIGHT:HASH with the hash in 64 hexadecimal digits, and a later block after it";
                invalid("chain.pin", reason.to_owned())
            })?
        }
    };
    if pin.min_tip <= pin.height {
        let reason = "must be above the height of chain.pin, as the next block shows the pinned one";
        return Err(invalid("chain.min_tip", reason.to_owned()));
    }
    Ok(ChainParams {
        name,
        genesis_hash: Cow::Owned(genesis_hash.clone()),
        default_ports: Ports::both(tcp, tls),
        // They are in discovery.seeds.
        seeds: Cow::Borrowed(&[]),
        irc: None,
        pin: Some(pin),
        header: *section.header.get_or_insert_default(),
        work: match section.work.get_or_insert_default() {
            WorkCheck::None => WorkRule::Unchecked,
            WorkCheck::Sha256d => WorkRule::OwnTarget,
        },
    })
}

/// Parses `HEIGHT:HASH`.
///
/// The next block shows the pinned one, so the function that hashes blocks need not be known.
fn parse_pin(text: &str, min_tip: Option<u32>) -> Option<Pin> {
    let (height, hash) = text.split_once(':')?;
    let height: u32 = height.trim().parse().ok()?;
    let next = height.checked_add(1)?;
    let hash = hash_from_hex(hash.trim())?;
    Some(Pin { height, hash, shown_by: PinProof::NextHeader, min_tip: min_tip.unwrap_or(next) })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::chain::HeaderRule;

    fn chain_of(text: &str) -> Result<Chain, String> {
        let mut file: ConfigFile = toml::from_str(text).map_err(|error| error.to_string())?;
        resolve(&mut file).map_err(|error| error.to_string())
    }

    fn custom_chain(keys: &str) -> Result<Chain, String> {
        chain_of(&format!("network = \"examplecoin\"\n[chain]\ngenesis_hash = \"{}\"\n{keys}", "AB".repeat(32)))
    }

    #[test]
    fn chain_is_built_in_or_described() {
        assert_eq!(chain_of(""), Ok(Chain::BITCOIN));
        for chain in Chain::BUILT_IN {
            assert_eq!(chain_of(&format!("network = \"{chain}\"")), Ok(chain.clone()));
        }
        let hash = "cd".repeat(32);
        let keys =
            format!("pin = \"7:{hash}\"\nmin_tip = 20\ntcp_port = 1001\nheader = \"first80\"\nwork = \"sha256d\"");
        let chain = custom_chain(&keys).unwrap();
        assert_eq!((chain.name.as_str(), &*chain.genesis_hash), ("examplecoin", &*"ab".repeat(32)));
        let ports = (chain.default_ports.tcp().unwrap().get(), chain.default_ports.tls().unwrap().get());
        assert_eq!(ports, (1001, 50002));
        let pin = Pin { height: 7, hash: [0xcd; 32], shown_by: PinProof::NextHeader, min_tip: 20 };
        assert_eq!(chain.pin, Some(pin));
        assert_eq!((chain.header, chain.work), (HeaderRule::First80, WorkRule::OwnTarget));
        assert_eq!(warnings(&chain), Vec::<String>::new());
    }

    #[test]
    fn custom_chain_without_protection_has_warnings() {
        let chain = custom_chain("").unwrap();
        let pin = Pin { height: 0, hash: [0xab; 32], shown_by: PinProof::NextHeader, min_tip: 1 };
        assert_eq!((chain.header, chain.work, chain.pin), (HeaderRule::Whole, WorkRule::Unchecked, Some(pin)));
        let text = warnings(&chain).join("\n");
        assert!(text.contains("chain.pin") && text.contains("chain.work"), "{text}");
    }

    #[test]
    fn invalid_chain_names_the_key() {
        let hash = "cd".repeat(32);
        for (text, expected) in [
            ("network = \"no-such-coin\"".to_owned(), "unknown chain; use one of bitcoin,"),
            ("network = \"../etc\"".to_owned(), "lower-case letters"),
            (format!("network = \"signet\"\n[chain]\ngenesis_hash = \"{hash}\""), "signet is built in"),
            (format!("[chain]\ngenesis_hash = \"{hash}\""), "bitcoin is built in"),
            ("network = \"x\"\n[chain]\ntcp_port = 1".to_owned(), "chain.genesis_hash: missing"),
            ("network = \"x\"\n[chain]\ngenesis_hash = \"ab\"".to_owned(), "chain.genesis_hash: expected 64"),
        ] {
            let error = chain_of(&text).unwrap_err();
            assert!(error.contains(expected), "{text}: {error}");
        }
        for (keys, expected) in [
            ("pin = \"7\"".to_owned(), "chain.pin"),
            (format!("pin = \"x:{hash}\""), "chain.pin"),
            (format!("pin = \"4294967295:{hash}\""), "chain.pin"),
            ("pin = \"7:ab\"".to_owned(), "chain.pin"),
            ("min_tip = 0".to_owned(), "chain.min_tip: must be above"),
            (format!("pin = \"7:{hash}\"\nmin_tip = 7"), "chain.min_tip: must be above"),
            ("header = \"81\"".to_owned(), "unknown variant"),
        ] {
            let error = custom_chain(&keys).unwrap_err();
            assert!(error.contains(expected), "{keys}: {error}");
        }
    }
}

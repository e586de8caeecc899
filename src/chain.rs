//! Chains that Electrum servers serve, with their constants.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

use crate::peer::{Port, Ports, RealName};

/// Block that every server of a chain has.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Pin {
    /// Height of the block.
    pub height: u32,
    /// Hash of the block in hexadecimal, in display order.
    pub hash: &'static str,
    /// Compact target of the blocks after it. `None` where blocks may have the minimum difficulty.
    pub bits: Option<u32>,
    /// Minimum height of the tip of a server that is not syncing.
    pub min_tip: u32,
}

/// Chain of a Waypost and its peers.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Chain {
    /// Mainnet.
    #[default]
    Bitcoin,
    /// Third test network.
    Testnet3,
    /// Fourth test network (BIP 94).
    Testnet4,
    /// Test network with signed blocks (BIP 325).
    Signet,
    /// Private chain for tests.
    Regtest,
}

impl Chain {
    /// All chains.
    pub const ALL: [Chain; 5] = [Chain::Bitcoin, Chain::Testnet3, Chain::Testnet4, Chain::Signet, Chain::Regtest];

    /// Returns the name in configurations, JSON and the store.
    pub const fn name(self) -> &'static str {
        match self {
            Chain::Bitcoin => "bitcoin",
            Chain::Testnet3 => "testnet3",
            Chain::Testnet4 => "testnet4",
            Chain::Signet => "signet",
            Chain::Regtest => "regtest",
        }
    }

    /// Returns the hash of the first block in hexadecimal.
    pub const fn genesis_hash(self) -> &'static str {
        match self {
            Chain::Bitcoin => "000000000019d6689c085ae165831e934ff763ae46a2a6c172b3f1b60a8ce26f",
            Chain::Testnet3 => "000000000933ea01ad0ee984209779baaec3ced90fa3f408719526f8d77f4943",
            Chain::Testnet4 => "00000000da84f2bafbbc53dee25a72ae507ff4914b867c565be350b0da8bf043",
            Chain::Signet => "00000008819873e925422c1ff0f99f7cc9bbb232af63a077a480a3633bee1ef6",
            Chain::Regtest => "0f9188f13cb7b2c71f2a335e3a4fc328bf5beb436012afca590b1a11466e2206",
        }
    }

    /// Returns a block that every server of the chain has; `None` if there is no proof of the chain.
    ///
    /// Chains with the same genesis differ there: Bitcoin Cash since 478,559, Bitcoin Gold since 491,407. The hashes are
    /// the newest checkpoints of the Electrum wallet 4.8. Chains with BLAKE2b headers split off later, at 961,640 and on
    /// testnet4 at 150,308. The minimum tips are so high that blocks after these splits are compared.
    pub const fn pin(self) -> Option<Pin> {
        let (height, hash) = match self {
            Chain::Bitcoin => (953_567, "00000000000000000001b315e72169bef4867bf780527aa97c625ee9c001dc5d"),
            Chain::Testnet3 => (5_011_775, "000000000000041b511bf0b926371d5045f70bbc30d36b66f1c84ed30d765886"),
            Chain::Testnet4 => (139_103, "000000000001fa52cf7346a418640560743e051f8096a21ca452f3569bfe4f9e"),
            Chain::Signet => (308_447, "0000000fce481bd689af96794ea36ad8e80bc4635f068104aeff53bc17326ecf"),
            Chain::Regtest => return None,
        };
        let (bits, min_tip) = match self {
            Chain::Bitcoin => (Some(0x1702_40c3), 961_760),
            Chain::Testnet4 => (None, 150_420),
            _ => (None, height),
        };
        Some(Pin { height, hash, bits, min_tip })
    }

    /// Returns the ports that a bare `t` or `s` stands for.
    pub fn default_ports(self) -> Ports {
        let (tcp, tls) = match self {
            Chain::Bitcoin => (50001, 50002),
            _ => (51001, 51002),
        };
        // The fallback is unreachable, since neither port is zero.
        Ports::new(Port::new(tcp), Port::new(tls)).unwrap_or(Ports::single(crate::peer::Transport::Tcp, Port::MIN))
    }

    /// Returns the seeds for an empty book: long-standing servers from the Electrum wallet's list.
    pub fn default_seeds(self) -> Vec<RealName> {
        let lines: &[&str] = match self {
            Chain::Bitcoin => &[
                "electrum.blockstream.info v1.4 s50002 t50001",
                "electrum.emzy.de v1.4.2 s50002",
                "electrum.bitaroo.net v1.4.2 s50002 t50001",
                "electrum.jhoenicke.de v1.6 s50002 t50001",
                "fortress.qtornado.com v1.5 s443",
                "bitcoin.lu.ke v1.4.2 s50002 t50001",
                "bitcoin.aranguren.org v1.4.2 s50002 t50001",
                "blackie.c3-soft.com v1.4.5 s57002 t57001",
                "explorerzydxu5ecjrkwceayqybizmpjjznk5izmitf2modhcusuqlid.onion v1.4 t110",
                "kittycp2gatrqhlwpmbczk5rblw62enrpo2rzwtkfrrr27hq435d4vid.onion v1.4.2 s50002 t50001",
                "qly7g5n5t3f3h23xvbp44vs6vpmayurno4basuu5rcvrupli7y2jmgid.onion v1.4.2 s50002 t50001",
                "rzspa374ob3hlyjptkdgz6a62wim2mpanuw6m3shlwn2cxg2smy3p7yd.onion v1.4.2 s50004 t50003",
                "udfpzbte2hommnvag5f3qlouqkhvp3xybhlus2yvfeqdwlhjroe4bbyd.onion v1.4.5 s60002 t60001",
            ],
            Chain::Testnet3 => &[
                "electrum.blockstream.info v1.4 s60002 t60001",
                "blackie.c3-soft.com v1.4.5 s57006 t57005",
                "testnet.aranguren.org v1.6 s51002 t51001",
                "testnet.qtornado.com v1.6.0 s51002 t51001",
                "explorerzydxu5ecjrkwceayqybizmpjjznk5izmitf2modhcusuqlid.onion v1.4 t143",
                "gsw6sn27quwf6u3swgra6o7lrp5qau6kt3ymuyoxgkth6wntzm2bjwyd.onion v1.6 s51002 t51001",
            ],
            Chain::Testnet4 => &[
                "blackie.c3-soft.com v1.6 s57010 t57009",
                "testnet4.qtornado.com v1.6.0 s51012 t51011",
                "bitcoin.stagemole.eu v1.6.0 s5010 t5000",
                "gsw6sn27quwf6u3swgra6o7lrp5qau6kt3ymuyoxgkth6wntzm2bjwyd.onion v1.5.3 s52002 t52001",
            ],
            Chain::Signet => &[
                "electrum.emzy.de v1.4 s53002",
                "mempool.space v1.4 s60602",
                "signet-electrumx.wakiyamap.dev v1.4 s50002 t50001",
            ],
            Chain::Regtest => &[],
        };
        lines.iter().filter_map(|line| RealName::parse(line, self.default_ports()).ok()).collect()
    }
}

impl fmt::Display for Chain {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

/// Name that is not a known chain.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("unknown chain: expected bitcoin, testnet3, testnet4, signet or regtest")]
pub struct UnknownChain;

impl FromStr for Chain {
    type Err = UnknownChain;

    fn from_str(text: &str) -> Result<Chain, UnknownChain> {
        Chain::ALL.into_iter().find(|chain| chain.name() == text).ok_or(UnknownChain)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn default_seeds_are_all_parsed() {
        let counts = Chain::ALL.map(|chain| chain.default_seeds().len());
        assert_eq!(counts, [13, 6, 4, 3, 0]);
        let onions = Chain::Bitcoin.default_seeds().iter().filter(|name| name.host.is_onion()).count();
        assert_eq!(onions, 5);
    }

    #[test]
    fn default_ports_depend_on_the_chain() {
        let name = |chain: Chain| RealName::parse("a.example s t", chain.default_ports()).unwrap().to_string();
        assert_eq!(name(Chain::Bitcoin), "a.example s50002 t50001");
        assert_eq!(name(Chain::Regtest), "a.example s51002 t51001");
    }
}

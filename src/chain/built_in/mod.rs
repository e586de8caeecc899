//! Chains that need no configuration.

mod bitcoin;
mod bitcoin_cash;
mod other_coins;

use super::{BlockHash, Chain, Pin, PinProof};
use crate::peer::{Port, Ports};

/// Ports of most chains.
const MAINNET_PORTS: Ports = ports(50001, 50002);

/// Ports of most test networks.
const TESTNET_PORTS: Ports = ports(51001, 51002);

/// Channel of most servers on IRC.
const ELECTRUM_CHANNEL: &str = "#electrum";

impl Chain {
    /// All built-in chains. Of chains with the same first block, the oldest comes first.
    pub const BUILT_IN: [Chain; 24] = [
        Chain::BITCOIN,
        Chain::TESTNET3,
        Chain::TESTNET4,
        Chain::SIGNET,
        Chain::REGTEST,
        Chain::MUTINYNET,
        Chain::BITCOIN_CASH,
        Chain::BITCOIN_CASH_TESTNET3,
        Chain::BITCOIN_CASH_TESTNET4,
        Chain::CHIPNET,
        Chain::SCALENET,
        Chain::LITECOIN,
        Chain::LITECOIN_TESTNET,
        Chain::LITECOIN_REGTEST,
        Chain::DOGECOIN,
        Chain::NAMECOIN,
        Chain::DASH,
        Chain::GROESTLCOIN,
        Chain::DIGIBYTE,
        Chain::MONACOIN,
        Chain::VERTCOIN,
        Chain::VERGE,
        Chain::RAVENCOIN,
        Chain::ZCASH,
    ];
}

const fn ports(tcp: u16, tls: u16) -> Ports {
    Ports::both(port(tcp), port(tls))
}

/// Returns a port; 1 for zero, which no chain has.
const fn port(number: u16) -> Port {
    match Port::new(number) {
        Some(port) => port,
        None => Port::MIN,
    }
}

/// Returns a pin that a server's tip must have reached. The digits are in display order.
const fn pin(height: u32, digits: &str, shown_by: PinProof) -> Pin {
    let min_tip = match shown_by {
        PinProof::OwnHeader => height,
        PinProof::NextHeader => height + 1,
    };
    Pin { height, hash: hash(digits), shown_by, min_tip }
}

/// Decodes 64 lower-case hexadecimal digits in display order.
#[expect(clippy::indexing_slicing, reason = "it runs in the compiler only, where a missing digit is an error")]
const fn hash(digits: &str) -> BlockHash {
    let digits = digits.as_bytes();
    let mut hash = [0; 32];
    let mut index = 0;
    while index < 32 {
        hash[31 - index] = digit(digits[2 * index]) << 4 | digit(digits[2 * index + 1]);
        index += 1;
    }
    hash
}

const fn digit(digit: u8) -> u8 {
    match digit {
        b'a'..=b'f' => digit - b'a' + 10,
        _ => digit - b'0',
    }
}

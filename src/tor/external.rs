//! A Tor that somebody else runs: is it there?
//!
//! Whether it is there is asked of its SOCKS port every few seconds. Whether it is in the network we learn by using it:
//! the first onion peer that answers is the proof, and while there is none the book tries a few, now and then. Its
//! control port would tell sooner, but wants a password or a cookie that few operators give to another program, and it
//! can say "bootstrapped" of a Tor whose circuits have all died; an answer from a peer can't be wrong.

use std::net::SocketAddr;
use std::time::Duration;

use tokio::time::sleep;

use super::{Outlets, tell};
use crate::dial::{Socks, SocksKind, Tor, what_answers};
use crate::route::TorSign;

/// Between two looks.
const PAUSE: Duration = Duration::from_secs(5);

/// Looks after the first of these addresses that is Tor's. Ends when nobody listens to it any more.
pub async fn watch(addresses: Vec<SocketAddr>, secret: u128, outlets: Outlets) {
    let mut told = None;
    loop {
        let (sign, address) = look(&addresses).await;
        if let Some(address) = address {
            outlets.way.send_if_modified(|way| {
                let new = !matches!(way, Some(Tor::Socks(socks)) if socks.address() == address);
                if new {
                    tracing::info!(%address, "Tor answers on its SOCKS port");
                    *way = Some(Tor::Socks(Socks::new(address, secret)));
                }
                new
            });
        }
        if told.as_ref() != Some(&sign) {
            if !tell(&outlets.inbox, sign.clone()).await {
                return;
            }
            told = Some(sign);
        }
        sleep(PAUSE).await;
    }
}

/// Whether one of these addresses is Tor's, and which.
pub async fn look(addresses: &[SocketAddr]) -> (TorSign, Option<SocketAddr>) {
    let mut why = String::new();
    for address in addresses {
        let reason = match what_answers(*address).await {
            SocksKind::Tor => return (TorSign::Answers, Some(*address)),
            SocksKind::Other => format!("what answers on {address} is not Tor"),
            SocksKind::Nothing(error) => format!("no Tor on {address}: {error}"),
        };
        if !why.is_empty() {
            why.push_str("; ");
        }
        why.push_str(&reason);
    }
    why.push_str("; start Tor, with `systemctl start tor` say, or let tor.socks say where it is");
    (TorSign::Gone { why }, None)
}

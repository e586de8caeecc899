//! A server of the operator's: how it is reached, and what it says of itself.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::watch;
use tokio::time::{Instant, sleep, timeout};

use super::known_key::check_key;
use super::{Address, BackendError, GREETING, greet, tell};
use crate::book::{Block, Event, Failure, height_to_compare};
use crate::conversation::client::Expected;
use crate::conversation::identity::{Behind, Ourselves};
use crate::dial::{Direct, Stream, Tls};
use crate::inbox::{Inbox, Input};
use crate::network::Network;
use crate::peer::{Endpoint, Host, Report};
use crate::probe::{Deadlines, converse};
use crate::protocol::{NEWEST, OLDEST};
use crate::route::Via;

/// Between two looks at how it does: when it was well, and when it wasn't.
const LOOK: Duration = Duration::from_secs(60);
const LOOK_AGAIN: Duration = Duration::from_secs(5);

/// The server behind us.
#[derive(Debug)]
pub struct Server {
    pub address: Address,
    pub network: Network,
    pub tls: Tls,
    /// Where the key of its certificate is remembered.
    pub key_file: PathBuf,
    /// Why it was of no use when it was last asked.
    trouble: watch::Sender<Option<String>>,
}

impl Server {
    pub fn new(address: Address, network: Network, tls: Tls, key_file: PathBuf) -> Server {
        let trouble = watch::Sender::new(Some("it wasn't asked yet".to_owned()));
        Server { address, network, tls, key_file, trouble }
    }

    pub async fn open(&self, version: &str) -> Result<Box<dyn Stream>, BackendError> {
        let greeted = timeout(GREETING, async { greet(self.connect().await?, version).await });
        greeted.await.unwrap_or(Err(BackendError::Failed(Failure::Silent)))
    }

    /// What it says of itself, if it is a server of our network; and which block it has at this height.
    pub async fn ask(&self, compare: Option<u32>) -> Result<(Behind, Option<Block>), BackendError> {
        let stream = timeout(GREETING, self.connect()).await.unwrap_or(Err(Failure::Silent.into()))?;
        let expected = Expected {
            host: None,
            genesis_hash: self.network.genesis_hash(),
            default_ports: self.network.default_ports(),
            announce: None,
            compare,
        };
        let deadlines = Deadlines::of(Via::Direct);
        let report = converse(stream, &expected, deadlines, Instant::now() + deadlines.whole, &mut |_| {}).await?;
        let block = report.block;
        Ok((behind(report)?, block))
    }

    pub fn trouble(&self) -> Option<String> {
        self.trouble.borrow().clone()
    }

    /// Keeps asking it.
    pub async fn watch(&self, ourselves: &watch::Sender<Arc<Ourselves>>, inbox: Inbox) {
        let (mut well, mut compare) = (None, None);
        while !inbox.is_closed() {
            let said = self.ask(compare).await;
            match &said {
                Ok(_) if well != Some(true) => tracing::info!(backend = %self.address, "the server behind us answers"),
                Err(error) if well != Some(false) => {
                    tracing::warn!(backend = %self.address, %error, "the server behind us is of no use now; discovery goes on");
                }
                _ => {}
            }
            well = Some(said.is_ok());
            self.trouble.send_replace(said.as_ref().err().map(BackendError::to_string));
            if let Ok((behind, block)) = said {
                let (tip, before) = (behind.tip, compare);
                tell(ourselves, behind);
                compare = tip.map(height_to_compare);
                if compare != before {
                    // Peers will be asked of another block than it was.
                    continue;
                }
                if let Some(tip) = tip {
                    let _ = inbox.send(Input::Event(Event::OurChain { tip, block })).await;
                }
            }
            sleep(if well == Some(true) { LOOK } else { LOOK_AGAIN }).await;
        }
    }

    async fn connect(&self) -> Result<Box<dyn Stream>, BackendError> {
        let Endpoint { host, port } = match &self.address {
            Address::Unix(path) => return Ok(Box::new(Direct.connect_unix(path).await?)),
            Address::Tcp(endpoint) | Address::Tls(endpoint) => endpoint,
        };
        let addresses = match host {
            Host::Ip(ip) => vec![*ip],
            Host::Dns(name) => Direct.resolve(name).await?,
            Host::Onion(_) => return Err(Failure::NotFound.into()),
        };
        let (stream, _) = Direct.connect(&addresses, *port).await?;
        if matches!(self.address, Address::Tcp(..)) {
            return Ok(Box::new(stream));
        }
        let (stream, key) = self.tls.connect(host, stream).await?;
        check_key(&self.key_file, key.ok_or(Failure::Tls)?)?;
        Ok(Box::new(stream))
    }
}

fn behind(report: Report) -> Result<Behind, BackendError> {
    let features = report.features.unwrap_or_default();
    // Who doesn't say which versions it speaks speaks the one that it chose.
    let (oldest, newest) =
        (features.protocol_min.unwrap_or(report.agreed), features.protocol_max.unwrap_or(report.agreed));
    let oldest = if oldest.cmp_release(&OLDEST).is_lt() { OLDEST } else { oldest };
    let newest = if newest.cmp_release(&NEWEST).is_gt() { NEWEST } else { newest };
    if oldest.cmp_release(&newest).is_gt() {
        return Err(BackendError::Versions);
    }
    Ok(Behind { software: report.software, versions: (oldest, newest), pruning: features.pruning, tip: report.tip })
}

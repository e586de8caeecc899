//! The Electrum server that we stand in front of: how it is reached, and what it says of itself.

use std::fmt;
use std::path::{Path, PathBuf};
use std::str::FromStr;
use std::sync::Arc;
use std::time::Duration;

use futures_util::{SinkExt, StreamExt};
use serde::{Deserialize, Serialize};
use tokio::sync::watch;
use tokio::time::{Instant, sleep, timeout};
use tokio_util::codec::{Framed, LinesCodec};

use crate::book::{Block, Event, Failure, KeyHash, height_to_compare};
use crate::conversation::client::Expected;
use crate::conversation::identity::{self, Behind, Identity, Ourselves};
use crate::dial::{Direct, Stream, Tls};
use crate::inbox::{Inbox, Input};
use crate::network::Network;
use crate::peer::{Fault, Host, Port, Report};
use crate::probe::{Deadlines, converse};
use crate::protocol::{self, MAX_ANSWER, NEWEST, OLDEST, SOFTWARE};
use crate::route::Via;

/// Where it listens.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub enum Address {
    Tcp(Host, Port),
    Tls(Host, Port),
    Unix(PathBuf),
}

#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("expected tcp://HOST:PORT, tls://HOST:PORT or unix:PATH")]
pub struct AddressError;

/// Between two looks at how it does: when it was well, and when it wasn't.
const LOOK: Duration = Duration::from_secs(60);
const LOOK_AGAIN: Duration = Duration::from_secs(5);

/// How long it may take to greet us.
const GREETING: Duration = Duration::from_secs(20);

/// The server behind us.
#[derive(Debug)]
pub struct Backend {
    pub address: Address,
    pub network: Network,
    pub tls: Tls,
    /// Where the key of its certificate is remembered.
    pub key_file: PathBuf,
}

/// Why the server behind us is of no use.
#[derive(Debug, thiserror::Error)]
pub enum BackendError {
    #[error("{0}")]
    Failed(#[from] Failure),
    #[error("it has another TLS key than before; if that is right, remove {}", .0.display())]
    OtherKey(PathBuf),
    #[error("the key that is remembered of it, {}: {error}", path.display())]
    KeyFile { path: PathBuf, error: std::io::Error },
    #[error("it speaks none of the protocol versions {OLDEST} to {NEWEST}")]
    Versions,
}

impl Backend {
    /// A connection of a caller's own, on which this protocol version was agreed upon.
    pub async fn open(&self, version: &str) -> Result<Box<dyn Stream>, BackendError> {
        let greeted = timeout(GREETING, async {
            // A line at a time, so that nothing of what follows the greeting is read here and lost.
            let mut lines =
                Framed::with_capacity(self.connect().await?, LinesCodec::new_with_max_length(MAX_ANSWER), 1);
            let line = protocol::request(0, "server.version", &[SOFTWARE, version]);
            let line = String::from_utf8(line).map_err(|_| Failure::Internal)?;
            lines.send(line.trim_end()).await.map_err(|_| Failure::Closed)?;
            let answer = lines.next().await.ok_or(Failure::Closed)?.map_err(|_| Failure::Bad(Fault::Malformed))?;
            match protocol::parse_answer(&answer) {
                Ok(protocol::Answer::Result { .. }) => Ok(lines.into_inner()),
                _ => Err(BackendError::Versions),
            }
        });
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

    /// Keeps asking it, and tells callers of what it says, until nobody is left to be told.
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
        let (host, port) = match &self.address {
            Address::Unix(path) => return Ok(Box::new(Direct.connect_unix(path).await?)),
            Address::Tcp(host, port) | Address::Tls(host, port) => (host, *port),
        };
        let addresses = match host {
            Host::Ip(ip) => vec![*ip],
            Host::Dns(name) => Direct.resolve(name).await?,
            Host::Onion(_) => return Err(Failure::NotFound.into()),
        };
        let (stream, _) = Direct.connect(&addresses, port).await?;
        if matches!(self.address, Address::Tcp(..)) {
            return Ok(Box::new(stream));
        }
        let (stream, key) = self.tls.connect(host, stream).await?;
        self.check(key)?;
        Ok(Box::new(stream))
    }

    /// Remembers the first key, and takes no other after it.
    fn check(&self, key: Option<KeyHash>) -> Result<(), BackendError> {
        let path = self.key_file.as_path();
        let trouble = |error| BackendError::KeyFile { path: path.to_owned(), error };
        let key = hex::encode(key.ok_or(Failure::Tls)?);
        match std::fs::read_to_string(path) {
            Ok(known) if known.trim() == key => Ok(()),
            Ok(_) => Err(BackendError::OtherKey(path.to_owned())),
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => {
                write_whole(path, &format!("{key}\n")).map_err(trouble)
            }
            Err(error) => Err(trouble(error)),
        }
    }
}

/// All of it or nothing.
fn write_whole(path: &Path, text: &str) -> std::io::Result<()> {
    let draft = path.with_extension("new");
    std::fs::write(&draft, text)?;
    std::fs::rename(draft, path)
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

fn tell(ourselves: &watch::Sender<Arc<Ourselves>>, behind: Behind) {
    ourselves.send_if_modified(|ourselves| {
        let backend = identity::Backend::Known(behind);
        let news = ourselves.identity.backend != backend;
        if news {
            *ourselves = Arc::new(Ourselves::new(Identity { backend, ..ourselves.identity.clone() }));
        }
        news
    });
}

impl FromStr for Address {
    type Err = AddressError;

    fn from_str(text: &str) -> Result<Address, AddressError> {
        if let Some(path) = text.strip_prefix("unix:").filter(|path| !path.is_empty()) {
            return Ok(Address::Unix(path.into()));
        }
        let (kind, rest) = text.split_once("://").ok_or(AddressError)?;
        let (host, port) = rest.rsplit_once(':').ok_or(AddressError)?;
        let host = host.strip_prefix('[').and_then(|host| host.strip_suffix(']')).unwrap_or(host);
        let (host, port) = (host.parse().map_err(|_| AddressError)?, port.parse().map_err(|_| AddressError)?);
        match (kind, &host) {
            (_, Host::Onion(_)) => Err(AddressError),
            ("tcp", _) => Ok(Address::Tcp(host, port)),
            ("tls" | "ssl", _) => Ok(Address::Tls(host, port)),
            _ => Err(AddressError),
        }
    }
}

impl TryFrom<String> for Address {
    type Error = AddressError;

    fn try_from(text: String) -> Result<Address, AddressError> {
        text.parse()
    }
}

impl From<Address> for String {
    fn from(address: Address) -> String {
        address.to_string()
    }
}

impl fmt::Display for Address {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (kind, host, port) = match self {
            Address::Unix(path) => return write!(f, "unix:{}", path.display()),
            Address::Tcp(host, port) => ("tcp", host, port),
            Address::Tls(host, port) => ("tls", host, port),
        };
        match host {
            Host::Ip(ip) if ip.is_ipv6() => write!(f, "{kind}://[{ip}]:{port}"),
            host => write!(f, "{kind}://{host}:{port}"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_are_written_as_they_are_read() {
        for text in ["tcp://127.0.0.1:50001", "tls://electrs.example:50002", "tcp://[::1]:50001", "unix:/run/electrs"] {
            assert_eq!(text.parse::<Address>().unwrap().to_string(), text);
        }
        assert_eq!("ssl://a.example:1".parse::<Address>().unwrap().to_string(), "tls://a.example:1");
        for text in ["", "127.0.0.1:50001", "tcp://", "tcp://a", "tcp://a:0", "http://a:1", "unix:", "tcp://:1"] {
            assert_eq!(text.parse::<Address>(), Err(AddressError), "{text}");
        }
    }
}

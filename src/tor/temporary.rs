//! Tor for a single command, which runs without a daemon.

use super::{IS_EMBEDDED, Mode, TorOptions};
use crate::dial::{Socks, SocksDetection, TorConnector, detect_tor};

/// Tor that one command uses. Dropping it stops an embedded Tor.
#[derive(Debug)]
pub enum TemporaryTor {
    /// Tor on a SOCKS port.
    External(TorConnector),
    /// Embedded Tor of this process.
    #[cfg(feature = "embedded-tor")]
    Embedded(Box<super::EphemeralClient>),
}

/// Reason why a command has no Tor.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum TemporaryTorError {
    /// `tor.mode` is off.
    #[error("tor.mode is off")]
    Off,
    /// No address of `tor.socks` is a Tor.
    #[error("{}; start Tor, or set its address with tor.socks", .0.join("; "))]
    NotFound(Vec<String>),
    /// The embedded Tor does not start.
    #[error("the embedded Tor does not start: {0}")]
    NotStarted(String),
}

impl TemporaryTor {
    /// Finds a Tor on a SOCKS port, or starts the embedded one. `on_step` receives each step as text.
    pub async fn find(options: &TorOptions, on_step: &impl Fn(&str)) -> Result<TemporaryTor, TemporaryTorError> {
        let mut failures = Vec::new();
        for port in &options.socks {
            let address = &port.address;
            match detect_tor(port).await {
                SocksDetection::Tor(access) => {
                    on_step(&format!("Tor answers on {address}"));
                    let socks = Socks::new(port.clone(), u128::from(std::process::id()));
                    socks.set_clearnet(access);
                    return Ok(TemporaryTor::External(TorConnector::Socks(socks)));
                }
                SocksDetection::LoginRejected(reason) => failures.push(format!("{address}: {reason}")),
                SocksDetection::NotTor => failures.push(format!("the program on {address} is not Tor")),
                SocksDetection::Unreachable(error) => failures.push(format!("no answer on {address}: {error}")),
            }
        }
        match options.mode {
            Mode::Off => Err(TemporaryTorError::Off),
            Mode::Auto | Mode::Embedded if IS_EMBEDDED => start_embedded(options, on_step).await,
            _ => Err(TemporaryTorError::NotFound(failures)),
        }
    }

    /// Returns the connector of this Tor.
    pub fn connector(&self) -> TorConnector {
        match self {
            TemporaryTor::External(tor) => tor.clone(),
            #[cfg(feature = "embedded-tor")]
            TemporaryTor::Embedded(client) => client.tor.clone(),
        }
    }
}

#[cfg(feature = "embedded-tor")]
async fn start_embedded(options: &TorOptions, on_step: &impl Fn(&str)) -> Result<TemporaryTor, TemporaryTorError> {
    let progress = |percent, waiting_for: &str| on_step(&format!("embedded Tor, {percent} %: {waiting_for}"));
    let client = super::bootstrap_ephemeral(&options.dir, &options.arti, &options.peer_keys, progress).await;
    Ok(TemporaryTor::Embedded(Box::new(client.map_err(TemporaryTorError::NotStarted)?)))
}

#[cfg(not(feature = "embedded-tor"))]
async fn start_embedded(_: &TorOptions, _: &impl Fn(&str)) -> Result<TemporaryTor, TemporaryTorError> {
    Err(TemporaryTorError::NotStarted("this build has none".to_owned()))
}

//! Our name on clearnet: it is told to others only once we ourselves have reached it as they would.

use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

use rand::RngExt;
use rand::rngs::StdRng;
use tokio::sync::watch;
use tokio::time::sleep;

use crate::book::{Attempt, Event, Failure};
use crate::conversation::client::Expected;
use crate::conversation::identity::Ourselves;
use crate::dial::Dialer;
use crate::inbox::{Inbox, Input};
use crate::network::Network;
use crate::peer::{Host, Ports};
use crate::probe::{Deadlines, probe};
use crate::route::Via;

/// Between two looks, the last of which found us.
const LOOK: Duration = Duration::from_hours(1);

/// After a miss; doubles up to the second.
const RETRY: Duration = Duration::from_secs(5);
const LONGEST_RETRY: Duration = Duration::from_mins(30);

/// What the watch on our name needs.
#[derive(Debug)]
pub struct ClearnetName {
    pub network: Network,
    pub dialer: Dialer,
    pub ourselves: watch::Receiver<Arc<Ourselves>>,
    pub inbox: Inbox,
}

impl ClearnetName {
    /// Looks again and again whether our name leads to us, until nobody listens any more.
    pub async fn run(self, mut rng: StdRng) {
        let mut missed = 0;
        while !self.inbox.is_closed() {
            let Some((host, ports)) = self.ourselves.borrow().identity.clearnet.clone() else {
                return std::future::pending().await;
            };
            let pause = match self.reach(&host, ports).await {
                Ok(ip) => {
                    if missed != 0 {
                        tracing::info!(name = %host, "our name can be reached again");
                    }
                    missed = 0;
                    let listed = Box::new(self.ourselves.borrow().identity.listed(&host, ports, ip));
                    let _ = self.inbox.send(Input::Event(Event::ReachedOurselves(listed))).await;
                    LOOK
                }
                Err(failure) => {
                    if missed == 0 {
                        tracing::warn!(
                            name = %host, %failure,
                            "identity.host could not be reached, and is told to nobody until it is; are its ports open to the world?"
                        );
                    }
                    missed += 1;
                    LONGEST_RETRY.min(RETRY * 2_u32.saturating_pow(missed - 1))
                }
            };
            sleep(pause.mul_f64(rng.random_range(0.8..1.2))).await;
        }
    }

    /// Past Tor where that may be, and through it: behind a router it may well be the only way from outside.
    async fn reach(&self, host: &Host, ports: Ports) -> Result<Option<IpAddr>, Failure> {
        let direct = match &self.dialer.direct {
            Some(_) => self.reach_via(host, ports, Via::Direct).await,
            None => Err(Failure::OurTor),
        };
        match direct {
            Err(_) if self.dialer.tor.borrow().is_some() => self.reach_via(host, ports, Via::Tor).await,
            direct => direct,
        }
    }

    async fn reach_via(&self, host: &Host, ports: Ports, via: Via) -> Result<Option<IpAddr>, Failure> {
        let addresses = match host {
            Host::Ip(ip) => vec![*ip],
            Host::Dns(name) => self.dialer.resolve(name, via).await?,
            Host::Onion(_) => return Err(Failure::NotFound),
        };
        let attempt = Attempt::plain(host.clone(), via, addresses, ports.iter().collect());
        let expected = Expected {
            host: Some(host.clone()),
            genesis_hash: self.network.genesis_hash(),
            default_ports: self.network.default_ports(),
            announce: None,
            compare: None,
        };
        probe(&self.dialer, &attempt, &expected, Deadlines::of(via), |_| {}).await.map(|verified| verified.ip)
    }
}

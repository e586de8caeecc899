//! Own names that were announced to a peer.

use crate::clock::Time;
use crate::peer::Host;

/// Own names that this process announced to a peer, with the times. A node has at most five.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct AnnouncedNames(Vec<(Host, Time)>);

impl AnnouncedNames {
    /// Returns when a name was last announced; `None` if never.
    pub fn at(&self, own: &Host) -> Option<Time> {
        self.0.iter().find(|(name, _)| name == own).map(|(_, at)| *at)
    }

    /// Records an announcement.
    pub fn record(&mut self, own: &Host, now: Time) {
        self.0.retain(|(name, _)| name != own);
        self.0.push((own.clone(), now));
    }
}

//! Requests of a verification.

/// Request of a verification.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ProbeStep {
    /// `server.version` with a range of versions.
    Version,
    /// `server.version` in the form of the first protocol, after an error.
    LegacyVersion,
    /// `server.features`, unless it is skipped.
    Features,
    /// `server.peers.subscribe`.
    Peers,
    /// `blockchain.headers.subscribe`.
    Headers,
    /// `blockchain.block.header` at the height that shows the pinned block.
    Pin,
    /// `blockchain.block.header` at the compared height, or at a lower one if the peer's chain does not reach it.
    Block,
    /// `server.add_peer`, only if the peer does not list the own name.
    Announce,
    /// `blockchain.block.headers`, repeated until the position of the peer's tip is known.
    Chain,
}

impl ProbeStep {
    /// Returns the JSON-RPC method of the step.
    pub fn method(self) -> &'static str {
        match self {
            ProbeStep::Version | ProbeStep::LegacyVersion => "server.version",
            ProbeStep::Features => "server.features",
            ProbeStep::Peers => "server.peers.subscribe",
            ProbeStep::Announce => "server.add_peer",
            ProbeStep::Headers => "blockchain.headers.subscribe",
            ProbeStep::Pin | ProbeStep::Block => "blockchain.block.header",
            ProbeStep::Chain => "blockchain.block.headers",
        }
    }
}

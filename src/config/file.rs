//! The keys as they are written. All of them may be left out; what they default to stands next to each.

use std::net::{IpAddr, SocketAddr};
use std::path::PathBuf;

use serde::{Deserialize, Serialize};

use super::{HumanDuration, PageAddress};
use crate::backend::BackendTarget;
use crate::network::Network;
use crate::peer::{Endpoint, Host, Port};
use crate::tor::Mode;

/// Declares a table of optional keys, and how one is laid over another.
macro_rules! config_section {
    ($(#[doc = $doc:literal])* $name:ident { $($(#[doc = $field_doc:literal])* $field:ident: $type:ty,)* }) => {
        $(#[doc = $doc])*
        #[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
        #[serde(default, deny_unknown_fields)]
        pub struct $name {
            $($(#[doc = $field_doc])* #[serde(skip_serializing_if = "Option::is_none")] pub $field: Option<$type>,)*
        }

        impl $name {
            /// Text of the section in the configuration reference.
            pub(super) const DOC: &'static str = concat!($($doc),*);

            /// Keys of the section, each with its text in the configuration reference.
            pub(super) const KEYS: &'static [(&'static str, &'static str)] =
                &[$((stringify!($field), concat!($($field_doc),*)),)*];

            /// Returns this section with every key that `over` sets taken from there.
            pub fn merged(self, over: $name) -> $name {
                $name { $($field: over.$field.or(self.$field),)* }
            }
        }
    };
}

/// Everything that may be set.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct ConfigFile {
    /// The chain whose servers are looked for. Default: bitcoin.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub network: Option<Network>,
    /// Where the book and the control socket are kept. Default: $XDG_DATA_HOME/waypost for bitcoin, and a directory
    /// with the chain's name below it for other chains.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub data_dir: Option<PathBuf>,
    pub listen: Listen,
    pub identity: IdentityKeys,
    pub tor: Tor,
    pub discovery: Discovery,
    pub backend: BackendKeys,
    pub irc: IrcKeys,
    pub limits: LimitKeys,
    pub status: StatusKeys,
    pub log: Log,
}

config_section! {
    /// Where callers find us.
    Listen {
        /// Default: 127.0.0.1:50001.
        tcp: Vec<SocketAddr>,
        /// Default: none.
        tls: Vec<SocketAddr>,
        /// WebSocket, without and with TLS. Default: none.
        ws: Vec<SocketAddr>,
        wss: Vec<SocketAddr>,
        /// The certificate, in PEM, with those that vouch for it, and its key. Default: one of our own, made once.
        cert: PathBuf,
        key: PathBuf,
        /// Whether to serve on our own onion service, which the embedded Tor runs. Default: true where it does.
        onion: bool,
        /// The port of our onion service, embedded or not. Default: the network's usual TCP port.
        onion_port: Port,
        /// Where an external Tor hands on the callers of `identity.onion_host`. Default: none.
        onion_tcp: Vec<SocketAddr>,
    }
}

config_section! {
    /// What we tell others of ourselves. Default: nothing.
    IdentityKeys {
        /// Our name on clearnet, with at least one of the ports.
        host: Host,
        tcp_port: Port,
        ssl_port: Port,
        /// The public address of `host`, where this machine looks up another or a router takes no connections from inside.
        /// Default: as `host` is looked up.
        address: IpAddr,
        /// The onion service that an external Tor runs for us. Our own needs no entry here.
        onion_host: Host,
        /// Whether to announce this node to peers that do not list it. Default: true with a backend server.
        announce: bool,
        /// Whether each name may be told to callers of the other. Default: false.
        link_identities: bool,
        /// Shown by wallets that ask for it. Default: the backend's, if there is one.
        banner: String,
        donation_address: String,
    }
}

config_section! {
    /// How onion peers are reached.
    Tor {
        /// Default: auto.
        mode: Mode,
        /// The SOCKS port of a Tor. Default: 127.0.0.1:9050, then 127.0.0.1:9150.
        socks: SocketAddr,
        /// Whether nothing may leave but through Tor, questions for names included. Default: false.
        only: bool,
        /// A file with settings of Arti's, the embedded Tor, such as bridges. Default: none.
        arti_config: PathBuf,
    }
}

config_section! {
    /// How peers are looked for and kept.
    Discovery {
        /// Real names; replaces the built-in list.
        seeds: Vec<String>,
        /// A good peer is connected to again within this. Default: 24h.
        recheck_interval: HumanDuration,
        /// Verified within this: fit to be advertised. Default: 24h.
        max_age: HumanDuration,
        /// No success for this long: removed. Default: 14d.
        expire_after: HumanDuration,
        /// From the first failure to the next try; doubles, with jitter, up to `recheck`. Default: 5m.
        initial_retry: HumanDuration,
        /// Onion peers advertised when Tor is unavailable. Default: 3.
        fallback_onions: usize,
        /// Ban list: a file with a host, *.domain, address or block of addresses on each line. Default: `bans` in
        /// the data directory.
        ban_file: PathBuf,
        /// Whether loopback and private addresses may be peers, for test networks. Default: false.
        allow_private: bool,
        /// Verifications at once. Default: 32.
        max_probes: usize,
        /// Those of them that go through Tor. Default: 8.
        max_tor_probes: usize,
    }
}

config_section! {
    /// The Electrum server that we stand in front of.
    BackendKeys {
        /// tcp://HOST:PORT, tls://HOST:PORT or unix:PATH; or peers, of which the best then serves each session. Default: none.
        electrum: BackendTarget,
        /// With peers: whether callers of listeners that are not on loopback are served as well. Default: false.
        serve_public: bool,
        /// How long a caller's line for it may be. Default: 5000000.
        max_line_bytes: usize,
    }
}

config_section! {
    /// Visits to an IRC channel, for servers that can be found nowhere else. Many IRC networks forbid programs without leave of
    /// theirs: ask first.
    IrcKeys {
        /// Default: false.
        enabled: bool,
        /// Default: irc.libera.chat:6697.
        server: Endpoint,
        /// Default: #electrum.
        channel: String,
        /// The nicks of servers begin so. Default: E_ for bitcoin, ET_ for test networks.
        nick_prefix: String,
        /// From one visit to the next. Default: 6h.
        interval: HumanDuration,
        /// Default: true.
        tls: bool,
        /// Whether the server is called through Tor. Default: `tor.only`; onion services always are.
        tor: bool,
        /// The SHA-256 of the server's TLS key. Default: none; where there is a password, an authority must vouch for it then.
        key: String,
        /// Whether to stay, and ask after those who come. Default: false.
        persistent: bool,
        /// The server's password. Default: none.
        password: String,
        /// An account, for SASL PLAIN. Default: none.
        sasl_user: String,
        sasl_password: String,
        /// Whether to stay under the prefix, with `identity.host` as real name. Default: false.
        advertise: bool,
    }
}

config_section! {
    /// What callers may use.
    LimitKeys {
        /// Sessions at once. Default: 10000.
        max_sessions: usize,
        /// Those of one source: an IPv4 /24, an IPv6 /48, or a circuit of our onion service. Default: 50.
        sessions_per_source: usize,
        /// Requests of one session in a second; three seconds' worth may come at once. Default: 25.
        requests_per_second: u32,
        /// The same of one source; a session that begins is one more. Default: 25.
        source_requests_per_second: u32,
        /// Bytes of one source's requests in a second, and three times as many at once. Default: 65536.
        bytes_in_per_second: u32,
        /// The same of the answers to them. Default: 1048576.
        bytes_out_per_second: u32,
        /// Requests of one source for the backend in a second; three times as many at once. Default: 300.
        forwarded_requests_per_second: u32,
        /// Calls in one batch. Default: 64.
        max_batch: usize,
        /// How long the handshakes of TLS and WebSocket may take. Default: 10s.
        handshake_timeout: HumanDuration,
        /// How long a caller may say nothing. Default: 10m.
        idle_timeout: HumanDuration,
        /// How long a line may take, and an answer until it is taken. Default: 30s.
        line_timeout: HumanDuration,
    }
}

config_section! {
    /// A page for the operator, with /metrics and /healthz.
    StatusKeys {
        /// Its address, or off. It shows everything that we know, so mind who can reach it. Default: 127.0.0.1:4280.
        listen: PageAddress,
        /// Host names that browsers may use for the page, besides localhost and addresses. Default: none.
        allowed_hosts: Vec<String>,
        /// Whether /metrics has numbers of each peer as well. Default: false.
        peer_metrics: bool,
    }
}

config_section! {
    /// What is written to standard error.
    Log {
        /// error, warn, info, debug, trace or off, or directives such as "info,waypost::dial=debug". Default: info.
        level: String,
        /// Default: text.
        format: LogFormat,
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum LogFormat {
    #[default]
    Text,
    Json,
}

impl ConfigFile {
    /// This, with the keys that `over` sets replaced by its.
    pub fn merged(self, over: ConfigFile) -> ConfigFile {
        ConfigFile {
            network: over.network.or(self.network),
            data_dir: over.data_dir.or(self.data_dir),
            listen: self.listen.merged(over.listen),
            identity: self.identity.merged(over.identity),
            tor: self.tor.merged(over.tor),
            discovery: self.discovery.merged(over.discovery),
            backend: self.backend.merged(over.backend),
            irc: self.irc.merged(over.irc),
            limits: self.limits.merged(over.limits),
            status: self.status.merged(over.status),
            log: self.log.merged(over.log),
        }
    }
}

//! Keys of the configuration file. The doc of each key is its text in the reference.

use std::net::{IpAddr, SocketAddr};
use std::path::PathBuf;

use serde::{Deserialize, Serialize};

use super::{HumanDuration, PageAddress, PortList, WorkCheck};
use crate::backend::BackendTargets;
use crate::chain::{ChainName, HeaderRule};
use crate::peer::{Endpoint, Host, Port};
use crate::secret::Secret;
use crate::socks_address::SocksAddress;
use crate::tor::Mode;

/// Keys, each with its text in the configuration reference.
pub(super) type Keys = &'static [(&'static str, &'static str)];

/// Declares a section of optional keys with its reference text.
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
            pub(super) const KEYS: Keys = &[$((stringify!($field), concat!($($field_doc),*)),)*];

            /// Returns this section, overridden by the keys that `over` sets.
            pub fn merged(self, over: $name) -> $name {
                $name { $($field: over.$field.or(self.$field),)* }
            }
        }
    };
}

/// Declares the top level of the file: its own keys, and the sections.
macro_rules! config_file {
    (
        keys { $($(#[doc = $doc:literal])* $key:ident: $type:ty,)* }
        sections { $($section:ident: $section_type:ident,)* }
    ) => {
        /// Content of a configuration file.
        #[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
        #[serde(default, deny_unknown_fields)]
        pub struct ConfigFile {
            $($(#[doc = $doc])* #[serde(skip_serializing_if = "Option::is_none")] pub $key: Option<$type>,)*
            $(
                #[doc = concat!("The `[", stringify!($section), "]` section.")]
                pub $section: $section_type,
            )*
        }

        impl ConfigFile {
            /// Keys outside of sections, each with its text in the configuration reference.
            pub(super) const KEYS: Keys = &[$((stringify!($key), concat!($($doc),*)),)*];

            /// Name, text and keys of each section, in the order of the configuration reference.
            pub(super) const SECTIONS: &'static [(&'static str, &'static str, Keys)] =
                &[$((stringify!($section), $section_type::DOC, $section_type::KEYS),)*];

            /// Returns this configuration, overridden by the keys that `over` sets.
            pub fn merged(self, over: ConfigFile) -> ConfigFile {
                ConfigFile {
                    $($key: over.$key.or(self.$key),)*
                    $($section: self.$section.merged(over.$section),)*
                }
            }
        }
    };
}

config_file! {
    keys {
        /// Chain of the servers that Waypost looks for: a built-in one, listed in `docs/chains.md`, or the name of the
        /// one described in `[chain]`. Default: `bitcoin`.
        network: ChainName,
        /// Directory of the peer database, the keys and the control socket. Default: `$XDG_DATA_HOME/waypost` for
        /// bitcoin, and a directory below it with the chain's name for other chains.
        data_dir: PathBuf,
    }
    sections {
        chain: ChainSection,
        listen: ListenSection,
        identity: IdentitySection,
        tor: TorSection,
        discovery: DiscoverySection,
        backend: BackendSection,
        irc: IrcSection,
        limits: LimitsSection,
        status: StatusSection,
        log: LogSection,
    }
}

config_section! {
    /// Chain that is not built in. `network` is its name, and `discovery.seeds` has its first servers.
    ChainSection {
        /// Hash of the first block: 64 hexadecimal digits, as block explorers show it. Default: none; the section needs it.
        genesis_hash: String,
        /// Port for TCP that a server without a port number uses. Default: `50001`.
        tcp_port: Port,
        /// Port for TLS that a server without a port number uses. Default: `50002`.
        ssl_port: Port,
        /// Block that every server of the chain has, as `HEIGHT:HASH`: one after all splits. A server shows it with
        /// the header of the next block. Default: the first block, so other chains with the same can't be told apart.
        pin: String,
        /// Minimum height of a server that is not syncing. Default: one block above the pin.
        min_tip: u32,
        /// Which part of a block header is compared. `exact`: 80 bytes, and longer headers belong to another chain.
        /// `first80`: the first 80 bytes of 80 or more, for merged mining. `whole`: all bytes. Default: `whole`.
        header: HeaderRule,
        /// How the work of headers is checked. `none`: not at all. `sha256d`: the double SHA-256 of the header must
        /// meet the target that it states. Default: `none`.
        work: WorkCheck,
    }
}

config_section! {
    /// Endpoints for clients.
    ListenSection {
        /// Addresses for TCP. Default: `127.0.0.1:50001`.
        tcp: Vec<SocketAddr>,
        /// Addresses for TLS 1.2 and 1.3. Default: none.
        tls: Vec<SocketAddr>,
        /// Addresses for WebSocket without TLS. Default: none.
        ws: Vec<SocketAddr>,
        /// Addresses for WebSocket with TLS. Default: none.
        wss: Vec<SocketAddr>,
        /// PEM file with the certificate chain for TLS, read again when it changes. Needs `key`. Default: a
        /// self-signed certificate, created once.
        cert: PathBuf,
        /// PEM file with the private key of `cert`. Default: the key of the self-signed certificate.
        key: PathBuf,
        /// Whether to serve clients on an onion service of the embedded Tor. With true,
        /// `tor.mode = "auto"` chooses the embedded Tor. Default: true if the embedded Tor is used.
        onion: bool,
        /// Port of the onion service, embedded or external, for TCP. A list has several ports: all serve clients, and
        /// the first is advertised. Default: the network's usual TCP port.
        onion_port: PortList,
        /// Port of the onion service for TLS, with a self-signed certificate of its own. Default: the network's usual
        /// TLS port with `onion_tls`, and otherwise none.
        onion_tls_port: Port,
        /// Number of introduction points of the embedded onion service. From 3 to 20. Default: 3.
        onion_introduction_points: u8,
        /// Directory with the public keys of the only clients that can reach the embedded onion service, in files
        /// `NAME.auth` as in C tor's `authorized_clients`. The onion name is then not advertised. Default: none, so
        /// all clients can.
        onion_clients: PathBuf,
        /// Addresses at which an external Tor delivers the clients of `identity.onion_host`. Default: none.
        onion_tcp: Vec<SocketAddr>,
        /// The same for clients that use TLS. Default: none.
        onion_tls: Vec<SocketAddr>,
        /// Addresses or networks of proxies, such as HAProxy or nginx, whose connections begin with a PROXY header,
        /// version 1 or 2. The source in it is then the client's address. All other connections with a header are
        /// closed. `tls=10.0.0.1` limits an entry to one of `tcp`, `tls`, `ws` and `wss`. List only addresses at which
        /// no other program runs that you do not trust. Default: none.
        trusted_proxies: Vec<String>,
    }
}

config_section! {
    /// Names under which this node is advertised.
    IdentitySection {
        /// Clearnet name of this node. Needs `tcp_port` or `ssl_port`. Default: none, so the node is not
        /// advertised on clearnet.
        host: Host,
        /// Port of `host` for TCP. Default: none.
        tcp_port: Port,
        /// Port of `host` for TLS. Default: none.
        ssl_port: Port,
        /// Port of `host` for WebSockets. Needs `tcp_port` or `ssl_port`. Default: none.
        ws_port: Port,
        /// Port of `host` for WebSockets over TLS. Needs `tcp_port` or `ssl_port`. Default: none.
        wss_port: Port,
        /// Further clearnet names of this server, at most three, such as the name of another provider or the address.
        /// Each has its ports: `b.example.org s50002 t50001`, with `wss50004` and `ws50003` for WebSockets. Each is
        /// verified and announced separately. Clients of any of them learn all of them. Needs `host`. Default: none.
        other_names: Vec<String>,
        /// Public IP address of `host`, for hosts behind NAT without hairpin and for split-horizon DNS.
        /// Default: the addresses that `host` resolves to.
        address: IpAddr,
        /// Local addresses that direct announcements come from, for hosts with several addresses: peers accept them only
        /// from an address of the announced name. The first one of a peer's address family is used, for `host` and
        /// `other_names`. Default: the addresses of this machine that the name resolves to, or else the system's choice.
        bind: Vec<IpAddr>,
        /// Onion service that an external Tor runs for this node. The embedded service needs no entry. Default:
        /// none.
        onion_host: Host,
        /// Whether to announce this node to peers that do not list it. True is an error with
        /// `backend.electrum = "peers"`. Default: true with a backend server.
        announce: bool,
        /// Whether clients of the clearnet name may learn the onion name, and the reverse. Default: false.
        link_identities: bool,
        /// Banner that wallets display. Default: the backend's, or a built-in text.
        banner: String,
        /// Donation address that wallets display. Default: the backend's, or empty.
        donation_address: String,
    }
}

config_section! {
    /// Route to onion peers.
    TorSection {
        /// `auto` uses a Tor on a SOCKS port if one answers, and otherwise the embedded one. Default: `auto`.
        mode: Mode,
        /// SOCKS port of an external Tor: `IP:PORT`, `HOST:PORT` or `unix:PATH`. A name is resolved by this machine
        /// for each connection; with `only`, it must have no dot. Default: `127.0.0.1:9050`, then `127.0.0.1:9150`.
        socks: SocksAddress,
        /// User name for a proxy in front of Tor that requires a login. Waypost appends `+` and a code for each group
        /// of connections that may share circuits. At most 222 bytes. Default: none, as Tor accepts any login.
        socks_user: String,
        /// Password of `socks_user`. Default: the content of `socks_password_file`.
        socks_password: Secret,
        /// File with the password of `socks_user`, for example a credential of systemd. Default: none.
        socks_password_file: PathBuf,
        /// Whether to send `socks_user` as it is, for a proxy that accepts no other user name. Connections to different
        /// peers may then share circuits. Default: false.
        socks_exact_login: bool,
        /// Whether all traffic goes through Tor, name resolution included. Default: false.
        only: bool,
        /// TOML file with settings of Arti, the embedded Tor, for example bridges. Default: none.
        arti_config: PathBuf,
        /// Directory with keys for onion peers that require one, in files `NAME.auth_private` as in C tor's
        /// `ClientOnionAuthDir`. Needs the embedded Tor. Default: none.
        onion_auth_dir: PathBuf,
    }
}

config_section! {
    /// Search for peers, and how long they are kept.
    DiscoverySection {
        /// Peers to start with, each as a real name: host, then `s` and the TLS port, `t` and the TCP port.
        /// Default: the built-in seeds of the network.
        seeds: Vec<String>,
        /// Longest time between two verifications of a good peer. From 1s to 3650d. Default: 24h.
        recheck_interval: HumanDuration,
        /// Longest time since the last success for a peer to be advertised. From 1s to 3650d. Default: 24h.
        max_age: HumanDuration,
        /// Time without success after which a peer is removed. Only time during which its path worked counts.
        /// From 1s to 3650d, not below `max_age`. Default: 14d.
        expire_after: HumanDuration,
        /// Delay after the first failure. It doubles, with jitter, up to `recheck_interval`. From 1s to 3650d, not
        /// above `recheck_interval`. Default: 5m.
        initial_retry: HumanDuration,
        /// Number of onion peers in a list while Tor is unavailable. From 0 to 50. Default: 3.
        fallback_onions: usize,
        /// Ban list: a file with a host, `*.domain`, address or subnet on each line, read again when it
        /// changes. Default: `bans` in the data directory.
        ban_file: PathBuf,
        /// Further ban lists, in the format of `ban_file` or in ElectrumX's (a JSON array). They are read again when
        /// they change, and never written. Default: none.
        ban_lists: Vec<PathBuf>,
        /// Public key of minisign, as in a .pub file. With it, each file of `ban_lists` needs a valid signature in a
        /// file of the same name plus `.minisig`. Default: none.
        ban_list_key: String,
        /// Map from addresses to autonomous systems, in the binary format of Bitcoin Core's `-asmap`. It is read at
        /// the start and on SIGHUP. With it, the network of a provider has at most two new peers in a list. Default:
        /// none, and only ranges of addresses are limited.
        asmap: PathBuf,
        /// Whether loopback and private addresses may be peers, for test networks. Default: false.
        allow_private: bool,
        /// Verifications at once. From 1 to 1000. Default: 32.
        max_probes: usize,
        /// Verifications through Tor at once, as part of `max_probes`. From 1 to 1000. Default: 8.
        max_tor_probes: usize,
    }
}

config_section! {
    /// Upstream for all requests other than discovery.
    BackendSection {
        /// Electrum server as `tcp://HOST:PORT`, `tls://HOST:PORT` or `unix:PATH`. With `peers`, verified peers
        /// serve each session. A list has several servers, and `peers` last if at all. Default: none.
        electrum: BackendTargets,
        /// With `peers`: whether to serve clients of listeners that are not on loopback. Onion clients are always
        /// served. Default: false.
        serve_public: bool,
        /// With `v2`: connections to the servers begin with a PROXY header, version 2, that has the address of the
        /// client. Those of onion clients and of Waypost itself say LOCAL. Each server must expect the header.
        /// Default: none.
        proxy_protocol: ProxyProtocol,
        /// Longest line of a client for the backend, in bytes. From 16384 to 32000000. Default: 5000000.
        max_line_bytes: usize,
    }
}

config_section! {
    /// Visits to an IRC channel, for servers that advertise themselves only there. Many IRC networks forbid
    /// bots without permission: ask first.
    IrcSection {
        /// Whether to visit the channel. Default: false.
        enabled: bool,
        /// IRC server. Default: `irc.libera.chat:6697`.
        server: Endpoint,
        /// Channel to join. It begins with `#`, `&`, `+` or `!` and has at most 50 bytes. Default: `#electrum`.
        channel: String,
        /// Prefix of the servers' nicks, from 1 to 5 bytes. Default: `E_` for bitcoin, `ET_` for other chains.
        nick_prefix: String,
        /// Time between two visits. From 10m to 365d. Default: 6h.
        interval: HumanDuration,
        /// Whether to connect with TLS. False is an error through Tor, except with an onion service. Default: true.
        tls: bool,
        /// Whether to connect through Tor. With `tor.only` or an onion service as `server`, Tor is always used, and
        /// false has no effect. Default: false.
        tor: bool,
        /// SHA-256 of the public key of the server's certificate, in hex. Needs `tls`. Default: none; with a
        /// password, the server then needs a certificate from a certificate authority.
        key: String,
        /// Whether to stay in the channel and query servers that join later. Default: false.
        persistent: bool,
        /// Password of the server. Needs `tls`. Default: none.
        password: Secret,
        /// Account for SASL PLAIN. Needs `sasl_password`. Default: none.
        sasl_user: String,
        /// Password of the account for SASL PLAIN. Needs `tls`. User and password have at most 295 bytes together.
        /// Default: none.
        sasl_password: Secret,
        /// Whether to use a server's nick with `identity.host` as real name. Needs `persistent` and
        /// `identity.host`. True is an error with `backend.electrum = "peers"`. On a node with an onion service it is
        /// ignored for visits through Tor, unless `tor.only` or `identity.link_identities` is set. Default: false.
        advertise: bool,
    }
}

config_section! {
    /// Limits for clients. A source is an IPv4 /24, an IPv6 /48, or a circuit of the onion service.
    LimitsSection {
        /// Sessions at once, of all listeners. A node with an onion service has half of them for its clients and half
        /// for clearnet clients. With `identity.link_identities`, each may use three quarters. From 1 to 1000000.
        /// Default: 10000.
        max_sessions: usize,
        /// Sessions of one source at once. From 1 to 1000000. Default: 50.
        sessions_per_source: usize,
        /// Requests per second of one session, with bursts of three times as many. From 1 to 1000000000.
        /// Default: 25.
        requests_per_second: u32,
        /// Requests per second of one source, with bursts of three times as many. A new session counts as a
        /// request. From 1 to 1000000000. Default: 25.
        source_requests_per_second: u32,
        /// Bytes per second that are read from one source, with bursts of three times as many. All bytes
        /// count, also those of handshakes, blank lines and WebSocket frames; further ones wait. From 16384 to
        /// 1000000000. Default: 65536.
        bytes_in_per_second: u32,
        /// Bytes of responses per second to one source, with bursts of three times as many. From 524288 to
        /// 1000000000. Default: 1048576.
        bytes_out_per_second: u32,
        /// Requests per second of one source to the backend, with bursts of three times as many. From 1 to
        /// 1000000000. Default: 300.
        forwarded_requests_per_second: u32,
        /// Requests in one batch. From 1 to 1000. Default: 400.
        max_batch: usize,
        /// Time for a TLS or WebSocket handshake. From 1s to 24h. Default: 10s.
        handshake_timeout: HumanDuration,
        /// Time without a request after which a session ends. From 1s to 24h. Default: 10m.
        idle_timeout: HumanDuration,
        /// Time for a line from its first byte to its last, and for the client to read a response. From 1s to
        /// 24h. Default: 30s.
        line_timeout: HumanDuration,
        /// Addresses or networks of clients without limits on sessions per source, requests and bytes, which are not
        /// evicted either. `max_sessions`, `max_batch`, the timeouts and the memory for clients still apply. Default:
        /// none.
        exempt: Vec<String>,
    }
}

config_section! {
    /// Status page for the operator, with `/metrics` and `/healthz`.
    StatusSection {
        /// Address of the page, or `off`. The page shows all own names and peers. Default: `127.0.0.1:4280`.
        listen: PageAddress,
        /// Host names that browsers may use for the page, besides `localhost` and IP addresses. Default: none.
        allowed_hosts: Vec<String>,
        /// Whether `/metrics` contains series per peer. Default: false.
        peer_metrics: bool,
        /// Addresses of a page for the public: the verified peers in the list of clearnet clients, as HTML and as
        /// `/peers.json`, and nothing about this node. Default: none.
        public: Vec<SocketAddr>,
        /// Likewise, with the list of onion clients, for a port of an onion service. Default: none.
        public_onion: Vec<SocketAddr>,
    }
}

config_section! {
    /// Log on standard error.
    LogSection {
        /// `error`, `warn`, `info`, `debug`, `trace` or `off`, or directives such as
        /// `info,waypost::dial=debug`. Default: `info`.
        level: String,
        /// `text` or `json`. Default: `text`.
        format: LogFormat,
    }
}

/// Version of the PROXY protocol that backend servers are sent.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum ProxyProtocol {
    /// Version 2, the binary one.
    V2,
}

/// Format of log lines.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum LogFormat {
    /// Text for people, the default.
    #[default]
    Text,
    /// One JSON object per line.
    Json,
}

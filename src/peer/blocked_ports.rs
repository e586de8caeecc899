//! Ports of services that unexpected JSON, TLS or a GET request of HTTP could harm.
//!
//! Untrusted sources choose the hosts and ports that Waypost dials. These ports are not dialled for
//! such a source. They stay allowed for onion services, which serve only ports of their own choice,
//! and for names from the operator. Ports of real Electrum servers are left out; a test checks this
//! against published server lists.

use super::Port;

/// Returns whether untrusted sources may not name this port.
pub fn is_blocked_port(port: Port) -> bool {
    BLOCKED_PORTS.iter().any(|table| table.binary_search(&port.get()).is_ok())
}

/// All tables. Each is sorted for a binary search.
const BLOCKED_PORTS: [&[u16]; 7] = [BROWSERS, DATABASES, ORCHESTRATION, MESSAGES, INDUSTRY, COINS, REMOTE];

/// Ports that browsers block: mail, file transfer, remote shells, IRC and others.
///
/// Source: the "bad ports" of the Fetch standard, <https://fetch.spec.whatwg.org/#port-blocking>,
/// which Bitcoin Core avoids as well (doc/p2p-bad-ports.md). Real Electrum servers use 110, 143,
/// 993, 995 and 5061, so these are left out: POP3, IMAP and SIP over TLS answer a JSON line with an
/// error.
const BROWSERS: &[u16] = &[
    1, 7, 9, 11, 13, 15, 17, 19, 20, 21, 22, 23, 25, 37, 42, 43, 53, 69, 77, 79, 87, 95, 101, 102, 103, 104, 109, 111,
    113, 115, 117, 119, 123, 135, 137, 139, 161, 179, 389, 427, 465, 512, 513, 514, 515, 526, 530, 531, 532, 540, 548,
    554, 556, 563, 587, 601, 636, 989, 990, 1719, 1720, 1723, 2049, 3659, 4045, 4190, 5060, 6000, 6566, 6665, 6666,
    6667, 6668, 6669, 6679, 6697, 10080,
];

/// Databases, caches and search engines; many accept commands without a login.
///
/// Sources: IANA's port registry and the products' manuals. SQL Server 1433, 1434; Oracle 1521;
/// ZooKeeper 2181; Firebird 3050; MySQL 3306, 33060; PostgreSQL 5432, PgBouncer 6432; Kibana 5601;
/// CouchDB 5984, 6984; Redis 6379, 6380, 16379, 26379; Cassandra 7199, 9042, 9142, 9160; Neo4j
/// 7473, 7474, 7687; InfluxDB 8086; Riak 8087, 8098; Couchbase 8091 to 8096, 11210; ClickHouse
/// 8123, 9000; ArangoDB 8529; Solr 8983; Hive 9083; Elasticsearch 9200, 9300; memcached 11211;
/// MongoDB 27017 to 27020; RethinkDB 28015, 29015.
const DATABASES: &[u16] = &[
    1433, 1434, 1521, 2181, 3050, 3306, 5432, 5601, 5984, 6379, 6380, 6432, 6984, 7199, 7473, 7474, 7687, 8086, 8087,
    8091, 8092, 8093, 8094, 8095, 8096, 8098, 8123, 8529, 8983, 9000, 9042, 9083, 9142, 9160, 9200, 9300, 11210, 11211,
    16379, 26379, 27017, 27018, 27019, 27020, 28015, 29015, 33060,
];

/// Interfaces that run programs or store the configuration of clusters.
///
/// Sources: the products' manuals. Docker 2375 to 2377, 4243; etcd 2379, 2380, 4001; Salt 4505,
/// 4506; Nomad 4646 to 4648; Flink 6123, 8081; Kubernetes ("Ports and Protocols") 6443, 10250,
/// 10255 to 10257, 10259; Spark 7077; Hadoop 8020, 8088, 50070; Puppet 8140; Vault 8200, 8201; Ray
/// 8265; Consul 8300 to 8302, 8500 to 8503, 8600; Jupyter 8888; supervisord 9001; Prometheus 9090,
/// 9091.
const ORCHESTRATION: &[u16] = &[
    2375, 2376, 2377, 2379, 2380, 4001, 4243, 4505, 4506, 4646, 4647, 4648, 6123, 6443, 7077, 8020, 8081, 8088, 8140,
    8200, 8201, 8265, 8300, 8301, 8302, 8500, 8501, 8502, 8503, 8600, 8888, 9001, 9090, 9091, 10250, 10255, 10256,
    10257, 10259, 50070,
];

/// Message queues and log collectors, which store or forward what they receive.
///
/// Sources: IANA's port registry and the products' manuals. MQTT 1883, 8883; Carbon 2003, 2004; NSQ
/// 4150, 4151; NATS 4222, 6222, 8222; OpenTSDB 4242; RabbitMQ 4369, 5671, 5672, 15671, 15672,
/// 25672; Logstash 5044; Fluent Bit 5170; syslog over TLS 6514; Pulsar 6650; Splunk 8089, 9997;
/// StatsD 8125; Kafka 9092 to 9094; beanstalkd 11300; GELF 12201; Fluentd 24224; STOMP 61613,
/// 61614; ActiveMQ 61616.
const MESSAGES: &[u16] = &[
    1883, 2003, 2004, 4150, 4151, 4222, 4242, 4369, 5044, 5170, 5671, 5672, 6222, 6514, 6650, 8089, 8125, 8222, 8883,
    9092, 9093, 9094, 9997, 11300, 12201, 15671, 15672, 24224, 25672, 61613, 61614, 61616,
];

/// Industrial controllers, which have no login and may fail on unexpected input.
///
/// Sources: IANA's port registry and the vendors' manuals. Modbus 502, 802; Niagara Fox 1911, 4911;
/// PC WORX 1962; EtherNet/IP 2222, 44818; IEC 60870-5-104 2404; OPC UA 4840; MELSEC 5006, 5007;
/// HART-IP 5094; FINS 9600; GE SRTP 18245, 18246; DNP3 over TLS 19999; ProConOS 20547; PROFINET
/// 34962 to 34964. S7's 102 is in [`BROWSERS`]. DNP3's 20000 is left out: real Electrum servers use
/// it, and a DNP3 frame must begin with 0x0564.
const INDUSTRY: &[u16] = &[
    502, 802, 1911, 1962, 2222, 2404, 4840, 4911, 5006, 5007, 5094, 9600, 18245, 18246, 19999, 20547, 34962, 34963,
    34964, 44818,
];

/// Nodes of Bitcoin, Lightning and other coins, miners, and Tor clients.
///
/// Sources: Bitcoin Core's chainparams.cpp and chainparamsbase.cpp (P2P, RPC and onion targets of
/// five chains) and doc/zmq.md (28332 to 28335); Core Lightning 9735, 9736; Ethereum clients 8545,
/// 8546, 8551, 30303; Zcash 8232, 8233, 18232; Litecoin 9332, 9333, 19332, 19333; Dash 9998, 9999;
/// Dogecoin 22555, 22556; Monero's wallet 18082, 18083; cgminer's API 4028, which accepts JSON; the
/// tor manual (SOCKS 9050, 9150; control 9051, 9151). LND's 10009 and Monero's 18081 are left out:
/// real Electrum servers use them.
const COINS: &[u16] = &[
    4028, 8232, 8233, 8332, 8333, 8334, 8545, 8546, 8551, 9050, 9051, 9150, 9151, 9332, 9333, 9735, 9736, 9998, 9999,
    18082, 18083, 18232, 18332, 18333, 18334, 18443, 18444, 18445, 19332, 19333, 22555, 22556, 28332, 28333, 28334,
    28335, 30303, 38332, 38333, 38334, 48332, 48333, 48334,
];

/// Remote control, debuggers, proxies, printers and file servers.
///
/// Sources: IANA's port registry and the products' manuals. SMB 445; IPP 631; rsync 873; SOCKS
/// 1080; Java RMI 1099; Squid 3128; iSCSI 3260; RDP 3389; distcc 3632; Subversion 3690; Selenium
/// 4444; Munin 4949; JDWP 5005; Android's adb 5037, 5555; Asterisk 5038; VNC 5800, 5900, 5901;
/// WinRM 5985, 5986; aria2 6800; AJP 8009; FreeSWITCH 8021; Privoxy 8118; JetDirect printers 9100;
/// Bacula 9101 to 9103; Git 9418. Webmin's and NDMP's 10000 is left out: real Electrum servers use
/// it.
const REMOTE: &[u16] = &[
    445, 631, 873, 1080, 1099, 3128, 3260, 3389, 3632, 3690, 4444, 4949, 5005, 5037, 5038, 5555, 5800, 5900, 5901,
    5985, 5986, 6800, 8009, 8021, 8118, 9100, 9101, 9102, 9103, 9418,
];

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;
    use crate::chain::Chain;

    /// Ports of published clearnet servers.
    ///
    /// Source: 3,445 entries of wallets' and servers' lists and 405 IRC real
    /// names.
    #[rustfmt::skip]
    const REAL: [u16; 274] = [
        80, 110, 143, 443, 444, 446, 700, 993, 995, 2052, 2053, 3012, 3020, 3339, 3342, 5000, 5010, 5028, 5036, 5061,
        5102, 5127, 5128, 5140, 5151, 5222, 5885, 5886, 6001, 8000, 8080, 8443, 9433, 9434, 10000, 10001, 10002,
        10003, 10004, 10005, 10006, 10007, 10008, 10009, 10010, 10011, 10012, 10013, 10014, 10015, 10016, 10017,
        10018, 10019, 10020, 10021, 10022, 10023, 10024, 10025, 10028, 10029, 10030, 10031, 10032, 10033, 10034,
        10035, 10036, 10050, 10051, 10052, 10053, 10054, 10055, 10056, 10057, 10058, 10059, 10060, 10061, 10062,
        10063, 10064, 10065, 10067, 10068, 10069, 10070, 10071, 10072, 10077, 10088, 10105, 10132, 10133, 10447,
        10891, 10892, 11001, 11002, 11017, 11077, 12343, 15885, 15886, 17485, 17486, 17487, 17488, 17989, 18001,
        18081, 19011, 19012, 20000, 20001, 20002, 20003, 20004, 20005, 20006, 20007, 20008, 20009, 20010, 20011,
        20012, 20013, 20014, 20015, 20016, 20017, 20018, 20019, 20020, 20021, 20022, 20023, 20024, 20025, 20028,
        20029, 20032, 20033, 20034, 20035, 20036, 20050, 20051, 20052, 20053, 20054, 20055, 20056, 20057, 20058,
        20059, 20060, 20061, 20062, 20063, 20064, 20065, 20066, 20067, 20068, 20069, 20070, 20071, 20072, 20073,
        20074, 20075, 20076, 20132, 20133, 20447, 21245, 22002, 23001, 30001, 30002, 30011, 30012, 33863, 34333,
        40001, 40002, 40003, 40004, 40005, 40006, 40009, 50001, 50002, 50003, 50004, 50005, 50006, 50007, 50008,
        50009, 50010, 50011, 50012, 50014, 50015, 50016, 50020, 50021, 50022, 50050, 50099, 50101, 50102, 50104,
        50105, 50112, 50212, 50512, 51000, 51001, 51002, 51003, 51011, 51012, 51234, 52001, 52002, 52011, 52138,
        53001, 53002, 53011, 53012, 54001, 54002, 54003, 54004, 55001, 55002, 55003, 55004, 56001, 56002, 56021,
        56022, 57001, 57002, 57005, 57006, 57009, 57010, 57081, 58881, 58882, 59002, 59991, 59992, 60001, 60002,
        60003, 60004, 60602, 62001, 62002, 62101, 62102, 63001, 63002, 64001, 64002, 65011,
    ];

    fn is_blocked(port: u16) -> bool {
        is_blocked_port(port.try_into().unwrap())
    }

    #[test]
    fn tables_are_sorted_and_share_no_port() {
        assert!(BLOCKED_PORTS.iter().all(|table| table.is_sorted()));
        let ports: BTreeSet<u16> = BLOCKED_PORTS.concat().into_iter().collect();
        assert_eq!(ports.len(), BLOCKED_PORTS.concat().len());
        assert!(ports.into_iter().all(is_blocked));
    }

    #[test]
    fn ports_of_harmful_services_are_blocked() {
        let named = [2375, 9200, 27017, 8332, 9051, 10250, 502, 102, 6379, 11211, 5432, 3306, 2379, 1883, 5672, 9092];
        assert!(named.into_iter().chain([21, 22, 25, 53, 445, 465, 587, 6667]).all(is_blocked));
    }

    #[test]
    fn ports_of_real_servers_are_not_blocked() {
        let blocked: Vec<u16> = REAL.into_iter().filter(|port| is_blocked(*port)).collect();
        assert_eq!(blocked, [0; 0]);
        assert!([110, 143, 443, 993, 995].iter().all(|port| REAL.contains(port)));
        for chain in Chain::BUILT_IN {
            let ports = chain.default_seeds().into_iter().map(|seed| seed.ports).chain([chain.default_ports]);
            assert!(ports.flat_map(|ports| ports.iter().collect::<Vec<_>>()).all(|(_, port)| !is_blocked_port(port)));
        }
    }
}

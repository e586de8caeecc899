//! Pages of peers, trends, the public page, and the pages with ten thousand peers.

use std::collections::BTreeSet;
use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::time::Duration;

use serde_json::{Value, json};

use crate::fixture;
use crate::json::{all_fields, documented};
use crate::status_page::Browser;
use crate::support::{self, Daemon, OFFLINE, TestDir, binary, fetch, fetch_as, hosts, http, wait_until};
use waypost::book::{Entry, ProbeRecord, Side, Source};
use waypost::chain::Chain;
use waypost::clock::{self, Time};
use waypost::connect::ProbeError;
use waypost::peer::{RealName, Transport};
use waypost::store::{Change, Store};

const PEERS: u32 = 10_000;
const SCRIPT: &str = "<script>alert(1)</script>";

/// Returns a peer that was verified each day for five weeks, and that is not due for hours.
fn verified(name: &str, ip: &str, now: Time) -> Entry {
    let name = RealName::parse(name, Chain::REGTEST.default_ports).unwrap();
    let mut entry = Entry::new(name, Source::Seed, Duration::ZERO, now - Duration::from_hours(24 * 40));
    entry.ip = Some(ip.parse().unwrap());
    entry.software = Some(format!("Electrum{SCRIPT} 1.0"));
    (entry.last_try, entry.last_success) = (Some(now), Some(now));
    entry.next_probe_at = now + Duration::from_hours(16);
    entry.reached.record((Transport::Tcp, "50001".parse().unwrap()), now);
    entry.history.push_back(ProbeRecord { at: now, failure: None, duration_ms: 120 });
    for day in 0..35 {
        let at = now - Duration::from_hours(24 * (34 - day));
        entry.days.record((day % 7 != 3).then_some(Duration::from_millis(100 + day)), at);
    }
    entry
}

/// Creates a data directory with two verified peers, and with one of each other state.
fn fill(dir: &TestDir) {
    use std::os::unix::fs::DirBuilderExt;

    let now = clock::now();
    std::fs::DirBuilder::new().mode(0o700).create(dir.data()).unwrap();
    let (mut store, _) = Store::open(&dir.data().join("peers.redb"), &Chain::REGTEST, now).unwrap();
    let day = Duration::from_hours(24);
    let entries = [
        verified("a.example t50001", "5.9.0.1", now),
        verified("b.example t50001", "88.99.0.1", now),
        Entry { last_success: Some(now - day * 3), ..verified("stale.example t50001", "8.8.0.1", now) },
        Entry { last_success: None, ..verified("candidate.example t50001", "9.9.0.1", now) },
        Entry { violation: Some(ProbeError::Closed), ..verified("bad.example t50001", "11.9.0.1", now) },
        verified("x.banned.example t50001", "12.9.0.1", now),
    ];
    store.write(&entries.map(|entry| Change::Save(Side::Both, Box::new(entry)))).unwrap();
    std::fs::write(dir.data().join("bans"), "*.banned.example\n").unwrap();
}

/// Sends a request and returns the whole response.
fn exchange(address: SocketAddr, request: &str) -> String {
    let mut stream = TcpStream::connect(address).unwrap();
    stream.set_read_timeout(Some(Duration::from_secs(10))).unwrap();
    stream.write_all(request.as_bytes()).unwrap();
    let mut response = String::new();
    stream.read_to_string(&mut response).unwrap();
    response
}

fn listed_hosts(list: &Value) -> BTreeSet<String> {
    list["peers"].as_array().unwrap().iter().map(|peer| peer["host"].as_str().unwrap().to_owned()).collect()
}

#[test]
fn public_page_shows_verified_peers_and_nothing_about_the_operator() {
    if !support::in_namespace(public_page_shows_verified_peers_and_nothing_about_the_operator, &[]) {
        return;
    }
    let dir = TestDir::new();
    fill(&dir);
    let (page, public, onion, backend) =
        (support::free_address(), support::free_address(), support::free_address(), support::free_address());
    let port = dir.address.port();
    dir.configure_tcp(&format!(
        "[identity]\nhost = \"operator.example\"\ntcp_port = {port}\naddress = \"5.9.0.9\"\nannounce = false\n\
         {OFFLINE}[backend]\nelectrum = \"tcp://{backend}\"\n\
         [status]\nlisten = \"{page}\"\npublic = [\"{public}\"]\npublic_onion = [\"{onion}\"]\n"
    ));
    let daemon = dir.start();
    let expected = BTreeSet::from(["a.example".to_owned(), "b.example".to_owned()]);
    let (code, list) = fetch_as(&public.to_string(), "any.name.example", "/peers.json");
    let list: Value = serde_json::from_str(&list).unwrap();
    assert_eq!((code, listed_hosts(&list)), (200, expected));
    let mut known = documented("/peers.json");
    assert!(all_fields(std::slice::from_ref(&list)).is_subset(&known), "{list}");
    known.retain(|field| !all_fields(std::slice::from_ref(&list)).contains(field));
    assert!(known.is_empty(), "documented, but not sent: {known:?}");

    // The onion side knows no peer of the clearnet side.
    let (code, list) = fetch(&onion.to_string(), "/peers.json");
    assert_eq!((code, list.as_str()), (200, r#"{"network":"regtest","peers":[]}"#));

    for path in ["/", "/peers.json"] {
        let response = exchange(public, &format!("GET {path} HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n"));
        let (head, body) = response.split_once("\r\n\r\n").unwrap();
        let head = head.to_ascii_lowercase();
        for header in ["\r\ndate:", "\r\nserver:", "\r\nset-cookie:", "\r\nlast-modified:"] {
            assert!(!head.contains(header), "{head}");
        }
        assert!(head.contains("cache-control: public, max-age=60") && head.contains("default-src 'none'"), "{head}");
        for secret in [
            "operator",
            "5.9.0.9",
            "127.0.0.1",
            &port.to_string(),
            &backend.port().to_string(),
            "candidate",
            "stale",
            "bad.example",
            "banned",
            "seed",
            "alert",
            "Electrum&",
            "1.0",
            "latency",
            "uptime",
            "Tor",
            env!("CARGO_PKG_VERSION"),
        ] {
            assert!(!body.contains(secret), "{secret}: {body}");
        }
        assert!(body.contains("a.example") && body.contains("50001"), "{body}");
    }
    for path in ["/metrics", "/healthz", "/trends.json", "/peer/a.example", "/nothing"] {
        assert_eq!(fetch(&public.to_string(), path).0, 404, "{path}");
    }
    assert_eq!(http(public, "POST / HTTP/1.0\r\n\r\n").0, 405);
    assert_eq!(fetch_as(&page.to_string(), "any.name.example", "/").0, 421, "the private page keeps its rule");
    daemon.stop();
}

#[test]
fn own_name_is_missing_on_the_public_page() {
    let (dir, public) = (TestDir::new(), support::free_address());
    fill(&dir);
    dir.configure_tcp(&format!(
        "[identity]\nhost = \"127.0.0.1\"\ntcp_port = {}\n{OFFLINE}allow_private = true\n\
         [status]\nlisten = \"off\"\npublic = [\"{public}\"]\n",
        dir.address.port()
    ));
    let daemon = dir.start();
    let address = dir.address.to_string();
    wait_until(30, "the own name is listed", || hosts(&address).contains("127.0.0.1"));
    let (code, list) = fetch(&public.to_string(), "/peers.json");
    let mut others = hosts(&address);
    others.remove("127.0.0.1");
    assert_eq!((code, listed_hosts(&serde_json::from_str(&list).unwrap())), (200, others));
    daemon.stop();
}

#[test]
fn silent_connections_do_not_block_the_public_page() {
    let (dir, page, public) = (TestDir::new(), support::free_address(), support::free_address());
    dir.configure_tcp(&format!("{OFFLINE}[status]\nlisten = \"{page}\"\npublic = [\"{public}\"]\n"));
    let daemon = dir.start();
    let silent: Vec<_> = (0..300).map(|_| TcpStream::connect(public).unwrap()).collect();
    let (code, text) = fetch(&public.to_string(), "/");
    assert!(code == 200 && text.contains("No server"), "{text}");
    assert_eq!(fetch(&page.to_string(), "/healthz"), (200, "ok\n".to_owned()));
    drop(silent);
    daemon.stop();
}

#[test]
fn peer_page_escapes_texts_and_unknown_hosts_are_not_found() {
    let (dir, page) = (TestDir::new(), support::free_address());
    fill(&dir);
    dir.configure_tcp(&format!("{OFFLINE}[status]\nlisten = \"{page}\"\n"));
    let daemon = dir.start();
    let address = page.to_string();
    let (code, text) = fetch(&address, "/peer/a.example");
    assert!(code == 200 && text.contains("Days as a table") && text.contains("port 50001, verified"), "{text}");
    assert!(text.contains("&#60;script") && !text.contains("<script"), "{text}");
    assert_eq!(text.matches("<tr><th scope=\"row\">").count(), 35, "a row for each day");
    assert!(!fetch(&address, "/").1.contains("<script"));
    let (code, text) = fetch(&address, "/peer/candidate.example");
    assert!(code == 200 && text.contains("never"), "{text}");
    for path in [
        "/peer/unknown.example",
        "/peer/%3Cscript%3Ealert(1)%3C/script%3E",
        "/peer/%3Cscript%3E",
        "/peer/..%2F..%2Fetc%2Fpasswd",
        "/peer/",
        "/peer/%00",
        "/peer/a.example/",
    ] {
        let (code, text) = fetch(&address, path);
        assert!((code == 404 || code == 400) && !text.contains("script") && !text.contains("etc"), "{path}: {text}");
    }
    assert_eq!(fetch_as(&address, "evil.example", "/peer/a.example").0, 421);
    assert_eq!(fetch_as(&address, "evil.example", "/trends.json").0, 421);
    daemon.stop();
}

#[test]
fn history_and_trends_survive_a_restart() {
    let (dir, other, page) = (TestDir::new(), support::free_address(), support::free_address());
    let identity = format!("[identity]\nhost = \"127.0.0.1\"\ntcp_port = {}\n", other.port());
    let listen = format!("[listen]\ntcp = [\"{other}\"]\n");
    let peer = Daemon::start(&dir.configure_named(
        "peer",
        &format!("{listen}{identity}{OFFLINE}allow_private = true\n[status]\nlisten = \"off\"\n"),
    ));
    dir.configure_tcp(&format!(
        "[tor]\nmode = \"off\"\n[discovery]\nseeds = [\"127.0.0.1 t{}\"]\nallow_private = true\n\
         [status]\nlisten = \"{page}\"\n",
        other.port()
    ));
    let daemon = dir.start();
    let address = page.to_string();
    let peer_page = || fetch(&address, "/peer/127.0.0.1").1;
    let samples =
        || -> Value { serde_json::from_str::<Value>(&fetch(&address, "/trends.json").1).unwrap()["samples"].take() };
    wait_until(30, "the peer is verified, and a sample is taken", || {
        peer_page().contains("verified in") && !samples()[0].is_null()
    });
    assert!(peer_page().contains("1 successful, 0 failed"), "{}", peer_page());
    let before = samples();
    let fields = all_fields(&[json!({ "samples": before })]);
    assert!(fields.is_subset(&documented("/trends.json")), "{fields:?}");
    daemon.stop();
    peer.stop();
    let daemon = dir.start();
    let page = peer_page();
    assert!(page.contains("verified in") && page.contains("1 successful, 0 failed"), "{page}");
    assert_eq!(samples(), before, "the next sample is due in an hour");
    daemon.stop();
}

/// The thresholds allow for a slow machine and an unoptimized build; `cargo bench --bench start` prints figures.
#[test]
fn ten_thousand_peers_are_shown_in_little_time_and_memory() {
    if !support::in_namespace(ten_thousand_peers_are_shown_in_little_time_and_memory, &[]) {
        return;
    }
    let dir = TestDir::new();
    fixture::fill(&dir.data(), PEERS, 4);
    let (page, public, config) = ("127.0.0.1:4280", "127.0.0.1:4281", dir.config());
    let text = format!(
        "data_dir = {:?}\n[listen]\ntcp = [\"{}\"]\n{OFFLINE}[status]\npublic = [\"{public}\"]\n",
        dir.data(),
        dir.address
    );
    std::fs::write(&config, text).unwrap();
    let daemon = dir.start();
    let before = support::resident_bytes(daemon.id());
    let mut slowest = Duration::ZERO;
    for path in ["/?sort=latency", "/?sort=host&page=50", "/", "/peer/electrum1.example-host1.org", "/trends.json"] {
        let start = support::now();
        let (code, text) = fetch(page, path);
        let took = start.elapsed();
        println!("{path}: {} bytes in {took:?}", text.len());
        assert_eq!(code, 200, "{path}: {text}");
        slowest = slowest.max(took);
    }
    let start = support::now();
    let output = binary(&["peers", "--config"]).arg(&config).output().unwrap();
    let peers_took = start.elapsed();
    let grown = support::resident_bytes(daemon.id()).saturating_sub(before);
    println!(
        "waypost peers: {} bytes in {peers_took:?}; resident memory has grown by {grown} bytes",
        output.stdout.len()
    );
    assert!(output.status.success() && slowest < Duration::from_secs(1) && peers_took < Duration::from_secs(3));

    let browser = Browser::new(dir.root());
    browser.check_variants(&format!("http://{page}/"), "ten-thousand");
    browser.check_variants(&format!("http://{page}/peer/electrum1.example-host1.org"), "ten-thousand-peer");
    browser.check_variants(&format!("http://{public}/"), "ten-thousand-public");
    daemon.stop();
}

//! Counts over a file of published list entries.
//!
//! `LISTS=FILE cargo test --test it real_lists -- --ignored --nocapture`. The file is a JSON array of pairs: an entry of a
//! peer list or a real name, and its origin.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;

use serde_json::Value;
use waypost::chain::Chain;
use waypost::peer::{Host, HostError, PeerList, RealName, RealNameError};

#[test]
#[ignore = "needs a file of list entries: LISTS=FILE"]
fn real_entries_are_kept_or_dropped_for_a_reason() {
    let path = std::env::var_os("LISTS").expect("set LISTS to a file of list entries");
    let file: Vec<Value> = serde_json::from_slice(&std::fs::read(path).unwrap()).unwrap();
    let entries: BTreeSet<String> = file.iter().map(|pair| pair[0].to_string()).collect();
    let (mut kept, mut dropped) = (0, BTreeMap::new());
    for entry in entries.iter().map(|text| serde_json::from_str::<Value>(text).unwrap()) {
        let (name, tokens) = words(&entry);
        match parse(&entry, &name, &tokens) {
            Ok(found) => {
                assert_eq!(found, expected(&name, &tokens), "misread: {entry}");
                kept += 1;
            }
            Err(error) => {
                let is_old_onion = error == RealNameError::Host(HostError::OnionVersion);
                assert!(is_old_onion || !is_accepted_by_electrum(&entry), "Electrum accepts {entry}: {error}");
                *dropped.entry(error.to_string()).or_insert(0) += 1;
            }
        }
    }
    println!("{} entries, {kept} kept, dropped: {dropped:#?}", entries.len());
}

/// Parses an entry as it is parsed in a list, and as a real name.
fn parse(entry: &Value, name: &str, tokens: &[String]) -> Result<String, RealNameError> {
    let defaults = Chain::BITCOIN.default_ports;
    let parsed = RealName::from_tokens(name, tokens.iter().map(String::as_str), defaults);
    if entry.is_array() {
        let list = PeerList::parse(&format!("[{entry}]"), defaults).unwrap();
        assert_eq!(list.0.first().map(|listed| listed.name.clone()), parsed.clone().ok(), "{entry}");
    }
    Ok(parsed?.to_string())
}

/// Returns the host and the tokens of an entry.
fn words(entry: &Value) -> (String, Vec<String>) {
    match entry {
        Value::String(line) => {
            let mut words = line.split_ascii_whitespace().map(str::to_owned);
            (words.next().unwrap_or_default(), words.collect())
        }
        _ => {
            let tokens = entry[2].as_array().into_iter().flatten().filter_map(Value::as_str).map(str::to_owned);
            (entry[1].as_str().unwrap_or_default().to_owned(), tokens.collect())
        }
    }
}

/// Reads an entry in another way than the library: the last token of each letter counts.
fn expected(name: &str, tokens: &[String]) -> String {
    let host: Host = name.trim().trim_end_matches('.').to_lowercase().parse().unwrap();
    let mut parts = vec![host.to_string()];
    for (letter, default) in [('v', None), ('p', None), ('s', Some(50002)), ('t', Some(50001))] {
        let rests = tokens.iter().filter_map(|token| token.strip_prefix(letter));
        let mut valid = rests.filter_map(|rest| match letter {
            'v' => rest.starts_with(|first: char| first.is_ascii_digit()).then(|| rest.to_owned()),
            _ if rest.is_empty() => default.map(|port: u16| port.to_string()),
            _ => rest.parse::<u32>().ok().filter(|number| *number > 0).map(|number| number.to_string()),
        });
        parts.extend(valid.next_back().map(|value| format!("{letter}{value}")));
    }
    parts.join(" ")
}

/// Returns whether Electrum 4.8 keeps an entry and can connect: a host, a port, and a version from 1.4 on.
fn is_accepted_by_electrum(entry: &Value) -> bool {
    let (name, tokens) = words(entry);
    let is_host = name.parse::<IpAddr>().is_ok() || !name.contains([':', '/', ' ']);
    let has_port = tokens.iter().any(|token| {
        let digits = token.strip_prefix(['s', 't']);
        digits.is_some_and(|digits| digits.bytes().all(|byte| byte.is_ascii_digit()))
    });
    let is_current = |version: &str| {
        let mut numbers = version.split('.').map(str::parse::<u32>);
        let pair = (numbers.next().and_then(Result::ok), numbers.next().and_then(Result::ok).unwrap_or(0));
        matches!(pair, (Some(major), minor) if (major, minor) >= (1, 4))
    };
    let version = tokens.iter().filter_map(|token| token.strip_prefix('v')).next_back();
    entry.as_array().is_some_and(|parts| parts.len() >= 3) && is_host && has_port && version.is_some_and(is_current)
}

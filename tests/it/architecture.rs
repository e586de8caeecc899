//! Keeps the house in order: which module may know of which, what the pure layers stay clear of, and how long a file
//! may grow.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use serde_json::Value;

/// Every module with its layer and those of its own layer that it may import. All of a lower layer are free.
const MODULES: &[(&str, u8, &[&str])] = &[
    ("clock", 0, &[]),
    ("netgroup", 0, &[]),
    ("peer", 0, &["netgroup"]),
    ("ban_list", 0, &["netgroup", "peer"]),
    ("network", 0, &["peer"]),
    ("jsonrpc", 0, &["peer"]),
    ("route", 1, &[]),
    ("book", 1, &["route"]),
    ("electrum", 1, &["book"]),
    ("book_handle", 2, &[]),
    ("store", 2, &[]),
    ("dial", 2, &[]),
    ("probe", 2, &["dial"]),
    ("backend", 2, &["dial", "book_handle", "probe"]),
    ("server", 2, &["backend", "dial", "book_handle"]),
    ("tor", 2, &["dial", "book_handle", "probe"]),
    ("irc_discovery", 2, &["dial", "book_handle"]),
    ("control", 2, &["backend", "book_handle", "irc_discovery", "server"]),
    ("status_page", 2, &["control", "book_handle", "server"]),
    ("config", 3, &[]),
    ("daemon", 3, &["config"]),
    ("cli", 3, &["config", "daemon"]),
];

/// Files that hold nothing but tests or the list of modules.
const NO_MODULE: &[&str] = &["lib.rs", "main.rs"];

/// What would make a pure layer depend on more than its arguments.
const IMPURE: &[&str] = &[
    "clock::now",
    "tokio::",
    "std::fs",
    "std::thread",
    "std::env",
    "async fn",
    ".await",
    "TcpStream",
    "UdpSocket",
    "SystemTime::now",
    "Instant::now",
    "make_rng",
    "tracing::",
];

#[test]
fn arrows_go_down() {
    let mut wrong = Vec::new();
    for (path, text) in sources() {
        let Some(module) = module_of(&path) else { continue };
        let (layer, beside) = rule(&module);
        for imported in imports(&text) {
            let (its_layer, _) = rule(&imported);
            let fine = imported == module || its_layer < layer || beside.contains(&imported.as_str());
            if !fine {
                wrong.push(format!("{} (layer {layer}) imports {imported} (layer {its_layer})", path.display()));
            }
        }
    }
    assert!(wrong.is_empty(), "arrows that ARCHITECTURE.md doesn't have:\n{}", wrong.join("\n"));
}

#[test]
fn the_pure_layers_are_pure() {
    let mut wrong = Vec::new();
    for (path, text) in sources() {
        let Some(module) = module_of(&path) else { continue };
        if rule(&module).0 > 1 || module == "clock" {
            continue;
        }
        let code = text.split("#[cfg(test)]").next().unwrap_or_default();
        let code: String =
            code.lines().filter(|line| !line.trim_start().starts_with("//")).collect::<Vec<_>>().join("\n");
        wrong.extend(
            IMPURE.iter().filter(|word| code.contains(*word)).map(|word| format!("{}: {word}", path.display())),
        );
    }
    assert!(wrong.is_empty(), "layers 0 and 1 are handed time, chance and bytes:\n{}", wrong.join("\n"));
}

#[test]
fn only_dial_opens_connections() {
    let opening = ["TcpStream::connect", "UdpSocket", "lookup_host", "ToSocketAddrs", "TcpSocket"];
    let may = |path: &Path| path.ends_with("dial/direct.rs") || path.ends_with("dial/socks.rs");
    let mut wrong = Vec::new();
    for (path, text) in sources().into_iter().filter(|(path, _)| !may(path)) {
        let code = text.split("#[cfg(test)]").next().unwrap_or_default();
        wrong.extend(
            opening.iter().filter(|word| code.contains(*word)).map(|word| format!("{}: {word}", path.display())),
        );
    }
    assert!(wrong.is_empty(), "with tor.only this would go past Tor:\n{}", wrong.join("\n"));
}

#[test]
fn files_hold_one_idea() {
    let long: Vec<String> = sources()
        .into_iter()
        .map(|(path, text)| (path, text.lines().count()))
        .filter(|(_, lines)| *lines > 450)
        .map(|(path, lines)| format!("{}: {lines} lines", path.display()))
        .collect();
    assert!(long.is_empty(), "split these:\n{}", long.join("\n"));
}

#[test]
fn nothing_is_left_for_later() {
    let marks = ["TODO", "FIXME", "XXX", "HACK", "todo!", "unimplemented!"];
    let wrong: Vec<String> = sources()
        .into_iter()
        .filter_map(|(path, text)| Some((path, *marks.iter().find(|mark| text.contains(**mark))?)))
        .map(|(path, mark)| format!("{}: {mark}", path.display()))
        .collect();
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

/// Debian's `tor.service` starts nothing; the Tor is an instance of `tor@.service`.
#[test]
fn unit_and_nixos_module_start_after_the_system_tor() {
    let read = |file: &str| fs::read_to_string(root().join("contrib").join(file)).unwrap();
    let units = |text: &str, key: &str| -> BTreeSet<String> {
        let line = text.lines().find_map(|line| line.trim().strip_prefix(key)).unwrap();
        let words = line.split(|c: char| c.is_whitespace() || "\"[];".contains(c));
        words.filter(|word| word.contains('.')).map(str::to_owned).collect()
    };
    let unit = units(&read("systemd/waypost.service"), "After=");
    assert_eq!(unit, units(&read("nixos/module.nix"), "after = "));
    assert!(unit.contains("tor.service") && unit.contains("tor@default.service"), "{unit:?}");
}

/// The same service by systemd's unit and by the NixOS module, but for where things are.
#[test]
fn the_nixos_module_hardens_as_the_unit_does() {
    let read = |file: &str| fs::read_to_string(root().join("contrib").join(file)).unwrap();
    let unit = read("systemd/waypost.service");
    let service = unit.split("[Service]").nth(1).unwrap().split("[Install]").next().unwrap();
    let module = read("nixos/module.nix");
    let config = module.split("serviceConfig = {").nth(1).unwrap().split("\n      };").next().unwrap();
    let elsewhere = ["ExecStart", "ExecReload", "Environment", "ConfigurationDirectory"];
    let gather = |text: &str, equals: &str| {
        let mut found: BTreeMap<String, String> = BTreeMap::new();
        let settings = text.lines().map(str::trim).filter(|line| line.starts_with(|c: char| c.is_ascii_uppercase()));
        for (key, value) in settings.filter_map(|line| line.split_once(equals)) {
            let words = value.replace(['"', '[', ']', ';'], " ").replace("true", "yes");
            found.entry(key.to_owned()).or_default().extend(words.split_whitespace().map(|word| format!("{word} ")));
        }
        found.retain(|key, _| !elsewhere.contains(&key.as_str()));
        found
    };
    let (unit, module) = (gather(service, "="), gather(config, " = "));
    assert!(unit.len() > 30, "{unit:?}");
    assert_eq!(unit, module);
}

/// The declared minimum is not below that of any dependency in the lock file.
#[test]
fn dependencies_build_with_the_declared_rust() {
    let output = Command::new(env!("CARGO"))
        .args(["metadata", "--locked", "--format-version", "1"])
        .current_dir(root())
        .stdin(Stdio::null())
        .output()
        .unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let metadata: Value = serde_json::from_slice(&output.stdout).unwrap();
    let packages = metadata["packages"].as_array().unwrap();
    let declared = env!("CARGO_PKG_RUST_VERSION");
    let number = |text: &str| -> Vec<u32> { text.split('.').map(|part| part.parse().unwrap()).collect() };
    let newer: Vec<String> = packages
        .iter()
        .filter_map(|package| Some((&package["name"], package["rust_version"].as_str()?)))
        .filter(|(_, needed)| number(needed) > number(declared))
        .map(|(name, needed)| format!("{name} needs Rust {needed}"))
        .collect();
    assert!(packages.len() > 300, "only {} packages are known", packages.len());
    assert!(newer.is_empty(), "Cargo.toml declares {declared}, but {newer:?}");
}

/// What SECURITY.md promises is shown by tests, and those that it names are there.
#[test]
fn promises_are_tested() {
    let promises = fs::read_to_string(root().join("SECURITY.md")).unwrap();
    let mut code: Vec<String> = sources().into_iter().map(|(_, text)| text).collect();
    for file in fs::read_dir(root().join("tests/it")).unwrap() {
        code.extend(fs::read_to_string(file.unwrap().path()));
    }
    let is_name = |word: &&str| {
        word.matches('_').count() >= 2 && word.bytes().all(|byte| byte.is_ascii_lowercase() || byte == b'_')
    };
    let named: Vec<&str> = promises.split('`').skip(1).step_by(2).filter(is_name).collect();
    assert!(named.len() > 20, "{named:?}");
    let missing: Vec<&&str> =
        named.iter().filter(|name| !code.iter().any(|text| text.contains(&format!("fn {name}(")))).collect();
    assert!(missing.is_empty(), "no such tests: {missing:?}");
}

#[test]
fn every_module_is_known_here_and_on_the_map() {
    let map = fs::read_to_string(root().join("ARCHITECTURE.md")).unwrap();
    let mut found: Vec<String> = sources().into_iter().filter_map(|(path, _)| module_of(&path)).collect();
    found.sort();
    found.dedup();
    let mut known: Vec<String> = MODULES.iter().map(|(name, ..)| (*name).to_owned()).collect();
    known.sort();
    assert_eq!(found, known);
    let missing: Vec<&String> = known.iter().filter(|name| !map.contains(&format!("`{name}"))).collect();
    assert!(missing.is_empty(), "ARCHITECTURE.md leaves out {missing:?}");
}

fn rule(module: &str) -> (u8, &'static [&'static str]) {
    let found = MODULES.iter().find(|(name, ..)| *name == module);
    let (_, layer, beside) = found.unwrap_or_else(|| panic!("architecture.rs knows no module `{module}`"));
    (*layer, beside)
}

/// The modules that a file names after `crate::`, outside of its tests.
fn imports(text: &str) -> Vec<String> {
    let code = text.split("#[cfg(test)]").next().unwrap_or_default();
    let code = code.lines().filter(|line| !line.trim_start().starts_with("//"));
    let after = code.flat_map(|line| line.split("crate::").skip(1).map(str::to_owned).collect::<Vec<_>>());
    let names = after.flat_map(|rest| {
        let name = |text: &str| text.chars().take_while(|c| c.is_ascii_alphanumeric() || *c == '_').collect::<String>();
        match rest.strip_prefix('{') {
            Some(list) => list.split([',', '}']).map(|item| name(item.trim())).collect(),
            None => vec![name(&rest)],
        }
    });
    names.filter(|name| !name.is_empty()).collect()
}

fn module_of(path: &Path) -> Option<String> {
    let inner = path.strip_prefix(root().join("src")).unwrap();
    let first = inner.components().next()?.as_os_str().to_str()?;
    (!NO_MODULE.contains(&first)).then(|| first.trim_end_matches(".rs").to_owned())
}

fn sources() -> Vec<(PathBuf, String)> {
    let mut files = Vec::new();
    let mut folders = vec![root().join("src")];
    while let Some(folder) = folders.pop() {
        for entry in fs::read_dir(folder).unwrap() {
            let path = entry.unwrap().path();
            if path.is_dir() {
                folders.push(path);
            } else if path.extension().is_some_and(|extension| extension == "rs") {
                files.push((path.clone(), fs::read_to_string(path).unwrap()));
            }
        }
    }
    assert!(files.len() > 40, "found only {} files", files.len());
    files
}

fn root() -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR"))
}

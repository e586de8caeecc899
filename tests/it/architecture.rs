//! Rules of the code base: layers, purity, connections, cycles, file lengths, wording and documents.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use serde_json::Value;

/// Modules with their layers, and with the modules of the same layer that they may import.
///
/// A module may import every module of a lower layer.
const MODULES: &[(&str, u8, &[&str])] = &[
    ("backoff", 0, &[]),
    ("clock", 0, &[]),
    ("netgroup", 0, &[]),
    ("as_map", 0, &["netgroup"]),
    ("peer", 0, &["netgroup"]),
    ("ban_list", 0, &["netgroup", "peer"]),
    ("networks", 0, &[]),
    ("chain", 0, &["peer"]),
    ("block_header", 0, &["chain"]),
    ("header_chain", 0, &["block_header", "chain", "peer"]),
    ("secret", 0, &[]),
    ("socks_address", 0, &["peer"]),
    ("jsonrpc", 0, &["peer"]),
    ("tor_state", 1, &[]),
    ("route", 1, &["tor_state"]),
    ("connect", 1, &["route"]),
    ("book", 1, &["connect", "route", "tor_state"]),
    ("electrum", 1, &["book", "connect"]),
    ("trends", 1, &[]),
    ("accept_loop", 2, &[]),
    ("client_counters", 2, &[]),
    ("api", 2, &["client_counters"]),
    ("atomic_file", 2, &[]),
    ("ban_files", 2, &[]),
    ("book_handle", 2, &["api"]),
    ("store", 2, &[]),
    ("dial", 2, &[]),
    ("probe", 2, &["dial"]),
    ("backend", 2, &["atomic_file", "dial", "book_handle", "probe"]),
    ("server", 2, &["accept_loop", "atomic_file", "backend", "client_counters", "dial", "book_handle"]),
    ("tor", 2, &["dial", "book_handle", "probe"]),
    ("irc_discovery", 2, &["api", "atomic_file", "dial", "book_handle"]),
    ("control", 2, &["accept_loop", "api", "book_handle"]),
    ("status_page", 2, &["accept_loop", "api", "book_handle", "client_counters"]),
    ("config", 3, &[]),
    ("daemon", 3, &["config"]),
    ("doctor", 3, &["config", "daemon"]),
    ("cli", 3, &["config", "daemon", "doctor"]),
];

/// Files that are no modules.
const NO_MODULE: &[&str] = &["lib.rs", "main.rs"];

/// Code that reads time, randomness or the outside world.
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

/// Functions that open connections or look names up. clippy's `disallowed-methods` has the same list.
const OPENING: &[&str] = &["TcpStream::connect", "UdpSocket", "lookup_host", "ToSocketAddrs", "TcpSocket"];

/// Words that CONTRIBUTING.md bans, with their inflections.
const BANNED: &[&str] = &[
    "whom",
    "whomever",
    "lest",
    "anew",
    "beside",
    "hearsay",
    "in vain",
    "told of",
    "tell of",
    "tells of",
    "telling of",
    "of ours",
    "mend",
    "mends",
    "mended",
    "mending",
    "reckon",
    "reckons",
    "reckoned",
    "reckoning",
    "knock",
    "knocks",
    "knocked",
    "knocking",
    "sent off",
    "send off",
    "sends off",
    "sending off",
    "turned away",
    "turn away",
    "turns away",
    "turning away",
    "whoever",
    "henceforth",
];

#[test]
fn imports_point_to_lower_layers() {
    let mut wrong = Vec::new();
    for (path, text) in sources() {
        let Some(module) = module_of(&path) else { continue };
        let (layer, same_layer) = rule(&module);
        for imported in imports(&without_tests(&text)) {
            let (its_layer, _) = rule(&imported);
            let allowed = imported == module || its_layer < layer || same_layer.contains(&imported.as_str());
            if !allowed {
                wrong.push(format!("{} (layer {layer}) imports {imported} (layer {its_layer})", path.display()));
            }
        }
    }
    assert!(wrong.is_empty(), "imports that ARCHITECTURE.md does not list:\n{}", wrong.join("\n"));
}

/// A file may import its siblings, but not in a circle. A module's `mod.rs` and its files may know each other.
#[test]
fn files_of_a_module_import_each_other_without_cycles() {
    let mut cycles = Vec::new();
    let mut folders: BTreeMap<PathBuf, BTreeMap<String, BTreeSet<String>>> = BTreeMap::new();
    for (path, text) in sources() {
        let (Some(folder), Some(name)) = (path.parent(), path.file_stem().and_then(|stem| stem.to_str())) else {
            continue;
        };
        if name != "mod" && folder != root().join("src") {
            let edges = sibling_imports(&without_tests(&text));
            folders.entry(folder.to_owned()).or_default().insert(name.to_owned(), edges);
        }
    }
    for (folder, mut files) in folders {
        let names: BTreeSet<String> = files.keys().cloned().collect();
        files.values_mut().for_each(|edges| edges.retain(|edge| names.contains(edge)));
        // Files without remaining imports are removed until none is left. What stays is a cycle, or leads to one.
        loop {
            let free: Vec<String> =
                files.iter().filter(|(_, edges)| edges.is_empty()).map(|(name, _)| name.clone()).collect();
            if free.is_empty() {
                break;
            }
            files.retain(|name, _| !free.contains(name));
            files.values_mut().for_each(|edges| edges.retain(|edge| !free.contains(edge)));
        }
        if !files.is_empty() {
            cycles.push(format!("{}: {files:?}", folder.display()));
        }
    }
    assert!(cycles.is_empty(), "import cycles:\n{}", cycles.join("\n"));
}

#[test]
fn pure_layers_have_no_side_effects() {
    let mut wrong = Vec::new();
    for (path, text) in sources() {
        let Some(module) = module_of(&path) else { continue };
        if rule(&module).0 > 1 || module == "clock" {
            continue;
        }
        let code = without_comments(&without_tests(&text));
        wrong.extend(
            IMPURE.iter().filter(|word| code.contains(*word)).map(|word| format!("{}: {word}", path.display())),
        );
    }
    assert!(wrong.is_empty(), "layers 0 and 1 take time, randomness and bytes as arguments:\n{}", wrong.join("\n"));
}

#[test]
fn only_dial_opens_connections() {
    let may = |path: &Path| path.ends_with("dial/direct.rs") || path.ends_with("dial/socks_handshake.rs");
    let mut wrong = Vec::new();
    for (path, text) in sources().into_iter().filter(|(path, _)| !may(path)) {
        let code = without_comments(&without_tests(&text));
        wrong.extend(
            OPENING.iter().filter(|word| code.contains(*word)).map(|word| format!("{}: {word}", path.display())),
        );
    }
    assert!(wrong.is_empty(), "with tor.only this would bypass Tor:\n{}", wrong.join("\n"));
}

#[test]
fn files_have_at_most_450_lines() {
    let long: Vec<String> = sources()
        .into_iter()
        .map(|(path, text)| (path, text.lines().count()))
        .filter(|(_, lines)| *lines > 450)
        .map(|(path, lines)| format!("{}: {lines} lines", path.display()))
        .collect();
    assert!(long.is_empty(), "split these:\n{}", long.join("\n"));
}

#[test]
fn sources_have_no_unfinished_marks() {
    let marks = ["TODO", "FIXME", "XXX", "HACK", "todo!", "unimplemented!"];
    let wrong: Vec<String> = sources()
        .into_iter()
        .filter_map(|(path, text)| Some((path, *marks.iter().find(|mark| text.contains(**mark))?)))
        .map(|(path, mark)| format!("{}: {mark}", path.display()))
        .collect();
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

#[test]
fn sources_and_documents_have_no_banned_words() {
    let mut wrong = Vec::new();
    for (path, text) in wording() {
        for (number, line) in text.lines().enumerate() {
            // Identifiers count too: an underscore separates words.
            let words: Vec<String> = line
                .split(|c: char| !c.is_ascii_alphanumeric() && c != '\'')
                .filter(|word| !word.is_empty())
                .map(str::to_ascii_lowercase)
                .collect();
            let spaced = format!(" {} ", words.join(" "));
            wrong.extend(
                BANNED
                    .iter()
                    .filter(|banned| spaced.contains(&format!(" {banned} ")))
                    .map(|banned| format!("{}:{}: {banned}", path.display(), number + 1)),
            );
        }
    }
    assert!(wrong.is_empty(), "CONTRIBUTING.md bans these words:\n{}", wrong.join("\n"));
}

/// Links between documents work in the repository and in the package, which keeps their relative paths.
#[test]
fn links_of_packaged_documents_lead_to_packaged_files() {
    let manifest: toml::Table = fs::read_to_string(root().join("Cargo.toml")).unwrap().parse().unwrap();
    let assets = manifest["package"]["metadata"]["deb"]["assets"].as_array().unwrap();
    let mut packaged = BTreeSet::new();
    for asset in assets {
        let (source, target) = (asset[0].as_str().unwrap(), asset[1].as_str().unwrap());
        let Some(target) = target.strip_prefix("usr/share/doc/waypost/") else { continue };
        let (folder, pattern) = source.rsplit_once('/').unwrap_or(("", source));
        let Some(suffix) = pattern.strip_prefix('*') else {
            assert_eq!(source, target, "the package moves this file");
            packaged.insert(PathBuf::from(target));
            continue;
        };
        assert_eq!(format!("{folder}/"), target, "the package moves these files");
        let names = fs::read_dir(root().join(folder)).unwrap().map(|file| file.unwrap().file_name());
        packaged.extend(
            names.filter(|name| name.to_str().unwrap().ends_with(suffix)).map(|name| Path::new(folder).join(name)),
        );
    }
    let mut broken = Vec::new();
    for document in packaged.iter().filter(|path| path.extension().is_some_and(|extension| extension == "md")) {
        let text = fs::read_to_string(root().join(document)).unwrap();
        let inline = text.split("](").skip(1).filter_map(|rest| rest.split(')').next());
        let references =
            text.lines().filter_map(|line| line.strip_prefix('[')?.split_once("]: ").map(|(_, link)| link));
        for link in inline.chain(references).filter(|link| !link.contains("://") && !link.starts_with('#')) {
            let path = link.split('#').next().unwrap_or_default();
            let mut target = document.parent().unwrap().to_owned();
            for part in path.split('/') {
                if part == ".." {
                    target.pop();
                } else {
                    target.push(part);
                }
            }
            if !packaged.contains(&target) {
                broken.push(format!("{}: {link}", document.display()));
            }
        }
    }
    assert!(packaged.len() > 10 && broken.is_empty(), "{packaged:?}: {broken:?}");
}

#[test]
fn readme_is_short() {
    let lines = fs::read_to_string(root().join("README.md")).unwrap().lines().count();
    assert!(lines <= 250, "README.md has {lines} lines; details belong to docs/");
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

/// The NixOS module and the systemd unit have the same hardening options.
#[test]
fn nixos_module_hardens_as_the_unit_does() {
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

/// Every test that SECURITY.md names exists.
#[test]
fn security_promises_name_existing_tests() {
    let promises = fs::read_to_string(root().join("SECURITY.md")).unwrap();
    let mut code: Vec<String> = sources().into_iter().map(|(_, text)| text).collect();
    for dir in ["tests/it", "tests/it/simulator"] {
        let files = fs::read_dir(root().join(dir)).unwrap();
        code.extend(files.filter_map(|file| fs::read_to_string(file.unwrap().path()).ok()));
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
fn modules_are_listed_here_and_in_architecture_md() {
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
    let (_, layer, same_layer) = found.unwrap_or_else(|| panic!("architecture.rs knows no module `{module}`"));
    (*layer, same_layer)
}

/// Returns the code without the items under `#[cfg(test)]`.
fn without_tests(text: &str) -> String {
    let mut kept = Vec::new();
    let mut lines = text.lines();
    while let Some(line) = lines.next() {
        if line.trim() != "#[cfg(test)]" {
            kept.push(line);
            continue;
        }
        let indent = line.len() - line.trim_start().len();
        // Ends with the first line that is complete in itself, or with the closing brace at the same indentation.
        for skipped in lines.by_ref() {
            let is_at_indent = skipped.len() - skipped.trim_start().len() == indent;
            if is_at_indent && (skipped.ends_with(';') || skipped.trim_start().starts_with('}')) {
                break;
            }
        }
    }
    kept.join("\n")
}

fn without_comments(text: &str) -> String {
    text.lines().filter(|line| !line.trim_start().starts_with("//")).collect::<Vec<_>>().join("\n")
}

/// Names that follow `super::`, singly or in braces.
fn sibling_imports(text: &str) -> BTreeSet<String> {
    let code = without_comments(text);
    let mut found = BTreeSet::new();
    for (place, _) in code.match_indices("super::") {
        if code[..place].ends_with("::") {
            continue;
        }
        let rest = &code[place + "super::".len()..];
        let list = rest.strip_prefix('{').and_then(|list| list.split('}').next());
        let items = list.map_or_else(|| vec![rest], |list| list.split(',').collect());
        for item in items {
            let name: String = item.trim().chars().take_while(|c| c.is_ascii_alphanumeric() || *c == '_').collect();
            found.insert(name);
        }
    }
    found
}

/// The modules that a file names after `crate::`.
fn imports(text: &str) -> Vec<String> {
    let code = without_comments(text);
    let after = code.lines().flat_map(|line| line.split("crate::").skip(1).map(str::to_owned).collect::<Vec<_>>());
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

/// Every text file whose wording is checked. CONTRIBUTING.md may quote banned words in fenced blocks.
fn wording() -> Vec<(PathBuf, String)> {
    let mut files = Vec::new();
    let mut folders = ["src", "docs", "tests", "benches", "contrib"].map(|folder| root().join(folder)).to_vec();
    while let Some(folder) = folders.pop() {
        for entry in fs::read_dir(folder).unwrap() {
            let path = entry.unwrap().path();
            if path.is_dir() {
                folders.push(path);
            } else if !path.ends_with("tests/it/architecture.rs")
                && let Ok(text) = fs::read_to_string(&path)
            {
                // Binary files are not UTF-8.
                files.push((path, text));
            }
        }
    }
    for entry in fs::read_dir(root()).unwrap() {
        let path = entry.unwrap().path();
        if path.extension().is_some_and(|extension| extension == "md") {
            let text = fs::read_to_string(&path).unwrap();
            let text = if path.ends_with("CONTRIBUTING.md") { without_fenced_blocks(&text) } else { text };
            files.push((path, text));
        }
    }
    assert!(files.len() > 200, "found only {} files", files.len());
    files
}

/// Empties the lines of fenced blocks, so that line numbers stay.
fn without_fenced_blocks(text: &str) -> String {
    let mut is_fenced = false;
    let lines = text.lines().map(|line| {
        let is_fence = line.trim_start().starts_with("```");
        is_fenced ^= is_fence;
        if is_fenced || is_fence { "" } else { line }
    });
    lines.collect::<Vec<_>>().join("\n")
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

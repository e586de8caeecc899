//! Commands and configurations of README.md and docs/, run as a reader would run them.

use std::path::Path;
use std::process::{Command, Stdio};

use crate::support::{self, Daemon, OFFLINE, TestDir, repository, set_mode, wait_until};
use serde_json::Value;

/// Programs in documented commands that this test does not run, with the reasons.
const NOT_RUN: &[(&str, &str)] = &[
    ("cargo", "builds the program that is tested"),
    ("git", "clones a repository over the network"),
    ("contrib/package.sh", "tested by package.rs"),
    ("contrib/playground.sh", "starts the lab, as network.rs does"),
    ("contrib/test.sh", "runs this test"),
    ("apt", "changes the machine"),
    ("ssh", "needs another machine"),
    ("systemctl", "needs systemd"),
    ("systemd-run", "needs systemd"),
    ("journalctl", "needs systemd"),
    ("podman", "downloads images"),
    ("kubectl", "needs a cluster"),
];

/// Rows of the README's table of commands that this test does not run, with the reasons.
const ROWS_NOT_RUN: &[(&str, &str)] = &[
    ("waypost run", "the daemon of this test"),
    ("waypost probe HOST", "needs a server on a default port; tested by network.rs and json.rs"),
];

/// First lines of `toml` blocks that this test does not check, with the reasons.
const TOML_NOT_CHECKED: &[(&str, &str)] =
    &[("[bridges]", "a configuration of Arti"), ("network = \"bitcoin\"", "every key, some of which exclude others")];

const ONION_HOST: &str = "explorerzydxu5ecjrkwceayqybizmpjjznk5izmitf2modhcusuqlid.onion";

/// Fenced block of a document.
struct Block {
    document: String,
    text: String,
}

/// Returns the blocks of README.md and docs/ in these languages.
fn blocks(languages: &[&str]) -> Vec<Block> {
    let mut documents: Vec<_> =
        std::fs::read_dir(repository("docs")).unwrap().map(|file| file.unwrap().path()).collect();
    documents.sort();
    documents.insert(0, repository("README.md"));
    let mut found = Vec::new();
    for path in documents.iter().filter(|path| path.extension().is_some_and(|extension| extension == "md")) {
        let document = path.file_name().unwrap().to_string_lossy().into_owned();
        let text = std::fs::read_to_string(path).unwrap();
        // Odd parts are inside fences. Their first line is the language.
        for part in text.split("\n```").skip(1).step_by(2) {
            let (language, text) = part.split_once('\n').unwrap();
            if languages.contains(&language) {
                found.push(Block { document: document.clone(), text: text.to_owned() });
            }
        }
    }
    found
}

/// Returns the commands of a block, with continued lines joined and without prompts and output.
fn commands(block: &Block) -> Vec<String> {
    let joined = block.text.replace("\\\n", " ");
    let has_prompts = joined.contains("\n$ ") || joined.starts_with("$ ");
    let lines = joined.lines().filter_map(|line| if has_prompts { line.strip_prefix("$ ") } else { Some(line) });
    lines.map(str::trim).filter(|line| !line.is_empty() && !line.starts_with('#')).map(str::to_owned).collect()
}

/// Returns the first program of a command, without `sudo` and variables.
fn program(command: &str) -> &str {
    let is_setting = |word: &&str| *word == "sudo" || word.split('/').next().unwrap().contains('=');
    command.split_whitespace().find(|word| !is_setting(word)).unwrap()
}

/// Directory with the programs that a reader has, for one configuration.
struct Reader<'a> {
    dir: &'a TestDir,
}

impl Reader<'_> {
    fn new(dir: &TestDir) -> Reader<'_> {
        std::fs::create_dir(dir.path("bin")).unwrap();
        let waypost = format!("exec {} --config {} \"$@\"", env!("CARGO_BIN_EXE_waypost"), dir.config().display());
        // A replacement for `nc -q1 HOST PORT`, which sends a line and prints the response.
        let nc = "exec 3<>/dev/tcp/$2/$3; cat >&3; head -n 1 <&3";
        for (name, script) in [("waypost", waypost.as_str()), ("sudo", "exec \"$@\""), ("nc", nc)] {
            let path = dir.path("bin").join(name);
            std::fs::write(&path, format!("#!/bin/bash\n{script}\n")).unwrap();
            set_mode(&path, 0o755);
        }
        Reader { dir }
    }

    /// Runs a command of a document, which must succeed. A watching command is ended with Ctrl-C. Returns its output.
    fn run(&self, document: &str, command: &str) -> String {
        let command = command
            .replace("127.0.0.1 50001", &format!("127.0.0.1 {}", self.dir.address.port()))
            .replace("/var/lib/tor/electrum", self.dir.path("electrum").to_str().unwrap());
        let seconds = if command.contains("--watch") { "2" } else { "60" };
        let path = format!("{}:{}", self.dir.path("bin").display(), std::env::var("PATH").unwrap());
        let output = Command::new("timeout")
            .args(["--preserve-status", "--signal=INT", seconds, "bash", "-c", &command])
            .env("PATH", path)
            .env("WAYPOST_STATUS__LISTEN", "off")
            .stdin(Stdio::null())
            .output()
            .unwrap();
        let text = String::from_utf8([output.stdout, output.stderr].concat()).unwrap();
        assert!(output.status.success(), "{document}: {command}: {}: {text}", output.status);
        assert!(!text.is_empty(), "{document}: {command}: no output");
        text
    }
}

/// Writes the directory of an onion service as C tor does.
fn write_c_tor_key(dir: &Path) {
    std::fs::create_dir(dir).unwrap();
    let key = [b"== ed25519v1-secret: type0 ==\0\0\0".as_slice(), &[64; 64]].concat();
    std::fs::write(dir.join("hs_ed25519_secret_key"), key).unwrap();
}

#[test]
fn documented_commands_succeed() {
    let dir = TestDir::new();
    dir.configure_tcp(&format!("{OFFLINE}allow_private = true\n"));
    write_c_tor_key(&dir.path("electrum"));
    let daemon = dir.start();
    let reader = Reader::new(&dir);
    let mut run = Vec::new();
    for block in blocks(&["sh", "console"]) {
        for command in commands(&block) {
            let needs_embedded_tor = command.contains("onion-address") && !cfg!(feature = "embedded-tor");
            if NOT_RUN.iter().any(|(name, _)| *name == program(&command)) || needs_embedded_tor {
                println!("{}: not run: {command}", block.document);
                continue;
            }
            assert!(["waypost", "echo"].contains(&program(&command)), "{}: unknown: {command}", block.document);
            let output = reader.run(&block.document, &command);
            assert!(program(&command) != "echo" || output.contains("\"result\""), "{command}: {output}");
            run.push(command);
        }
    }
    assert!(run.len() >= 5, "only {run:?} were run");
    daemon.stop();
}

#[test]
fn commands_in_readme_table_succeed() {
    let dir = TestDir::new();
    dir.configure_tcp(&format!("{OFFLINE}allow_private = true\n"));
    write_c_tor_key(&dir.path("electrum"));
    let daemon = dir.start();
    let reader = Reader::new(&dir);
    if cfg!(feature = "embedded-tor") {
        reader.run("README.md", "waypost onion-address --import /var/lib/tor/electrum");
    }
    let readme = std::fs::read_to_string(repository("README.md")).unwrap();
    let section = readme.split("\n## Commands\n").nth(1).unwrap().split("\n## ").next().unwrap();
    let rows: Vec<&str> = section.lines().filter_map(|line| line.strip_prefix("| `waypost ")).collect();
    assert!(rows.len() > 10, "{rows:?}");
    for row in rows {
        let command = format!("waypost {}", row.split('`').next().unwrap());
        let needs_embedded_tor = command.contains("onion-address") && !cfg!(feature = "embedded-tor");
        if ROWS_NOT_RUN.iter().any(|(name, _)| *name == command) || needs_embedded_tor {
            continue;
        }
        let arguments = [("HOST", "127.0.0.5"), ("PATTERN", "'*.example.org'"), ("SHELL", "bash")];
        let run = arguments.iter().fold(command, |command, (name, value)| command.replace(name, value));
        reader.run("README.md", &run);
    }
    daemon.stop();
}

#[test]
fn documented_configurations_are_valid() {
    let dir = TestDir::new();
    let mut checked = 0;
    for block in blocks(&["toml"]) {
        let needs_embedded = block.text.contains("\"embedded\"") && !cfg!(feature = "embedded-tor");
        if TOML_NOT_CHECKED.iter().any(|(line, _)| block.text.starts_with(line)) || needs_embedded {
            continue;
        }
        std::fs::write(dir.config(), block.text.replace("\"…\"", &format!("{ONION_HOST:?}"))).unwrap();
        let (output, ok) = support::waypost(&dir.config(), &["check-config", "--skip-files"]);
        assert!(ok, "{}: {output}{}", block.document, block.text);
        checked += 1;
    }
    assert!(checked >= 3, "{checked}");
}

/// `contrib/figures.sh` finds the tables of a block between the markers below it.
#[test]
fn blocks_of_figures_have_markers() {
    let text = std::fs::read_to_string(repository("docs/figures.md")).unwrap();
    let blocks: Vec<&str> = text.split("```sh\n").collect();
    assert!(blocks.len() > 10, "found only {} blocks", blocks.len() - 1);
    for (number, block) in blocks.into_iter().enumerate() {
        // The text above the first block has no markers.
        let expected = usize::from(number > 0);
        for marker in ["\n```\n\n<!-- measured -->\n", "<!-- measured -->", "\n<!-- end -->\n", "<!-- end -->"] {
            assert_eq!(block.matches(marker).count(), expected, "{marker:?} below: {block}");
        }
        assert!(block.find("<!-- measured -->") <= block.find("<!-- end -->"), "{block}");
    }
}

#[test]
fn figures_script_replaces_tables_of_successful_commands() {
    let dir = TestDir::new();
    for folder in ["contrib", "docs", "bin"] {
        std::fs::create_dir(dir.path(folder)).unwrap();
    }
    let write = |file: &str, text: &str| std::fs::write(dir.path(file), text).unwrap();
    std::fs::copy(repository("contrib/figures.sh"), dir.path("contrib/figures.sh")).unwrap();
    write("contrib/install-test-deps.sh", "install_test_deps() { :; }\n");
    write(
        "bin/cargo",
        "#!/bin/bash\nprintf 'test x ... \\nRate of %s:\\n\\n| a |\\n|---|\\n| 1 |\\n\\nok\\n' \"$1\"\n[ \"$1\" != broken ]\n",
    );
    set_mode(&dir.path("bin/cargo"), 0o755);
    let page = |tables: [&str; 2]| {
        let [first, second] = tables;
        format!(
            "# Page\n\n```sh\ncargo small\ncargo large\n```\n\n<!-- measured -->\n{first}<!-- end -->\n\nText.\n\n\
             ```sh\ncargo broken\n```\n\n<!-- measured -->\n{second}<!-- end -->\n"
        )
    };
    write("docs/figures.md", &page(["", "\nold\n\n"]));
    let run = |words: &[&str]| {
        let path = format!("{}:{}", dir.path("bin").display(), std::env::var("PATH").unwrap());
        let output = Command::new("bash").arg(dir.path("contrib/figures.sh")).args(words).env("PATH", path).output();
        let output = output.unwrap();
        (output.status.code(), String::from_utf8(output.stderr).unwrap())
    };
    let text = || std::fs::read_to_string(dir.path("docs/figures.md")).unwrap();

    let (code, errors) = run(&["broken"]);
    assert!(code == Some(1) && errors.contains("cargo broken: exit status 1"), "{code:?} {errors}");
    assert_eq!(text(), page(["", "\nold\n\n"]));
    let (code, errors) = run(&["no such word"]);
    assert!(code == Some(1) && errors.contains("no such word"), "{code:?} {errors}");
    assert_eq!(run(&["large"]), (Some(0), String::new()));
    let table = |name| format!("\nRate of {name}:\n\n| a |\n|---|\n| 1 |\n");
    let measured = format!("{}{}\n", table("small"), table("large"));
    assert_eq!(text(), page([&measured, "\nold\n\n"]));
    assert_eq!(run(&[]).0, Some(1), "a command failed");
    assert_eq!(text(), page([&measured, "\nold\n\n"]));
}

/// docs/backups.md, "Moving to another machine".
#[test]
fn moved_data_directory_keeps_identity() {
    let (old, new) = (TestDir::new(), TestDir::new());
    let configure = |dir: &TestDir, tls| {
        dir.configure_tcp(&format!("tls = [\"{tls}\"]\n{OFFLINE}allow_private = true\n"));
    };
    configure(&old, support::free_address());
    let key_dir = old.path("electrum");
    write_c_tor_key(&key_dir);
    let onion_address = |dir: &TestDir| support::waypost(&dir.config(), &["onion-address"]);
    if cfg!(feature = "embedded-tor") {
        let (output, ok) = support::waypost(&old.config(), &["onion-address", "--import", key_dir.to_str().unwrap()]);
        assert!(ok, "{output}");
    }
    let daemon = old.start();
    daemon.waypost(&["add", "127.0.0.5 t50001"]);
    daemon.waypost(&["ban", "*.example.org"]);
    wait_until(5, "the peer is on disk", || daemon.status()["store"]["pending"] == 0);
    daemon.stop();

    configure(&new, support::free_address());
    support::run(Command::new("cp").arg("-a").arg(old.data()).arg(new.root()));
    let daemon = Daemon::start(&new.config());
    assert_ne!(daemon.row("127.0.0.5"), Value::Null, "the peer is known");
    let (output, ok) = support::waypost(&new.config(), &["add", "a.example.org t50001"]);
    assert!(!ok && output.contains("waypost unban"), "{output}");
    daemon.stop();
    for file in ["tls-cert.pem", "tls-key.pem", "bans"] {
        let [before, after] = [&old, &new].map(|dir| std::fs::read(dir.data().join(file)).unwrap());
        assert_eq!(before, after, "{file}");
    }
    assert_eq!(onion_address(&old), onion_address(&new));
}

/// docs/tor.md, "Back up and restore the key".
#[test]
#[cfg(feature = "embedded-tor")]
fn restored_onion_key_keeps_address() {
    let key = "tor/state/keystore/hss/waypost/ks_hs_id.ed25519_expanded_private";
    assert!(std::fs::read_to_string(repository("docs/tor.md")).unwrap().contains(&format!("\ndata_dir/{key}\n")));
    let (old, new) = (TestDir::new(), TestDir::new());
    [&old, &new].into_iter().for_each(|dir| drop(dir.configure_tcp(OFFLINE)));
    write_c_tor_key(&old.path("electrum"));
    let (address, ok) =
        support::waypost(&old.config(), &["onion-address", "--import", old.path("electrum").to_str().unwrap()]);
    assert!(ok, "{address}");
    let target = new.data().join(key);
    let mut builder = std::fs::DirBuilder::new();
    std::os::unix::fs::DirBuilderExt::mode(builder.recursive(true), 0o700);
    builder.create(target.parent().unwrap()).unwrap();
    support::run(Command::new("cp").arg("-p").arg(old.data().join(key)).arg(&target));
    assert_eq!(support::mode(&target), 0o600);
    let (restored, ok) = support::waypost(&new.config(), &["onion-address"]);
    assert!(ok && address.starts_with(restored.trim()), "{restored}{address}");
}

//! Ban lists: several files, ElectrumX's format, signatures of the real minisign, and changes at run time.

use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use crate::support::{self, Daemon, OFFLINE, TestClient, TestDir, binary, wait_until};
use serde_json::{Value, json};

/// Creates a directory with the configuration of an offline daemon and these further keys of `[discovery]`.
fn dir_with(keys: &str) -> TestDir {
    let dir = TestDir::new();
    configure(&dir, keys);
    dir
}

fn configure(dir: &TestDir, keys: &str) -> PathBuf {
    dir.configure_tcp(&format!("{OFFLINE}allow_private = true\n{keys}"))
}

/// Replaces a file atomically, as a download should.
fn replace(path: &Path, text: &str) {
    let new = path.with_extension("new");
    std::fs::write(&new, text).unwrap();
    std::fs::rename(new, path).unwrap();
}

/// Runs the daemon, which must end with a configuration error of one line. Returns the line.
fn start_error(dir: &TestDir) -> String {
    let mut command = Command::new("timeout");
    command.args(["20", env!("CARGO_BIN_EXE_waypost"), "run", "--config"]).arg(dir.config());
    let output = command.env("WAYPOST_STATUS__LISTEN", "off").stdin(Stdio::null()).output().unwrap();
    let text = String::from_utf8(output.stderr).unwrap();
    assert_eq!((output.status.code(), text.lines().count()), (Some(78), 1), "{text}");
    text
}

/// State of the first further list.
fn list_status(daemon: &Daemon) -> Value {
    daemon.status()["ban_lists"][1].clone()
}

fn wait_for_error(daemon: &Daemon, part: &str) {
    wait_until(15, part, || list_status(daemon)["error"].as_str().is_some_and(|error| error.contains(part)));
}

fn wait_until_usable(daemon: &Daemon) {
    wait_until(15, "the list is usable", || list_status(daemon)["error"].is_null());
}

/// Tries to add a peer. Returns the output, and whether the peer was accepted.
fn add(dir: &TestDir, host: &str) -> (String, bool) {
    support::waypost(&dir.config(), &["add", host, "t50001"])
}

/// Key pair of minisign, without a password.
struct Publisher {
    secret: PathBuf,
    public: String,
}

impl Publisher {
    fn new(dir: &TestDir, name: &str) -> Publisher {
        let (secret, public) = (dir.path(&format!("{name}.sec")), dir.path(&format!("{name}.pub")));
        support::run(Command::new("minisign").args(["-G", "-W", "-s"]).arg(&secret).arg("-p").arg(&public));
        let public = std::fs::read_to_string(public).unwrap();
        Publisher { secret, public: public.lines().nth(1).unwrap().to_owned() }
    }

    fn sign(&self, list: &Path, comment: &str) {
        let mut minisign = Command::new("minisign");
        support::run(minisign.args(["-S", "-W", "-t", comment, "-s"]).arg(&self.secret).arg("-m").arg(list));
    }
}

#[test]
fn json_list_of_electrumx_bans_peers_and_no_clients() {
    let dir = dir_with("ban_lists = [\"blacklist.json\"]\n");
    let path = dir.path("blacklist.json");
    std::fs::write(&path, r#"["127.0.0.5", "*.Spy.example", "*.a.b.example", 7]"#).unwrap();
    let daemon = dir.start();
    let log = daemon.log();
    assert!(log.contains("has 2 entries without effect, first entry 3 (\"*.a.b.example\")"), "{log}");

    let (refused, ok) = add(&dir, "x.y.spy.example");
    assert!(!ok && refused.contains(&format!("banned by *.spy.example in {}", path.display())), "{refused}");
    assert!(refused.contains("`waypost unban` can't edit"), "{refused}");
    assert!(!add(&dir, "127.0.0.5").1 && add(&dir, "x.a.b.example").1);
    assert!(
        TestClient::connect_from("127.0.0.5", dir.address).is_served(),
        "as in ElectrumX, clients are not concerned"
    );

    let status = list_status(&daemon);
    assert_eq!((&status["format"], &status["patterns"], &status["skipped"]), (&json!("json"), &json!(2), &json!(2)));
    assert!(daemon.waypost(&["status"]).contains("2 entries without effect"));
    let answer = daemon.waypost(&["bans", "x.spy.example"]);
    assert_eq!(answer.trim(), format!("x.spy.example is banned by *.spy.example in {}", path.display()));
    assert!(daemon.waypost(&["bans", "x.example"]).contains("not banned"));
    daemon.stop();
}

#[test]
fn changed_list_is_applied_and_broken_one_is_not() {
    let dir = dir_with("ban_lists = [\"list\"]\n");
    let path = dir.path("list");
    std::fs::write(&path, "a.example\n").unwrap();
    let daemon = dir.start();
    daemon.waypost(&["add", "b.example", "t50001"]);
    replace(&path, "a.example\nb.example\n");
    wait_until(15, "the banned peer is removed", || daemon.row("b.example").is_null());
    let log = daemon.log();
    let has_line = |parts: &[&str]| log.lines().any(|line| parts.iter().all(|part| line.contains(part)));
    assert!(has_line(&["removed: banned", "b.example", path.to_str().unwrap()]), "{log}");
    assert!(has_line(&["removed the banned peers", "removed=1", path.to_str().unwrap()]), "{log}");

    replace(&path, "a.example\nspy..example\n");
    wait_for_error(&daemon, "line 2: \"spy..example\"");
    assert_eq!(list_status(&daemon)["patterns"], 2, "the previous version stays in force");
    assert!(daemon.log().contains("its previous version stays in force"));
    assert!(daemon.waypost(&["status"]).contains("newer version not used"));
    std::fs::remove_file(&path).unwrap();
    wait_for_error(&daemon, "No such file");
    assert!(!add(&dir, "b.example").1, "a list that disappears stays in force");
    replace(&path, "a.example\n");
    wait_until_usable(&daemon);
    assert!(add(&dir, "b.example").1 && !add(&dir, "a.example").1);
    daemon.stop();

    std::fs::remove_file(&path).unwrap();
    let text = start_error(&dir);
    assert!(text.contains("discovery.ban_lists: ") && text.contains("remove it from discovery.ban_lists"), "{text}");
}

#[test]
fn reload_replaces_the_lists_unless_a_new_one_is_unusable() {
    let dir = dir_with("ban_lists = [\"first\"]\n");
    std::fs::write(dir.path("first"), "a.example\n").unwrap();
    std::fs::write(dir.path("second"), "b.example\n").unwrap();
    std::fs::write(dir.path("broken"), "a b\n").unwrap();
    let daemon = dir.start();
    let reload = |keys: &str| {
        configure(&dir, keys);
        let before = daemon.log().len();
        daemon.send_hangup();
        let logged = || daemon.log().split_off(before);
        wait_until(10, "the configuration was read again", || logged().contains("reloaded: "));
        logged()
    };
    let logged = reload("ban_lists = [\"second\", \"broken\"]\n");
    assert!(logged.contains("broken") && logged.contains("reloaded: nothing has changed"), "{logged}");
    assert!(!add(&dir, "a.example").1 && add(&dir, "b.example").1);
    let logged = reload("ban_lists = [\"second\"]\n");
    assert!(logged.contains("reloaded: bans, discovery.ban_lists\n"), "{logged}");
    assert!(add(&dir, "a.example").1 && !add(&dir, "b.example").1);
    daemon.stop();
}

#[test]
fn unban_names_the_list_that_has_the_pattern() {
    let dir = dir_with("ban_lists = [\"blacklist.json\"]\n");
    let (config, path) = (dir.config(), dir.path("blacklist.json"));
    std::fs::write(&path, "[\"a.example\"]").unwrap();
    std::fs::create_dir(dir.data()).unwrap();
    let run = |args: &[&str]| support::waypost(&config, args);
    let (text, ok) = run(&["unban", "a.example"]);
    assert!(!ok && text.contains(path.to_str().unwrap()) && text.contains("remove it there"), "{text}");
    assert!(run(&["ban", "a.example"]).1);
    let (text, ok) = run(&["unban", "a.example"]);
    assert!(ok && text.contains("it stays banned by ") && text.contains(path.to_str().unwrap()), "{text}");
    let (text, ok) = run(&["unban", "b.example"]);
    assert!(!ok && text.contains("the pattern must be one of that file"), "{text}");
}

#[test]
fn json_list_as_ban_file_is_read_and_never_edited() {
    let dir = dir_with("ban_file = \"blacklist.json\"\n");
    let list = "[\"a.example\"]\n";
    std::fs::write(dir.path("blacklist.json"), list).unwrap();
    for command in ["ban", "unban"] {
        let (text, ok) = support::waypost(&dir.config(), &[command, "a.example"]);
        assert!(!ok && text.contains("is a JSON list") && text.contains("discovery.ban_lists"), "{text}");
    }
    assert_eq!(std::fs::read_to_string(dir.path("blacklist.json")).unwrap(), list);
    let output = binary(&["bans", "a.example", "--config"]).arg(dir.config()).output().unwrap();
    assert!(output.status.success() && String::from_utf8(output.stdout).unwrap().contains("is banned by a.example"));
}

#[test]
fn list_without_valid_signature_stops_the_start() {
    let dir = TestDir::new();
    let (publisher, other) = (Publisher::new(&dir, "key"), Publisher::new(&dir, "other"));
    configure(&dir, &format!("ban_lists = [\"list\"]\nban_list_key = {:?}\n", publisher.public));
    std::fs::write(dir.path("list"), "*.spy.example\n").unwrap();
    let text = start_error(&dir);
    assert!(text.contains("list.minisig is unusable: No such file"), "{text}");
    other.sign(&dir.path("list"), "timestamp:100");
    assert!(start_error(&dir).contains("made with another key than discovery.ban_list_key"));
    publisher.sign(&dir.path("list"), "timestamp:100");
    std::fs::write(dir.path("list"), "*.example\n").unwrap();
    assert!(start_error(&dir).contains("does not match the list"));
    let (text, ok) = support::waypost(&dir.config(), &["bans"]);
    assert!(!ok && text.contains("not usable"), "{text}");
    configure(&dir, "ban_list_key = \"RW\"\n");
    assert!(start_error(&dir).contains("discovery.ban_list_key: not a public key of minisign"));
}

#[test]
fn signed_list_is_replaced_by_newer_signed_versions_only() {
    let dir = TestDir::new();
    let (publisher, other) = (Publisher::new(&dir, "key"), Publisher::new(&dir, "other"));
    configure(&dir, &format!("ban_lists = [\"list\"]\nban_list_key = {:?}\n", publisher.public));
    let list = dir.path("list");
    std::fs::write(&list, "*.spy.example\nb.example\n").unwrap();
    publisher.sign(&list, "timestamp:100\tfile:list");
    let daemon = dir.start();
    assert_eq!(list_status(&daemon)["signed"], 100_000);
    let is_first_version_in_force = || {
        assert_eq!(list_status(&daemon)["patterns"], 2);
        assert!(!add(&dir, "a.spy.example").1 && !add(&dir, "b.example").1);
    };

    replace(&list, "b.example\n");
    wait_for_error(&daemon, "does not match the list");
    is_first_version_in_force();
    publisher.sign(&list, "timestamp:50\tfile:list");
    wait_for_error(&daemon, "older than the version in force");
    is_first_version_in_force();
    publisher.sign(&list, "no time");
    wait_for_error(&daemon, "without a timestamp");
    other.sign(&list, "timestamp:200\tfile:list");
    wait_for_error(&daemon, "made with another key");
    is_first_version_in_force();

    publisher.sign(&list, "timestamp:200\tfile:list");
    wait_until_usable(&daemon);
    assert_eq!((&list_status(&daemon)["patterns"], &list_status(&daemon)["signed"]), (&json!(1), &json!(200_000)));
    assert!(add(&dir, "a.spy.example").1 && !add(&dir, "b.example").1);
    std::fs::remove_file(dir.path("list.minisig")).unwrap();
    wait_for_error(&daemon, "list.minisig is unusable: No such file");
    assert!(!add(&dir, "b.example").1);
    daemon.stop();
}

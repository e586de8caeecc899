//! Units and drop-ins of systemd.

use std::path::{Path, PathBuf};
use std::process::Command;

use super::contrib;
use crate::support::{repository, set_mode};

/// Greatest exposure that a drop-in may lead to, in tenths. The unit alone has 12.
const MAX_EXPOSURE: &str = "--threshold=20";

/// Creates a root directory with the units and with the programs that they start.
fn system_root() -> tempfile::TempDir {
    let root = tempfile::tempdir().unwrap();
    let path = |name: &str| root.path().join(name);
    for dir in ["usr/bin", "usr/lib/systemd/system", "etc/systemd/system"] {
        std::fs::create_dir_all(path(dir)).unwrap();
    }
    for (link, target) in [("bin", "usr/bin"), ("lib", "usr/lib")] {
        std::os::unix::fs::symlink(target, path(link)).unwrap();
    }
    for program in ["waypost", "sh", "kill"] {
        let file = path("usr/bin").join(program);
        std::fs::write(&file, "#!/bin/sh\n").unwrap();
        set_mode(&file, 0o755);
    }
    for entry in std::fs::read_dir("/lib/systemd/system").unwrap() {
        let target = entry.unwrap().path();
        if target.extension().is_some_and(|extension| extension == "target") {
            std::fs::copy(&target, path("usr/lib/systemd/system").join(target.file_name().unwrap())).unwrap();
        }
    }
    for unit in ["waypost.service", "waypost@.service", "waypost-tls.socket"] {
        std::fs::write(path("usr/lib/systemd/system").join(unit), contrib(&format!("systemd/{unit}"))).unwrap();
    }
    root
}

/// Runs `systemd-analyze` on a unit. Returns its output and whether it succeeded.
fn analyze(root: &Path, args: &[&str], unit: &str) -> (String, bool) {
    let output = Command::new("systemd-analyze")
        .arg(format!("--root={}", root.display()))
        .args(args)
        .arg(root.join("usr/lib/systemd/system").join(unit))
        .output()
        .unwrap();
    let text = String::from_utf8([output.stdout, output.stderr].concat()).unwrap();
    (text, output.status.success())
}

/// Checks that systemd accepts a unit without warnings. For systemd an unknown key is a warning only.
fn verify(root: &Path, unit: &str) {
    let (text, ok) = analyze(root, &["verify", "--man=no"], unit);
    let warnings: Vec<&str> = text.lines().filter(|line| line.contains("waypost")).collect();
    assert!(ok && warnings.is_empty(), "{unit}: {text}");
}

#[test]
fn units_are_accepted_without_warnings() {
    let root = system_root();
    for unit in ["waypost.service", "waypost@testnet4.service", "waypost-tls.socket"] {
        verify(root.path(), unit);
    }
}

#[test]
fn drop_ins_are_accepted_and_keep_hardening() {
    let drop_ins: Vec<PathBuf> =
        std::fs::read_dir(repository("contrib/systemd/drop-ins")).unwrap().map(|file| file.unwrap().path()).collect();
    assert!(drop_ins.len() >= 3, "{drop_ins:?}");
    for drop_in in drop_ins {
        let root = system_root();
        let dir = root.path().join("etc/systemd/system/waypost.service.d");
        std::fs::create_dir(&dir).unwrap();
        std::fs::copy(&drop_in, dir.join("test.conf")).unwrap();
        verify(root.path(), "waypost.service");
        let args = ["security", "--offline=true", "--no-pager", MAX_EXPOSURE];
        let (text, ok) = analyze(root.path(), &args, "waypost.service");
        assert!(ok, "{}: {text}", drop_in.display());
        // systemd reads the drop-in in this place: a wrong key is reported.
        std::fs::write(dir.join("test.conf"), "[Service]\nNonsense=1\n").unwrap();
        let (text, _) = analyze(root.path(), &["verify", "--man=no"], "waypost.service");
        assert!(text.contains("Nonsense"), "{text}");
    }
}

/// The unit for further instances is the unit of the service with other names.
#[test]
fn instance_unit_has_the_settings_of_the_service() {
    let body = |unit: &str| contrib(&format!("systemd/{unit}")).split_once("[Unit]").unwrap().1.to_owned();
    let expected = body("waypost.service")
        .replace("Description=Waypost,", "Description=Waypost %i,")
        .replace("/etc/waypost/waypost.toml", "/etc/waypost/%i.toml")
        .replace("=/var/lib/waypost", "=/var/lib/waypost-%i")
        .replace("StateDirectory=waypost", "StateDirectory=waypost-%i");
    assert_eq!(body("waypost@.service"), expected);
    let example = contrib("examples/testnet4.toml");
    assert!(example.contains("data_dir = \"/var/lib/waypost-testnet4\""), "{example}");
}

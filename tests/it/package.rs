//! Debian package of the built program, from installation to purge.

use std::process::Command;

use crate::support::{lab_script, now, repository, run};

#[test]
fn debian_package_installs_starts_upgrades_and_purges() {
    let dir = tempfile::tempdir().unwrap();
    let start = now();
    let package = |version: &str| {
        let file = dir.path().join(format!("{version}.deb"));
        let mut command = Command::new(repository("contrib/package.sh"));
        command
            .args(["--fast", "--binary", env!("CARGO_BIN_EXE_waypost"), "--deb-version", version, "--out"])
            .arg(&file);
        run(&mut command);
        file
    };
    let (old, new) = (package("0.1.0-1"), package("0.1.1-1"));
    println!("{:.1} s for two packages", start.elapsed().as_secs_f64());
    let mut enter = Command::new(lab_script("enter.sh"));
    run(enter.arg(lab_script("package.sh")).arg(dir.path()).arg(old).arg(new));
}

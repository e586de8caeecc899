//! The Debian package, made of this very program, from its installation to its purge.

use std::path::Path;
use std::process::Command;

use crate::support::{lab_script, now, run};

#[test]
fn debian_package_installs_starts_upgrades_and_purges() {
    let dir = tempfile::tempdir().unwrap();
    let began = now();
    let package = |version: &str| {
        let file = dir.path().join(format!("{version}.deb"));
        let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("contrib/package.sh");
        let mut command = Command::new(script);
        command
            .args(["--fast", "--binary", env!("CARGO_BIN_EXE_waypost"), "--deb-version", version, "--out"])
            .arg(&file);
        run(&mut command);
        file
    };
    let (old, new) = (package("0.1.0-1"), package("0.1.1-1"));
    println!("{:.1} s for two packages", began.elapsed().as_secs_f64());
    let mut life = Command::new(lab_script("enter.sh"));
    run(life.arg(lab_script("package.sh")).arg(dir.path()).arg(old).arg(new));
}

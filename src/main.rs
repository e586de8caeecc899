//! Entry point of the `waypost` binary; all code is in the library.

use std::process::ExitCode;

/// The allocator of glibc would keep the memory of clients that have left.
#[cfg(all(feature = "jemalloc", target_os = "linux", target_env = "gnu", target_arch = "x86_64"))]
#[global_allocator]
static ALLOCATOR: tikv_jemallocator::Jemalloc = tikv_jemallocator::Jemalloc;

fn main() -> ExitCode {
    waypost::cli::main()
}

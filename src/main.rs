//! The program; everything is in the library.

use std::process::ExitCode;

/// Gives back what a crowd of callers took once they have gone, which glibc's does only when nothing behind it is still in use.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

fn main() -> ExitCode {
    waypost::cli::main()
}

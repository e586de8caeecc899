//! Entry point of the `waypost` binary; all code is in the library.

use std::process::ExitCode;

fn main() -> ExitCode {
    waypost::cli::main()
}

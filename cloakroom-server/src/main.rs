//! The command `cloakroom`: see `cloakroom --help`.

use std::process::ExitCode;

fn main() -> ExitCode {
    cloakroom_server::cli::main()
}

//! The binary `waypost`: installs what the whole process shares, and runs the command line.

use std::process::ExitCode;

use mimalloc::MiMalloc;

/// What a call allocates is freed on another thread, often the log's: the system's allocator locks for that.
#[global_allocator]
static ALLOCATOR: MiMalloc = MiMalloc;

fn main() -> ExitCode {
    let command = waypost::cli::Command::parse();
    if let Some(code) = command.apart() {
        return code;
    }
    // The one provider of cryptography; a second choice anywhere else would be a panic at the first connection.
    drop(rustls::crypto::ring::default_provider().install_default());
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build();
    match runtime {
        Ok(runtime) => {
            let code = runtime.block_on(waypost::cli::main(command));
            // What still runs in the background was told to stop, and is not waited for.
            runtime.shutdown_background();
            code
        }
        Err(error) => {
            use std::io::Write as _;
            drop(writeln!(std::io::stderr(), "error: no threads can be started: {error}"));
            ExitCode::FAILURE
        }
    }
}

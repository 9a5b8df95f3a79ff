//! `gristmill-worker` with the stand-in for its encoder.

use std::process::ExitCode;

use clap::Parser;
use gristmill_job::Exit;
use gristmill_tests::stand_in::make_stand_in;
use gristmill_worker::{Args, run};
use tracing_subscriber::EnvFilter;

fn main() -> ExitCode {
    tracing_subscriber::fmt()
        .with_writer(std::io::stderr)
        .with_env_filter(EnvFilter::try_from_default_env().unwrap_or_else(|_| EnvFilter::new("warn")))
        .log_internal_errors(false)
        .init();
    let runtime = tokio::runtime::Runtime::new().expect("a process may have threads");
    let exit = runtime.block_on(run(Args::parse().work, make_stand_in));
    runtime.shutdown_background();
    match exit {
        Ok(exit) => ExitCode::from(exit as u8),
        Err(error) => {
            tracing::error!("{error:#}");
            ExitCode::from(Exit::Internal as u8)
        }
    }
}

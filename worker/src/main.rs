//! `gristmill-worker`: C2LLM as a worker of a coordinator, or as a filter for queries.

use std::io::IsTerminal;
use std::process::ExitCode;

use clap::Parser;
use gristmill_job::Exit;
use gristmill_worker::{Args, Command, EncodeError, WorkArgs, make_c2llm, query, run};
use tracing_subscriber::EnvFilter;

fn main() -> ExitCode {
    let args = Args::parse();
    tracing_subscriber::fmt()
        .with_ansi(std::io::stderr().is_terminal())
        .with_writer(std::io::stderr)
        // When whoever reads stderr is gone, telling so there would be a panic.
        .log_internal_errors(false)
        .with_env_filter(EnvFilter::try_from_default_env().unwrap_or_else(|_| EnvFilter::new("warn")))
        .init();
    let exit = match args.command {
        Some(Command::Query(args)) => {
            let answered = query(&args, make_c2llm, std::io::stdin().lock(), std::io::stdout().lock());
            answered.or_else(query_exit)
        }
        None => work(args.work),
    };
    match exit {
        Ok(exit) => ExitCode::from(exit as u8),
        Err(error) => {
            tracing::error!("{error:#}");
            ExitCode::from(Exit::Internal as u8)
        }
    }
}

/// Whoever asks may stop listening; other errors are the device's, or the input's.
fn query_exit(error: anyhow::Error) -> anyhow::Result<Exit> {
    let closed = |e: &std::io::Error| e.kind() == std::io::ErrorKind::BrokenPipe;
    if error.chain().any(|cause| cause.downcast_ref().is_some_and(closed)) {
        return Ok(Exit::Done);
    }
    let device = matches!(error.downcast_ref(), Some(EncodeError::Device(_) | EncodeError::OutOfMemory(_)));
    tracing::error!("{error:#}");
    Ok(if device { Exit::Device } else { Exit::Input })
}

fn work(args: WorkArgs) -> anyhow::Result<Exit> {
    let runtime = tokio::runtime::Runtime::new()?;
    let exit = runtime.block_on(run(args, make_c2llm));
    // A read of stdin cannot be cancelled, and nothing else is left to wait for.
    runtime.shutdown_background();
    exit
}

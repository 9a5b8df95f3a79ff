//! `gristmill`: what people type. Each subcommand is a file of its own with `run(args) -> anyhow::Result<Exit>`; here
//! they are named, and here alone an error becomes text and an exit code.

mod corpus;
mod embed;
mod fault;
mod model;
mod pack;
mod plan;
mod speak;
mod verify;

use std::io::IsTerminal;
use std::process::ExitCode;

use clap::{Parser, Subcommand};
use tracing_subscriber::EnvFilter;

use fault::Fault;
use speak::tell;

/// Embeds Parquet corpora of source code with C2LLM.
#[derive(Debug, Parser)]
#[command(name = "gristmill", version, after_help = EXIT_CODES)]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    Embed(embed::Args),
    Plan(plan::Args),
    Verify(verify::Args),
    Pack(pack::Args),
    Model(model::Args),
}

const EXIT_CODES: &str = "\
Exit codes: 0 done; 1 internal; 2 usage; 3 input; 4 the output holds another job; 5 a person must look;
6 no progress; 7 device; 8 damage found; 130 interrupted.";

fn main() -> ExitCode {
    let filter = EnvFilter::try_from_default_env().unwrap_or_else(|_| EnvFilter::new("warn"));
    tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_ansi(std::io::stderr().is_terminal())
        .log_internal_errors(false)
        .with_writer(std::io::stderr)
        .init();
    let done = match Cli::parse().command {
        Command::Embed(args) => embed::run(&args),
        Command::Plan(args) => plan::run(&args),
        Command::Verify(args) => verify::run(&args),
        Command::Pack(args) => pack::run(&args),
        Command::Model(args) => model::run(args),
    };
    let exit = done.unwrap_or_else(|error| {
        tell!("error: {error:#}");
        Fault::exit_of(&error)
    });
    ExitCode::from(exit as u8)
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory;

    #[test]
    fn the_command_line_holds_together() {
        super::Cli::command().debug_assert();
    }
}

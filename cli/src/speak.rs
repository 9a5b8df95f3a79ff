//! Printing that outlives its reader: a run whose stdout or stderr was closed (`| head -1`, a terminal that is gone) goes on.

use std::fmt::Arguments;
use std::io::Write;

/// A line to stdout: results, and JSON events.
macro_rules! say {
    ($($arg:tt)*) => { $crate::speak::line(std::io::stdout().lock(), format_args!($($arg)*)) };
}

/// A line to stderr: everything else.
macro_rules! tell {
    ($($arg:tt)*) => { $crate::speak::line(std::io::stderr().lock(), format_args!($($arg)*)) };
}

pub(crate) use {say, tell};

/// Writes a line. Whoever does not listen is not told.
pub(crate) fn line(mut out: impl Write, text: Arguments<'_>) {
    let _ = writeln!(out, "{text}").and_then(|()| out.flush());
}

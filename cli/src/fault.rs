//! Faults that a caller can tell apart: an error with the exit code that it ends the program with. Any other error is one
//! of Gristmill's own.

use std::error::Error;
use std::fmt;

use gristmill_job::Exit;

/// An error and its exit code.
#[derive(Debug)]
pub(crate) struct Fault {
    exit: Exit,
    error: anyhow::Error,
}

impl Fault {
    /// A fault that is told in one message: object, cause, what to do.
    pub(crate) fn told(exit: Exit, message: impl fmt::Display + fmt::Debug + Send + Sync + 'static) -> anyhow::Error {
        Fault::of(exit, anyhow::Error::msg(message))
    }

    /// An error that ends the program with an exit code.
    pub(crate) fn of(exit: Exit, error: impl Into<anyhow::Error>) -> anyhow::Error {
        anyhow::Error::new(Fault { exit, error: error.into() })
    }

    /// The exit code of an error: that of the outermost fault in its chain, or `Internal`.
    pub(crate) fn exit_of(error: &anyhow::Error) -> Exit {
        error.chain().find_map(|cause| cause.downcast_ref::<Fault>()).map_or(Exit::Internal, |fault| fault.exit)
    }
}

impl fmt::Display for Fault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(&self.error, f)
    }
}

impl Error for Fault {
    fn source(&self) -> Option<&(dyn Error + 'static)> {
        self.error.source()
    }
}

/// Says which exit code an error ends the program with.
pub(crate) trait OrFault<T> {
    /// Makes the error a fault of that exit code.
    fn or_fault(self, exit: Exit) -> anyhow::Result<T>;
}

impl<T, E: Into<anyhow::Error>> OrFault<T> for Result<T, E> {
    fn or_fault(self, exit: Exit) -> anyhow::Result<T> {
        self.map_err(|error| Fault::of(exit, error))
    }
}

//! The worker processes of one machine.

use std::path::{Path, PathBuf};
use std::process::{ExitStatus, Stdio};
use std::time::Duration;

use anyhow::Context;
use gristmill_job::Exit;
use std::os::unix::process::ExitStatusExt;
use tokio::io::{AsyncBufReadExt, BufReader};
use tokio::process::{ChildStdin, Command};
use tokio::sync::mpsc;

use crate::fault::Fault;
use crate::speak::tell;

/// The worker's program: the one asked for, else beside this one, else on the PATH.
pub(crate) fn find_worker(asked: Option<&Path>) -> anyhow::Result<PathBuf> {
    const NAME: &str = "gristmill-worker";
    let missing = |place: String| {
        Fault::told(Exit::Usage, format!("{NAME} is not {place}; `make install` installs both programs together"))
    };
    if let Some(path) = asked {
        return if path.is_file() { Ok(path.to_owned()) } else { Err(missing(format!("at {}", path.display()))) };
    }
    let beside = std::env::current_exe().ok().and_then(|own| Some(own.parent()?.join(NAME)));
    let on_path = std::env::var_os("PATH").unwrap_or_default();
    let places = beside.into_iter().chain(std::env::split_paths(&on_path).map(|folder| folder.join(NAME)));
    places.into_iter().find(|path| path.is_file()).ok_or_else(|| missing("beside this program or on the PATH".into()))
}

/// A worker process that has ended.
pub(super) struct Gone {
    pub(super) pid: u32,
    pub(super) status: ExitStatus,
    /// By a signal: it had no chance to say why.
    pub(super) died: bool,
}

pub(super) struct Crew {
    program: PathBuf,
    options: Vec<String>,
    size: usize,
    /// The living, each with the pipe whose end tells it that we are gone.
    alive: Vec<(u32, ChildStdin)>,
    sender: mpsc::UnboundedSender<Gone>,
    receiver: mpsc::UnboundedReceiver<Gone>,
}

impl Crew {
    pub(super) fn new(program: PathBuf, options: Vec<String>, size: usize) -> Self {
        let (sender, receiver) = mpsc::unbounded_channel();
        Crew { program, options, size, alive: Vec::new(), sender, receiver }
    }

    /// Starts as many processes as are missing.
    pub(super) fn fill(&mut self) -> anyhow::Result<()> {
        while self.alive.len() < self.size {
            self.start()?;
        }
        Ok(())
    }

    fn start(&mut self) -> anyhow::Result<()> {
        let mut command = Command::new(&self.program);
        // Threads that spin while they wait for each other take the cores from those that feed them: beside one busy
        // process on two cores that costs two thirds of the speed.
        if std::env::var_os("OMP_WAIT_POLICY").is_none() {
            command.env("OMP_WAIT_POLICY", "passive");
        }
        let mut child = command
            .args(&self.options)
            .stdin(Stdio::piped())
            .stdout(Stdio::null())
            .stderr(Stdio::piped())
            // Ctrl-C at the terminal is for us; we tell the workers.
            .process_group(0)
            .spawn()
            .with_context(|| format!("{} cannot be started", self.program.display()))?;
        let pid = child.id().context("a process that was just started has a number")?;
        let (stdin, stderr) = (child.stdin.take(), child.stderr.take());
        if let Some(stderr) = stderr {
            tokio::spawn(async move {
                let mut lines = BufReader::new(stderr).lines();
                while let Ok(Some(line)) = lines.next_line().await {
                    tell!("{line}");
                }
            });
        }
        self.alive.push((pid, stdin.context("stdin was piped")?));
        let sender = self.sender.clone();
        tokio::spawn(async move {
            if let Ok(status) = child.wait().await {
                let _ = sender.send(Gone { pid, status, died: status.signal().is_some() });
            }
        });
        Ok(())
    }

    /// Waits for the next process to end.
    pub(super) async fn gone(&mut self) -> Gone {
        let gone = self.receiver.recv().await.expect("the crew holds a sender itself");
        self.alive.retain(|(pid, _)| *pid != gone.pid);
        gone
    }

    /// Sends everybody home: they leave by themselves when the job is complete, else they are told to finish and give
    /// back; whoever is still there after `grace` is killed.
    pub(super) async fn disband(&mut self, complete: bool, grace: Duration) {
        if !complete {
            self.signal(libc::SIGTERM);
        }
        let leave = async {
            while !self.alive.is_empty() {
                self.gone().await;
            }
        };
        if tokio::time::timeout(grace, leave).await.is_err() {
            self.signal(libc::SIGKILL);
        }
    }

    fn signal(&self, signal: i32) {
        for (pid, _) in &self.alive {
            // SAFETY: the process is a child that has not been waited for, so its number is its own.
            unsafe { libc::kill(*pid as i32, signal) };
        }
    }
}

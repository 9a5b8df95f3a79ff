//! The programs as a person runs them, each in a process of its own.

#![allow(clippy::unwrap_used)]

use std::ffi::OsStr;
use std::fs::{self, File};
use std::io::{BufRead, BufReader, Read, Write};
use std::os::unix::process::{CommandExt, ExitStatusExt};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};
use std::sync::{Arc, Mutex};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use gristmill_job::Exit;

/// Longer than any run of these tests takes on a slow and busy machine.
const LIMIT: Duration = Duration::from_secs(150);

/// A program that was built beside the test that runs.
pub fn program(name: &str) -> PathBuf {
    let path = target_folder().join(name);
    assert!(path.is_file(), "{} is not there: run `cargo build --workspace --bins` first", path.display());
    path
}

fn target_folder() -> PathBuf {
    let own = std::env::current_exe().unwrap();
    own.ancestors().nth(2).expect("tests lie in target/PROFILE/deps").to_owned()
}

/// Qwen2.5's tokenizer, packed.
pub fn packed_tokenizer() -> PathBuf {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).parent().unwrap();
    root.join("assets/qwen2.5-tokenizer/tokenizer.json.gz")
}

/// A folder with a tiny random model, made once per build of the program that makes it.
pub fn tiny_model() -> PathBuf {
    let kept = target_folder().parent().unwrap().join("tmp");
    fs::create_dir_all(&kept).unwrap();
    let lock = File::create(kept.join("tiny-model.lock")).unwrap();
    lock.lock().unwrap();
    let folder = kept.join("tiny-model");
    let modified = |path: &Path| fs::metadata(path).and_then(|meta| meta.modified()).ok();
    if modified(&folder.join("config.json")) < modified(&program("gristmill")) {
        let _ = fs::remove_dir_all(&folder);
        make_model(&folder);
    }
    folder
}

/// Writes a tiny random model.
pub fn make_model(folder: &Path) {
    let mut command = Command::new(program("gristmill"));
    command.args(["model", "new", "--shape", "tiny", "--seed", "1", "--tokenizer"]);
    let ran = Running::start(command.arg(packed_tokenizer()).arg("--output").arg(folder)).wait();
    assert_eq!(ran.code, 0, "{}", ran.stderr);
}

/// What a program left behind.
#[derive(Debug)]
pub struct Ran {
    /// Its exit status, or minus the signal that ended it.
    pub code: i32,
    /// Everything it printed.
    pub stdout: String,
    /// Everything it told.
    pub stderr: String,
}

impl Ran {
    /// The program must have ended so.
    #[track_caller]
    pub fn expect(self, exit: Exit) -> Self {
        assert_eq!(self.code, exit as i32, "stdout:\n{}\nstderr:\n{}", self.stdout, self.stderr);
        self
    }

    /// The program must have ended so, in one message with all of these words.
    #[track_caller]
    pub fn expect_message(self, exit: Exit, words: &[&str]) -> Self {
        let ran = self.expect(exit);
        let message = ran.stderr.split_once("error: ").map_or("", |(_, message)| message);
        for word in words {
            assert!(message.contains(word), "`{word}` is not in the message:\n{}", ran.stderr);
        }
        ran
    }

    /// The event of that name in the JSON lines.
    #[track_caller]
    pub fn event(&self, name: &str) -> serde_json::Value {
        let mut events =
            self.stdout.lines().map(|line| serde_json::from_str::<serde_json::Value>(line).expect("JSON lines"));
        events.rfind(|event| event["event"] == name).unwrap_or_else(|| panic!("no `{name}`:\n{}", self.stdout))
    }
}

/// A process at work. It is killed when this is dropped.
#[derive(Debug)]
pub struct Running {
    child: Child,
    stdout: Option<JoinHandle<String>>,
    stderr: Option<JoinHandle<()>>,
    told: Arc<Mutex<String>>,
}

impl Running {
    /// Starts a command, and reads what it says.
    pub fn start(command: &mut Command) -> Self {
        command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
        let mut child = command.spawn().unwrap();
        let (mut out, err) = (child.stdout.take().unwrap(), child.stderr.take().unwrap());
        let stdout = std::thread::spawn(move || {
            let mut text = String::new();
            out.read_to_string(&mut text).unwrap();
            text
        });
        let told = Arc::new(Mutex::new(String::new()));
        let telling = Arc::clone(&told);
        let stderr = std::thread::spawn(move || {
            for line in BufReader::new(err).lines() {
                let mut told = telling.lock().unwrap();
                told.push_str(&line.unwrap());
                told.push('\n');
            }
        });
        Running { child, stdout: Some(stdout), stderr: Some(stderr), told }
    }

    /// The process's number.
    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    /// What it has told so far.
    pub fn told(&self) -> String {
        self.told.lock().unwrap().clone()
    }

    /// Whether it has ended.
    pub fn has_ended(&mut self) -> bool {
        self.child.try_wait().unwrap().is_some()
    }

    /// Waits for its end.
    #[track_caller]
    pub fn wait(mut self) -> Ran {
        let start = Instant::now();
        while !self.has_ended() {
            assert!(start.elapsed() < LIMIT, "still at work after {LIMIT:?}:\n{}", self.told());
            std::thread::sleep(Duration::from_millis(5));
        }
        let status = self.child.wait().unwrap();
        let stdout = self.stdout.take().unwrap().join().unwrap();
        self.stderr.take().unwrap().join().unwrap();
        let code = status.code().unwrap_or_else(|| -status.signal().unwrap_or(0));
        Ran { code, stdout, stderr: self.told() }
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// Sends a signal to a process.
pub fn send_signal(pid: u32, signal: i32) {
    // SAFETY: sending a signal touches no memory of ours.
    unsafe { libc::kill(pid as i32, signal) };
}

/// Whether there is a process of that number that has not ended.
pub fn is_alive(pid: u32) -> bool {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
    let state = stat.rsplit_once(')').map_or("", |(_, rest)| rest.trim_start());
    !state.is_empty() && !state.starts_with('Z')
}

/// `gristmill embed`.
#[derive(Debug)]
pub struct Embed(Command);

impl Embed {
    /// With the real worker and the tiny model.
    pub fn new(corpus: impl AsRef<OsStr>, output: &Path) -> Self {
        let mut command = Command::new(program("gristmill"));
        command.arg("embed").arg(corpus).arg("--output").arg(output);
        command.env_remove("RUST_LOG").env("GRISTMILL_MODEL", tiny_model());
        Embed(command)
    }

    /// With the stand-in for a model.
    pub fn stand_in(corpus: impl AsRef<OsStr>, output: &Path) -> Self {
        Embed::new(corpus, output).env("GRISTMILL_WORKER", program("stand-in-worker"))
    }

    /// More options.
    pub fn args<T: AsRef<OsStr>>(mut self, args: impl IntoIterator<Item = T>) -> Self {
        self.0.args(args);
        self
    }

    /// Another environment.
    pub fn env(mut self, name: &str, value: impl AsRef<OsStr>) -> Self {
        self.0.env(name, value);
        self
    }

    /// Files larger than so many bytes cannot be written, as if the disk were full.
    pub fn with_file_limit(mut self, bytes: u64) -> Self {
        let limit = move || {
            let limit = libc::rlimit { rlim_cur: bytes, rlim_max: bytes };
            // SAFETY: both calls only change attributes of the process that is about to be.
            let done = unsafe {
                libc::signal(libc::SIGXFSZ, libc::SIG_IGN);
                libc::setrlimit(libc::RLIMIT_FSIZE, &limit)
            };
            if done == 0 { Ok(()) } else { Err(std::io::Error::last_os_error()) }
        };
        // SAFETY: between fork and exec the closure calls nothing but two async-signal-safe functions.
        unsafe { self.0.pre_exec(limit) };
        self
    }

    /// Starts it.
    pub fn start(mut self) -> Running {
        Running::start(&mut self.0)
    }

    /// Runs it to its end.
    #[track_caller]
    pub fn run(self) -> Ran {
        self.start().wait()
    }
}

/// `gristmill verify` must find nothing, with the input beside it.
#[track_caller]
pub fn verify_is_clean(output: &Path) {
    let mut command = Command::new(program("gristmill"));
    Running::start(command.arg("verify").arg(output).arg("--input")).wait().expect(Exit::Done);
}

/// Lines through `gristmill-worker query`, which answers each with a line of JSON.
pub fn query(options: &[&str], lines: &str) -> Output {
    let mut command = Command::new(program("gristmill-worker"));
    command.arg("query").arg("--model").arg(tiny_model()).args(options).env_remove("RUST_LOG");
    let mut child = command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    let mut stdin = child.stdin.take().unwrap();
    let lines = lines.to_owned();
    let writer = std::thread::spawn(move || stdin.write_all(lines.as_bytes()));
    let output = child.wait_with_output().unwrap();
    writer.join().unwrap().unwrap();
    output
}

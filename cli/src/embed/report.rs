//! What a run tells: a bar where stderr is a terminal, JSON lines on stdout where asked for, and a summary.

use std::io::IsTerminal;
use std::time::{Duration, Instant};

use gristmill_coordinator::JobProgress;
use gristmill_coordinator::prepare::Prepared;
use gristmill_store::documents::Manifest;
use indicatif::{ProgressBar, ProgressStyle};
use serde::Serialize;
use serde_json::json;

use super::name;

use crate::speak::{say, tell};

/// How often progress is told where nobody watches a bar.
const QUIET_PERIOD: Duration = Duration::from_secs(30);

pub(super) struct Report {
    json: bool,
    bar: Option<ProgressBar>,
    start: Instant,
    /// When the first tokens came, and how many rows were done by then.
    first: Option<(Instant, u64, u64)>,
    told: Option<Instant>,
}

/// What a finished run says.
#[derive(Serialize)]
struct Summary<'a> {
    event: &'static str,
    job: String,
    output: &'a str,
    rows: u64,
    vectors: u64,
    dead: &'a gristmill_store::documents::DeadCounts,
    parts: u64,
    tokens: u64,
    /// Of this run alone.
    run: RunSummary,
}

#[derive(Serialize)]
struct RunSummary {
    seconds: f64,
    rows: u64,
    tokens: u64,
    tokens_per_s: f64,
    load_s: f64,
    read_s: f64,
    tokenize_s: f64,
    encode_s: f64,
    write_s: f64,
    device_idle_share: f64,
    padding_share: f64,
    worker_deaths: u64,
}

impl Report {
    pub(super) fn new(json: bool) -> Self {
        let bar = (!json && std::io::stderr().is_terminal()).then(|| ProgressBar::new(0));
        Report { json, bar, start: Instant::now(), first: None, told: None }
    }

    pub(super) fn start(&mut self, prepared: &Prepared) {
        let spec = &prepared.document.spec;
        let (rows, shards) = (prepared.plan.rows(), prepared.plan.shards.len());
        for file in prepared.new_files.iter().take(5) {
            tell!("note: {file} is new since the job was planned and is not embedded");
        }
        if prepared.new_files.len() > 5 {
            tell!("note: {} more files are new and are not embedded", prepared.new_files.len() - 5);
        }
        if self.json {
            self.event(&json!({
                "event": "start", "job": prepared.document.job, "output": prepared.out.url(), "resumed": prepared.resumed,
                "rows": rows, "shards": shards, "estimated_tokens": prepared.plan.tokens(), "spec": spec,
            }));
            return;
        }
        if prepared.sealed.is_some() {
            return;
        }
        let verb = if prepared.resumed { "going on with" } else { "beginning" };
        tell!(
            "{verb} job {}: {rows} rows in {shards} shards, model {}, {} {}, at most {} tokens, to {}",
            name(prepared),
            prepared.document.model,
            spec.vectors.width,
            spec.vectors.dtype,
            spec.text.max_tokens,
            prepared.out.url()
        );
        if let Some(bar) = &self.bar {
            let style = ProgressStyle::with_template("{bar:30} {percent}%  {human_pos}/{human_len} rows  {msg}");
            bar.set_style(style.unwrap_or_else(|_| ProgressStyle::default_bar()));
            bar.set_length(rows);
        }
    }

    pub(super) fn progress(&mut self, progress: &JobProgress) {
        let now = Instant::now();
        if self.first.is_none() && progress.work.tokens > 0 {
            self.first = Some((now, progress.work.tokens, progress.rows_done));
        }
        let (tokens_per_s, left) = self.rate(progress, now);
        if let Some(bar) = &self.bar {
            bar.set_position(progress.rows_done);
            let left = left.map_or_else(String::new, |left| format!(", {} left", indicatif::HumanDuration(left)));
            bar.set_message(format!("{tokens_per_s:.0} tokens/s{left}"));
            return;
        }
        let period = if self.json { Duration::from_secs(1) } else { QUIET_PERIOD };
        if self.told.unwrap_or(self.start).elapsed() < period {
            return;
        }
        self.told = Some(now);
        let percent = 100.0 * progress.rows_done as f64 / progress.rows_total.max(1) as f64;
        if self.json {
            self.event(&json!({
                "event": "progress", "rows": progress.rows_done, "rows_total": progress.rows_total, "percent": percent,
                "tokens": progress.work.tokens, "tokens_per_s": tokens_per_s, "seconds_left": left.map(|l| l.as_secs()),
                "parts": progress.parts, "workers": progress.workers, "worker_deaths": progress.deaths,
            }));
        } else {
            let (rows, total) = (progress.rows_done, progress.rows_total);
            tell!("{percent:.1} %, {rows} of {total} rows, {tokens_per_s:.0} tokens/s");
        }
    }

    fn rate(&self, progress: &JobProgress, now: Instant) -> (f64, Option<Duration>) {
        let Some((since, tokens, rows)) = self.first else { return (0.0, None) };
        let seconds = (now - since).as_secs_f64();
        if seconds < 0.5 {
            return (0.0, None);
        }
        let rows_per_s = progress.rows_done.saturating_sub(rows) as f64 / seconds;
        let rows_left = progress.rows_total.saturating_sub(progress.rows_done) as f64;
        let left = (rows_per_s > 0.0).then(|| Duration::from_secs_f64((rows_left / rows_per_s).min(1e9)));
        (progress.work.tokens.saturating_sub(tokens) as f64 / seconds, left)
    }

    pub(super) fn finish_bar(&self) {
        if let Some(bar) = &self.bar {
            bar.finish_and_clear();
        }
    }

    pub(super) fn already_sealed(&self, prepared: &Prepared, manifest: &Manifest) {
        if !self.json {
            tell!("job {} is finished and sealed already; nothing to do", name(prepared));
        }
        self.summary(prepared, manifest, &JobProgress::default());
    }

    pub(super) fn summary(&self, prepared: &Prepared, manifest: &Manifest, progress: &JobProgress) {
        let work = &progress.work;
        let seconds = self.start.elapsed().as_secs_f64();
        let s = |us: u64| us as f64 / 1e6;
        let share = |part: u64, rest: u64| if part == 0 { 0.0 } else { part as f64 / (part + rest) as f64 };
        let run = RunSummary {
            seconds,
            rows: work.rows,
            tokens: work.tokens,
            tokens_per_s: work.tokens as f64 / seconds,
            load_s: s(work.load_us),
            read_s: s(work.read_us),
            tokenize_s: s(work.tokenize_us),
            encode_s: s(work.encode_us),
            write_s: s(work.write_us),
            device_idle_share: share(work.idle_us, work.encode_us),
            padding_share: share(work.filled_tokens, work.tokens),
            worker_deaths: progress.deaths,
        };
        let summary = Summary {
            event: "summary",
            job: prepared.document.job.to_string(),
            output: prepared.out.url(),
            rows: manifest.rows,
            vectors: manifest.vectors,
            dead: &manifest.dead,
            parts: manifest.parts,
            tokens: manifest.tokens,
            run,
        };
        if self.json { self.event(&summary) } else { print(&summary) }
    }

    fn event(&self, event: &impl Serialize) {
        say!("{}", serde_json::to_string(event).expect("events are plain data"));
    }
}

fn print(summary: &Summary<'_>) {
    let dead: Vec<String> = summary.dead.iter().map(|(reason, rows)| format!("{} {rows}", reason.name())).collect();
    let run = &summary.run;
    say!("output        {}", summary.output);
    say!("rows          {} ({} vectors, {} parts)", summary.rows, summary.vectors, summary.parts);
    say!("dead letters  {}", if dead.is_empty() { "none".to_owned() } else { dead.join(", ") });
    say!("tokens        {}", summary.tokens);
    if run.tokens > 0 {
        say!(
            "this run      {} rows, {} tokens in {:.1} s: {:.0} tokens/s",
            run.rows,
            run.tokens,
            run.seconds,
            run.tokens_per_s
        );
        say!(
            "seconds       load {:.1}, read {:.1}, tokenize {:.1}, encode {:.1}, write {:.1}",
            run.load_s,
            run.read_s,
            run.tokenize_s,
            run.encode_s,
            run.write_s
        );
        say!(
            "shares        device idle {:.1} %, padding {:.2} %; {} workers died",
            100.0 * run.device_idle_share,
            100.0 * run.padding_share,
            run.worker_deaths
        );
    }
}

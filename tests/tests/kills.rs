//! Fifty kills: the coordinator and its worker are ended by SIGKILL at moments that a seed chooses, and started again, until
//! one job has lived through all of it. It must be sealed with each row once, no part may ever change, and no more may be
//! computed twice than what was in hand.

#![allow(clippy::unwrap_used, clippy::print_stdout)]

use std::collections::BTreeMap;
use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant, SystemTime};

use gristmill_job::{Digest, Exit};
use gristmill_tests::corpus;
use gristmill_tests::output::{self, check_stand_in, is_sealed, parts};
use gristmill_tests::programs::{Embed, Running, is_alive, send_signal, verify_is_clean};
use gristmill_tests::stand_in::{DELAY_MS, LEDGER};
use rand_chacha::ChaCha8Rng;
use rand_chacha::rand_core::{Rng, SeedableRng};
use tempfile::TempDir;

const SEED: u64 = 20_260_101;
const KILLS: usize = 50;
const ROWS: usize = 5000;
/// Batches of about ten rows, and shards of about four batches.
const OPTIONS: [&str; 7] = ["--budget-tokens", "400", "--shard-tokens", "1600", "--heartbeat", "0.5", "--json"];
/// Shards that a worker may have encoded rows of and not committed: one on the device, two being stored.
const SHARDS_IN_FLIGHT: u64 = 3;

/// A part as it was when it was first seen.
#[derive(Debug, PartialEq)]
struct Seen {
    inode: u64,
    modified: SystemTime,
    digest: Digest,
}

impl Seen {
    fn look(part: &Path) -> Self {
        let meta = fs::metadata(part).unwrap();
        Seen { inode: meta.ino(), modified: meta.modified().unwrap(), digest: Digest::of(&fs::read(part).unwrap()) }
    }
}

struct World {
    folder: TempDir,
    seen: BTreeMap<PathBuf, Seen>,
}

impl World {
    fn new() -> Self {
        World { folder: TempDir::new().unwrap(), seen: BTreeMap::new() }
    }

    fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    fn embed(&self) -> Running {
        let embed = Embed::stand_in(self.path("corpus.parquet"), &self.path("out")).args(OPTIONS);
        embed.env(DELAY_MS, "12").env(LEDGER, self.path("ledger")).start()
    }

    /// Rows encoded so far, by process, whole lines only; and the last process that wrote.
    fn ledger(&self) -> (BTreeMap<u32, u64>, Option<u32>) {
        let text = fs::read_to_string(self.path("ledger")).unwrap_or_default();
        let whole = text.rsplit_once('\n').map_or("", |(whole, _)| whole);
        let mut rows = BTreeMap::new();
        let mut last = None;
        for line in whole.lines() {
            let (pid, encoded) = line.split_once(' ').unwrap();
            let pid = pid.parse().unwrap();
            *rows.entry(pid).or_default() += encoded.parse::<u64>().unwrap();
            last = Some(pid);
        }
        (rows, last)
    }

    fn batches(&self) -> usize {
        fs::read(self.path("ledger")).unwrap_or_default().iter().filter(|byte| **byte == b'\n').count()
    }

    /// Notes new parts; those seen before must be what they were.
    fn look_at_parts(&mut self) {
        for part in parts(&self.path("out")) {
            let now = Seen::look(&part);
            match self.seen.get(&part) {
                Some(before) => assert_eq!(*before, now, "{} was touched again", part.display()),
                None => drop(self.seen.insert(part, now)),
            }
        }
    }

    /// Waits until so many batches more have been encoded than `before`.
    fn wait_for_batches(&self, embed: &mut Running, before: usize, more: usize) {
        let start = Instant::now();
        while self.batches() < before + more {
            assert!(!embed.has_ended(), "it ended before its time:\n{}", embed.told());
            assert!(start.elapsed() < Duration::from_secs(60), "no batch comes:\n{}", embed.told());
            std::thread::sleep(Duration::from_millis(1));
        }
    }
}

#[test]
fn a_job_outlives_fifty_kills() {
    println!("seed {SEED}");
    let mut random = ChaCha8Rng::seed_from_u64(SEED);
    let mut world = World::new();
    let texts = corpus::texts(SEED, ROWS);
    corpus::write_texts(&world.path("corpus.parquet"), &texts);
    let start = Instant::now();
    let mut embed = world.embed();
    let mut killed = Vec::new();
    for kill in 1..=KILLS {
        let batches = 1 + random.next_u32() as usize % 14;
        let pause_us = u64::from(random.next_u32() % 20_000);
        world.wait_for_batches(&mut embed, world.batches(), batches);
        std::thread::sleep(Duration::from_micros(pause_us));
        let worker = world.ledger().1.unwrap();
        let coordinator = random.next_u32() % 3 == 0;
        send_signal(if coordinator { embed.pid() } else { worker }, libc::SIGKILL);
        killed.push(worker);
        if coordinator {
            let ran = embed.wait();
            assert_eq!(ran.code, -libc::SIGKILL);
            embed = world.embed();
        }
        world.look_at_parts();
        let what = if coordinator { "coordinator" } else { "worker" };
        println!(
            "kill {kill:2}: the {what} after {batches} batches and {pause_us} us; {} parts, {:.1} s",
            world.seen.len(),
            start.elapsed().as_secs_f64()
        );
    }
    let ran = embed.wait().expect(Exit::Done);
    world.look_at_parts();
    println!("sealed after {:.1} s, {}", start.elapsed().as_secs_f64(), ran.event("summary"));
    let out = world.path("out");
    assert!(is_sealed(&out));
    check_stand_in(&out, "corpus.parquet", &texts, &[]);
    verify_is_clean(&out);
    check_waste(&world, &killed);
    nobody_is_left(&world);
}

/// Nothing is computed twice but what the killed had in hand.
fn check_waste(world: &World, killed: &[u32]) {
    let encoded = world.ledger().0;
    let mut shard_rows = BTreeMap::<String, u64>::new();
    for part in parts(&world.path("out")) {
        let footer = gristmill_store::part::parse_footer("a part", &fs::read(&part).unwrap().into()).unwrap().footer;
        let rows: u64 = footer.segments.iter().map(gristmill_job::Segment::rows).sum();
        shard_rows.insert(footer.slot.to_string(), rows);
    }
    let largest = shard_rows.values().max().unwrap() * SHARDS_IN_FLIGHT;
    let in_hand: u64 = killed.iter().map(|pid| encoded.get(pid).copied().unwrap_or(0).min(largest)).sum();
    let total: u64 = encoded.values().sum();
    println!(
        "{total} rows encoded by {} processes for {ROWS} rows in {} parts; at most {in_hand} were in hand at kills",
        encoded.len(),
        shard_rows.len(),
    );
    assert!(total >= ROWS as u64, "the ledger misses rows");
    assert!(total <= ROWS as u64 + in_hand, "{total} rows encoded, {in_hand} in hand at kills");
}

/// Orphans leave by themselves.
fn nobody_is_left(world: &World) {
    let pids: Vec<u32> = world.ledger().0.into_keys().collect();
    let start = Instant::now();
    while let Some(pid) = pids.iter().find(|pid| is_alive(**pid)) {
        assert!(start.elapsed() < Duration::from_secs(60), "worker {pid} is still there");
        std::thread::sleep(Duration::from_millis(20));
    }
}

#[test]
fn an_orphaned_worker_commits_what_it_stores_gives_back_the_rest_and_leaves() {
    let mut world = World::new();
    let texts = corpus::texts(3, 2000);
    corpus::write_texts(&world.path("corpus.parquet"), &texts);
    let mut embed = world.embed();
    world.wait_for_batches(&mut embed, 0, 30);
    let worker = world.ledger().1.unwrap();
    send_signal(embed.pid(), libc::SIGKILL);
    drop(embed.wait());
    let start = Instant::now();
    while is_alive(worker) {
        assert!(start.elapsed() < Duration::from_secs(30), "the orphan does not leave");
        std::thread::sleep(Duration::from_millis(5));
    }
    println!("the orphan left after {:.2} s", start.elapsed().as_secs_f64());
    world.look_at_parts();
    let before = output::rows(&world.path("out")).len() as u64;
    let encoded: u64 = world.ledger().0.values().sum();
    assert!(before > 0 && before <= encoded);
    world.embed().wait().expect(Exit::Done);
    world.look_at_parts();
    let again: u64 = world.ledger().0.values().sum::<u64>() - encoded;
    assert_eq!(again, 2000 - before, "what was committed is not computed again, and the rest once");
    check_stand_in(&world.path("out"), "corpus.parquet", &texts, &[]);
    verify_is_clean(&world.path("out"));
}

#[test]
fn a_job_that_is_interrupted_exits_130_and_goes_on() {
    for signal in [libc::SIGINT, libc::SIGTERM] {
        let mut world = World::new();
        let texts = corpus::texts(4, 1500);
        corpus::write_texts(&world.path("corpus.parquet"), &texts);
        let mut embed = world.embed();
        world.wait_for_batches(&mut embed, 0, 30);
        let worker = world.ledger().1.unwrap();
        send_signal(embed.pid(), signal);
        embed.wait().expect_message(Exit::Interrupted, &["run again to go on"]);
        assert!(!is_alive(worker), "the worker outlives an orderly end");
        assert!(!is_sealed(&world.path("out")));
        world.look_at_parts();
        assert!(!world.seen.is_empty());
        world.embed().wait().expect(Exit::Done);
        world.look_at_parts();
        check_stand_in(&world.path("out"), "corpus.parquet", &texts, &[]);
        verify_is_clean(&world.path("out"));
    }
}

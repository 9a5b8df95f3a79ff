//! Rows that end their workers, or have no usable vector: they alone become dead letters, and too many of them keep the
//! job from being sealed.

#![allow(clippy::unwrap_used)]

use std::path::{Path, PathBuf};

use gristmill_job::{DeadReason, Exit};
use gristmill_tests::output::{check_stand_in, dead_letters, is_sealed};
use gristmill_tests::programs::{Embed, Ran, verify_is_clean};
use gristmill_tests::stand_in::{BREAKING, FAULTS, HEAVY, NARROW, NOT_FINITE, POISON, REFUSED, ROOM_TOKENS};
use gristmill_tests::{corpus, output, programs};
use gristmill_worker::Tokenizer;
use tempfile::TempDir;

const FILE: &str = "corpus.parquet";

struct Case {
    folder: TempDir,
    texts: Vec<String>,
}

impl Case {
    /// A corpus of `rows` texts, in some of which a fault is planted.
    fn new(rows: usize, faults: &[(u64, &str)]) -> Self {
        let folder = TempDir::new().unwrap();
        let mut texts = corpus::texts(5, rows);
        for (row, fault) in faults {
            texts[*row as usize].push_str(fault);
        }
        corpus::write_texts(&folder.path().join(FILE), &texts);
        Case { folder, texts }
    }

    fn output(&self) -> PathBuf {
        self.folder.path().join("out")
    }

    fn embed(&self) -> Embed {
        let corpus = self.folder.path().join(FILE);
        Embed::stand_in(corpus, &self.output()).args(["--json", "--heartbeat", "0.5", "--shard-tokens", "12000"])
    }

    /// The job is sealed, and these rows are dead, for this reason, and no others.
    fn check(&self, dead: &[u64], reason: DeadReason) {
        check_stand_in(&self.output(), FILE, &self.texts, dead);
        assert!(dead_letters(&self.output()).values().all(|letter| letter.reason == reason));
        assert!(is_sealed(&self.output()));
        verify_is_clean(&self.output());
    }
}

fn deaths(ran: &Ran) -> u64 {
    ran.event("summary")["run"]["worker_deaths"].as_u64().unwrap()
}

#[test]
fn the_faults_are_single_ids_of_the_tokenizer() {
    let path = programs::tiny_model().join("tokenizer.json");
    let tokenizer = Tokenizer::open(&path, &output::usual_text_spec()).unwrap();
    let prompt = tokenizer.tokenize("").unwrap().ids.len();
    for (text, id) in FAULTS {
        assert_eq!(tokenizer.tokenize(text).unwrap().ids[prompt..], [id], "{text}");
    }
}

#[test]
fn one_poison_row_is_isolated_at_the_cost_of_few_workers() {
    let case = Case::new(3000, &[(1777, POISON)]);
    let ran = case.embed().run().expect(Exit::Done);
    println!("{} workers died of one poison row", deaths(&ran));
    // Six or seven; a heartbeat that comes late lets an innocent shard be taken for the guilty one, once.
    assert!((2..=12).contains(&deaths(&ran)), "{} deaths", deaths(&ran));
    case.check(&[1777], DeadReason::Poison);
}

#[test]
fn two_poison_rows_close_to_each_other_are_isolated() {
    let dead = [2930, 2999];
    let case = Case::new(3000, &dead.map(|row| (row, POISON)));
    let ran = case.embed().run().expect(Exit::Done);
    println!("{} workers died of two poison rows", deaths(&ran));
    assert!(deaths(&ran) <= 20, "{} deaths", deaths(&ran));
    case.check(&dead, DeadReason::Poison);
}

#[test]
fn a_vector_that_is_never_finite_is_a_dead_letter_and_one_that_is_in_float32_is_not() {
    let case = Case::new(600, &[(0, NOT_FINITE), (77, NARROW), (300, NOT_FINITE), (599, NOT_FINITE)]);
    let ran = case.embed().run().expect(Exit::Done);
    assert_eq!(deaths(&ran), 0);
    assert_eq!(ran.event("summary")["dead"], serde_json::json!({ "BAD_VECTOR": 3 }));
    case.check(&[0, 300, 599], DeadReason::BadVector);
}

#[test]
fn a_device_that_spoils_most_vectors_is_not_taken_for_bad_rows() {
    let all: Vec<(u64, &str)> = (0..200).map(|row| (row, NOT_FINITE)).collect();
    let case = Case::new(200, &all);
    case.embed()
        .run()
        .expect_message(Exit::Device, &["vectors are not finite", "the device or the weights are broken"]);
    assert!(!is_sealed(&case.output()));
    assert!(dead_letters(&case.output()).is_empty());
}

#[test]
fn a_broken_device_ends_the_run() {
    let case = Case::new(200, &[(150, BREAKING)]);
    case.embed().run().expect_message(Exit::Device, &["the device failed", "it fell off the bus"]);
    assert!(!is_sealed(&case.output()));
}

#[test]
fn too_many_dead_rows_keep_the_job_from_being_sealed_until_the_limit_is_raised() {
    let dead: Vec<u64> = (0..12).map(|i| i * 50).collect();
    let faults: Vec<(u64, &str)> = dead.iter().map(|row| (*row, NOT_FINITE)).collect();
    let case = Case::new(600, &faults);
    let words = ["12 of 600 rows", "BAD_VECTOR 12", "at most 10", "--max-dead"];
    case.embed().run().expect_message(Exit::NeedsAttention, &words);
    assert!(!is_sealed(&case.output()));
    case.embed().args(["--max-dead", "0.02"]).run().expect(Exit::Done);
    case.check(&dead, DeadReason::BadVector);
}

#[test]
fn a_batch_that_needs_too_much_memory_is_computed_in_smaller_ones() {
    let faults: Vec<(u64, &str)> = (0..400).step_by(7).map(|row| (row, HEAVY)).collect();
    let case = Case::new(400, &faults);
    let ran = case.embed().env(ROOM_TOKENS, "100").run().expect(Exit::Done);
    assert_eq!(deaths(&ran), 0);
    assert!(ran.stderr.contains("smaller batches"), "{}", ran.stderr);
    case.check(&[], DeadReason::Poison);
}

#[test]
fn a_row_that_the_encoder_refuses_is_found_and_buried() {
    let case = Case::new(400, &[(222, REFUSED)]);
    case.embed().run().expect(Exit::Done);
    case.check(&[222], DeadReason::Poison);
}

#[test]
fn special_token_strings_taken_as_text_do_no_harm() {
    let case = Case::new(50, &[(10, POISON)]);
    let ran = case.embed().args(["--special-tokens", "text"]).run().expect(Exit::Done);
    assert_eq!(deaths(&ran), 0);
    assert_eq!(output::rows(Path::new(&case.output())).len(), 50);
}

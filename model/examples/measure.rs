//! Loads a checkpoint and encodes random ids, for its speed and its memory:
//!
//! ```text
//! cargo run -p gristmill-model --example measure -- DIR bf16|f32 THREADS SEQUENCES LENGTH ROUNDS
//! ```

#![allow(clippy::print_stdout)]

use std::path::PathBuf;
use std::time::Instant;

use gristmill_job::{ModelConfig, Residual};
use gristmill_model::{Batch, Device, Model, Options};

type Outcome<T> = Result<T, Box<dyn std::error::Error>>;

fn main() -> Outcome<()> {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let [dir, compute, threads, sequences, length, rounds] = arguments.as_slice() else {
        return Err("DIR bf16|f32 THREADS SEQUENCES LENGTH ROUNDS".into());
    };
    let dir = PathBuf::from(dir);
    let config = ModelConfig::parse(&std::fs::read(dir.join("config.json"))?)?.config;
    let entries = std::fs::read_dir(&dir)?.map(|entry| entry.map(|entry| entry.path()));
    let mut files = entries.collect::<Result<Vec<_>, _>>()?;
    files.retain(|path| path.extension().is_some_and(|extension| extension == "safetensors"));
    files.sort();
    let threads = threads.parse()?;
    let options = Options {
        compute: compute.parse()?,
        residual: Residual::Projected,
        normalise: true,
        threads,
        device: Device::Cpu,
    };

    let began = Instant::now();
    let model = Model::load(&config, &files, &options)?;
    println!("loaded in {:.2} s: {}", began.elapsed().as_secs_f64(), memory()?);
    let (sequences, length): (u32, u32) = (sequences.parse()?, length.parse()?);
    let ids = (0..sequences * length).map(|n| n.wrapping_mul(2_654_435_761) % config.vocab_size as u32).collect();
    let batch = Batch { ids, lengths: vec![length; sequences as usize] };
    for _ in 0..rounds.parse()? {
        let (began, busy) = (Instant::now(), processor_s()?);
        model.encode(&batch)?;
        let (wall_s, own_s) = (began.elapsed().as_secs_f64(), processor_s()? - busy);
        let tokens = f64::from(sequences * length);
        let (rate, own_rate) = (tokens / wall_s, tokens / own_s);
        println!("{rate:.0} tokens/s, {own_rate:.0} per processor second: {}", memory()?);
    }
    Ok(())
}

fn memory() -> Outcome<String> {
    let status = std::fs::read_to_string("/proc/self/status")?;
    let of = |name: &str| {
        let line = status.lines().find(|line| line.starts_with(name));
        line.and_then(|line| line.split_whitespace().nth(1)?.parse::<u64>().ok()).unwrap_or(0) / 1024
    };
    Ok(format!("{} MiB anonymous, {} MiB of files, peak {} MiB", of("RssAnon"), of("RssFile"), of("VmHWM")))
}

/// Processor seconds of this process so far.
fn processor_s() -> Outcome<f64> {
    let stat = std::fs::read_to_string("/proc/self/stat")?;
    let fields: Vec<&str> = stat.rsplit(") ").next().unwrap_or("").split(' ').collect();
    Ok((fields[11].parse::<f64>()? + fields[12].parse::<f64>()?) / 100.0)
}

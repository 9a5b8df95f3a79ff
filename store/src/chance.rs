//! Randomness and waiting, the two things that nothing pure may do.

use std::time::Duration;

use gristmill_job::Nonce;

fn random<const N: usize>() -> [u8; N] {
    let mut bytes = [0; N];
    getrandom::fill(&mut bytes).expect("the operating system has randomness");
    bytes
}

/// A nonce that nobody has used.
pub fn fresh_nonce() -> Nonce {
    Nonce::from_bytes(random())
}

/// Waits before try number `tries + 1`: a random share of 0.1 s doubled with each try, at most 10 s.
pub async fn backoff(tries: u32) {
    let longest_ms = 100u64.saturating_mul(1 << tries.min(10)).min(10_000);
    let wait_ms = u64::from_le_bytes(random()) % (longest_ms + 1);
    tokio::time::sleep(Duration::from_millis(wait_ms)).await;
}

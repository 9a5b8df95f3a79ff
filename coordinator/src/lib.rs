//! Plans, schedules, seals and verifies jobs.

pub mod coverage;
pub mod cut;
pub mod scheduler;

//! Plans, schedules, seals and verifies jobs.

pub mod cut;
pub mod scheduler;

//! The coordinator: plans, schedules, seals and verifies jobs. It decides only which worker embeds which shard; losing it
//! costs no work.

pub mod committed;
pub mod coverage;
pub mod cut;
pub mod planner;
pub mod prepare;
pub mod recovery;
pub mod scheduler;
pub mod seal;
pub mod verify;

mod acts;
mod driver;
mod epoch;
mod messages;
mod rpc;
mod serve;

pub use messages::{Ended, JobProgress, Settings};
pub use serve::{Handle, ServeError, serve};

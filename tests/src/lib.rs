//! What the tests share: an encoder that stands in for the model, the programs as a person runs them, corpora, outputs, and
//! an output with damage planted in it.

pub mod corpus;
pub mod output;
pub mod planted;
pub mod programs;
pub mod stand_in;

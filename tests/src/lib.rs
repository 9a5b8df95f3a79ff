

pub mod planted;

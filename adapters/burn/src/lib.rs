#![doc = include_str!("../README.md")]
#![forbid(unsafe_code)]
#![warn(missing_docs)]

mod config;
mod head;
mod inputs;
mod memory;
mod operation;

pub use config::MarginHeadConfig;
pub use head::MarginHead;
pub use memory::Precision;

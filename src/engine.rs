//! How [`Head`](crate::Head) works, and why it costs what it costs.
//!
#![doc = include_str!("../docs/two-sweeps.svg")]
//!
#![doc = include_str!("../docs/engine.md")]

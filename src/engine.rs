//! How [`Head`](crate::Head) works, and what a step costs.
//!
#![doc = include_str!("../docs/two-sweeps.svg")]
//!
#![doc = include_str!("../docs/engine.md")]

//! The two sweeps over the classes, tile by tile.

mod first;
mod parameters;
mod second;

pub(super) use first::Sweep;
pub(super) use parameters::Parameters;
pub(super) use second::{LogitCoefficients, SweepOutput, TargetRows};

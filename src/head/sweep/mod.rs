//! The two sweeps over the classes, tile by tile.

mod cosines;
mod first;
mod parameters;
mod rows;
mod second;

pub(super) use first::Sweep;
pub(super) use parameters::Chunk;

//! Slices in, slices out: the arithmetic that must be fast. It knows no loss.
//!
//! The only module with `unsafe` and CPU dispatch. A loop is written once, as an `Op` that the
//! compiler translates for each [`Level`] of vector instructions; which level runs is a value, so
//! that a test can request any that the CPU has. Products are written in the operations of
//! [`simd`], which are single instructions.

mod bf16;
mod binary;
mod compiled;
mod dispatch;
mod exp;
mod gemm;
mod hard;
mod matrix;
mod nearest;
mod packed;
mod pair;
mod pairs;
mod product;
mod real;
mod riesz;
mod rows;
mod simd;
mod smoothing;
mod softmax;
mod sub_centers;
mod transpose;
mod update;
mod zeros;

pub use bf16::Precision;
pub use binary::BinaryLogits;
pub(crate) use binary::{BINARY_ROWS, tile_binary};
pub(crate) use compiled::job;
pub(crate) use dispatch::Level;
pub(crate) use gemm::gemm;
pub(crate) use hard::{HardTile, row_logits, row_slopes, tile_counted_max, tile_hard_radial};
pub(crate) use matrix::Mat;
pub(crate) use nearest::tile_nearest;
pub(crate) use packed::Packed;
pub(crate) use pair::{Tangents, add_scaled, add_tangent, dot, moments, part_across, tangents};
pub(crate) use real::Job;
pub use real::Real;
pub(crate) use riesz::{riesz_pair, riesz_row};
pub(crate) use rows::{
    exponentials, largest, norm, project, rounded, row_sum, scaled, sum_of_exponentials, sum_rows,
};
pub(crate) use smoothing::{tile_logit_sums, tile_smoothing};
pub(crate) use softmax::{TileStats, tile_gradient, tile_shift, tile_stats, tile_sums};
pub(crate) use sub_centers::tile_sub_centers;
pub(crate) use transpose::transpose;
pub(crate) use update::{UpdateEntry, update_row};
pub(crate) use zeros::large_zeros;

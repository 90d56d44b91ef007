//! Slices in, slices out: the arithmetic that must be fast. It knows no loss.
//!
//! The only room with `unsafe` and CPU dispatch. Loops are written once, as an
//! `Op` that the compiler translates for AVX-512, for AVX2 with FMA and for the
//! baseline; the CPU chooses at run time. Matrix products go through `gemm`, whichever
//! library stands behind it.

mod dispatch;
mod exp;
mod gemm;
mod pair;
mod real;
mod riesz;
mod rows;
mod softmax;

pub(crate) use gemm::{Mat, MatMut, gemm, pack};
pub(crate) use pair::{Moments, add_scaled, add_tangent, dot, moments, tangents};
pub use real::Real;
pub(crate) use riesz::{riesz_pair, riesz_row};
pub(crate) use rows::{norm, project, rounded, scaled, sum_rows};
pub(crate) use softmax::{
    RowLogits, TileStats, row_gradient, row_negatives, tile_gradient, tile_stats, tile_sums,
};

//! Products by blocks of MR × NR entries: which block suits a level, and how one is written.

use std::ops::Range;

use super::dispatch::{Isa, Op};
use super::matrix::MatMut;
use super::real::Real;

/// Rows of a panel that one pass over A takes.
pub(super) const KC: usize = 256;

/// A loop over blocks of MR × NR entries.
pub(super) trait BlockOp {
    type Number;

    fn run<I: Isa, const MR: usize, const NR: usize>(self);
}

/// A [`BlockOp`] with the block that suits the instruction set.
pub(super) struct Blocked<B>(pub B);

impl<B: BlockOp> Op for Blocked<B> {
    type Output = ();

    /// NR is two registers, MR as many rows as leave room for a row of B and an entry of A.
    #[inline(always)]
    fn run<I: Isa>(self) {
        match (I::VECTOR, size_of::<B::Number>()) {
            (64, 4) => self.0.run::<I, 8, 32>(),
            (64, _) => self.0.run::<I, 8, 16>(),
            (32, 4) => self.0.run::<I, 6, 16>(),
            (32, _) => self.0.run::<I, 6, 8>(),
            // NEON has 32 registers, SSE2 16.
            (_, 4) if I::FMA => self.0.run::<I, 8, 8>(),
            (_, 4) => self.0.run::<I, 4, 8>(),
            (_, _) if I::FMA => self.0.run::<I, 8, 4>(),
            (_, _) => self.0.run::<I, 4, 4>(),
        }
    }
}

/// All strips of A; `multiply` gives the block of one with the panel.
#[inline(always)]
pub(super) fn sweep_strips<'a, F: Real, T: 'a, const MR: usize, const NR: usize>(
    c: &mut MatMut<'_, F>,
    accumulate: bool,
    strips: impl Iterator<Item = &'a [[T; MR]]>,
    columns: Range<usize>,
    multiply: impl Fn(&[[T; MR]]) -> [[F; NR]; MR],
) {
    for (index, strip) in strips.enumerate() {
        let block = multiply(strip);
        let rows = index * MR..c.rows.min((index + 1) * MR);
        if columns.len() == NR && rows.len() == MR {
            put(c, rows.start, columns.start, &block, accumulate);
        } else {
            put_part(c, rows.clone(), columns.clone(), &block[..rows.len()], accumulate);
        }
    }
}

/// Writes or adds a whole block.
#[inline(always)]
pub(super) fn put<F: Real, const MR: usize, const NR: usize>(
    c: &mut MatMut<'_, F>,
    row: usize,
    column: usize,
    block: &[[F; NR]; MR],
    accumulate: bool,
) {
    for (r, sums) in block.iter().enumerate() {
        let out = &mut c.data[(row + r) * c.stride + column..][..NR];
        if accumulate {
            for (out, &sum) in out.iter_mut().zip(sums) {
                *out += sum;
            }
        } else {
            out.copy_from_slice(sums);
        }
    }
}

/// Writes or adds some rows and the first columns of a block: those that lie at `rows` and
/// `columns` of C.
#[inline(never)]
pub(super) fn put_part<F: Real, const NR: usize>(
    c: &mut MatMut<'_, F>,
    rows: Range<usize>,
    columns: Range<usize>,
    block: &[[F; NR]],
    accumulate: bool,
) {
    for (row, sums) in rows.zip(block) {
        let out = &mut c.data[row * c.stride..][columns.clone()];
        for (out, &sum) in out.iter_mut().zip(sums) {
            *out = if accumulate { *out + sum } else { sum };
        }
    }
}

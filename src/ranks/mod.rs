//! Classes split over ranks: [`class_range`] divides them, a [`Collective`] connects the ranks, and
//! [`Head::on_ranks`](crate::Head::on_ranks) gives each of them the result of one machine.
//!
//! [`Head::step`]: crate::Head::step
//!
#![doc = include_str!("../../docs/scaling.md")]

mod threads;

use std::ops::Range;

pub use crate::step::{Collective, SingleProcess};
pub use threads::ThreadCollective;

/// The classes of `rank` where `classes` are split evenly over `size` ranks: contiguous, in the
/// order of the ranks, the first ones with one more where it does not come out even.
///
/// Rows that are concatenated in the order of the ranks are those of one machine, so weights
/// saved from any number of ranks load on any other: each rank takes its range of the rows.
///
/// ```
/// use margin_softmax::ranks::class_range;
///
/// let ranges: Vec<_> = (0..3).map(|rank| class_range(10, rank, 3)).collect();
/// assert_eq!(ranges, [0..4, 4..7, 7..10]);
/// ```
pub fn class_range(classes: usize, rank: usize, size: usize) -> Range<usize> {
    let size = size.max(1);
    let edge = |rank: usize| rank * (classes / size) + rank.min(classes % size);
    edge(rank.min(size))..edge(rank.saturating_add(1).min(size))
}

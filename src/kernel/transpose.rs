//! The transpose of a matrix.

use super::dispatch::op;
use super::real::Real;
use super::simd::Vector;

/// Rows and columns that are transposed before others: a line of the cache is written whole.
const LINE: usize = 16;

op! {
    /// Writes the transpose of the `rows` × `columns` entries of `from` to `to`; both have rows that
    /// far apart.
    pub(crate) fn transpose<I at level>[F: Real](
        (from, from_stride): (&[F], usize),
        (to, to_stride): (&mut [F], usize),
        [rows, columns]: [usize; 2],
    ) {
        assert!(columns <= from_stride && (rows - 1) * from_stride + columns <= from.len());
        assert!(rows <= to_stride && (columns - 1) * to_stride + rows <= to.len());
        let side = F::Vector::<I>::SIDE;
        let [whole_rows, whole_columns] = [rows, columns].map(|count| count / side * side);
        let blocks = |start: usize, end: usize| (start..end.min(start + LINE)).step_by(side);
        for (first_row, first_column) in (0..whole_rows).step_by(LINE).flat_map(|i| {
            (0..whole_columns).step_by(LINE).map(move |j| (i, j))
        }) {
            for i in blocks(first_row, whole_rows) {
                let line = |k: usize| from.as_ptr().wrapping_add((i + k) * from_stride);
                let lines = std::array::from_fn(line);
                for j in blocks(first_column, whole_columns) {
                    // SAFETY: of each line the entries j to j + SIDE are read, and of SIDE rows of
                    // `to` from row j on the entries i to i + SIDE written: these are inside, as
                    // asserted above. The CPU has the level's instructions: `dispatch`.
                    unsafe {
                        let to = to.as_mut_ptr().add(j * to_stride + i);
                        F::Vector::<I>::transpose(&lines, j, to, to_stride);
                    }
                }
            }
        }
        for i in 0..rows {
            let rest = if i < whole_rows { whole_columns..columns } else { 0..columns };
            rest.for_each(|j| to[j * to_stride + i] = from[i * from_stride + j]);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::kernel::Level;

    /// Of matrices with whole blocks and without, inside larger ones; nothing else is written.
    #[test]
    fn entries_change_places_at_every_level() {
        for level in Level::available() {
            for [rows, columns] in [[1, 1], [3, 5], [8, 4], [16, 16], [17, 9], [20, 35]] {
                let (from_stride, to_stride) = (columns + 2, rows + 3);
                let from: Vec<f32> = (0..rows * from_stride).map(|v| v as f32).collect();
                let mut to = vec![-1.0_f32; columns * to_stride];
                transpose(level, (&from, from_stride), (&mut to, to_stride), [rows, columns]);
                for (at, &found) in to.iter().enumerate() {
                    let (j, i) = (at / to_stride, at % to_stride);
                    let expected = if i < rows { from[i * from_stride + j] } else { -1.0 };
                    assert_eq!(found, expected, "{level:?} {rows}x{columns} ({i}, {j})");
                }
            }
        }
    }
}

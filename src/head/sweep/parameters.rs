//! The class parameters of the second sweep: they stay, or each tile's rows are moved as soon as
//! their gradient is known.

use std::ops::Range;

use ndarray::{ArrayView1, Axis};

use crate::data::{Classes, ClassesMut};
use crate::kernel::Real;
use crate::update::RowUpdate;

/// The parameters of all classes of a step.
pub(in crate::head) enum Parameters<'a, F> {
    Fixed(Classes<'a, F>),
    Moving {
        /// Those that no chunk has taken; `None` for no class.
        classes: Option<ClassesMut<'a, F>>,
        /// One for each of their chunks.
        updaters: Vec<Box<dyn RowUpdate<F> + 'a>>,
    },
}

/// The parameters of one chunk, its classes numbered from 0.
pub(in crate::head) enum ChunkParameters<'a, F> {
    Fixed(Classes<'a, F>),
    Moving { classes: ClassesMut<'a, F>, updater: Box<dyn RowUpdate<F> + 'a> },
}

impl<'a, F: Real> Parameters<'a, F> {
    /// Takes the chunk of these classes: the last one not yet taken.
    pub fn split_tail(&mut self, chunk: Range<usize>) -> ChunkParameters<'a, F> {
        match self {
            Parameters::Fixed(classes) => ChunkParameters::Fixed(classes.part(chunk)),
            Parameters::Moving { classes, updaters } => {
                let all = classes.take().expect("a chunk has classes");
                let (rest, classes_of_chunk) = all.split_at(chunk.start);
                *classes = Some(rest);
                let updater = updaters.pop().expect("their number has been checked");
                ChunkParameters::Moving { classes: classes_of_chunk, updater }
            }
        }
    }
}

impl<F: Real> ChunkParameters<'_, F> {
    /// The parameters as they are now.
    pub fn classes(&self) -> Classes<'_, F> {
        match self {
            ChunkParameters::Fixed(classes) => classes.reborrow(),
            ChunkParameters::Moving { classes, .. } => classes.view(),
        }
    }

    /// Moves the parameters of a tile by the gradients of its weights, row after row, and of its
    /// bias; nothing where they are fixed.
    pub fn update(&mut self, tile: Range<usize>, rows: &[F], bias: Option<&mut [F]>) {
        let ChunkParameters::Moving { classes, updater } = self else { return };
        let dims = classes.weights.ncols();
        for (j, gradient) in tile.clone().zip(rows.chunks_exact(dims)) {
            let row = classes.row_of(j);
            let weights = classes.weights.index_axis_mut(Axis(0), row - classes.start);
            updater.update_row(row, weights, ArrayView1::from(gradient));
        }
        let Some(gradients) = bias else { return };
        for (j, &mut gradient) in tile.zip(gradients) {
            let row = classes.row_of(j);
            if let Some(bias) = &mut classes.bias {
                updater.update_bias(row, &mut bias[row - classes.start], gradient);
            }
        }
    }
}

//! The class parameters of the second sweep: they stay, or each tile's rows are moved as soon as
//! their gradient is known.

use std::ops::Range;

use ndarray::{ArrayView1, ArrayViewMut2, Axis};

use crate::data::{Classes, ClassesMut};
use crate::kernel::Real;
use crate::parallel::split_off;
use crate::step::Plan;
use crate::update::RowUpdate;

/// The parameters of one chunk, its classes numbered from 0, and where their gradients are written.
pub(in crate::head) struct Chunk<'a, F> {
    pub range: Range<usize>,
    pub parameters: Parameters<'a, F>,
    /// Rows of the gradient of the class weights, which may hold the logits on entry; empty where
    /// it is not requested.
    pub weights: &'a mut [F],
    /// The gradient of the bias; empty where it is not requested.
    pub bias: &'a mut [F],
    /// The gradients of the cosines with these classes, where they are requested in place of those.
    pub cosines: Option<ArrayViewMut2<'a, F>>,
}

/// The class parameters of a chunk.
pub(in crate::head) enum Parameters<'a, F> {
    Fixed(Classes<'a, F>),
    Moving(ClassesMut<'a, F>, Box<dyn RowUpdate<F> + 'a>),
}

impl<'a, F: Real> Chunk<'a, F> {
    /// All chunks of parameters that stay.
    pub fn fixed(
        plan: &Plan,
        classes: Classes<'a, F>,
        [mut weights, mut bias]: [&'a mut [F]; 2],
    ) -> Vec<Self> {
        let chunks = (0..plan.chunks).map(|index| {
            let range = plan.chunk(index);
            let weights = split_off(&mut weights, range.len() * plan.dims);
            let bias = split_off(&mut bias, range.len());
            let parameters = Parameters::Fixed(classes.part(range.clone()));
            Chunk { range, parameters, weights, bias, cosines: None }
        });
        chunks.collect()
    }

    /// All chunks of parameters that stay, with columns of the gradients of the `cosines` (N, C).
    pub fn with_cosines(
        plan: &Plan,
        classes: Classes<'a, F>,
        cosines: ArrayViewMut2<'a, F>,
    ) -> Vec<Self> {
        let mut chunks = Self::fixed(plan, classes, [&mut [], &mut []]);
        let mut others = cosines;
        for chunk in &mut chunks {
            let labels = chunk.range.len() / classes.sub_centers;
            let (columns, rest) = others.split_at(Axis(1), labels);
            (chunk.cosines, others) = (Some(columns), rest);
        }
        chunks
    }

    /// All chunks of parameters that move, each with its updater.
    pub fn moving(
        plan: &Plan,
        mut classes: ClassesMut<'a, F>,
        updaters: Vec<Box<dyn RowUpdate<F> + 'a>>,
    ) -> Vec<Self> {
        let mut chunks = Vec::with_capacity(plan.chunks);
        for (index, updater) in updaters.into_iter().enumerate().rev() {
            let range = plan.chunk(index);
            let (rest, of_chunk) = classes.split_at(range.start);
            classes = rest;
            let parameters = Parameters::Moving(of_chunk, updater);
            let (weights, bias) = (&mut [][..], &mut [][..]);
            chunks.push(Chunk { range, parameters, weights, bias, cosines: None });
        }
        chunks.reverse();
        chunks
    }
}

impl<F: Real> Parameters<'_, F> {
    /// The parameters as they are now.
    pub fn classes(&self) -> Classes<'_, F> {
        match self {
            Parameters::Fixed(classes) => *classes,
            Parameters::Moving(classes, _) => classes.view(),
        }
    }

    /// Moves the parameters of a tile by the gradients of its weights, row after row, and of its
    /// bias; nothing where they are fixed.
    pub fn update(&mut self, tile: Range<usize>, rows: &[F], bias: &[F]) {
        let Parameters::Moving(classes, updater) = self else { return };
        let dims = classes.weights.ncols();
        for (j, gradient) in tile.clone().zip(rows.chunks_exact(dims)) {
            let row = classes.known.row_of(j);
            let weights = classes.weights.index_axis_mut(Axis(0), row - classes.known.start);
            updater.update_row(row, weights, ArrayView1::from(gradient));
        }
        for (j, &gradient) in tile.zip(bias) {
            let row = classes.known.row_of(j);
            if let Some(bias) = &mut classes.bias {
                updater.update_bias(row, &mut bias[row - classes.known.start], gradient);
            }
        }
    }
}

//! A step on the device, from tensors to losses and gradients.

use burn::tensor::{Device, Tensor, TensorData, Transaction};
use margin_softmax::offload::{OffloadedBackward, OffloadedClasses, OffloadedStep};
use margin_softmax::sampling::ClassSample;
use margin_softmax::{Error, Forward, IGNORED, Reduction};
use ndarray::{Array1, Array2, ArrayRef1};

use super::operation::{Attached, Gradient};
use super::sweeps::{FirstSweep, SecondSweep, add_rows, wrong_norms};
use super::tiles::{Rows, Sweeps, column};
use super::{device_error, ids, read};
use crate::engine::Core;
use crate::memory::{Labels, Precision, number, with_dtype};

/// Embeddings, class weights and bias without a graph. A backward pass may keep them.
#[derive(Debug, Clone)]
pub(crate) struct DeviceStep {
    pub(super) embeddings: Tensor<2>,
    pub(super) rows: Rows,
    pub(super) bias: Option<Tensor<1>>,
    pub(super) device: Device,
}

/// The gradients of one step; `None` where none is requested.
#[derive(Debug, Default)]
pub(crate) struct DeviceGradients {
    pub(super) embeddings: Option<Tensor<2>>,
    pub(super) shards: Option<Vec<Attached>>,
    pub(super) bias: Option<Tensor<1>>,
}

/// What a step reads in main memory.
struct Read<F> {
    embeddings: Array2<F>,
    own: Array2<F>,
    bias: Option<Array1<F>>,
}

impl DeviceStep {
    /// Numbers on the device, without a graph.
    pub fn vector<F: Precision>(&self, numbers: Vec<F>) -> Tensor<1> {
        let count = numbers.len();
        Tensor::from_data(TensorData::new(numbers, [count]), (&self.device, F::dtype()))
    }

    /// How many classes there are.
    fn classes(&self) -> Result<usize, Error> {
        let rows: usize = self.rows.matrices.iter().map(|matrix| matrix.dims()[0]).sum();
        let (k, [samples, dims]) = (self.rows.sub_centers, self.embeddings.dims());
        let bad = |argument, expected, actual| Err(Error::Shape { argument, expected, actual });
        if samples == 0 || dims == 0 {
            return Err(Error::Empty { argument: "embeddings", actual: vec![samples, dims] });
        }
        if k == 0 || !rows.is_multiple_of(k) {
            let expected = vec![(rows / k.max(1)).max(1) * k.max(1)];
            return bad("rows of class weights", expected, vec![rows]);
        }
        if let Some(other) = self.rows.matrices.iter().find(|matrix| matrix.dims()[1] != dims) {
            return bad("class weights", vec![rows, dims], vec![rows, other.dims()[1]]);
        }
        if let Some(bias) = self.bias.as_ref().filter(|bias| bias.dims() != [rows]) {
            return bad("bias", vec![rows], bias.dims().to_vec());
        }
        if i32::try_from(rows).is_err() {
            let reason = format!("{rows} rows of class weights are more than it numbers");
            return Err(device_error(&self.device, &reason));
        }
        Ok(rows / k)
    }

    /// The rows of the class weights with these ascending numbers, from the matrices that have some.
    fn select(&self, rows: &[usize]) -> Vec<Tensor<2>> {
        let of_matrix = |(matrix, local): (&Tensor<2>, Vec<i64>)| {
            let local = ids(&local, &self.device);
            (local.dims() != [0]).then(|| matrix.clone().select(0, local))
        };
        self.rows.matrices.iter().zip(self.local(rows)).filter_map(of_matrix).collect()
    }

    /// Ascending numbers of rows as those of each matrix.
    fn local(&self, rows: &[usize]) -> Vec<Vec<i64>> {
        let (mut first, mut rest) = (0, rows);
        let of_matrix = |matrix: &Tensor<2>| {
            let end = first + matrix.dims()[0];
            let (own, others) = rest.split_at(rest.partition_point(|row| *row < end));
            let local = own.iter().map(|row| (row - first) as i64).collect();
            (first, rest) = (end, others);
            local
        };
        self.rows.matrices.iter().map(of_matrix).collect()
    }

    /// Reads the embeddings, these rows of the class weights, and the bias.
    fn read<F: Precision>(&self, rows: &[usize]) -> Result<Read<F>, Error> {
        let [samples, dims] = self.embeddings.dims();
        let own = self.select(rows);
        let mut transaction = Transaction::default().register(self.embeddings.clone());
        if !own.is_empty() {
            transaction = transaction.register(with_dtype(Tensor::cat(own, 0), F::dtype()));
        }
        if let Some(bias) = &self.bias {
            transaction = transaction.register(bias.clone());
        }
        let mut data = read(&self.device, transaction)?.into_iter();
        let mut matrix = |rows: usize| {
            let numbers: Vec<F> = if rows == 0 {
                Vec::new()
            } else {
                data.next().map(|data| data.iter::<F>().collect()).unwrap_or_default()
            };
            let read = numbers.len();
            Array2::from_shape_vec([rows, dims], numbers).map_err(|_| {
                device_error(&self.device, &format!("it returned {read} of {rows}×{dims} numbers"))
            })
        };
        let (embeddings, own) = (matrix(samples)?, matrix(rows.len())?);
        let bias = data.next().map(|bias| bias.iter::<F>().collect());
        Ok(Read { embeddings, own, bias })
    }

    /// Losses, and gradients for a `reduction` of what is tracked.
    pub fn run<F: Precision>(
        &self,
        core: &Core,
        labels: &Labels,
        sample: Option<&ClassSample>,
        reduction: Option<Reduction<'_, F>>,
        [x, w, b]: [bool; 3],
    ) -> Result<(Forward<F>, DeviceGradients), Error> {
        let k = self.rows.sub_centers;
        let ignored = labels.with_ignored.then_some(IGNORED);
        let mut classes = OffloadedClasses::new(&labels.classes, ignored, (self.classes()?, k))?;
        if let Some(sample) = sample {
            classes = classes.with_sample(sample)?;
        }
        let Read { embeddings, own, bias } = self.read::<F>(classes.own_rows())?;
        let bias: Option<&ArrayRef1<F>> = bias.as_deref();
        let step = core.offload(&classes, (&embeddings, &own, bias), reduction)?;
        let selected = self.selected::<F>(&classes);
        let places = classes.own_places().unwrap_or_default();
        let places = places.iter().map(|&place| place as i64).collect();
        let rows = selected.as_ref().unwrap_or(&self.rows);
        let sweeps = Sweeps::new(&step, rows, places, &self.device);
        let first = sweeps.first()?;
        check_weights(&step, rows, &first, &self.device)?;
        let (forward, backward) = step.complete(&first.stats, first.norms)?;
        let mut gradients = DeviceGradients::default();
        if x || w || b {
            let sampled = classes.swept_rows();
            let wanted = (x, w || b);
            gradients = self.gradients(&backward, (&sweeps, &first), wanted, sampled.as_deref());
        }
        Ok((forward, gradients))
    }

    /// The matrices and the shift of the sweep, where it is over some of the rows.
    fn selected<F: Precision>(&self, classes: &OffloadedClasses<'_>) -> Option<Rows> {
        let rows = classes.swept_rows()?;
        let bias = self.bias.clone().map(|bias| {
            let rows: Vec<i64> = rows.iter().map(|&row| row as i64).collect();
            bias.select(0, ids(&rows, &self.device))
        });
        let offsets = classes.offsets::<F>().map(|offsets| self.vector(offsets));
        let shift = match (bias, offsets) {
            (Some(bias), Some(offsets)) => Some(bias + offsets),
            (bias, offsets) => bias.or(offsets),
        };
        Some(Rows { matrices: self.select(&rows), shift, ..self.rows.clone() })
    }

    fn gradients<F: Precision>(
        &self,
        backward: &OffloadedBackward<'_, '_, F>,
        (sweeps, first): (&Sweeps<'_>, &FirstSweep),
        wanted: (bool, bool),
        sampled: Option<&[usize]>,
    ) -> DeviceGradients {
        let (recipe, factors) = (backward.embedding_gradient(), backward.logit_factors());
        let SecondSweep { embeddings, radial, weights } =
            sweeps.second(&factors, first, wanted, recipe.inverse_norms.is_some());
        let embeddings = embeddings.map(|mut dx| {
            let scaled = sweeps.embeddings();
            if let Some((s, factors)) = &recipe.projected {
                let unit = scaled.clone().div_scalar(number(*s));
                let along = (dx.clone() * unit.clone()).sum_dim(1);
                dx = (dx - unit * along) * column(factors, &self.device);
            }
            if let (Some(radial), Some(inverse)) = (radial, &recipe.inverse_norms) {
                let inverse = column(inverse, &self.device);
                dx = dx + (radial * inverse.clone()) * (scaled * inverse);
            }
            let shape = [recipe.targets.nrows(), recipe.targets.ncols()];
            let targets = TensorData::new(recipe.targets.into_raw_vec_and_offset().0, shape);
            dx + Tensor::from_data(targets, (&self.device, F::dtype()))
        });
        let (shards, bias) =
            weights.map(|weights| self.weight_gradients(backward, weights, sampled)).unzip();
        DeviceGradients { embeddings, shards, bias: bias.flatten() }
    }

    /// Adds the target rows to the sweep's gradients of class weights and bias.
    fn weight_gradients<F: Precision>(
        &self,
        backward: &OffloadedBackward<'_, '_, F>,
        (matrices, bias): (Vec<Tensor<2>>, Option<Tensor<1>>),
        sampled: Option<&[usize]>,
    ) -> (Vec<Attached>, Option<Tensor<1>>) {
        let own = backward.target_gradients();
        let places = own.rows;
        let dims = own.weights.ncols();
        let mut numbers = own.weights.into_raw_vec_and_offset().0.into_iter();
        let (mut first, mut at) = (0, 0);
        let added: Vec<Tensor<2>> = matrices
            .into_iter()
            .map(|matrix| {
                let end = first + matrix.dims()[0];
                let count = places[at..].partition_point(|place| *place < end);
                let local: Vec<i64> =
                    places[at..at + count].iter().map(|place| (place - first) as i64).collect();
                (first, at) = (end, at + count);
                if count == 0 {
                    return matrix;
                }
                let rows: Vec<F> = numbers.by_ref().take(count * dims).collect();
                let rows = TensorData::new(rows, [count, dims]);
                let rows = Tensor::from_data(rows, (&self.device, F::dtype()));
                add_rows(matrix, &local, rows)
            })
            .collect();
        let places: Vec<i64> = places.into_iter().map(|place| place as i64).collect();
        let bias = self.bias.as_ref().and(bias).map(|bias| {
            let added = TensorData::new(own.bias, [places.len()]);
            let added = Tensor::<1>::from_data(added, (&self.device, F::dtype()));
            let bias = bias.unsqueeze_dim::<2>(1);
            let bias = add_rows(bias, &places, added.unsqueeze_dim(1));
            let Some(sampled) = sampled else { return bias.squeeze_dim(1) };
            let all = self.bias.as_ref().map_or(0, |bias| bias.dims()[0]);
            let sampled: Vec<i64> = sampled.iter().map(|&row| row as i64).collect();
            let zeros = Tensor::zeros([all, 1], (&self.device, F::dtype()));
            add_rows(zeros, &sampled, bias).squeeze_dim(1)
        });
        (self.attached(added, sampled), bias)
    }

    /// The gradients of the shards, from those of the matrices of the sweep.
    fn attached(&self, gradients: Vec<Tensor<2>>, sampled: Option<&[usize]>) -> Vec<Attached> {
        let shards = self.rows.matrices.iter();
        let Some(sampled) = sampled else {
            let known = |gradient| Attached::Known(Gradient::Matrix(gradient));
            return gradients.into_iter().map(known).collect();
        };
        let mut gradients = gradients.into_iter();
        let of_shard = |(shard, rows): (&Tensor<2>, Vec<i64>)| {
            let [count, dims] = shard.dims();
            let next = if rows.is_empty() { None } else { gradients.next() };
            let gradient =
                next.unwrap_or_else(|| Tensor::zeros([0, dims], (&self.device, shard.dtype())));
            Attached::Rows { rows, gradient, count }
        };
        shards.zip(self.local(sampled)).map(of_shard).collect()
    }

    /// The nearest class of every embedding, without margin; [`IGNORED`] for one that has none.
    pub fn predict<F: Precision>(&self, core: &Core) -> Result<Vec<usize>, Error> {
        self.infer::<F, _>(core, |step, _, first| step.predictions(&first.stats))?
    }

    /// The logits without margin (N, C).
    pub fn logits<F: Precision>(&self, core: &Core) -> Result<Tensor<2>, Error> {
        self.infer::<F, _>(core, |_, sweeps, first| sweeps.all_logits(first))
    }

    /// What `result` makes of a first sweep over all classes, for embeddings without labels.
    fn infer<F: Precision, T>(
        &self,
        core: &Core,
        result: impl FnOnce(&OffloadedStep<'_, F>, &Sweeps<'_>, &FirstSweep) -> T,
    ) -> Result<T, Error> {
        let classes = OffloadedClasses::for_inference((self.classes()?, self.rows.sub_centers))?;
        let Read { embeddings, own, bias } = self.read::<F>(&[])?;
        let step = core.offload(&classes, (&embeddings, &own, bias.as_deref()), None)?;
        let unlabeled = vec![-1; embeddings.nrows()];
        let sweeps = Sweeps::new(&step, &self.rows, unlabeled, &self.device);
        let first = sweeps.first()?;
        check_weights(&step, &self.rows, &first, &self.device)?;
        step.check_range(first.norms)?;
        Ok(result(&step, &sweeps, &first))
    }
}

/// Refuses class weights that the device found to be out of range, by the row that main memory
/// finds to be so.
fn check_weights<F: Precision>(
    step: &OffloadedStep<'_, F>,
    rows: &Rows,
    found: &FirstSweep,
    device: &Device,
) -> Result<(), Error> {
    const ROWS: usize = 4096;
    if found.finite && step.accepts_norms(found.norms) {
        return Ok(());
    }
    let mut first = 0;
    for matrix in &rows.matrices {
        let [count, dims] = matrix.dims();
        for start in (0..count).step_by(ROWS) {
            let block = start..(start + ROWS).min(count);
            let tensor = with_dtype(matrix.clone().slice([block.clone()]), F::dtype());
            let data = read(device, Transaction::default().register(tensor))?;
            let block: Vec<F> = data.iter().flat_map(|data| data.iter::<F>()).collect();
            let rows = ndarray::ArrayView2::from_shape([block.len() / dims, dims], &block);
            step.check_class_weights(rows.expect("whole rows"), first + start)?;
        }
        first += count;
    }
    Err(wrong_norms(device, found.norms))
}

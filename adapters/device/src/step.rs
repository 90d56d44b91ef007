//! A step, from tensors to losses and gradients.

use margin_softmax::sampling::{ClassSample, ClassSampler};
use margin_softmax::{Error, Forward, Gradients, Reduction, ZeroEmbedding};
use ndarray::{Array1, Axis};

use crate::arrays::{Arrays, Labels, Request};
use crate::operations::Operations;
use crate::options::Reducer;
use crate::shared_head::Core;
use crate::tiles::Rows;

/// What a step computes from, without a graph.
#[derive(Debug, Clone)]
pub struct Parameters<M> {
    /// The embeddings (N, D), of the type that is computed in.
    pub embeddings: M,
    /// The class weights, shard by shard; in main memory one matrix of that type.
    pub shards: Vec<M>,
    /// The bias (1, rows), of that type.
    pub bias: Option<M>,
    /// K, the rows of each class.
    pub sub_centers: usize,
    /// Where the sweeps run: in main memory, by the core, or on the device of the tensors.
    pub in_memory: bool,
    /// On the device: the most rows of class weights in a tile, where they are set.
    pub rows_per_tile: Option<usize>,
}

/// Embeddings, class weights and bias, and where to compute. A backward pass may keep them.
#[derive(Debug, Clone)]
pub struct Step<D: Operations> {
    pub(crate) device: D,
    pub(crate) embeddings: D::Matrix,
    pub(crate) rows: Rows<D::Matrix>,
    pub(crate) log_prior: Option<Array1<D::Float>>,
    /// The classes that are active, if not all.
    sample: Option<ClassSample>,
    in_memory: bool,
}

/// The gradient of one shard of the class weights.
#[derive(Debug, Clone)]
pub struct WeightGradient<M> {
    /// The rows that `gradient` holds, ascending: the others' is 0. `None` for all rows.
    pub rows: Option<Vec<usize>>,
    /// The gradient of these rows; `None` where there are none.
    pub gradient: Option<M>,
}

/// The gradients of one step; `None` where none is requested.
#[derive(Debug)]
pub struct StepGradients<M> {
    /// Of the embeddings (N, D).
    pub embeddings: Option<M>,
    /// Of the class weights, shard by shard.
    pub shards: Option<Vec<WeightGradient<M>>>,
    /// Of the bias (1, rows).
    pub bias: Option<M>,
}

/// What [`Step::objective`] finds.
#[derive(Debug)]
pub struct Objective<D: Operations> {
    /// The objective, one number, or without a reduction the losses.
    pub values: Vec<D::Float>,
    /// Losses and predictions.
    pub forward: Forward<D::Float>,
    /// The gradients of the objective; none without a reduction.
    pub gradients: StepGradients<D::Matrix>,
    /// The classes that were drawn.
    pub sample: Option<ClassSample>,
}

/// Losses and gradients.
pub(crate) type Found<D> =
    (Forward<<D as Operations>::Float>, StepGradients<<D as Operations>::Matrix>);

impl<M> Default for StepGradients<M> {
    fn default() -> Self {
        StepGradients { embeddings: None, shards: None, bias: None }
    }
}

impl<D: Operations> Step<D> {
    /// A step on `device`.
    pub fn new(device: D, parameters: Parameters<D::Matrix>) -> Self {
        let Parameters { embeddings, shards, bias, sub_centers, in_memory, rows_per_tile } =
            parameters;
        let rows = Rows { matrices: shards, shift: bias, sub_centers, tile: rows_per_tile };
        Step { device, embeddings, rows, log_prior: None, sample: None, in_memory }
    }

    /// The same step with a class prior (C), if there is one, in its objective.
    pub fn with_log_prior(self, log_prior: Option<Array1<D::Float>>) -> Self {
        Step { log_prior, ..self }
    }

    /// The operations of the device.
    pub fn device(&self) -> &D {
        &self.device
    }

    /// The embeddings, class weights and bias.
    pub fn inputs(&self) -> (&D::Matrix, &[D::Matrix], Option<&D::Matrix>) {
        (&self.embeddings, &self.rows.matrices, self.rows.shift.as_ref())
    }

    /// Losses, and the gradients of the objective by what is `tracked` of embeddings, class weights
    /// and bias. The classes that the `sampler` draws are those of [`backward`](Self::backward), too;
    /// it moves on where the step succeeds.
    ///
    /// # Errors
    /// Those of [`Head::forward_backward`](margin_softmax::Head::forward_backward), of the sampler,
    /// and of the device.
    pub fn objective(
        &mut self,
        core: &Core,
        labels: &Labels,
        reducer: &Reducer<D::Float>,
        sampler: Option<&mut ClassSampler>,
        tracked: [bool; 3],
    ) -> Result<Objective<D>, D::Error> {
        let mut drawing = sampler.as_ref().map(|sampler| ClassSampler::clone(sampler));
        let sample = drawing.as_mut().map(|sampler| sampler.sample(&labels.classes)).transpose();
        self.sample = self.core(sample)?;
        let (forward, gradients) = self.run(core, labels, reducer.for_core(), tracked)?;
        if let (Some(sampler), Some(drawn)) = (sampler, drawing) {
            *sampler = drawn;
        }
        let (values, sample) = (reducer.values(&forward), self.sample.clone());
        Ok(Objective { values, forward, gradients, sample })
    }

    /// Losses without gradients.
    ///
    /// # Errors
    /// As [`objective`](Self::objective).
    pub fn evaluate(&self, core: &Core, labels: &Labels) -> Result<Forward<D::Float>, D::Error> {
        Ok(self.run(core, labels, None, [false; 3])?.0)
    }

    /// The gradients of Σ_i `upstream`_i·L_i by what is `tracked`.
    ///
    /// # Errors
    /// As [`objective`](Self::objective).
    pub fn backward(
        &self,
        core: &Core,
        labels: &Labels,
        upstream: &Array1<D::Float>,
        tracked: [bool; 3],
    ) -> Result<StepGradients<D::Matrix>, D::Error> {
        Ok(self.run(core, labels, Some(Reduction::Weighted(upstream)), tracked)?.1)
    }

    /// The nearest class of every embedding, without margin; [`IGNORED`](margin_softmax::IGNORED) for one that
    /// has none.
    ///
    /// # Errors
    /// As [`objective`](Self::objective).
    pub fn predict(&self, core: &Core) -> Result<Vec<usize>, D::Error> {
        if self.in_memory {
            return self.with_arrays(|arrays| arrays.predict(core));
        }
        self.infer(core, |step, _, first| self.core(step.predictions(&first.stats)))
    }

    /// The logits without margin (N, C). A zero embedding has none, also where it is skipped in
    /// training.
    ///
    /// # Errors
    /// As [`objective`](Self::objective).
    pub fn logits(&self, core: &Core) -> Result<D::Matrix, D::Error> {
        if self.in_memory {
            return self.device.upload(self.with_arrays(|arrays| arrays.logits(core))?);
        }
        let core = Core::clone(core).with_zero_embeddings(ZeroEmbedding::Error);
        self.infer(&core, |_, sweeps, first| sweeps.all_logits(first))
    }

    pub(crate) fn core<T>(&self, result: Result<T, Error>) -> Result<T, D::Error> {
        result.map_err(|error| self.device.refused(error))
    }

    fn run(
        &self,
        core: &Core,
        labels: &Labels,
        reduction: Option<Reduction<'_, D::Float>>,
        tracked: [bool; 3],
    ) -> Result<Found<D>, D::Error> {
        let sample = self.sample.as_ref();
        let request = Request { labels, sample, reduction, tracked };
        if !self.in_memory {
            return self.run_on_device(core, request);
        }
        let (forward, gradients) =
            self.with_arrays(|arrays| arrays.step(core, request, self.log_prior.as_ref()))?;
        let gradients = gradients.map(|gradients| self.uploaded(gradients, sample, tracked));
        Ok((forward, gradients.transpose()?.unwrap_or_default()))
    }

    /// Reads the inputs in main memory.
    fn with_arrays<R>(
        &self,
        read: impl FnOnce(&Arrays<'_, D::Float>) -> Result<R, Error>,
    ) -> Result<R, D::Error> {
        let (d, sub_centers) = (&self.device, self.rows.sub_centers);
        d.view(&self.embeddings, |embeddings| {
            d.view(&self.rows.matrices[0], |weights| match &self.rows.shift {
                None => self.core(read(&Arrays { embeddings, weights, bias: None, sub_centers })),
                Some(bias) => d.view(bias, |bias| {
                    let bias = Some(bias.index_axis_move(Axis(0), 0));
                    self.core(read(&Arrays { embeddings, weights, bias, sub_centers }))
                }),
            })
        })
    }

    /// The gradients of the core as tensors.
    fn uploaded(
        &self,
        gradients: Gradients<D::Float>,
        sample: Option<&ClassSample>,
        [x, w, b]: [bool; 3],
    ) -> Result<StepGradients<D::Matrix>, D::Error> {
        let Gradients { embeddings, weights, bias, .. } = gradients;
        let upload = |numbers| self.device.upload(numbers);
        let rows = sample.map(|sample| sample.rows(self.rows.sub_centers));
        let bias = bias.filter(|_| b).map(|bias| {
            let bias = upload(bias.insert_axis(Axis(0)))?;
            self.whole_bias(bias, rows.as_deref())
        });
        let shard = w.then(|| {
            let gradient = Some(upload(weights)?);
            Ok(vec![WeightGradient { rows: rows.clone(), gradient }])
        });
        Ok(StepGradients {
            embeddings: x.then(|| upload(embeddings)).transpose()?,
            shards: shard.transpose()?,
            bias: bias.transpose()?,
        })
    }

    /// The gradient of the whole bias, from that of some rows.
    pub(crate) fn whole_bias(
        &self,
        bias: D::Matrix,
        rows: Option<&[usize]>,
    ) -> Result<D::Matrix, D::Error> {
        let (d, Some(rows)) = (&self.device, rows) else { return Ok(bias) };
        let count = self.counts().iter().sum();
        d.transposed(&d.add_rows(d.zeros([count, 1])?, rows, d.transposed(&bias)?)?)
    }

    /// The rows of each shard.
    pub(crate) fn counts(&self) -> Vec<usize> {
        self.rows.matrices.iter().map(|matrix| self.device.shape(matrix)[0]).collect()
    }
}

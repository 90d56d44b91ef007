//! A step on the device, from tensors to losses and gradients.

use candle_core::{Result, Tensor, WithDType};
use margin_softmax::offload::{OffloadedBackward, OffloadedClasses, OffloadedStep};
use margin_softmax::sampling::ClassSample;
use margin_softmax::{Error, Forward, IGNORED, Real, Reduction};
use ndarray::Array1;

use super::sweeps::{FirstSweep, Rows, Sweeps, column};
use super::{ids, read};
use crate::engine::Core;
use crate::error::refused;
use crate::inputs::Labels;
use crate::node::InputGradients;
use crate::tensor::tensor;

/// Embeddings, class weights and bias without the graph, on the head's device. A backward pass may
/// keep them.
#[derive(Debug, Clone)]
pub(crate) struct DeviceStep {
    embeddings: Tensor,
    rows: Rows,
}

impl DeviceStep {
    /// `tile` are the rows of a tile, where they are set.
    pub fn new(
        embeddings: &Tensor,
        (weight, bias): (&Tensor, Option<&Tensor>),
        sub_centers: usize,
        tile: Option<usize>,
    ) -> Result<Self> {
        let matrix = weight.detach().contiguous()?;
        let shift = bias.map(|bias| bias.detach().contiguous()).transpose()?;
        let embeddings = embeddings.detach().contiguous()?;
        let ((_, dims), (rows, expected)) = (embeddings.dims2()?, matrix.dims2()?);
        let bad =
            |argument, expected, actual| Err(refused(Error::Shape { argument, expected, actual }));
        if sub_centers == 0 || rows % sub_centers != 0 {
            let k = sub_centers.max(1);
            return bad("rows of class weights", vec![(rows / k).max(1) * k], vec![rows]);
        }
        if dims != expected {
            return bad("class weights", vec![rows, dims], vec![rows, expected]);
        }
        let rows = Rows { matrix, shift, sub_centers, tile };
        Ok(DeviceStep { embeddings, rows })
    }

    fn classes(&self) -> Result<(usize, usize)> {
        let k = self.rows.sub_centers;
        Ok((self.rows.matrix.dim(0)? / k, k))
    }

    fn bias<F: WithDType>(&self) -> Result<Option<Array1<F>>> {
        let bias = self.rows.shift.as_ref();
        bias.map(|bias| Ok(bias.to_vec1::<F>()?.into())).transpose()
    }

    /// Losses, and gradients for a `reduction` of what is tracked. Those of class weights and bias
    /// are those of the rows of the `sample` alone, where there is one.
    pub fn run<F: Real + WithDType>(
        &self,
        core: &Core,
        labels: &Labels,
        sample: Option<&ClassSample>,
        reduction: Option<Reduction<'_, F>>,
        [x, w, b]: [bool; 3],
    ) -> Result<(Forward<F>, InputGradients)> {
        let ignored = labels.with_ignored.then_some(IGNORED);
        let classes = OffloadedClasses::new(&labels.classes, ignored, self.classes()?);
        let mut classes = classes.map_err(refused)?;
        if let Some(sample) = sample {
            classes = classes.with_sample(sample).map_err(refused)?;
        }
        let embeddings = read::<F>(&self.embeddings)?;
        let own = match classes.own_rows() {
            [] => ndarray::Array2::zeros((0, embeddings.ncols())),
            rows => read(&self.select(&self.rows.matrix, rows)?)?,
        };
        let bias = self.bias::<F>()?;
        let inputs = (&*embeddings, &*own, bias.as_deref());
        let step = core.offload(&classes, inputs, reduction).map_err(refused)?;
        let selected = self.selected::<F>(&classes)?;
        let rows = selected.as_ref().unwrap_or(&self.rows);
        let places = classes.own_places().unwrap_or_default().to_vec();
        let sweeps = Sweeps::new(&step, rows, places)?;
        let first = sweeps.first()?;
        check_weights(&step, rows, &first)?;
        let (forward, backward) = step.complete(&first.stats, first.norms).map_err(refused)?;
        if !(x || w || b) {
            return Ok((forward, [None, None, None]));
        }
        let [dx, dw, db] = self.gradients(&backward, &sweeps, (x, w || b))?;
        Ok((forward, [dx, dw.filter(|_| w), db.filter(|_| b)]))
    }

    fn select(&self, from: &Tensor, rows: &[usize]) -> Result<Tensor> {
        from.index_select(&ids(rows, from.device())?, 0)
    }

    /// The rows and the shift of the sweep, where it is over some of the rows.
    fn selected<F: Real + WithDType>(
        &self,
        classes: &OffloadedClasses<'_>,
    ) -> Result<Option<Rows>> {
        let Some(rows) = classes.swept_rows() else { return Ok(None) };
        let shift = self.rows.shift.as_ref().map(|bias| self.select(bias, &rows)).transpose()?;
        let offsets = classes.offsets::<F>();
        let offsets = offsets.map(|o| Tensor::from_vec(o, rows.len(), self.embeddings.device()));
        let shift = match (shift, offsets.transpose()?) {
            (Some(bias), Some(offsets)) => Some((bias + offsets)?),
            (bias, offsets) => bias.or(offsets),
        };
        let matrix = self.select(&self.rows.matrix, &rows)?;
        Ok(Some(Rows { matrix, shift, ..self.rows.clone() }))
    }

    fn gradients<F: Real + WithDType>(
        &self,
        backward: &OffloadedBackward<'_, '_, F>,
        sweeps: &Sweeps<'_>,
        wanted: (bool, bool),
    ) -> Result<InputGradients> {
        let device = self.embeddings.device();
        let (recipe, own) = (backward.embedding_gradient(), backward.target_gradients());
        let factors = backward.logit_factors();
        let found = sweeps.second(&factors, wanted, recipe.inverse_norms.is_some(), &own)?;
        let mut dx = found.embeddings;
        if let Some(sum) = dx.take() {
            let (mut sum, scaled) = (sum, &sweeps.embeddings);
            if let Some((s, factors)) = &recipe.projected {
                let unit = scaled.affine(WithDType::to_f64(*s).recip(), 0.0)?;
                let along = (&sum * &unit)?.sum_keepdim(1)?;
                sum = (sum - unit.broadcast_mul(&along)?)?;
                sum = sum.broadcast_mul(&column(factors, device)?)?;
            }
            if let (Some(radial), Some(inverse)) = (found.radial, &recipe.inverse_norms) {
                let inverse = column(inverse, device)?;
                let along = scaled.broadcast_mul(&inverse)?;
                sum = (sum + along.broadcast_mul(&(radial * inverse)?)?)?;
            }
            dx = Some((sum + tensor(recipe.targets)?.to_device(device)?)?);
        }
        let db = found.shift.map(|sum| {
            if own.rows.is_empty() {
                return Ok(sum);
            }
            let part = Tensor::from_slice(&own.bias, own.bias.len(), device)?;
            sum.index_add(&ids(&own.rows, device)?, &part, 0)
        });
        Ok([dx, found.weights, db.transpose()?])
    }

    /// The nearest class of every embedding, without margin; [`IGNORED`] for one that has none.
    pub fn predict<F: Real + WithDType>(&self, core: &Core) -> Result<Vec<usize>> {
        self.infer::<F, _>(core, |step, _, first| step.predictions(&first.stats).map_err(refused))
    }

    /// The logits without margin (N, C).
    pub fn logits<F: Real + WithDType>(&self, core: &Core) -> Result<Tensor> {
        self.infer::<F, _>(core, |_, sweeps, _| sweeps.all_logits())
    }

    fn infer<F: Real + WithDType, T>(
        &self,
        core: &Core,
        found: impl FnOnce(&OffloadedStep<'_, F>, &Sweeps<'_>, FirstSweep) -> Result<T>,
    ) -> Result<T> {
        let classes = OffloadedClasses::for_inference(self.classes()?).map_err(refused)?;
        let embeddings = read::<F>(&self.embeddings)?;
        let own = ndarray::Array2::zeros((0, embeddings.ncols()));
        let bias = self.bias::<F>()?;
        let inputs = (&*embeddings, &*own, bias.as_deref());
        let step = core.offload(&classes, inputs, None).map_err(refused)?;
        let sweeps = Sweeps::new(&step, &self.rows, vec![usize::MAX; embeddings.nrows()])?;
        let first = sweeps.first()?;
        check_weights(&step, &self.rows, &first)?;
        step.check_range(first.norms).map_err(refused)?;
        found(&step, &sweeps, first)
    }
}

/// Refuses class weights that the device found to be out of range, by the row that main memory
/// finds to be so.
fn check_weights<F: Real + WithDType>(
    step: &OffloadedStep<'_, F>,
    rows: &Rows,
    found: &FirstSweep,
) -> Result<()> {
    const ROWS: usize = 4096;
    if found.finite && step.accepts_norms(found.norms) {
        return Ok(());
    }
    let count = rows.matrix.dim(0)?;
    for start in (0..count).step_by(ROWS) {
        let block = read::<F>(&rows.matrix.narrow(0, start, ROWS.min(count - start))?)?;
        step.check_class_weights(block.view(), start).map_err(refused)?;
    }
    let device = format!("{:?}", rows.matrix.device().location());
    let reason = format!("it found norms of class weights in {:?}, which are others", found.norms);
    Err(refused(Error::Device { device, reason }))
}

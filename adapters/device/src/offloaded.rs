//! A step on a device: the sweeps there, what is exact in f64 by the core.

use margin_softmax::offload::{OffloadedBackward, OffloadedClasses, OffloadedStep};
use margin_softmax::{Error, IGNORED};
use ndarray::{Array1, Array2, Axis};

use crate::arrays::Request;
use crate::first_sweep::FirstSweep;
use crate::operations::{Binary, Map, Operations, Reduce};
use crate::options::number;
use crate::shared_head::Core;
use crate::step::{Found, Step, StepGradients, WeightGradient};
use crate::tiles::{Rows, Sweeps, column};

/// What a step on a device reads in main memory.
struct Read<F> {
    embeddings: Array2<F>,
    /// The class weights of the samples' own classes.
    own: Array2<F>,
    bias: Option<Array1<F>>,
}

/// Rows of class weights that are checked at a time.
const CHECKED_ROWS: usize = 4096;

impl<D: Operations> Step<D> {
    pub(crate) fn run_on_device(
        &self,
        core: &Core,
        Request { labels, sample, reduction, tracked }: Request<'_, D::Float>,
    ) -> Result<Found<D>, D::Error> {
        let k = self.rows.sub_centers;
        let ignored = labels.with_ignored.then_some(IGNORED);
        let shape = (self.core(self.classes())?, k);
        let mut classes = self.core(OffloadedClasses::new(&labels.classes, ignored, shape))?;
        if let Some(sample) = sample {
            classes = self.core(classes.with_sample(sample))?;
        }
        let Read { embeddings, own, bias } = self.read(classes.own_rows())?;
        let inputs = (&*embeddings, &*own, bias.as_deref());
        let mut step = self.core(core.offload(&classes, inputs, reduction))?;
        if let Some(prior) = &self.log_prior {
            step = self.core(step.with_log_prior(prior))?;
        }
        let selected = self.selected(&classes)?;
        let rows = selected.as_ref().unwrap_or(&self.rows);
        let places = classes.own_places().unwrap_or_default();
        let sweeps = Sweeps::new(&self.device, &step, rows, places)?;
        let mut first = sweeps.first()?;
        self.check_weights(&step, rows, &first)?;
        let read = self.core(step.nearest_rows(&mut first.stats))?;
        let read = self.gathered(&read)?;
        let (forward, backward) = self.core(step.complete(&first.stats, first.norms, &read))?;
        let gradients = match tracked {
            [false, false, false] => StepGradients::default(),
            [x, w, b] => {
                let swept = classes.swept_rows();
                self.gradients(&backward, (&sweeps, &first), (x, w || b), swept.as_deref())?
            }
        };
        Ok((forward, gradients))
    }

    /// How many classes there are.
    fn classes(&self) -> Result<usize, Error> {
        let (k, [samples, dims]) = (self.rows.sub_centers, self.device.shape(&self.embeddings));
        let rows: usize = self.counts().iter().sum();
        let bad = |argument, expected, actual| Err(Error::Shape { argument, expected, actual });
        if samples == 0 || dims == 0 {
            return Err(Error::Empty { argument: "embeddings", actual: vec![samples, dims] });
        }
        if k == 0 || !rows.is_multiple_of(k) {
            let expected = vec![(rows / k.max(1)).max(1) * k.max(1)];
            return bad("rows of class weights", expected, vec![rows]);
        }
        for matrix in &self.rows.matrices {
            let [_, other] = self.device.shape(matrix);
            if other != dims {
                return bad("class weights", vec![rows, dims], vec![rows, other]);
            }
        }
        let bias = self.rows.shift.as_ref().map(|bias| self.device.shape(bias)[1]);
        if let Some(bias) = bias.filter(|bias| *bias != rows) {
            return bad("bias", vec![rows], vec![bias]);
        }
        if i32::try_from(rows).is_err() {
            return Err(
                self.failed(format!("{rows} rows of class weights are more than it numbers"))
            );
        }
        Ok(rows / k)
    }

    fn failed(&self, reason: String) -> Error {
        Error::Device { device: self.device.name(), reason }
    }

    /// Ascending numbers of rows as those of each matrix.
    fn local(&self, rows: &[usize]) -> Vec<Vec<usize>> {
        let (mut first, mut rest) = (0, rows);
        let of_matrix = |count| {
            let end = first + count;
            let (own, others) = rest.split_at(rest.partition_point(|row| *row < end));
            let local = own.iter().map(|row| row - first).collect();
            (first, rest) = (end, others);
            local
        };
        self.counts().into_iter().map(of_matrix).collect()
    }

    /// The rows of the class weights with these ascending numbers, from the matrices that have some.
    fn select(&self, rows: &[usize]) -> Result<Vec<D::Matrix>, D::Error> {
        let parts = self.rows.matrices.iter().zip(self.local(rows));
        let parts = parts.filter(|(_, local)| !local.is_empty());
        parts.map(|(matrix, local)| self.device.select(matrix, &local)).collect()
    }

    /// Reads the embeddings, these rows of the class weights, and the bias.
    fn read(&self, rows: &[usize]) -> Result<Read<D::Float>, D::Error> {
        let mut wanted = vec![self.embeddings.clone()];
        let own = self.select(rows)?;
        let parts = own.len();
        wanted.extend(own);
        wanted.extend(self.rows.shift.clone());
        let mut read = self.device.download(wanted)?.into_iter();
        let embeddings = read.next().unwrap_or_default();
        let own = self.joined(read.by_ref().take(parts))?;
        let bias = read.next().map(|bias| bias.index_axis_move(Axis(0), 0));
        Ok(Read { embeddings, own, bias })
    }

    /// Reads these rows of the class weights.
    fn gathered(&self, rows: &[usize]) -> Result<Array2<D::Float>, D::Error> {
        let parts = self.select(rows)?;
        let parts = if parts.is_empty() { Vec::new() } else { self.device.download(parts)? };
        self.joined(parts.into_iter())
    }

    /// Rows of class weights, below each other.
    fn joined(
        &self,
        parts: impl Iterator<Item = Array2<D::Float>>,
    ) -> Result<Array2<D::Float>, D::Error> {
        let [_, dims] = self.device.shape(&self.embeddings);
        let mut all = Array2::zeros((0, dims));
        for part in parts {
            let shape =
                self.core(all.append(Axis(0), part.view()).map_err(|_| {
                    self.failed(format!("it returned rows of {} numbers", part.ncols()))
                }));
            shape?;
        }
        Ok(all)
    }

    /// The matrices and the shift of the sweep, where it is over some of the rows.
    fn selected(
        &self,
        classes: &OffloadedClasses<'_>,
    ) -> Result<Option<Rows<D::Matrix>>, D::Error> {
        let (d, Some(rows)) = (&self.device, classes.swept_rows()) else { return Ok(None) };
        let offsets = classes.offsets::<D::Float>();
        let offsets = offsets.map(|offsets| d.upload(Array1::from(offsets).insert_axis(Axis(0))));
        let bias = self.rows.shift.as_ref();
        let bias = bias.map(|bias| d.transposed(&d.select(&d.transposed(bias)?, &rows)?));
        let shift = match (bias.transpose()?, offsets.transpose()?) {
            (Some(bias), Some(offsets)) => Some(d.combine(bias, Binary::Add, &offsets)?),
            (bias, offsets) => bias.or(offsets),
        };
        Ok(Some(Rows { matrices: self.select(&rows)?, shift, ..self.rows.clone() }))
    }

    fn gradients(
        &self,
        backward: &OffloadedBackward<'_, '_, D::Float>,
        (sweeps, first): (&Sweeps<'_, D>, &FirstSweep<D::Matrix>),
        (x, w): (bool, bool),
        swept: Option<&[usize]>,
    ) -> Result<StepGradients<D::Matrix>, D::Error> {
        let d = &self.device;
        let (recipe, own) = (backward.embedding_gradient(), backward.target_gradients());
        let by_norm = recipe.inverse_norms.is_some();
        let found = sweeps.second((backward, &own), first, (x, w), by_norm)?;
        let mut embeddings = found.embeddings;
        if let Some(mut dx) = embeddings.take() {
            if let Some((s, factors)) = &recipe.projected {
                let unit = Map::Affine(number(*s).recip(), 0.0);
                let unit = d.map(sweeps.embeddings.clone(), unit)?;
                let along = d.combine(dx.clone(), Binary::Multiply, &unit)?;
                let along = d.reduce(&along, Reduce::Sum, 1)?;
                let lost = d.combine(unit, Binary::Multiply, &along)?;
                dx = d.combine(dx, Binary::Subtract, &lost)?;
                dx = d.combine(dx, Binary::Multiply, &column(d, factors)?)?;
            }
            if let (Some(radial), Some(inverse)) = (found.radial, &recipe.inverse_norms) {
                let inverse = column(d, inverse)?;
                let radial = d.combine(radial, Binary::Multiply, &inverse)?;
                let unit = d.combine(sweeps.embeddings.clone(), Binary::Multiply, &inverse)?;
                dx = d.combine(dx, Binary::Add, &d.combine(unit, Binary::Multiply, &radial)?)?;
            }
            embeddings = Some(d.combine(dx, Binary::Add, &d.upload(recipe.targets)?)?);
        }
        let bias = found.shift.filter(|_| self.rows.shift.is_some());
        let bias = bias.map(|bias| {
            let part = d.upload(Array1::from(own.bias).insert_axis(Axis(1)))?;
            let bias = match own.rows.is_empty() {
                true => bias,
                false => d.transposed(&d.add_rows(d.transposed(&bias)?, &own.rows, part)?)?,
            };
            self.whole_bias(bias, swept)
        });
        let shards = w.then(|| self.by_shard(found.weights, swept));
        Ok(StepGradients { embeddings, shards, bias: bias.transpose()? })
    }

    /// The gradients of the shards, from those of the matrices of the sweep.
    fn by_shard(
        &self,
        gradients: Vec<D::Matrix>,
        swept: Option<&[usize]>,
    ) -> Vec<WeightGradient<D::Matrix>> {
        let mut gradients = gradients.into_iter();
        let Some(swept) = swept else {
            let whole = |gradient| WeightGradient { rows: None, gradient: Some(gradient) };
            return gradients.map(whole).collect();
        };
        let of_shard = |rows: Vec<usize>| {
            let gradient = if rows.is_empty() { None } else { gradients.next() };
            WeightGradient { rows: Some(rows), gradient }
        };
        self.local(swept).into_iter().map(of_shard).collect()
    }

    /// What `result` makes of a first sweep over all classes, for embeddings without labels.
    pub(crate) fn infer<T>(
        &self,
        core: &Core,
        result: impl FnOnce(
            &OffloadedStep<'_, D::Float>,
            &Sweeps<'_, D>,
            &FirstSweep<D::Matrix>,
        ) -> Result<T, D::Error>,
    ) -> Result<T, D::Error> {
        let shape = (self.core(self.classes())?, self.rows.sub_centers);
        let classes = self.core(OffloadedClasses::for_inference(shape))?;
        let Read { embeddings, own, bias } = self.read(&[])?;
        let inputs = (&*embeddings, &*own, bias.as_deref());
        let step = self.core(core.offload(&classes, inputs, None))?;
        let sweeps = Sweeps::new(&self.device, &step, &self.rows, &[])?;
        let first = sweeps.first()?;
        self.check_weights(&step, &self.rows, &first)?;
        self.core(step.check_range(first.norms))?;
        result(&step, &sweeps, &first)
    }

    /// Refuses class weights that the device found to be out of range, by the row that main memory
    /// finds to be so.
    fn check_weights(
        &self,
        step: &OffloadedStep<'_, D::Float>,
        rows: &Rows<D::Matrix>,
        found: &FirstSweep<D::Matrix>,
    ) -> Result<(), D::Error> {
        if found.finite && step.accepts_norms(found.norms) {
            return Ok(());
        }
        let mut first = 0;
        for matrix in &rows.matrices {
            let [count, _] = self.device.shape(matrix);
            for start in (0..count).step_by(CHECKED_ROWS) {
                let block = start..(start + CHECKED_ROWS).min(count);
                for block in self.device.download(vec![self.device.rows(matrix, block)?])? {
                    self.core(step.check_class_weights(block.view(), first + start))?;
                }
            }
            first += count;
        }
        let (least, most) = found.norms;
        let reason = format!("it found norms of class weights from {least:e} to {most:e}");
        self.core(Err(self.failed(format!("{reason}, main memory finds others"))))
    }
}

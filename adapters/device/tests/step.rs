//! A step on a "device" of plain arrays is that of the core.

use std::ops::Range;
use std::sync::Arc;

use margin_softmax::sampling::ClassSampler;
use margin_softmax::{
    ArcFace, Batch, CurricularFace, Error, Forward, Gradients, Head, InterclassFilter,
    LabelSmoothing, MarginLoss, MvSoftmax, Reduction, Softmax, SphereFace, SphereFace2,
    TopNegatives, UnifiedCrossEntropy,
};
use margin_softmax_device::{
    Binary, Labels, Map, Operations, Parameters, Reduce, Reducer, SharedHead, Step,
};
use ndarray::{Array1, Array2, ArrayView2, Axis, Zip, concatenate, s};

/// The operations on arrays: what an adapter of a framework writes.
#[derive(Debug, Clone)]
struct OnArrays;

type Matrix = Array2<f64>;

impl Operations for OnArrays {
    type Float = f64;
    type Matrix = Matrix;
    type Mask = Array2<bool>;
    type Error = Error;

    fn refused(&self, error: Error) -> Error {
        error
    }

    fn name(&self) -> String {
        "arrays".to_owned()
    }

    fn is_cpu(&self) -> bool {
        true
    }

    fn shape(&self, matrix: &Matrix) -> [usize; 2] {
        [matrix.nrows(), matrix.ncols()]
    }

    fn upload(&self, numbers: Matrix) -> Result<Matrix, Error> {
        Ok(numbers)
    }

    fn download(&self, matrices: Vec<Matrix>) -> Result<Vec<Matrix>, Error> {
        Ok(matrices)
    }

    fn view<R>(
        &self,
        matrix: &Matrix,
        read: impl FnOnce(ArrayView2<'_, f64>) -> Result<R, Error>,
    ) -> Result<R, Error> {
        read(matrix.view())
    }

    fn zeros(&self, [rows, columns]: [usize; 2]) -> Result<Matrix, Error> {
        Ok(Array2::zeros((rows, columns)))
    }

    fn rows(&self, of: &Matrix, rows: Range<usize>) -> Result<Matrix, Error> {
        Ok(of.slice(s![rows, ..]).to_owned())
    }

    fn columns(&self, of: &Matrix, columns: Range<usize>) -> Result<Matrix, Error> {
        Ok(of.slice(s![.., columns]).to_owned())
    }

    fn select(&self, from: &Matrix, rows: &[usize]) -> Result<Matrix, Error> {
        Ok(from.select(Axis(0), rows))
    }

    fn cat(&self, parts: Vec<Matrix>, axis: usize) -> Result<Matrix, Error> {
        let parts: Vec<_> = parts.iter().map(|part| part.view()).collect();
        Ok(concatenate(Axis(axis), &parts).expect("shapes that agree"))
    }

    fn add_rows(&self, mut to: Matrix, rows: &[usize], part: Matrix) -> Result<Matrix, Error> {
        for (&row, part) in rows.iter().zip(part.rows()) {
            to.row_mut(row).zip_mut_with(&part, |to, part| *to += part);
        }
        Ok(to)
    }

    fn put_rows(&self, mut to: Matrix, start: usize, part: Matrix) -> Result<Matrix, Error> {
        to.slice_mut(s![start..start + part.nrows(), ..]).assign(&part);
        Ok(to)
    }

    fn map(&self, matrix: Matrix, map: Map) -> Result<Matrix, Error> {
        Ok(matrix.mapv_into(|v| match map {
            Map::Abs => v.abs(),
            Map::AtLeast(least) => v.max(least),
            Map::Exp => v.exp(),
            Map::Reciprocal => v.recip(),
            Map::Root => v.sqrt(),
            Map::Square => v * v,
            Map::Power(exponent) => v.powf(exponent),
            Map::Affine(factor, constant) => factor * v + constant,
        }))
    }

    fn combine(&self, a: Matrix, operation: Binary, b: &Matrix) -> Result<Matrix, Error> {
        Ok(match operation {
            Binary::Add => a + b,
            Binary::Subtract => a - b,
            Binary::Multiply => a * b,
            Binary::Divide => a / b,
        })
    }

    fn reduce(&self, matrix: &Matrix, reduce: Reduce, axis: usize) -> Result<Matrix, Error> {
        let reduced = matrix.map_axis(Axis(axis), |lane| match reduce {
            Reduce::Sum => lane.sum(),
            Reduce::Smallest => lane.iter().copied().fold(f64::INFINITY, f64::min),
            Reduce::Largest => lane.iter().copied().fold(f64::NEG_INFINITY, f64::max),
        });
        Ok(reduced.insert_axis(Axis(axis)))
    }

    fn product(&self, a: &Matrix, b: &Matrix) -> Result<Matrix, Error> {
        Ok(a.dot(b))
    }

    fn transposed(&self, matrix: &Matrix) -> Result<Matrix, Error> {
        Ok(matrix.t().to_owned())
    }

    fn largest(&self, matrix: &Matrix) -> Result<(Matrix, Matrix), Error> {
        let largest = self.reduce(matrix, Reduce::Largest, 1)?;
        let at = |(i, _): (usize, usize)| {
            matrix.row(i).iter().position(|&v| v == largest[[i, 0]]).unwrap_or(0) as f64
        };
        let at = Array2::from_shape_fn((matrix.nrows(), 1), at);
        Ok((largest, at))
    }

    fn largest_of(&self, matrix: Matrix, k: usize) -> Result<(Matrix, Matrix), Error> {
        let (rows, columns) = matrix.dim();
        let (mut largest, mut chosen) =
            (Array2::zeros((rows, columns / k)), Array2::zeros((rows, columns)));
        for class in 0..columns / k {
            let (best, at) = self.largest(&self.columns(&matrix, class * k..(class + 1) * k)?)?;
            for i in 0..rows {
                largest[[i, class]] = best[[i, 0]];
                chosen[[i, class * k + at[[i, 0]] as usize]] = 1.0;
            }
        }
        Ok((largest, chosen))
    }

    fn repeat(&self, matrix: &Matrix, k: usize) -> Result<Matrix, Error> {
        let shape = (matrix.nrows(), k * matrix.ncols());
        Ok(Array2::from_shape_fn(shape, |(i, j)| matrix[[i, j / k]]))
    }

    fn at(&self, numbers: &Matrix, columns: usize) -> Result<Array2<bool>, Error> {
        let shape = (numbers.nrows(), columns);
        Ok(Array2::from_shape_fn(shape, |(i, j)| numbers[[i, 0]] == j as f64))
    }

    fn above(&self, matrix: &Matrix, threshold: &Matrix) -> Result<Array2<bool>, Error> {
        Ok(Array2::from_shape_fn(matrix.dim(), |(i, j)| matrix[[i, j]] > threshold[[i, 0]]))
    }

    fn replace(
        &self,
        mut matrix: Matrix,
        mask: &Array2<bool>,
        other: &Matrix,
    ) -> Result<Matrix, Error> {
        Zip::from(&mut matrix).and(mask).and(other).for_each(|to, &mask, &other| {
            if mask {
                *to = other;
            }
        });
        Ok(matrix)
    }

    fn fill(&self, matrix: Matrix, mask: &Array2<bool>, number: f64) -> Result<Matrix, Error> {
        let other = Array2::from_elem(matrix.dim(), number);
        self.replace(matrix, mask, &other)
    }
}

struct Problem {
    x: Matrix,
    w: Matrix,
    labels: Vec<usize>,
    sub_centers: usize,
}

fn numbers(shape: (usize, usize), frequency: f64) -> Matrix {
    Array2::from_shape_fn(shape, |(i, k)| (frequency * (i * shape.1 + k) as f64 + 0.4).sin())
}

impl Problem {
    fn new(classes: usize, sub_centers: usize) -> Self {
        let labels = (0..9).map(|i| (i * 5) % classes).collect();
        let w = numbers((classes * sub_centers, 6), 0.71);
        Problem { x: numbers((9, 6), 1.3), w, labels, sub_centers }
    }

    fn batch(&self) -> Batch<'_, f64> {
        Batch::new(&self.x, &self.w, &self.labels).with_sub_centers(self.sub_centers)
    }

    /// The rows of a shard.
    fn shard(&self, in_memory: bool) -> usize {
        if in_memory { self.w.nrows() } else { 7 * self.sub_centers }
    }

    /// The step in shards and tiles of some classes, or in main memory.
    fn step(&self, in_memory: bool) -> Step<OnArrays> {
        let shards = self.w.axis_chunks_iter(Axis(0), self.shard(in_memory));
        let parameters = Parameters {
            embeddings: self.x.clone(),
            shards: shards.map(|rows| rows.to_owned()).collect(),
            bias: None,
            sub_centers: self.sub_centers,
            in_memory,
            rows_per_tile: Some(3 * self.sub_centers),
        };
        Step::new(OnArrays, parameters)
    }

    /// Compares a step in main memory and one on the device with the core, without a class prior and
    /// with one.
    fn check(&self, loss: Arc<dyn MarginLoss>, sampler: Option<ClassSampler>) -> Result<(), Error> {
        let classes = self.w.nrows() / self.sub_centers;
        let prior = Array1::from_shape_fn(classes, |j| 3.0 * (2.0 * j as f64).cos());
        self.check_with(loss.clone(), sampler.clone(), None)?;
        self.check_with(loss, sampler, Some(prior))
    }

    fn check_with(
        &self,
        loss: Arc<dyn MarginLoss>,
        sampler: Option<ClassSampler>,
        prior: Option<Array1<f64>>,
    ) -> Result<(), Error> {
        let core = SharedHead::new(Head::new(loss.clone())).core();
        let labels: Vec<i128> = self.labels.iter().map(|&label| label as i128).collect();
        let labels = Labels::new(&labels, None)?;
        let mut drawing = sampler.clone();
        let sample = drawing.as_mut().map(|drawing| drawing.sample(&self.labels)).transpose()?;
        let batch = match &sample {
            Some(sample) => self.batch().with_sample(sample),
            None => self.batch(),
        };
        let batch = match &prior {
            Some(prior) => batch.with_log_prior(prior),
            None => batch,
        };
        let mut expected = Gradients::zeros_for(&batch);
        let forward = Head::new(loss).forward_backward(&batch, Reduction::Mean, &mut expected)?;
        for in_memory in [true, false] {
            let mut step = self.step(in_memory).with_log_prior(prior.clone());
            let mut sampler = sampler.clone();
            let (reducer, tracked) = (Reducer::Mean, [true, true, false]);
            let found = step.objective(&core, &labels, &reducer, sampler.as_mut(), tracked)?;
            assert_eq!(found.sample, sample);
            assert_eq!(found.forward.predictions(), forward.predictions());
            let [(found_class, cosine), (class, expected_cosine)] =
                [&found.forward, &forward].map(|forward| forward.nearest_negatives());
            assert_eq!(found_class, class);
            let errors = (cosine - expected_cosine).mapv(f64::abs);
            assert!(errors.iter().all(|error| *error <= TOLERANCE), "{errors}");
            let [margin_free, in_core] =
                [&found.forward, &forward].map(|forward| forward.mean_margin_free_loss());
            assert!((margin_free - in_core).abs() <= TOLERANCE * in_core.abs(), "{margin_free}");
            let (value, mean) = (found.values[0], forward.mean());
            assert!((value - mean).abs() <= TOLERANCE * mean.abs(), "{value} for {mean}");
            let [bias, expected_bias] = [&found.forward, &forward].map(Forward::bias_gradient);
            assert_eq!(bias.is_some(), expected_bias.is_some());
            for (bias, expected) in bias.into_iter().zip(expected_bias) {
                assert!((bias - expected).abs() <= TOLERANCE, "{bias} for {expected}");
            }
            close(&found.gradients.embeddings.expect("a gradient"), &expected.embeddings);
            let shards = found.gradients.shards.expect("gradients");
            let parts: Vec<_> = shards.iter().filter_map(|shard| shard.gradient.clone()).collect();
            close(&OnArrays.cat(parts, 0)?, &expected.weights);
            if let Some(sample) = &sample {
                let firsts = (0..self.w.nrows()).step_by(self.shard(in_memory));
                let rows = firsts.zip(&shards).flat_map(|(first, shard)| {
                    shard.rows.iter().flatten().map(move |row| first + row)
                });
                assert_eq!(rows.collect::<Vec<_>>(), sample.rows(self.sub_centers));
            }
        }
        Ok(())
    }
}

/// What logits near 16 and ten tiles leave of f64.
const TOLERANCE: f64 = 1e-12;

fn close(found: &Matrix, expected: &Matrix) {
    assert_eq!(found.dim(), expected.dim());
    let largest = expected.fold(0.0_f64, |most, v| most.max(v.abs()));
    let error = (found - expected).fold(0.0_f64, |most, v| most.max(v.abs()));
    assert!(error <= TOLERANCE * largest, "{error:e} of {largest:e}");
}

fn losses() -> Result<Vec<Arc<dyn MarginLoss>>, Error> {
    Ok(vec![
        Arc::new(ArcFace::new(16.0, 0.3)?),
        Arc::new(LabelSmoothing::new(CurricularFace::new(16.0, 0.3)?, 0.1)?),
        Arc::new(MvSoftmax::am(16.0, 0.3, 0.2)?),
        Arc::new(InterclassFilter::new(SphereFace::new(2)?, 0.3)?),
        Arc::new(Softmax::new()),
        Arc::new(SphereFace2::new(16.0, 0.2)?.with_bias(3.0)?),
        Arc::new(SphereFace2::angular(8.0, 0.15)?.with_t(2.5)?),
        Arc::new(UnifiedCrossEntropy::new(16.0, 0.3)?.with_bias(-5.0)?),
        Arc::new(TopNegatives::new(ArcFace::new(16.0, 0.3)?, 5, 0.1)?),
        Arc::new(LabelSmoothing::new(
            TopNegatives::new(MvSoftmax::am(16.0, 0.3, 0.2)?, 2, 0.2)?,
            0.1,
        )?),
        Arc::new(TopNegatives::new(InterclassFilter::new(SphereFace::new(2)?, 0.3)?, 30, 0.06)?),
    ])
}

#[test]
fn step_is_that_of_the_core() -> Result<(), Error> {
    for loss in losses()? {
        Problem::new(20, 1).check(loss.clone(), None)?;
        Problem::new(1, 1).check(loss, None)?;
    }
    losses()?.into_iter().try_for_each(|loss| Problem::new(20, 3).check(loss, None))
}

#[test]
fn sampled_step_is_that_of_the_core() -> Result<(), Error> {
    for loss in losses()? {
        for k in [1, 2] {
            let sampler = ClassSampler::new(20, 0.6, 3)?;
            Problem::new(20, k).check(loss.clone(), Some(sampler.clone()))?;
            if loss.binary().is_none() {
                Problem::new(20, k).check(loss.clone(), Some(sampler.with_correction(true)))?;
            }
        }
    }
    Ok(())
}

/// Their squares leave the range of f64: the sweep is done once more, by unit rows.
#[test]
fn norms_beyond_the_root_of_the_range_change_nothing() -> Result<(), Error> {
    for scale in [1e-200, 1e200] {
        let mut problem = Problem::new(20, 1);
        problem.w *= scale;
        problem.check(losses()?.swap_remove(0), None)?;
    }
    Ok(())
}

#[test]
fn bad_rows_are_named_and_the_sampler_stays() -> Result<(), Error> {
    let mut problem = Problem::new(20, 1);
    problem.w.row_mut(17).fill(0.0);
    let core = SharedHead::new(Head::new(losses()?.swap_remove(0))).core();
    let labels: Vec<i128> = problem.labels.iter().map(|&label| label as i128).collect();
    let labels = Labels::new(&labels, None)?;
    let mut sampler = ClassSampler::new(20, 1.0, 3)?;
    let before = sampler.state();
    for in_memory in [true, false] {
        let mut step = problem.step(in_memory);
        let (reducer, tracked) = (Reducer::Sum, [false; 3]);
        let refused =
            step.objective(&core, &labels, &reducer, Some(&mut sampler), tracked).unwrap_err();
        let named =
            matches!(refused, Error::DegenerateNorm { argument: "class weights", row: 17, .. });
        assert!(named, "{refused}");
        assert_eq!(sampler.state(), before);
    }
    Ok(())
}

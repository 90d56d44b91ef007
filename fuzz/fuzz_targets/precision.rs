//! Products of factors rounded to bf16, beside the same step on the same data in f64: within the
//! bound of `docs/math.md`, section 12.
#![no_main]

use arbitrary::Arbitrary;
use libfuzzer_sys::fuzz_target;
use margin_softmax::custom::{Angle, Sample};
use margin_softmax::{Batch, Error, Forward, Gradients, Head, MarginLoss, Precision, Scale};
use margin_softmax_fuzz::{
    Labels, Loss, Matrix, Reduce, UNTOUCHED, Vector, Working, assert_forward, assert_readable,
    assert_written,
};
use ndarray::{Array1, Array2, ArrayView1, ArrayView2};

#[derive(Debug, Arbitrary)]
struct Case {
    samples: u8,
    dims: u8,
    classes: u16,
    loss: Loss,
    x: Matrix,
    w: Matrix,
    labels: Labels,
    bias: Option<Vector>,
    reduce: Reduce,
    budget: u64,
}

/// A batch in one type, with the weights of its losses.
struct Data<F> {
    x: Array2<F>,
    w: Array2<F>,
    b: Option<Array1<F>>,
    upstream: Option<Array1<F>>,
}

/// The largest relative error of a number rounded to bf16.
const U: f64 = 1.0 / 256.0;

/// The magnitudes of norms and weights between which what products lose below the normal numbers of
/// f32 is less than `TINY`.
const ORDINARY: std::ops::RangeInclusive<f64> = 1e-3..=1e3;
const TINY: f64 = 1e-20;

/// The largest scale at which the bound says anything: it is e there.
const LARGEST_SCALE: f64 = 256.0;

fuzz_target!(|case: Case| {
    if let Err(error) = check(&case) {
        assert_readable(&error);
    }
});

fn check(case: &Case) -> Result<(), Error> {
    let (samples, dims) = (usize::from(case.samples % 80), usize::from(case.dims % 24));
    let classes = usize::from(case.classes % 600);
    let data = Data {
        x: case.x.fill::<f32>(samples, dims).owned(),
        w: case.w.fill::<f32>(classes, dims).owned(),
        b: case.bias.as_ref().map(|bias| bias.fill(classes)),
        upstream: case.reduce.weights(samples),
    };
    let labels = case.labels.fill(samples, classes);
    let loss = case.loss.build()?;
    let head = Head::new(&loss).with_memory_budget(case.budget as usize);
    let rounding = head.clone().with_precision(Precision::Bf16);
    let (forward, gradients) = data.run(&rounding, case, &labels)?;
    assert_forward(&loss, &forward, samples, classes);

    let data = data.wide();
    let (exact, exact_gradients) =
        data.run(&head, case, &labels).expect("f64 has more room than f32");
    if let Some(bounds) = data.bounds(&loss, &labels, &case.reduce, &exact) {
        for ((bound, &found), &exact) in bounds.iter().zip(&forward.losses).zip(&exact.losses) {
            assert_within("loss", (f64::from(found) - exact).abs(), bound.loss * exact);
        }
        assert_gradients(&data, &bounds, &gradients, &exact_gradients);
    }
    Ok(())
}

impl<F: Working> Data<F> {
    fn run<L: MarginLoss>(
        &self,
        head: &Head<L>,
        case: &Case,
        labels: &[usize],
    ) -> Result<(Forward<F>, Gradients<F>), Error> {
        let mut batch = Batch::new(&self.x, &self.w, labels);
        if let Some(b) = &self.b {
            batch = batch.with_bias(b);
        }
        let mut gradients = Gradients::zeros_for(&batch);
        let Gradients { embeddings, weights, bias, .. } = &mut gradients;
        let entries = embeddings.iter_mut().chain(weights).chain(bias.iter_mut().flatten());
        entries.for_each(|entry| *entry = F::of(UNTOUCHED));
        let reduction = case.reduce.with(self.upstream.as_ref());
        let forward = head.forward_backward(&batch, reduction, &mut gradients);
        let Gradients { embeddings, weights, bias, .. } = &gradients;
        let entries = embeddings.iter().chain(weights).chain(bias.iter().flatten());
        assert_written(forward.is_ok(), "gradients", entries);
        Ok((forward?, gradients))
    }
}

impl Data<f32> {
    fn wide(&self) -> Data<f64> {
        Data {
            x: self.x.mapv(f64::from),
            w: self.w.mapv(f64::from),
            b: self.b.as_ref().map(|b| b.mapv(f64::from)),
            upstream: self.upstream.as_ref().map(|upstream| upstream.mapv(f64::from)),
        }
    }
}

/// What may be wrong about one sample.
struct Bound {
    /// Relative to the loss.
    loss: f64,
    /// Relative to the magnitudes of a gradient's terms.
    gradient: f64,
    /// The magnitudes of the terms of the gradients by its logits.
    logits: f64,
    /// And of those by the directions of the vectors.
    directions: f64,
}

impl Data<f64> {
    /// The bounds of all samples, if everything is of ordinary magnitude.
    fn bounds(
        &self,
        loss: &impl MarginLoss,
        labels: &[usize],
        reduce: &Reduce,
        exact: &Forward<f64>,
    ) -> Option<Vec<Bound>> {
        // The bounds are those of a softmax, and of logits that rounding changes by a little.
        if loss.binary().is_some() || loss.hard_negatives().is_some() {
            return None;
        }
        let of_classes: Vec<f64> = self.w.rows().into_iter().map(norm).collect();
        let largest = |values: &[f64]| values.iter().fold(0.0_f64, |max, v| max.max(v.abs()));
        let offset = self.b.as_ref().map_or(0.0, |b| largest(&b.to_vec()));
        let samples = self.x.nrows();
        let mut bounds = Vec::new();
        for (i, x) in self.x.rows().into_iter().enumerate() {
            let r = norm(x);
            let scale = match loss.scale() {
                Scale::Fixed(s) => s,
                Scale::FeatureNorm => r,
                _ => r * largest(&of_classes),
            };
            let angle = Angle::from_theta(exact.target_angles()[i]);
            let target = loss.target_of(&Sample::new(angle, r, labels[i], i));
            let by_norm = [target.norm_slope, target.penalty_slope].map(|slope| slope.abs() * r);
            let target = target.value.abs() + target.slope.abs() + by_norm[0];
            let upstream = match (reduce, &self.upstream) {
                (_, Some(upstream)) => upstream[i].abs(),
                (Reduce::Mean, None) => 1.0 / samples as f64,
                (_, None) => 1.0,
            };
            let upper = [target, by_norm[1], offset, upstream];
            let ordinary = ORDINARY.contains(&r)
                && of_classes.iter().all(|norm| ORDINARY.contains(norm))
                && (*ORDINARY.start()..=LARGEST_SCALE).contains(&scale)
                && upper.iter().all(|value| value <= ORDINARY.end());
            if !ordinary {
                return None;
            }
            // What f32 may err, `docs/math.md`, section 9.2.
            let reach = scale * target.max(1.0) + offset;
            let f32_part = 32.0 * f64::from(f32::EPSILON) * (1.0 + reach);
            let delta = (2.0 * U + U * U) * scale;
            // The share of the negatives: sigma = 1 - e^-L.
            let sigma = -(-exact.losses[i]).exp_m1();
            bounds.push(Bound {
                loss: (delta + f32_part).exp_m1(),
                gradient: (2.0 * (delta + f32_part)).exp() * (1.0 + U) * (1.0 + U) - 1.0,
                logits: 2.0 * upstream * sigma,
                directions: upstream * (sigma * scale * (2.0 + target) + by_norm[1]),
            });
        }
        Some(bounds)
    }
}

/// The gradient of an embedding is a sum over the classes. That of a class weight is one over the
/// samples, whose shares in all classes are known together only: so are the errors of all of them.
fn assert_gradients(
    data: &Data<f64>,
    bounds: &[Bound],
    found: &Gradients<f32>,
    exact: &Gradients<f64>,
) {
    let of_embeddings = distances(&found.embeddings, exact.embeddings.view());
    for ((bound, x), distance) in bounds.iter().zip(data.x.rows()).zip(of_embeddings) {
        let allowed = bound.gradient * bound.directions / norm(x);
        assert_within("gradient of an embedding", distance, allowed);
    }
    let of_weights = distances(&found.weights, exact.weights.view());
    let scaled = data.w.rows().into_iter().zip(of_weights).map(|(w, distance)| norm(w) * distance);
    let allowed = bounds.iter().map(|bound| bound.gradient * bound.directions).sum();
    assert_within("gradients of all class weights", scaled.sum(), allowed);
    if let (Some(found), Some(exact)) = (&found.bias, &exact.bias) {
        let errors =
            found.iter().zip(exact).map(|(&found, exact)| (f64::from(found) - exact).abs());
        let allowed = bounds.iter().map(|bound| bound.gradient * bound.logits).sum();
        assert_within("gradient of the bias", errors.sum(), allowed);
    }
}

fn assert_within(name: &str, error: f64, allowed: f64) {
    assert!(error <= allowed + TINY, "{name}: off by {error:e}, allowed {allowed:e}");
}

fn norm(row: ArrayView1<'_, f64>) -> f64 {
    row.dot(&row).sqrt()
}

/// Row by row.
fn distances(found: &Array2<f32>, exact: ArrayView2<'_, f64>) -> Vec<f64> {
    let difference = found.mapv(f64::from) - exact;
    difference.rows().into_iter().map(norm).collect()
}

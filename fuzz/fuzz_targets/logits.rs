//! The level of materialized logits: cosines, forward, backward, and gradients of the inputs.
#![no_main]

use arbitrary::Arbitrary;
use libfuzzer_sys::fuzz_target;
use margin_softmax::{Error, LogitGradients, MarginLoss, NormalizedLogits};
use margin_softmax_fuzz::{
    Labels, Loss, Matrix, Reduce, UNTOUCHED, Vector, Working, assert_finite, assert_forward,
    assert_readable, assert_written,
};
use ndarray::{Array1, Array2};

#[derive(Debug, Arbitrary)]
struct Case {
    wide: bool,
    samples: u8,
    dims: u8,
    classes: u8,
    loss: Loss,
    source: Source,
    labels: Labels,
    bias: Option<Vector>,
    /// The label of samples that are left out.
    ignored: Option<u8>,
    reduce: Reduce,
    /// Gradients of another shape, or of other logits.
    misfit: Misfit,
}

#[derive(Debug, Arbitrary)]
enum Source {
    Rows { x: Matrix, w: Matrix },
    Cosines { cosines: Matrix, norms: Option<Vector> },
}

#[derive(Debug, Arbitrary)]
enum Misfit {
    None,
    Shape(u8),
    /// Forward and backward with different labels.
    Labels(Labels),
    /// Gradients that were computed elsewhere are propagated.
    Foreign {
        samples: u8,
        classes: u8,
        cosines: Matrix,
        angles: Vector,
    },
}

fuzz_target!(|case: Case| {
    let result = if case.wide { check::<f64>(&case) } else { check::<f32>(&case) };
    if let Err(error) = result {
        assert_readable(&error);
    }
});

fn check<F: Working>(case: &Case) -> Result<(), Error> {
    let (samples, dims) = (usize::from(case.samples % 80), usize::from(case.dims % 24));
    let classes = usize::from(case.classes % 150);
    let logits = build::<F>(case, samples, dims, classes)?;
    let loss = case.loss.build()?;
    if let Ok(scaled) = loss.margin_free_logits(&logits) {
        assert_finite("margin-free logits", &scaled);
    }
    if let Misfit::Foreign { .. } = &case.misfit {
        return foreign(case, &loss, &logits);
    }
    let labels = case.labels.fill(samples, classes);
    let forward = loss.forward(&logits, &labels)?;
    assert_forward(&loss, &forward, samples, classes);

    let other = match &case.misfit {
        Misfit::Labels(labels) => labels.fill(samples, classes),
        _ => labels,
    };
    let mut gradients = LogitGradients::zeros_for(&logits);
    if let Misfit::Shape(which) = case.misfit {
        match which % 6 {
            0 => gradients.cosines = Array2::zeros((classes, samples)),
            1 => gradients.cosines = Array2::zeros((classes, samples)).reversed_axes(),
            2 => gradients.target_angles = Array1::zeros(1),
            3 => gradients.feature_norms = Array1::zeros(2),
            4 => gradients.weight_norms = Array1::zeros(3),
            _ => gradients.bias = Some(Array1::zeros(4)),
        }
    }
    fill(&mut gradients);
    let upstream = case.reduce.weights(samples);
    let reduction = case.reduce.with(upstream.as_ref());
    let result = loss.backward_into(&logits, &other, &forward, reduction, &mut gradients);
    assert_gradients(result.is_ok(), &gradients);
    result?;
    carry(&logits, &gradients)
}

fn build<F: Working>(
    case: &Case,
    samples: usize,
    dims: usize,
    classes: usize,
) -> Result<NormalizedLogits<F>, Error> {
    let logits = match &case.source {
        Source::Rows { x, w } => {
            let (x, w) = (x.fill::<F>(samples, dims), w.fill::<F>(classes, dims));
            NormalizedLogits::new(&x.view(), &w.view())?
        }
        Source::Cosines { cosines, norms } => {
            let logits = NormalizedLogits::from_cosines(cosines.fill(samples, classes).owned())?;
            match norms {
                Some(norms) => logits.with_feature_norms(norms.fill(samples))?,
                None => logits,
            }
        }
    };
    let logits = match case.ignored {
        Some(label) => logits.with_ignored_label(usize::from(label)),
        None => logits,
    };
    match &case.bias {
        Some(bias) => logits.with_bias(&bias.fill(classes)),
        None => Ok(logits),
    }
}

/// Propagates gradients of the loss to embeddings and weights.
fn carry<F: Working>(
    logits: &NormalizedLogits<F>,
    gradients: &LogitGradients<F>,
) -> Result<(), Error> {
    let carried = logits.backward(gradients)?;
    assert_finite("gradient of the embeddings", &carried.embeddings);
    assert_finite("gradient of the class weights", &carried.weights);
    assert_finite("gradient of the bias", carried.bias.iter().flatten());
    Ok(())
}

/// Gradients of other logits, with replaced values and shapes. They must not cause a panic.
fn foreign<F: Working>(
    case: &Case,
    loss: &impl MarginLoss,
    logits: &NormalizedLogits<F>,
) -> Result<(), Error> {
    let Misfit::Foreign { samples, classes, cosines, angles } = &case.misfit else { return Ok(()) };
    let (samples, classes) = (usize::from(samples % 80), usize::from(classes % 150));
    let noise =
        Array2::from_shape_fn((samples, classes), |(i, j)| F::of(((i + 2 * j) as f64).sin()));
    let other = NormalizedLogits::from_cosines(noise)?;
    let labels = case.labels.fill(samples, classes);
    let forward = loss.forward(&other, &labels)?;
    let reduction = case.reduce.with(None);
    let mut gradients = loss.backward(&other, &labels, &forward, reduction)?;
    let (n, c) = logits.cosines().dim();
    gradients.cosines = cosines.fill(n, c).owned();
    gradients.target_angles = angles.fill(n);
    gradients.feature_norms = angles.fill(n);
    gradients.weight_norms = angles.fill(c);
    gradients.bias = logits.bias().cloned();
    logits.backward(&gradients).map(drop)
}

fn fill<F: Working>(gradients: &mut LogitGradients<F>) {
    let LogitGradients { cosines, target_angles, feature_norms, weight_norms, bias, .. } =
        gradients;
    let vectors = [target_angles, feature_norms, weight_norms].into_iter().chain(bias);
    let entries = cosines.iter_mut().chain(vectors.flatten());
    entries.for_each(|entry| *entry = F::of(UNTOUCHED));
}

fn assert_gradients<F: Working>(succeeded: bool, gradients: &LogitGradients<F>) {
    assert_written(succeeded, "gradient of the cosines", &gradients.cosines);
    assert_written(succeeded, "gradient of the target angles", &gradients.target_angles);
    assert_written(succeeded, "gradient of the feature norms", &gradients.feature_norms);
    assert_written(succeeded, "gradient of the weight norms", &gradients.weight_norms);
    assert_written(succeeded, "gradient of the bias", gradients.bias.iter().flatten());
}

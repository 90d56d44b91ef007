//! The step that updates the class parameters, beside gradient and update one after the other.
#![no_main]

use arbitrary::Arbitrary;
use libfuzzer_sys::fuzz_target;
use margin_softmax::sampling::{ClassSample, ClassSampler};
use margin_softmax::update::WeightUpdate;
use margin_softmax::{AdamW, BatchMut, Error, Gradients, Head, MarginLoss, Sgd, ZeroEmbedding};
use margin_softmax_fuzz::{
    Labels, Loss, Matrix, Number, Reduce, UNTOUCHED, Vector, Working, assert_finite,
    assert_forward, assert_readable, assert_written,
};
use ndarray::{Array1, Array2};

#[derive(Debug, Arbitrary)]
struct Case {
    wide: bool,
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
    skip: bool,
    /// The label of samples that are left out.
    ignored: Option<u16>,
    /// From 250 on: a gradient of the embeddings in another shape.
    misfit: u8,
    /// Seed and share of a sample of the classes; all classes without.
    sampling: Option<(u64, u8)>,
    update: Update,
}

#[derive(Debug, Arbitrary)]
enum Update {
    Sgd { rate: Number, momentum: Number, decay: Number, nesterov: bool },
    AdamW { rate: Number, decay: Number },
}

/// Everything that a step updates.
#[derive(Debug, Clone, PartialEq)]
struct Moved<F, U> {
    w: Array2<F>,
    b: Option<Array1<F>>,
    update: U,
}

fuzz_target!(|case: Case| {
    let result = if case.wide { build::<f64>(&case) } else { build::<f32>(&case) };
    if let Err(error) = result {
        assert_readable(&error);
    }
});

fn build<F: Working>(case: &Case) -> Result<(), Error> {
    match case.update {
        Update::Sgd { rate, momentum, decay, nesterov } => {
            let sgd = Sgd::<F>::new(rate.value())?.with_momentum(momentum.value())?;
            check(case, sgd.with_weight_decay(decay.value())?.with_nesterov(nesterov))
        }
        Update::AdamW { rate, decay } => {
            check(case, AdamW::<F>::new(rate.value())?.with_weight_decay(decay.value())?)
        }
    }
}

fn check<F: Working, U: WeightUpdate<F> + Clone + PartialEq>(
    case: &Case,
    update: U,
) -> Result<(), Error> {
    let (samples, dims) = (usize::from(case.samples % 80), usize::from(case.dims % 24));
    let classes = usize::from(case.classes % 600);
    let (x, w) = (case.x.fill::<F>(samples, dims), case.w.fill::<F>(classes, dims).owned());
    let labels = case.labels.fill(samples, classes);
    let b = case.bias.as_ref().map(|bias| bias.fill::<F>(classes));
    let zero = if case.skip { ZeroEmbedding::Skip } else { ZeroEmbedding::Error };
    let head = Head::new(case.loss.build()?)
        .with_memory_budget(case.budget as usize)
        .with_zero_embeddings(zero);
    let (seed, share) = case.sampling.unwrap_or((0, 255));
    let rate = (f64::from(share) + 1.0) / 256.0;
    let sample = ClassSampler::new(classes, rate, seed)?.sample(&labels)?;
    let shape = if case.misfit >= 250 { (samples + 1, dims) } else { (samples, dims) };
    let mut dx = Array2::from_elem(shape, F::of(UNTOUCHED));

    let upstream = case.reduce.weights(samples);
    let reduction = || case.reduce.with(upstream.as_ref());
    let before = Moved { w, b, update };
    let mut fused = before.clone();
    // Twice: the state of the first step is there in the second.
    for _ in 0..2 {
        let earlier = fused.clone();
        let Moved { w, b, update } = &mut fused;
        let view = x.view();
        let mut batch = batch(case, (&view, w, b), &labels);
        if case.sampling.is_some() {
            batch = batch.with_sample(&sample);
        }
        let answer = head.step(&mut batch, reduction(), update, &mut dx);
        let Ok(forward) = answer else {
            // NaN is not equal to itself; its text is.
            assert_eq!(format!("{fused:?}"), format!("{earlier:?}"), "a refused step moved");
            assert!(fused.update == earlier.update, "a refused step moved the state");
            assert_written(false, "gradient of the embeddings", &dx);
            return answer.map(drop);
        };
        assert_forward(head.loss(), &forward, samples, classes);
        assert_finite("gradient of the embeddings", &dx);
        if case.sampling.is_none() {
            assert_finite("class weights", &fused.w);
            assert_finite("bias", fused.b.iter().flatten());
        }
        let mut separate = earlier;
        let expected = apart(case, &head, &sample, (&view, &labels), &mut separate);
        assert_eq!(dx, expected, "gradient of the embeddings");
        assert_eq!(format!("{fused:?}"), format!("{separate:?}"), "class parameters");
        assert!(fused.update == separate.update, "state");
        dx.fill(F::of(UNTOUCHED));
    }
    Ok(())
}

fn batch<'a, F: Working>(
    case: &Case,
    (x, w, b): (&'a ndarray::ArrayView2<'_, F>, &'a mut Array2<F>, &'a mut Option<Array1<F>>),
    labels: &'a [usize],
) -> BatchMut<'a, F> {
    let mut batch = BatchMut::new(x, w, labels);
    if let Some(b) = b {
        batch = batch.with_bias(b);
    }
    match case.ignored {
        Some(label) => batch.with_ignored_label(usize::from(label)),
        None => batch,
    }
}

/// Gradients, and then the update; all classes are a sample of share 1. Returns the gradient of the
/// embeddings.
fn apart<F: Working, L: MarginLoss, U: WeightUpdate<F>>(
    case: &Case,
    head: &Head<L>,
    sample: &ClassSample,
    (x, labels): (&ndarray::ArrayView2<'_, F>, &[usize]),
    Moved { w, b, update }: &mut Moved<F, U>,
) -> Array2<F> {
    let upstream = case.reduce.weights(labels.len());
    let batch = batch(case, (x, w, b), labels).with_sample(sample);
    let mut gradients = Gradients::zeros_for(&batch.view());
    let reduction = case.reduce.with(upstream.as_ref());
    head.forward_backward(&batch.view(), reduction, &mut gradients)
        .expect("the fused step was accepted");
    let accepted = "the bounds of the fused step are wider";
    update.apply_rows(w, &sample.classes, &gradients.weights).expect(accepted);
    if let (Some(b), Some(gradient)) = (b, &gradients.bias) {
        update.apply_bias_rows(b, &sample.classes, gradient).expect(accepted);
    }
    gradients.embeddings
}

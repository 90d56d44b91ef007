//! Classes split over ranks, each a thread: all ranks return the same, whatever one of them is given,
//! and nothing is written where they refuse.
#![no_main]

use arbitrary::Arbitrary;
use libfuzzer_sys::fuzz_target;
use margin_softmax::ranks::{ThreadCollective, class_range};
use margin_softmax::sampling::ClassSampler;
use margin_softmax::{
    Batch, Error, Forward, Gradients, Head, IGNORED, MarginLoss, Precision, ZeroEmbedding,
};
use margin_softmax_fuzz::{
    Labels, Loss, Matrix, Number, Reduce, UNTOUCHED, Vector, Working, assert_forward,
    assert_readable, assert_written,
};
use ndarray::{Array1, ArrayView2, s};

#[derive(Debug, Arbitrary)]
struct Case {
    wide: bool,
    ranks: u8,
    samples: u8,
    dims: u8,
    classes: u8,
    sub_centers: u8,
    x: Matrix,
    w: Matrix,
    labels: Labels,
    bias: Option<Vector>,
    reduce: Reduce,
    common: Own,
    /// What one of the ranks has for itself.
    odd: Option<(u8, Own)>,
}

/// What every rank brings along.
#[derive(Debug, Arbitrary)]
struct Own {
    loss: Loss,
    sampling: Option<(Number, bool)>,
    /// An end of its classes that is off.
    shifted: u8,
    ignored: bool,
    skip: bool,
    rounded: bool,
    first_row: u8,
    embeddings_only: bool,
    /// A number that is changed.
    spoiled: Option<Number>,
}

/// What all ranks have.
struct Inputs<'a, F> {
    x: ArrayView2<'a, F>,
    w: ArrayView2<'a, F>,
    bias: Option<&'a Array1<F>>,
    labels: &'a [usize],
    k: usize,
    classes: usize,
}

fuzz_target!(|case: Case| if case.wide { check::<f64>(&case) } else { check::<f32>(&case) });

fn check<F: Working>(case: &Case) {
    let (samples, dims) = (usize::from(case.samples % 20), usize::from(case.dims % 12));
    let (classes, k) = (usize::from(case.classes % 60), usize::from(case.sub_centers % 3) + 1);
    let (x, w) = (case.x.fill::<F>(samples, dims), case.w.fill::<F>(classes * k, dims));
    let labels = case.labels.fill(samples, classes);
    let bias = case.bias.as_ref().map(|bias| bias.fill::<F>(classes * k));
    let (x, w, bias) = (x.view(), w.view(), bias.as_ref());
    let inputs = Inputs { x, w, bias, labels: &labels, k, classes };
    let group = ThreadCollective::group(usize::from(case.ranks % 4) + 1);
    let answers: Vec<Result<Forward<F>, Error>> = std::thread::scope(|scope| {
        let size = group.len();
        let ranks = group.into_iter().enumerate().map(|(rank, collective)| {
            let odd = case.odd.as_ref().filter(|(odd, _)| usize::from(*odd) % size == rank);
            let own = odd.map_or(&case.common, |(_, own)| own);
            let inputs = &inputs;
            scope.spawn(move || one_rank(case, own, inputs, (collective, rank, size)))
        });
        let ranks: Vec<_> = ranks.collect();
        ranks.into_iter().map(|rank| rank.join().expect("no rank panics")).collect()
    });
    // Where not every rank could build what it brings, the others say that it is gone.
    let first = format!("{:?}", answers[0]);
    let built = answers.iter().all(|answer| !matches!(answer, Err(Error::Parameter { .. })));
    for answer in &answers {
        match answer {
            Ok(forward) => {
                // Several ranks agree on a loss; one alone has its own.
                let odd = case.odd.as_ref().filter(|_| answers.len() == 1);
                let own = odd.map_or(&case.common, |(_, own)| own);
                let loss = own.loss.build().expect("every rank has built it");
                assert_forward(&loss, forward, samples, classes);
            }
            Err(error) => assert_readable(error),
        }
        assert!(!built || format!("{answer:?}") == first, "{answer:?} beside {first}");
    }
}

fn one_rank<F: Working>(
    case: &Case,
    own: &Own,
    inputs: &Inputs<'_, F>,
    (collective, rank, size): (ThreadCollective, usize, usize),
) -> Result<Forward<F>, Error> {
    let loss: Box<dyn MarginLoss> = own.loss.build()?;
    let mut range = class_range(inputs.classes, rank, size);
    if own.shifted >= 250 {
        range.end = range.end.saturating_sub(1).max(range.start);
    }
    let sample = match own.sampling {
        Some((rate, corrected)) => {
            let sampler = ClassSampler::for_range(range.clone(), rate.value().abs(), 1)?;
            Some(sampler.with_correction(corrected).sample(inputs.labels)?)
        }
        None => None,
    };
    let held = range.start * inputs.k..range.end * inputs.k;
    let mut x = inputs.x.to_owned();
    if let (Some(number), Some(first)) = (own.spoiled, x.first_mut()) {
        *first = F::of(number.value());
    }
    let w = inputs.w.slice(s![held.clone(), ..]);
    let bias = inputs.bias.map(|bias| bias.slice(s![held]));
    let mut batch = Batch::new(&x, &w, inputs.labels)
        .with_sub_centers(inputs.k)
        .with_first_row(usize::from(own.first_row / 250));
    if let Some(bias) = &bias {
        batch = batch.with_bias(bias);
    }
    if own.ignored {
        batch = batch.with_ignored_label(IGNORED);
    }
    if let Some(sample) = &sample {
        batch = batch.with_sample(sample);
    }
    let zero = if own.skip { ZeroEmbedding::Skip } else { ZeroEmbedding::Error };
    let precision = if own.rounded { Precision::Bf16 } else { Precision::Full };
    let head = Head::on_ranks(loss, collective, range);
    let head = head.with_zero_embeddings(zero).with_precision(precision);
    let mut gradients = match own.embeddings_only {
        true => Gradients::embeddings_only(&batch),
        false => Gradients::zeros_for(&batch),
    };
    gradients.embeddings.fill(F::of(UNTOUCHED));
    gradients.weights.fill(F::of(UNTOUCHED));
    let upstream = case.reduce.weights(inputs.labels.len());
    let reduction = case.reduce.with(upstream.as_ref());
    let forward = head.forward_backward(&batch, reduction, &mut gradients);
    assert_written(forward.is_ok(), "gradient of the embeddings", &gradients.embeddings);
    assert_written(forward.is_ok(), "gradient of the class weights", &gradients.weights);
    forward
}

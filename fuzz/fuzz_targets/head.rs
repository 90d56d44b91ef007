//! The tiled engine: forward, backward, sampled classes and inference.
#![no_main]

use arbitrary::Arbitrary;
use libfuzzer_sys::fuzz_target;
use margin_softmax::sampling::{ClassSample, ClassSampler};
use margin_softmax::{Batch, Error, Forward, Gradients, Head, IGNORED, MarginLoss, ZeroEmbedding};
use margin_softmax_fuzz::{
    Labels, Loss, Matrix, Number, Reduce, UNTOUCHED, Vector, Working, assert_forward,
    assert_readable, assert_written,
};
use ndarray::{Array1, Array2, ArrayView2};

#[derive(Debug, Arbitrary)]
struct Case {
    wide: bool,
    samples: u8,
    dims: u8,
    classes: u16,
    /// Rows of class weights for each class.
    sub_centers: u8,
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
    /// From 249 on: gradients of one side only, or of other shapes.
    misfit: u8,
    sampling: Sampling,
}

#[derive(Debug, Arbitrary)]
struct Sampling {
    rate: Number,
    seed: u64,
    correction: bool,
    /// A modification of the class sample before the step.
    classes: Vec<(u8, u16)>,
    labels: Vec<(u8, u64)>,
}

/// What a batch is made of, and how many classes it has.
struct Step<'a, F> {
    case: &'a Case,
    x: ArrayView2<'a, F>,
    w: ArrayView2<'a, F>,
    bias: Option<&'a Array1<F>>,
    labels: &'a [usize],
    classes: usize,
    k: usize,
}

fuzz_target!(|case: Case| {
    let result = if case.wide { check::<f64>(&case) } else { check::<f32>(&case) };
    if let Err(error) = result {
        assert_readable(&error);
    }
});

fn check<F: Working>(case: &Case) -> Result<(), Error> {
    let (samples, dims) = (usize::from(case.samples % 80), usize::from(case.dims % 24));
    let classes = usize::from(case.classes % 600);
    let k = usize::from(case.sub_centers % 5);
    let rows = classes * k + usize::from(case.sub_centers / 250);
    let classes = rows / k.max(1);
    let (x, w) = (case.x.fill::<F>(samples, dims), case.w.fill::<F>(rows, dims));
    let labels = case.labels.fill(samples, classes);
    let bias = case.bias.as_ref().map(|bias| bias.fill::<F>(rows));
    let zero = if case.skip { ZeroEmbedding::Skip } else { ZeroEmbedding::Error };
    let head = Head::new(case.loss.build()?)
        .with_memory_budget(case.budget as usize)
        .with_zero_embeddings(zero);

    let (x, w, bias) = (x.view(), w.view(), bias.as_ref());
    let step = Step { case, x, w, bias, labels: &labels, classes, k };

    if let Ok(nearest) = head.predict(&step.of(Batch::unlabeled(&step.x, &step.w))) {
        assert_eq!(nearest.len(), samples);
        let left_out = |class: usize| case.skip && class == IGNORED;
        assert!(nearest.iter().all(|&class| class < classes || left_out(class)));
    }
    let forward = head.forward(&step.batch());
    if let Ok(forward) = &forward {
        assert_forward(head.loss(), forward, samples, classes);
    }
    let whole = step.whole(&head);
    // Forward alone returns an error where the gradients of the summed losses would overflow.
    if let (Ok(whole), Ok(forward)) = (&whole, &forward) {
        assert_eq!(whole, forward, "a step has the losses of forward");
    }
    step.sampled(&head)?;
    forward.and(whole).map(drop)
}

impl<F: Working> Step<'_, F> {
    fn batch(&self) -> Batch<'_, F> {
        let batch = self.of(Batch::new(&self.x, &self.w, self.labels));
        match self.case.ignored {
            Some(label) => batch.with_ignored_label(usize::from(label)),
            None => batch,
        }
    }

    /// `batch` with the sub-centers, and the bias if there is one.
    fn of<'b>(&'b self, batch: Batch<'b, F>) -> Batch<'b, F> {
        let batch = batch.with_sub_centers(self.k);
        self.bias.map_or(batch, |bias| batch.with_bias(bias))
    }

    /// Forward and backward over all classes.
    fn whole<L: MarginLoss>(&self, head: &Head<L>) -> Result<Forward<F>, Error> {
        let batch = self.batch();
        let mut gradients = match self.case.misfit {
            249 => Gradients::embeddings_only(&batch),
            250 => Gradients::weights_only(&batch),
            _ => Gradients::zeros_for(&batch),
        };
        match self.case.misfit {
            251 => gradients.embeddings = Array2::zeros((1, 1)),
            252 => gradients.weights = Array2::zeros((1, 3)),
            253 => gradients.bias = Some(Array1::zeros(1)),
            254 => gradients.bias = None,
            _ => {}
        }
        let Gradients { embeddings, weights, bias, .. } = &mut gradients;
        fill(embeddings, weights, bias);
        let upstream = self.case.reduce.weights(self.labels.len());
        let reduction = self.case.reduce.with(upstream.as_ref());
        let forward = head.forward_backward(&batch, reduction, &mut gradients);
        let Gradients { embeddings, weights, bias, .. } = &gradients;
        assert_all(forward.is_ok(), embeddings, weights, bias);
        forward
    }

    /// Forward and backward over a sample of the classes, which may be modified.
    fn sampled<L: MarginLoss>(&self, head: &Head<L>) -> Result<(), Error> {
        let sample = self.draw()?;
        let batch = self.batch().with_sample(&sample);
        let mut gradients = match self.case.misfit {
            251.. => Gradients::zeros_for(&self.batch()),
            _ => Gradients::zeros_for(&batch),
        };
        let Gradients { embeddings, weights, bias, .. } = &mut gradients;
        fill(embeddings, weights, bias);
        let upstream = self.case.reduce.weights(self.labels.len());
        let reduction = self.case.reduce.with(upstream.as_ref());
        let forward = head.forward_backward(&batch, reduction, &mut gradients);
        let Gradients { embeddings, weights, bias, .. } = &gradients;
        assert_all(forward.is_ok(), embeddings, weights, bias);
        assert_forward(head.loss(), &forward?, self.labels.len(), self.classes);
        assert_eq!(weights.nrows(), sample.classes.len() * self.k);
        Ok(())
    }

    fn draw(&self) -> Result<ClassSample, Error> {
        let Sampling { rate, seed, correction, classes, labels } = &self.case.sampling;
        let sampler = ClassSampler::new(self.classes, rate.value().abs(), *seed)?;
        let mut sample = sampler.with_correction(*correction).sample(self.labels)?;
        for &(place, class) in classes {
            match sample.classes.get_mut(usize::from(place)) {
                Some(entry) => *entry = usize::from(class),
                None => sample.classes.push(usize::from(class)),
            }
        }
        for &(place, label) in labels {
            match sample.labels.get_mut(usize::from(place)) {
                Some(entry) => *entry = label as usize,
                None => sample.labels.push(label as usize),
            }
        }
        Ok(sample)
    }
}

fn fill<F: Working>(
    embeddings: &mut Array2<F>,
    weights: &mut Array2<F>,
    bias: &mut Option<Array1<F>>,
) {
    let entries = embeddings.iter_mut().chain(weights).chain(bias.iter_mut().flatten());
    entries.for_each(|entry| *entry = F::of(UNTOUCHED));
}

fn assert_all<F: Working>(
    succeeded: bool,
    embeddings: &Array2<F>,
    weights: &Array2<F>,
    bias: &Option<Array1<F>>,
) {
    assert_written(succeeded, "gradient of the embeddings", embeddings);
    assert_written(succeeded, "gradient of the class weights", weights);
    assert_written(succeeded, "gradient of the bias", bias.iter().flatten());
}

//! Every way into the crate that a mixed case can take.

use std::ops::Range;

use margin_softmax::ranks::Collective;
use margin_softmax::sampling::ClassSample;
use margin_softmax::update::WeightUpdate;
use margin_softmax::{
    AdamW, Batch, BatchMut, Gradients, Head, IGNORED, MarginLoss, NormalizedLogits, Precision,
    Real, Reduction, Scale, Sgd, ZeroEmbedding,
};
use ndarray::{Array1, Array2, ArrayView1, Axis, concatenate, s};

use super::Found;
use super::draw::{Case, Reduced};
use crate::common::compare::{bits, norm};
use crate::common::golden::{narrow1, narrow2};
use crate::common::layout::lay_out;
use crate::common::ranks::{even, on_ranks};
use crate::offload::{Over, offloaded};

/// What one way in found, and what is added to the logits of the classes that were active there.
pub struct Entrance<F> {
    pub name: &'static str,
    pub found: Found<F>,
    pub offsets: Vec<Option<f64>>,
    pub precision: Precision,
}

/// The numbers of a case in its number type, in its layouts.
struct Inputs<F> {
    x: Array2<F>,
    w: Array2<F>,
    bias: Option<Array1<F>>,
    log_prior: Option<Array1<F>>,
    weights: Array1<F>,
}

impl<F: Real> Inputs<F> {
    fn new(case: &Case) -> Self {
        let [x, w] = case.layouts[0];
        let weights = match &case.reduction {
            Reduced::Weighted(weights) => narrow1(weights.clone()),
            Reduced::Mean | Reduced::Sum => Array1::zeros(0),
        };
        Inputs {
            x: lay_out(&narrow2(case.x.clone()), x),
            w: lay_out(&narrow2(case.w.clone()), w),
            bias: case.bias.clone().map(narrow1),
            log_prior: case.log_prior.clone().map(narrow1),
            weights,
        }
    }

    fn reduction(&self, case: &Case) -> Reduction<'_, F> {
        match case.reduction {
            Reduced::Mean => Reduction::Mean,
            Reduced::Sum => Reduction::Sum,
            Reduced::Weighted(_) => Reduction::Weighted(&self.weights),
        }
    }
}

fn settings<L: MarginLoss, C>(head: Head<L, C>, case: &Case) -> Head<L, C> {
    head.with_memory_budget(case.budget)
        .with_precision(case.precision)
        .with_zero_embeddings(ZeroEmbedding::Skip)
}

/// Rows of class weights that a gradient is of.
fn rows(sample: Option<&ClassSample>, range: &Range<usize>, k: usize) -> Vec<usize> {
    let first = range.start * k;
    match sample {
        Some(sample) => sample.rows(k).into_iter().map(|row| first + row).collect(),
        None => (first..range.end * k).collect(),
    }
}

/// Gradients as a caller hands them over: in layouts of their own, full of NaN.
fn spoiled<F: Real>(batch: &Batch<'_, F>, case: &Case) -> Gradients<F> {
    let mut gradients = Gradients::zeros_for(batch);
    let [x, w] = case.layouts[1];
    gradients.embeddings.fill(F::nan());
    gradients.weights.fill(F::nan());
    gradients.embeddings = lay_out(&gradients.embeddings, x);
    gradients.weights = lay_out(&gradients.weights, w);
    gradients
}

/// Losses and gradients of one head, and with them the fused step, which must have their bits.
fn by_head<F: Real, L: MarginLoss, C: Collective<F>>(
    head: &Head<L, C>,
    case: &Case,
    inputs: &Inputs<F>,
    range: &Range<usize>,
) -> (Found<F>, Vec<Option<f64>>) {
    let (sample, offsets) = case.sample(range);
    let held = range.start * case.k..range.end * case.k;
    let w = inputs.w.slice(s![held.clone(), ..]);
    let bias = inputs.bias.as_ref().map(|bias| bias.slice(s![held.clone()]));
    let mut batch = Batch::new(&inputs.x, &w, &case.labels)
        .with_sub_centers(case.k)
        .with_ignored_label(IGNORED)
        .with_first_row(case.first_row);
    if let Some(bias) = &bias {
        batch = batch.with_bias(bias);
    }
    let prior = inputs.log_prior.as_ref().map(|prior| prior.slice(s![range.clone()]));
    if let Some(prior) = &prior {
        batch = batch.with_log_prior(prior);
    }
    if let Some(sample) = &sample {
        batch = batch.with_sample(sample);
    }
    let without = head.forward(&batch).unwrap();
    let mut gradients = spoiled(&batch, case);
    let reduction = inputs.reduction(case);
    let forward = head.forward_backward(&batch, reduction, &mut gradients).unwrap();
    assert!(forward == without, "{case:?}: forward differs without gradients");
    let of = Held {
        sample: sample.as_ref(),
        w: w.to_owned(),
        bias: bias.map(|bias| bias.to_owned()),
        log_prior: prior,
    };
    if case.adamw {
        fused(head, case, inputs, of, &gradients, AdamW::<F>::new(0.01).unwrap());
    } else {
        let momentum = Sgd::<F>::new(0.01).unwrap().with_momentum(0.9).unwrap();
        fused(head, case, inputs, of, &gradients, momentum.with_weight_decay(0.01).unwrap());
    }
    let rows = rows(sample.as_ref(), range, case.k);
    let Gradients { embeddings, weights, bias, .. } = gradients;
    (Found { forward, dx: embeddings, dw: weights, db: bias, rows }, offsets)
}

/// The classes that a head holds, and those of them that are active.
struct Held<'a, F> {
    sample: Option<&'a ClassSample>,
    w: Array2<F>,
    bias: Option<Array1<F>>,
    log_prior: Option<ArrayView1<'a, F>>,
}

fn fused<F: Real, L: MarginLoss, C: Collective<F>, U: WeightUpdate<F> + Clone + PartialEq>(
    head: &Head<L, C>,
    case: &Case,
    inputs: &Inputs<F>,
    Held { sample, w, bias, log_prior }: Held<'_, F>,
    gradients: &Gradients<F>,
    update: U,
) {
    let (mut separate, mut moved, mut state) = (w.clone(), w, update.clone());
    let (mut separate_bias, mut moved_bias) = (bias.clone(), bias);
    let mut dx = lay_out(&Array2::from_elem(inputs.x.dim(), F::nan()), case.layouts[1][0]);
    let mut batch = BatchMut::new(&inputs.x, &mut moved, &case.labels)
        .with_sub_centers(case.k)
        .with_ignored_label(IGNORED)
        .with_first_row(case.first_row);
    if let Some(bias) = &mut moved_bias {
        batch = batch.with_bias(bias);
    }
    if let Some(prior) = &log_prior {
        batch = batch.with_log_prior(prior);
    }
    if let Some(sample) = sample {
        batch = batch.with_sample(sample);
    }
    head.step(&mut batch, inputs.reduction(case), &mut state, &mut dx).unwrap();
    let mut update = update;
    match sample.map(|sample| sample.rows(case.k)) {
        Some(rows) => {
            update.apply_rows(&mut separate, &rows, &gradients.weights).unwrap();
            if let (Some(bias), Some(gradient)) = (&mut separate_bias, &gradients.bias) {
                update.apply_bias_rows(bias, &rows, gradient).unwrap();
            }
        }
        None => {
            update.apply(&mut separate, &gradients.weights).unwrap();
            if let (Some(bias), Some(gradient)) = (&mut separate_bias, &gradients.bias) {
                update.apply_bias(bias, gradient).unwrap();
            }
        }
    }
    assert_eq!(bits(&dx), bits(&gradients.embeddings), "{case:?}: dx of the fused step");
    assert_eq!(bits(&moved), bits(&separate), "{case:?}: fused class weights");
    assert_eq!(moved_bias, separate_bias, "{case:?}: fused bias");
    assert!(state == update, "{case:?}: state of the fused step");
}

fn by_ranks<F: Real>(case: &Case, inputs: &Inputs<F>) -> Entrance<F> {
    let loss = &*case.loss;
    let mut parts = on_ranks(&even(case.classes(), case.ranks), |collective, range| {
        let head = settings(Head::on_ranks(loss, collective, range.clone()), case);
        by_head(&head, case, inputs, &range)
    });
    let dw: Vec<_> = parts.iter().map(|(found, _)| found.dw.view()).collect();
    let dw = concatenate(Axis(0), &dw).unwrap();
    let db: Option<Vec<_>> = parts.iter().map(|(f, _)| f.db.as_ref().map(|b| b.view())).collect();
    let db = db.map(|db| concatenate(Axis(0), &db).unwrap());
    let rows = parts.iter().flat_map(|(found, _)| found.rows.clone()).collect();
    let offsets = parts.iter().flat_map(|(_, offsets)| offsets.clone()).collect();
    for (found, _) in &parts[1..] {
        let same = found.forward == parts[0].0.forward && found.dx == parts[0].0.dx;
        assert!(same, "{case:?}: ranks differ");
    }
    let Found { forward, dx, .. } = parts.swap_remove(0).0;
    let found = Found { forward, dx, dw, db, rows };
    Entrance { name: "ranks", found, offsets, precision: case.precision }
}

fn by_offload<F: Real>(case: &Case, inputs: &Inputs<F>) -> Entrance<F> {
    let all = 0..case.classes();
    let (sample, offsets) = case.sample(&all);
    let head = settings(Head::new(&*case.loss), case);
    let over =
        Over { labels: &case.labels, ignored: Some(IGNORED), k: case.k, sample: sample.as_ref() };
    let arrays = (&inputs.x, &inputs.w, inputs.bias.as_ref());
    let reduction = inputs.reduction(case);
    let (forward, dx, dw, db) =
        offloaded(&head, arrays, over, inputs.log_prior.as_ref(), reduction).unwrap();
    let rows = rows(sample.as_ref(), &all, case.k);
    let db = inputs.bias.is_some().then_some(db);
    let found = Found { forward, dx, dw, db, rows };
    Entrance { name: "offload", found, offsets, precision: Precision::Full }
}

fn by_logits<F: Real>(case: &Case, inputs: &Inputs<F>) -> Entrance<F> {
    let loss = &*case.loss;
    let labels = case.labels.iter().zip(&case.counted);
    let labels: Vec<usize> =
        labels.map(|(&label, &counted)| if counted { label } else { IGNORED }).collect();
    let logits = NormalizedLogits::new(&inputs.x, &inputs.w).unwrap();
    let logits = logits.with_sub_centers(case.k).unwrap().with_ignored_label(IGNORED);
    let mut logits = logits.with_first_row(case.first_row);
    if let Some(bias) = &inputs.bias {
        logits = logits.with_bias(bias).unwrap();
    }
    if let Some(prior) = &inputs.log_prior {
        logits = logits.with_log_prior(prior).unwrap();
    }
    let forward = MarginLoss::forward(&loss, &logits, &labels).unwrap();
    let reduction = inputs.reduction(case);
    let by_logit = MarginLoss::backward(&loss, &logits, &labels, &forward, reduction).unwrap();
    let Gradients { embeddings, weights, bias, .. } = logits.backward(&by_logit).unwrap();
    let rows = (0..case.w.nrows()).collect();
    let found = Found { forward, dx: embeddings, dw: weights, db: bias, rows };
    let offsets = vec![Some(0.0); case.classes()];
    Entrance { name: "logits", found, offsets, precision: Precision::Full }
}

/// Every entrance that takes the case.
pub fn all<F: Real>(case: &Case) -> Vec<Entrance<F>> {
    let (inputs, all) = (Inputs::<F>::new(case), 0..case.classes());
    let head = settings(Head::new(&*case.loss), case);
    let name = match (&case.sampling, case.adamw) {
        (Some(_), _) => "sampled",
        (None, true) => "whole, AdamW",
        (None, false) => "whole, SGD",
    };
    let mut entrances = Vec::new();
    for head in head.at_every_level() {
        let (found, offsets) = by_head(&head, case, &inputs, &all);
        entrances.push(Entrance { name, found, offsets, precision: case.precision });
    }
    entrances.push(by_ranks(case, &inputs));
    // Gradients of logits that are too small for `F` are lost on the way to a device and back: those of
    // embeddings so short show it.
    let least = F::min_positive_value().to_f64().unwrap_or(0.0).sqrt();
    let shown = case.x.rows().into_iter().all(|x| norm(x) > least || norm(x) == 0.0);
    if case.first_row == 0 && case.precision == Precision::Full && shown {
        entrances.push(by_offload(case, &inputs));
    }
    let unnormalized = case.loss.scale() == Scale::Unnormalized;
    if case.sampling.is_none() && !(unnormalized && case.k > 1) {
        entrances.push(by_logits(case, &inputs));
    }
    entrances
}

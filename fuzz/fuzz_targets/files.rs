//! Files that a stranger wrote: what is read is refused, or works as what was built.
#![no_main]

use arbitrary::Arbitrary;
use libfuzzer_sys::fuzz_target;
use margin_softmax::config::LossConfig;
use margin_softmax::sampling::ClassSampler;
use margin_softmax::schedule::{LambdaAnnealing, MarginWarmup};
use margin_softmax::update::WeightUpdate;
use margin_softmax::{
    AdamW, Batch, BatchMut, Gradients, Head, InterclassFilter, LabelSmoothing, Reduction, Sgd,
};
use margin_softmax_fuzz::{Number, Working, assert_finite, assert_forward, assert_readable};
use ndarray::{Array1, Array2, array};
use serde_json::Value;

#[derive(Debug, Arbitrary)]
struct Case {
    what: u8,
    /// Edits of a file that was written; without any, `text` is read as it is.
    edits: Vec<(u16, Leaf)>,
    text: String,
}

/// What takes the place of an entry of a file.
#[derive(Debug, Arbitrary)]
enum Leaf {
    Null,
    Bool(bool),
    Natural(u64),
    Integer(i64),
    Number(Number),
    Text(String),
    List(Vec<u64>),
}

impl From<&Leaf> for Value {
    fn from(leaf: &Leaf) -> Self {
        match leaf {
            Leaf::Null => Value::Null,
            Leaf::Bool(value) => (*value).into(),
            Leaf::Natural(value) => (*value).into(),
            Leaf::Integer(value) => (*value).into(),
            Leaf::Number(value) => value.value().into(),
            Leaf::Text(value) => value.clone().into(),
            Leaf::List(values) => values.clone().into(),
        }
    }
}

fuzz_target!(|case: Case| {
    match case.what % 8 {
        0 => loss(&case, LossConfig::ArcFace(Default::default())),
        1 => {
            let filter =
                InterclassFilter::new(Box::new(LossConfig::AdaFace(Default::default())), 0.4);
            let filter = LossConfig::InterclassFilter(filter.expect("in range"));
            let smoothed = LabelSmoothing::new(Box::new(filter), 0.1).expect("in range");
            loss(&case, LossConfig::LabelSmoothing(smoothed));
        }
        2 => sampler(&case),
        3 => schedules(&case),
        4 => update(&case, Sgd::<f32>::new(0.1).and_then(|sgd| sgd.with_momentum(0.9))),
        5 => update(&case, Sgd::<f64>::new(0.1).and_then(|sgd| sgd.with_momentum(0.9))),
        6 => update(&case, AdamW::<f32>::new(0.1)),
        _ => update(&case, AdamW::<f64>::new(0.1)),
    }
});

/// The file of a value after the edits, or the text of the case, as it is read.
fn read<T: serde::Serialize + serde::de::DeserializeOwned>(case: &Case, value: &T) -> Option<T> {
    if case.edits.is_empty() {
        return serde_json::from_str(&case.text).ok();
    }
    let mut file = serde_json::to_value(value).expect("written");
    for (at, leaf) in &case.edits {
        let leaves = count(&file);
        if leaves > 0 {
            replace(&mut file, &mut (usize::from(*at) % leaves), leaf);
        }
    }
    serde_json::from_value(file).ok()
}

fn count(value: &Value) -> usize {
    match value {
        Value::Object(entries) if !entries.is_empty() => entries.values().map(count).sum(),
        Value::Array(entries) if !entries.is_empty() => entries.iter().map(count).sum(),
        _ => 1,
    }
}

fn replace(value: &mut Value, skipped: &mut usize, leaf: &Leaf) -> bool {
    let mut entries: Box<dyn Iterator<Item = &mut Value>> = match value {
        Value::Object(entries) if !entries.is_empty() => Box::new(entries.values_mut()),
        Value::Array(entries) if !entries.is_empty() => Box::new(entries.iter_mut()),
        _ if *skipped == 0 => {
            *value = leaf.into();
            return true;
        }
        _ => {
            *skipped -= 1;
            return false;
        }
    };
    entries.any(|entry| replace(entry, skipped, leaf))
}

fn inputs() -> (Array2<f64>, Array2<f64>) {
    (array![[0.9, 0.1], [-0.2, 30.0]], array![[1.0, 0.2], [0.3, 1.0], [-0.5, 0.4]])
}

fn loss(case: &Case, written: LossConfig) {
    let Some(config) = read(case, &written) else { return };
    let (x, w) = inputs();
    let batch = Batch::new(&x, &w, &[0, 2]);
    let mut gradients = Gradients::zeros_for(&batch);
    let head = Head::new(config.build());
    match head.forward_backward(&batch, Reduction::Mean, &mut gradients) {
        Ok(forward) => {
            assert_forward(head.loss(), &forward, 2, 3);
            assert_finite("gradient of the embeddings", &gradients.embeddings);
            assert_finite("gradient of the class weights", &gradients.weights);
        }
        Err(error) => assert_readable(&error),
    }
}

fn sampler(case: &Case) {
    let written = ClassSampler::new(50, 0.3, 7).expect("in range").with_correction(true);
    let Some(mut sampler) = read(case, &written) else { return };
    // More classes than a fuzzer has time for are drawn from, not drawn.
    if sampler.range().len() as f64 * sampler.rate() > 1e6 {
        return;
    }
    match sampler.sample(&[sampler.range().start, 3]) {
        Ok(sample) => assert!(sample.classes.is_sorted() && sample.correction().is_finite()),
        Err(error) => assert_readable(&error),
    }
}

fn schedules(case: &Case) {
    if let Some(annealing) = read(case, &LambdaAnnealing::default()) {
        for step in [0, 1, 1000, usize::MAX] {
            assert!(annealing.at(step).is_finite() && annealing.at(step) >= 0.0);
        }
    }
    let written = MarginWarmup::new(0.5, 100).expect("in range");
    if let Some(warmup) = read(case, &written) {
        for step in [0, 1, 50, 1000, usize::MAX] {
            assert!(warmup.at(step).is_finite());
        }
    }
}

fn update<F, U>(case: &Case, written: Result<U, margin_softmax::Error>)
where
    F: Working,
    U: WeightUpdate<F> + Clone + PartialEq + serde::Serialize + serde::de::DeserializeOwned,
{
    let (x, w) = inputs();
    let [x, mut w] = [x, w].map(|numbers| numbers.mapv(F::of));
    let (mut b, mut update) = (Array1::zeros(3), written.expect("in range"));
    let gradient = w.mapv(|v| v * F::of(0.1));
    update.apply(&mut w, &gradient).expect("small numbers");
    update.apply_bias(&mut b, &gradient.column(0).to_owned()).expect("small numbers");
    let Some(mut read) = read(case, &update) else { return };
    let before = (w.clone(), read.clone());
    match read.apply(&mut w, &gradient) {
        Ok(()) => assert_finite("class weights", &w),
        Err(error) => {
            assert_readable(&error);
            assert!(w == before.0 && read == before.1, "a refused update moved");
        }
    }
    let (head, mut dx) = (Head::new(margin_softmax::Softmax::new()), Array2::zeros(x.dim()));
    let mut batch = BatchMut::new(&x, &mut w, &[0, 2]).with_bias(&mut b);
    match head.step(&mut batch, Reduction::Mean, &mut read, &mut dx) {
        Ok(forward) => assert_forward(head.loss(), &forward, 2, 3),
        Err(error) => assert_readable(&error),
    }
    assert_finite("class weights", &w);
    assert_finite("bias", &b);
}

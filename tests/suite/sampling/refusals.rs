//! Samplers, states and samples that cannot be are refused.

use super::*;

#[test]
fn bad_samplers_and_labels_are_refused() {
    for rate in [0.0, -0.1, 1.0 + 1e-9, f64::NAN, f64::INFINITY] {
        let refused = ClassSampler::new(10, rate, 0).unwrap_err();
        assert!(matches!(refused, Error::Parameter { parameter: "sampling rate", .. }), "{rate}");
        let state = SamplerState { rate, ..ClassSampler::new(10, 0.5, 0).unwrap().state() };
        assert!(ClassSampler::from_state(state).is_err());
    }
    assert!(matches!(ClassSampler::new(0, 0.5, 0), Err(Error::Empty { .. })));
    let mut sampler = ClassSampler::new(10, 0.5, 0).unwrap();
    let before = sampler.state();
    let refused = sampler.sample(&[3, 10]).unwrap_err();
    assert_eq!(refused, Error::Label { row: 1, label: 10, classes: 10 });
    assert_eq!(sampler.state(), before);
}

#[test]
fn states_of_no_sampler_are_refused() {
    let state = ClassSampler::new(9, 0.5, 1).unwrap().state();
    let read = |range, whole| {
        ClassSampler::from_state(SamplerState { range, whole, ..state.clone() }).is_ok()
    };
    assert!(read(0..9, true) && read(5..9, false) && read(0..0, false) && read(5..5, false));
    let reversed = std::ops::Range { start: 9, end: 5 };
    assert!(!read(5..9, true) && !read(0..0, true) && !read(reversed, false));
}

#[test]
fn chosen_classes_that_cannot_be_are_refused() {
    let refused = ClassSample::of([1, -1_isize as usize], &[0]).unwrap_err();
    assert_eq!(refused, Error::Sample { field: "classes", position: 1 });
    let refused = ClassSample::of([1], &[0, -100_isize as usize]).unwrap_err();
    assert_eq!(refused, Error::LabelValue { row: 1, label: -100 });
    // IGNORED adds no class.
    let sample = ClassSample::of([1], &[IGNORED, 0]).unwrap();
    assert_eq!((sample.classes, sample.labels), (vec![0, 1], vec![ClassSample::ABSENT, 0]));
    // What only the step knows.
    let problem = problem(5, (2, 3, 4), false);
    let (x, w) = (&problem.x, &problem.w);
    let head = Head::new(ArcFace::default());
    let beyond = ClassSample::of([7], &[0, 1]).unwrap();
    let refused = head.forward(&Batch::new(x, w, &[0, 1]).with_sample(&beyond)).unwrap_err();
    assert_eq!(refused, Error::Sample { field: "classes", position: 2 });
    assert_eq!(head.predict(&Batch::unlabeled(x, w).with_sample(&beyond)).unwrap_err(), refused);
    let other = ClassSample::of([3], &[0, 2]).unwrap();
    let refused = head.forward(&Batch::new(x, w, &[0, 1]).with_sample(&other)).unwrap_err();
    assert_eq!(refused, Error::Sample { field: "labels", position: 1 });
}

#[test]
fn a_sample_of_another_batch_is_refused_and_nothing_is_written() {
    let problem = problem(5, (6, 4, 40), false);
    let batch = Batch::new(&problem.x, &problem.w, &problem.labels);
    let mut sampler = ClassSampler::new(40, 0.5, 2).unwrap();
    let good = sampler.sample(&problem.labels).unwrap();
    let mut marked = Gradients::zeros_for(&batch);
    marked.embeddings = Array2::from_elem((6, 4), 7.0);
    marked.weights = Array2::from_elem((3, 3), 7.0);
    marked.bias = Some(Array1::zeros(1));
    let refuse = |sample: &ClassSample| {
        let mut gradients = marked.clone();
        let head = Head::new(Spec::Modified.build());
        let batch = Batch::new(&problem.x, &problem.w, &problem.labels).with_sample(sample);
        let answer = head.forward_backward(&batch, Reduction::Mean, &mut gradients);
        assert_eq!(gradients, marked);
        answer.unwrap_err()
    };
    let changed = |change: &dyn Fn(&mut ClassSample)| {
        let mut sample = good.clone();
        change(&mut sample);
        sample
    };
    assert_eq!(
        refuse(&changed(&|s| s.classes.swap(3, 4))),
        Error::Sample { field: "classes", position: 4 }
    );
    assert_eq!(
        refuse(&changed(&|s| s.classes[4] = s.classes[3])),
        Error::Sample { field: "classes", position: 4 }
    );
    assert_eq!(
        refuse(&changed(&|s| s.classes[19] = 40)),
        Error::Sample { field: "classes", position: 19 }
    );
    let shifted = |s: &mut ClassSample| s.labels[2] = (s.labels[2] + 1) % 20;
    assert_eq!(refuse(&changed(&shifted)), Error::Sample { field: "labels", position: 2 });
    let lost = |s: &mut ClassSample| s.labels[1] = ClassSample::ABSENT;
    assert_eq!(refuse(&changed(&lost)), Error::Sample { field: "labels", position: 1 });
    let short = changed(&|s| {
        s.labels.pop();
    });
    assert!(matches!(refuse(&short), Error::Shape { .. }));
    let mut other = ClassSampler::new(80, 0.5, 2).unwrap();
    let others = other.sample(&problem.labels).unwrap();
    assert!(matches!(refuse(&others), Error::Sample { .. }));
}

/// One gradient buffer through samples and batches of different sizes, with a bias and without.
#[test]
fn gradients_of_another_sample_are_refused_and_keep_their_values() {
    let problem = problem(6, (8, 3, 50), true);
    let inputs = problem.inputs::<f32>([Layout::Standard; 2]);
    let samples = [0.5, 0.9]
        .map(|rate| ClassSampler::new(50, rate, 1).unwrap().sample(&problem.labels).unwrap());
    let head = Head::new(Spec::Softmax.build());
    let mut gradients = Gradients::zeros_for(&inputs.batch().with_sample(&samples[0]));
    gradients.weights.fill(7.0);
    let kept = gradients.clone();
    let batch = inputs.batch();
    let other = batch.with_sample(&samples[1]);
    let refused = head.forward_backward(&other, Reduction::Mean, &mut gradients).unwrap_err();
    let [expected, actual] = samples.each_ref().map(|sample| vec![sample.classes.len(), 3]);
    let (expected, actual) = (actual, expected);
    let argument = "gradients of class weights";
    assert_eq!(refused, Error::Shape { argument, expected, actual });
    assert_eq!(gradients, kept);
}

/// A state that a stranger wrote may have any range.
#[test]
fn a_sample_beyond_any_memory_is_refused() {
    for (rate, range) in [(1.0, 0..usize::MAX), (0.5, 0..1 << 60), (0.9, 1 << 50..1 << 60)] {
        let state = ClassSampler::new(10, 0.5, 1).unwrap().state();
        let whole = range.start == 0;
        let state = SamplerState { rate, range, whole, ..state };
        let mut sampler = ClassSampler::from_state(state.clone()).unwrap();
        let refused = sampler.sample(&[1 << 55]).unwrap_err();
        let parameter = "number of sampled classes";
        assert!(matches!(refused, Error::Parameter { parameter: p, .. } if p == parameter));
        assert_eq!(sampler.state(), state);
    }
}

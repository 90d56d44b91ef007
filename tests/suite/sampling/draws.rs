//! What a sampler draws: the classes of the batch, its quota, and every set of others alike.

use super::*;

#[test]
fn a_sample_holds_every_class_of_the_batch_and_the_quota() {
    let mut rng = Rng::new(1);
    for turn in 0..3000 {
        let classes = 1 + rng.below(300);
        let rate = rng.uniform(0.0, 1.0).max(1e-3);
        let n = 1 + rng.below(40);
        let labels = rng.labels(n, classes);
        let mut sampler = ClassSampler::new(classes, rate, turn).unwrap();
        let sample = sampler.sample(&labels).unwrap();
        let quota = (classes as f64 * rate * (1.0 + f64::EPSILON)) as usize;
        let positives = sorted(&labels);
        assert_eq!(sample.classes.len(), quota.max(positives.len()));
        assert!(sample.classes.windows(2).all(|pair| pair[0] < pair[1]));
        assert!(sample.classes.iter().all(|&class| class < classes));
        let back: Vec<_> = sample.labels.iter().map(|&place| sample.classes[place]).collect();
        assert_eq!(back, labels);
    }
}

#[test]
fn a_share_that_is_a_whole_number_of_classes_loses_none_to_rounding() {
    for percent in 1..=100 {
        let rate = f64::from(percent) / 100.0;
        let sample = ClassSampler::new(100, rate, 1).unwrap().sample(&[5]).unwrap();
        assert_eq!(sample.classes.len(), percent as usize, "{rate}");
    }
}

#[test]
fn rate_one_is_all_classes() {
    let sample = ClassSampler::new(50, 1.0, 9).unwrap().sample(&[3, 49]).unwrap();
    assert_eq!(sample.classes, (0..50).collect::<Vec<_>>());
    assert_eq!(sample.labels, [3, 49]);
}

/// A seed means the same draws in every version: runs are resumed across them.
#[test]
fn draws_of_a_seed_stay_what_they_are() {
    let mut sampler = ClassSampler::new(11, 0.5, 42).unwrap();
    let expected = [
        [0, 2, 3, 5, 7],
        [0, 2, 3, 4, 5],
        [0, 2, 3, 5, 9],
        [0, 1, 3, 5, 7],
        [0, 3, 5, 6, 9],
        [0, 2, 3, 4, 5],
    ];
    for expected in expected {
        assert_eq!(sampler.sample(&[3, 0]).unwrap().classes, expected);
    }
    let mut sampler = ClassSampler::new(9, 0.8, 42).unwrap();
    assert_eq!(sampler.sample(&[4]).unwrap().classes, [0, 2, 3, 4, 6, 7, 8]);
}

#[test]
fn a_small_share_of_very_many_classes_is_drawn_at_once() {
    let sample = ClassSampler::new(1 << 40, 1e-9, 7).unwrap().sample(&[1 << 39]).unwrap();
    assert_eq!(sample.classes.len(), 1099);
    assert_eq!(sample.classes[sample.labels[0]], 1 << 39);
}

#[test]
fn a_batch_of_all_classes_needs_no_correction() {
    let mut sampler = ClassSampler::new(3, 0.5, 1).unwrap().with_correction(true);
    assert_eq!(sampler.sample(&[2, 0, 1]).unwrap().correction(), 0.0);
}

/// Every set of k others out of 7 is equally likely, by the χ² of their counts.
#[test]
fn every_set_of_others_is_equally_likely() {
    for (rate, sets) in [(0.25, 7), (0.375, 21), (0.5, 35), (0.625, 35), (0.875, 7)] {
        let mut sampler = ClassSampler::new(8, rate, 3).unwrap();
        let mut counts = HashMap::<Vec<usize>, usize>::new();
        for _ in 0..1000 * sets {
            *counts.entry(sampler.sample(&[4]).unwrap().classes).or_default() += 1;
        }
        assert_eq!(counts.len(), sets, "rate {rate}");
        let chi: f64 = counts.values().map(|&n| (n as f64 - 1000.0).powi(2) / 1000.0).sum();
        let freedom = sets as f64 - 1.0;
        assert!((chi - freedom).abs() < 4.0 * (2.0 * freedom).sqrt(), "χ² {chi} of {freedom}");
    }
}

#[test]
fn a_resumed_sampler_draws_on_as_if_it_had_never_stopped() {
    let mut one = ClassSampler::new(1000, 0.1, 5).unwrap().with_correction(true);
    let mut rng = Rng::new(2);
    for _ in 0..20 {
        let mut resumed = ClassSampler::from_state(one.state()).unwrap();
        let labels = rng.labels(30, 1000);
        assert_eq!(resumed.sample(&labels), one.sample(&labels));
        assert_eq!(resumed.state(), one.state());
    }
    let labels = [1, 2, 3];
    let other = ClassSampler::new(1000, 0.1, 6).unwrap().sample(&labels);
    let first = ClassSampler::new(1000, 0.1, 5).unwrap().sample(&labels);
    assert_eq!(first, ClassSampler::new(1000, 0.1, 5).unwrap().sample(&labels));
    assert_ne!(first, other);
    assert_ne!(one.sample(&labels), one.sample(&labels));
}

/// Ranks draw from their own classes; together their samples hold the whole batch.
#[test]
fn samplers_of_ranges_pass_over_labels_elsewhere() {
    let labels = [4, 19, 4, 11];
    let ranges = [0..7, 7..7, 7..12, 12..20];
    let mut seen = Array1::from_elem(4, 0);
    let mut drawn = vec![];
    for range in ranges {
        let start = range.start;
        let mut sampler = ClassSampler::for_range(range.clone(), 0.5, 3).unwrap();
        assert_eq!(sampler.range(), range);
        let sample = sampler.sample(&labels).unwrap();
        assert!(sample.classes.iter().all(|&row| row < range.len()));
        assert_eq!(sample.classes.len(), range.len() / 2);
        for (i, &place) in sample.labels.iter().enumerate() {
            if place != ClassSample::ABSENT {
                assert_eq!(start + sample.classes[place], labels[i]);
                seen[i] += 1;
            }
        }
        drawn.push(Array1::from(sample.classes));
    }
    assert_eq!(seen, Array1::from_elem(4, 1));
    let all = drawn.iter().map(|rows| rows.view()).collect::<Vec<_>>();
    assert_eq!(concatenate(Axis(0), &all).unwrap().len(), 9);
}

//! What is written comes back bit for bit, its state included.

use super::*;

#[test]
fn every_loss_comes_back_bit_for_bit() {
    for config in losses() {
        for read in [through_json(&config), through_toml(&config), through_cbor(&config)] {
            assert_same(&read, &config);
        }
        match &config {
            LossConfig::Softmax(loss) => assert_comes_back(loss),
            LossConfig::ModifiedSoftmax(loss) => assert_comes_back(loss),
            LossConfig::SphereFace(loss) => assert_comes_back(loss),
            LossConfig::FNormSphereFace(loss) => assert_comes_back(loss),
            LossConfig::CosFace(loss) => assert_comes_back(loss),
            LossConfig::ArcFace(loss) => assert_comes_back(loss),
            LossConfig::Generalized(loss) => assert_comes_back(loss),
            other => panic!("{other:?} is not in the list"),
        }
    }
}

#[test]
fn every_loss_of_the_wider_family_comes_back_with_its_state_bit_for_bit() {
    for config in wider_losses() {
        for read in [through_json(&config), through_toml(&config), through_cbor(&config)] {
            assert_same(&read, &config);
        }
        match &config {
            LossConfig::AdaFace(loss) => assert_comes_back(loss),
            LossConfig::MagFace(loss) => assert_comes_back(loss),
            LossConfig::ElasticFace(loss) => assert_comes_back(loss),
            LossConfig::ClassMargins(loss) => assert_comes_back(loss),
            LossConfig::CurricularFace(loss) => assert_comes_back(loss),
            LossConfig::MvSoftmax(loss) => assert_comes_back(loss),
            // These hold a configuration, which a format without names cannot hold.
            LossConfig::LabelSmoothing(_) | LossConfig::InterclassFilter(_) => (),
            other => panic!("{other:?} is not in the list"),
        }
    }
    let inner = InterclassFilter::new(ArcFace::new(AWKWARD[0], 0.1).unwrap(), AWKWARD[3]).unwrap();
    assert_comes_back(&LabelSmoothing::new(inner.clone(), AWKWARD[1]).unwrap());
    assert_comes_back(&inner);
}

#[test]
fn a_loss_read_again_observes_on_as_if_it_had_never_stopped() {
    let (mut adaface, mut curricular) = (AdaFace::default(), CurricularFace::default());
    for step in 0..20 {
        let (mut adaface_again, mut curricular_again) =
            (through_json(&adaface), through_cbor(&curricular));
        let norms = [10.0 + f64::from(step), 3.7, 90.1];
        let angles = [0.1 * f64::from(step), 1.3];
        adaface.observe(&norms).unwrap();
        adaface_again.observe(&norms).unwrap();
        assert_same(&adaface_again, &adaface);
        curricular.observe(&angles).unwrap();
        curricular_again.observe(&angles).unwrap();
        assert_same(&curricular_again, &curricular);
    }
    let elastic = ElasticFace::arc(64.0, 0.5, 0.05, 9).unwrap().at_step(123);
    let again = through_toml(&elastic);
    assert!((0..50).all(|row| again.margin_of(row) == elastic.margin_of(row)));
}

#[test]
fn every_schedule_comes_back_bit_for_bit() {
    let [a, b, c, d] = AWKWARD;
    assert_comes_back(&LambdaAnnealing::new(a, b, c, d).unwrap());
    // TOML has whole numbers of 63 bits.
    let steps = i64::MAX as usize;
    let warmup = MarginWarmup::new(-a, steps).unwrap().with_start(d).unwrap();
    assert_comes_back(&warmup.with_delay(17));
}

proptest! {
    #[test]
    fn any_number_comes_back_bit_for_bit(
        s in POSITIVE | NORMAL | SUBNORMAL, m in prop_oneof![-1.9..1.9, SUBNORMAL | ZERO],
    ) {
        assert_comes_back(&CosFace::new(s.abs(), m).unwrap());
    }
}

#[test]
fn every_scale_and_continuation_comes_back() {
    use Continuation::{EasyMargin, Linear, Monotone, Raw};
    for continuation in [Monotone, Raw, Linear, EasyMargin] {
        assert_same(&through_json(&continuation), &continuation);
        assert_same(&through_postcard(&continuation), &continuation);
    }
    for scale in [Scale::Fixed(64.0), Scale::FeatureNorm, Scale::Unnormalized] {
        assert_same(&through_json(&scale), &scale);
        assert_same(&through_postcard(&scale), &scale);
    }
}

#[test]
fn a_sampler_read_again_draws_on_as_if_it_had_never_stopped() {
    for sampler in [
        ClassSampler::new(1000, 0.1 + 0.2, 7).unwrap().with_correction(true),
        ClassSampler::for_range(250..500, 0.02, 7).unwrap(),
    ] {
        let mut sampler = sampler;
        for step in 0..20 {
            let readers = [through_json, through_toml, through_postcard, through_cbor];
            let mut again = readers.map(|through| through(&sampler));
            let labels = [step, 500 - step, 251];
            let drawn = sampler.sample(&labels).unwrap();
            assert!(again.iter_mut().all(|read| read.sample(&labels).unwrap() == drawn));
            assert!(again.iter().all(|read| read.state() == sampler.state()));
        }
        assert_comes_back(&sampler.state());
    }
}

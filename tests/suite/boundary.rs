//! Decision boundaries against their closed forms (`docs/math.md`, section 7), and against the
//! inequalities they bound.

use std::f64::consts::{FRAC_PI_2, PI};

use margin_softmax::boundary::Boundary;
use margin_softmax::custom::Angle;
use margin_softmax::losses::Continuation;
use margin_softmax::{
    ArcFace, CosFace, Error, FNormSphereFace, Generalized, MarginLoss, ModifiedSoftmax, Scale,
    Softmax, SphereFace, SphereFace2,
};

type Point = (f64, f64);

const ARCS: [f64; 6] = [0.1, 0.3, 1.0, FRAC_PI_2, 2.2, PI];

fn assert_band(name: &str, loss: impl MarginLoss, between: f64, expected: Option<f64>) {
    let found = Boundary::of(loss).band(between);
    let close = match (found, expected) {
        (Some(found), Some(expected)) => (found - expected).abs() <= 1e-13,
        (None, None) => true,
        _ => false,
    };
    assert!(close, "{name} at {between}: {found:?} for {expected:?}");
}

/// f of the general form where it is cos φ, straight from the formula.
fn target(m0: f64, m1: f64, m2: f64, theta: f64) -> f64 {
    (m0 * theta + m1).cos() - m2
}

fn general(m0: f64, m1: f64, m2: f64) -> Generalized {
    Generalized::new(64.0, m0, m1, m2).unwrap()
}

#[test]
fn modified_softmax_has_a_band_of_no_width() {
    for between in ARCS {
        assert_band("modified", ModifiedSoftmax::new(), between, Some(0.0));
    }
}

#[test]
fn band_of_sphereface_is_a_share_of_the_arc() {
    for (between, m) in ARCS.into_iter().flat_map(|arc| [1, 2, 3, 4].map(|m| (arc, m))) {
        let factor = f64::from(m);
        let expected = Some(between * (factor - 1.0) / (factor + 1.0));
        assert_band("sphereface", SphereFace::new(m).unwrap(), between, expected);
        let normalized = FNormSphereFace::new(30.0, m).unwrap();
        assert_band("f-norm sphereface", normalized, between, expected);
    }
}

#[test]
fn band_of_cosface_exists_up_to_one_minus_the_cosine() {
    for (between, m) in
        ARCS.into_iter().flat_map(|arc| [0.0, 0.04, 0.2, 0.35, 0.9].map(|m| (arc, m)))
    {
        let exists = m <= 1.0 - between.cos();
        let expected = exists.then(|| 2.0 * (m / (2.0 * (between / 2.0).sin())).asin());
        assert_band("cosface", CosFace::new(64.0, m).unwrap(), between, expected);
    }
}

#[test]
fn band_of_arcface_is_its_margin() {
    for (between, m) in
        ARCS.into_iter().flat_map(|arc| [0.0, 0.05, 0.5, 1.2, 3.0].map(|m| (arc, m)))
    {
        let expected = (m <= between).then_some(m);
        for continuation in [Continuation::Monotone, Continuation::Raw] {
            let loss = ArcFace::new(64.0, m).unwrap().with_continuation(continuation);
            assert_band("arcface", loss, between, expected);
        }
    }
}

#[test]
fn band_without_cosine_margin_has_a_closed_form() {
    for between in ARCS {
        for (m0, m1) in [(0.8, 0.3), (1.0, 0.2), (1.5, 0.25), (2.7, 0.0), (4.0, 0.09)] {
            let expected =
                (m1 <= between).then_some((between * (m0 - 1.0) + 2.0 * m1) / (m0 + 1.0));
            // Raw rises again past π, and must not be followed there.
            for continuation in [Continuation::Monotone, Continuation::Raw] {
                let loss = general(m0, m1, 0.0).with_continuation(continuation).unwrap();
                assert_band("generalized", loss, between, expected);
            }
        }
    }
}

#[test]
fn band_with_all_margins_solves_its_equation() {
    for between in ARCS {
        for (m0, m1, m2) in [(1.0, 0.3, 0.2), (0.9, 0.4, 0.15), (1.2, 0.1, 0.3), (1.0, 0.2, -0.1)] {
            let Some((one, two)) = Boundary::of(general(m0, m1, m2)).reach(between) else {
                assert!(target(m0, m1, m2, 0.0) < between.cos() || m2 < 0.0, "{m0} {m1} {m2}");
                continue;
            };
            assert_eq!(one, two);
            let residual = target(m0, m1, m2, one) - (between - one).cos();
            assert!(residual.abs() <= 1e-14, "{m0} {m1} {m2} at {between}: {residual:e}");
        }
    }
}

#[test]
fn samples_satisfy_their_class_up_to_its_reach_and_no_further() {
    let losses: [Box<dyn MarginLoss>; 4] = [
        Box::new(SphereFace::new(4).unwrap().with_annealing(5.0).unwrap()),
        Box::new(CosFace::default()),
        Box::new(ArcFace::default()),
        Box::new(general(1.1, 0.2, 0.1)),
    ];
    for loss in losses {
        let boundary = Boundary::of(&loss);
        let (one, two) = boundary.reach(1.9).unwrap();
        let f = |theta: f64| loss.target(&Angle::from_theta(theta)).value;
        for i in 0..=1900 {
            let (theta1, theta2) = (f64::from(i) * 1e-3, 1.9 - f64::from(i) * 1e-3);
            let (in_one, in_two) = (f(theta1) >= theta2.cos(), f(theta2) >= theta1.cos());
            assert_eq!((theta1 <= one, theta2 <= two), (in_one, in_two), "{loss:?} {theta1}");
            assert_eq!(boundary.satisfies_one(theta1, theta2), in_one, "{loss:?} {theta1}");
            assert_eq!(boundary.satisfies_two(theta1, theta2), in_two, "{loss:?} {theta1}");
        }
        assert!(one + two < 1.9, "{loss:?}");
    }
}

#[test]
fn annealing_narrows_the_band() {
    let band = |lambda: f64| {
        let loss = SphereFace::new(4).unwrap().with_annealing(lambda).unwrap();
        Boundary::of(loss).band(FRAC_PI_2).unwrap()
    };
    assert!(band(0.0) > band(5.0) && band(5.0) > band(1000.0) && band(1000.0) > 0.0);
}

/// The sign of m2: class 2's equation is class 1's with the labels exchanged.
#[test]
fn boundaries_of_both_classes_are_one_equation_with_labels_exchanged() {
    for (m0, m1, m2) in [(1.0, 0.0, 0.35), (1.0, 0.3, 0.2), (1.7, 0.2, 0.1)] {
        let boundary = Boundary::of(general(m0, m1, m2));
        let (one, two) = (boundary.class_one(50), boundary.class_two(50));
        assert!(one.len() == 1 && one[0].len() > 10);
        let mirrored: Vec<_> = one[0].iter().map(|&(a, b)| (b, a)).collect();
        assert_eq!(two, [mirrored]);
        for &(theta1, theta2) in &one[0] {
            let equation = (m0 * theta1 + m1).cos() - m2 - theta2.cos();
            assert!(equation.abs() <= 1e-15, "{theta1} {theta2}: {equation:e}");
        }
        for &(theta1, theta2) in &two[0] {
            let equation = theta1.cos() - (m0 * theta2 + m1).cos() + m2;
            assert!(equation.abs() <= 1e-15, "{theta1} {theta2}: {equation:e}");
        }
    }
}

#[test]
fn boundaries_of_cosface_are_two_lines_its_margin_apart() {
    let boundary = Boundary::of(CosFace::new(64.0, 0.35).unwrap());
    let gaps = |curve: Vec<Vec<Point>>| {
        curve.concat().into_iter().map(|(a, b): Point| a.cos() - b.cos()).collect::<Vec<_>>()
    };
    assert!(gaps(boundary.class_one(99)).iter().all(|gap| (gap - 0.35).abs() < 1e-15));
    assert!(gaps(boundary.class_two(99)).iter().all(|gap| (gap + 0.35).abs() < 1e-15));
}

#[test]
fn curves_end_where_an_angle_does() {
    let cases: [(&dyn MarginLoss, Point, Point); 5] = [
        (&ModifiedSoftmax::new(), (0.0, 0.0), (PI, PI)),
        (&SphereFace::new(3).unwrap(), (0.0, 0.0), (PI / 3.0, PI)),
        (&CosFace::new(64.0, 0.35).unwrap(), (0.0, 0.65_f64.acos()), ((-0.65_f64).acos(), PI)),
        (&ArcFace::new(64.0, 0.5).unwrap(), (0.0, 0.5), (PI - 0.5, PI)),
        (&general(1.0, 0.0, -0.2), (0.8_f64.acos(), 0.0), (PI, (-0.8_f64).acos())),
    ];
    for (loss, start, end) in cases {
        let curves = Boundary::of(loss).class_one(64);
        assert_eq!(curves.len(), 1, "{loss:?}");
        // An arccos at ±1 has half the digits.
        let near = |a: Point, b: Point| (a.0 - b.0).hypot(a.1 - b.1) <= 1e-7;
        assert!(near(curves[0][0], start), "{loss:?}: {:?}", curves[0][0]);
        let last = curves[0][curves[0].len() - 1];
        assert!(near(last, end), "{loss:?}: {last:?}");
        assert!(curves[0].is_sorted_by(|a, b| a.0 < b.0), "{loss:?}");
    }
}

#[test]
fn continuations_differ_where_the_margin_rises_again() {
    let curves = |continuation: Continuation| {
        let loss = ArcFace::new(64.0, 0.5).unwrap().with_continuation(continuation);
        Boundary::of(loss).class_one(200).concat()
    };
    let monotone = curves(Continuation::Monotone);
    let linear = curves(Continuation::Linear);
    assert_eq!(monotone.len(), linear.len());
    assert!(monotone.iter().zip(&linear).all(|(a, b)| (a.1 - b.1).abs() <= 1e-7));
    // Raw turns back at θ1 = π − m, EasyMargin has no margin beyond π/2.
    let raw = curves(Continuation::Raw);
    assert!((raw[raw.len() - 1].0 - PI).abs() < 1e-12);
    assert!((raw[raw.len() - 1].1 - (PI - 0.5)).abs() < 1e-12);
    let beyond = curves(Continuation::EasyMargin).into_iter().filter(|p| p.0 > FRAC_PI_2);
    assert!(beyond.map(|(a, b)| (a - b).abs()).all(|gap| gap < 1e-7));
}

#[test]
fn softmax_has_one_line_for_both_classes_which_norms_and_bias_move() {
    let boundary =
        Boundary::of(Softmax::new()).with_norms(2.0, 3.0).unwrap().with_bias(0.4).unwrap();
    for (a, b) in boundary.class_one(80).into_iter().chain(boundary.class_two(80)).flatten() {
        assert!((2.0 * a.cos() - 3.0 * b.cos() + 0.4).abs() <= 4e-15, "{a} {b}");
    }
    let (one, two) = boundary.reach(1.2).unwrap();
    assert!(two > one && boundary.band(1.2).unwrap().abs() <= 1e-14);
    assert!((2.0 * one.cos() - 3.0 * two.cos() + 0.4).abs() <= 1e-14);
    assert!(
        boundary.satisfies_one(one - 1e-9, two + 1e-9)
            && !boundary.satisfies_two(one - 1e-9, two + 1e-9)
    );
    let even = Boundary::of(Softmax::new()).reach(1.2).unwrap();
    assert!((even.0 - 0.6).abs() <= 1e-15 && (even.1 - 0.6).abs() <= 1e-15);
}

#[test]
fn norms_do_not_move_a_loss_that_normalizes() {
    let cosface = Boundary::of(CosFace::default());
    assert_eq!(cosface.clone().with_norms(2.0, 5.0).unwrap(), cosface);
    let scaled = Generalized::new(Scale::FeatureNorm, 1.0, 0.5, 0.0).unwrap();
    assert_eq!(Boundary::of(scaled).band(1.0), Boundary::of(ArcFace::default()).band(1.0));
}

#[test]
fn margin_below_zero_lets_both_classes_reach_further() {
    let width = Boundary::of(general(1.0, 0.0, -0.2)).band(2.0).unwrap();
    assert!((width + 2.0 * (0.2 / (2.0 * 1.0_f64.sin())).asin()).abs() <= 1e-14, "{width}");
    // So far that neither meets a boundary.
    assert_eq!(Boundary::of(general(1.0, 0.0, -1.9)).band(1.0), None);
}

#[test]
fn arguments_out_of_range_have_no_boundary_or_are_refused() {
    let boundary = Boundary::of(ArcFace::default());
    for between in [0.0, -1.0, 3.2, f64::NAN, f64::INFINITY] {
        assert_eq!(boundary.reach(between), None, "{between}");
    }
    assert_eq!(boundary.opposite(f64::NAN), None);
    assert!(boundary.class_one(0).is_empty());
    assert_eq!(boundary.clone().with_bias(0.1).unwrap_err(), Error::Bias);
    let softmax = Boundary::of(Softmax::new());
    for bad in [0.0, -1.0, f64::NAN, f64::INFINITY] {
        assert!(matches!(softmax.clone().with_norms(1.0, bad), Err(Error::Parameter { .. })));
    }
    assert!(matches!(softmax.with_bias(f64::NAN), Err(Error::Parameter { .. })));
}

#[test]
fn curves_end_at_half_a_turn_in_any_number_of_steps() {
    for steps in 1..500 {
        let points = Boundary::of(ModifiedSoftmax::new()).class_one(steps).concat();
        assert!(points.is_sorted_by(|a, b| a.0 < b.0), "{steps} steps");
        assert_eq!(points.last(), Some(&(PI, PI)), "{steps} steps");
    }
}

/// On the boundary the logit of class 2 is the target logit of class 1, for both types.
#[test]
fn a_binary_loss_compares_with_the_margin_of_the_other_class() {
    let types = [SphereFace2::new(32.0, 0.1), SphereFace2::angular(32.0, 0.15)];
    for loss in types.map(Result::unwrap) {
        let boundary = Boundary::of(&loss);
        for theta in [0.2, 0.7, 1.3] {
            let opposite = Angle::from_theta(boundary.opposite(theta).unwrap());
            let own = loss.target(&Angle::from_theta(theta)).value;
            approx::assert_relative_eq!(
                loss.binary().unwrap().negative(&opposite),
                own,
                epsilon = 1e-12
            );
        }
    }
    // m = 0.15 on either side.
    let boundary = Boundary::of(SphereFace2::angular(32.0, 0.15).unwrap());
    approx::assert_relative_eq!(boundary.opposite(0.5).unwrap(), 0.8, epsilon = 1e-12);
}

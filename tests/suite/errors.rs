//! What bad arguments get: hyper-parameters, shapes, and what was made elsewhere. For every way to
//! go wrong, which error, and what it says.

use crate::common::refuse::assert_table;
use margin_softmax::losses::Continuation;
use margin_softmax::{
    ArcFace, Batch, CosFace, Error, FNormSphereFace, Generalized, Gradients, Head, MarginLoss,
    NormalizedLogits, Reduction, Softmax, SphereFace,
};
use ndarray::{Array2, array};

fn shape(argument: &'static str, expected: &[usize], actual: &[usize]) -> Error {
    Error::Shape { argument, expected: expected.to_vec(), actual: actual.to_vec() }
}

#[test]
fn hyper_parameters_out_of_range_are_refused_by_name() {
    let (nan, inf) = (f64::NAN, f64::INFINITY);
    let positive =
        |s: f64| Error::Parameter { parameter: "scale s", value: s, expected: "finite and > 0" };
    let refuse = |parameter, value, expected| Error::Parameter { parameter, value, expected };
    for bad in [nan, inf, -inf, 0.0, -64.0] {
        assert_table([
            ("CosFace s", CosFace::new(bad, 0.35).map(drop), positive(bad), &["scale s"] as &[_]),
            ("ArcFace s", ArcFace::new(bad, 0.5).map(drop), positive(bad), &["scale s"]),
            ("FNorm s", FNormSphereFace::new(bad, 4).map(drop), positive(bad), &["scale s"]),
            (
                "Generalized s",
                Generalized::new(bad, 1.0, 0.3, 0.2).map(drop),
                positive(bad),
                &["> 0"],
            ),
            (
                "Generalized m0",
                Generalized::new(64.0, bad, 0.3, 0.2).map(drop),
                refuse("angular factor m0", bad, "finite and > 0"),
                &["m0", "> 0"],
            ),
        ]);
    }
    let radians = "in [0, π) radians (arguments are scale s, then margin m)";
    let radians_m1 = "in [0, π) radians (arguments are scale, then m0, m1, m2)";
    for bad in [nan, inf, -inf, -0.1] {
        let annealing = refuse("annealing lambda", bad, "finite and >= 0");
        assert_table([
            (
                "ArcFace m",
                ArcFace::new(64.0, bad).map(drop),
                refuse("angular margin m", bad, radians),
                &["angular margin m", "radians"] as &[_],
            ),
            (
                "Generalized m1",
                Generalized::new(64.0, 1.0, bad, 0.2).map(drop),
                refuse("angular margin m1", bad, radians_m1),
                &["m1"],
            ),
            (
                "SphereFace lambda",
                SphereFace::default().with_annealing(bad).map(drop),
                annealing.clone(),
                &["lambda"],
            ),
            (
                "FNorm lambda",
                FNormSphereFace::default().with_annealing(bad).map(drop),
                annealing.clone(),
                &["lambda"],
            ),
            (
                "Generalized lambda",
                Generalized::default().with_annealing(bad).map(drop),
                annealing,
                &["lambda"],
            ),
        ]);
    }
    let cosine = "in (-2, 2), a difference of cosines (arguments are scale s, then margin m)";
    let cosine_m2 = "in (-2, 2), a difference of cosines (arguments are scale, then m0, m1, m2)";
    for bad in [nan, inf, -inf] {
        assert_table([
            (
                "CosFace m",
                CosFace::new(64.0, bad).map(drop),
                refuse("cosine margin m", bad, cosine),
                &["cosine margin m"] as &[_],
            ),
            (
                "Generalized m2",
                Generalized::new(64.0, 1.0, 0.3, bad).map(drop),
                refuse("cosine margin m2", bad, cosine_m2),
                &["m2"],
            ),
        ]);
    }
    let factor = refuse("angular factor m", 0.0, "an integer >= 1");
    let bound = refuse("angular factor m0", 1.5, "1 for the continuations Linear and EasyMargin");
    let wide = Generalized::new(64.0, 1.5, 0.3, 0.2).unwrap();
    let continued = |c| wide.clone().with_continuation(c).map(drop);
    assert_table([
        ("SphereFace m", SphereFace::new(0).map(drop), factor.clone(), &["got 0", ">= 1"] as &[_]),
        ("FNorm m", FNormSphereFace::new(64.0, 0).map(drop), factor, &["got 0"]),
        ("Linear", continued(Continuation::Linear), bound.clone(), &["m0", "1.5", "Linear"]),
        ("EasyMargin", continued(Continuation::EasyMargin), bound, &["m0", "EasyMargin"]),
    ]);
}

#[test]
fn shapes_that_do_not_agree_are_refused() {
    let (x, w) = (array![[1.0, 2.0], [3.0, 4.0]], array![[1.0, 0.0], [0.0, 1.0], [1.0, 1.0]]);
    let (b, short, labels) = (array![0.1, 0.2, 0.3], array![0.0], [0, 2]);
    let (narrow, empty): (Array2<f64>, _) = (Array2::ones((3, 1)), |n, d| Array2::zeros((n, d)));
    let batch = Batch::new(&x, &w, &labels);
    let logits = || NormalizedLogits::new(&x, &w).unwrap();
    let loss = ArcFace::default();
    let forward = loss.forward(&logits(), &labels).unwrap();
    let one = NormalizedLogits::new(&x.slice(ndarray::s![..1, ..]), &w).unwrap();
    let refused = |batch: Batch<'_, f64>| Head::new(&loss).forward(&batch).map(drop);
    let of_one = loss.forward(&one, &[0]).unwrap();
    let by_one = loss.backward(&one, &[0], &of_one, Reduction::Mean).unwrap();
    let weights = array![1.0, 2.0, 3.0];
    let weighted = Reduction::Weighted(&weights);
    let cosines = || NormalizedLogits::from_cosines(array![[0.5, 0.1]]).unwrap();
    let no = |argument, actual: &[usize]| Error::Empty { argument, actual: actual.to_vec() };
    assert_table([
        (
            "W of another dimension",
            refused(Batch::new(&x, &narrow, &labels)),
            shape("class weights", &[3, 2], &[3, 1]),
            &["class weights", "[3, 1]", "[3, 2]"] as &[_],
        ),
        (
            "W of another dimension, logits",
            NormalizedLogits::new(&x, &narrow).map(drop),
            shape("class weights", &[3, 2], &[3, 1]),
            &["class weights"],
        ),
        (
            "a label too many",
            refused(Batch::new(&x, &w, &[0, 1, 2])),
            shape("labels", &[2], &[3]),
            &["labels", "[3]"],
        ),
        (
            "a label too few, logits",
            loss.forward(&logits(), &[0]).map(drop),
            shape("labels", &[2], &[1]),
            &["labels"],
        ),
        ("bias", refused(batch.with_bias(&short)), shape("bias", &[3], &[1]), &["bias"]),
        (
            "bias, logits",
            logits().with_bias(&short).map(drop),
            shape("bias", &[3], &[1]),
            &["bias"],
        ),
        (
            "feature norms",
            cosines().with_feature_norms(array![1.0, 1.0]).map(drop),
            shape("feature norms", &[1], &[2]),
            &["feature norms"],
        ),
        (
            "weights of the reduction",
            loss.backward(&logits(), &labels, &forward, weighted).map(drop),
            shape("reduction weights", &[2], &[3]),
            &["reduction weights"],
        ),
        (
            "forward of another batch",
            loss.backward(&logits(), &labels, &of_one, Reduction::Mean).map(drop),
            shape("forward", &[2], &[1]),
            &["forward"],
        ),
        (
            "gradients of other logits",
            logits().backward(&by_one).map(drop),
            shape("gradients of cosines", &[2, 3], &[1, 3]),
            &["gradients of cosines"],
        ),
        (
            "an empty batch",
            refused(Batch::new(&empty(0, 2), &w, &[])),
            no("embeddings", &[0, 2]),
            &["embeddings", "[0, 2]"],
        ),
        (
            "no classes",
            refused(Batch::new(&x, &empty(0, 2), &labels)),
            no("class weights", &[0, 2]),
            &["class weights"],
        ),
        (
            "no dimensions",
            NormalizedLogits::new(&empty(2, 0), &empty(3, 0)).map(drop),
            no("embeddings", &[2, 0]),
            &["[2, 0]"],
        ),
        (
            "no cosines",
            NormalizedLogits::<f64>::from_cosines(empty(2, 0)).map(drop),
            no("cosines", &[2, 0]),
            &["cosines"],
        ),
        (
            "label 3 of 3",
            refused(Batch::new(&x, &w, &[0, 3])),
            Error::Label { row: 1, label: 3, classes: 3 },
            &["labels[1]", "is 3", "0..3"],
        ),
        (
            "label 3 of 3, logits",
            loss.forward(&logits(), &[3, 0]).map(drop),
            Error::Label { row: 0, label: 3, classes: 3 },
            &["labels[0]"],
        ),
    ]);

    let with_bias = batch.with_bias(&b);
    let zeros = || Gradients::zeros_for(&batch);
    let step = |batch: &Batch<f64>, change: fn(&mut Gradients<f64>)| {
        let mut gradients = zeros();
        change(&mut gradients);
        let answer =
            Head::new(Softmax::new()).forward_backward(batch, Reduction::Mean, &mut gradients);
        answer.map(drop)
    };
    assert_table([
        (
            "dX",
            step(&batch, |g| g.embeddings = Array2::zeros((1, 2))),
            shape("gradients of embeddings", &[2, 2], &[1, 2]),
            &["gradients of embeddings"] as &[_],
        ),
        (
            "dW",
            step(&batch, |g| g.weights = Array2::zeros((2, 3))),
            shape("gradients of class weights", &[3, 2], &[2, 3]),
            &["gradients of class weights"],
        ),
        (
            "db missing",
            step(&with_bias, |_| ()),
            shape("gradients of bias", &[3], &[]),
            &["gradients of bias"],
        ),
        (
            "db of no bias",
            step(&batch, |g| g.bias = Some(ndarray::Array1::zeros(3))),
            shape("gradients of bias", &[], &[3]),
            &["gradients of bias"],
        ),
    ]);
}

#[test]
fn cosines_and_norms_made_elsewhere_are_checked() {
    let from = |c: f64| NormalizedLogits::from_cosines(array![[0.1, 0.2], [0.3, c]]).map(drop);
    let with = |r: f64| {
        let logits = NormalizedLogits::from_cosines(array![[0.1], [0.3]]).unwrap();
        logits.with_feature_norms(array![1.0, r]).map(drop)
    };
    let cosine = |value| Error::Cosine { row: 1, column: 1, value };
    let wild = |argument, column, value| Error::NonFinite { argument, row: 1, column, value };
    let norm = |norm| Error::DegenerateNorm {
        argument: "feature norms",
        row: 1,
        norm,
        minimum: 1e-290,
        maximum: 1e290,
    };
    let detached = NormalizedLogits::from_cosines(array![[0.1, 0.2]]).unwrap();
    let loss = ArcFace::default();
    let forward = loss.forward(&detached, &[1]).unwrap();
    let gradients = loss.backward(&detached, &[1], &forward, Reduction::Mean).unwrap();
    let other = NormalizedLogits::from_cosines(array![[0.1, 0.3]]).unwrap();
    let stale = loss.backward(&other, &[1], &forward, Reduction::Mean).map(drop);
    assert_table([
        ("above 1", from(1.0011), cosine(1.0011), &["cosines[1, 1]", "1.0011"] as &[_]),
        ("below -1", from(-1.5), cosine(-1.5), &["cosines[1, 1]", "-1.5"]),
        ("NaN", from(f64::NAN), wild("cosines", 1, f64::NAN), &["cosines[1, 1]", "NaN"]),
        ("infinite", from(f64::INFINITY), wild("cosines", 1, f64::INFINITY), &["inf"]),
        ("norm 0", with(0.0), norm(0.0), &["feature norms[1]", "0e0", "in [1e-290, 1e290]"]),
        ("norm below 0", with(-1.0), norm(-1.0), &["feature norms[1]", "-1e0"]),
        (
            "norm NaN",
            with(f64::NAN),
            wild("feature norms", 0, f64::NAN),
            &["feature norms[1", "NaN"],
        ),
        (
            "nothing to carry on to",
            detached.backward(&gradients).map(drop),
            Error::Unsupported(
                "these logits were built from cosines: build them with NormalizedLogits::new to \
                 get gradients of embeddings and weights",
            ),
            &["cosines"],
        ),
        ("a stale forward", stale, Error::Forward { row: 0 }, &["forward", "sample 0"]),
    ]);
}

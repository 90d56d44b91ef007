//! The wider family against 90-digit arithmetic, at both levels, in both types.

use margin_softmax::custom::{Angle, Sample, SampleTarget, Target};
use margin_softmax::{
    AdaFace, ArcFace, ClassMargins, CosFace, CurricularFace, LabelSmoothing, MagFace, MarginLoss,
    MvSoftmax, Scale,
};
use serde_json::Value;

use crate::common::golden::Case;
use crate::golden::{check_head, check_logits};

/// Margins of each row, as ElasticFace would have drawn them.
#[derive(Debug)]
struct RowMargins {
    s: f64,
    m1: Vec<f64>,
    m2: Vec<f64>,
}

impl MarginLoss for RowMargins {
    fn scale(&self) -> Scale {
        Scale::Fixed(self.s)
    }

    fn target(&self, angle: &Angle) -> Target {
        Target { value: angle.cos, slope: -angle.sin }
    }

    fn target_of(&self, sample: &Sample) -> SampleTarget {
        let arcface = ArcFace::new(self.s, self.m1[sample.row]).unwrap();
        let Target { value, slope } = arcface.target(&sample.angle);
        Target { value: value - self.m2[sample.row], slope }.into()
    }
}

fn numbers(value: &Value) -> Vec<f64> {
    value.as_array().unwrap().iter().map(|number| number.as_f64().unwrap()).collect()
}

fn coefficients(params: &Value) -> [f64; 3] {
    numbers(&params["hard"]).try_into().unwrap()
}

fn loss(json: &Value) -> Box<dyn MarginLoss> {
    let (params, s) = (&json["params"], json["s"].as_f64().unwrap());
    let number = |key: &str| params[key].as_f64().unwrap();
    let loss: Box<dyn MarginLoss> = match json["loss"].as_str().unwrap() {
        "adaface" => {
            let loss = AdaFace::new(s, number("m"), number("h")).unwrap();
            Box::new(loss.with_statistics(number("mean"), number("std")).unwrap())
        }
        "magface" => {
            let (norms, margins) = ((number("l_a"), number("u_a")), (number("l_m"), number("u_m")));
            Box::new(MagFace::new(s, norms, margins, number("lambda_g")).unwrap())
        }
        "curricular" => {
            let [_, t, _] = coefficients(params);
            Box::new(CurricularFace::new(s, number("m1")).unwrap().with_t(t).unwrap())
        }
        "mv_arc" => {
            let [t, ..] = coefficients(params);
            Box::new(MvSoftmax::arc(s, number("m1"), t).unwrap())
        }
        "mv_am" => {
            let [t, ..] = coefficients(params);
            Box::new(MvSoftmax::am(s, number("m2"), t).unwrap())
        }
        "class_margins" => {
            let (m1, m2) = (numbers(&params["m1"]), numbers(&params["m2"]));
            Box::new(ClassMargins::new(s, m1, m2).unwrap())
        }
        "elastic" => {
            let (m1, m2) = (numbers(&params["m1"]), numbers(&params["m2"]));
            Box::new(RowMargins { s, m1, m2 })
        }
        "arcface" | "subcenter_arcface" => Box::new(ArcFace::new(s, number("m1")).unwrap()),
        "cosface" | "subcenter_cosface" => Box::new(CosFace::new(s, number("m2")).unwrap()),
        other => panic!("no loss is called {other}"),
    };
    let hard = params["hard"].is_array().then(|| coefficients(params));
    assert_eq!(loss.hard_negatives().map(|rule| rule.coefficients()), hard, "{}", json["id"]);
    match json["smoothing"].as_f64().unwrap() {
        0.0 => loss,
        epsilon => Box::new(LabelSmoothing::new(loss, epsilon).unwrap()),
    }
}

fn cases() -> Vec<Case> {
    let json: Value = serde_json::from_str(include_str!("../golden/family.json")).unwrap();
    let cases = json["cases"].as_array().unwrap().iter();
    cases.map(|case| Case::read(case, loss(case))).collect()
}

#[test]
fn the_head_agrees_with_the_family_in_f64() {
    cases().into_iter().for_each(check_head::<f64>);
}

#[test]
fn the_head_agrees_with_the_family_in_f32() {
    cases().into_iter().filter(|case| case.f32_exact).for_each(check_head::<f32>);
}

#[test]
fn logits_agree_with_the_family_in_f64() {
    cases().into_iter().for_each(check_logits::<f64>);
}

#[test]
fn logits_agree_with_the_family_in_f32() {
    cases().into_iter().filter(|case| case.f32_exact).for_each(check_logits::<f32>);
}

#[test]
fn there_are_thirty_two_cases_six_of_them_with_sub_centers() {
    assert_eq!(cases().len(), 32);
    assert_eq!(cases().iter().filter(|case| case.f32_exact).count(), 29);
    assert_eq!(cases().iter().filter(|case| case.sub_centers > 1).count(), 6);
}

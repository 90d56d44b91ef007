//! The golden cases: losses and gradients computed in 90-digit arithmetic, those of `golden.json` by
//! `tests/golden/generate.py`. Format and tolerance: `docs/math.md`, section 9.

use margin_softmax::losses::Continuation;
use margin_softmax::{MarginLoss, Real, Scale};
use ndarray::{Array1, Array2};
use serde_json::Value;

use super::oracle::Problem;
use super::spec::Spec;

pub struct Case {
    pub id: String,
    pub f32_exact: bool,
    pub reduction: String,
    pub loss: Box<dyn MarginLoss>,
    /// Rows of `w` for each class.
    pub sub_centers: usize,
    pub labels: Vec<usize>,
    /// Largest |logit| and smallest non-zero sine of a target angle (1 without any): what the
    /// tolerance is made of.
    pub largest_logit: f64,
    pub smallest_sine: f64,
    json: Value,
}

pub fn cases() -> Vec<Case> {
    let json: Value = serde_json::from_str(include_str!("../../golden/golden.json")).unwrap();
    let read = |json| Case::read(json, spec(json).build());
    json["cases"].as_array().unwrap().iter().map(read).collect()
}

impl Case {
    /// A case, and the loss that its name and parameters stand for.
    pub fn read(json: &Value, loss: Box<dyn MarginLoss>) -> Case {
        let mut case = Case {
            id: json["id"].as_str().unwrap().into(),
            f32_exact: json["f32_exact_inputs"].as_bool().unwrap(),
            reduction: json["reduction"].as_str().unwrap().into(),
            loss,
            sub_centers: json["sub_centers"].as_u64().unwrap_or(1) as usize,
            labels: json["labels"]
                .as_array()
                .unwrap()
                .iter()
                .map(|l| l.as_u64().unwrap() as usize)
                .collect(),
            largest_logit: 0.0,
            smallest_sine: 1.0,
            json: json.clone(),
        };
        case.largest_logit = match case.matrix("logits") {
            Some(logits) => logits.iter().fold(0.0_f64, |m, z| m.max(z.abs())),
            None => json["max_logit"].as_f64().unwrap(),
        };
        case.smallest_sine = json["min_sin_theta_target"].as_f64().unwrap();
        case
    }

    /// The loss as the oracle knows it.
    pub fn spec(&self) -> Spec {
        spec(&self.json)
    }

    pub fn vector(&self, field: &str) -> Option<Array1<f64>> {
        Some(self.json[field].as_array()?.iter().map(|v| v.as_f64().unwrap()).collect())
    }

    /// The class prior.
    pub fn log_prior<F: Real>(&self) -> Option<Array1<F>> {
        let prior = self.json["params"]["prior"].as_array()?.iter();
        Some(prior.map(|p| F::from(p.as_f64().unwrap()).unwrap()).collect())
    }

    pub fn matrix(&self, field: &str) -> Option<Array2<f64>> {
        let rows = self.json[field].as_array()?;
        let columns = rows[0].as_array().unwrap().len();
        let numbers =
            rows.iter().flat_map(|row| row.as_array().unwrap()).map(|v| v.as_f64().unwrap());
        Some(Array2::from_shape_vec((rows.len(), columns), numbers.collect()).unwrap())
    }

    /// g_i = ∂objective/∂L_i of the case's reduction, sample weights and upstream gradients.
    pub fn loss_weights(&self) -> Array1<f64> {
        let n = self.labels.len();
        let weights = self.vector("sample_weights").unwrap_or_else(|| Array1::ones(n));
        match self.reduction.as_str() {
            "mean" => &weights / weights.sum(),
            "sum" => weights,
            _ => weights * self.vector("upstream").unwrap(),
        }
    }

    /// The case as the oracle takes it.
    pub fn problem(&self) -> Problem {
        Problem {
            x: self.matrix("x").unwrap(),
            w: self.matrix("w").unwrap(),
            b: self.vector("b"),
            labels: self.labels.clone(),
            upstream: self.loss_weights(),
        }
    }

    /// The bound on an array's error, relative to its largest entry: section 9.2.
    pub fn tolerance(&self, epsilon: f64) -> f64 {
        8.0 * (epsilon * (1.0 + self.largest_logit) + 2.2e-16 / self.smallest_sine)
    }

    pub fn loss_tolerance(&self, epsilon: f64) -> f64 {
        8.0 * epsilon * (1.0 + self.largest_logit)
    }
}

/// Numbers in the number type.
pub fn narrow1<F: Real>(values: Array1<f64>) -> Array1<F> {
    values.mapv(|v| F::from(v).unwrap())
}

pub fn narrow2<F: Real>(values: Array2<f64>) -> Array2<F> {
    values.mapv(|v| F::from(v).unwrap())
}

fn spec(json: &Value) -> Spec {
    let (name, params) = (json["loss"].as_str().unwrap(), &json["params"]);
    let number = |key: &str| params[key].as_f64().unwrap();
    let continuation = match params["extension"].as_str() {
        Some("raw") => Continuation::Raw,
        Some("easy") => Continuation::EasyMargin,
        Some("arcface_official") => Continuation::Linear,
        _ => Continuation::Monotone,
    };
    let lambda = params["lambda"].as_f64().unwrap_or(0.0);
    match name {
        "softmax" => Spec::Softmax,
        "modified_softmax" => Spec::Modified,
        "sphereface" => Spec::Sphere { m: number("m0") as u32, lambda },
        "fnorm_sphereface" => Spec::FNorm { s: number("s"), m: number("m0") as u32, lambda },
        "cosface" => Spec::Cos { s: number("s"), m: number("m2") },
        "arcface" => Spec::Arc { s: number("s"), m: number("m1"), continuation },
        "generalized" => Spec::General {
            scale: match params["scale"].as_str() {
                Some("norm") => Scale::FeatureNorm,
                _ => Scale::Fixed(number("s")),
            },
            m: [number("m0"), number("m1"), number("m2")],
            lambda,
            continuation,
        },
        other => panic!("no loss is called {other}"),
    }
}

//! What is trained: each loss with its published margins, and sweeps of what they leave open.

use margin_softmax::losses::MarginKind::{Angular, Cosine};

use crate::images::Quality;
use crate::losses::Loss;

/// About twice the bound for thousands of classes: see the guide "Which loss".
const SCALE: f64 = 32.0;

/// One training, repeated from several seeds.
#[derive(Clone, Debug, PartialEq)]
pub struct Experiment {
    pub model: Model,
    /// Of the images, in training and in the tests.
    pub quality: Quality,
}

#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Model {
    /// The images themselves.
    Pixels,
    /// The network as it is initialized.
    Untrained,
    Trained {
        loss: Loss,
        /// Weight rows per class.
        centers: usize,
        /// The share of the classes in a step.
        sampled: f64,
    },
}

/// A table of the report.
pub struct Group {
    pub title: &'static str,
    pub experiments: Vec<Experiment>,
}

impl Experiment {
    pub fn name(&self) -> String {
        let quality = if self.quality == Quality::Mixed { " mixed quality" } else { "" };
        let model = match self.model {
            Model::Pixels => "pixels".into(),
            Model::Untrained => "untrained".into(),
            Model::Trained { loss, centers, sampled } => {
                let centers = if centers > 1 { format!(" K={centers}") } else { String::new() };
                let sampled =
                    if sampled < 1.0 { format!(" sampled {sampled}") } else { String::new() };
                format!("{}{centers}{sampled}", loss.name())
            }
        };
        format!("{model}{quality}")
    }

    fn of(loss: Loss) -> Self {
        let model = Model::Trained { loss, centers: 1, sampled: 1.0 };
        Self { model, quality: Quality::Clean }
    }

    fn with_centers(self, centers: usize) -> Self {
        let Model::Trained { loss, sampled, .. } = self.model else { return self };
        Self { model: Model::Trained { loss, centers, sampled }, ..self }
    }

    fn sampled(self, sampled: f64) -> Self {
        let Model::Trained { loss, centers, .. } = self.model else { return self };
        Self { model: Model::Trained { loss, centers, sampled }, ..self }
    }

    fn mixed(self) -> Self {
        Self { quality: Quality::Mixed, ..self }
    }
}

/// All tables, the most telling first. An experiment may be in several.
pub fn groups() -> Vec<Group> {
    let s = SCALE;
    let arcface = |s, m| Experiment::of(Loss::ArcFace { s, m });
    let cosface = |s, m| Experiment::of(Loss::CosFace { s, m });
    let adaface = Experiment::of(Loss::AdaFace { s, m: 0.4, h: 0.333 });
    let bare = [Model::Pixels, Model::Untrained];
    let bare = bare.map(|model| Experiment { model, quality: Quality::Clean });
    let losses = [
        Loss::CosFace { s: 16.0, m: 0.0 },
        Loss::CosFace { s, m: 0.0 },
        Loss::ArcFace { s, m: 0.5 },
        Loss::CosFace { s, m: 0.35 },
        Loss::Softmax,
        Loss::ModifiedSoftmax,
        Loss::SphereFace { m: 4 },
        Loss::FNormSphereFace { s, m: 4 },
        Loss::Generalized { s, m: [1.0, 0.3, 0.2] },
        Loss::AdaFace { s, m: 0.4, h: 0.333 },
        Loss::MagFace { s, m: (0.45, 0.8), g: 35.0 },
        Loss::ElasticFace { kind: Angular, s, m: 0.5, sigma: 0.05 },
        Loss::CurricularFace { s, m: 0.5 },
        Loss::MvSoftmax { kind: Angular, s, m: 0.5, t: 0.2 },
        Loss::MvSoftmax { kind: Cosine, s, m: 0.35, t: 0.2 },
        Loss::Smoothed { s, m: 0.5, epsilon: 0.1 },
    ];
    let margins = [0.0, 0.1, 0.2, 0.3, 0.4, 0.5];
    let scales = [8.0, 16.0, 32.0, 64.0];
    let scaled = scales.map(|s| [cosface(s, 0.0), arcface(s, 0.3), arcface(s, 0.5)]);
    let mixed = [cosface(s, 0.0), arcface(s, 0.4), cosface(s, 0.4), adaface];
    vec![
        Group {
            title: "Every loss, with its published margins",
            experiments: bare.into_iter().chain(losses.map(Experiment::of)).collect(),
        },
        Group {
            title: "ArcFace, the margin",
            experiments: margins
                .map(|m| if m == 0.0 { cosface(s, 0.0) } else { arcface(s, m) })
                .to_vec(),
        },
        Group {
            title: "CosFace, the margin",
            experiments: margins.map(|m| cosface(s, m)).to_vec(),
        },
        Group { title: "The scale", experiments: scaled.concat() },
        Group {
            title: "Sub-centers, and a sample of the classes",
            experiments: vec![
                arcface(s, 0.3),
                arcface(s, 0.3).with_centers(3),
                arcface(s, 0.3).sampled(0.1),
                cosface(s, 0.0),
                cosface(s, 0.0).sampled(0.1),
            ],
        },
        Group {
            title: "Images of mixed quality",
            experiments: mixed.map(Experiment::mixed).to_vec(),
        },
    ]
}

/// Every experiment once.
pub fn all() -> Vec<Experiment> {
    let mut all: Vec<Experiment> = Vec::new();
    for experiment in groups().into_iter().flat_map(|group| group.experiments) {
        if !all.contains(&experiment) {
            all.push(experiment);
        }
    }
    all
}

//! This crate's step that updates the class weights by SGD with momentum, without an array for their
//! gradient.

use std::fs::File;
use std::io::{BufReader, BufWriter, Read, Write};
use std::path::{Path, PathBuf};

use margin_softmax::{ArcFace, BatchMut, Head, Reduction, Sgd};
use ndarray::Array2;

use crate::{Competitor, Data, Element, Result, head};

const MOMENTUM: f64 = 0.9;
/// The first step's, which moves the weights so far that the move shows the gradient.
const FIRST_RATE: f64 = 100.0;
/// The later ones', so small that the weights stay those of the others.
const RATE: f64 = 1e-6;

pub struct Step {
    head: Head<ArcFace>,
    data: Data<f32>,
    dx: Array2<f32>,
    update: Sgd<f32>,
    /// The file of the weights before the first step.
    weights: PathBuf,
}

impl Step {
    pub fn new(data: Data<f32>, dir: &Path) -> Result<Self> {
        Ok(Self {
            head: head()?,
            dx: Array2::zeros(data.x.dim()),
            data,
            update: Sgd::new(FIRST_RATE)?.with_momentum(MOMENTUM)?,
            weights: dir.join("w.f32"),
        })
    }
}

impl Competitor for Step {
    fn step(&mut self) -> Result<f64> {
        let Self { head, data, dx, update, .. } = self;
        let mut batch = BatchMut::new(&data.x, &mut data.w, &data.labels);
        let forward = head.step(&mut batch, Reduction::Mean, update, dx)?;
        update.set_rate(RATE)?;
        Ok(forward.mean().into())
    }

    /// After the first step only: dW is how far the weights moved, divided by the rate.
    fn save(&self, prefix: &str) -> Result<()> {
        let mut file = BufWriter::new(File::create(format!("{prefix}.dx"))?);
        self.dx.iter().try_for_each(|value| value.write_to(&mut file))?;
        file.flush()?;

        let mut before = BufReader::new(File::open(&self.weights)?);
        let mut file = BufWriter::new(File::create(format!("{prefix}.dw"))?);
        for after in &self.data.w {
            let mut bytes = [0; 4];
            before.read_exact(&mut bytes)?;
            let moved = f64::from(f32::from_le_bytes(bytes)) - f64::from(*after);
            ((moved / FIRST_RATE) as f32).write_to(&mut file)?;
        }
        Ok(file.flush()?)
    }
}

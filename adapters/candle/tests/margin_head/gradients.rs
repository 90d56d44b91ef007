//! Compares losses and gradients with candle's autodiff of the naive formulas.

use std::f64::consts::PI;

use candle_core::{DType, Device, Result, Tensor, Var};
use margin_softmax::{
    ArcFace, CosFace, FNormSphereFace, Generalized, Head, MarginLoss, ModifiedSoftmax, Scale,
    Softmax, SphereFace,
};
use margin_softmax_candle::MarginHead;

use crate::naive::{self, shifted};

const SAMPLES: usize = 12;
const PIXELS: usize = 5;
const DIMS: usize = 16;
const CLASSES: usize = 9;

/// Numbers in [-1, 1] that f32 holds exactly.
fn numbers(rows: usize, columns: usize, seed: f64) -> Result<Tensor> {
    let entry = |i: usize| (seed + (i * i) as f64 * 0.37 + i as f64 * 1.3).sin();
    let entries: Vec<f64> = (0..rows * columns).map(entry).collect();
    Tensor::from_vec(entries, (rows, columns), &Device::Cpu)?.to_dtype(DType::F32)
}

fn labels() -> Result<Tensor> {
    let labels: Vec<u32> = (0..SAMPLES).map(|i| (i * 5 % CLASSES) as u32).collect();
    Tensor::from_vec(labels, SAMPLES, &Device::Cpu)
}

/// A linear layer whose outputs are the embeddings, and the parameters of a head.
struct Network {
    images: Tensor,
    layer: Var,
    weight: Var,
    bias: Var,
}

impl Network {
    fn new(dtype: DType) -> Result<Self> {
        let var = |tensor: Tensor| Var::from_tensor(&tensor.to_dtype(dtype)?);
        Ok(Network {
            images: numbers(SAMPLES, PIXELS, 0.1)?.to_dtype(dtype)?,
            layer: var(numbers(PIXELS, DIMS, 0.2)?)?,
            weight: var(numbers(CLASSES, DIMS, 0.3)?)?,
            bias: var(numbers(1, CLASSES, 0.4)?.squeeze(0)?)?,
        })
    }

    fn embeddings(&self) -> Result<Tensor> {
        self.images.matmul(&self.layer)
    }

    fn head(&self, loss: impl MarginLoss + 'static, with_bias: bool) -> Result<MarginHead> {
        let head = Head::new(std::sync::Arc::new(loss) as _);
        let bias = with_bias.then(|| self.bias.as_tensor().clone());
        MarginHead::from_parts(head, self.weight.as_tensor().clone(), bias)
    }

    /// The loss and its gradients with respect to layer, class weights and bias, if present.
    fn differentiate(&self, loss: &Tensor) -> Result<Vec<Vec<f64>>> {
        let gradients = loss.backward()?;
        let variables = [&self.layer, &self.weight, &self.bias];
        let gradients = variables.into_iter().filter_map(|var| gradients.get(var));
        std::iter::once(loss).chain(gradients).map(flat).collect()
    }
}

fn flat(tensor: &Tensor) -> Result<Vec<f64>> {
    tensor.to_dtype(DType::F64)?.flatten_all()?.to_vec1()
}

/// Entries may differ by `tolerance` times the largest entry of their tensor.
fn assert_close(actual: &[Vec<f64>], expected: &[Vec<f64>], tolerance: f64) {
    assert_eq!(actual.len(), expected.len());
    for (tensor, (actual, expected)) in actual.iter().zip(expected).enumerate() {
        let largest = expected.iter().fold(0.0, |largest: f64, v| largest.max(v.abs()));
        assert!(largest > 0.0 && actual.len() == expected.len());
        for (entry, (a, e)) in actual.iter().zip(expected).enumerate() {
            let error = (a - e).abs();
            assert!(error <= tolerance * largest, "{tensor}[{entry}]: {a} is not {e}: {error:e}");
        }
    }
}

/// The naive formula is differentiated in f64 on the same numbers. The difference in f32 is the
/// rounding of the head and the layer: about ten roundings of 6e-8, times the scale of 16.
fn assert_matches(
    loss: impl MarginLoss + Clone + 'static,
    with_bias: bool,
    naive: impl Fn(&Network, &Tensor, &Tensor) -> Result<Tensor>,
) -> Result<()> {
    let exact = Network::new(DType::F64)?;
    let expected = exact.differentiate(&naive(&exact, &exact.embeddings()?, &labels()?)?)?;
    for (dtype, tolerance) in [(DType::F32, 1e-5), (DType::F64, 1e-10)] {
        let network = Network::new(dtype)?;
        let head = network.head(loss.clone(), with_bias)?;
        let loss = head.forward(&network.embeddings()?, &labels()?)?;
        assert_eq!((loss.dims(), loss.dtype()), (&[][..], dtype));
        assert_close(&network.differentiate(&loss)?, &expected, tolerance);
    }
    Ok(())
}

fn assert_matches_on_cosines(
    loss: impl MarginLoss + Clone + 'static,
    target: impl Fn(&Tensor) -> Result<Tensor>,
) -> Result<()> {
    let scale = loss.scale();
    assert_matches(loss, false, |network, x, labels| {
        naive::mean_loss(x, &network.weight, labels, scale, &target)
    })
}

#[test]
fn softmax_with_bias_matches() -> Result<()> {
    assert_matches(Softmax::new(), true, |network, x, labels| {
        let logits = x.matmul(&network.weight.t()?)?.broadcast_add(&network.bias)?;
        candle_nn::loss::cross_entropy(&logits, labels)
    })
}

#[test]
fn softmax_without_bias_matches() -> Result<()> {
    assert_matches_on_cosines(Softmax::new(), |cos| Ok(cos.clone()))
}

#[test]
fn modified_softmax_matches() -> Result<()> {
    assert_matches_on_cosines(ModifiedSoftmax::new(), |cos| Ok(cos.clone()))
}

#[test]
fn cosface_matches() -> Result<()> {
    let loss = CosFace::new(16.0, 0.35).expect("valid parameters");
    assert_matches_on_cosines(loss, |cos| cos - 0.35)
}

#[test]
fn arcface_matches() -> Result<()> {
    let loss = ArcFace::new(16.0, 0.5).expect("valid parameters");
    assert_matches_on_cosines(loss, |cos| shifted(cos, 0.5))
}

#[test]
fn generalized_matches() -> Result<()> {
    let loss = Generalized::new(16.0, 1.0, 0.3, 0.2).expect("valid parameters");
    assert_matches_on_cosines(loss, |cos| shifted(cos, 0.3)? - 0.2)?;
    let loss = Generalized::new(Scale::FeatureNorm, 1.0, 0.3, 0.2).expect("valid parameters");
    assert_matches_on_cosines(loss, |cos| shifted(cos, 0.3)? - 0.2)
}

/// At m = 2, ψ(θ) is the cosine of 2θ up to a right angle and its reflection beyond, in c = cos θ:
/// 2c|c| - 1.
fn twofold(cos: &Tensor) -> Result<Tensor> {
    (cos * cos.abs()?)?.affine(2.0, -1.0)
}

#[test]
fn sphereface_matches() -> Result<()> {
    assert_matches_on_cosines(SphereFace::new(2).expect("valid parameters"), twofold)
}

#[test]
fn annealed_fnorm_sphereface_matches() -> Result<()> {
    let loss = FNormSphereFace::new(16.0, 2).and_then(|loss| loss.with_annealing(3.0));
    assert_matches_on_cosines(loss.expect("valid parameters"), |cos| {
        ((cos * 3.0)? + twofold(cos)?)? / 4.0
    })
}

/// The naive formulas are valid where no target angle plus margin exceeds π.
#[test]
fn target_angles_leave_room_for_the_margin() -> Result<()> {
    let network = Network::new(DType::F64)?;
    let head = network.head(ModifiedSoftmax::new(), false)?;
    let forward = head.evaluate::<f64>(&network.embeddings()?, &labels()?)?;
    assert!(forward.target_angles().iter().all(|&theta| theta > 0.1 && theta < PI - 0.5));
    assert!(forward.target_angles().iter().any(|&theta| theta > PI / 2.0));
    Ok(())
}

#[test]
fn gradient_follows_what_is_done_with_the_loss() -> Result<()> {
    let network = Network::new(DType::F64)?;
    let scale = Scale::Fixed(16.0);
    let objective = |loss: Tensor| (loss.sqr()? * 3.0)? + network.layer.sqr()?.sum_all()?;
    let x = network.embeddings()?;
    let loss = CosFace::new(16.0, 0.35).expect("valid parameters");
    let actual = objective(network.head(loss, false)?.forward(&x, &labels()?)?)?;
    let expected =
        objective(naive::mean_loss(&x, &network.weight, &labels()?, scale, |cos| cos - 0.35)?)?;
    assert_close(&network.differentiate(&actual)?, &network.differentiate(&expected)?, 1e-10);
    Ok(())
}

#[test]
fn two_heads_on_the_same_embeddings_add_up() -> Result<()> {
    let network = Network::new(DType::F64)?;
    let head = network.head(ArcFace::default(), false)?;
    let x = network.embeddings()?;
    let once = head.forward(&x, &labels()?)?;
    let twice = (head.forward(&x, &labels()?)? + head.clone().forward(&x, &labels()?)?)?;
    let doubled = network.differentiate(&(once * 2.0)?)?;
    assert_close(&network.differentiate(&twice)?, &doubled, 1e-15);
    Ok(())
}

#[test]
fn second_backward_pass_gives_the_same() -> Result<()> {
    let network = Network::new(DType::F32)?;
    let loss = network.head(Softmax::new(), true)?.forward(&network.embeddings()?, &labels()?)?;
    assert_eq!(network.differentiate(&loss)?, network.differentiate(&loss)?);
    Ok(())
}

#[test]
fn gradient_is_finite_when_embedding_lies_on_a_class_or_opposite() -> Result<()> {
    let weight = Var::new(&[[0.3_f32, -0.4, 1.2], [1.0, 0.5, -0.2]], &Device::Cpu)?;
    let x = Tensor::cat(&[weight.as_tensor(), &weight.neg()?], 0)?.detach();
    let x = Var::from_tensor(&(x * 2.0)?)?;
    let labels = Tensor::new(&[0_u8, 1, 0, 1], &Device::Cpu)?;
    let head = Head::new(std::sync::Arc::new(Softmax::new()) as _);
    let head = MarginHead::from_parts(head, weight.as_tensor().clone(), None)?;
    let losses: [std::sync::Arc<dyn MarginLoss>; 7] = [
        std::sync::Arc::new(Softmax::new()),
        std::sync::Arc::new(ModifiedSoftmax::new()),
        std::sync::Arc::new(SphereFace::default()),
        std::sync::Arc::new(FNormSphereFace::default()),
        std::sync::Arc::new(CosFace::default()),
        std::sync::Arc::new(ArcFace::default()),
        std::sync::Arc::new(Generalized::default()),
    ];
    for loss in losses {
        head.set_loss(loss);
        let loss = head.forward(&x, &labels)?;
        let gradients = loss.backward()?;
        for tensor in [Some(&loss), gradients.get(&x), gradients.get(&weight)] {
            let entries = flat(tensor.expect("a gradient"))?;
            assert!(entries.iter().all(|v| v.is_finite()), "{:?}: {entries:?}", head.loss());
        }
    }
    Ok(())
}

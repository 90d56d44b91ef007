//! Several rows of class weights for each class.

use burn::module::{Module, Param};
use burn::tensor::{DType, Device, Int, Tensor, TensorData};
use margin_softmax::sampling::ClassSampler;
use margin_softmax::{Batch, CurricularFace, Error, Gradients, Head, Reduction as Core};
use margin_softmax_burn::{MarginHead, MarginHeadConfig, Options, Output};
use ndarray::Array2;

use crate::tensors::values;

const K: usize = 3;
const LABELS: [usize; 4] = [0, 4, 2, 4];

fn loss() -> CurricularFace {
    CurricularFace::default().with_t(0.3).unwrap()
}

fn arrays() -> (Array2<f64>, Array2<f64>) {
    let x = Array2::from_shape_fn((4, 6), |(i, k)| ((1 + 5 * i + 3 * k) as f64).sin());
    (x, Array2::from_shape_fn((5 * K, 6), |(j, k)| ((2 + 7 * j + k) as f64).cos()))
}

fn device() -> Device {
    Device::flex().autodiff()
}

fn tensor(array: &Array2<f64>) -> Tensor<2> {
    let values: Vec<f64> = array.iter().copied().collect();
    let shape = [array.nrows(), array.ncols()];
    Tensor::from_data(TensorData::new(values, shape), (&device(), DType::F64))
}

fn labels() -> Tensor<1, Int> {
    Tensor::from_ints(LABELS.map(|label| label as i32), &device())
}

fn head(w: &Array2<f64>) -> Result<MarginHead, Error> {
    let config = MarginHeadConfig::new(6, 5).with_sub_centers(K);
    let mut head = config.init(loss(), &device())?;
    assert_eq!(head.weights.dims(), [5 * K, 6]);
    head.weights = Param::from_tensor(tensor(w));
    Ok(head)
}

fn entries(array: &Array2<f64>) -> Vec<f64> {
    array.iter().copied().collect()
}

#[test]
fn losses_gradients_and_predictions_are_those_of_the_core() -> Result<(), Error> {
    let (x, w) = arrays();
    let batch = Batch::new(&x, &w, &LABELS).with_sub_centers(K);
    let mut expected = Gradients::zeros_for(&batch);
    let forward = Head::new(loss()).forward_backward(&batch, Core::Mean, &mut expected)?;
    let head = head(&w)?;
    let embeddings = tensor(&x).require_grad();
    let Output { loss, forward: found, .. } =
        head.run::<f64>(embeddings.clone(), labels(), Options::default())?;
    assert_eq!(found, forward);
    let gradients = loss.backward();
    let dx = embeddings.grad(&gradients).expect("a gradient");
    assert_eq!(values(dx), entries(&expected.embeddings));
    let dw = head.weights.grad(&gradients).expect("a gradient");
    assert_eq!(values(dw), entries(&expected.weights));
    let predicted = head.predict(tensor(&x))?.into_data();
    let predicted: Vec<usize> = predicted.iter::<i64>().map(|class| class as usize).collect();
    assert_eq!(predicted, forward.predictions());
    assert_eq!(head.logits(tensor(&x))?.dims(), [4, 5]);
    Ok(())
}

#[test]
fn a_sampled_step_moves_all_rows_of_its_classes() -> Result<(), Error> {
    let (x, w) = arrays();
    let mut sampler = ClassSampler::new(5, 0.8, 1)?;
    let sample = sampler.clone().sample(&LABELS)?;
    let batch = Batch::new(&x, &w, &LABELS).with_sub_centers(K).with_sample(&sample);
    let mut expected = Gradients::zeros_for(&batch);
    Head::new(loss()).forward_backward(&batch, Core::Mean, &mut expected)?;
    let head = head(&w)?;
    let loss =
        head.run::<f64>(tensor(&x), labels(), Options::default().with_sampler(&mut sampler))?.loss;
    let found = head.weights.grad(&loss.backward()).expect("a gradient");
    let mut all = Array2::zeros(w.dim());
    for (place, row) in sample.rows(K).into_iter().enumerate() {
        all.row_mut(row).assign(&expected.weights.row(place));
    }
    assert_eq!(values(found), entries(&all));
    Ok(())
}

#[test]
fn the_module_keeps_its_number_and_refuses_rows_that_are_no_multiple() -> Result<(), Error> {
    let (x, w) = arrays();
    let head = head(&w)?.valid().fork(&device());
    assert_eq!(head.sub_centers(), K);
    assert!(format!("{head}").contains("sub_centers: 3"), "{head}");
    let refused = head.with_sub_centers(4).forward(tensor(&x), labels());
    assert!(matches!(refused, Err(Error::Shape { .. })), "{refused:?}");
    let none = MarginHeadConfig::new(6, 5).with_sub_centers(0).init(loss(), &device());
    assert!(matches!(none, Err(Error::Empty { .. })));
    Ok(())
}

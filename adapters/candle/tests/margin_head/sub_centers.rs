//! Several rows of class weights for each class.

use candle_core::{Tensor, Var};
use margin_softmax::sampling::ClassSampler;
use margin_softmax::{Batch, CurricularFace, Error, Gradients, Head, Reduction as Core};
use margin_softmax_candle::{MarginHead, Options, Output, refusal};
use ndarray::Array2;
use std::sync::Arc;

use crate::tensors::CPU;

type Result<T> = anyhow::Result<T>;

const K: usize = 3;
const LABELS: [usize; 4] = [0, 4, 2, 4];

fn loss() -> CurricularFace {
    CurricularFace::default().with_t(0.3).unwrap()
}

fn arrays() -> (Array2<f64>, Array2<f64>) {
    let x = Array2::from_shape_fn((4, 6), |(i, k)| ((1 + 5 * i + 3 * k) as f64).sin());
    (x, Array2::from_shape_fn((5 * K, 6), |(j, k)| ((2 + 7 * j + k) as f64).cos()))
}

fn variable(array: &Array2<f64>) -> Result<Var> {
    let values: Vec<f64> = array.iter().copied().collect();
    Ok(Var::from_vec(values, array.dim(), &CPU)?)
}

fn matrix(tensor: &Tensor) -> Result<Array2<f64>> {
    Ok(Array2::from_shape_vec(tensor.dims2()?, tensor.flatten_all()?.to_vec1()?)?)
}

fn head(w: &Var) -> Result<MarginHead> {
    let core = Head::new(Arc::new(loss()) as _);
    Ok(MarginHead::from_parts(core, w.as_tensor().clone(), None)?.with_sub_centers(K))
}

#[test]
fn losses_gradients_and_predictions_are_those_of_the_core() -> Result<()> {
    let (x, w) = arrays();
    let batch = Batch::new(&x, &w, &LABELS).with_sub_centers(K);
    let core = Head::new(loss());
    let mut expected = Gradients::zeros_for(&batch);
    let forward = core.forward_backward(&batch, Core::Mean, &mut expected)?;
    let (x_var, w_var) = (variable(&x)?, variable(&w)?);
    let head = head(&w_var)?;
    let labels = Tensor::new(&LABELS.map(|label| label as u32), &CPU)?;
    let Output { loss, forward: found, .. } =
        head.run::<f64>(&x_var, &labels, Options::default())?;
    assert_eq!(found, forward);
    let gradients = loss.backward()?;
    assert_eq!(matrix(gradients.get(&x_var).unwrap())?, expected.embeddings);
    assert_eq!(matrix(gradients.get(head.weight()).unwrap())?, expected.weights);
    let predicted: Vec<u32> = head.predict(&x_var)?.to_vec1()?;
    let predicted: Vec<usize> = predicted.into_iter().map(|class| class as usize).collect();
    assert_eq!(predicted, forward.predictions());
    assert_eq!(head.logits(&x_var)?.dims(), [4, 5]);
    Ok(())
}

#[test]
fn a_sampled_step_moves_all_rows_of_its_classes() -> Result<()> {
    let (x, w) = arrays();
    let sampler = ClassSampler::new(5, 0.8, 1)?;
    let sample = sampler.clone().sample(&LABELS)?;
    let batch = Batch::new(&x, &w, &LABELS).with_sub_centers(K).with_sample(&sample);
    let mut expected = Gradients::zeros_for(&batch);
    Head::new(loss()).forward_backward(&batch, Core::Mean, &mut expected)?;
    let w_var = variable(&w)?;
    let head = head(&w_var)?;
    let labels = Tensor::new(&LABELS.map(|label| label as u32), &CPU)?;
    let mut drawing = sampler;
    let loss = head
        .run::<f64>(
            variable(&x)?.as_tensor(),
            &labels,
            Options::default().with_sampler(&mut drawing),
        )?
        .loss;
    let found = matrix(loss.backward()?.get(head.weight()).unwrap())?;
    let mut all = Array2::zeros(w.dim());
    for (place, row) in sample.rows(K).into_iter().enumerate() {
        all.row_mut(row).assign(&expected.weights.row(place));
    }
    assert_eq!(found, all);
    Ok(())
}

#[test]
fn rows_that_are_no_multiple_are_refused() -> Result<()> {
    let (x, w) = arrays();
    let head = head(&variable(&w)?)?.with_sub_centers(4);
    let labels = Tensor::new(&[0_u32, 1, 2, 0], &CPU)?;
    let error = head.forward(variable(&x)?.as_tensor(), &labels).unwrap_err();
    assert!(matches!(refusal(&error), Some(Error::Shape { .. })), "{error}");
    Ok(())
}

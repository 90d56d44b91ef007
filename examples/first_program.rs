use margin_softmax::{ArcFace, Batch, Error, Gradients, Head, Reduction};
use ndarray::Array2;

fn main() -> Result<(), Error> {
    // 60 inputs of 5 classes and a linear network: put your own here.
    let wave = |phase: usize| (phase as f32).sin();
    let labels: Vec<usize> = (0..60).map(|i| i % 5).collect();
    let inputs = Array2::from_shape_fn((60, 8), |(i, k)| {
        wave((1 + labels[i]) * (2 + 3 * k)) + 0.3 * wave(9 * i + 4 * k * k)
    });
    let mut network = Array2::from_shape_fn((8, 4), |(k, d)| wave(1 + 5 * k + d));
    let mut classes = Array2::from_shape_fn((5, 4), |(j, d)| wave(2 + 7 * j + d));

    let head = Head::new(ArcFace::new(16.0, 0.3)?); // scale, margin in radians
    for step in 0..=200 {
        let x = inputs.dot(&network); // (N, D); class weights are (C, D)
        let batch = Batch::new(&x, &classes, &labels);
        let mut grad = Gradients::zeros_for(&batch);
        let forward = head.forward_backward(&batch, Reduction::Mean, &mut grad)?;
        if step % 50 == 0 {
            let (loss, accuracy) = (forward.mean(), forward.accuracy());
            println!("step {step:3}: loss {loss:5.2}, accuracy {accuracy:.2}");
        }
        network.scaled_add(-0.03, &inputs.t().dot(&grad.embeddings)); // chain rule
        classes.scaled_add(-0.03, &grad.weights);
    }
    Ok(())
}

use margin_softmax::{ArcFace, Batch, Error, Gradients, Head, Reduction};
use ndarray::Array2;

fn main() -> Result<(), Error> {
    // 60 inputs of 5 classes, and a linear network: your data and your network stand here.
    let labels: Vec<usize> = (0..60).map(|i| i % 5).collect();
    let inputs = Array2::from_shape_fn((60, 8), |(i, k)| {
        (((1 + labels[i]) * (2 + 3 * k)) as f32).sin() + 0.3 * ((9 * i + 4 * k * k) as f32).cos()
    });
    let mut network = Array2::from_shape_fn((8, 4), |(k, d)| (1.0 + (5 * k + d) as f32).sin());
    let mut classes = Array2::from_shape_fn((5, 4), |(j, d)| (2.0 + (7 * j + d) as f32).cos());

    let head = Head::new(ArcFace::new(16.0, 0.3)?); // scale, and margin in radians
    for step in 0..=200 {
        let x = inputs.dot(&network); // embeddings (N, D); class weights are (C, D)
        let batch = Batch::new(&x, &classes, &labels);
        let mut gradients = Gradients::zeros_for(&batch);
        let forward = head.forward_backward(&batch, Reduction::Mean, &mut gradients)?;
        if step % 50 == 0 {
            let (loss, accuracy) = (forward.mean(), forward.accuracy());
            println!("step {step:3}: loss {loss:5.2}, accuracy {accuracy:.2}");
        }
        network.scaled_add(-0.03, &inputs.t().dot(&gradients.embeddings)); // the chain rule
        classes.scaled_add(-0.03, &gradients.weights);
    }
    Ok(())
}

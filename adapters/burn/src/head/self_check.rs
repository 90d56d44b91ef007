//! Whether a device computes right.

use burn::module::Param;
use burn::tensor::{Device, Int, Tensor, TensorData};
use margin_softmax::Error;
use margin_softmax_device::{SelfCheck, SelfCheckBatch};
use ndarray::{Array2, Axis};

use crate::operations::device_error;
use crate::{MarginHead, MarginHeadConfig, Options};

impl MarginHead {
    /// Runs a small step of a head on `device`, of its default float type, forward and backward, in
    /// tiles and shards, and compares losses, gradients and predictions with the core in f64: whether
    /// this device, with this driver, computes right.
    ///
    /// Normal are errors of 1e-6 and less where products are f32; about 1e-3 where they are TF32, as
    /// burn's are on CUDA devices, or where gradients are f16; 4e-3 where they are bf16. More means
    /// that this device is not to be trained on.
    ///
    /// ```
    /// use burn::tensor::Device;
    /// use margin_softmax_burn::MarginHead;
    ///
    /// let check = MarginHead::self_check(&Device::flex())?;
    /// assert!(check.largest() < 1e-6, "{check:?}");
    /// # Ok::<(), margin_softmax::Error>(())
    /// ```
    ///
    /// # Errors
    /// [`Error::Device`] for a device that is not supported, or fails.
    pub fn self_check(device: &Device) -> Result<SelfCheck, Error> {
        let batch = SelfCheckBatch::new()?;
        let device = device.clone().without_autodiff().autodiff();
        let (classes, dims) = batch.weights.dim();
        let config = MarginHeadConfig::new(dims, classes).on_device();
        let config = config.with_rows_per_shard(Some(SelfCheckBatch::ROWS_PER_SHARD));
        let config = config.with_rows_per_tile(Some(SelfCheckBatch::ROWS_PER_TILE));
        let mut head = config.init(batch.loss.clone(), &device)?;
        let place = |numbers: Array2<f64>| {
            let shape = [numbers.nrows(), numbers.ncols()];
            let numbers = TensorData::new(numbers.into_iter().collect(), shape);
            Tensor::<2>::from_data(numbers, &device)
        };
        let mut first = 0;
        for shard in head.all_weights_mut() {
            let rows = first..first + shard.lazy_shape()[0];
            first = rows.end;
            *shard = Param::from_tensor(place(
                batch.weights.slice_axis(Axis(0), rows.into()).to_owned(),
            ));
        }
        let x = place(batch.embeddings.clone()).require_grad();
        let labels: Vec<i32> = batch.labels.iter().map(|&label| label as i32).collect();
        let labels = Tensor::<1, Int>::from_ints(&labels[..], &device);
        let found = head.run::<f32>(x.clone(), labels, Options::default())?;
        let gradients = found.loss.backward();
        let read = |tensor: Option<Tensor<2>>| {
            let tensor = tensor.ok_or_else(|| device_error(&device, "it gave no gradient"))?;
            let data = tensor.try_into_data();
            let data = data.map_err(|error| device_error(&device, &error.to_string()))?;
            Ok::<Vec<f64>, Error>(data.iter::<f64>().collect())
        };
        let mut dw = Vec::new();
        for shard in head.all_weights() {
            dw.extend(read(shard.grad(&gradients))?);
        }
        batch.compare(&found.forward, (&read(x.grad(&gradients))?, &dw))
    }
}

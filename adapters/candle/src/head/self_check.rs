//! Whether a device computes right.

use candle_core::{DType, Device, Result, Tensor, Var};
use margin_softmax::Head;
use margin_softmax_device::{SelfCheck, SelfCheckBatch};
use ndarray::Array2;

use super::MarginHead;
use crate::error::refused;
use crate::operations::ids;
use crate::{Options, tensor};

impl MarginHead {
    /// Runs a small step of a head on `device` in f32, forward and backward, in tiles, and compares
    /// losses, gradients and predictions with the core in f64: whether this device, with this driver,
    /// computes right.
    ///
    /// Normal are errors of 1e-6 and less where products are f32.
    ///
    /// ```
    /// use candle_core::Device;
    /// use margin_softmax_candle::MarginHead;
    ///
    /// let check = MarginHead::self_check(&Device::Cpu)?;
    /// assert!(check.largest() < 1e-6, "{check:?}");
    /// # Ok::<(), candle_core::Error>(())
    /// ```
    ///
    /// # Errors
    /// Those of candle on a device that fails.
    pub fn self_check(device: &Device) -> Result<SelfCheck> {
        let batch = SelfCheckBatch::new().map_err(refused)?;
        let place = |numbers: &Array2<f64>| {
            Var::from_tensor(&tensor::tensor(numbers.mapv(|v| v as f32))?.to_device(device)?)
        };
        let (x, w) = (place(&batch.embeddings)?, place(&batch.weights)?);
        let core = Head::new(batch.loss.clone());
        let head = Self::on_device_from_parts(core, w.as_tensor().clone(), None)?;
        let head = head.with_rows_per_tile(Some(SelfCheckBatch::ROWS_PER_TILE));
        let labels = ids(batch.labels.iter().copied(), device)?;
        let found = head.run::<f32>(&x, &labels, Options::default())?;
        let gradients = found.loss.backward()?;
        let read = |of: &Tensor| match gradients.get(of) {
            Some(gradient) => gradient.flatten_all()?.to_dtype(DType::F64)?.to_vec1::<f64>(),
            None => Ok(Vec::new()),
        };
        batch.compare(&found.forward, (&read(&x)?, &read(&w)?)).map_err(refused)
    }
}

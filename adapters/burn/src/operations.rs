//! Burn's tensors, as the steps of a head use them.

use std::marker::PhantomData;
use std::ops::Range;

use burn::backend::DispatchDevice;
use burn::tensor::{
    Bool, DType, Device, FloatDType, IndexingUpdateOp, Int, Tensor, TensorData, Transaction,
};
use margin_softmax::Error;
use margin_softmax_device::{Binary, Map, Operations, Reduce};
use ndarray::{Array2, ArrayView2};

use crate::memory::{Precision, numbers_of, view, with_dtype};

/// The error of a device.
pub(crate) fn device_error(device: &Device, reason: &str) -> Error {
    Error::Device { device: format!("{device:?}"), reason: reason.to_owned() }
}

/// Reads tensors of the device.
pub(crate) fn read(device: &Device, tensors: Transaction) -> Result<Vec<TensorData>, Error> {
    tensors.try_execute().map_err(|error| device_error(device, &error.to_string()))
}

/// Numbers of rows or columns, whatever the default integer of the device.
fn ids(numbers: impl Iterator<Item = usize>, device: &Device) -> Tensor<1, Int> {
    let numbers: Vec<i32> = numbers.map(|number| number as i32).collect();
    let count = numbers.len();
    Tensor::from_data(TensorData::new(numbers, [count]), (device, DType::I32))
}

/// Adds rows, each of which is named once, to a matrix.
pub(crate) fn add_rows(to: Tensor<2>, rows: &[usize], part: Tensor<2>) -> Tensor<2> {
    let rows = ids(rows.iter().copied(), &to.device());
    to.select_assign(0, rows, part, IndexingUpdateOp::Add)
}

/// Tensors of a device without a graph, computed in `F`.
#[derive(Debug, Clone)]
pub(crate) struct OnBurn<F> {
    device: Device,
    float: PhantomData<F>,
}

impl<F: Precision> OnBurn<F> {
    pub fn new(device: Device) -> Self {
        OnBurn { device: device.without_autodiff(), float: PhantomData }
    }

    pub fn device(&self) -> &Device {
        &self.device
    }
}

impl<F: Precision> Operations for OnBurn<F> {
    type Float = F;
    type Matrix = Tensor<2>;
    type Mask = Tensor<2, Bool>;
    type Error = Error;

    fn refused(&self, error: Error) -> Error {
        error
    }

    fn name(&self) -> String {
        format!("{:?}", self.device)
    }

    fn is_cpu(&self) -> bool {
        matches!(self.device.as_dispatch(), DispatchDevice::Flex(_))
    }

    fn most_columns(&self) -> usize {
        // Burn returns indices in the device's default integer.
        let integer = DType::from(self.device.settings().int_dtype);
        1 << (8 * integer.size() - 1).min(24)
    }

    fn shape(&self, matrix: &Tensor<2>) -> [usize; 2] {
        matrix.dims()
    }

    fn upload(&self, numbers: Array2<F>) -> Result<Tensor<2>, Error> {
        let shape = [numbers.nrows(), numbers.ncols()];
        let numbers = match numbers.is_standard_layout() {
            true => numbers.into_raw_vec_and_offset().0,
            false => numbers.into_iter().collect(),
        };
        Ok(Tensor::from_data(TensorData::new(numbers, shape), (&self.device, F::dtype())))
    }

    fn download(&self, matrices: Vec<Tensor<2>>) -> Result<Vec<Array2<F>>, Error> {
        let shapes: Vec<[usize; 2]> = matrices.iter().map(Tensor::dims).collect();
        let all = matrices.into_iter().fold(Transaction::default(), |all, matrix| {
            all.register(with_dtype(matrix, F::dtype()))
        });
        let read = read(&self.device, all)?;
        let arrays = shapes.iter().zip(read).map(|(&shape, data)| {
            Array2::from_shape_vec(shape, data.iter::<F>().collect())
                .map_err(|error| device_error(&self.device, &error.to_string()))
        });
        arrays.collect()
    }

    fn view<R>(
        &self,
        matrix: &Tensor<2>,
        read: impl FnOnce(ArrayView2<'_, F>) -> Result<R, Error>,
    ) -> Result<R, Error> {
        read(view(&numbers_of(matrix), matrix.dims())?)
    }

    fn zeros(&self, shape: [usize; 2]) -> Result<Tensor<2>, Error> {
        Ok(Tensor::zeros(shape, (&self.device, F::dtype())))
    }

    fn rows(&self, of: &Tensor<2>, rows: Range<usize>) -> Result<Tensor<2>, Error> {
        Ok(with_dtype(of.clone().slice([rows]), F::dtype()))
    }

    fn columns(&self, of: &Tensor<2>, columns: Range<usize>) -> Result<Tensor<2>, Error> {
        Ok(of.clone().slice([0..of.dims()[0], columns]))
    }

    fn select(&self, from: &Tensor<2>, rows: &[usize]) -> Result<Tensor<2>, Error> {
        let rows = ids(rows.iter().copied(), &self.device);
        Ok(from.clone().select(0, rows))
    }

    fn cat(&self, parts: Vec<Tensor<2>>, axis: usize) -> Result<Tensor<2>, Error> {
        Ok(Tensor::cat(parts, axis))
    }

    fn add_rows(&self, to: Tensor<2>, rows: &[usize], part: Tensor<2>) -> Result<Tensor<2>, Error> {
        Ok(add_rows(to, rows, part))
    }

    fn put_rows(&self, to: Tensor<2>, start: usize, part: Tensor<2>) -> Result<Tensor<2>, Error> {
        let rows = start..start + part.dims()[0];
        Ok(to.slice_assign([rows], part))
    }

    fn map(&self, matrix: Tensor<2>, map: Map) -> Result<Tensor<2>, Error> {
        Ok(match map {
            Map::Abs => matrix.abs(),
            Map::AtLeast(least) => matrix.clamp_min(least),
            Map::Exp => matrix.exp(),
            Map::Reciprocal => matrix.recip(),
            Map::Root => matrix.sqrt(),
            Map::Square => matrix.square(),
            Map::Power(0.0) => matrix.ones_like(),
            Map::Power(exponent) => matrix.powf_scalar(exponent),
            Map::Affine(factor, 0.0) => matrix * factor,
            Map::Affine(1.0, constant) => matrix + constant,
            Map::Affine(factor, constant) => matrix * factor + constant,
        })
    }

    fn combine(&self, a: Tensor<2>, operation: Binary, b: &Tensor<2>) -> Result<Tensor<2>, Error> {
        let b = b.clone();
        Ok(match operation {
            Binary::Add => a + b,
            Binary::Subtract => a - b,
            Binary::Multiply => a * b,
            Binary::Divide => a / b,
        })
    }

    fn reduce(&self, matrix: &Tensor<2>, reduce: Reduce, axis: usize) -> Result<Tensor<2>, Error> {
        let matrix = matrix.clone();
        Ok(match reduce {
            Reduce::Sum => matrix.sum_dim(axis),
            Reduce::Smallest => matrix.min_dim(axis),
            Reduce::Largest => matrix.max_dim(axis),
        })
    }

    fn product(&self, a: &Tensor<2>, b: &Tensor<2>) -> Result<Tensor<2>, Error> {
        Ok(a.clone().matmul(b.clone()))
    }

    fn transposed(&self, matrix: &Tensor<2>) -> Result<Tensor<2>, Error> {
        Ok(matrix.clone().transpose())
    }

    fn largest(&self, matrix: &Tensor<2>) -> Result<(Tensor<2>, Tensor<2>), Error> {
        let (largest, at) = matrix.clone().max_dim_with_indices(1);
        // Not by the device's default float, which may be f16: it holds no index above 2048.
        Ok((largest, at.cast(FloatDType::from(F::dtype()))))
    }

    fn largest_of(&self, matrix: Tensor<2>, k: usize) -> Result<(Tensor<2>, Tensor<2>), Error> {
        let [samples, columns] = matrix.dims();
        let shape = [samples, columns / k, k];
        let (largest, at) = matrix.reshape(shape).max_dim_with_indices(2);
        let rows = ids(0..k, &self.device).cast(at.dtype()).reshape([1, 1, k]);
        let chosen = at.expand(shape).equal(rows.expand(shape));
        let chosen: Tensor<3> = chosen.cast(FloatDType::from(F::dtype()));
        Ok((largest.squeeze_dim(2), chosen.reshape([samples, columns])))
    }

    fn repeat(&self, matrix: &Tensor<2>, k: usize) -> Result<Tensor<2>, Error> {
        let [samples, columns] = matrix.dims();
        let repeated = matrix.clone().unsqueeze_dim::<3>(2).expand([samples, columns, k]);
        Ok(repeated.reshape([samples, columns * k]))
    }

    fn at(&self, numbers: &Tensor<2>, columns: usize) -> Result<Tensor<2, Bool>, Error> {
        let shape = [numbers.dims()[0], columns];
        let all = Tensor::<1, Int>::arange(0..columns as i64, (&self.device, DType::I32));
        let all = all.cast(FloatDType::from(F::dtype())).unsqueeze_dim::<2>(0);
        Ok(numbers.clone().expand(shape).equal(all.expand(shape)))
    }

    fn above(&self, matrix: &Tensor<2>, threshold: &Tensor<2>) -> Result<Tensor<2, Bool>, Error> {
        Ok(matrix.clone().greater(threshold.clone().expand(matrix.dims())))
    }

    fn replace(
        &self,
        matrix: Tensor<2>,
        mask: &Tensor<2, Bool>,
        other: &Tensor<2>,
    ) -> Result<Tensor<2>, Error> {
        Ok(matrix.mask_where(mask.clone(), other.clone()))
    }

    fn fill(
        &self,
        matrix: Tensor<2>,
        mask: &Tensor<2, Bool>,
        number: f64,
    ) -> Result<Tensor<2>, Error> {
        Ok(matrix.mask_fill(mask.clone(), number))
    }
}

//! Three bare faer products, the arithmetic no step can do without: Z = X̂·Wᵀ, dX = Z·W, dW = Zᵀ·X̂.

use std::fmt;
use std::time::Instant;

use faer::{MatMut, MatRef, Par};
use ndarray::Array2;

use crate::product::matmul;
use crate::{Competitor, Data, Result, normalize};

/// The order in which a product's destination is stored.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Order {
    RowMajor,
    ColumnMajor,
}

const ORDERS: [Order; 2] = [Order::RowMajor, Order::ColumnMajor];

pub fn view(values: &[f32], (rows, columns): (usize, usize), order: Order) -> MatRef<'_, f32> {
    match order {
        Order::RowMajor => MatRef::from_row_major_slice(values, rows, columns),
        Order::ColumnMajor => MatRef::from_column_major_slice(values, rows, columns),
    }
}

pub fn view_mut(
    values: &mut [f32],
    (rows, columns): (usize, usize),
    order: Order,
) -> MatMut<'_, f32> {
    match order {
        Order::RowMajor => MatMut::from_row_major_slice_mut(values, rows, columns),
        Order::ColumnMajor => MatMut::from_column_major_slice_mut(values, rows, columns),
    }
}

/// How faer is called for one product.
#[derive(Clone, Copy)]
struct Form {
    order: Order,
    par: Par,
}

impl fmt::Debug for Form {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:?} in {} parts", self.order, self.par.degree())
    }
}

#[derive(Clone, Copy)]
enum Product {
    Z,
    Dx,
    Dw,
}

pub struct Gemm {
    n: usize,
    d: usize,
    c: usize,
    x: Array2<f32>,
    w: Array2<f32>,
    z: Vec<f32>,
    dx: Vec<f32>,
    dw: Vec<f32>,
    /// Of Z, dX and dW: the quickest.
    forms: [Form; 3],
}

impl Gemm {
    pub fn new(data: Data<f32>, threads: usize) -> Self {
        let ((n, d), c) = (data.x.dim(), data.w.nrows());
        let (x, _) = normalize(data.x.view());
        let mut gemm = Self {
            n,
            d,
            c,
            x,
            w: data.w,
            z: vec![1.0; n * c],
            dx: vec![1.0; n * d],
            dw: vec![1.0; c * d],
            forms: [Form { order: Order::RowMajor, par: Par::Seq }; 3],
        };
        gemm.forms = gemm.quickest(threads);
        gemm
    }

    /// Tries every order of the three destinations, cut for faer's threads finer and coarser.
    fn quickest(&mut self, threads: usize) -> [Form; 3] {
        let pars = match threads {
            1 => vec![Par::Seq],
            _ => vec![Par::rayon(threads), Par::rayon(2 * threads), Par::rayon(4 * threads)],
        };
        let forms: Vec<Form> = ORDERS
            .iter()
            .flat_map(|&order| pars.iter().map(move |&par| Form { order, par }))
            .collect();

        let mut best = (f64::INFINITY, self.forms);
        for order in ORDERS {
            let of_order: Vec<Form> = forms.iter().copied().filter(|f| f.order == order).collect();
            let (z_seconds, z) = self.quickest_of(Product::Z, &of_order);
            self.forms[Product::Z as usize] = z; // the order in which the other two read it
            let (dx_seconds, dx) = self.quickest_of(Product::Dx, &forms);
            let (dw_seconds, dw) = self.quickest_of(Product::Dw, &forms);
            let seconds = z_seconds + dx_seconds + dw_seconds;
            if seconds < best.0 {
                best = (seconds, [z, dx, dw]);
            }
        }
        best.1
    }

    fn quickest_of(&mut self, product: Product, forms: &[Form]) -> (f64, Form) {
        let mut seconds = vec![f64::INFINITY; forms.len()];
        for _ in 0..5 {
            for (&form, seconds) in forms.iter().zip(&mut seconds) {
                self.forms[product as usize] = form;
                let start = Instant::now();
                self.multiply(product);
                *seconds = seconds.min(start.elapsed().as_secs_f64());
            }
        }
        seconds
            .into_iter()
            .zip(forms.iter().copied())
            .min_by(|a, b| a.0.total_cmp(&b.0))
            .expect("some forms")
    }

    fn multiply(&mut self, product: Product) {
        let Self { n, d, c, forms, .. } = *self;
        let Form { order, par } = forms[product as usize];
        let z_order = forms[Product::Z as usize].order;
        let x = view(self.x.as_slice().expect("owned"), (n, d), Order::RowMajor);
        let w = view(self.w.as_slice().expect("owned"), (c, d), Order::RowMajor);
        let (into, left, right) = match product {
            Product::Z => (view_mut(&mut self.z, (n, c), order), x, w.transpose()),
            Product::Dx => {
                (view_mut(&mut self.dx, (n, d), order), view(&self.z, (n, c), z_order), w)
            }
            Product::Dw => {
                let z = view(&self.z, (n, c), z_order);
                (view_mut(&mut self.dw, (c, d), order), z.transpose(), x)
            }
        };
        matmul(into, left, right, par);
    }
}

impl Competitor for Gemm {
    fn step(&mut self) -> Result<f64> {
        for product in [Product::Z, Product::Dx, Product::Dw] {
            self.multiply(product);
        }
        Ok(f64::NAN)
    }

    fn note(&self) -> String {
        format!("Z, dX, dW {:?}", self.forms)
    }
}

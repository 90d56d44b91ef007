//! The three products of [`crate::gemm`] with the classes cut by hand into panels, one product by
//! one thread for each: faer's own threads suit dX badly, whose long side is the one summed over.

use faer::Par;
use ndarray::Array2;
use rayon::prelude::*;

use crate::gemm::{Order, view, view_mut};
use crate::product::matmul;
use crate::{Competitor, Data, Result, normalize};

/// Enough for the threads to finish together when one of them is held up.
const PANELS_PER_THREAD: usize = 4;

pub struct Split {
    n: usize,
    d: usize,
    /// Classes to a panel.
    panel: usize,
    x: Array2<f32>,
    w: Array2<f32>,
    z: Vec<f32>,
    /// One dX for each panel, added up into the first.
    dx: Vec<f32>,
    dw: Vec<f32>,
}

impl Split {
    pub fn new(data: Data<f32>, threads: usize) -> Self {
        let ((n, d), c) = (data.x.dim(), data.w.nrows());
        let panels = if threads == 1 { 1 } else { threads * PANELS_PER_THREAD };
        let panel = c.div_ceil(panels);
        Self {
            n,
            d,
            panel,
            x: normalize(data.x.view()).0,
            w: data.w,
            z: vec![1.0; n * c],
            dx: vec![1.0; c.div_ceil(panel) * n * d],
            dw: vec![1.0; c * d],
        }
    }
}

impl Competitor for Split {
    fn step(&mut self) -> Result<f64> {
        let Self { n, d, panel, .. } = *self;
        let (rows, columns) = (Order::RowMajor, Order::ColumnMajor);
        let x = view(self.x.as_slice().expect("owned"), (n, d), rows);
        let panels_of_w = self.w.as_slice().expect("owned").par_chunks(panel * d);

        self.z.par_chunks_mut(panel * n).zip(panels_of_w.clone()).for_each(|(z, w)| {
            let c = w.len() / d;
            let (z, w) = (view_mut(z, (n, c), columns), view(w, (c, d), rows));
            matmul(z, x, w.transpose(), Par::Seq);
        });
        let panels_of_z = self.z.par_chunks(panel * n);
        let triples = self.dx.par_chunks_mut(n * d).zip(panels_of_z.clone()).zip(panels_of_w);
        triples.for_each(|((dx, z), w)| {
            let c = w.len() / d;
            let (z, w) = (view(z, (n, c), columns), view(w, (c, d), rows));
            matmul(view_mut(dx, (n, d), rows), z, w, Par::Seq);
        });
        let (sum, others) = self.dx.split_at_mut(n * d);
        for other in others.chunks(n * d) {
            sum.iter_mut().zip(other).for_each(|(sum, other)| *sum += other);
        }
        self.dw.par_chunks_mut(panel * d).zip(panels_of_z).for_each(|(dw, z)| {
            let c = dw.len() / d;
            let (dw, z) = (view_mut(dw, (c, d), rows), view(z, (n, c), columns));
            matmul(dw, z.transpose(), x, Par::Seq);
        });
        Ok(f64::NAN)
    }

    fn note(&self) -> String {
        format!("{} panels", self.dx.len() / (self.n * self.d))
    }
}

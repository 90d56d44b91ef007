use num_traits::PrimInt;

use super::*;

hyper_parameters! {
    /// Margins of its own for each class, for classes of very different size.
    ///
    /// ```text
    /// z_iy = s · (ψ(θ_iy + m1[y]) − m2[y])      own class y
    /// z_ij = s · cos θ_ij                       every other class j
    /// ```
    ///
    /// ψ is the [monotone cosine](crate::losses::Continuation::Monotone).
    /// [`from_counts`](Self::from_counts) gives classes with few samples large angular margins.
    ///
    /// Take it when some classes have a thousand times as many samples as others, as landmarks,
    /// species and products do.
    ///
    /// **Shapes**: embeddings x (N, D) and class weights w (C, D), with margins m1 (C) and m2 (C).
    /// The loss normalizes both. Labels, of sampled and class-parallel steps too, are numbers among
    /// all C classes; a step with another C is refused.
    pub struct ClassMargins {
        s: f64, "finite and > 0", "scale s", "the radius of the hypersphere; 64 is usual";
        m1: Vec<f64> as &[f64], (check_m1 "each in [0, π) radians"), "angular margins m1 by class";
        m2: Vec<f64> as &[f64], (check_m2 "each in (-2, 2)"), "cosine margins m2 by class";
    }
    /// The published code lets cos φ rise again beyond π.
    ///
    /// **Errors**: the constructors return [`Error::Parameter`] for a value outside its range,
    /// [`Error::Shape`] for lists of different lengths, and [`Error::Empty`] for no class. A
    /// step with another number of classes is refused with [`Error::Shape`].
    ///
    /// ```
    /// use margin_softmax::ClassMargins;
    ///
    /// let loss = ClassMargins::from_counts(64.0, &[1, 10, 100, 1000], (0.05, 0.5), -0.25)?;
    /// let rounded = loss.m1().iter().map(|m| (m * 1e4).round() / 1e4).collect::<Vec<_>>();
    /// assert_eq!(rounded, [0.5, 0.2605, 0.1258, 0.05]);
    /// # Ok::<(), margin_softmax::Error>(())
    /// ```
    ///
    /// **Source**: Ha et al., *Google Landmark Recognition 2020 Competition Third Place Solution*
    /// (arXiv 2010.05350), dynamic margins, with (0.05, 0.5) and −1/4 in the authors' code; cosine
    /// margins by class are those of Cao et al., *LDAM* (NeurIPS 2019).
}

impl ClassMargins {
    /// The loss with scale `s`, angular margins `m1` in radians and cosine margins `m2`, one of
    /// each per class.
    ///
    /// # Errors
    /// [`Error::Parameter`] unless `s` is finite and > 0, every m1 in [0, π) and every m2 in
    /// (−2, 2); [`Error::Empty`], [`Error::Shape`] unless there are as many of both, one at least.
    pub fn new(s: f64, m1: Vec<f64>, m2: Vec<f64>) -> Result<Self, Error> {
        ClassMargins { s, m1, m2 }.checked()
    }

    fn check_m1(&self) -> Result<(), Error> {
        Error::check_not_empty("angular margins m1", &[self.m1.len()])?;
        Error::check_shape("cosine margins m2", &[self.m1.len()], &[self.m2.len()])?;
        let check = |&m| check!("angular margin m1 of a class", m, "in [0, π) radians");
        self.m1.iter().try_for_each(|m| check(m).map(drop))
    }

    fn check_m2(&self) -> Result<(), Error> {
        let check =
            |&m| check!("cosine margin m2 of a class", m, "in (-2, 2), a difference of cosines");
        self.m2.iter().try_for_each(|m| check(m).map(drop))
    }

    /// Angular margins from the number of samples of each class: n^`power`, scaled so that the
    /// largest class has the margin `low` and the smallest the margin `high`. Usual are (0.05, 0.5)
    /// and −0.25.
    ///
    /// ```text
    /// m1[c] = low + (high − low) · (n_c^p − n_max^p) / (n_min^p − n_max^p)
    /// ```
    ///
    /// Where all classes have the same number of samples the formula is 0/0. Each is then the
    /// smallest class, with the margin `high`: an ordinary margin for data without a long tail.
    ///
    /// # Errors
    /// [`Error::Parameter`] for a count below 1, unless `low` ≤ `high` are in [0, π), and unless
    /// `power` is finite and < 0; [`Error::Empty`] for no counts.
    pub fn from_counts<T: PrimInt>(
        s: f64,
        counts: &[T],
        (low, high): (f64, f64),
        power: f64,
    ) -> Result<Self, Error> {
        Error::check_not_empty("counts", &[counts.len()])?;
        for (name, m) in [("lowest margin", low), ("highest margin", high)] {
            check!(name, m, "in [0, π) radians", "scale s, counts, margins, power")?;
        }
        let expected = "no less than the lowest margin";
        Error::check_parameter("highest margin", high, expected, low <= high)?;
        check!("power of the counts", power, ("finite and < 0", |p| p.is_finite() && p < 0.0))?;
        for count in counts {
            // Every integer type converts to f64.
            let count = count.to_f64().unwrap_or(f64::NAN);
            Error::check_parameter("number of samples of a class", count, ">= 1", count >= 1.0)?;
        }
        let smallest = counts.iter().copied().min().unwrap_or_else(T::one);
        // ln(n_c/n_min), from the difference of the integers: close counts stay apart, and no power
        // underflows for all classes.
        let logarithm = |&count: &T| {
            let parts = [count - smallest, smallest].map(|n| n.to_f64().unwrap_or(f64::NAN));
            (parts[0] / parts[1]).ln_1p()
        };
        let logarithms: Vec<f64> = counts.iter().map(logarithm).collect();
        let most = logarithms.iter().copied().fold(0.0, f64::max);
        // 1 − (n_c/n_min)^p, or −p·ln(n_c/n_min) where both are equal to rounding.
        let fall = |logarithm: f64| {
            if power * most > -f64::EPSILON { logarithm } else { -(power * logarithm).exp_m1() }
        };
        let margin = |logarithm: f64| {
            let share = if most == 0.0 { 1.0 } else { 1.0 - fall(logarithm) / fall(most) };
            // Rounded, the sum may leave the range.
            (low * (1.0 - share) + high * share).clamp(low, high)
        };
        let m1: Vec<f64> = logarithms.into_iter().map(margin).collect();
        let m2 = vec![0.0; m1.len()];
        ClassMargins::new(s, m1, m2)
    }
}

impl MarginLoss for ClassMargins {
    fn scale(&self) -> Scale {
        Scale::Fixed(self.s)
    }

    /// That of the mean margins.
    fn target(&self, angle: &Angle) -> Target {
        let mean = |margins: &[f64]| margins.iter().sum::<f64>() / margins.len() as f64;
        with_margins(angle, mean(&self.m1), mean(&self.m2))
    }

    /// A label without a class has no margin; a step with such a label is refused before its target
    /// is used.
    fn target_of(&self, sample: &Sample) -> SampleTarget {
        let of = |margins: &[f64]| margins.get(sample.label).copied().unwrap_or(0.0);
        with_margins(&sample.angle, of(&self.m1), of(&self.m2)).into()
    }

    fn check_classes(&self, classes: usize) -> Result<(), Error> {
        Error::check_shape("class margins", &[classes], &[self.m1.len()])
    }
}

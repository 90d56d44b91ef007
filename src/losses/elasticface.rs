use std::f64::consts::TAU;

use rand_core::{Rng, SeedableRng};
use rand_pcg::Pcg64Mcg;

use super::*;

hyper_parameters! {
    /// ElasticFace: a margin drawn anew for every sample and step, from a normal distribution
    /// around m.
    ///
    /// ```text
    /// z_iy = s · ψ(θ_iy + E_i)          own class y: arc
    /// z_iy = s · (cos θ_iy − E_i)       own class y: cos
    /// z_ij = s · cos θ_ij               every other class j
    /// E_i  ~ N(m, σ)
    /// ```
    ///
    /// ψ is the [monotone cosine](crate::losses::Continuation::Monotone), also where a drawn angle is
    /// negative or beyond π; no draw is clipped. The draw is a function of seed, step and row
    /// alone: the same loss draws the same margins for the same rows whenever it is asked, on every
    /// rank. Forward and backward of one step must see the same.
    ///
    /// Without [`at_step`](Self::at_step) every step draws the same margins: set it in each. Parts of
    /// one batch, as of an accumulated gradient, are told their rows by
    /// [`Batch::with_first_row`](crate::Batch::with_first_row); else each repeats those of row 0 on.
    ///
    /// Take it when one fixed margin is too hard for some classes and too easy for others, and the
    /// numbers of their samples do not tell which.
    ///
    /// **Shapes**: embeddings x (N, D) and class weights w (C, D). The loss normalizes both.
    pub struct ElasticFace {
        kind: MarginKind = MarginKind::Angular, any, "kind of margin", "`arc`, in radians, or `cos`";
        s: f64 = 64.0, "finite and > 0", "scale s", "the radius of the hypersphere";
        m: f64 = 0.5, [kind] of "scale s, then m, then sigma", "margin m", "the mean of the draws";
        sigma: f64 = 0.05, (check_sigma "in [0, π); of cosines [0, 2)"), "standard deviation sigma";
        seed: u64 = 0, any, "seed of the random numbers";
        step: u64 = 0, any, "step whose margins are drawn", "a state" => at_step;
    }
    /// The published code draws from the global generator of its framework, and lets cos φ rise
    /// again beyond π. Its variant ElasticFace+ gives the smallest drawn margin to the largest
    /// target cosine of the batch; it is not offered, since a sample's margin then depends on the
    /// others.
    ///
    /// **Errors**: the constructors return [`Error::Parameter`] for a value outside its range.
    ///
    /// ```
    /// use margin_softmax::{ElasticFace, Head};
    ///
    /// let mut head = Head::new(ElasticFace::arc(64.0, 0.5, 0.05, 7)?);
    /// for step in 0..3 {
    ///     *head.loss_mut() = head.loss().clone().at_step(step);
    ///     // a training step with this head
    /// }
    /// let (loss, next) = (head.loss(), head.loss().clone().at_step(3));
    /// assert!(loss.margin_of(0) != loss.margin_of(1) && loss.margin_of(0) != next.margin_of(0));
    /// # Ok::<(), margin_softmax::Error>(())
    /// ```
    ///
    /// **Source**: Boutros et al., *ElasticFace: Elastic Margin Loss for Deep Face Recognition*
    /// (CVPR Workshops 2022), section 3, with σ of the paper's models.
}

impl ElasticFace {
    /// The loss with scale `s` and angular margins around `m`, in radians.
    ///
    /// # Errors
    /// [`Error::Parameter`] unless `s` is finite and > 0 and `m` and `sigma` are in [0, π).
    pub fn arc(s: f64, m: f64, sigma: f64, seed: u64) -> Result<Self, Error> {
        ElasticFace { kind: MarginKind::Angular, s, m, sigma, seed, step: 0 }.checked()
    }

    /// The loss with scale `s` and cosine margins around `m`.
    ///
    /// # Errors
    /// [`Error::Parameter`] unless `s` is finite and > 0, `m` in (−2, 2) and `sigma` in [0, 2).
    pub fn cos(s: f64, m: f64, sigma: f64, seed: u64) -> Result<Self, Error> {
        ElasticFace { kind: MarginKind::Cosine, s, m, sigma, seed, step: 0 }.checked()
    }

    fn check_sigma(&self) -> Result<f64, Error> {
        let (name, sigma) = ("standard deviation sigma", self.sigma);
        match self.kind {
            MarginKind::Angular => {
                check!(name, sigma, "in [0, π) radians", "scale s, then m, then sigma")
            }
            MarginKind::Cosine => check!(name, sigma, ("in [0, 2)", |x| (0.0..2.0).contains(&x))),
        }
    }

    /// The margin drawn for a row of the batch.
    pub fn margin_of(&self, row: usize) -> f64 {
        self.m + self.sigma * normal(&[self.seed, self.step, row as u64])
    }
}

/// A number from the standard normal distribution, at most 8.6 from 0: a function of the words.
fn normal(words: &[u64]) -> f64 {
    // One generator after the other, each seeded by the one before and the next word: seeding
    // mixes all bits, so that neighboring steps and rows have nothing in common.
    let state =
        words.iter().fold(0, |state, &word| Pcg64Mcg::seed_from_u64(state ^ word).next_u64());
    let mut rng = Pcg64Mcg::seed_from_u64(state);
    // In (0, 1], by Box and Muller; the logarithm is then finite.
    let mut uniform = || ((rng.next_u64() >> 11) + 1) as f64 / (1_u64 << 53) as f64;
    (-2.0 * uniform().ln()).sqrt() * (TAU * uniform()).cos()
}

impl MarginLoss for ElasticFace {
    fn scale(&self) -> Scale {
        Scale::Fixed(self.s)
    }

    /// That of the mean margin.
    fn target(&self, angle: &Angle) -> Target {
        self.kind.target(angle, self.m)
    }

    fn target_of(&self, sample: &Sample) -> SampleTarget {
        self.kind.target(&sample.angle, self.margin_of(sample.row)).into()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::f64::consts::PI;

    #[test]
    fn margins_have_the_mean_and_the_deviation_they_are_drawn_with() {
        for loss in [
            ElasticFace::arc(64.0, 0.5, 0.05, 3).unwrap(),
            ElasticFace::cos(64.0, 0.35, 0.0125, 4).unwrap(),
        ] {
            // Rows of a step, and steps of a row.
            let of_step = (0..20_000).map(|row| loss.margin_of(row));
            let of_row = (0..20_000).map(|step| loss.clone().at_step(step).margin_of(5));
            for margins in [of_step.collect::<Vec<f64>>(), of_row.collect()] {
                let standard: Vec<f64> =
                    margins.iter().map(|margin| (margin - loss.m()) / loss.sigma()).collect();
                let moment = |power: i32| {
                    standard.iter().map(|z| z.powi(power)).sum::<f64>() / standard.len() as f64
                };
                let product = standard.windows(2).map(|pair| pair[0] * pair[1]).sum::<f64>();
                assert!(moment(1).abs() < 0.03, "{}", moment(1));
                assert!((moment(2) - 1.0).abs() < 0.04, "{}", moment(2));
                assert!(moment(3).abs() < 0.1, "{}", moment(3));
                assert!((moment(4) - 3.0).abs() < 0.3, "{}", moment(4));
                assert!((product / standard.len() as f64).abs() < 0.03);
            }
        }
    }

    #[test]
    fn seed_step_and_row_all_count_and_do_not_stand_for_each_other() {
        let margin = |seed, step, row| {
            ElasticFace::arc(64.0, 0.5, 0.05, seed).unwrap().at_step(step).margin_of(row)
        };
        let mut drawn: Vec<u64> = Vec::new();
        for (seed, step) in [(0, 0), (0, 1), (1, 0), (1, 1), (2, 0), (0, 2), (u64::MAX, 0)] {
            drawn.extend((0..3).map(|row| margin(seed, step, row).to_bits()));
        }
        drawn.sort_unstable();
        drawn.dedup();
        assert_eq!(drawn.len(), 21);
        assert_eq!(margin(9, 8, 7), margin(9, 8, 7));
    }

    #[test]
    fn no_draw_reaches_far() {
        let farthest = PI.next_down();
        let loss = ElasticFace::arc(64.0, farthest, farthest, 1).unwrap();
        let angle = Angle::from_theta(1.0);
        for row in 0..1000 {
            let target = loss.target_of(&Sample::new(angle, 1.0, 0, row));
            assert!(target.value.is_finite() && target.value.abs() < 40.0 && target.slope <= 0.0);
        }
    }
}

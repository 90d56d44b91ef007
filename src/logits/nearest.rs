//! The nearest negatives of a sample, where they have a margin of their own.

use std::convert::Infallible;

use super::view::{RowNearest, View};
use crate::data::TargetPair;
use crate::kernel::{HardRow, Real, RowLogits};
use crate::math::{Angle, SINGULAR, TopMargin};

impl<F: Real> View<'_, F> {
    /// The nearest negatives of sample `i` whose class is `label`, from the nearest on; none for a
    /// loss without a margin on them.
    pub fn nearest(&self, i: usize, label: usize) -> Vec<RowNearest> {
        let Some(top) = self.form.top else { return Vec::new() };
        let cosines = super::row(&self.logits.cosines, i);
        let mut classes: Vec<usize> = (0..cosines.len()).filter(|&j| j != label).collect();
        let nearer = |&a: &usize, &b: &usize| {
            cosines[b].widen().total_cmp(&cosines[a].widen()).then(a.cmp(&b))
        };
        if top.k < classes.len() {
            classes.select_nth_unstable_by(top.k - 1, nearer);
            classes.truncate(top.k);
        }
        classes.sort_unstable_by(nearer);
        classes.into_iter().map(|class| self.nearest_pair(top, i, class)).collect()
    }

    fn nearest_pair(&self, top: TopMargin, i: usize, class: usize) -> RowNearest {
        let (norm, weight_norm) = self.norms(i, class);
        let mut cosine_slope = 0.0;
        let target = |angle: &Angle| {
            let target = top.target(angle);
            if angle.sin > SINGULAR {
                cosine_slope = -target.slope / angle.sin;
            }
            Ok::<_, Infallible>(target.into())
        };
        let Ok(pair) = match &self.logits.source {
            Some(source) => {
                let row = self.logits.sub_centers.row(i, class);
                let (x, w) = ((source.x(i), norm), (source.w(row), weight_norm));
                TargetPair::new(self.form, x, w, 0.0, target)
            }
            None => {
                let angle = Angle::from_cos(self.logits.cosines[[i, class]].widen());
                let scale = self.form.pair_scale(norm, weight_norm);
                TargetPair::of_angle(self.form, angle, (scale, 0.0), target)
            }
        };
        RowNearest { class, pair: pair.with_log_prior(self.log_prior(class)), cosine_slope }
    }

    /// The logits of `row` without those of the nearest negatives; `copy` holds what is left.
    pub fn others<'s>(
        row: RowLogits<'s, F>,
        nearest: &[RowNearest],
        copy: &'s mut Vec<F>,
    ) -> RowLogits<'s, F> {
        if nearest.is_empty() {
            return row;
        }
        copy.extend(row.cosines);
        for RowNearest { class, .. } in nearest {
            copy[*class] = F::neg_infinity();
        }
        RowLogits { cosines: copy, ..row }
    }

    /// How much the sum of the logits of `row` grows by the margins of the nearest negatives.
    pub fn added_by_margins(row: &RowLogits<'_, F>, nearest: &[RowNearest]) -> f64 {
        let counted = |c: F| row.hard.map_or(c, |hard: HardRow<F>| hard.counted(c));
        let added = nearest.iter().map(|nearest| {
            nearest.logit_without_prior()
                - (row.scale * counted(row.cosines[nearest.class])).widen()
        });
        added.sum()
    }
}

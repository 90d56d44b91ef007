//! What [`Sgd`](super::Sgd) and [`AdamW`](super::AdamW) have in common.

/// The methods of an update that is its rule, with a rate and a weight decay, and the state of its
/// rows.
macro_rules! optimizer {
    ($name:ident) => {
        impl<F: Real> $name<F> {
            /// The same update with this weight decay.
            ///
            /// # Errors
            /// [`Error::Parameter`] unless `weight_decay` is finite and ≥ 0.
            pub fn with_weight_decay(mut self, weight_decay: f64) -> Result<Self, Error> {
                self.rule.weight_decay = weight_decay;
                self.checked()
            }

            /// Sets the learning rate of the steps to come.
            ///
            /// # Errors
            /// [`Error::Parameter`] unless `rate` is finite and ≥ 0; the rate stays as it was then.
            pub fn set_rate(&mut self, rate: f64) -> Result<(), Error> {
                let mut rule = self.rule;
                rule.rate = rate;
                Rule::$name(rule).check()?;
                self.rule = rule;
                Ok(())
            }

            /// The learning rate.
            pub fn rate(&self) -> f64 {
                self.rule.rate
            }

            /// The weight decay d.
            pub fn weight_decay(&self) -> f64 {
                self.rule.weight_decay
            }

            /// Adds `rows` rows with zero state at the end: classes that were added to the class
            /// weights. Before the first step there is no state, and nothing to add to.
            ///
            /// # Errors
            /// [`Error::Parameter`] for rows whose state does not fit into memory; nothing has
            /// changed then.
            pub fn extend(&mut self, rows: usize) -> Result<(), Error> {
                self.state.extend(rows)
            }

            /// The same update for a range of its rows: those that one of several ranks holds.
            ///
            /// # Errors
            /// [`Error::Parameter`] for a range that ends before it starts, [`Error::Rows`] for one
            /// that ends after the last row.
            pub fn rows(&self, range: std::ops::Range<usize>) -> Result<Self, Error> {
                Ok($name { rule: self.rule, state: self.state.cut(range)? })
            }

            /// The update of the rows of all parts, one after the other.
            ///
            /// # Errors
            /// [`Error::Empty`] for no part, [`Error::Parameter`] for parts of different
            /// hyper-parameters, [`Error::Shape`] for rows of different lengths and for parts of
            /// which only some have a state.
            pub fn concatenate(parts: &[Self]) -> Result<Self, Error> {
                Error::check_not_empty("parts", &[parts.len()])?;
                let rule = parts[0].rule;
                for part in parts {
                    Rule::$name(rule).check_same(Rule::$name(part.rule))?;
                }
                Ok($name { rule, state: State::join(parts.iter().map(|part| &part.state))? })
            }

            /// Refuses the first hyper-parameter that is out of its range.
            fn checked(self) -> Result<Self, Error> {
                Rule::$name(self.rule).check()?;
                Ok(self)
            }
        }

        impl<F: Real> crate::update::WeightUpdate<F> for $name<F> {
            fn check(&self, step: &crate::update::UpdateStep<'_>) -> Result<(), Error> {
                let rule = Rule::$name(self.rule);
                crate::update::updater::check(rule, &self.state, step).map(drop)
            }

            fn begin<'s>(
                &'s mut self,
                step: &crate::update::UpdateStep<'_>,
            ) -> Result<Vec<Box<dyn crate::update::RowUpdate<F> + 's>>, Error> {
                let rule = Rule::$name(self.rule);
                crate::update::updater::begin(rule, &mut self.state, step)
            }
        }
    };
}
pub(super) use optimizer;

//! A training loop, which loss to take, recipes, how to come here from another library, benchmarks, and
//! the mathematics.
//!
//! The texts are Markdown files that are also read outside rustdoc, and there their links lead to
//! files. The links above each text come first and so lead to the items instead.

pub mod engine;

pub mod training_loop {
    //! A training loop: warm-up, learning rate, samples without a label, evaluation, a checkpoint.
    //!
    //! [`Head::forward_backward`]: crate::Head::forward_backward
    //! [`Head::step`]: crate::Head::step
    //! [`LambdaAnnealing`]: crate::schedule::LambdaAnnealing
    //! [`MarginWarmup`]: crate::schedule::MarginWarmup
    //! [the recipes]: crate::guide::recipes
    //! [which loss]: crate::guide::which_loss
    //!
    #![cfg_attr(feature = "serde", doc = include_str!("../../docs/training-loop.md"))]
    #![cfg_attr(not(feature = "serde"), doc = "With the feature `serde`, which it needs.")]
}

pub mod losses {
    //! The losses: their logits, their constructors, and the two levels at which they are computed.
    //!
    //! [`Batch`]: crate::Batch
    //! [`Head`]: crate::Head
    //! [`Head::predict`]: crate::Head::predict
    //! [`Head::top_k`]: crate::Head::top_k
    //! [`NormalizedLogits`]: crate::NormalizedLogits
    //! [boundaries]: https://raw.githubusercontent.com/margin-softmax/margin-softmax/main/docs/boundaries.png
    //! [target-logits]: https://raw.githubusercontent.com/margin-softmax/margin-softmax/main/docs/target_logits.png
    //! [the mathematics]: crate::guide::math
    //! [which loss]: crate::guide::which_loss
    //!
    #![doc = include_str!("../../docs/losses.md")]
}

pub mod glossary {
    //! The terms of this crate and of its field.
    //!
    //! [`Batch`]: crate::Batch
    //! [`Boundary::band`]: crate::boundary::Boundary::band
    //! [`ClassSampler`]: crate::sampling::ClassSampler
    //! [`Continuation`]: crate::losses::Continuation
    //! [`Head`]: crate::Head
    //! [`IGNORED`]: crate::IGNORED
    //! [`MarginWarmup`]: crate::schedule::MarginWarmup
    //! [`NormalizedLogits`]: crate::NormalizedLogits
    //! [`Reduction`]: crate::Reduction
    //!
    #![doc = include_str!("../../docs/glossary.md")]
}

pub mod benchmarks {
    //! A step beside those of JAX and torch.
    //!
    //! [The engine]: crate::guide::engine
    //!
    #![doc = include_str!("../../docs/benchmarks.svg")]
    //!
    #![doc = include_str!("../../docs/benchmarks.md")]
}

pub mod which_loss {
    //! Which loss, which scale s, which margin m.
    //!
    //! [`adacos_scale(C)`]: crate::schedule::adacos_scale
    //! [`AdaFace`]: crate::AdaFace
    //! [`ArcFace`]: crate::ArcFace
    //! [`Boundary::band`]: crate::boundary::Boundary::band
    //! [`ClassMargins`]: crate::ClassMargins
    //! [`CosFace`]: crate::CosFace
    //! [`CurricularFace`]: crate::CurricularFace
    //! [`ElasticFace`]: crate::ElasticFace
    //! [`Forward::margin_free_losses`]: crate::Forward::margin_free_losses
    //! [`InterclassFilter`]: crate::InterclassFilter
    //! [`TopNegatives`]: crate::TopNegatives
    //! [`LabelSmoothing`]: crate::LabelSmoothing
    //! [`LambdaAnnealing`]: crate::schedule::LambdaAnnealing
    //! [`MagFace`]: crate::MagFace
    //! [`MarginWarmup`]: crate::schedule::MarginWarmup
    //! [`MvSoftmax`]: crate::MvSoftmax
    //! [`SphereFace2`]: crate::SphereFace2
    //! [`UnifiedCrossEntropy`]: crate::UnifiedCrossEntropy
    //! [`Softmax`]: crate::Softmax
    //! [`SphereFace`]: crate::SphereFace
    //! [`with_log_prior(p)`]: crate::Batch::with_log_prior
    //! [`with_sub_centers(K)`]: crate::Batch::with_sub_centers
    //! [det]: https://raw.githubusercontent.com/margin-softmax/margin-softmax/main/docs/det.png
    //! [glyphs]: https://raw.githubusercontent.com/margin-softmax/margin-softmax/main/docs/glyphs.png
    //! [the recipes]: crate::guide::recipes
    //!
    #![doc = include_str!("../../docs/which-loss.md")]
    //!
    //! # Picture: the largest margin that trains
    //!
    #![doc = include_str!("../../docs/usable-margins.svg")]
}

pub mod recipes {
    //! Recipes: accumulation, mixup, focal weighting, new classes, another number of ranks, and more.
    //!
    //! [`Batch::with_log_prior`]: crate::Batch::with_log_prior
    //! [`class_range`]: crate::ranks::class_range
    //! [training loop]: crate::guide::training_loop
    //! [which loss]: crate::guide::which_loss
    //!
    #![doc = include_str!("../../docs/recipes.md")]
}

pub mod coming_from {
    //! For those who come from insightface, pytorch-metric-learning, Paddle, AdaFace, CVLface, TFace,
    //! WeSpeaker, ESPnet, SpeechBrain, opensphere, fast-reid, FaceX-Zoo, facenet, or from balanced
    //! softmax and logit adjustment.
    //!
    //! [`AdaFace::observe`]: crate::AdaFace::observe
    //! [`AdaFace::with_statistics`]: crate::AdaFace::with_statistics
    //! [`Batch::with_ignored_label`]: crate::Batch::with_ignored_label
    //! [`Batch::with_log_prior`]: crate::Batch::with_log_prior
    //! [`Batch::with_sample`]: crate::Batch::with_sample
    //! [`Batch::with_sub_centers(3)`]: crate::Batch::with_sub_centers
    //! [`class_range`]: crate::ranks::class_range
    //! [`ClassSampler`]: crate::sampling::ClassSampler
    //! [`Collective`]: crate::ranks::Collective
    //! [`Continuation::EasyMargin`]: crate::losses::Continuation::EasyMargin
    //! [`Continuation::Linear`]: crate::losses::Continuation::Linear
    //! [`CurricularFace::observe`]: crate::CurricularFace::observe
    //! [`CurricularFace::with_t`]: crate::CurricularFace::with_t
    //! [`energy`]: crate::energy
    //! [`Forward::bias_gradient`]: crate::Forward::bias_gradient
    //! [`Forward::target_angles`]: crate::Forward::target_angles
    //! [`Gradients::embeddings_only`]: crate::Gradients::embeddings_only
    //! [`Head::on_ranks`]: crate::Head::on_ranks
    //! [`Head::predict`]: crate::Head::predict
    //! [`Head::step`]: crate::Head::step
    //! [`Head::target_angles`]: crate::Head::target_angles
    //! [`Head::top_k`]: crate::Head::top_k
    //! [`Head`]: crate::Head
    //! [`IGNORED`]: crate::IGNORED
    //! [`labels_from_ignoring`]: crate::labels_from_ignoring
    //! [`labels_from`]: crate::labels_from
    //! [`LambdaAnnealing`]: crate::schedule::LambdaAnnealing
    //! [`LogitGradients`]: crate::LogitGradients
    //! [`margin_free_logits`]: crate::MarginLoss::margin_free_logits
    //! [`MarginWarmup`]: crate::schedule::MarginWarmup
    //! [`NormalizedLogits::from_cosines`]: crate::NormalizedLogits::from_cosines
    //! [`NormalizedLogits`]: crate::NormalizedLogits
    //! [`Sgd`]: crate::Sgd
    //! [`SphereFace2::starting_bias`]: crate::SphereFace2::starting_bias
    //! [`SphereFace2::with_bias`]: crate::SphereFace2::with_bias
    //! [`SubCenterUsage`]: crate::sub_centers::SubCenterUsage
    //! [`with_annealing`]: crate::SphereFace::with_annealing
    //! [the recipes]: crate::guide::recipes
    //! [which loss]: crate::guide::which_loss
    //!
    #![doc = include_str!("../../docs/coming-from.md")]
}

pub mod math {
    //! The mathematics: every formula derived, with its bounds and its accuracy.
    //!
    #![doc = include_str!("../../docs/math.md")]
}

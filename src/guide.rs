//! Which loss to take, recipes, how to come here from another library, and the mathematics.

pub mod which_loss {
    //! Which loss, which scale s, which margin m.
    //!
    #![doc = include_str!("../docs/which-loss.md")]
    //!
    #![doc = include_str!("../docs/usable-margins.svg")]
    //!
    #![doc = include_str!("../docs/which-margin.md")]
}

pub mod recipes {
    //! Recipes: accumulation, mixup, focal weighting, new classes, another number of ranks, and more.
    //!
    #![doc = include_str!("../docs/recipes.md")]
}

pub mod coming_from {
    //! For those who come from insightface, pytorch-metric-learning, Paddle, AdaFace, CVLface, TFace,
    //! WeSpeaker or SpeechBrain.
    //!
    #![doc = include_str!("../docs/coming-from.md")]
}

pub mod math {
    //! The mathematics: every formula derived, with its bounds and its accuracy.
    //!
    #![doc = include_str!("../docs/math.md")]
}

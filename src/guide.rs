//! Which loss to take, and how to come here from another library.

/// Which loss, which scale s, which margin m.
pub mod which_loss {
    #![doc = include_str!("../docs/which-loss.md")]
    //!
    #![doc = include_str!("../docs/usable-margins.svg")]
    //!
    #![doc = include_str!("../docs/which-margin.md")]
}

/// For those who come from insightface, pytorch-metric-learning or Paddle.
pub mod coming_from {
    #![doc = include_str!("../docs/coming-from.md")]
}

//! The margin-based softmax losses of margin-softmax as a burn module.

//! The margin-based softmax losses of margin-softmax as candle operations.

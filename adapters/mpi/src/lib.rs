//! Classes of margin-softmax split over MPI ranks.

//! Pure machines and the log they live in.

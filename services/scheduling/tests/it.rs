//! Scheduling as a whole.

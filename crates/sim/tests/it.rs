//! The simulator in the ordinary tests: 200 days, every kept case, that a day is the same twice, and that what the rules of the
//! economy forbid is told.

// Only tests: this also lets helpers unwrap.
#[cfg(test)]
mod it {
    mod audit;
    mod cases;
    mod clients;
    mod days;
    mod rig;
}

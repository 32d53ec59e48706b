//! Figures and campaigns at the length that every change can bear.

// Only tests: this also lets helpers unwrap.
#[cfg(test)]
mod it {
    mod figures;
    mod torture;
}

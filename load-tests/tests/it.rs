//! Figures and campaigns at the length that every change can bear.

mod it {
    mod figures;
    mod torture;
}

//! The journals against the suite, and the embedded one against what disks and people do to it.

// Only tests: this also lets helpers unwrap.
#[cfg(test)]
mod it {
    mod conformance;
    mod damage;
    mod directory;
    mod full;
    mod kill;
    #[cfg(feature = "nats")]
    mod nats;
    #[cfg(feature = "scylla")]
    mod scylla;
}

//! The journals against the suite, and the embedded one against what disks and people do to it.

mod it {
    mod conformance;
    mod damage;
    mod directory;
    mod full;
    mod kill;
}

//! Days that went wrong once.

use holmes_sim::{case, run};

#[test]
fn no_day_that_went_wrong_once_goes_wrong_again() {
    let files = std::fs::read_dir(case::dir()).expect("crates/sim/cases is there");
    let mut paths: Vec<_> = files.map(|file| file.expect("it can be read").path()).collect();
    paths.retain(|path| path.extension().is_some_and(|kind| kind == "json"));
    paths.sort();
    for path in paths {
        let kept = case::read(&path).expect("it is a case");
        let failure = run(&kept.deeds, |_, _, _| {}).failure;
        assert_eq!(failure, None, "{}: {}", path.display(), kept.note);
    }
}

#[test]
fn a_case_is_read_as_it_was_kept() {
    let dir = std::env::temp_dir().join(format!("holmes-sim-case-{}", std::process::id()));
    let kept = case::Case { note: "a note".into(), seed: 7, deeds: holmes_sim::deed::day(7, 300) };
    let path = case::keep(&dir, "seven", &kept).expect("it is written");
    assert_eq!(case::read(&path).expect("it is read"), kept);
    std::fs::remove_dir_all(dir).expect("it goes");
}

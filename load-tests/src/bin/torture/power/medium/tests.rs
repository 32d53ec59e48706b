use super::*;

fn steps(calls: &[Call]) -> Vec<Step> {
    let both = |(number, call): (usize, &Call)| [Step::Begin(number, call.clone()), Step::End(number)];
    calls.iter().enumerate().flat_map(both).collect()
}

fn create(path: &str) -> Call {
    Call::Create { path: path.into(), truncate: false }
}

fn write(path: &str, at: u64, bytes: &[u8]) -> Call {
    Call::Write { path: path.into(), at, bytes: bytes.to_vec() }
}

fn sync(path: &str) -> Call {
    Call::Sync { path: path.into() }
}

fn medium(calls: &[Call]) -> Medium {
    let mut medium = Medium::new("/d".into());
    medium.take(steps(calls)).unwrap();
    medium
}

/// Every content of a file that cuts before a step leave; `None` for no file.
fn left(medium: &Medium, step: usize, name: &str) -> BTreeSet<Option<Vec<u8>>> {
    let (mut found, dir) = (BTreeSet::new(), tempfile::tempdir().unwrap());
    for seed in 0..60 {
        for harm in Harm::ALL {
            let out = dir.path().join("disk");
            medium.cut(step, harm, &mut fastrand::Rng::with_seed(seed), &out).unwrap();
            found.insert(std::fs::read(out.join(name)).ok());
            std::fs::remove_dir_all(out).unwrap();
        }
    }
    found
}

#[test]
fn what_was_forced_to_disk_is_there_and_nothing_else_is_certain() {
    let calls =
        [create("/d/a"), sync("/d"), write("/d/a", 0, b"one"), sync("/d/a"), write("/d/a", 3, b"two")];
    let medium = medium(&calls);
    let found = left(&medium, medium.steps, "a");
    let with_zeros = b"one\0\0\0".to_vec();
    let expected = [b"one".to_vec(), with_zeros, b"onetwo".to_vec()];
    assert_eq!(found, expected.into_iter().map(Some).collect());
}

#[test]
fn a_sync_that_has_not_ended_promises_nothing() {
    let calls = [create("/d/a"), sync("/d"), write("/d/a", 0, b"one"), sync("/d/a")];
    let medium = medium(&calls);
    assert!(left(&medium, medium.steps - 1, "a").contains(&Some(Vec::new())));
    assert_eq!(left(&medium, medium.steps, "a"), [Some(b"one".to_vec())].into());
}

#[test]
fn a_write_that_was_on_its_way_when_a_sync_began_is_not_covered() {
    let mut medium = Medium::new("/d".into());
    let mut all = steps(&[create("/d/a"), sync("/d")]);
    all.push(Step::Begin(10, write("/d/a", 0, b"late")));
    all.extend([Step::Begin(11, sync("/d/a")), Step::End(11), Step::End(10)]);
    medium.take(all).unwrap();
    assert!(left(&medium, medium.steps, "a").contains(&Some(Vec::new())));
}

#[test]
fn a_new_name_is_lost_with_its_file_unless_the_directory_was_forced_to_disk() {
    let calls = [create("/d/a"), write("/d/a", 0, b"one"), sync("/d/a")];
    let without = medium(&calls);
    assert_eq!(left(&without, without.steps, "a"), [None, Some(b"one".to_vec())].into());
}

#[test]
fn a_rename_is_there_or_not_and_never_half() {
    let mut calls = vec![create("/d/a"), write("/d/a", 0, b"old"), sync("/d/a"), create("/d/b")];
    calls.extend([write("/d/b", 0, b"new"), sync("/d/b"), sync("/d")]);
    calls.push(Call::Rename { from: "/d/b".into(), to: "/d/a".into() });
    let medium = medium(&calls);
    assert_eq!(left(&medium, medium.steps, "a"), [Some(b"old".to_vec()), Some(b"new".to_vec())].into());
    assert_eq!(left(&medium, medium.steps, "b"), [None, Some(b"new".to_vec())].into());
}

#[test]
fn sectors_are_torn_one_by_one_and_a_later_write_to_one_never_survives_an_earlier() {
    let (first, second) = (vec![1; 1_024], vec![2; 8]);
    let calls = [create("/d/a"), sync("/d"), write("/d/a", 0, &first), write("/d/a", 508, &second)];
    let medium = medium(&calls);
    let found = left(&medium, medium.steps, "a");
    let full: BTreeSet<&[u8]> =
        found.iter().flatten().filter(|bytes| bytes.len() == 1_024).map(Vec::as_slice).collect();
    let halves = |bytes: &&[u8]| (bytes[0], bytes[508], bytes[515], bytes[1_023]);
    let kinds: BTreeSet<_> = full.iter().map(halves).collect();
    assert!(kinds.contains(&(1, 1, 0, 0)) && kinds.contains(&(0, 0, 1, 1)), "torn: {kinds:?}");
    assert!(kinds.contains(&(1, 2, 1, 1)) && kinds.contains(&(1, 2, 2, 1)), "torn: {kinds:?}");
    assert!(!kinds.contains(&(0, 2, 0, 0)) && !kinds.contains(&(0, 2, 2, 0)), "{kinds:?}");
}

#[test]
fn a_length_may_be_on_the_disk_before_what_was_written_there() {
    let calls = [
        create("/d/a"),
        sync("/d"),
        write("/d/a", 0, b"x"),
        sync("/d/a"),
        Call::SetLen { path: "/d/a".into(), len: 4 },
        write("/d/a", 1, b"yz"),
    ];
    let medium = medium(&calls);
    let found = left(&medium, medium.steps, "a");
    let expected = [&b"x"[..], b"x\0\0\0", b"xyz\0"];
    assert_eq!(found, expected.iter().map(|bytes| Some(bytes.to_vec())).collect());
}

#[test]
fn a_directory_may_be_asked_for_before_the_one_above_it_is_there() {
    let make = |path: &str| Call::MakeDir { path: path.into() };
    let mut medium = Medium::new("/d".into());
    let mut all =
        vec![Step::Begin(0, make("/d/a/b")), Step::Begin(1, make("/d/a")), Step::End(1), Step::End(0)];
    all.extend([Step::Begin(2, create("/d/a/b/c")), Step::End(2)]);
    medium.take(all).unwrap();
    assert!(left(&medium, medium.steps, "a/b/c").contains(&Some(Vec::new())));
}

//! The files that a data directory keeps beside its logs: missing, damaged, or another directory's.

use std::path::PathBuf;

use crate::harness::{Place, SERVE};

const ROLES: [&str; 2] = ["--role", "all"];
const KEYS: [&str; 3] = ["staff.key", "scheduling.key", "gateway.key"];

/// Where a network has run until its log of scheduling knew its gateway, which says so soon behind the start.
fn used() -> Place {
    let place = Place::new();
    let knows = || place.run(&["replay", "--role", "scheduling"]).out.contains("gatewayStarted");
    for tenths in 0..50 {
        let server = place.serve(&ROLES);
        std::thread::sleep(std::time::Duration::from_millis(100 * tenths));
        server.terminate();
        if knows() {
            return place;
        }
    }
    panic!("no gateway starts")
}

fn file(place: &Place, name: &str) -> PathBuf {
    place.path("holmes-data").join(name)
}

/// The server is refused before anything starts, with these words, and changes nothing of the directory's files.
fn refuses(place: &Place, reason: &str, words: &[&str]) {
    let before = files(place);
    let ran = place.run(&SERVE);
    ran.fails(1, words);
    assert!(ran.err.contains(&format!("reason: {reason}")), "{}", ran.err);
    assert!(ran.err.lines().count() == 2, "the reason and nothing else: {}", ran.err);
    assert_eq!(files(place), before);
}

fn files(place: &Place) -> Vec<(String, Option<Vec<u8>>)> {
    let names = KEYS.iter().chain(&["tge_at_ms"]);
    names.map(|name| ((*name).to_owned(), std::fs::read(file(place, name)).ok())).collect()
}

#[test]
fn a_key_that_is_missing_is_never_made_anew_beside_logs_that_depend_on_it() {
    let place = used();
    for (name, words) in [
        ("staff.key", ["holmes-data/staff.key is missing", "signs what only staff", "--no-staff-key"]),
        (
            "scheduling.key",
            ["holmes-data/scheduling.key is missing", "leases are signed with it", "no other key"],
        ),
        (
            "gateway.key",
            [
                "holmes-data/gateway.key is missing",
                "calls that it had open",
                "holmes keys new holmes-data/gateway.key",
            ],
        ),
    ] {
        let whole = std::fs::read(file(&place, name)).expect("it was made");
        std::fs::remove_file(file(&place, name)).expect("removed");
        refuses(&place, "KEPT_FILE_MISSING", &words);
        refuses(&place, "KEPT_FILE_MISSING", &["Restore it from a backup"]);
        std::fs::write(file(&place, name), whole).expect("restored");
    }
    place.serve(&ROLES).terminate();
}

#[test]
fn a_key_file_that_is_damaged_is_told_before_anything_starts() {
    let place = used();
    for name in KEYS {
        let whole = std::fs::read(file(&place, name)).expect("it was made");
        for damaged in [&[][..], &whole[..whole.len() / 2], &[0xff; 80]] {
            std::fs::write(file(&place, name), damaged).expect("damaged");
            let is_no_key = format!("holmes-data/{name} is no key file");
            refuses(&place, "KEPT_FILE_DAMAGED", &[&is_no_key, "Restore it from a backup"]);
        }
        std::fs::write(file(&place, name), whole).expect("restored");
    }
    place.serve(&ROLES).terminate();
}

#[test]
fn the_key_of_another_network_is_told_with_the_one_that_the_log_knows() {
    let place = used();
    assert_eq!(place.run(&["keys", "new", "other.key"]).code, 0);
    let public = |file: &str| {
        let shown = place.run(&["keys", "show", file, "-o", "json"]).json();
        shown[0]["public_key"].as_str().expect("a text").to_owned()
    };
    let (other, leases) = (public("other.key"), public("holmes-data/scheduling.key"));
    for (name, words) in [
        ("staff.key", ["the log of accounts knows no such key", &other]),
        ("scheduling.key", [&format!("the log of scheduling names {leases}"), &other]),
    ] {
        let whole = std::fs::read(file(&place, name)).expect("it was made");
        std::fs::copy(place.path("other.key"), file(&place, name)).expect("exchanged");
        refuses(&place, "KEPT_FILE_DIFFERS", &words);
        std::fs::write(file(&place, name), whole).expect("restored");
    }
    // Another gateway may be meant: it is a new one, and it says so.
    std::fs::copy(place.path("other.key"), file(&place, "gateway.key")).expect("exchanged");
    let mut server = place.serve(&ROLES);
    server.says("scheduling knows the gateway");
    let (_, said) = server.terminate();
    assert!(said.iter().any(|line| line.contains("gateway.key is of a gateway that the log")), "{said:#?}");
    let (_, said) = place.serve(&ROLES).terminate();
    assert!(!said.iter().any(|line| line.contains("gateway.key is of")), "it is known now: {said:#?}");
}

#[test]
fn the_beginning_of_the_first_epoch_is_that_of_the_logs() {
    let place = used();
    let file = file(&place, "tge_at_ms");
    let whole = std::fs::read_to_string(&file).expect("it was made");
    let says = format!("says {}: write that number into the file", whole.trim());
    std::fs::remove_file(&file).expect("removed");
    refuses(&place, "KEPT_FILE_MISSING", &["holmes-data/tge_at_ms is missing", &says]);
    for (damaged, reason, what) in [
        ("", "KEPT_FILE_DAMAGED", "holds no number"),
        ("soon", "KEPT_FILE_DAMAGED", "holds no number"),
        (&whole[..6], "KEPT_FILE_DIFFERS", &format!("says {}: it says when", &whole[..6])),
        ("1000", "KEPT_FILE_DIFFERS", "says 1000: "),
    ] {
        std::fs::write(&file, damaged).expect("damaged");
        refuses(&place, reason, &["holmes-data/tge_at_ms ", what, &says]);
    }
    std::fs::write(&file, whole.trim()).expect("written as it is told");
    place.serve(&ROLES).terminate();
}

#[test]
fn a_profile_that_is_damaged_is_told_with_what_helps() {
    let place = used();
    let file = file(&place, "profile.toml");
    let whole = std::fs::read(&file).expect("it was made");
    let helps = [
        "holmes-data/profile.toml ",
        "Restore it from a backup, or name the one that opened them (--profile)",
    ];
    let mut other = whole.clone();
    other.extend_from_slice(b"# another one\n");
    for (damaged, reason) in [
        (&b"\0"[..], "KEPT_FILE_DAMAGED"),
        (&[0xff; 9], "KEPT_FILE_DAMAGED"),
        (b"", "KEPT_FILE_DIFFERS"),
        (&other, "KEPT_FILE_DIFFERS"),
    ] {
        std::fs::write(&file, damaged).expect("damaged");
        refuses(&place, reason, &helps);
    }
    place.serve(&["--role", "all", "--profile", "demo"]).terminate();
}

#[test]
fn what_a_death_in_the_first_start_has_left_is_no_hindrance() {
    let place = Place::new();
    std::fs::create_dir(place.path("holmes-data")).expect("made");
    for name in ["staff.key", "scheduling.key", "gateway.key", "profile.toml", "tge_at_ms"] {
        std::fs::write(file(&place, &format!(".{name}.begun")), "half").expect("left");
    }
    place.serve(&ROLES).terminate();
    let left = std::fs::read_dir(place.path("holmes-data")).expect("a directory").flatten();
    let begun = left.filter(|entry| entry.file_name().to_string_lossy().ends_with(".begun"));
    assert_eq!(begun.count(), 0);
}

#[test]
fn staff_may_keep_its_key_elsewhere_and_take_another_one() {
    let place = used();
    std::fs::rename(file(&place, "staff.key"), place.path("away.key")).expect("moved");
    let server = place.serve(&["--role", "ledger,accounts", "--no-staff-key"]);
    let public = |file: &str| place.run(&["keys", "show", file, "-o", "json"]).json()[0].clone();
    assert_eq!(place.run(&["keys", "new", "next.key"]).code, 0);
    let account = public("away.key")["id"].as_str().expect("a text").to_owned();
    let offered = place.run(&["keys", "offer", "next.key", "--owner", &account]).json();
    let wanted = serde_json::json!({ "key": offered });
    let proof = ["--sign-with", "away.key", "--as", "staff"];
    let added = server.call(&[&["Accounts/AddPublicKey", &wanted.to_string()], &proof[..]].concat());
    assert_eq!(added.code, 0, "{}", added.err);
    server.terminate();
    std::fs::copy(place.path("next.key"), file(&place, "staff.key")).expect("put in its place");
    place.serve(&ROLES).terminate();
}

#[test]
fn a_file_that_no_log_depends_on_yet_is_made_when_it_is_needed() {
    let place = Place::new();
    place.serve(&["--role", "ledger,accounts"]).terminate();
    for name in ["scheduling.key", "tge_at_ms"] {
        std::fs::remove_file(file(&place, name)).expect("removed");
    }
    assert!(!file(&place, "gateway.key").exists());
    place.serve(&ROLES).terminate();
}

//! Golden bytes: one file `EVENT.hex` for every event of a service. Bytes that were released stay readable for ever, so
//! a file is never edited: a new version of an event gets a new file, and the old one must still be read as it was.

use std::collections::BTreeSet;
use std::fmt::Debug;
use std::path::Path;

use holmes_kernel::{Event, ServiceId};

/// Every event has the bytes of its file, is read back from them as it was, and no file is without its event. `BLESS=1`
/// writes the files anew, which is right only for an event that was never released.
#[track_caller]
pub fn check<E: Event + PartialEq + Debug>(dir: impl AsRef<Path>, events: &[E]) {
    compare(dir.as_ref(), events, std::env::var_os("BLESS").is_some());
}

#[track_caller]
fn compare<E: Event + PartialEq + Debug>(dir: &Path, events: &[E], bless: bool) {
    for event in events {
        let (bytes, name) = (event.encode_to_vec(), name_of(event));
        let file = dir.join(format!("{name}.hex"));
        if bless {
            std::fs::write(&file, hex(&bytes)).unwrap();
        }
        let golden = std::fs::read_to_string(file);
        let golden = golden.unwrap_or_else(|why| panic!("{name}.hex: {why}; it would be\n{}", hex(&bytes)));
        assert_eq!(hex(&bytes), golden, "{name}");
        assert_eq!(E::decode(bytes.as_slice()).unwrap(), *event);
    }
    let files = std::fs::read_dir(dir).unwrap().map(|file| file.unwrap().path());
    let golden = files.filter(|path| path.extension().is_some_and(|kind| kind == "hex"));
    let golden: BTreeSet<_> =
        golden.map(|path| path.file_stem().unwrap().to_str().unwrap().to_owned()).collect();
    let known: BTreeSet<_> = events.iter().map(|event| name_of(event).to_owned()).collect();
    assert_eq!(golden, known, "an event has no golden bytes, or bytes have no event");
    assert_eq!(events.len(), known.len(), "an event is there twice");
}

/// The names of the events that are so, in their order.
pub fn named<E: Event>(events: &[E], so: impl Fn(&E) -> bool) -> Vec<&'static str> {
    events.iter().filter(|event| so(event)).map(name_of).collect()
}

/// The events that carry a command to another service, and to which.
pub fn sends<E: Event>(events: &[E]) -> Vec<(&'static str, ServiceId)> {
    events.iter().filter_map(|event| Some((name_of(event), event.send()?.to))).collect()
}

fn name_of<E: Event>(event: &E) -> &'static str {
    event.name().expect("this build knows its own events")
}

fn hex(bytes: &[u8]) -> String {
    let digits: String = bytes.iter().map(|byte| format!("{byte:02x}")).collect();
    let lines: Vec<String> =
        digits.as_bytes().chunks(100).map(|line| String::from_utf8_lossy(line).into_owned()).collect();
    lines.join("\n") + "\n"
}

#[cfg(test)]
mod tests {
    use super::*;
    use holmes_proto::treasury::v1::event::Event as Kind;
    use holmes_proto::treasury::v1::{Event, GenesisResumed, GenesisStepDone};
    use std::panic::catch_unwind;

    fn events(step: u32) -> Vec<Event> {
        let kinds =
            [Kind::GenesisStepDone(GenesisStepDone { step }), Kind::GenesisResumed(GenesisResumed { step })];
        kinds.map(|kind| Event { event: Some(kind) }).to_vec()
    }

    fn is_refused(dir: &Path, events: &[Event]) -> bool {
        catch_unwind(|| compare(dir, events, false)).is_err()
    }

    #[test]
    fn bytes_that_were_blessed_are_right_and_others_are_not() {
        let dir = tempfile::tempdir().unwrap();
        assert!(is_refused(dir.path(), &events(2)), "no file is there yet");
        compare(dir.path(), &events(2), true);
        compare(dir.path(), &events(2), false);
        assert!(is_refused(dir.path(), &events(3)), "other bytes");
    }

    #[test]
    fn a_file_without_its_event_and_an_event_that_stands_twice_are_found() {
        let dir = tempfile::tempdir().unwrap();
        compare(dir.path(), &events(2), true);
        assert!(is_refused(dir.path(), &events(2)[..1]));
        assert!(is_refused(dir.path(), &[events(2), events(2)].concat()));
    }
}

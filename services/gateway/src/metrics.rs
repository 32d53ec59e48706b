//! What each metric of a gateway means, for those who only see its name.

use metrics::{describe_counter, describe_gauge};

/// Says it, once a process.
pub(crate) fn describe() {
    describe_gauge!("holmes_gateway_nodes", "Nodes that are attached.");
    describe_counter!(
        "holmes_gateway_attach_refused_total",
        "Nodes' streams that came to no attachment, by reason."
    );
    describe_counter!("holmes_gateway_calls_total", "Calls that have ended, by outcome.");
    describe_counter!(
        "holmes_gateway_calls_moved_total",
        "Calls that a node has lost, and that had to go on elsewhere."
    );
    describe_counter!(
        "holmes_gateway_calls_flooded_total",
        "Calls that were given up at a node because too many bytes of it waited for their renter."
    );
    describe_counter!(
        "holmes_gateway_untrue_lines_total",
        "Lines of calls that a node has signed and that do not say what was delivered, by reason."
    );
    describe_counter!(
        "holmes_gateway_reports_refused_total",
        "Lines of calls that scheduling has not metered: their renters pay nothing."
    );
}

#[cfg(test)]
mod tests {
    use std::cell::RefCell;
    use std::collections::BTreeSet;
    use std::path::Path;

    use metrics::{Counter, Gauge, Histogram, Key, KeyName, Metadata, Recorder, SharedString, Unit};

    /// Notes what is described.
    #[derive(Default)]
    struct Notes(RefCell<BTreeSet<String>>);

    impl Recorder for Notes {
        fn describe_counter(&self, key: KeyName, _: Option<Unit>, _: SharedString) {
            self.0.borrow_mut().insert(key.as_str().to_owned());
        }

        fn describe_gauge(&self, key: KeyName, _: Option<Unit>, _: SharedString) {
            self.0.borrow_mut().insert(key.as_str().to_owned());
        }

        fn describe_histogram(&self, key: KeyName, _: Option<Unit>, _: SharedString) {
            self.0.borrow_mut().insert(key.as_str().to_owned());
        }

        fn register_counter(&self, _: &Key, _: &Metadata<'_>) -> Counter {
            Counter::noop()
        }

        fn register_gauge(&self, _: &Key, _: &Metadata<'_>) -> Gauge {
            Gauge::noop()
        }

        fn register_histogram(&self, _: &Key, _: &Metadata<'_>) -> Histogram {
            Histogram::noop()
        }
    }

    /// The names of metrics in the sources of a directory.
    fn names(dir: &Path, found: &mut BTreeSet<String>) {
        for entry in std::fs::read_dir(dir).unwrap() {
            let path = entry.unwrap().path();
            if path.is_dir() {
                names(&path, found);
                continue;
            }
            let text = std::fs::read_to_string(&path).unwrap();
            let mut uses: Vec<&str> = Vec::new();
            for maker in ["counter!(", "gauge!(", "histogram!("] {
                uses.extend(text.split(&["metrics::", maker].concat()).skip(1));
            }
            found.extend(uses.iter().filter_map(|rest| Some(rest.split('"').nth(1)?.to_owned())));
        }
    }

    #[test]
    fn every_metric_is_described_and_nothing_else_is() {
        let notes = Notes::default();
        metrics::with_local_recorder(&notes, super::describe);
        let mut used = BTreeSet::new();
        names(&Path::new(env!("CARGO_MANIFEST_DIR")).join("src"), &mut used);
        assert!(used.len() > 3, "{used:?}");
        assert_eq!(used, *notes.0.borrow());
    }
}

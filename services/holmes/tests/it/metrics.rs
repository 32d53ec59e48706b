//! What the admin port tells of a running network: the page of metrics says all of it, and nothing else.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write as _;
use std::path::{Path, PathBuf};

use holmes_runtime::measure::{Family, Kind};
use serde_json::json;

use crate::docs::compare;
use crate::harness::{Place, Server, until};
use crate::nats::Broker;
use crate::paid;

/// Where people find them.
const RULES: &str = include_str!("../../../../deploy/prometheus/holmes.rules.yaml");

fn families() -> impl Iterator<Item = &'static Family> {
    holmes_runtime::measure::FAMILIES.iter().chain(holmes_gateway::FAMILIES).copied()
}

fn type_of(family: &Family) -> &'static str {
    match family.kind {
        Kind::Counter => "counter",
        Kind::Gauge => "gauge",
        Kind::Histogram(_) => "histogram",
    }
}

/// What a value counts, as the name's end says.
fn unit(family: &Family) -> &'static str {
    let name = family.name.trim_end_matches("_total");
    let units = ["seconds", "bytes", "events", "tokens"];
    units.into_iter().find(|unit| name.ends_with(&format!("_{unit}"))).unwrap_or("")
}

/// The part that a family belongs to.
fn part(family: &Family) -> &'static str {
    family.name.split('_').nth(1).expect("holmes_<part>_…")
}

const PARTS: [(&str, &str); 8] = [
    ("build", "The process"),
    ("log", "Services and their logs"),
    ("feed", "Services that follow each other"),
    ("relay", "Streams on NATS"),
    ("grpc", "The gRPC port"),
    ("port", "Connections of both ports"),
    ("trace", "Traces"),
    ("gateway", "The gateway: renters' calls and nodes"),
];

const INTRO: &str = "# Metrics

What `GET /metrics` on the admin port (`server.admin`) tells, as Prometheus text; a test holds this page and a running
network together. Seconds and bytes are the units; a histogram has `_bucket`, `_sum` and `_count`. Labels are bounded:
services, methods, models of the market, reasons. No account, node or call is ever one.

```yaml
scrape_configs:
  - job_name: holmes
    static_configs:
      - targets: [\"127.0.0.1:7071\"] # server.admin; keep it unreachable from outside
```

The executor has no port, and so no metrics of its own: what it delivers the gateway measures, what it refuses stands in
its log. Reasons that a table does not name are counted as `OTHER`.

Whoever knows other servers of models finds here

| here | vLLM | OpenTelemetry |
| --- | --- | --- |
| `holmes_gateway_first_token_seconds` | `vllm:time_to_first_token_seconds` | `gen_ai.server.time_to_first_token` |
| `holmes_gateway_output_token_seconds` | `vllm:request_time_per_output_token_seconds` | `gen_ai.server.time_per_output_token` |
| `holmes_gateway_call_seconds` | `vllm:e2e_request_latency_seconds` | `gen_ai.server.request.duration` |
| `holmes_gateway_prompt_tokens_total`, `holmes_gateway_completion_tokens_total` | `vllm:prompt_tokens_total`, `vllm:generation_tokens_total` | `gen_ai.client.token.usage` |
| `holmes_gateway_calls_in_progress` | `vllm:num_requests_running` | |
";

fn page() -> String {
    let mut text = INTRO.to_owned();
    let known = |family: &Family| PARTS.iter().any(|(prefix, _)| *prefix == part(family));
    families().for_each(|family| assert!(known(family), "{} belongs to no part of the page", family.name));
    for (prefix, title) in PARTS {
        let head = "| metric | type, unit | labels | what it says | what to do with it |\n| --- | --- | --- | --- | --- |";
        write!(text, "\n## {title}\n\n{head}\n").expect("a string");
        for family in families().filter(|family| part(family) == prefix) {
            let kind = [type_of(family), unit(family)].map(str::to_owned);
            let kind = kind.iter().filter(|word| !word.is_empty()).cloned().collect::<Vec<_>>().join(", ");
            let labels: Vec<String> = family.labels.iter().map(|label| format!("`{label}`")).collect();
            let (name, labels) = (family.name, labels.join(", "));
            let [means, advice] = [family.means, family.advice].map(|words| words.replace('*', "\\*"));
            writeln!(text, "| `{name}` | {kind} | {labels} | {means} | {advice} |").expect("a string");
        }
    }
    write!(
        text,
        "\n## Alerts\n\n`deploy/prometheus/holmes.rules.yaml`, for `rule_files`:\n\n```yaml\n{RULES}```\n"
    )
    .expect("a string");
    text
}

/// A family as a scrape shows it.
#[derive(Debug, Default, PartialEq)]
struct Shown {
    kind: String,
    help: String,
    labels: BTreeSet<String>,
}

/// What a scrape shows, by family.
fn shown(text: &str) -> BTreeMap<String, Shown> {
    let mut shown: BTreeMap<String, Shown> = BTreeMap::new();
    for line in text.lines().filter(|line| !line.is_empty()) {
        let mut words = line.splitn(4, ' ');
        match (words.next(), words.next()) {
            (Some("#"), Some("HELP")) => {
                let (name, help) = (words.next().expect("a name"), words.next().unwrap_or_default());
                shown.entry(name.to_owned()).or_default().help = help.to_owned();
            }
            (Some("#"), Some("TYPE")) => {
                let (name, kind) = (words.next().expect("a name"), words.next().expect("a type"));
                shown.entry(name.to_owned()).or_default().kind = kind.to_owned();
            }
            _ => {
                let (series, _) = line.rsplit_once(' ').expect("a value");
                let (name, labels) = series.split_once('{').unwrap_or((series, "}"));
                let stem = ["_bucket", "_sum", "_count"].iter().find_map(|end| name.strip_suffix(end));
                let name = stem.filter(|stem| shown.contains_key(*stem)).unwrap_or(name);
                let family = shown.get_mut(name).unwrap_or_else(|| panic!("{line} without HELP and TYPE"));
                let names =
                    labels.trim_end_matches('}').split("\",").filter_map(|label| label.split_once('='));
                family.labels.extend(names.map(|(name, _)| name.to_owned()).filter(|name| name != "le"));
            }
        }
    }
    shown
}

/// A call by each protocol.
fn call(server: &Server<'_>) {
    let (key, _) = paid::payer(server, 25_000_000);
    let called = server.call(&["Inference/Generate", &paid::generate(16).to_string(), "--key", &key]);
    assert_eq!(called.code, 0, "{}", called.err);
    let answer = paid::chat(server, &key);
    assert!(answer.starts_with("HTTP/1.1 200"), "{answer}");
}

/// The sum of a scrape's series whose lines begin so.
fn sum(text: &str, begins: &str) -> f64 {
    let values = text.lines().filter(|line| line.starts_with(begins));
    values.filter_map(|line| line.rsplit_once(' ')?.1.parse::<f64>().ok()).sum()
}

#[test]
fn the_page_of_metrics_is_what_a_running_network_tells() {
    compare("metrics.md", &page());
    let broker = Broker::new("");
    let place = match &broker {
        Some(broker) => paid::network().with("HOLMES__BUS__NATS", &broker.address),
        None => paid::network(),
    };
    let carried = broker.is_some();
    assert!(!carried || place.run(&["migrate"]).code == 0);
    let server = place.serve(&["--role", "all"]);
    let nodes = paid::nodes(&place, &server);
    call(&server);
    let text = server.metrics();
    let told = families().filter(|family| carried || part(family) != "relay").map(|family| {
        let labels = family.labels.iter().map(|label| (*label).to_owned()).collect();
        let shown = Shown { kind: type_of(family).to_owned(), help: family.means.to_owned(), labels };
        (family.name.to_owned(), shown)
    });
    assert_eq!(shown(&text), told.collect::<BTreeMap<_, _>>());

    // What is counted is what happened.
    let model = paid::MODEL;
    for outcome in [["grpc", "Generate"], ["http", "chat/completions"]] {
        let [protocol, method] = outcome;
        let series = format!(
            "holmes_gateway_calls_total{{protocol=\"{protocol}\",method=\"{method}\",outcome=\"ENDED\"}}"
        );
        assert_eq!(sum(&text, &series), 1.0, "{series}");
    }
    assert_eq!(sum(&text, "holmes_gateway_calls_total"), 2.0, "no call is counted twice");
    let answers =
        |family: &str| sum(&text, &format!("holmes_gateway_{family}_seconds_count{{model=\"{model}\"}}"));
    assert_eq!([answers("first_token"), answers("call")], [2.0; 2]);
    assert!(answers("output_token") <= 2.0, "an answer that came all at once has no pace");
    assert!(sum(&text, &format!("holmes_gateway_prompt_tokens_total{{model=\"{model}\"}}")) > 20.0);
    let written = sum(&text, &format!("holmes_gateway_completion_tokens_total{{model=\"{model}\"}}"));
    assert!((2.0..=24.0).contains(&written), "{written}");
    assert_eq!(sum(&text, "holmes_gateway_nodes "), nodes.len() as f64);
    let slots = sum(&text, &format!("holmes_gateway_slots{{model=\"{model}\""));
    assert_eq!(slots, 4.0 * nodes.len() as f64, "used and free are all there are");
    assert_eq!(
        sum(&text, "holmes_gateway_leases"),
        sum(&text, &format!("holmes_gateway_slots{{model=\"{model}\",state=\"used\""))
    );
    assert_eq!(sum(&text, "holmes_gateway_calls_in_progress "), 0.0);
    assert_eq!(sum(&text, "holmes_log_serving"), 7.0);
    assert!(sum(&text, "holmes_log_frame_events_sum") >= sum(&text, "holmes_log_append_seconds_count"));
    assert_eq!(sum(&text, "holmes_feed_parked") + sum(&text, "holmes_relay_halted"), 0.0);
    assert!(!carried || sum(&text, "holmes_relay_publish_seconds_count") > 7.0);
    assert!(sum(&text, "holmes_port_connections{port=\"grpc\"}") >= nodes.len() as f64);
    let streams = |kind: &str| sum(&text, &format!("holmes_grpc_places_used{{kind=\"{kind}\"}}"));
    assert_eq!(
        [streams("streams"), streams("guest_streams")],
        [nodes.len() as f64, 0.0],
        "nodes have proven themselves"
    );
}

#[test]
fn a_refusal_is_counted_by_its_reason_and_makes_no_label_up() {
    let place = paid::network();
    let server = place.serve(&["--role", "all"]);
    let refused = |words: &[&str]| assert_ne!(server.call(words).code, 0);
    refused(&["Accounts/CreateAccount", "{}", "--key", "hk_nobody"]);
    let (key, _) = paid::payer(&server, 0);
    let wanted =
        json!({ "model": "no \"such\" model", "work": { "text": "x", "max_tokens": 1 } }).to_string();
    refused(&["Inference/Generate", &wanted, "--key", &key]);
    let text = server.metrics();
    let slots = format!("holmes_gateway_slots{{model=\"{}\",state=\"free\"}} 0", paid::MODEL);
    assert!(text.contains(&slots), "a model that nobody serves has no slots, which is said: {text}");
    assert!(sum(&text, "holmes_grpc_refused_total{reason=\"KEY_UNKNOWN\"}") >= 1.0, "{text}");
    let series =
        "holmes_gateway_calls_total{protocol=\"grpc\",method=\"Generate\",outcome=\"MODEL_NOT_FOUND\"}";
    assert_eq!(sum(&text, series), 1.0);
    assert!(!text.contains("such"), "a renter has made a label up");
}

#[test]
fn a_collector_that_is_away_is_named_and_the_spans_are_counted() {
    let place = Place::new();
    std::fs::write(place.path("holmes.toml"), "[telemetry]\notlp = \"http://127.0.0.1:1\"\n")
        .expect("written");
    let server = place.serve(&["-c", "holmes.toml"]);
    assert_eq!(sum(&server.metrics(), "holmes_trace_spans_dropped_total "), 0.0);
    until("spans to be dropped", || {
        server.call(&["Accounts/GetAccount", "{}"]); // refused, and traced
        (sum(&server.metrics(), "holmes_trace_spans_dropped_total ") > 0.0).then_some(())
    });
    let (status, lines) = server.terminate();
    assert!(status.success(), "{lines:#?}");
    let told =
        lines.iter().filter(|line| line.contains("WARN") && line.contains("do not reach their collector"));
    let told: Vec<_> = told.collect();
    assert!(told.len() == 1 && told[0].contains("http://127.0.0.1:1"), "once: {lines:#?}");
}

#[test]
fn the_alerts_ask_for_metrics_that_there_are() {
    let names: BTreeSet<&str> = families().map(|family| family.name).collect();
    let word = |c: char| !(c.is_ascii_alphanumeric() || c == '_');
    let mut asked = RULES.split(word).filter(|word| word.starts_with("holmes_")).peekable();
    assert!(asked.peek().is_some());
    for name in asked {
        let stem = name.trim_end_matches("_bucket");
        assert!(names.contains(stem), "{name}");
    }
}

/// The sources below a directory that make metrics by themselves.
fn makers(dir: &Path, found: &mut Vec<PathBuf>) {
    for entry in std::fs::read_dir(dir).expect("a directory") {
        let path = entry.expect("an entry").path();
        if path.is_dir() {
            makers(&path, found);
        } else if path.extension().is_some_and(|end| end == "rs") {
            let text = std::fs::read_to_string(&path).expect("a source");
            let made = ["counter!", "gauge!", "histogram!"]
                .iter()
                .any(|made| text.contains(&format!("metrics::{made}")));
            found.extend(made.then_some(path));
        }
    }
}

#[test]
fn metrics_are_made_by_their_families_alone() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("../..");
    let mut found = Vec::new();
    for tree in ["crates", "services"] {
        for entry in std::fs::read_dir(root.join(tree)).expect("a directory") {
            makers(&entry.expect("an entry").path().join("src"), &mut found);
        }
    }
    assert!(found.is_empty(), "holmes_runtime::families! is the one way: {found:?}");
}

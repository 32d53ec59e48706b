//! What is measured: of logs, of those who follow them, of ports.

use holmes_kernel::ports::Journal as _;
use holmes_runtime::Clock;
use holmes_runtime::driver::{self, QUEUE, Settings};
use holmes_runtime::feed::follow;
use holmes_runtime::measure::{self, Kind, Reasons};
use metrics::LocalRecorderGuard;
use metrics_exporter_prometheus::{PrometheusBuilder, PrometheusHandle, PrometheusRecorder};

use crate::ear::{self, Ear};
use crate::support::{Fault, Faulty, START, Shop, breathe, deposit, patiently, poke, reason, until};
use crate::till::{self, Command, Failure, Till};
use crate::toy::{Up, known, say, with_key, words};

/// Everything that is measured on this thread, where all of a test's tasks run.
struct Page(PrometheusHandle);

fn measured() -> (Page, LocalRecorderGuard<'static>) {
    // A test's, for as long as its process lives: the guard must outlive nothing of it.
    let recorder: &'static PrometheusRecorder =
        Box::leak(Box::new(PrometheusBuilder::new().build_recorder()));
    (Page(recorder.handle()), metrics::set_default_local_recorder(recorder))
}

impl Page {
    fn value(&self, series: &str) -> f64 {
        measure::look();
        let page = self.0.render();
        let line = page.lines().find_map(|line| line.strip_prefix(series)?.strip_prefix(' ')?.parse().ok());
        line.unwrap_or_else(|| panic!("no {series} in:\n{page}"))
    }
}

#[tokio::test]
async fn a_log_tells_its_frames_its_queue_its_refusals_and_whether_it_answers() {
    let (page, _guard) = measured();
    let journal = Faulty::memory().await;
    let shop = Shop::open(&journal).await;
    assert_eq!(page.value("holmes_log_serving{service=\"till\"}"), 1.0);
    journal.fail_next(Fault::UnknownLost);
    shop.ask(deposit(1, 1)).await.unwrap();
    assert_eq!(page.value("holmes_log_head{service=\"till\"}"), 2.0);
    assert_eq!(page.value("holmes_log_appends_repeated_total{service=\"till\"}"), 1.0);
    for family in ["append_seconds", "frame_bytes", "frame_events"] {
        assert_eq!(page.value(&format!("holmes_log_{family}_count{{service=\"till\"}}")), 1.0, "{family}");
    }
    let frames = journal.frames().await;
    let bytes = frames.last().unwrap().bytes().len() as f64;
    assert_eq!(page.value("holmes_log_frame_bytes_sum{service=\"till\"}"), bytes);

    journal.told.appends.shut();
    let (mut asked, mut refused) = (Vec::new(), 0.0);
    for n in 0..3 * QUEUE {
        let mut one = Box::pin(shop.ask(deposit(1, 1)));
        match poke(&mut one) {
            std::task::Poll::Ready(answer) => refused += f64::from(u8::from(answer.is_err())),
            std::task::Poll::Pending => asked.push(one),
        }
        if n % 1_000 == 0 {
            breathe().await;
        }
    }
    assert!(refused > 0.0);
    assert_eq!(page.value("holmes_log_refused_total{service=\"till\",reason=\"QUEUE_FULL\"}"), refused);
    assert_eq!(
        page.value("holmes_log_queue_length{service=\"till\"}"),
        QUEUE as f64,
        "a disk that stands still"
    );
    journal.told.appends.open();
    for one in asked {
        patiently(one).await.unwrap();
    }
    assert_eq!(page.value("holmes_log_queue_length{service=\"till\"}"), 0.0);
    shop.close().await;
    assert_eq!(page.value("holmes_log_serving{service=\"till\"}"), 0.0);
}

#[tokio::test]
async fn a_log_tells_how_much_a_restart_replays_and_what_was_rebuilt() {
    let (page, _guard) = measured();
    let journal = Faulty::memory().await;
    let clock = Clock::manual(START);
    let shop = Shop::with(&journal, clock.clone(), |settings| settings.snapshot_every = 10).await;
    assert_eq!(page.value("holmes_log_snapshot_head{service=\"till\"}"), 0.0);
    for _ in 0..15 {
        shop.ask(deposit(1, 1)).await.unwrap();
    }
    let kept = || async { page.value("holmes_log_snapshot_head{service=\"till\"}") >= 10.0 };
    until(kept).await;
    let bad = Command::Fail { how: Failure::Evolve, n: 1 };
    assert_eq!(reason(shop.ask(bad).await), "POISONED");
    assert_eq!(page.value("holmes_log_rebuilt_total{service=\"till\"}"), 1.0);
    shop.close().await;
    assert!(page.value("holmes_log_replay_seconds{service=\"till\"}") >= 0.0);
    drop(Shop::open(&journal).await);
    assert!(page.value("holmes_log_snapshot_head{service=\"till\"}") >= 10.0, "known after a restart too");
}

#[tokio::test]
async fn who_follows_a_log_tells_how_far_behind_it_is_also_when_it_is_parked() {
    let (page, _guard) = measured();
    let journal = Faulty::memory().await;
    journal.provision(&ear::provision(START)).await.unwrap();
    let settings = |log| Settings::new(log, Clock::manual(START.after_millis(1_000)));
    let source = driver::start::<Till, _>(journal.clone(), settings(till::log(1))).await.unwrap();
    let reader = driver::start::<Ear, _>(journal.clone(), settings(ear::LOG)).await.unwrap();
    let clock = Clock::manual(START.after_millis(2_000));
    let task = tokio::spawn(follow(reader.handle.clone(), source.feed.clone(), clock));
    let lag = || page.value("holmes_feed_lag_events{reader=\"ear\",source=\"till\"}");
    let shop = Shop { till: source.handle.clone(), running: Some(source), clock: Clock::manual(START) };
    shop.ask(deposit(1, 1_000)).await.unwrap();
    until(|| async { lag() == 0.0 }).await;
    journal.told.reads.shut();
    for _ in 0..3 {
        shop.ask(deposit(1, 1)).await.unwrap();
    }
    assert_eq!(lag(), 3.0);
    journal.told.reads.open();
    until(|| async { lag() == 0.0 }).await;
    let parked = || page.value("holmes_feed_parked{reader=\"ear\",source=\"till\"}");
    assert_eq!(parked(), 0.0);
    for units in [ear::DEAFENING, 1] {
        let pay = Command::Pay { from: till::account(1), to: till::ABROAD, units };
        shop.ask(pay).await.unwrap();
    }
    patiently(task).await.unwrap();
    assert_eq!(parked(), 1.0);
    assert!(lag() >= 2.0, "a source that is parked falls behind for all to see");
}

#[tokio::test]
async fn a_port_tells_its_connections_its_places_and_what_it_refuses() {
    let (page, _guard) = measured();
    let up = Up::start(|settings| settings.max_calls = 1).await;
    let used = |kind: &str| page.value(&format!("holmes_grpc_places_used{{kind=\"{kind}\"}}"));
    let channel = up.channel().await;
    assert_eq!((used("calls"), page.value("holmes_grpc_places{kind=\"calls\"}")), (0.0, 1.0));
    let first = tokio::spawn({
        let channel = channel.clone();
        async move { say(&channel, known(1)).await }
    });
    up.inside(1).await;
    assert_eq!(used("calls"), 1.0);
    assert_eq!(page.value("holmes_port_connections{port=\"grpc\"}"), 1.0);
    say(&channel, known(0)).await.expect_err("there is no place");
    say(&channel, with_key(words(0), "nobody's")).await.expect_err("nobody has the key");
    for reason in ["OVERLOADED", "KEY_UNKNOWN"] {
        assert_eq!(page.value(&format!("holmes_grpc_refused_total{{reason=\"{reason}\"}}")), 1.0);
    }
    up.go_on();
    patiently(first).await.unwrap().unwrap();
    until(|| async { used("calls") == 0.0 }).await;
    let calls = |code: &str| {
        page.value(&format!("holmes_grpc_call_seconds_count{{method=\"other\",code=\"{code}\"}}"))
    };
    assert_eq!((calls("Ok"), calls("ResourceExhausted"), calls("Unauthenticated")), (1.0, 1.0, 1.0));
}

#[test]
fn reasons_that_nobody_has_named_are_counted_together() {
    static REFUSED: measure::Family = measure::Family {
        name: "holmes_test_refused_total",
        kind: Kind::Counter,
        labels: &["port", "reason"],
        means: "",
        advice: "",
    };
    let (page, _guard) = measured();
    let reasons = Reasons::new(&REFUSED, &["a"], &["ONE", "TWO"]);
    for reason in ["TWO", "x\"} 1\n", "ANY"] {
        reasons.count(reason);
    }
    for (reason, count) in [("ONE", 0.0), ("TWO", 1.0), (measure::OTHER, 2.0)] {
        let series = format!("holmes_test_refused_total{{port=\"a\",reason=\"{reason}\"}}");
        assert_eq!(page.value(&series), count, "{series}");
    }
}

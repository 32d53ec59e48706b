//! The same suite on a real nats-server: the one that HOLMES_NATS names. `cargo xtask infra up` starts one.

use std::time::Duration;

use holmes_kernel::ports::{Bus as _, BusError};
use holmes_kernel::{LogId, ServiceId};
use holmes_store::bus::nats::{Bus, Keep, Names, Options, Proof};
use holmes_store::conformance::bus::{Broker, message};

const KEEP: Keep = Keep { replicas: Some(1), age: Some(Duration::from_secs(3_600)) };

/// Streams of a cell of its own, which go with it.
struct Nats {
    cell: u16,
    bus: Bus,
}

impl Drop for Nats {
    fn drop(&mut self) {
        let gone = async {
            for svc in 1..=3 {
                self.bus.remove(LogId::new(self.cell, ServiceId(svc))).await.unwrap();
            }
        };
        tokio::task::block_in_place(|| tokio::runtime::Handle::current().block_on(gone));
    }
}

fn names() -> Names {
    Names::new((1..=3).map(|svc| (ServiceId(svc), format!("s{svc}"))))
}

fn options() -> Options {
    Options {
        servers: vec![std::env::var("HOLMES_NATS").expect("asked only where it is set")],
        name: "tests".into(),
        proof: Proof::default(),
        names: names(),
    }
}

impl Broker for Nats {
    type Bus = Bus;

    fn missing() -> Option<String> {
        let what = "HOLMES_NATS names no nats-server; `cargo xtask infra up` starts one, `cargo xtask test` does so by itself";
        std::env::var_os("HOLMES_NATS").is_none().then(|| what.to_owned())
    }

    async fn fresh() -> Nats {
        let mut drawn = [0; 2];
        getrandom::fill(&mut drawn).unwrap();
        let cell = u16::from_le_bytes(drawn).max(2);
        let bus = Bus::connect(options()).await.unwrap();
        for svc in 1..=3 {
            bus.migrate(LogId::new(cell, ServiceId(svc)), KEEP).await.unwrap();
        }
        Nats { cell, bus }
    }

    fn cell(&self) -> u16 {
        self.cell
    }

    async fn handle(&self) -> Bus {
        Bus::connect(options()).await.unwrap()
    }

    async fn lose(&self, log: LogId) {
        self.bus.remove(log).await.unwrap();
        self.bus.migrate(log, KEEP).await.unwrap();
    }
}

holmes_store::bus_conformance_suite!(Nats);

async fn broker() -> Option<Nats> {
    if let Some(what) = Nats::missing() {
        eprintln!("NOT TESTED: {what}");
        return None;
    }
    Some(Nats::fresh().await)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn migrating_again_keeps_what_is_there_and_sets_right_what_is_said_otherwise() {
    let Some(broker) = broker().await else { return };
    let log = LogId::new(broker.cell, ServiceId(1));
    broker.bus.publish(0, &message(log, 0, 3)).await.unwrap();
    let longer = Keep { age: Some(Duration::from_secs(7_200)), ..KEEP };
    for keep in [longer, Keep::default()] {
        broker.bus.migrate(log, keep).await.unwrap();
        assert_eq!(broker.bus.show(log).await.unwrap().age, longer.age.unwrap(), "what is not said stays");
    }
    let shown = broker.bus.show(log).await.unwrap();
    assert_eq!((shown.messages, shown.last.unwrap().message.last, shown.replicas), (1, 3, 1));
    assert_eq!(shown.stream, format!("EVT_{}_S1", broker.cell));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_log_without_a_stream_is_missing_and_says_what_makes_one() {
    let Some(broker) = broker().await else { return };
    let log = LogId::new(1, ServiceId(9));
    for refused in [
        broker.bus.last(log).await.map(drop),
        broker.bus.publish(0, &message(log, 0, 1)).await.map(drop),
        broker.bus.listen(log, 0).await.map(drop),
        broker.bus.show(log).await.map(drop),
    ] {
        let Err(why @ BusError::Missing(_)) = refused else { panic!("{refused:?}") };
        assert_eq!(why.to_string(), "there is no stream EVT_1_9: run `holmes migrate`");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_somebody_else_put_into_a_stream_is_not_taken_for_ours() {
    let Some(broker) = broker().await else { return };
    let log = LogId::new(broker.cell, ServiceId(1));
    let theirs = async_nats::connect(std::env::var("HOLMES_NATS").unwrap()).await.unwrap();
    theirs.publish(names().subject(log), "good day".into()).await.unwrap();
    theirs.flush().await.unwrap();
    let refused = async {
        loop {
            match broker.bus.last(log).await {
                Ok(None) => tokio::time::sleep(Duration::from_millis(20)).await, // it is on its way
                told => return told,
            }
        }
    };
    let Err(BusError::Refused(why)) = refused.await else { panic!("taken for ours") };
    assert!(why.contains("only its services may publish"), "{why}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn servers_that_are_away_are_told_by_their_address() {
    let servers = vec!["127.0.0.1:9".into()];
    let away = Options { servers, name: "tests".into(), proof: Proof::default(), names: names() };
    let Err(BusError::Away(why)) = Bus::connect(away.clone()).await else { panic!("connected") };
    assert!(why.contains("127.0.0.1:9"), "{why}");
    let later = Bus::open(away).await.unwrap();
    let asked = later.last(LogId::new(1, ServiceId(1))).await;
    assert!(matches!(&asked, Err(BusError::Away(why)) if why.contains("127.0.0.1:9")), "{asked:?}");
}

//! The admin port: metrics, liveness, readiness, also while the process goes down.

use std::net::SocketAddr;

use holmes_runtime::driver::Status;
use holmes_runtime::server::{self, serve_admin};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;
use tokio::sync::watch;
use tokio::task::JoinHandle;

use crate::support::patiently;
use crate::toy::{Up, metrics, say, words};

struct Admin {
    address: SocketAddr,
    stop: watch::Sender<bool>,
    machines: Vec<watch::Sender<Status>>,
    task: JoinHandle<std::io::Result<()>>,
}

impl Admin {
    async fn start() -> Admin {
        let listener = server::bind(SocketAddr::from(([127, 0, 0, 1], 0)), "server.admin").await.unwrap();
        let address = listener.local_addr().unwrap();
        let (stop, stopped) = watch::channel(false);
        let machines: Vec<_> = (0..2).map(|_| watch::Sender::new(Status::Serving)).collect();
        let seen =
            ["ledger", "staking"].into_iter().zip(machines.iter().map(watch::Sender::subscribe)).collect();
        let task = tokio::spawn(serve_admin(listener, metrics(), watch::channel(seen).1, stopped));
        Admin { address, stop, machines, task }
    }

    /// Status and body of a page.
    async fn get(&self, path: &str) -> (u16, String) {
        let mut stream = TcpStream::connect(self.address).await.unwrap();
        let request = format!("GET {path} HTTP/1.1\r\nhost: admin\r\nconnection: close\r\n\r\n");
        stream.write_all(request.as_bytes()).await.unwrap();
        let mut answer = String::new();
        patiently(stream.read_to_string(&mut answer)).await.unwrap();
        let (head, body) = answer.split_once("\r\n\r\n").unwrap();
        (head.split(' ').nth(1).unwrap().parse().unwrap(), body.to_owned())
    }
}

#[tokio::test]
async fn metrics_are_prometheus_text_and_callers_make_no_labels_up() {
    let admin = Admin::start().await;
    let up = Up::start(|_| {}).await;
    let channel = up.channel().await;
    say(&channel, words(0)).await.unwrap();
    let (code, text) = admin.get("/metrics").await;
    assert_eq!(code, 200);
    assert!(text.contains("holmes_grpc_call_seconds_bucket"), "{text}");
    for line in text.lines().filter(|line| !line.starts_with('#') && !line.is_empty()) {
        let (series, value) = line.rsplit_once(' ').unwrap();
        value.parse::<f64>().unwrap_or_else(|why| panic!("{line}: {why}"));
        let name = series.split('{').next().unwrap();
        assert!(name.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'_' || b == b':'), "{line}");
        assert_eq!(series.contains('{'), series.ends_with('}'), "{line}");
        assert!(!series.contains("holmes.toy"), "a path that is not ours became a label: {line}");
    }
}

#[tokio::test]
async fn readiness_is_that_of_every_machine() {
    let admin = Admin::start().await;
    assert_eq!(admin.get("/healthz").await, (200, "alive\n".into()));
    assert_eq!(admin.get("/readyz").await, (200, "ready\n".into()));
    admin.machines[1].send_replace(Status::Halted("broken".into()));
    let (code, text) = admin.get("/readyz").await;
    assert_eq!(code, 503);
    assert!(text.contains("staking") && text.contains("broken") && !text.contains("ledger"), "{text}");
    assert_eq!(admin.get("/healthz").await.0, 200, "a halted process is alive: a restart would not help");
    admin.machines[1].send_replace(Status::Serving);
    assert_eq!(admin.get("/readyz").await.0, 200);
    assert_eq!(admin.get("/nowhere").await.0, 404);
}

#[tokio::test]
async fn a_process_that_drains_says_so_until_its_machines_have_ended() {
    let mut admin = Admin::start().await;
    let mut idle = TcpStream::connect(admin.address).await.unwrap();
    idle.write_all(b"GET /metr").await.unwrap(); // and never the rest
    admin.stop.send_replace(true);
    assert_eq!(admin.get("/readyz").await, (503, "draining\n".into()));
    assert_eq!(admin.get("/metrics").await.0, 200);
    admin.machines.clear();
    patiently(admin.task).await.unwrap().unwrap();
}

//! The HTTP port, by clients that are slow on purpose.

use std::net::SocketAddr;
use std::time::Duration;

use axum::routing::get;
use holmes_runtime::server::{Connection, Most, Web, bind, serve_http};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;
use tokio::sync::watch;
use tokio::task::JoinHandle;

use crate::support::patiently;

struct Port {
    address: SocketAddr,
    stop: watch::Sender<bool>,
    task: JoinHandle<()>,
}

async fn open(connections: usize, header_ms: u64) -> Port {
    let listener = bind(SocketAddr::from(([127, 0, 0, 1], 0)), "gateway.http").await.unwrap();
    let address = listener.local_addr().unwrap();
    let (stop, stopped) = watch::channel(false);
    let late = || async {
        tokio::time::sleep(Duration::from_millis(300)).await;
        "late"
    };
    let proves = |axum::Extension(connection): axum::Extension<Connection>| async move {
        connection.proven();
        "known"
    };
    let router = axum::Router::new().route("/late", get(late)).route("/prove", get(proves));
    let most = Most { connections, per_address: 100 };
    let web = Web { most, header: Duration::from_millis(header_ms), drain: Duration::from_secs(5) };
    let task = tokio::spawn(serve_http(listener, router, web, stopped));
    Port { address, stop, task }
}

async fn ask(stream: &mut TcpStream, path: &str) -> String {
    stream.write_all(format!("GET {path} HTTP/1.1\r\nhost: h\r\n\r\n").as_bytes()).await.unwrap();
    let mut answer = vec![0; 4_096];
    let count = patiently(stream.read(&mut answer)).await.unwrap();
    String::from_utf8(answer[..count].to_vec()).unwrap()
}

async fn is_closed(stream: &mut TcpStream) {
    let mut rest = Vec::new();
    let _ = patiently(stream.read_to_end(&mut rest)).await; // a reset is an end as well
}

#[tokio::test]
async fn a_request_whose_head_does_not_come_costs_its_connection() {
    let port = open(9, 200).await;
    let mut slow = TcpStream::connect(port.address).await.unwrap();
    slow.write_all(b"GET /prove HTTP/1.1\r\nx-slow: ").await.unwrap();
    let mut silent = TcpStream::connect(port.address).await.unwrap();
    let mut kept = TcpStream::connect(port.address).await.unwrap();
    assert!(ask(&mut kept, "/prove").await.ends_with("known"));
    for stream in [&mut slow, &mut silent, &mut kept] {
        is_closed(stream).await;
    }
    let mut next = TcpStream::connect(port.address).await.unwrap();
    assert!(ask(&mut next, "/late").await.ends_with("late"), "an answer may take longer than a head");
}

#[tokio::test]
async fn a_full_port_lets_in_who_comes_in_place_of_the_oldest_who_has_proven_nothing() {
    let port = open(2, 60_000).await;
    let mut known = TcpStream::connect(port.address).await.unwrap();
    assert!(ask(&mut known, "/prove").await.ends_with("known"));
    let mut silent = TcpStream::connect(port.address).await.unwrap();
    for _ in 0..5 {
        let mut next = TcpStream::connect(port.address).await.unwrap();
        is_closed(&mut silent).await;
        std::mem::swap(&mut silent, &mut next);
    }
    assert!(ask(&mut known, "/late").await.ends_with("late"));
}

#[tokio::test]
async fn an_answer_in_progress_ends_when_the_process_stops() {
    let port = open(9, 60_000).await;
    let mut asking = TcpStream::connect(port.address).await.unwrap();
    let mut idle = TcpStream::connect(port.address).await.unwrap();
    assert!(ask(&mut idle, "/prove").await.ends_with("known"));
    let stop = port.stop.clone();
    let (answer, ()) = tokio::join!(ask(&mut asking, "/late"), async move {
        tokio::time::sleep(Duration::from_millis(100)).await;
        stop.send_replace(true);
    });
    assert!(answer.ends_with("late"), "{answer}");
    patiently(port.task).await.unwrap();
    assert!(TcpStream::connect(port.address).await.is_err());
}

//! What answers at an address where a gRPC call found nobody who understood it.

use std::time::Duration;

use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;
use tokio::time::timeout;

/// How long it may take to say so.
const PATIENCE: Duration = Duration::from_secs(2);

/// Whether what listens at `http://host:port` speaks HTTP/1: a gRPC port does not.
pub async fn speaks_http1(url: &str) -> bool {
    let Some(authority) = url.strip_prefix("http://").map(|rest| rest.trim_end_matches('/')) else {
        return false;
    };
    let address = if authority.rsplit(':').next().is_some_and(|port| port.parse::<u16>().is_ok()) {
        authority.to_owned()
    } else {
        format!("{authority}:80")
    };
    timeout(PATIENCE, answers_http1(&address)).await.is_ok_and(|answered| answered.unwrap_or(false))
}

async fn answers_http1(address: &str) -> std::io::Result<bool> {
    let mut stream = TcpStream::connect(address).await?;
    stream
        .write_all(format!("GET / HTTP/1.1\r\nhost: {address}\r\nconnection: close\r\n\r\n").as_bytes())
        .await?;
    let mut first = [0; 7];
    stream.read_exact(&mut first).await?;
    Ok(&first == b"HTTP/1.")
}

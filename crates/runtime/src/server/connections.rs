//! The connections of a port: so many in all, so many of one address. When a port is full, the connection gives way that
//! came first of those over which nobody has proven yet who he is; one over which somebody has stays.

use std::collections::BTreeMap;
use std::io;
use std::net::{IpAddr, SocketAddr};
use std::pin::Pin;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll, ready};
use std::time::Duration;

use metrics::Gauge;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::{TcpListener, TcpStream};
use tokio::time::Sleep;
use tonic::transport::server::Connected;

use super::guests::{GiveWay, Guest, Guests};
use super::stream::Stream;
use crate::measure::{PORT_CONNECTIONS, PORT_REFUSED, Reasons};
use crate::tls::Tls;

/// A peer that takes not one byte for so long is gone, whatever its keep-alive says.
const STALLED: Duration = Duration::from_secs(60);

/// How many connections a port has.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Most {
    /// In all.
    pub connections: usize,
    /// From one address.
    pub per_address: usize,
}

/// A port's connections.
#[derive(Debug)]
pub(super) struct Door {
    port: &'static str,
    most: Most,
    guests: Arc<Guests>,
    inside: Mutex<Inside>,
    open: Gauge,
    refused: Reasons,
}

/// Why a connection is not let in.
const REFUSED: [&str; 3] = ["ADDRESS_FULL", "NOT_ACCEPTED", "PORT_FULL"];

#[derive(Debug, Default)]
struct Inside {
    all: usize,
    addresses: BTreeMap<IpAddr, usize>,
}

/// A place among a port's connections; dropped, it is free.
#[derive(Debug)]
struct Place {
    door: Arc<Door>,
    from: IpAddr,
}

/// A connection, as requests carry it in their extensions.
#[derive(Clone, Debug)]
pub struct Connection(Arc<Mutex<Option<Guest>>>);

impl Connection {
    /// Somebody has proven over it who he is: it gives way to nobody any more.
    pub fn proven(&self) {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).take();
    }
}

impl Door {
    /// The door of a port.
    pub(super) fn new(port: &'static str, most: Most) -> Arc<Door> {
        // The guests' own count is never full: who is too many is decided by all connections together.
        Arc::new(Door {
            port,
            most,
            guests: Guests::new(usize::MAX),
            inside: Mutex::default(),
            open: PORT_CONNECTIONS.gauge(&[port]),
            refused: Reasons::new(&PORT_REFUSED, &[port], &REFUSED),
        })
    }

    /// Lets a connection in, or says why not.
    fn enter(self: &Arc<Self>, from: IpAddr) -> Result<(Place, Guest, GiveWay), &'static str> {
        let mut inside = self.lock();
        if inside.addresses.get(&from).is_some_and(|own| *own >= self.most.per_address) {
            return Err("ADDRESS_FULL");
        }
        // One that gives way is counted until its task has seen that, so that for a moment there is one more.
        if inside.all >= self.most.connections && !self.guests.make_room() {
            return Err("PORT_FULL");
        }
        inside.all += 1;
        self.open.set(inside.all as f64);
        *inside.addresses.entry(from).or_default() += 1;
        drop(inside);
        let (guest, give_way) = self.guests.enter();
        Ok((Place { door: self.clone(), from }, guest, give_way))
    }

    fn lock(&self) -> MutexGuard<'_, Inside> {
        self.inside.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        let mut inside = self.door.lock();
        inside.all -= 1;
        self.door.open.set(inside.all as f64);
        if let Some(own) = inside.addresses.get_mut(&self.from) {
            *own -= 1;
            if *own == 0 {
                inside.addresses.remove(&self.from);
            }
        }
    }
}

/// What a port accepts, as far as it may.
pub(super) struct Incoming {
    listener: TcpListener,
    door: Arc<Door>,
    /// What connections are within.
    tls: Option<Tls>,
    /// Runs while nothing is accepted.
    pausing: Option<Pin<Box<Sleep>>>,
}

/// After an error of the listener, which mostly means that the process has no more descriptors.
const PAUSE: Duration = Duration::from_millis(20);

impl Incoming {
    pub(super) fn new(listener: TcpListener, door: Arc<Door>) -> Incoming {
        Incoming { listener, door, tls: None, pausing: None }
    }

    /// The same within TLS, where there is one.
    pub(super) fn within(self, tls: Option<Tls>) -> Incoming {
        Incoming { tls, ..self }
    }

    /// The next connection that is let in.
    pub(super) fn poll_accept(&mut self, cx: &mut Context<'_>) -> Poll<Socket> {
        loop {
            if let Some(pausing) = &mut self.pausing {
                ready!(pausing.as_mut().poll(cx));
                self.pausing = None;
            }
            let accepted = match ready!(self.listener.poll_accept(cx)) {
                Ok((stream, from)) => self.admit(stream, from),
                Err(why) => {
                    tracing::debug!(port = self.door.port, %why, "a connection could not be accepted");
                    self.door.guests.make_room(); // its descriptor serves the one that waits
                    self.pausing = Some(Box::pin(tokio::time::sleep(PAUSE)));
                    Err("NOT_ACCEPTED")
                }
            };
            match accepted {
                Ok(socket) => return Poll::Ready(socket),
                Err(reason) => self.door.refused.count(reason),
            }
        }
    }

    fn admit(&self, stream: TcpStream, from: SocketAddr) -> Result<Socket, &'static str> {
        let (place, guest, give_way) = self.door.enter(from.ip())?;
        // Small messages are the rule; without it each waits for the answer to the one before.
        let _ = stream.set_nodelay(true);
        let connection = Connection(Arc::new(Mutex::new(Some(guest))));
        let stream = Stream::new(stream, self.tls.as_ref().and_then(Tls::acceptor));
        Ok(Socket { stream, give_way, connection, stalled: None, _place: place })
    }
}

impl tokio_stream::Stream for Incoming {
    type Item = io::Result<Socket>;

    fn poll_next(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<io::Result<Socket>>> {
        self.poll_accept(cx).map(|socket| Some(Ok(socket)))
    }
}

/// A connection that was let in.
pub(super) struct Socket {
    stream: Stream,
    give_way: GiveWay,
    connection: Connection,
    /// Runs while the peer takes nothing.
    stalled: Option<Pin<Box<Sleep>>>,
    _place: Place,
}

impl Socket {
    /// What requests over it carry.
    pub(super) fn connection(&self) -> Connection {
        self.connection.clone()
    }

    /// Gives way, or gives a peer up that takes nothing.
    fn wrote<T>(&mut self, wrote: Poll<io::Result<T>>, cx: &mut Context<'_>) -> Poll<io::Result<T>> {
        if wrote.is_ready() {
            self.stalled = None;
            return wrote;
        }
        let stalled = self.stalled.get_or_insert_with(|| Box::pin(tokio::time::sleep(STALLED)));
        ready!(stalled.as_mut().poll(cx));
        Poll::Ready(Err(io::Error::new(io::ErrorKind::TimedOut, "the peer takes nothing any more")))
    }
}

impl Connected for Socket {
    type ConnectInfo = Connection;

    fn connect_info(&self) -> Connection {
        self.connection()
    }
}

impl AsyncRead for Socket {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        if self.give_way.poll(cx) {
            let why = "the port is full and nobody has proven over this connection who he is";
            return Poll::Ready(Err(io::Error::new(io::ErrorKind::ConnectionAborted, why)));
        }
        Pin::new(&mut self.stream).poll_read(cx, buffer)
    }
}

impl AsyncWrite for Socket {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        let wrote = Pin::new(&mut self.stream).poll_write(cx, bytes);
        self.wrote(wrote, cx)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bytes: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let wrote = Pin::new(&mut self.stream).poll_write_vectored(cx, bytes);
        self.wrote(wrote, cx)
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(cx)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn address(last: u8) -> IpAddr {
        IpAddr::from([10, 0, 0, last])
    }

    #[test]
    fn a_port_and_an_address_have_so_many_and_only_who_has_proven_nothing_gives_way() {
        let door = Door::new("test", Most { connections: 2, per_address: 1 });
        let (first, guest, mut give_way) = door.enter(address(1)).unwrap();
        assert_eq!(door.enter(address(1)).unwrap_err(), "ADDRESS_FULL");
        drop(guest); // proven
        let (_second, _guest, mut gives) = door.enter(address(2)).unwrap();
        let (_third, guest, _) = door.enter(address(3)).unwrap();
        let mut cx = Context::from_waker(std::task::Waker::noop());
        assert!(gives.poll(&mut cx) && !give_way.poll(&mut cx));
        drop(guest);
        assert_eq!(door.enter(address(4)).unwrap_err(), "PORT_FULL");
        drop(first);
        drop(_second);
        assert!(door.enter(address(1)).is_ok());
    }
}

//! The bytes of a connection: as they come, or within TLS.

use std::io;
use std::pin::Pin;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::TcpStream;
use tokio::time::Sleep;
use tokio_rustls::server::TlsStream;
use tokio_rustls::{Accept, TlsAcceptor};

/// How long a handshake may take.
const HANDSHAKE: Duration = Duration::from_secs(10);

/// A connection's bytes.
pub(super) enum Stream {
    /// As they come.
    Plain(TcpStream),
    /// Not within TLS yet.
    Shaking(Box<Accept<TcpStream>>, Pin<Box<Sleep>>),
    /// Within TLS.
    Tls(Box<TlsStream<TcpStream>>),
}

impl Stream {
    pub(super) fn new(stream: TcpStream, tls: Option<TlsAcceptor>) -> Stream {
        match tls {
            None => Stream::Plain(stream),
            Some(tls) => {
                Stream::Shaking(Box::new(tls.accept(stream)), Box::pin(tokio::time::sleep(HANDSHAKE)))
            }
        }
    }

    /// Goes on with the handshake until there is something to read from and write to.
    fn poll_open(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<&mut (dyn Bytes + Send)>> {
        if let Stream::Shaking(accept, late) = self {
            let opened = match Pin::new(accept.as_mut()).poll(cx) {
                Poll::Ready(opened) => opened,
                Poll::Pending => {
                    ready!(late.as_mut().poll(cx));
                    Err(io::Error::new(io::ErrorKind::TimedOut, "the handshake took too long"))
                }
            };
            match opened {
                Ok(stream) => *self = Stream::Tls(Box::new(stream)),
                Err(why) => {
                    tracing::debug!(%why, "a connection was not let in: TLS");
                    return Poll::Ready(Err(why));
                }
            }
        }
        Poll::Ready(match self {
            Stream::Plain(stream) => Ok(stream),
            Stream::Tls(stream) => Ok(stream.as_mut()),
            Stream::Shaking(..) => Err(io::Error::other("no handshake yet")),
        })
    }
}

/// What is read from and written to.
trait Bytes: AsyncRead + AsyncWrite + Unpin {}

impl<T: AsyncRead + AsyncWrite + Unpin> Bytes for T {}

impl AsyncRead for Stream {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        Pin::new(ready!(self.poll_open(cx))?).poll_read(cx, buffer)
    }
}

impl AsyncWrite for Stream {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        Pin::new(ready!(self.poll_open(cx))?).poll_write(cx, bytes)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bytes: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        Pin::new(ready!(self.poll_open(cx))?).poll_write_vectored(cx, bytes)
    }

    fn is_write_vectored(&self) -> bool {
        true // where the stream below is not, it writes the first of them
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(ready!(self.poll_open(cx))?).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(ready!(self.poll_open(cx))?).poll_shutdown(cx)
    }
}

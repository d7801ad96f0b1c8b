//! What a client may cost: connections are counted, live for a short time, and may send only so much. Whoever
//! exceeds it is hung up on.

use std::future::{Future, Pending, pending};
use std::io;
use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use axum::serve::Listener;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio::time::{Timeout, timeout};

/// Connections at a time; others wait in the kernel's queue.
const SEATS: usize = 16;
/// How long a connection lives, slow or not. A scraper that comes every 15 s connects anew, which costs nothing.
const LIFE: Duration = Duration::from_secs(10);
/// What may be sent on one connection, bytes: some dozens of requests.
const SENT_MAX: usize = 64 * 1024;
/// How long to wait when a connection cannot be accepted, for want of file descriptors for example.
const BREATHE: Duration = Duration::from_millis(200);

pub(super) struct Door {
    listener: TcpListener,
    seats: Arc<Semaphore>,
}

impl Door {
    pub(super) fn new(listener: TcpListener) -> Self {
        Self { listener, seats: Arc::new(Semaphore::new(SEATS)) }
    }
}

impl Listener for Door {
    type Io = Guest;
    type Addr = SocketAddr;

    async fn accept(&mut self) -> (Guest, SocketAddr) {
        loop {
            // The semaphore is never closed; were it, nobody would be let in.
            let Ok(seat) = self.seats.clone().acquire_owned().await else { pending().await };
            match self.listener.accept().await {
                Ok((stream, address)) => {
                    let life = Box::pin(timeout(LIFE, pending()));
                    return (Guest { stream, life, sent: 0, _seat: seat }, address);
                }
                Err(_) => {
                    let _ = timeout(BREATHE, pending::<()>()).await;
                }
            }
        }
    }

    fn local_addr(&self) -> io::Result<SocketAddr> {
        self.listener.local_addr()
    }
}

/// A connection.
pub(super) struct Guest {
    stream: TcpStream,
    life: Pin<Box<Timeout<Pending<()>>>>,
    sent: usize,
    _seat: OwnedSemaphorePermit,
}

impl Guest {
    fn is_over(&mut self, context: &mut Context<'_>) -> bool {
        self.sent > SENT_MAX || self.life.as_mut().poll(context).is_ready()
    }
}

fn hang_up<T>() -> Poll<io::Result<T>> {
    Poll::Ready(Err(io::ErrorKind::TimedOut.into()))
}

impl AsyncRead for Guest {
    fn poll_read(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        if self.is_over(context) {
            return hang_up();
        }
        let before = buffer.filled().len();
        let polled = Pin::new(&mut self.stream).poll_read(context, buffer);
        self.sent += buffer.filled().len() - before;
        polled
    }
}

impl AsyncWrite for Guest {
    fn poll_write(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        if self.is_over(context) {
            return hang_up();
        }
        Pin::new(&mut self.stream).poll_write(context, bytes)
    }

    fn poll_flush(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        if self.is_over(context) {
            return hang_up();
        }
        Pin::new(&mut self.stream).poll_flush(context)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(context)
    }
}

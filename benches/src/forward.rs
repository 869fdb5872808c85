//! Stands between a server and S3 and counts what goes through.

use std::{
    io::{Read as _, Write as _},
    net::{Shutdown, SocketAddr, TcpListener, TcpStream},
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    thread,
    time::{Duration, Instant},
};

use anyhow::Result;
use serde::Serialize;

/// What went over one connection. The tests' S3 server closes it after each answer, so that it is one request.
#[derive(Clone, Debug, Default, Serialize)]
pub(crate) struct Exchange {
    pub(crate) sent: u64,
    pub(crate) received: u64,
    /// From the first byte of the request to the last one of the answer.
    pub(crate) took_us: f64,
    /// `304` of `HTTP/1.1 304 Not Modified`.
    pub(crate) status: String,
}

/// Forwards connections for as long as this process lives.
pub(crate) struct Forward {
    pub(crate) address: SocketAddr,
    exchanges: Arc<Mutex<Vec<Exchange>>>,
}

impl Forward {
    pub(crate) fn start(to: SocketAddr) -> Result<Self> {
        let listener = TcpListener::bind("127.0.0.1:0")?;
        let address = listener.local_addr()?;
        let exchanges = Arc::new(Mutex::default());
        let done = Arc::clone(&exchanges);
        thread::spawn(move || {
            for stream in listener.incoming().flatten() {
                let done = Arc::clone(&done);
                thread::spawn(move || {
                    // One that breaks is no exchange.
                    if let Ok(exchange) = forward(stream, to) {
                        lock(&done).push(exchange);
                    }
                });
            }
        });
        Ok(Self { address, exchanges })
    }

    /// What went through up to now, once.
    pub(crate) fn take(&self) -> Vec<Exchange> {
        std::mem::take(&mut lock(&self.exchanges))
    }
}

fn lock(exchanges: &Mutex<Vec<Exchange>>) -> MutexGuard<'_, Vec<Exchange>> {
    exchanges.lock().unwrap_or_else(PoisonError::into_inner)
}

fn forward(mut client: TcpStream, to: SocketAddr) -> Result<Exchange> {
    let mut server = TcpStream::connect(to)?;
    let (mut from, mut into) = (client.try_clone()?, server.try_clone()?);
    let asking = thread::spawn(move || {
        let (mut chunk, mut sent, mut begin) = ([0; 16 * 1024], 0, None);
        while let Ok(count @ 1..) = from.read(&mut chunk) {
            begin.get_or_insert_with(Instant::now);
            sent += count as u64;
            if into.write_all(&chunk[..count]).is_err() {
                break;
            }
        }
        (sent, begin)
    });
    let (mut chunk, mut exchange, mut end) = ([0; 16 * 1024], Exchange::default(), Instant::now());
    while let Ok(count @ 1..) = server.read(&mut chunk) {
        end = Instant::now();
        if exchange.received == 0 {
            exchange.status = String::from_utf8_lossy(&chunk[..count]).chars().skip(9).take(3).collect();
        }
        exchange.received += count as u64;
        client.write_all(&chunk[..count])?;
    }
    client.shutdown(Shutdown::Both)?;
    let (sent, begin) = asking.join().unwrap_or_default();
    exchange.sent = sent;
    exchange.took_us = begin.map_or(Duration::ZERO, |begin| end.saturating_duration_since(begin)).as_secs_f64() * 1e6;
    Ok(exchange)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::echo;
    use onnxd::load::http;

    #[test]
    fn bytes_are_counted_and_nothing_else_is_done_to_them() {
        let forward = Forward::start(echo::in_thread().http).expect("it listens");
        let request = b"GET /readyz HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n";
        let (response, bytes) = http::exchange(forward.address, request).expect("it answers");
        assert_eq!(response.status, 200);
        let exchange = loop {
            if let Some(exchange) = forward.take().pop() {
                break exchange;
            }
            thread::yield_now();
        };
        assert_eq!((exchange.sent, exchange.received), (request.len() as u64, bytes.len() as u64));
        assert_eq!(exchange.status, "200");
    }
}

//! The load: requests of bytes that are ready, over connections that are kept, so that as little as possible of a
//! processor goes to whoever asks.

use std::future::Future;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, bail, ensure};
use rustls::ClientConfig;
use rustls::pki_types::ServerName;
use tokio::io::{AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _};
use tokio::net::TcpStream;
use tokio::task::JoinSet;
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;

use crate::process::Process;
use crate::tls;

/// Headers of an answer; ours have four or five.
const MAX_HEADERS: usize = 32;

/// Before anything is counted: connections are made and caches filled.
const WARM_UP: Duration = Duration::from_millis(300);

/// How long a server may take to start, or to answer.
const PATIENCE: Duration = Duration::from_secs(30);

/// A TLS server.
#[derive(Clone)]
pub(crate) struct Target {
    /// Where it listens.
    pub(crate) address: SocketAddr,
    /// How to trust it.
    pub(crate) tls: Arc<ClientConfig>,
}

/// An HTTP/1.1 connection on which one request follows the other.
pub(crate) struct Connection<S> {
    stream: S,
    received: Vec<u8>,
}

impl Target {
    /// Opens a connection with a whole handshake.
    pub(crate) async fn connect(&self) -> Result<Connection<TlsStream<TcpStream>>> {
        let stream = TcpStream::connect(self.address).await?;
        stream.set_nodelay(true)?;
        let connector = TlsConnector::from(Arc::clone(&self.tls));
        let stream = connector
            .connect(ServerName::try_from(tls::NAME)?, stream)
            .await?;
        Ok(Connection::new(stream))
    }

    /// Waits until a review is answered with an injection, or with anything where none is expected.
    pub(crate) async fn answers(
        &self,
        process: &mut Process,
        request: &[u8],
        injects: bool,
    ) -> Result<()> {
        let deadline = Instant::now() + PATIENCE;
        loop {
            process.is_running()?;
            let asked = async {
                let mut connection = self.connect().await?;
                anyhow::Ok(connection.exchange(request).await?.to_vec())
            };
            match asked.await {
                Ok(answer) => {
                    let answer: serde_json::Value = serde_json::from_slice(&answer)?;
                    let field = |path| answer.pointer(path);
                    ensure!(
                        field("/response/allowed") == Some(&true.into())
                            && field("/response/patch").is_some() == injects,
                        "not the expected answer: {answer}"
                    );
                    return Ok(());
                }
                Err(error) if Instant::now() > deadline => {
                    return Err(error.context("the server does not answer"));
                }
                Err(_) => tokio::time::sleep(Duration::from_millis(20)).await,
            }
        }
    }
}

impl<S: AsyncRead + AsyncWrite + Unpin> Connection<S> {
    /// On a stream that is open.
    pub(crate) fn new(stream: S) -> Self {
        Self {
            stream,
            received: Vec::with_capacity(4096),
        }
    }

    /// Sends a request, and reads the body of an answer of status 200.
    pub(crate) async fn exchange(&mut self, request: &[u8]) -> Result<&[u8]> {
        self.stream.write_all(request).await?;
        self.stream.flush().await?;
        self.received.clear();
        loop {
            ensure!(
                self.stream.read_buf(&mut self.received).await? > 0,
                "the server closed the connection instead of answering"
            );
            if let Some((start, end)) = body(&self.received)?
                && self.received.len() >= end
            {
                ensure!(self.received.len() == end, "more than one answer came");
                return self.received.get(start..end).context("no body");
            }
        }
    }
}

/// Where the body of an answer starts and ends; nothing while its header is incomplete.
fn body(received: &[u8]) -> Result<Option<(usize, usize)>> {
    let mut headers = [httparse::EMPTY_HEADER; MAX_HEADERS];
    let mut response = httparse::Response::new(&mut headers);
    let httparse::Status::Complete(start) = response.parse(received)? else {
        return Ok(None);
    };
    if response.code != Some(200) {
        bail!("the server answered {:?}", response.code);
    }
    let length = response
        .headers
        .iter()
        .find(|header| header.name.eq_ignore_ascii_case("content-length"))
        .context("an answer without Content-Length")?;
    let length: usize = std::str::from_utf8(length.value)?.trim().parse()?;
    Ok(Some((start, start + length)))
}

/// What a server did under load.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Measured {
    /// Requests answered.
    pub(crate) requests: f64,
    /// Processor time of the server.
    pub(crate) cpu: Duration,
    /// Time that passed.
    pub(crate) wall: Duration,
}

impl Measured {
    /// Processor time per request, in microseconds.
    pub(crate) fn cpu_micros(&self) -> f64 {
        self.cpu.as_secs_f64() * 1e6 / self.requests
    }

    /// Requests per second of the server's processor.
    pub(crate) fn per_cpu_second(&self) -> f64 {
        self.requests / self.cpu.as_secs_f64()
    }

    /// How busy its processor was.
    pub(crate) fn utilisation(&self) -> f64 {
        self.cpu.as_secs_f64() / self.wall.as_secs_f64()
    }
}

/// Keeps `connections` connections busy with one request after the other.
pub(crate) async fn keep_alive(
    target: &Target,
    process: &Process,
    request: &Arc<[u8]>,
    connections: usize,
    duration: Duration,
) -> Result<Measured> {
    under_load(process, connections, duration, |answered, stop| {
        let (target, request) = (target.clone(), Arc::clone(request));
        async move {
            let mut connection = target.connect().await?;
            while !stop.load(Ordering::Relaxed) {
                connection.exchange(&request).await?;
                answered.fetch_add(1, Ordering::Relaxed);
            }
            Ok(())
        }
    })
    .await
}

/// Opens connections, at most `connections` at a time, each with a whole handshake and for one request.
pub(crate) async fn handshakes(
    target: &Target,
    process: &Process,
    request: &Arc<[u8]>,
    connections: usize,
    duration: Duration,
) -> Result<Measured> {
    under_load(process, connections, duration, |answered, stop| {
        let (target, request) = (target.clone(), Arc::clone(request));
        async move {
            while !stop.load(Ordering::Relaxed) {
                target.connect().await?.exchange(&request).await?;
                answered.fetch_add(1, Ordering::Relaxed);
            }
            Ok(())
        }
    })
    .await
}

async fn under_load<F>(
    process: &Process,
    connections: usize,
    duration: Duration,
    ask: impl Fn(Arc<AtomicU64>, Arc<AtomicBool>) -> F,
) -> Result<Measured>
where
    F: Future<Output = Result<()>> + Send + 'static,
{
    let answered = Arc::new(AtomicU64::new(0));
    let stop = Arc::new(AtomicBool::new(false));
    let mut tasks = JoinSet::new();
    for _ in 0..connections {
        tasks.spawn(ask(Arc::clone(&answered), Arc::clone(&stop)));
    }
    tokio::time::sleep(WARM_UP).await;
    let before = (
        Instant::now(),
        process.cpu_time()?,
        answered.load(Ordering::Relaxed),
    );
    tokio::time::sleep(duration).await;
    let after = (
        Instant::now(),
        process.cpu_time()?,
        answered.load(Ordering::Relaxed),
    );
    stop.store(true, Ordering::Relaxed);
    let ended = async {
        while let Some(ended) = tasks.join_next().await {
            ended??;
        }
        anyhow::Ok(())
    };
    tokio::time::timeout(PATIENCE, ended)
        .await
        .context("the server does not answer any more")??;
    let requests = u32::try_from(after.2 - before.2)?;
    ensure!(requests > 0, "nothing was answered");
    Ok(Measured {
        requests: requests.into(),
        cpu: after.1 - before.1,
        wall: after.0 - before.0,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_answer_ends_where_it_says() {
        let answer =
            b"HTTP/1.1 200 OK\r\ncontent-type: application/json\r\ncontent-length: 2\r\n\r\n{}";
        let end = answer.len();
        assert_eq!(body(answer).unwrap(), Some((end - 2, end)));
        assert_eq!(body(&answer[..30]).unwrap(), None);
        assert!(body(b"HTTP/1.1 503 Busy\r\ncontent-length: 0\r\n\r\n").is_err());
        assert!(body(b"HTTP/1.1 200 OK\r\n\r\n").is_err());
    }
}

//! A fake of an HTTP proxy that leads every tunnel to one address, whatever name is asked for: so a registry that is here
//! is found under a name that is elsewhere.

use std::net::SocketAddr;

use anyhow::{Context as _, Result, ensure};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _, copy_bidirectional};
use tokio::net::{TcpListener, TcpStream};
use tokio::task::JoinHandle;

use crate::must;

/// No request's head is longer.
const LONGEST_HEAD: usize = 16 * 1024;

/// A running fake; it ends when it is dropped.
pub struct FakeProxy {
    address: SocketAddr,
    serving: JoinHandle<()>,
}

impl Drop for FakeProxy {
    fn drop(&mut self) {
        self.serving.abort();
    }
}

impl FakeProxy {
    /// Listens on a free port of the loopback address. Requests in plain HTTP go where they say.
    pub async fn start(tunnels_to: SocketAddr) -> Self {
        must(start(tunnels_to).await)
    }

    /// For `spec.connection.via.url`.
    pub fn url(&self) -> String {
        format!("http://{}", self.address)
    }
}

async fn start(tunnels_to: SocketAddr) -> Result<FakeProxy> {
    let listener = TcpListener::bind("127.0.0.1:0")
        .await
        .context("the fake proxy cannot listen")?;
    let address = listener.local_addr()?;
    let serving = tokio::spawn(async move {
        while let Ok((client, _)) = listener.accept().await {
            // who gets no answer sees that the connection ends
            tokio::spawn(async move { pass(client, tunnels_to).await });
        }
    });
    Ok(FakeProxy { address, serving })
}

async fn pass(mut client: TcpStream, tunnels_to: SocketAddr) -> Result<()> {
    let head = head(&mut client).await?;
    let text = String::from_utf8_lossy(&head).into_owned();
    let mut words = text.split_whitespace();
    let (method, target) = (words.next(), words.next().unwrap_or_default());
    if method == Some("CONNECT") {
        let mut server = TcpStream::connect(tunnels_to).await?;
        client.write_all(b"HTTP/1.1 200 OK\r\n\r\n").await?;
        copy_bidirectional(&mut client, &mut server).await?;
        return Ok(());
    }
    let authority = target
        .strip_prefix("http://")
        .and_then(|rest| rest.split('/').next())
        .context("no target")?;
    let mut server = TcpStream::connect(authority).await?;
    server.write_all(&head).await?;
    copy_bidirectional(&mut client, &mut server).await?;
    Ok(())
}

/// A request as far as its first empty line, and what has come of its body.
async fn head(client: &mut TcpStream) -> Result<Vec<u8>> {
    let mut head = Vec::new();
    while !head.windows(4).any(|four| four == b"\r\n\r\n") {
        ensure!(head.len() < LONGEST_HEAD, "no head of a request");
        ensure!(client.read_buf(&mut head).await? > 0, "the client is gone");
    }
    Ok(head)
}

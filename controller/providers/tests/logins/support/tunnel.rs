//! Fake: an HTTP proxy that leads every CONNECT to one server, under whatever name was asked for, or refuses each.

use std::net::SocketAddr;
use std::sync::{Arc, Mutex};

use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _, copy_bidirectional};
use tokio::net::{TcpListener, TcpStream};

pub(crate) struct FakeProxy {
    pub(crate) address: SocketAddr,
    /// The heads of the requests.
    pub(crate) heads: Arc<Mutex<Vec<String>>>,
}

impl FakeProxy {
    pub(crate) async fn start(target: Option<SocketAddr>) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let heads = Arc::new(Mutex::new(Vec::new()));
        let seen = Arc::clone(&heads);
        tokio::spawn(async move {
            while let Ok((client, _)) = listener.accept().await {
                tokio::spawn(tunnel(client, target, Arc::clone(&seen)));
            }
        });
        Self { address, heads }
    }

    /// The names that were asked for.
    pub(crate) fn asked_for(&self) -> Vec<String> {
        let heads = self.heads.lock().unwrap();
        heads
            .iter()
            .filter_map(|head| head.split(' ').nth(1).map(str::to_owned))
            .collect()
    }
}

async fn tunnel(mut client: TcpStream, target: Option<SocketAddr>, seen: Arc<Mutex<Vec<String>>>) {
    let mut head = Vec::new();
    while !head.ends_with(b"\r\n\r\n") && head.len() < 8192 {
        let Ok(byte) = client.read_u8().await else {
            return;
        };
        head.push(byte);
    }
    seen.lock()
        .unwrap()
        .push(String::from_utf8_lossy(&head).into_owned());
    let Some(target) = target else {
        // whether the client still reads it is its own affair
        let _ = client
            .write_all(b"HTTP/1.1 403 Forbidden\r\nContent-Length: 0\r\n\r\n")
            .await;
        return;
    };
    let mut server = TcpStream::connect(target).await.unwrap();
    client
        .write_all(b"HTTP/1.1 200 Connection established\r\n\r\n")
        .await
        .unwrap();
    // either side may go first
    let _ = copy_bidirectional(&mut client, &mut server).await;
}

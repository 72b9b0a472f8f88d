//! A real proxy that wants a login, and TLS in front of it.

use std::net::{SocketAddr, TcpListener as StdListener};

use tempfile::TempDir;
use tokio::io::copy_bidirectional;
use tokio::net::{TcpListener, TcpStream};
use tokio::process::Command;
use tokio_rustls::TlsAcceptor;

use crate::authority::Authority;
use crate::process::{Process, TINYPROXY};

/// tinyproxy.
pub(crate) struct TinyProxy {
    process: Process,
    address: SocketAddr,
    _directory: TempDir,
}

impl TinyProxy {
    pub(crate) async fn start(username: &str, password: &str) -> Self {
        let directory = tempfile::tempdir().unwrap();
        // it cannot choose a port by itself, and says in its log when it has the one that it is told
        let free = StdListener::bind("127.0.0.1:0").unwrap();
        let address = free.local_addr().unwrap();
        drop(free);
        let config = format!(
            "Listen 127.0.0.1\nPort {}\nTimeout 30\nMaxClients 20\nLogLevel Info\nBasicAuth {username} {password}\n",
            address.port()
        );
        let path = directory.path().join("tinyproxy.conf");
        std::fs::write(&path, config).unwrap();
        let mut command = Command::new(&*TINYPROXY);
        command.arg("-d").arg("-c").arg(path);
        let mut process = Process::start(&mut command, directory.path().join("log"));
        process
            .says(|log| log.contains("Accepting connections").then_some(()))
            .await;
        Self {
            process,
            address,
            _directory: directory,
        }
    }

    pub(crate) fn address(&self) -> SocketAddr {
        self.address
    }

    pub(crate) fn url(&self) -> String {
        format!("http://{}", self.address)
    }

    pub(crate) fn log(&self) -> String {
        self.process.log()
    }
}

/// TLS in front of a proxy that speaks none itself.
pub(crate) struct TlsFront(SocketAddr);

impl TlsFront {
    pub(crate) async fn start(authority: &Authority, behind: SocketAddr) -> Self {
        let acceptor = TlsAcceptor::from(authority.server().config());
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        tokio::spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                let acceptor = acceptor.clone();
                tokio::spawn(async move {
                    // either side may end it at any time
                    let mut inside = TcpStream::connect(behind).await?;
                    let mut outside = acceptor.accept(stream).await?;
                    copy_bidirectional(&mut outside, &mut inside).await
                });
            }
        });
        Self(address)
    }

    pub(crate) fn url(&self) -> String {
        format!("https://{}", self.0)
    }
}

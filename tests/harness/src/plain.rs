//! A server of a test's own over plain HTTP.

use std::net::SocketAddr;

use anyhow::{Context as _, Result};
use axum::Router;
use tokio::net::TcpListener;
use tokio::task::JoinHandle;

/// A running server; it ends when it is dropped.
pub(crate) struct Served {
    /// Where it listens.
    pub(crate) address: SocketAddr,
    serving: JoinHandle<()>,
}

impl Drop for Served {
    fn drop(&mut self) {
        self.serving.abort();
    }
}

/// Listens there, with what `router` makes of the address that it got: port 0 means any free one.
pub(crate) async fn serve(
    listen: SocketAddr,
    router: impl FnOnce(SocketAddr) -> Router,
) -> Result<Served> {
    let listener = TcpListener::bind(listen)
        .await
        .with_context(|| format!("nothing can listen on {listen}"))?;
    let address = listener.local_addr()?;
    let router = router(address);
    let serving = tokio::spawn(async move {
        // it serves until it is aborted
        let _ = axum::serve(listener, router).await;
    });
    Ok(Served { address, serving })
}

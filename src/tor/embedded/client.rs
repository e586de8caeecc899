//! One Arti client: creation, bootstrap, and shutdown with all its tasks.

use std::fmt;
use std::os::unix::fs::MetadataExt;
use std::path::Path;
use std::pin::pin;
use std::sync::Arc;
use std::time::Duration;

use arti_client::TorClient;
use futures_util::StreamExt;
use tokio::runtime::{self, Runtime};
use tokio::time::{Instant, sleep_until};
use tokio_util::sync::CancellationToken;
use tor_rtcompat::tokio::TokioRustlsRuntime;

use super::client_config::{client_config, error_chain};
use super::dir_lock::{DirLock, LockError};
use super::key_files;
use super::status_text::{BootstrapProgress, Phase, append_clock_hint, explain_permissions};
use crate::dial::{Arti, Client, TorConnector};
use crate::tor::PeerKey;

/// Time for a TCP connection to a relay to become a Tor channel.
const HANDSHAKE_TIMEOUT: Duration = Duration::from_secs(30);

/// Time without progress after which a directory download has failed.
const DIRECTORY_PROGRESS_TIMEOUT: Duration = Duration::from_secs(90);

/// An Arti client and all its tasks.
///
/// The client has a runtime of its own. Its tasks would hold its files for minutes while relays are
/// silent, so that the next client could not store its guards. Dropping the runtime ends them.
pub(super) struct ClientHandle {
    pub(super) client: Arc<Client>,
    cancelled: CancellationToken,
    runtime: Option<Runtime>,
}

impl ClientHandle {
    /// Creates a client in this directory, with overrides in TOML and keys for onion services.
    ///
    /// Without a list of keys, Arti looks for none. The client is not bootstrapped.
    pub(super) async fn create(dir: &Path, arti: &str, peer_keys: Option<&[PeerKey]>) -> Result<ClientHandle, String> {
        if let Some(keys) = peer_keys {
            key_files::create(dir, keys)?;
        }
        let keys_dir = peer_keys.map(|_| key_files::keys_dir(dir));
        let config = client_config(dir, arti, keys_dir.as_deref()).map_err(|error| error.to_string())?;
        let runtime = runtime::Builder::new_multi_thread().worker_threads(2).thread_name("tor").enable_all().build();
        let runtime = runtime.map_err(|error| error.to_string())?;
        let builder = TorClient::with_runtime(TokioRustlsRuntime::from(runtime.handle().clone())).config(config);
        match builder.create_unbootstrapped_async().await {
            Ok(client) => Ok(ClientHandle { client, cancelled: CancellationToken::new(), runtime: Some(runtime) }),
            Err(error) => {
                runtime.shutdown_background();
                Err(explain_permissions(&error))
            }
        }
    }

    /// Returns a connector that fails as soon as this handle is dropped.
    pub(super) fn connector(&self) -> TorConnector {
        TorConnector::Arti(Arti::new(Arc::clone(&self.client), self.cancelled.clone()))
    }
}

impl Drop for ClientHandle {
    fn drop(&mut self) {
        self.cancelled.cancel();
        if let Some(runtime) = self.runtime.take() {
            runtime.shutdown_background();
        }
    }
}

/// Waits until the client has a directory and a relay that answers.
///
/// `on_progress` is called at every ten per cent.
pub(super) async fn bootstrap(
    client: &Client,
    timeout: Duration,
    mut on_progress: impl FnMut(BootstrapProgress),
) -> Result<(), String> {
    let mut events = client.bootstrap_events();
    let mut bootstrap = pin!(client.bootstrap());
    let (mut is_done, mut best, mut reported) = (false, client.bootstrap_status().as_frac(), None);
    let mut deadline = Instant::now() + timeout;
    loop {
        let status = client.bootstrap_status();
        if is_done && status.ready_for_traffic() {
            return Ok(());
        }
        let text = status.to_string();
        let progress = BootstrapProgress::parse(&text);
        if status.as_frac() > best {
            best = status.as_frac();
            let extension = match progress.phase {
                Phase::Connecting => HANDSHAKE_TIMEOUT,
                Phase::Directory => DIRECTORY_PROGRESS_TIMEOUT,
            };
            deadline = deadline.max(Instant::now() + extension);
        }
        if reported != Some(progress.percent / 10) {
            reported = Some(progress.percent / 10);
            on_progress(progress);
        }
        tokio::select! {
            outcome = &mut bootstrap, if !is_done => {
                outcome.map_err(|error| append_clock_hint(&error_chain(&error), &client.bootstrap_status().to_string()))?;
                is_done = true;
            }
            Some(_) = events.next() => {}
            () = sleep_until(deadline) => {
                let reason = status.blocked().map_or("no relay answers".to_owned(), |blocked| blocked.message().to_string());
                return Err(append_clock_hint(&reason, &text));
            }
        }
    }
}

/// A bootstrapped client for a single command.
pub struct EphemeralClient {
    /// Connector into the Tor network, valid while this value lives.
    pub tor: TorConnector,
    _client: ClientHandle,
    _lock: DirLock,
    /// Directory of this client; `None` if it uses that of the configuration.
    _scratch: Option<tempfile::TempDir>,
}

impl fmt::Debug for EphemeralClient {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("EphemeralClient")
    }
}

/// Creates and bootstraps a client for a single command, without retries.
pub async fn bootstrap_ephemeral(
    dir: &Path,
    arti: &str,
    peer_keys: &[PeerKey],
    mut on_progress: impl FnMut(u8, &str),
) -> Result<EphemeralClient, String> {
    let _ = rustls::crypto::ring::default_provider().install_default();
    // Files that root creates there could not be replaced by the daemon.
    let scratch = if is_foreign(dir) {
        Some(tempfile::tempdir().map_err(|error| format!("no temporary directory can be created: {error}"))?)
    } else {
        None
    };
    let dir = scratch.as_ref().map_or(dir, tempfile::TempDir::path);
    // If a daemon uses the directory, a second client with guards of its own is created.
    let (lock, dir) = match DirLock::take(dir) {
        Ok(lock) => (lock, dir.to_owned()),
        Err(LockError::Held(_)) => {
            let dir = dir.join("probe");
            (DirLock::take(&dir).map_err(|error| error.to_string())?, dir)
        }
        Err(error) => return Err(error.to_string()),
    };
    let client = ClientHandle::create(&dir, arti, Some(peer_keys).filter(|keys| !keys.is_empty())).await?;
    bootstrap(&client.client, DIRECTORY_PROGRESS_TIMEOUT, |progress| {
        on_progress(progress.percent, &progress.waiting_for)
    })
    .await?;
    Ok(EphemeralClient { tor: client.connector(), _client: client, _lock: lock, _scratch: scratch })
}

/// Returns whether another user owns the directory, or the nearest existing one above it.
fn is_foreign(dir: &Path) -> bool {
    let metadata = dir.ancestors().find_map(|dir| std::fs::metadata(dir).ok());
    metadata.is_some_and(|metadata| metadata.uid() != rustix::process::geteuid().as_raw())
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt;

    use super::*;

    #[tokio::test]
    async fn state_that_others_may_write_to_is_named_with_advice() {
        let _ = rustls::crypto::ring::default_provider().install_default();
        let dir = tempfile::tempdir().unwrap();
        let state = dir.path().join("state");
        std::fs::create_dir(&state).unwrap();
        std::fs::set_permissions(&state, std::fs::Permissions::from_mode(0o777)).unwrap();
        let reason = ClientHandle::create(dir.path(), "", None).await.err().unwrap();
        assert!(reason.starts_with("Incorrect permissions: ") && reason.contains("chmod"), "{reason}");
    }
}

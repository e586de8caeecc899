//! The servers of `backend.electrum`: chain, protocol versions, height, and requests at once.

use std::path::PathBuf;
use std::time::Duration;

use futures_util::{SinkExt, StreamExt};
use tokio::sync::watch;
use tokio::time::{Instant, timeout, timeout_at};
use tokio_util::codec::{Framed, LinesCodec};

use super::{Finding, RunningDaemon, Subject};
use crate::backend::{BackendError, Server, UpstreamAddr};
use crate::book::MAX_TIP_LAG;
use crate::config::Config;
use crate::connect::ProbeError;
use crate::dial::Tls;
use crate::jsonrpc::{self, DEFAULT_PROTOCOL, MAX_RESPONSE_BYTES, Response};
use crate::peer::Fault;

/// Time for a server to answer all requests of a batch.
const BATCH_TIMEOUT: Duration = Duration::from_secs(20);

/// Time for the checks of one server, without the batch.
const SERVER_TIMEOUT: Duration = Duration::from_secs(60);

/// Checks each server, and that a running daemon can use them.
pub(super) async fn check(config: &Config, daemon: Option<&RunningDaemon>, tls: &Tls) -> Vec<Finding> {
    let Some(targets) = &config.backend.electrum else { return Vec::new() };
    let status = daemon.and_then(|daemon| daemon.status.backend.as_ref());
    let known_height = daemon.and_then(|daemon| daemon.status.chain.as_ref()).map(|chain| chain.height);
    let mut findings = Vec::new();
    for address in &targets.servers {
        findings.extend(check_server(config, address, known_height, tls).await);
    }
    if targets.peers && targets.servers.is_empty() {
        findings.push(match status {
            Some(status) => match &status.error {
                None => Finding::ok(Subject::Backend, "verified peers serve the sessions of wallets"),
                Some(error) => Finding::failure(Subject::Backend, error.clone(), "wait until peers are verified"),
            },
            None => Finding::ok(Subject::Backend, "verified peers serve the sessions of wallets, once the daemon runs"),
        });
    }
    findings
}

async fn check_server(config: &Config, address: &UpstreamAddr, known_height: Option<u32>, tls: &Tls) -> Vec<Finding> {
    // Without a pinned key, the daemon and not this command is to pin it.
    let Ok(scratch) = tempfile::tempdir() else {
        let text = "no temporary directory can be created";
        return vec![Finding::warning(Subject::Backend, text, "check TMPDIR and the free disk space")];
    };
    let pinned = config.backend_key_path(address);
    let key_file: PathBuf = if pinned.exists() { pinned } else { scratch.path().join("key") };
    let (_known_chain, chain) = watch::channel(None);
    let server = Server::new(address.clone(), &config.book.chain, tls.clone(), key_file, chain)
        .with_proxy_headers(config.backend.proxy_protocol);
    let queried = timeout(SERVER_TIMEOUT, server.query_info(None)).await;
    let info = match queried.unwrap_or(Err(BackendError::Failed(ProbeError::Timeout))) {
        Ok(report) => report.info,
        Err(error) => return vec![server_failure(config, address, &error)],
    };
    let (oldest, newest) = info.versions;
    let software = info.software.as_deref().unwrap_or("server without a name");
    let height = info.tip.map_or(String::new(), |tip| format!(", block {tip}"));
    let text = format!("{address} is {software:?} on {}, protocol {oldest} to {newest}{height}", config.book.chain);
    let mut findings = vec![Finding::ok(Subject::Backend, text)];
    if let (Some(tip), Some(known)) = (info.tip, known_height)
        && known.saturating_sub(tip) > MAX_TIP_LAG
    {
        let text = format!("{address} is at block {tip}, peers at {known}");
        findings.push(Finding::warning(Subject::Backend, text, "wait until its node has synced, or check the node"));
    }
    findings.push(batch(&server, config.limits.batch).await);
    findings
}

fn server_failure(config: &Config, address: &UpstreamAddr, error: &BackendError) -> Finding {
    let advice = match error {
        BackendError::Failed(ProbeError::ProtocolViolation(Fault::WrongGenesis)) => {
            let text = format!("{address} serves another chain than {}", config.book.chain);
            let advice = "set network to its chain, or backend.electrum to a server of this chain";
            return Finding::failure(Subject::Backend, text, advice);
        }
        BackendError::Failed(ProbeError::Refused | ProbeError::NameNotFound) => {
            "start the server, and compare its address and port with backend.electrum"
        }
        BackendError::Failed(ProbeError::Unproven) => {
            "wait until its node has synced: it does not show the pinned block"
        }
        BackendError::Failed(ProbeError::Timeout | ProbeError::Closed) => {
            "check its log; servers that expect a PROXY header need backend.proxy_protocol"
        }
        BackendError::Failed(ProbeError::Tls) => "use tcp:// for a port without TLS",
        _ => "check its log and its limits, which docs/backend.md lists",
    };
    Finding::failure(Subject::Backend, format!("{address} can't be used: {error}"), advice)
}

/// Sends as many requests at once as a batch of a wallet has, each in a line of its own, as Waypost forwards them.
async fn batch(server: &Server, requests: usize) -> Finding {
    let started_at = Instant::now();
    let (answered, error) = pings(server, requests).await;
    let millis = started_at.elapsed().as_millis();
    match error {
        None => {
            let text = format!("{} answers {requests} requests at once, in {millis} ms", server.address);
            Finding::ok(Subject::Backend, text)
        }
        Some(reason) => {
            let text = format!("{} answers {answered} of {requests} requests at once: {reason}", server.address);
            let advice = "raise its limits as docs/backend.md says, or lower limits.max_batch";
            Finding::warning(Subject::Backend, text, advice)
        }
    }
}

/// Returns how many requests were answered, and why not all were.
async fn pings(server: &Server, requests: usize) -> (usize, Option<String>) {
    let deadline = Instant::now() + BATCH_TIMEOUT;
    let stream = match server.open(&DEFAULT_PROTOCOL.to_string(), None).await {
        Ok(stream) => stream,
        Err(error) => return (0, Some(error.to_string())),
    };
    let (mut sink, mut lines) = Framed::new(stream, LinesCodec::new_with_max_length(MAX_RESPONSE_BYTES)).split();
    let mut answered = 0;
    let send = async {
        for id in 0..requests {
            let id = u64::try_from(id).unwrap_or(u64::MAX);
            let line = String::from_utf8(jsonrpc::encode_request(id, "server.ping", &[""; 0])).unwrap_or_default();
            if sink.feed(line.trim_end().to_owned()).await.is_err() {
                return;
            }
        }
        let _ = sink.flush().await;
    };
    let receive = async {
        while answered < requests {
            match lines.next().await {
                Some(Ok(line)) => match jsonrpc::parse_response(&line) {
                    Ok(Response::Result { .. }) => answered += 1,
                    Ok(Response::Error { .. }) => return Some("it answers with an error".to_owned()),
                    _ => {}
                },
                _ => return Some("it closes the connection".to_owned()),
            }
        }
        None
    };
    let both = async { tokio::join!(send, receive).1 };
    let error = timeout_at(deadline, both).await.unwrap_or_else(|_| Some("it stops answering".to_owned()));
    (answered, error)
}

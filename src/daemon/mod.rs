//! Daemon: builds all parts, spawns their tasks, runs until a stop, and drains.

mod as_map_file;
mod backend_check;
mod ban_lists;
mod bind;
mod book_task;
mod clearnet_monitor;
mod error;
mod event_log;
mod file_watcher;
mod initial_crawl;
mod listeners;
mod loaded_books;
mod name_check;
mod node;
mod operator_requests;
mod own_address_check;
mod peer_decline;
mod platform;
mod port_holder;
mod reload;
mod service_manager;
mod shared_data;
mod side_book;
mod status_report;
mod task_set;
mod tor_wiring;

use std::sync::Arc;

use self::ban_lists::BanLists;
pub use self::error::DaemonError;
pub(crate) use self::name_check::{CheckedName, NameCheck};
use self::node::Node;
pub(crate) use self::own_address_check::{Lookup, PathCheck, PortResult};
pub(crate) use self::platform::{OWN_DESCRIPTORS, check_clock, root_rng};
pub use self::reload::ReloadHooks;
pub use self::shared_data::{Moved, move_shared_data};
use crate::ban_list::Bans;
use crate::book::{BookConfig, PeerBook};
use crate::clock;
use crate::config::Config;
use crate::route::PerRoute;
use crate::server::Limits;
use crate::status_page::MAX_PUBLIC_CONNECTIONS;

/// Runs until a stop signal, or until a task ends that never should.
pub async fn run(config: Config, hooks: ReloadHooks) -> Result<(), DaemonError> {
    let node = Node::build(config, hooks).await?;
    let mut running = node.spawn();
    service_manager::ready();
    let ended = running.ended().await;
    service_manager::stopping();
    let drained = running.drain().await;
    match ended {
        Some(task) => Err(DaemonError::Ended(task)),
        None => drained,
    }
}

/// Returns unexpected consequences of this configuration: seeds that can't be added, bans without effect.
///
/// Reads the ban lists. If this user may not read the daemon's files, that is a warning as well.
pub fn warnings(config: &Config) -> Vec<String> {
    let (bans, mut warnings) = match BanLists::read(config.ban_files()) {
        Ok(lists) => (lists.bans(), lists.warnings().collect()),
        Err(error) => (Bans::default(), vec![error.to_string()]),
    };
    let settings = BookConfig { bans: Arc::new(bans), ..config.book.clone() };
    let book = PeerBook::new(settings, Vec::new(), PerRoute::default(), clock::now());
    let refused = book.refused_seeds();
    warnings.extend(config.warnings());
    warnings.extend(refused.iter().map(|seed| event_log::refused_seed(&seed.name, &seed.reason)));
    warnings
}

/// Returns the limits of clients, reduced to the file descriptors that the system grants.
fn limits(config: &Config) -> Arc<Limits> {
    let others = config.pages.public_count() * MAX_PUBLIC_CONNECTIONS;
    Arc::new(Limits { sessions: platform::raise_fd_limit(config.limits.sessions, others), ..config.limits.clone() })
}

//! Tables of the database.

use redb::TableDefinition;

/// Entries by host, encoded with postcard.
pub(crate) const PEERS: TableDefinition<&str, &[u8]> = TableDefinition::new("peers");

/// Peers of the onion side of a node with two books: host to postcard record.
pub(crate) const ONION_PEERS: TableDefinition<&str, &[u8]> = TableDefinition::new("onion_peers");

/// Total working time of each path, in milliseconds.
pub(crate) const REACH: TableDefinition<&str, u64> = TableDefinition::new("reach");

/// Schema version: the number of applied migrations.
pub(crate) const META: TableDefinition<&str, u64> = TableDefinition::new("meta");

/// Chains of block headers, by side.
pub(crate) const HEADERS: TableDefinition<&str, &[u8]> = TableDefinition::new("headers");

/// Texts that describe the store, by name.
pub(crate) const LABELS: TableDefinition<&str, &str> = TableDefinition::new("labels");

/// Samples of the node's state, encoded with postcard, in one record.
pub(crate) const TRENDS: TableDefinition<&str, &[u8]> = TableDefinition::new("trends");

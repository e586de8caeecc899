//! Tables of the database.

use redb::TableDefinition;

/// Hosts to their entries, in postcard's encoding.
pub const PEERS: TableDefinition<&str, &[u8]> = TableDefinition::new("peers");

/// For each way out, how many milliseconds it has worked in all.
pub const REACH: TableDefinition<&str, u64> = TableDefinition::new("reach");

/// The number of migrations that a store went through.
pub const META: TableDefinition<&str, u64> = TableDefinition::new("meta");

/// Texts about the store as a whole, by name.
pub const LABELS: TableDefinition<&str, &str> = TableDefinition::new("labels");

//! Changes of records with their encoded values, as the journal holds them and the tables get them.

use std::collections::BTreeMap;

use redb::{Error, WriteTransaction};
use serde::{Deserialize, Serialize};

use super::schema;
use super::tables::{HEADERS, ONION_PEERS, PEERS, REACH, TRENDS};
use super::writer::Change;
use crate::book::Side;
use crate::peer::Host;

/// Key of a record in any of the tables.
///
/// The journal holds its postcard encoding, so the order of the variants is part of the format.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub(crate) enum RecordKey {
    /// Peer of a single book, or of the clearnet side.
    Peer(String),
    /// Peer of the onion side.
    OnionPeer(String),
    /// Chain of block headers.
    Headers(String),
    /// Working time of a path.
    Reach(String),
    /// Samples of the node's state.
    Trends,
}

/// Changed records with their new values. `None` removes a record.
pub(crate) type RecordChanges = BTreeMap<RecordKey, Option<Vec<u8>>>;

/// Encodes changes. Of several changes of one record, the last one counts.
pub(crate) fn encode<'a>(changes: impl IntoIterator<Item = &'a Change>) -> RecordChanges {
    changes.into_iter().filter_map(encoded).collect()
}

/// Writes changes to the tables.
pub(crate) fn apply(transaction: &WriteTransaction, changes: &RecordChanges) -> Result<(), Error> {
    let mut peers = transaction.open_table(PEERS)?;
    let mut onion_peers = transaction.open_table(ONION_PEERS)?;
    let mut reach = transaction.open_table(REACH)?;
    let mut headers = transaction.open_table(HEADERS)?;
    let mut trends = transaction.open_table(TRENDS)?;
    for (key, value) in changes {
        let (table, key) = match key {
            RecordKey::Peer(host) => (&mut peers, host.as_str()),
            RecordKey::OnionPeer(host) => (&mut onion_peers, host.as_str()),
            RecordKey::Headers(side) => (&mut headers, side.as_str()),
            RecordKey::Trends => (&mut trends, schema::SAMPLES),
            RecordKey::Reach(path) => {
                if let Some(millis) = value.as_deref().and_then(|value| value.try_into().ok()) {
                    reach.insert(path.as_str(), u64::from_le_bytes(millis))?;
                }
                continue;
            }
        };
        match value {
            Some(value) => table.insert(key, value.as_slice())?,
            None => table.remove(key)?,
        };
    }
    Ok(())
}

/// Returns the encoded change; `None` if it has no encoding, which no type of a record allows.
fn encoded(change: &Change) -> Option<(RecordKey, Option<Vec<u8>>)> {
    Some(match change {
        Change::Save(side, entry) => (peer_key(*side, &entry.host), Some(postcard::to_stdvec(entry).ok()?)),
        Change::Remove(side, host) => (peer_key(*side, host), None),
        Change::SaveChain(side, chain) => {
            (RecordKey::Headers(schema::chain_key(*side).to_owned()), Some(chain.to_record()))
        }
        Change::SaveTrends(samples) => (RecordKey::Trends, Some(postcard::to_stdvec(samples).ok()?)),
        Change::Reach(side, route, total) => {
            let millis = u64::try_from(total.as_millis()).unwrap_or(u64::MAX);
            let key = RecordKey::Reach(schema::route_key(*side, *route).to_owned());
            (key, Some(millis.to_le_bytes().to_vec()))
        }
    })
}

fn peer_key(side: Side, host: &Host) -> RecordKey {
    let host = host.to_string();
    if side == Side::Onion { RecordKey::OnionPeer(host) } else { RecordKey::Peer(host) }
}

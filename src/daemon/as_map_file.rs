//! Reading of the AS map.

use std::fmt::Display;
use std::path::Path;
use std::sync::Arc;

use super::DaemonError;
use crate::as_map::AsMap;

/// Reads and checks a map; `None` without a path.
pub(crate) fn read(path: Option<&Path>) -> Result<Option<Arc<AsMap>>, DaemonError> {
    let Some(path) = path else { return Ok(None) };
    let failed = |error: &dyn Display| DaemonError::AsMap { path: path.to_owned(), reason: error.to_string() };
    let bytes = std::fs::read(path).map_err(|error| failed(&error))?;
    let map = AsMap::parse(bytes).map_err(|error| failed(&error))?;
    tracing::info!(path = %path.display(), "read the AS map");
    Ok(Some(Arc::new(map)))
}

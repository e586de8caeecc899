//! Ban lists in force, read again when their files change.

use std::sync::Arc;

use super::DaemonError;
use crate::api::BanListStatus;
use crate::ban_files::{BanFile, BanFileError, Fingerprint, ListVersion};
use crate::ban_list::{Bans, SignedAt};
use crate::clock::{self, Time};

/// Ban lists in force, the own one first.
#[derive(Debug)]
pub(crate) struct BanLists {
    lists: Vec<ListInForce>,
}

/// Version of a list in force, and the result of the last attempt to read it.
#[derive(Debug, Clone)]
struct ListInForce {
    file: BanFile,
    version: Arc<ListVersion>,
    /// Time at which the version was last read.
    read_at: Time,
    /// State of the files at the last attempt.
    fingerprint: Fingerprint,
    /// Why the last attempt failed; `None` after a success.
    error: Option<String>,
}

impl BanLists {
    /// Reads lists for the first time.
    pub(crate) fn read(files: Vec<BanFile>) -> Result<BanLists, DaemonError> {
        let lists = files.into_iter().map(ListInForce::read).collect::<Result<_, _>>()?;
        Ok(BanLists { lists })
    }

    /// Returns whether a file changed since the last attempt to read it.
    pub(crate) fn have_changed(&self) -> bool {
        self.lists.iter().any(ListInForce::has_changed)
    }

    /// Reads the lists again whose files changed.
    ///
    /// A list that can't be used keeps its previous version, and the reason is logged.
    pub(crate) fn read_changed(&mut self) {
        for list in self.lists.iter_mut().filter(|list| list.has_changed()) {
            *list = list.read_again(list.file.clone());
        }
    }

    /// Reads these files instead of the previous ones.
    ///
    /// A file that was in use before keeps its previous version if it can't be used.
    ///
    /// # Errors
    /// If a new file can't be used. All lists then stay as they were.
    pub(crate) fn replace(&mut self, files: Vec<BanFile>) -> Result<(), DaemonError> {
        let lists =
            files.into_iter().map(|file| match self.lists.iter().find(|list| list.file.path() == file.path()) {
                Some(known) => Ok(known.read_again(file)),
                None => ListInForce::read(file),
            });
        self.lists = lists.collect::<Result<_, _>>()?;
        Ok(())
    }

    /// Combines the patterns of all lists.
    pub(crate) fn bans(&self) -> Bans {
        Bans::new(self.lists.iter().map(|list| (Arc::clone(list.file.name()), &list.version.list)))
    }

    /// Describes the lists for operators.
    pub(crate) fn status(&self) -> Vec<BanListStatus> {
        self.lists.iter().map(ListInForce::status).collect()
    }

    /// Returns a warning for each list with entries that have no effect.
    pub(crate) fn warnings(&self) -> impl Iterator<Item = String> {
        self.lists.iter().filter_map(ListInForce::warning)
    }

    /// Logs a warning for each list with entries that have no effect.
    pub(crate) fn log_warnings(&self) {
        self.warnings().for_each(|warning| tracing::warn!("{warning}"));
    }
}

impl ListInForce {
    fn read(file: BanFile) -> Result<ListInForce, BanFileError> {
        // A change during the read is found by the next comparison.
        let fingerprint = file.fingerprint();
        let version = Arc::new(file.read()?);
        Ok(ListInForce { file, version, read_at: clock::now(), fingerprint, error: None })
    }

    fn has_changed(&self) -> bool {
        self.file.fingerprint() != self.fingerprint
    }

    /// Returns the list after another attempt to read it, with settings that may have changed.
    fn read_again(&self, file: BanFile) -> ListInForce {
        let fingerprint = file.fingerprint();
        let read = file.read().and_then(|version| {
            // Another key belongs to another publisher, whose clock says nothing about this list.
            let in_force = self.version.signed.filter(|_| file.has_key_of(&self.file));
            let checked = SignedAt::check_order(version.signed, in_force);
            checked.map_err(|error| file.error(format!("its signature is {error}")))?;
            Ok(version)
        });
        match read {
            Ok(version) if version == *self.version => {
                ListInForce { file, fingerprint, read_at: clock::now(), error: None, ..self.clone() }
            }
            Ok(version) => {
                let signed = version.signed.map(|signed| signed.to_string());
                tracing::info!(
                    list = %file.name(), patterns = version.list.patterns.len(), signed, "read the ban list"
                );
                let version = Arc::new(version);
                let list = ListInForce { file, version, read_at: clock::now(), fingerprint, error: None };
                list.warning().into_iter().for_each(|warning| tracing::warn!("{warning}"));
                list
            }
            Err(error) => {
                tracing::warn!("{error}; its previous version stays in force");
                ListInForce { file, fingerprint, error: Some(error.cause()), ..self.clone() }
            }
        }
    }

    fn status(&self) -> BanListStatus {
        let ListVersion { list, signed } = &*self.version;
        BanListStatus {
            path: self.file.name().path.clone(),
            own: self.file.name().is_own,
            format: list.format,
            patterns: list.patterns.len(),
            skipped: list.skipped,
            last_read: self.read_at,
            signed: signed.map(|signed| Time::from_wall_millis(signed.as_secs().saturating_mul(1000))),
            error: self.error.clone(),
        }
    }

    fn warning(&self) -> Option<String> {
        let list = &self.version.list;
        let first = list.first_skipped.as_ref()?;
        Some(format!("the ban list {} has {} entries without effect, first {first}", self.file.name(), list.skipped))
    }
}

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

#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::*;
    use crate::ban_files::BanFileKind;

    const KEY: &str = include_str!("../../tests/data/minisign/key");
    const ONE: [&str; 2] =
        [include_str!("../../tests/data/minisign/one"), include_str!("../../tests/data/minisign/one.minisig")];
    const TWO: [&str; 2] =
        [include_str!("../../tests/data/minisign/two"), include_str!("../../tests/data/minisign/two.minisig")];

    /// Writes a file that differs from the previous one in its fingerprint.
    fn write(path: &Path, text: &str) {
        let new = path.with_extension("new");
        std::fs::write(&new, text).unwrap();
        let old = std::fs::metadata(path).and_then(|metadata| metadata.modified());
        if let Ok(old) = old {
            let file = std::fs::File::options().write(true).open(&new).unwrap();
            file.set_modified(old + std::time::Duration::from_secs(1)).unwrap();
        }
        std::fs::rename(new, path).unwrap();
    }

    fn publish(path: &Path, [list, signature]: [&str; 2]) {
        write(path, list);
        write(&path.with_extension("minisig"), signature);
    }

    /// Reads changes, and returns the number of patterns and the error of the list at `index`.
    fn after_change(lists: &mut BanLists, index: usize) -> (usize, Option<String>) {
        assert!(lists.have_changed());
        lists.read_changed();
        assert!(!lists.have_changed(), "a failure is reported once");
        let status = lists.status().swap_remove(index);
        (status.patterns, status.error)
    }

    #[test]
    fn unusable_version_keeps_the_previous_one() {
        let dir = tempfile::tempdir().unwrap();
        let (own, list) = (dir.path().join("bans"), dir.path().join("list"));
        write(&list, "a.example\nb.example\n");
        let files = vec![BanFile::own(own.clone(), BanFileKind::OwnDefault), BanFile::further(list.clone(), None)];
        let mut lists = BanLists::read(files).unwrap();
        assert!(!lists.have_changed() && lists.bans().len() == 2);
        for broken in ["a b\n", "[\"a.example\""] {
            write(&list, broken);
            let (patterns, error) = after_change(&mut lists, 1);
            assert!(patterns == 2 && error.is_some_and(|error| error.contains("list: ")), "{broken}");
        }
        std::fs::remove_file(&list).unwrap();
        let (patterns, error) = after_change(&mut lists, 1);
        assert!(patterns == 2 && error.is_some_and(|error| error.contains("No such file")));
        write(&list, "a.example\n");
        assert_eq!(after_change(&mut lists, 1), (1, None));
        write(&own, "c.example\n");
        assert_eq!(after_change(&mut lists, 0), (1, None));
        std::fs::remove_file(&own).unwrap();
        assert_eq!(after_change(&mut lists, 0), (0, None), "the default list is optional");
    }

    #[test]
    fn older_signed_version_is_rejected_until_the_key_changes() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("list");
        let signed = || BanFile::further(path.clone(), KEY.parse().ok());
        write(&path, TWO[0]);
        assert!(BanLists::read(vec![signed()]).is_err(), "a missing signature is an error at the start");
        write(&dir.path().join("list.minisig"), TWO[1]);
        let mut lists = BanLists::read(vec![signed()]).unwrap();
        assert_eq!(lists.status()[0].signed, Some(Time::from_wall_millis(1_795_000_100_000)));
        publish(&path, ONE);
        let (patterns, error) = after_change(&mut lists, 0);
        assert!(patterns == 2 && error.as_ref().is_some_and(|error| error.contains("so older than")), "{error:?}");
        // Without a key, the file alone counts.
        lists.replace(vec![BanFile::further(path.clone(), None)]).unwrap();
        assert_eq!((lists.bans().len(), lists.status()[0].error.clone()), (1, None));
    }

    #[test]
    fn replacement_with_an_unusable_new_list_changes_nothing() {
        let dir = tempfile::tempdir().unwrap();
        let further = |name: &str, text: &str| {
            write(&dir.path().join(name), text);
            BanFile::further(dir.path().join(name), None)
        };
        let (first, second, broken) =
            (further("first", "a.example\n"), further("second", "[\"b.example\", 1]"), further("broken", "a b\n"));
        let mut lists = BanLists::read(vec![first.clone()]).unwrap();
        let before = lists.bans();
        assert!(lists.replace(vec![second.clone(), broken]).is_err());
        assert_eq!((lists.bans(), lists.warnings().count()), (before, 0));
        lists.replace(vec![second, first]).unwrap();
        assert_eq!((lists.bans().len(), lists.warnings().count()), (2, 1));
    }
}

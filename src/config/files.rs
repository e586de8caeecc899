//! Checks of the files that a configuration names.

use super::{Config, InvalidValue, ListenKind, invalid};
use crate::as_map::AsMap;
use crate::ban_list::Bans;
use crate::server::{CertificateError, CertificateSource};

impl Config {
    /// Reads the files with passwords and keys, ban file, AS map, certificate and key that the configuration names.
    ///
    /// Files that Waypost creates itself are read only if they exist. `tor.arti_config` is read by `resolve`.
    pub fn check_files(&self) -> Result<(), InvalidValue> {
        if let Some(error) = self.tor.unread.first() {
            return Err(error.clone());
        }
        self.check_bans()?;
        self.check_as_map()?;
        let certificate = &self.listen.certificate;
        let is_checked = match certificate {
            CertificateSource::Configured { .. } => true,
            CertificateSource::SelfSigned(_) | CertificateSource::OnionSelfSigned(_) => {
                let has_tls = |kind| !self.listen.addresses(kind).is_empty();
                (has_tls(ListenKind::Tls) || has_tls(ListenKind::Wss))
                    && certificate.paths().iter().all(|path| path.exists())
            }
        };
        if is_checked {
            certificate.load().map_err(|error| invalid(key_of(&error, certificate), error.to_string()))?;
        }
        Ok(())
    }

    fn check_as_map(&self) -> Result<(), InvalidValue> {
        let Some(path) = &self.as_map_file else { return Ok(()) };
        let failed = |reason: &dyn std::fmt::Display| {
            invalid("discovery.asmap", format!("{}: {reason}; correct the file or remove the key", path.display()))
        };
        let bytes = std::fs::read(path).map_err(|error| failed(&error))?;
        AsMap::parse(bytes).map(drop).map_err(|error| failed(&error))
    }

    fn check_bans(&self) -> Result<(), InvalidValue> {
        let (path, is_configured) = (self.ban_path(), self.ban_file.is_some());
        let failed = |reason: &dyn std::fmt::Display| {
            let advice = if is_configured { "correct the file or name another" } else { "correct the file" };
            invalid("discovery.ban_file", format!("{}: {reason}; {advice}", path.display()))
        };
        match std::fs::read_to_string(&path) {
            Ok(text) => Bans::parse(&text).map(drop).map_err(|error| failed(&error)),
            // The default file is optional. A faulty data directory is reported at the start.
            Err(_) if !is_configured => Ok(()),
            Err(error) => Err(failed(&error)),
        }
    }
}

/// Returns the key that names the unusable file.
fn key_of(error: &CertificateError, files: &CertificateSource) -> &'static str {
    let [certificate, _] = files.paths();
    match error {
        CertificateError::Read { path, .. } if *path == certificate => "listen.cert",
        CertificateError::Empty(_) => "listen.cert",
        _ => "listen.key",
    }
}

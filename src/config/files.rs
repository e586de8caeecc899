//! Checks of the files that a configuration names.

use super::{Config, InvalidValue, ListenKind, invalid};
use crate::as_map::AsMap;
use crate::server::{CertificateError, CertificateSource};

impl Config {
    /// Reads the files with passwords and keys, ban lists, AS map, certificate and key that the configuration names.
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
        for file in self.ban_files() {
            match file.read() {
                Ok(_) => {}
                // The default file is optional. A faulty data directory is reported at the start.
                Err(error) if file.is_optional() && error.is_inaccessible() => {}
                Err(error) => {
                    return Err(invalid(error.key(), format!("{}; {}", error.cause(), error.advice())));
                }
            }
        }
        Ok(())
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

//! Signatures of ban lists, made with [minisign](https://jedisct1.github.io/minisign/).

use std::fmt;
use std::str::FromStr;
use std::time::Duration;

use minisign_verify::{Error, PublicKey, Signature};

/// Latest time that can be printed, at the end of the year 9999, in seconds since 1970.
const MAX_SIGNED_SECS: u64 = 253_402_300_799;

/// Public key of minisign with which a publisher signs lists.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ListKey(PublicKey);

/// The text is not a public key of minisign.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("not a public key of minisign; write the second line of its .pub file, which begins with RW")]
pub struct KeyError;

/// Time of a signature by its trusted comment, in seconds since 1970.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct SignedAt(u64);

/// Reason why a signed list is not used.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum SignatureError {
    /// The file is not a signature.
    #[error("not a signature of minisign")]
    Malformed,
    /// The signature was made with another key.
    #[error("made with another key than discovery.ban_list_key")]
    OtherKey,
    /// The signature covers the list without a hash, as older versions of minisign made it.
    #[error("in minisign's former format; sign with minisign 0.10 or newer, or with its option -H")]
    FormerFormat,
    /// The list or the trusted comment is not what was signed.
    #[error("does not match the list")]
    Invalid,
    /// The list is older than the one in force.
    #[error("of {new}, and so older than the version in force of {in_force}")]
    Older {
        /// Time of the new signature.
        new: SignedAt,
        /// Time of the list in force.
        in_force: SignedAt,
    },
    /// The signature has no time, unlike that of the list in force.
    #[error("without a timestamp in its trusted comment, while the version in force is of {0}")]
    NoTime(SignedAt),
}

impl ListKey {
    /// Verifies the signature of a list. Returns its time; `None` if the trusted comment has none.
    pub fn verify(&self, list: &[u8], signature: &str) -> Result<Option<SignedAt>, SignatureError> {
        let signature = Signature::decode(signature).map_err(|_| SignatureError::Malformed)?;
        self.0.verify(list, &signature, false).map_err(|error| match error {
            Error::UnexpectedKeyId => SignatureError::OtherKey,
            Error::UnexpectedAlgorithm => SignatureError::FormerFormat,
            _ => SignatureError::Invalid,
        })?;
        Ok(SignedAt::of_comment(signature.trusted_comment()))
    }
}

impl FromStr for ListKey {
    type Err = KeyError;

    fn from_str(text: &str) -> Result<ListKey, KeyError> {
        PublicKey::from_base64(text.trim()).map(ListKey).map_err(|_| KeyError)
    }
}

impl SignedAt {
    /// Checks that a list does not replace a newer one.
    pub fn check_order(new: Option<SignedAt>, in_force: Option<SignedAt>) -> Result<(), SignatureError> {
        match (new, in_force) {
            (Some(new), Some(in_force)) if new < in_force => Err(SignatureError::Older { new, in_force }),
            (None, Some(in_force)) => Err(SignatureError::NoTime(in_force)),
            _ => Ok(()),
        }
    }

    /// Returns seconds since 1970.
    pub fn as_secs(self) -> u64 {
        self.0
    }

    /// Finds `timestamp:` in a trusted comment, in which tabs separate the fields.
    fn of_comment(comment: &str) -> Option<SignedAt> {
        let secs = comment.split_whitespace().find_map(|word| word.strip_prefix("timestamp:"))?.parse().ok()?;
        Some(SignedAt(secs)).filter(|_| secs <= MAX_SIGNED_SECS)
    }
}

/// Writes RFC 3339 in UTC with seconds.
impl fmt::Display for SignedAt {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        humantime::format_rfc3339_seconds(std::time::UNIX_EPOCH + Duration::from_secs(self.0)).fmt(f)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    // Made by minisign 0.11 with -S -W, and with -l for the former format.
    const KEY: &str = include_str!("../../tests/data/minisign/key");
    const LIST: &[u8] = include_bytes!("../../tests/data/minisign/one");
    const SIGNATURE: &str = include_str!("../../tests/data/minisign/one.minisig");
    const NO_TIME: &str = include_str!("../../tests/data/minisign/no-time.minisig");
    const FORMER_FORMAT: &str = include_str!("../../tests/data/minisign/former-format.minisig");
    const OF_OTHER_KEY: &str = include_str!("../../tests/data/minisign/other-key.minisig");

    fn verify(list: &[u8], signature: &str) -> Result<Option<SignedAt>, SignatureError> {
        KEY.parse::<ListKey>().unwrap().verify(list, signature)
    }

    #[test]
    fn signature_of_minisign_is_accepted_with_its_time() {
        let signed = verify(LIST, SIGNATURE).unwrap().unwrap();
        assert_eq!((signed.as_secs(), signed.to_string().as_str()), (1_795_000_000, "2026-11-18T11:06:40Z"));
        assert_eq!(verify(LIST, NO_TIME), Ok(None));
    }

    #[test]
    fn changed_list_comment_or_key_is_rejected() {
        assert_eq!(verify(b"*.spy.example", SIGNATURE), Err(SignatureError::Invalid));
        let later = SIGNATURE.replace("1795000000", "1799000000");
        assert_eq!(verify(LIST, &later), Err(SignatureError::Invalid), "the time is signed too");
        assert_eq!(verify(LIST, OF_OTHER_KEY), Err(SignatureError::OtherKey));
        // The key's identifier is public, so an attacker can copy it.
        let same_id = OF_OTHER_KEY.replace("RUQMqjSiaDi2c17y", "RUTvOSVys029u17y");
        assert_eq!(verify(LIST, &same_id), Err(SignatureError::Invalid));
        assert_eq!(verify(LIST, FORMER_FORMAT), Err(SignatureError::FormerFormat));
        for text in ["", "untrusted comment: x\n", "a\nb\nc\nd\n"] {
            assert_eq!(verify(LIST, text), Err(SignatureError::Malformed), "{text:?}");
        }
        for text in ["", "RW", KEY.trim_start_matches('R'), "untrusted comment: minisign public key BBBD4DB3722539EF"] {
            assert_eq!(text.parse::<ListKey>(), Err(KeyError), "{text:?}");
        }
    }

    #[test]
    fn older_signature_is_rejected_where_a_time_is_known() {
        let [old, new] = [10, 20].map(|secs| Some(SignedAt(secs)));
        for (list, in_force) in [(new, old), (new, new), (new, None), (None, None)] {
            assert_eq!(SignedAt::check_order(list, in_force), Ok(()), "{list:?} {in_force:?}");
        }
        assert!(matches!(SignedAt::check_order(old, new), Err(SignatureError::Older { .. })));
        assert_eq!(SignedAt::check_order(None, old), Err(SignatureError::NoTime(SignedAt(10))));
        assert_eq!(SignedAt::of_comment("timestamp:253402300800"), None);
        assert_eq!(SignedAt::of_comment("file:x timestamp:7"), Some(SignedAt(7)));
    }

    proptest! {
        #[test]
        fn arbitrary_bytes_never_panic(text in "\\PC{0,200}", line in 0_usize..4, bytes in any::<[u8; 12]>()) {
            let _ = text.parse::<ListKey>();
            let _ = verify(LIST, &text);
            let mut lines: Vec<&str> = SIGNATURE.lines().collect();
            lines[line] = &text;
            let _ = verify(LIST, &lines.join("\n"));
            let mixed = SIGNATURE.replace("RUTvOSVys029u+YJ", &data_encoding::BASE64.encode(&bytes));
            let _ = verify(LIST, &mixed);
        }
    }
}

//! Arti's status and error texts, shortened and completed with advice for operators.

use std::error::Error;
use std::sync::Arc;

use super::client_config::error_chain;

/// Phase of a client's bootstrap.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Phase {
    /// No relay has answered yet.
    Connecting,
    /// A relay has answered, and the directory is downloaded or complete.
    Directory,
}

/// Progress of a client's bootstrap.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct BootstrapProgress {
    /// Arti's estimate in per cent.
    pub(super) percent: u8,
    /// Phase of the bootstrap.
    pub(super) phase: Phase,
    /// What is awaited, with advice if the clock seems to be wrong.
    pub(super) waiting_for: String,
}

impl BootstrapProgress {
    /// Parses Arti's bootstrap status, the only public source of the phase.
    ///
    /// The status reads "17%: connecting to the internet; directory is …" or "Stuck at 17%: …".
    pub(super) fn parse(status: &str) -> BootstrapProgress {
        let (percent, state) = status.split_once("%: ").unwrap_or(("0", status));
        let digits = percent.trim_start_matches(|c: char| !c.is_ascii_digit());
        let (phase, waiting_for) = match state.split_once("; ") {
            Some(("connecting successfully", directory)) if directory.starts_with("directory") => {
                (Phase::Directory, directory)
            }
            Some(("connecting successfully", other)) => (Phase::Connecting, other),
            Some((connection, _)) => (Phase::Connecting, connection),
            None => (Phase::Connecting, state),
        };
        let waiting_for = append_clock_hint(waiting_for.split(", ").next().unwrap_or(waiting_for), status);
        BootstrapProgress { percent: digits.parse().unwrap_or(0), phase, waiting_for }
    }
}

/// State of this machine's clock according to Arti.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum ClockState<'a> {
    /// Nothing suggests that the clock is wrong.
    Plausible,
    /// Certificates or directory objects seem out of date.
    Suspect,
    /// Relays agree on the skew, for example "slow by around 3h".
    Skewed(&'a str),
}

impl<'a> ClockState<'a> {
    /// Phrases that suggest a wrong clock before enough relays have reported their time.
    const OUT_OF_DATE: [&'static str; 5] = [
        "Clock is skewed",
        "clock skew",
        "expired certificates",
        "Object will not be valid",
        "Object has been expired",
    ];

    /// Reads the state from Arti's status and the reason of a failure.
    ///
    /// Arti reports the skew only in its status, and some errors of this cause have another kind.
    fn detect(reason: &str, status: &'a str) -> ClockState<'a> {
        let begin = ["Clock is slow", "Clock is fast"].iter().find_map(|phrase| status.find(phrase));
        let skew = begin.and_then(|begin| status.get(begin..)?.strip_prefix("Clock is ")?.split(" (based").next());
        match skew {
            Some(skew) => ClockState::Skewed(skew),
            None if Self::OUT_OF_DATE.iter().any(|phrase| reason.contains(phrase) || status.contains(phrase)) => {
                ClockState::Suspect
            }
            None => ClockState::Plausible,
        }
    }
}

/// Appends advice to `reason` if it, or Arti's `status`, suggests that the clock is wrong.
pub(super) fn append_clock_hint(reason: &str, status: &str) -> String {
    let reason = reason.split(". Clock is ").next().unwrap_or(reason);
    match ClockState::detect(reason, status) {
        ClockState::Plausible => reason.to_owned(),
        ClockState::Suspect => {
            let cause = reason.strip_prefix("Clock is skewed. (").and_then(|reason| reason.strip_suffix(')'));
            let reason = cause.unwrap_or(reason);
            format!("{reason}; this machine's clock may be wrong, `date -u` shows it; {SET_CLOCK_HINT}")
        }
        ClockState::Skewed(skew) => {
            let skew = format!("this machine's clock is {skew}, according to Tor's relays; {SET_CLOCK_HINT}");
            if reason.starts_with("Clock is ") { skew } else { format!("{reason}; {skew}") }
        }
    }
}

/// Advice for a wrong clock.
const SET_CLOCK_HINT: &str = "set it, e.g. with `timedatectl set-ntp true`";

/// Formats an error. If wrong permissions are its cause, only these are named, with advice.
///
/// Arti refuses directories that other users may write to.
pub(super) fn explain_permissions(error: &(dyn Error + 'static)) -> String {
    let mut cause = Some(error);
    while let Some(current) = cause {
        match permission_error(current) {
            Some(essence) => {
                return format!("{essence}; fix the permissions with chmod or chown, or choose another data_dir");
            }
            None => cause = current.source(),
        }
    }
    error_chain(error)
}

/// Returns the error if it names a path with a wrong mode or owner.
fn permission_error<'a>(error: &'a (dyn Error + 'static)) -> Option<&'a fs_mistrust::Error> {
    use fs_mistrust::Error as Mistrust;
    let direct = error.downcast_ref::<Mistrust>();
    let shared = || error.downcast_ref::<Arc<Mistrust>>().map(AsRef::as_ref);
    let boxed = || error.downcast_ref::<Box<Mistrust>>().map(AsRef::as_ref);
    direct
        .or_else(shared)
        .or_else(boxed)
        .filter(|error| matches!(error, Mistrust::BadPermission(..) | Mistrust::BadOwner(..)))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn summarize(status: &str) -> (u8, String) {
        let progress = BootstrapProgress::parse(status);
        (progress.percent, progress.waiting_for)
    }

    #[test]
    fn bootstrap_status_is_parsed() {
        let text = "17%: connecting to the internet; directory is usable, fresh until 2026-11-23 03:17:36 UTC";
        assert_eq!(summarize(text), (17, "connecting to the internet".to_owned()));
        let text = "45%: connecting successfully; directory is fetching microdescriptors (0/7)";
        assert_eq!(summarize(text), (45, "directory is fetching microdescriptors (0/7)".to_owned()));
        let text = "Stuck at 3%: We seem to be offline (unable to connect to the internet)";
        assert_eq!(summarize(text), (3, "We seem to be offline (unable to connect to the internet)".to_owned()));
        assert_eq!(summarize(""), (0, String::new()));
    }

    #[test]
    fn directory_phase_begins_when_a_relay_has_answered() {
        for (status, phase) in [
            ("17%: connecting to the internet; directory is usable", Phase::Connecting),
            ("Stuck at 7%: We seem to be offline (unable to connect to the internet)", Phase::Connecting),
            ("15%: connecting successfully; not downloading", Phase::Connecting),
            ("45%: connecting successfully; directory is fetching a consensus", Phase::Directory),
        ] {
            assert_eq!(BootstrapProgress::parse(status).phase, phase, "{status}");
        }
    }

    #[test]
    fn clock_skew_reported_by_relays_is_named_with_advice() {
        let by_relays = "Clock is slow by around 3h 5m (based on 9 recent observations, with high confidence)";
        let named = "this machine's clock is slow by around 3h 5m, according to Tor's relays; \
                     set it, e.g. with `timedatectl set-ntp true`";
        let stuck = format!("Stuck at 7%: Clock is skewed. ({by_relays}). {by_relays}");
        assert_eq!(summarize(&stuck), (7, named.to_owned()));
        assert_eq!(append_clock_hint(by_relays, &stuck), named, "also as the blocking reason");
        let text = format!("45%: connecting successfully; directory is fetching a consensus. {by_relays}");
        assert_eq!(summarize(&text), (45, format!("directory is fetching a consensus; {named}")));
        assert_eq!(append_clock_hint("no relay answers", &text), format!("no relay answers; {named}"));
        let fast = "Stuck at 15%: Can't bootstrap a Tor directory. (Too many errors without making progress.). \
                    Clock is fast by around 2days (based on 12 recent observations, with some confidence)";
        assert!(
            summarize(fast).1.contains("this machine's clock is fast by around 2days, according"),
            "{:?}",
            summarize(fast)
        );
    }

    #[test]
    fn out_of_date_objects_hint_at_the_clock() {
        for (reason, expected) in [
            (
                "relays all seem to be using expired certificates",
                "relays all seem to be using expired certificates; this machine's clock may be wrong",
            ),
            (
                "Clock is skewed. (relays all seem to be using expired certificates)",
                "relays all seem to be using expired certificates; this machine's clock may be wrong",
            ),
            (
                "Unable to bootstrap: Object will not be valid for 5h",
                "Unable to bootstrap: Object will not be valid for 5h; this machine's clock may be wrong",
            ),
        ] {
            let text = append_clock_hint(reason, "Stuck at 7%: …");
            assert!(text.starts_with(expected) && text.ends_with(SET_CLOCK_HINT), "{text}");
        }
        let text =
            "8%: unable to handshake with Tor relays, possibly due to clock skew; directory is fetching a consensus";
        assert!(summarize(text).1.ends_with(SET_CLOCK_HINT), "{:?}", summarize(text));
    }

    #[test]
    fn correct_clock_is_not_mentioned() {
        let text = "45%: connecting successfully; directory is fetching a consensus";
        assert_eq!(append_clock_hint("no relay answers", text), "no relay answers");
    }

    #[test]
    fn permission_error_is_named_with_advice() {
        #[derive(Debug, thiserror::Error)]
        #[error("problem with state")]
        struct Wrapper(#[source] Arc<fs_mistrust::Error>);

        let permissions = fs_mistrust::Error::BadPermission("/a".into(), 0o777, 0o022);
        for error in [&permissions as &(dyn Error + 'static), &Wrapper(Arc::new(permissions.clone()))] {
            let text = explain_permissions(error);
            assert!(text.starts_with("Incorrect permissions: \"/a\"") && text.contains("chmod"), "{text}");
        }
        let other = Wrapper(Arc::new(fs_mistrust::Error::NotFound("/a".into())));
        assert!(explain_permissions(&other).starts_with("problem with state: "));
    }
}

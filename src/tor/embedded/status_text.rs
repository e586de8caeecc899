//! Arti's status and error texts, shortened and completed with advice for operators.

/// Beginning of Arti's status once a relay has answered.
pub(super) const DIRECTORY: &str = "directory";

/// Beginning of the clock skew that ends Arti's status once enough relays have reported their time.
const CLOCK: [&str; 2] = ["Clock is slow", "Clock is fast"];

/// Phrases that suggest a wrong clock before enough relays have reported their time.
const OUT_OF_DATE: [&str; 5] =
    ["Clock is skewed", "clock skew", "expired certificates", "Object will not be valid", "Object has been expired"];

/// Splits Arti's bootstrap status into a percentage and what is awaited.
///
/// The status reads "17%: connecting to the internet; directory is …" or "Stuck at 17%: …".
pub(super) fn summarize(text: &str) -> (u8, String) {
    let (percent, state) = text.split_once("%: ").unwrap_or(("0", text));
    let digits = percent.trim_start_matches(|c: char| !c.is_ascii_digit());
    let waits_for = match state.split_once("; ") {
        // This begins with `DIRECTORY`.
        Some(("connecting successfully", directory)) => directory,
        Some((connection, _)) => connection,
        None => state,
    };
    let waits_for = waits_for.split(", ").next().unwrap_or(waits_for);
    (digits.parse().unwrap_or(0), append_clock_hint(waits_for, text))
}

/// Appends advice to `reason` if it, or Arti's `status`, suggests that the clock is wrong.
pub(super) fn append_clock_hint(reason: &str, status: &str) -> String {
    let reason = reason.split(". Clock is ").next().unwrap_or(reason);
    match clock_skew(status) {
        Some(skew) if reason.starts_with("Clock is ") => format!("{}; {SET_CLOCK_HINT}", describe_skew(skew)),
        Some(skew) => format!("{reason}; {}; {SET_CLOCK_HINT}", describe_skew(skew)),
        None if OUT_OF_DATE.iter().any(|words| reason.contains(words) || status.contains(words)) => {
            let reason =
                reason.strip_prefix("Clock is skewed. (").and_then(|reason| reason.strip_suffix(')')).unwrap_or(reason);
            format!("{reason}; this machine's clock may be wrong, `date -u` shows it; {SET_CLOCK_HINT}")
        }
        None => reason.to_owned(),
    }
}

/// Advice for a wrong clock.
const SET_CLOCK_HINT: &str = "set it, e.g. with `timedatectl set-ntp true`";

fn describe_skew(skew: &str) -> String {
    format!("this machine's clock is {skew}, according to Tor's relays")
}

/// Extracts the skew from Arti's status, for example "slow by around 3h".
fn clock_skew(status: &str) -> Option<&str> {
    let begins = CLOCK.iter().find_map(|words| status.find(words))?;
    status.get(begins..)?.strip_prefix("Clock is ")?.split(" (based").next()
}

/// Shortens an error about file permissions to its cause and appends advice.
///
/// Arti refuses directories that other users may write to, and names the path at the end.
pub(super) fn explain_permissions(reason: String) -> String {
    let begins = ["Incorrect permissions", "Bad owner"].into_iter().find_map(|words| reason.find(words));
    match begins.and_then(|begins| reason.get(begins..)) {
        Some(essence) => format!("{essence}; fix the permissions with chmod or chown, or choose another data_dir"),
        None => reason,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bootstrap_status_is_summarized() {
        let text = "17%: connecting to the internet; directory is usable, fresh until 2026-11-23 03:17:36 UTC";
        assert_eq!(summarize(text), (17, "connecting to the internet".to_owned()));
        let text = "45%: connecting successfully; directory is fetching microdescriptors (0/7)";
        assert_eq!(summarize(text), (45, "directory is fetching microdescriptors (0/7)".to_owned()));
        let text = "Stuck at 3%: We seem to be offline (unable to connect to the internet)";
        assert_eq!(summarize(text), (3, "We seem to be offline (unable to connect to the internet)".to_owned()));
        assert_eq!(summarize(""), (0, String::new()));
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
    fn writable_directory_is_named_with_advice() {
        let text = explain_permissions(
            "can't make it: problem with state: Incorrect permissions: /a is u=rwx,o=rwx".to_owned(),
        );
        assert!(text.starts_with("Incorrect permissions: /a") && text.contains("chmod"), "{text}");
        assert_eq!(explain_permissions("else".to_owned()), "else");
    }
}

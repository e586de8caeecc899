//! Progress lines in the log while an empty book is filled.

use std::time::Duration;

use crate::book::Counts;
use crate::clock::Time;

/// Time between two checks of the progress, each of which logs at most one line.
const REPORT_INTERVAL: Duration = Duration::from_secs(10);

/// Progress of the first probes of an initially empty book.
#[derive(Debug)]
pub(crate) struct InitialCrawl {
    next: Time,
    /// Counts and number of pending first probes in the last line; `None` before it.
    last_logged: Option<(Counts, usize)>,
}

impl InitialCrawl {
    /// Starts a crawl, whose first report is due after `REPORT_INTERVAL`.
    pub(crate) fn new(now: Time) -> InitialCrawl {
        InitialCrawl { next: now + REPORT_INTERVAL, last_logged: None }
    }

    /// Time at which the next report is due.
    pub(crate) fn next(&self) -> Time {
        self.next
    }

    /// Whether a report is due.
    pub(crate) fn is_due(&self, now: Time) -> bool {
        // A clock that was set back delays the next report by at most one interval.
        now >= self.next || self.next.since(now) > REPORT_INTERVAL
    }

    /// Returns a line for the log if the counts changed, and whether the crawl is over.
    ///
    /// `pending` is the number of names whose first probe has not ended. The crawl is over when
    /// none is left.
    pub(crate) fn report(&mut self, counts: Counts, pending: usize, now: Time) -> (Option<String>, bool) {
        self.next = now + REPORT_INTERVAL;
        let Counts { verified, stale, candidate, bad, probing, .. } = counts;
        let known = verified + stale + candidate + bad;
        if pending == 0 {
            let outcome = if verified == 0 {
                "no server could be reached yet: is this machine online?".to_owned()
            } else {
                format!("{verified} verified of {known} known")
            };
            return (Some(format!("initial crawl: every name was probed once; {outcome}")), true);
        }
        let has_changed = self.last_logged.replace((counts, pending)) != Some((counts, pending));
        let line = format!(
            "initial crawl: {verified} verified, {known} known, {probing} probes in flight, {pending} first probes pending"
        );
        (has_changed.then_some(line), false)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const START: Time = Time::from_secs(1_700_000_000);

    fn counts(verified: usize, candidate: usize, probing: usize) -> Counts {
        Counts { verified, candidate, probing, ..Counts::default() }
    }

    #[test]
    fn crawl_is_logged_until_no_first_probe_is_pending() {
        let mut crawl = InitialCrawl::new(START);
        let after = |secs| START + Duration::from_secs(secs);
        assert_eq!([0, 9, 10, 11].map(|secs| crawl.is_due(after(secs))), [false, false, true, true]);
        let (line, is_over) = crawl.report(counts(12, 28, 30), 28, after(10));
        assert_eq!(line.unwrap(), "initial crawl: 12 verified, 40 known, 30 probes in flight, 28 first probes pending");
        assert!(!is_over && !crawl.is_due(after(19)) && crawl.next() == after(20));
        assert_eq!(crawl.report(counts(12, 28, 30), 28, after(20)), (None, false), "nothing changed");
        assert!(crawl.report(counts(13, 27, 29), 27, after(30)).0.is_some());
        let (line, is_over) = crawl.report(counts(35, 5, 1), 0, after(70));
        let end = "initial crawl: every name was probed once; 35 verified of 40 known";
        assert_eq!((line.as_deref(), is_over), (Some(end), true));
        let (line, _) = crawl.report(counts(0, 40, 0), 0, after(80));
        assert!(line.unwrap().ends_with("is this machine online?"));
    }

    #[test]
    fn clock_set_back_keeps_report_due() {
        assert!(InitialCrawl::new(START).is_due(START - Duration::from_hours(1)));
    }
}

//! What the log says while an empty book is filled for the first time.

use std::time::Duration;

use crate::book::Counts;
use crate::clock::Time;

/// Between two looks, and so two lines.
const REPORT_INTERVAL: Duration = Duration::from_secs(10);

/// A crawl under way.
#[derive(Debug)]
pub struct InitialCrawl {
    next: Time,
    /// What was last_logged last, as the same again is no news.
    last_logged: Option<(Counts, usize)>,
}

impl InitialCrawl {
    pub fn new(now: Time) -> InitialCrawl {
        InitialCrawl { next: now + REPORT_INTERVAL, last_logged: None }
    }

    /// When to look again.
    pub fn next(&self) -> Time {
        self.next
    }

    pub fn is_due(&self, now: Time) -> bool {
        // A clock that was set back must not silence us for long.
        now >= self.next || self.next.since(now) > REPORT_INTERVAL
    }

    /// A line for the log, if there is news. `untried` are the names whose first try isn't over; once there are none, so is
    /// the crawl.
    pub fn report(&mut self, counts: Counts, untried: usize, now: Time) -> (Option<String>, bool) {
        self.next = now + REPORT_INTERVAL;
        let Counts { verified, stale, candidate, bad, probing, .. } = counts;
        let known = verified + stale + candidate + bad;
        if untried == 0 {
            let end = format!("first crawl: every name was tried once; {verified} verified of {known} known");
            return (Some(end), true);
        }
        let news = self.last_logged.replace((counts, untried)) != Some((counts, untried));
        let line = format!(
            "first crawl: {verified} verified, {known} known, {probing} being tried now, {untried} not tried to the end yet"
        );
        (news.then_some(line), false)
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
    fn crawl_is_logged_until_every_name_was_tried() {
        let mut crawl = InitialCrawl::new(START);
        let after = |secs| START + Duration::from_secs(secs);
        assert_eq!([0, 9, 10, 11].map(|secs| crawl.is_due(after(secs))), [false, false, true, true]);
        let (line, over) = crawl.report(counts(12, 28, 30), 28, after(10));
        assert_eq!(
            line.unwrap(),
            "first crawl: 12 verified, 40 known, 30 being tried now, 28 not tried to the end yet"
        );
        assert!(!over && !crawl.is_due(after(19)) && crawl.next() == after(20));
        assert_eq!(crawl.report(counts(12, 28, 30), 28, after(20)), (None, false), "nothing happened");
        assert!(crawl.report(counts(13, 27, 29), 27, after(30)).0.is_some());
        let (line, over) = crawl.report(counts(35, 5, 1), 0, after(70));
        let end = "first crawl: every name was tried once; 35 verified of 40 known";
        assert_eq!((line.as_deref(), over), (Some(end), true));
    }

    #[test]
    fn a_clock_set_back_does_not_silence_it() {
        assert!(InitialCrawl::new(START).is_due(START - Duration::from_hours(1)));
    }
}

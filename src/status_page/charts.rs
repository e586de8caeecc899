//! Plots of the last thirty days and of a peer's days, with their text alternatives.

use std::time::Duration;

use super::time_text::{date, span};
use crate::api::DayVisits;
use crate::book::MAX_DAYS;
use crate::clock::Time;
use crate::trends::{TREND_INTERVAL, TrendSample, Trends};

/// Size of a plot in the units of its lines.
const WIDTH: f64 = 600.0;
const HEIGHT: f64 = 80.0;

/// Width of a day in plots of days.
const DAY_WIDTH: usize = 10;

/// Maximum number of points of a line: more can't be told apart.
const MAX_POINTS: usize = 240;

/// Time without samples after which a line is interrupted: the daemon did not run.
const GAP: Duration = TREND_INTERVAL.saturating_mul(4);

/// Plot with its legend.
#[derive(Debug)]
pub(crate) struct Chart {
    /// SVG image.
    pub svg: String,
    /// What is plotted, and over which time.
    pub title: String,
    /// Entries of the legend.
    pub lines: Vec<Line>,
}

/// Line of a plot.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Line {
    /// CSS classes.
    pub class: &'static str,
    /// Name in the legend.
    pub name: &'static str,
    /// Last value.
    pub last: u32,
    value: fn(&TrendSample) -> Option<u32>,
}

/// CSS classes, name and value of a line.
type LineSource = (&'static str, &'static str, fn(&TrendSample) -> Option<u32>);

/// Plots verified peers by kind; `None` with fewer than two samples.
pub(crate) fn verified(trends: &Trends) -> Option<Chart> {
    let lines: [LineSource; 2] = [
        ("all", "clearnet", |sample| Some(sample.verified_clearnet)),
        ("onions", "onion services", |sample| Some(sample.verified_onion)),
    ];
    chart("Verified", trends, &lines)
}

/// Plots how many peers list the own names; `None` without names or with fewer than two samples.
pub(crate) fn listings(trends: &Trends) -> Option<Chart> {
    let lines: [LineSource; 4] = [
        ("all", "list the clearnet name", |sample| Some(sample.clearnet_name?.listed_by)),
        ("all of", "clearnet peers", |sample| Some(sample.clearnet_name?.peers_of_its_kind)),
        ("onions", "list the onion name", |sample| Some(sample.onion_name?.listed_by)),
        ("onions of", "onion peers", |sample| Some(sample.onion_name?.peers_of_its_kind)),
    ];
    chart("Peers that list this node", trends, &lines)
}

fn chart(what: &str, trends: &Trends, lines: &[LineSource]) -> Option<Chart> {
    let all: Vec<&TrendSample> = trends.samples().collect();
    let last = |value: fn(&TrendSample) -> Option<u32>| all.iter().rev().find_map(|sample| value(sample));
    let lines: Vec<Line> = lines
        .iter()
        .filter_map(|(class, name, value)| Some(Line { class, name, last: last(*value)?, value: *value }))
        .collect();
    let (first, newest) = (all.first()?.at, all.last()?.at);
    if lines.is_empty() || first == newest {
        return None;
    }
    let shown = thinned(&all);
    let most =
        lines.iter().flat_map(|line| all.iter().filter_map(|sample| (line.value)(sample))).max().unwrap_or_default();
    let x = |at: Time| at.since(first).as_secs_f64() / newest.since(first).as_secs_f64() * WIDTH;
    let drawn: String = lines.iter().map(|line| polylines(line, &shown, x, most.max(1))).collect();
    let title = format!("{what} over the last {}", span(newest.since(first)));
    let values: Vec<String> = lines.iter().map(|line| description(line, &all)).collect();
    let label = format!("{title}. {}", values.join("; "));
    let svg = format!(
        r#"<svg class="trend" role="img" aria-label="{label}" viewBox="0 0 {WIDTH} {HEIGHT}" preserveAspectRatio="none">{drawn}</svg>"#
    );
    Some(Chart { svg, title, lines })
}

/// Keeps the last sample, and as many others as a line may have points.
fn thinned<'a>(all: &[&'a TrendSample]) -> Vec<&'a TrendSample> {
    let step = all.len().div_ceil(MAX_POINTS).max(1);
    let mut kept: Vec<&TrendSample> = all.iter().rev().step_by(step).copied().collect();
    kept.reverse();
    kept
}

/// Draws a line, interrupted where samples are missing.
fn polylines(line: &Line, samples: &[&TrendSample], x: impl Fn(Time) -> f64, most: u32) -> String {
    let mut parts: Vec<Vec<String>> = Vec::new();
    let mut before: Option<Time> = None;
    for sample in samples {
        let Some(value) = (line.value)(sample) else {
            before = None;
            continue;
        };
        let point = format!("{:.1},{:.1}", x(sample.at), y(value, most));
        match parts.last_mut() {
            Some(part) if before.is_some_and(|before| sample.at.since(before) <= GAP) => part.push(point),
            _ => parts.push(vec![point]),
        }
        before = Some(sample.at);
    }
    let drawn = parts.iter().filter(|part| part.len() > 1);
    drawn.map(|part| format!(r#"<polyline class="{}" points="{}"/>"#, line.class, part.join(" "))).collect()
}

fn y(value: u32, most: u32) -> f64 {
    HEIGHT - 2.0 - f64::from(value) / f64::from(most) * (HEIGHT - 4.0)
}

fn description(line: &Line, all: &[&TrendSample]) -> String {
    let values = || all.iter().filter_map(|sample| (line.value)(sample));
    let (least, most) = (values().min().unwrap_or_default(), values().max().unwrap_or_default());
    format!("{}: now {}, from {least} to {most}", line.name, line.last)
}

/// Draws the visits of each day as bars, successful ones below failed ones.
pub(crate) fn visits(days: &[DayVisits]) -> String {
    let total = |day: &DayVisits| u32::from(day.successes) + u32::from(day.failures);
    let most = days.iter().map(total).max().unwrap_or_default().max(1);
    let height = |count: u8| f64::from(count) / f64::from(most) * HEIGHT;
    let bars = days.iter().enumerate().map(|(index, day)| {
        let (x, up, down) = (day_left(index, days.len()), height(day.successes), height(day.failures));
        let (above, top) = (HEIGHT - up, HEIGHT - up - down);
        let DayVisits { start, successes, failures, .. } = day;
        format!(
            r#"<g><title>{}: {successes} successful, {failures} failed</title><rect class="up" x="{x}" y="{above:.1}" width="8" height="{up:.1}"/><rect class="down" x="{x}" y="{top:.1}" width="8" height="{down:.1}"/></g>"#,
            date(*start)
        )
    });
    let sum = |count: fn(&DayVisits) -> u8| days.iter().map(|day| u32::from(count(day))).sum::<u32>();
    let (successes, failures) = (sum(|day| day.successes), sum(|day| day.failures));
    format!(
        r#"<svg class="days" role="img" aria-label="{successes} successful and {failures} failed visits in {} days" viewBox="0 0 {} {HEIGHT}" preserveAspectRatio="none">{}</svg>"#,
        days.len(),
        MAX_DAYS * DAY_WIDTH,
        bars.collect::<String>()
    )
}

/// Draws the mean latency of each day below its bar, and describes it; `None` with fewer than two days that have one.
pub(crate) fn latency(days: &[DayVisits]) -> Option<(String, String)> {
    let known: Vec<(usize, u32)> =
        days.iter().enumerate().filter_map(|(index, day)| Some((index, u32::from(day.mean_ms?)))).collect();
    let (most, least) = (known.iter().map(|(_, ms)| *ms).max()?, known.iter().map(|(_, ms)| *ms).min()?);
    if known.len() < 2 {
        return None;
    }
    let points = known.iter().map(|(index, ms)| {
        let x = day_left(*index, days.len()) + DAY_WIDTH / 2;
        format!("{x},{:.1}", y(*ms, most.max(1)))
    });
    let points = points.collect::<Vec<_>>().join(" ");
    let description = format!("mean latency by day, from {least} to {most} ms");
    let svg = format!(
        r#"<svg class="days" role="img" aria-label="{description}" viewBox="0 0 {} {HEIGHT}" preserveAspectRatio="none"><polyline points="{points}"/></svg>"#,
        MAX_DAYS * DAY_WIDTH
    );
    Some((svg, description))
}

/// Returns the left edge of a day, of which the newest is at the right.
fn day_left(index: usize, days: usize) -> usize {
    (MAX_DAYS.saturating_sub(days) + index) * DAY_WIDTH
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::trends::NameListing;

    const NOW: Time = Time::from_secs(1_700_000_000);

    fn trends(hours: impl IntoIterator<Item = u64>) -> Trends {
        let mut trends = Trends::default();
        for hour in hours {
            let listed_by = u32::try_from(hour).unwrap();
            trends.record(TrendSample {
                at: NOW + Duration::from_hours(hour),
                verified_clearnet: 40 + listed_by,
                verified_onion: 10,
                clearnet_name: Some(NameListing { listed_by, peers_of_its_kind: 40 }),
                onion_name: None,
            });
        }
        trends
    }

    #[test]
    fn charts_need_two_samples_and_a_name() {
        assert!(verified(&Trends::default()).is_none() && verified(&trends([0])).is_none());
        let chart = listings(&trends([0, 1, 2])).unwrap();
        let names: Vec<&str> = chart.lines.iter().map(|line| line.name).collect();
        assert_eq!(names, ["list the clearnet name", "clearnet peers"]);
        insta::assert_snapshot!("listings", chart.svg);
    }

    #[test]
    fn line_is_interrupted_where_the_daemon_did_not_run() {
        let chart = verified(&trends([0, 1, 2, 50, 51])).unwrap();
        assert_eq!(chart.title, "Verified over the last 2 days");
        assert_eq!(chart.svg.matches("<polyline").count(), 4);
        assert!(chart.svg.contains("clearnet: now 91, from 40 to 91; onion services: now 10, from 10 to 10"));
    }

    #[test]
    fn thirty_days_have_a_limited_number_of_points() {
        let chart = verified(&trends(0..720)).unwrap();
        let points: usize = chart.svg.matches(',').count();
        assert!((2 * 200..2 * MAX_POINTS + 20).contains(&points), "{points}");
        assert!(chart.svg.len() < 8 * 1024, "{} bytes", chart.svg.len());
    }

    #[test]
    fn days_are_drawn_with_their_latency() {
        let day = |day: u64, successes, failures, mean_ms| DayVisits {
            start: Time::from_secs(day * 86_400),
            successes,
            failures,
            mean_ms,
        };
        let days = [day(20_000, 2, 0, Some(100)), day(20_001, 0, 1, None), day(20_002, 1, 1, Some(50))];
        insta::assert_snapshot!("days", format!("{}\n{}", visits(&days), latency(&days).unwrap().0));
        assert_eq!(latency(&days[..2]), None);
    }
}

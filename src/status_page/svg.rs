//! Inline SVG images of the page.

use qrcode::{Color, EcLevel, QrCode};

use super::history::History;

/// Width of a QR code's border in modules (ISO/IEC 18004).
const QUIET_ZONE: usize = 4;

/// Draws a QR code; `None` if the text is too long.
pub(crate) fn qr(text: &str) -> Option<String> {
    let code = QrCode::with_error_correction_level(text, EcLevel::M).ok()?;
    let width = code.width();
    let mut path = String::new();
    for (index, color) in code.to_colors().into_iter().enumerate() {
        if color == Color::Dark {
            path.push_str(&format!("M{} {}h1v1h-1z", index % width + QUIET_ZONE, index / width + QUIET_ZONE));
        }
    }
    let size = width + 2 * QUIET_ZONE;
    Some(format!(
        r##"<svg class="qr" role="img" aria-label="{label}" viewBox="0 0 {size} {size}" shape-rendering="crispEdges"><rect width="{size}" height="{size}" fill="#fff"/><path d="{path}" fill="#000"/></svg>"##,
        label = "QR code of the onion address, for wallets"
    ))
}

/// Draws the last outcomes of a peer, oldest first: tall bars for successes, short ones for
/// failures.
pub(crate) fn sparkline(history: &[bool]) -> String {
    let marks = history.iter().enumerate().map(|(index, up)| {
        let x = index * 4;
        if *up {
            format!(r#"<rect class="up" x="{x}" y="1" width="3" height="12"/>"#)
        } else {
            format!(r#"<rect class="down" x="{x}" y="9" width="3" height="4"/>"#)
        }
    });
    let (successes, probes) = (history.iter().filter(|up| **up).count(), history.len());
    format!(
        r#"<svg class="outcomes" role="img" aria-label="{successes} of the last {probes} probes succeeded" viewBox="0 0 64 14">{}</svg>"#,
        marks.collect::<String>()
    )
}

/// Plots verified peers over the last day; `None` with fewer than two samples.
pub(crate) fn trend(history: &History) -> Option<String> {
    const WIDTH: f64 = 600.0;
    const HEIGHT: f64 = 80.0;
    let samples = history.samples();
    let steps = samples.len().checked_sub(1).filter(|steps| *steps > 0)?;
    let most = samples.map(|sample| sample.verified).max().unwrap_or_default().max(1);
    let line = |value: fn(&super::history::Sample) -> usize| {
        let points = history.samples().enumerate().map(|(index, sample)| {
            let (x, y) = (share(index, steps) * WIDTH, HEIGHT - share(value(sample), most) * (HEIGHT - 4.0) - 2.0);
            format!("{x:.1},{y:.1}")
        });
        points.collect::<Vec<_>>().join(" ")
    };
    let outages = history.samples().enumerate().filter(|(_, sample)| !sample.is_tor_ready).map(|(index, _)| {
        let (x, width) = (share(index, steps) * WIDTH, WIDTH / share(steps, 1));
        format!(r#"<rect class="outage" x="{x:.1}" y="0" width="{width:.1}" height="{HEIGHT}"/>"#)
    });
    let outages: String = outages.collect();
    let (all, onions) = (line(|sample| sample.verified), line(|sample| sample.onion));
    Some(format!(
        r#"<svg class="trend" role="img" aria-label="verified peers over time, {most} at most" viewBox="0 0 {WIDTH} {HEIGHT}" preserveAspectRatio="none">{outages}<polyline class="all" points="{all}"/><polyline class="onions" points="{onions}"/></svg>"#
    ))
}

#[expect(clippy::cast_precision_loss, reason = "the counts of a plot are far below 2^52")]
fn share(part: usize, whole: usize) -> f64 {
    part as f64 / whole as f64
}

#[cfg(test)]
mod tests {
    use super::super::history::Sample;
    use super::*;

    #[test]
    fn qr_code_holds_the_longest_name_and_port() {
        let name = format!("{}.onion:65535:t", "a".repeat(56));
        let code = qr(&name).unwrap();
        assert!(code.contains("viewBox=\"0 0 45 45\"") && code.contains("M4 4h1v1h-1z"), "{code}");
        assert_eq!(qr(&"a".repeat(5000)), None);
    }

    #[test]
    fn trend_with_two_samples_is_drawn() {
        let sample = |verified, is_tor_ready| Sample { verified, onion: verified / 4, is_tor_ready };
        let mut history = History::default();
        assert_eq!(trend(&history), None);
        history.push(sample(0, false));
        assert_eq!(trend(&history), None);
        history.push(sample(40, true));
        insta::assert_snapshot!(trend(&history).unwrap());
    }

    #[test]
    fn sparkline_outcomes_differ_in_shape() {
        insta::assert_snapshot!(sparkline(&[true, false]));
    }
}

//! A bar chart as SVG, written by hand: ratios, with the spread of the rounds, against a line at 1.

use std::fmt::Write as _;

use onnxd::bench::svg::escape;

/// One bar: a median and the range it was the middle of.
pub(crate) struct Bar {
    pub(crate) label: String,
    pub(crate) note: String,
    pub(crate) value: f64,
    pub(crate) low: f64,
    pub(crate) high: f64,
}

const BARS: f64 = 430.0;
/// Room for the labels, if they need no more.
const LEFT: f64 = 250.0;
/// What is beyond is not drawn to its end: one bad round would make all else small. Its figures tell.
const MOST: f64 = 3.0;
const RIGHT: f64 = 200.0;
const TOP: f64 = 92.0;
const ROW: f64 = 50.0;

/// Draws the bars. The axis starts at 0; `unit` says what the line at 1 stands for.
pub(crate) fn chart(title: &str, subtitle: &str, unit: &str, bars: &[Bar]) -> String {
    let height = TOP + ROW * bars.len() as f64 + 44.0;
    let most = bars.iter().map(|bar| bar.high.max(bar.value)).fold(1.0, f64::max).min(MOST) * 1.05;
    // About as wide as letters of these sizes are.
    let needed = |bar: &Bar| (bar.label.chars().count() as f64 * 7.6).max(bar.note.chars().count() as f64 * 5.7) + 24.0;
    let left = bars.iter().map(needed).fold(LEFT, f64::max);
    let width = left + BARS + RIGHT;
    let x = |value: f64| left + value.min(most) / most * BARS;
    let mut svg = format!(
        r##"<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width} {height}" font-family="system-ui, sans-serif" font-size="14" fill="#222">
<rect width="{width}" height="{height}" fill="#fff"/>
<text x="24" y="34" font-size="18" font-weight="600">{}</text>
<text x="24" y="58" fill="#555">{}</text>
"##,
        escape(title),
        escape(subtitle)
    );
    for (index, bar) in bars.iter().enumerate() {
        let y = TOP + ROW * index as f64;
        let (start, end, middle) = (x(0.0), x(bar.value), y + 13.0);
        let (low, high) = (x(bar.low), x(bar.high));
        let (length, text) = (end - start, high.max(end).max(x(1.0)) + 10.0);
        // Writing to a String cannot fail.
        let _written = writeln!(
            svg,
            r##"<text x="{left:.1}" y="{y1:.1}" text-anchor="end">{label}</text>
<text x="{left:.1}" y="{y2:.1}" text-anchor="end" font-size="11" fill="#555">{note}</text>
<rect x="{start:.1}" y="{y:.1}" width="{length:.1}" height="26" fill="#7fa8d1"/>
<path d="M{low:.1} {middle:.1}H{high:.1}M{low:.1} {t1:.1}V{t2:.1}M{high:.1} {t1:.1}V{t2:.1}" stroke="#222" fill="none"/>
<text x="{text:.1}" y="{y3:.1}"><tspan font-weight="600">{value:.2}</tspan> <tspan font-size="11" fill="#555">{least:.2} to {greatest:.2}</tspan></text>"##,
            left = left - 12.0,
            y1 = y + 11.0,
            y2 = y + 26.0,
            y3 = y + 18.0,
            t1 = middle - 5.0,
            t2 = middle + 5.0,
            label = escape(&bar.label),
            note = escape(&bar.note),
            value = bar.value,
            least = bar.low,
            greatest = bar.high,
        );
    }
    let (one, bottom) = (x(1.0), TOP + ROW * bars.len() as f64);
    let _written = write!(
        svg,
        r##"<path d="M{one:.1} {above:.1}V{bottom:.1}" stroke="#b03030" stroke-dasharray="4 3" fill="none"/>
<text x="{one:.1}" y="{below:.1}" text-anchor="middle" font-size="12" fill="#b03030">1 = {unit}</text>
</svg>
"##,
        above = TOP - 10.0,
        below = bottom + 16.0,
        unit = escape(unit),
    );
    svg
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_bar_is_as_long_as_its_value() {
        let bar = |value| Bar { label: "a < b".to_owned(), note: String::new(), value, low: 0.4, high: 2.0 };
        let svg = chart("R & D", "", "floor", &[bar(0.5), bar(1.0)]);
        let widths: Vec<f64> = svg
            .lines()
            .filter(|line| line.contains("#7fa8d1"))
            .filter_map(|line| line.split("width=\"").nth(1)?.split('"').next()?.parse().ok())
            .collect();
        assert!((widths[1] / widths[0] - 2.0).abs() < 0.01, "{widths:?}");
        assert!(svg.contains("viewBox=\"0 0 880 "), "short labels have the room that all charts have");
        assert!(svg.contains("R &amp; D") && svg.contains("a &lt; b"));
        assert!(svg.starts_with("<svg ") && svg.ends_with("</svg>\n"));
    }
}

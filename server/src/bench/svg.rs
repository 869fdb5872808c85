//! The same pictures as SVG: rows a second by the batch, and the latency by the rate. Light and dark as the reader has it.

use std::fmt::Write as _;

use super::alone::Alone;
use super::served::{Served, Step};
use super::{Report, number, several, time};

/// Of one picture.
const WIDTH: f64 = 460.0;
const HEIGHT: f64 = 340.0;
/// Around the lines: left, top, right, bottom.
const INSET: [f64; 4] = [76.0, 64.0, 24.0, 52.0];
/// Colours of lines that stay apart for all eyes and on light and dark (Okabe and Ito).
const COLOURS: [&str; 5] = ["#0072b2", "#d55e00", "#009e73", "#cc79a7", "#e69f00"];
const STYLE: &str = "text{fill:#222;font:13px system-ui,sans-serif}.small{font-size:11px;fill:#666}\
                     .title{font-size:15px;font-weight:600}.back{fill:#fff}.grid{stroke:#ddd}\
                     .limit{stroke:#c22;stroke-dasharray:5 3}.limit-text{font-size:11px;fill:#c22}\
                     @media(prefers-color-scheme:dark){text{fill:#ddd}.small{fill:#999}.back{fill:#111}.grid{stroke:#333}\
                     .limit{stroke:#f66}.limit-text{fill:#f66}}";

struct Line {
    name: String,
    points: Vec<(f64, f64)>,
}

struct Picture<'a> {
    title: &'a str,
    across: &'a str,
    up: fn(f64) -> String,
    lines: Vec<Line>,
    /// A height that must not be exceeded, and what it is.
    limit: Option<(f64, String)>,
    /// A place across, and what it is.
    mark: Option<(f64, String)>,
}

/// Draws what was measured.
#[must_use]
pub fn draw(report: &Report) -> String {
    let pictures: Vec<Picture<'_>> = report
        .alone
        .iter()
        .map(batches)
        .chain(report.served.iter().map(|served| rates(served, report.latency_us)))
        .collect();
    let count = u32::try_from(pictures.len()).unwrap_or(1);
    let (width, height) = (WIDTH * f64::from(count), HEIGHT + 28.0);
    let mut svg = format!(
        "<svg xmlns=\"http://www.w3.org/2000/svg\" viewBox=\"0 0 {width} {height}\"><style>{STYLE}</style>\
         <rect class=\"back\" width=\"{width}\" height=\"{height}\"/>\n"
    );
    for (place, picture) in (0_u32..).zip(&pictures) {
        picture.draw(&mut svg, WIDTH * f64::from(place));
    }
    let model = &report.model;
    let note = format!(
        "{} version {}, {}, ONNX Runtime {}, {} CPUs",
        model.name, model.version, report.rows.from, report.machine.onnxruntime, report.machine.cpus
    );
    // Writing to a String cannot fail, here and below.
    let _written =
        writeln!(svg, "<text class=\"small\" x=\"16\" y=\"{}\">{}</text>\n</svg>", HEIGHT + 16.0, escape(&note));
    svg
}

#[expect(clippy::cast_precision_loss, reason = "far below 2^53")]
fn batches(alone: &Alone) -> Picture<'static> {
    let mut lines: Vec<Line> = vec![];
    let mut workers = 0;
    for cell in &alone.cells {
        if lines.is_empty() || cell.workers != workers {
            workers = cell.workers;
            lines.push(Line { name: several(workers, "thread"), points: vec![] });
        }
        if let Some(line) = lines.last_mut() {
            line.points.push((cell.batch as f64, cell.rows_per_second));
        }
    }
    let best = &alone.best;
    let mark = Some((best.batch as f64, format!("best: {}", best.batch)));
    Picture { title: "The model alone: rows/s", across: "rows in a run", up: number, lines, limit: None, mark }
}

fn rates(served: &Served, latency_us: f64) -> Picture<'static> {
    let line = |name: &str, value: fn(&Step) -> f64| {
        let point = |step: &&Step| Some((step.rate?, value(step))).filter(|(_, value)| value.is_finite());
        let points = served.counted().iter().filter_map(point).collect();
        Line { name: name.into(), points }
    };
    let lines = vec![line("p99", |step| step.p99_us), line("p50", |step| step.p50_us)];
    let knee = served.at_knee().and_then(|step| step.rate);
    Picture {
        title: "Served: latency",
        across: "requests/s",
        up: time,
        lines,
        limit: Some((latency_us, format!("to keep: {}", time(latency_us)))),
        mark: knee.map(|rate| (rate, format!("knee: {}", number(rate)))),
    }
}

/// A logarithmic axis from one value to another.
struct Axis {
    least: f64,
    greatest: f64,
    begin: f64,
    end: f64,
}

impl Axis {
    fn new(values: impl Iterator<Item = f64> + Clone, begin: f64, end: f64) -> Self {
        let values = values.filter(|value| *value > 0.0);
        let (least, greatest) = (values.clone().fold(f64::INFINITY, f64::min), values.fold(0.0, f64::max));
        let (least, greatest) = if least.is_finite() { (least, greatest) } else { (1.0, 10.0) };
        // So that one value alone has a place too.
        Self { least: least / 1.1, greatest: greatest * 1.1, begin, end }
    }

    fn at(&self, value: f64) -> f64 {
        self.begin + (value / self.least).ln() / (self.greatest / self.least).ln() * (self.end - self.begin)
    }

    /// 1, 2 and 5 of each power of ten; the powers alone where these are many, and more where there is hardly one.
    fn ticks(&self) -> Vec<f64> {
        let steps: &[f64] = match self.greatest / self.least {
            ratio if ratio > 300.0 => &[1.0],
            ratio if ratio > 15.0 => &[1.0, 2.0, 5.0],
            _ => &[1.0, 1.5, 2.0, 3.0, 4.0, 5.0, 7.0],
        };
        let powers = (-9..=15).flat_map(|power| steps.iter().map(move |step| step * 10_f64.powi(power)));
        powers.filter(|tick| (self.least..=self.greatest).contains(tick)).collect()
    }
}

impl Picture<'_> {
    fn draw(&self, svg: &mut String, left: f64) {
        let [inset, top, right, bottom] = INSET;
        let (begin, end, floor) = (left + inset, left + WIDTH - right, HEIGHT - bottom);
        let points = || self.lines.iter().flat_map(|line| line.points.iter().copied());
        let across = Axis::new(points().map(|(x, _)| x), begin, end);
        let heights: Vec<f64> = points().map(|(_, y)| y).chain(self.limit.iter().map(|(y, _)| *y)).collect();
        let up = Axis::new(heights.into_iter(), floor, top);
        let _written = writeln!(svg, "<text class=\"title\" x=\"{begin:.1}\" y=\"28\">{}</text>", escape(self.title));
        for tick in up.ticks() {
            let y = up.at(tick);
            let _written = writeln!(
                svg,
                "<path class=\"grid\" d=\"M{begin:.1} {y:.1}H{end:.1}\"/><text class=\"small\" x=\"{:.1}\" y=\"{:.1}\" \
                 text-anchor=\"end\">{}</text>",
                begin - 8.0,
                y + 4.0,
                escape(&(self.up)(tick))
            );
        }
        for tick in across.ticks() {
            let x = across.at(tick);
            let _written = writeln!(
                svg,
                "<path class=\"grid\" d=\"M{x:.1} {top:.1}V{floor:.1}\"/><text class=\"small\" x=\"{x:.1}\" y=\"{:.1}\" \
                 text-anchor=\"middle\">{}</text>",
                floor + 18.0,
                number(tick)
            );
        }
        let middle = f64::midpoint(begin, end);
        let (below, across_text) = (floor + 38.0, escape(self.across));
        let _written =
            writeln!(svg, "<text x=\"{middle:.1}\" y=\"{below:.1}\" text-anchor=\"middle\">{across_text}</text>");
        if let Some((limit, text)) = &self.limit {
            let y = up.at(*limit);
            let _written = writeln!(
                svg,
                "<path class=\"limit\" d=\"M{begin:.1} {y:.1}H{end:.1}\"/><text class=\"limit-text\" x=\"{begin:.1}\" y=\"{:.1}\" \
                 dx=\"4\">{}</text>",
                y - 5.0,
                escape(text)
            );
        }
        if let Some((mark, text)) = &self.mark {
            let x = across.at(*mark);
            let _written = writeln!(
                svg,
                "<path class=\"limit\" d=\"M{x:.1} {top:.1}V{floor:.1}\"/><text class=\"limit-text\" x=\"{x:.1}\" y=\"{:.1}\" \
                 text-anchor=\"middle\">{}</text>",
                top - 4.0,
                escape(text)
            );
        }
        for ((line, colour), place) in self.lines.iter().zip(COLOURS.iter().cycle()).zip(0_u32..) {
            let places: Vec<String> =
                line.points.iter().map(|(x, y)| format!("{:.1} {:.1}", across.at(*x), up.at(*y))).collect();
            let dots: String = places.iter().map(|place| format!("M{place}h0")).collect();
            let key = begin + 92.0 * f64::from(place);
            let _written = writeln!(
                svg,
                "<path d=\"M{}\" stroke=\"{colour}\" stroke-width=\"2\" fill=\"none\"/>\
                 <path d=\"{dots}\" stroke=\"{colour}\" stroke-width=\"6\" stroke-linecap=\"round\"/>\
                 <path d=\"M{key:.1} 42h18\" stroke=\"{colour}\" stroke-width=\"3\"/><text class=\"small\" x=\"{:.1}\" y=\"46\">{}</text>",
                places.join("L"),
                key + 24.0,
                escape(&line.name)
            );
        }
    }
}

/// A text as XML has it.
#[must_use]
pub fn escape(text: &str) -> String {
    text.replace('&', "&amp;").replace('<', "&lt;").replace('>', "&gt;").replace('"', "&quot;")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_axis_begins_and_ends_where_its_values_do() {
        let axis = Axis::new([1.0, 10.0, 100.0].into_iter(), 0.0, 300.0);
        let at = [1.0, 10.0, 100.0].map(|value| axis.at(value));
        assert!(at[0] > 0.0 && at[2] < 300.0 && (at[1] - 150.0).abs() < 1e-9, "{at:?}");
        assert_eq!(axis.ticks(), [1.0, 2.0, 5.0, 10.0, 20.0, 50.0, 100.0]);
        // One value alone, or none, has a picture too.
        assert!((Axis::new([7.0].into_iter(), 0.0, 10.0).at(7.0) - 5.0).abs() < 1e-9);
        assert!(Axis::new([].into_iter(), 0.0, 10.0).at(3.0).is_finite());
    }
}

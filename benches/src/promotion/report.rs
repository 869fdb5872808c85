//! The report on promotions: tables and a chart.

use std::fmt::Write as _;

use super::{CASES, Measured, RATE, REPLICAS, Taken};
use crate::{
    report::{median, micros, range},
    svg::{self, Bar},
};

impl Measured {
    fn of<'a>(&'a self, case: &'a str, replica: &'a str) -> impl Iterator<Item = &'a Taken> + Clone {
        self.taken.iter().filter(move |taken| taken.case == case && taken.replica == replica)
    }

    /// Until the later one of the replicas had it, and by how much it was later.
    fn both(&self, case: &str) -> (Vec<f64>, Vec<f64>) {
        let [first, second] = REPLICAS.map(|replica| self.of(case, replica).map(|taken| taken.seconds));
        first.zip(second).map(|(a, b)| (a.max(b), (a - b).abs())).unzip()
    }

    pub(super) fn markdown(&self) -> String {
        let promotions = self.taken.iter().map(|taken| taken.number).max().unwrap_or(0);
        let answered: u64 = self.taken.iter().map(|taken| taken.answered).sum();
        let failed: u64 = self.taken.iter().map(|taken| taken.failed).sum();
        let writes: Vec<_> = self.taken.iter().map(|taken| taken.write_seconds * 1e6).collect();
        let mut text = format!(
            "# How fast a promotion is seen, and what it costs\n\n{}\nTwo replicas read one repository from the tests' S3 \
             server, each with its own cache, under load on {} connections each; all of it shares the cores. In each \
             case {promotions} promotions, each a conditional PUT of `aliases.json` (median {}). The time counts from \
             right before it is sent to the first answer of the new version. *In memory*: the version is the champion before; closed loop, all CPUs are busy. *New*, at {RATE} requests/s to each replica: no replica has seen it, so \
             that it is fetched, tried out in a child process and loaded, and the champion before scores the same rows for the \
             guard from then on. *p99 before* is of the second before the write, *p99 during* of the half second before the first new answer and the \
             half second after it; their ratio is taken in each promotion.\n\n**{failed} of {answered} requests failed.**\n\n\
             | poll interval, version | replica | write to first new answer, median | least to greatest | p99 before | \
             p99 during | ratio, median | slowest before | slowest during | failed |\n|---|---|---|---|---|---|---|---|---|---|\n",
            self.provenance.markdown(),
            self.connections,
            micros(Some(median(&writes))),
        );
        for case in CASES.map(super::Case::name) {
            for replica in REPLICAS {
                self.row(&case, replica, &mut text);
            }
            let (both, apart) = self.both(&case);
            let (least, greatest) = range(&both);
            let (_, most_apart) = range(&apart);
            // Writing to a String cannot fail.
            let _written = writeln!(
                text,
                "| {case} | both | **{:.2} s** | {least:.2} to {greatest:.2} s; apart by {:.2} s, at most {most_apart:.2} s | | | | | | |",
                median(&both),
                median(&apart),
            );
        }
        self.polls_and_starts(&mut text);
        text
    }

    fn row(&self, case: &str, replica: &str, text: &mut String) {
        let all = self.of(case, replica);
        let each = |value: fn(&Taken) -> f64| all.clone().map(value).collect::<Vec<_>>();
        let seconds = each(|taken| taken.seconds);
        let (least, greatest) = range(&seconds);
        let ratios = each(|taken| taken.during.p99_us / taken.before.p99_us);
        let (_, slowest_before) = range(&each(|taken| taken.before.slowest_us));
        let (_, slowest_during) = range(&each(|taken| taken.during.slowest_us));
        let failed: u64 = all.clone().map(|taken| taken.failed).sum();
        let _written = writeln!(
            text,
            "| {case} | {replica} | {:.2} s | {least:.2} to {greatest:.2} s | {} | {} | {:.2} | {} | {} | {failed} |",
            median(&seconds),
            micros(Some(median(&each(|taken| taken.before.p99_us)))),
            micros(Some(median(&each(|taken| taken.during.p99_us)))),
            median(&ratios),
            micros(Some(slowest_before)),
            micros(Some(slowest_during)),
        );
    }

    fn polls_and_starts(&self, text: &mut String) {
        let count = self.polls.len();
        let each = |value: fn(&super::Exchange) -> f64| self.polls.iter().map(value).collect::<Vec<_>>();
        let unchanged = self.polls.iter().filter(|poll| poll.status == "304").count();
        let _written = write!(
            text,
            "\n## An unchanged poll\n\nOne replica with `--models`, without load, {count} requests, of which {unchanged} were \
             answered 304: a poll is one request. Medians:\n\n| sent | received | time |\n|---|---|---|\n| {} bytes | {} bytes | {} |\n",
            median(&each(|poll| poll.sent as f64)),
            median(&each(|poll| poll.received as f64)),
            micros(Some(median(&each(|poll| poll.took_us)))),
        );
        *text += "\n## A start\n\nFrom the start of the process until `/readyz` says yes, without load.\n\n\
                  | S3 and cache | median | least to greatest | starts |\n|---|---|---|---|\n";
        for starts in &self.starts {
            let (least, greatest) = range(&starts.seconds);
            let _written = writeln!(
                text,
                "| {} | {:.2} s | {least:.2} to {greatest:.2} s | {} |",
                starts.name,
                median(&starts.seconds),
                starts.seconds.len()
            );
        }
    }

    pub(super) fn chart(&self) -> String {
        let bars = CASES.map(|case| {
            let interval = case.interval.as_secs_f64();
            let (both, _) = self.both(&case.name());
            let shares: Vec<_> = both.iter().map(|seconds| seconds / interval).collect();
            let (low, high) = range(&shares);
            let note = format!("both replicas: median {:.2} s", median(&both));
            Bar { label: case.name(), note, value: median(&shares), low, high }
        });
        svg::chart(
            "From the write of aliases.json to new answers from both replicas",
            &format!(
                "in poll intervals, median and range of the promotions; {}; {}",
                self.provenance.machine, self.provenance.date
            ),
            "the poll interval",
            &bars,
        )
    }
}

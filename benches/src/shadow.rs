//! What a bad challenger costs the champion's clients: the same open-loop load on servers that differ only in it.

use std::{
    collections::BTreeMap,
    fmt::Write as _,
    path::{Path, PathBuf},
    time::Duration,
};

use anyhow::{Result, ensure};
use onnxd::load::{self, Histogram, Outcome, Plan};
use serde::Serialize;

use crate::{
    bodies, progress,
    report::{self, Figures, Provenance, median, micros, range},
    repository::Repository,
    server::{Server, samples},
    svg::{self, Bar},
};

/// How many requests the shadow lane was offered, by what became of them.
pub(crate) type Pairs = BTreeMap<String, f64>;

const MODEL: &str = "anomaly";
const CHAMPION: &str = "good";
/// The cases: a name and the fixture that is the challenger. The second without one shows what the method cannot tell
/// apart.
const CASES: [(&str, Option<&str>); 6] = [
    ("none", None),
    ("none, again", None),
    ("other", Some("other")),
    ("slow", Some("slow")),
    ("nan-sometimes", Some("nan-sometimes")),
    ("fails-sometimes", Some("fails-sometimes")),
];
/// One row in so many makes `nan-sometimes` and `fails-sometimes` do so. Every case is sent them.
const TRIGGER_EVERY: u32 = 20;

/// Measures what a bad challenger costs the champion's clients.
#[derive(clap::Args)]
pub(crate) struct Arguments {
    /// The binary to measure.
    #[arg(long)]
    onnxd: PathBuf,
    /// The folder of the test models.
    #[arg(long, default_value = "server/tests/fixtures")]
    fixtures: PathBuf,
    /// Reports go to a folder of today's date and this machine in here.
    #[arg(long, default_value = "benches/runs")]
    out: PathBuf,
    /// Requests a second.
    #[arg(long, default_value_t = 2000.0)]
    rate: f64,
    #[arg(long, default_value_t = 16)]
    connections: usize,
    #[arg(long, default_value_t = 7)]
    rounds: u32,
    /// Seconds measured per case in each round.
    #[arg(long, default_value = "3", value_parser = crate::seconds)]
    seconds: Duration,
    /// Seconds of the same load before each measurement, not counted.
    #[arg(long, default_value = "0.5", value_parser = crate::seconds)]
    warm_up: Duration,
    /// More arguments for `onnxd serve`.
    #[arg(last = true)]
    more: Vec<String>,
}

/// One case: all its rounds together, and each round's ratios to the same round of `none`.
#[derive(Serialize)]
struct Case {
    name: &'static str,
    challenger: Option<&'static str>,
    #[serde(flatten)]
    figures: Figures,
    p50_ratio: Ratios,
    p99_ratio: Ratios,
    p999_ratio: Ratios,
    /// The same of the latency from when a request left: what of the above is the server's.
    from_sent_p99_ratio: Ratios,
    /// Median over the rounds of its p99 less that of `none`.
    p99_more_us: f64,
    /// What the shadow lane did meanwhile, as `onnxd_shadow_pairs_total` counts it.
    shadow_pairs: Pairs,
}

#[derive(Serialize)]
struct Ratios {
    median: f64,
    per_round: Vec<f64>,
}

#[derive(Serialize)]
struct Shadow {
    #[serde(flatten)]
    provenance: Provenance,
    rate: f64,
    connections: usize,
    rounds: u32,
    seconds: f64,
    cases: Vec<Case>,
}

pub(crate) fn run(arguments: &Arguments) -> Result<()> {
    ensure!(arguments.rounds > 0, "at least one round is needed");
    let folders = CASES.map(|(_, challenger)| repository(&arguments.fixtures, challenger));
    let folders = folders.into_iter().collect::<Result<Vec<_>>>()?;
    let mut servers = Vec::new();
    for ((name, challenger), folder) in CASES.iter().zip(&folders) {
        progress(&format!("starting: {name}"));
        let server = Server::onnxd(name, &arguments.onnxd, folder.path(), &arguments.more)?;
        if challenger.is_some() {
            server.await_metrics("a challenger", has_challenger)?;
        }
        servers.push(server);
    }
    let (outcomes, pairs) = measure(arguments, &servers)?;
    let cases = CASES.iter().enumerate().map(|(index, (name, challenger))| {
        Case::new(name, *challenger, &outcomes[index], &outcomes[0], pairs[index].clone())
    });
    let cases: Vec<_> = cases.collect();
    let idle: Vec<_> = cases.iter().filter(|case| case.is_idle()).map(|case| case.name).collect();
    let errors: u64 = cases.iter().map(|case| case.figures.errors).sum();
    let provenance = Provenance::now(Some(&arguments.onnxd));
    let folder = provenance.folder(&arguments.out)?;
    let Arguments { rate, connections, rounds, .. } = *arguments;
    let seconds = arguments.seconds.as_secs_f64();
    let shadow = Shadow { provenance, rate, connections, rounds, seconds, cases };
    let markdown = shadow.markdown();
    println!("{markdown}");
    report::write(&folder, "shadow", &shadow, &markdown, &shadow.chart())?;
    ensure!(errors == 0, "{errors} requests were not answered well");
    ensure!(idle.is_empty(), "no request was shadowed in {}: these cases show nothing", idle.join(", "));
    Ok(())
}

/// Per case, the rounds' outcomes and what its shadow lane did in them.
fn measure(arguments: &Arguments, servers: &[Server]) -> Result<(Vec<Vec<Outcome>>, Vec<Pairs>)> {
    let bodies = bodies::with_triggers(TRIGGER_EVERY);
    let mut outcomes: Vec<Vec<Outcome>> = servers.iter().map(|_| Vec::new()).collect();
    let before = servers.iter().map(pairs_of).collect::<Result<Vec<_>>>()?;
    for round in 1..=arguments.rounds {
        for turn in 0..servers.len() {
            // Another case is first in each round.
            let index = (turn + round as usize) % servers.len();
            let target = servers[index].target.clone();
            let mut plan = Plan::new(target, bodies.clone(), arguments.connections, arguments.warm_up);
            (plan.rate, plan.is_good) = (Some(arguments.rate), bodies::has_score);
            load::run(&plan)?;
            plan.duration = arguments.seconds;
            let outcome = load::run(&plan)?;
            progress(&format!(
                "round {round}/{}: {}: p50 {}, p99 {}, {} errors",
                arguments.rounds,
                servers[index].name,
                micros(outcome.latency.quantile_us(0.5)),
                micros(outcome.latency.quantile_us(0.99)),
                outcome.errors()
            ));
            outcomes[index].push(outcome);
        }
    }
    let after = servers.iter().map(pairs_of).collect::<Result<Vec<_>>>()?;
    let meanwhile = after.iter().zip(&before).map(|(after, before)| less(after, before)).collect();
    Ok((outcomes, meanwhile))
}

/// What came to `before` until `after`.
pub(crate) fn less(after: &Pairs, before: &Pairs) -> Pairs {
    let had = |outcome: &String| before.get(outcome).copied().unwrap_or_default();
    after.iter().map(|(outcome, count)| (outcome.clone(), count - had(outcome))).collect()
}

impl Case {
    fn new(
        name: &'static str,
        challenger: Option<&'static str>,
        rounds: &[Outcome],
        none: &[Outcome],
        shadow_pairs: Pairs,
    ) -> Self {
        // Round by round, with the same round of `none`.
        let both = |histogram: fn(&Outcome) -> &Histogram, q: f64, combine: fn(f64, f64) -> f64| -> Vec<f64> {
            let pairs = rounds.iter().zip(none);
            let quantiles = pairs.map(|(a, b)| histogram(a).quantile_us(q).zip(histogram(b).quantile_us(q)));
            quantiles.flatten().map(|(mine, theirs)| combine(mine, theirs)).collect()
        };
        let latency: fn(&Outcome) -> &Histogram = |outcome| &outcome.latency;
        let ratios = |histogram, q| {
            let per_round = both(histogram, q, |mine, theirs| mine / theirs);
            Ratios { median: median(&per_round), per_round }
        };
        let mut together = rounds[0].clone();
        rounds[1..].iter().for_each(|outcome| together.merge(outcome));
        Self {
            name,
            challenger,
            figures: Figures::new(&together, None),
            p50_ratio: ratios(latency, 0.5),
            p99_ratio: ratios(latency, 0.99),
            p999_ratio: ratios(latency, 0.999),
            from_sent_p99_ratio: ratios(|outcome| &outcome.service, 0.99),
            p99_more_us: median(&both(latency, 0.99, |mine, theirs| mine - theirs)),
            shadow_pairs,
        }
    }

    /// A challenger that never ran costs nothing and shows nothing.
    fn is_idle(&self) -> bool {
        self.challenger.is_some() && self.shadow_pairs.values().sum::<f64>() == 0.0
    }
}

impl Shadow {
    fn markdown(&self) -> String {
        let mut text = format!(
            "# What a bad challenger costs\n\n{}\nOpen loop: {} requests/s on {} connections, latency from when a \
             request was due; {} rounds of {} s for each case, taking turns. One request in {TRIGGER_EVERY} is of the \
             kind that makes `nan-sometimes` and `fails-sometimes` do so; every case is sent them. Ratios are medians \
             over the rounds, each to `none` of the same round; `none, again` is the same server twice, so what it \
             differs by is noise.\n\n\
             | challenger | p50 | p99 | p999 | p50 ratio | p99 ratio | p999 ratio | p99 - none | late p99 | from sent p99 | its ratio | errors | shadow pairs |\n\
             |---|---|---|---|---|---|---|---|---|---|---|---|---|\n",
            self.provenance.markdown(),
            self.rate,
            self.connections,
            self.rounds,
            self.seconds
        );
        for case in &self.cases {
            let pairs: Vec<_> = case.shadow_pairs.iter().map(|(outcome, count)| format!("{outcome} {count}")).collect();
            let _written = writeln!(
                text,
                "| {} | {} | {} | {} | {:.2} | {:.2} | {:.2} | {:+.0} us | {} | {} | {:.2} | {} of {} | {} |",
                case.name,
                micros(case.figures.p50_us),
                micros(case.figures.p99_us),
                micros(case.figures.p999_us),
                case.p50_ratio.median,
                case.p99_ratio.median,
                case.p999_ratio.median,
                case.p99_more_us,
                micros(case.figures.sent_late_p99_us),
                micros(case.figures.from_sent_p99_us),
                case.from_sent_p99_ratio.median,
                case.figures.errors,
                case.figures.answered + case.figures.broken + case.figures.unanswered,
                if pairs.is_empty() { "-".to_owned() } else { pairs.join(", ") }
            );
        }
        text += "\nThe load generator has no cores of its own: `late` is how long after it was due a request left, which p50, p99 \
                 and p999 include; `from sent` counts from when it left.\n";
        text
    }

    fn chart(&self) -> String {
        let bars = self.cases.iter().skip(1).map(|case| {
            let (low, high) = range(&case.p99_ratio.per_round);
            let note = format!("p99 {}, {} errors", micros(case.figures.p99_us), case.figures.errors);
            Bar { label: case.name.to_owned(), note, value: case.p99_ratio.median, low, high }
        });
        svg::chart(
            "p99 of the champion's answers, by challenger",
            &format!(
                "{} requests/s, open loop; median of the rounds and their range; {}; {}",
                self.rate, self.provenance.machine, self.provenance.date
            ),
            "p99 without a challenger",
            &bars.collect::<Vec<_>>(),
        )
    }
}

/// A repository whose champion is good and whose challenger, if any, is not.
fn repository(fixtures: &Path, challenger: Option<&str>) -> Result<Repository> {
    let versions: Vec<_> = [Some(CHAMPION), challenger].into_iter().flatten().map(|name| fixtures.join(name)).collect();
    let mut repository = Repository::new(MODEL, &versions.iter().map(PathBuf::as_path).collect::<Vec<_>>())?;
    repository.point("1", if challenger.is_some() { &["2"] } else { &[] }, None)?;
    Ok(repository)
}

pub(crate) fn has_challenger(metrics: &str) -> bool {
    metrics.lines().any(|line| line.starts_with("onnxd_model_info{") && line.contains("role=\"challenger\""))
}

pub(crate) fn pairs_of(server: &Server) -> Result<Pairs> {
    Ok(pairs(&server.metrics()?))
}

/// `onnxd_shadow_pairs_total` by its label `outcome`.
fn pairs(metrics: &str) -> Pairs {
    let mut pairs = BTreeMap::new();
    for (labels, count) in samples(metrics, "onnxd_shadow_pairs_total") {
        let outcome = labels.split("outcome=\"").nth(1).and_then(|rest| rest.split('"').next());
        if let Some(outcome) = outcome {
            *pairs.entry(outcome.to_owned()).or_default() += count;
        }
    }
    pairs
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn shadow_pairs_are_counted_by_outcome() {
        let metrics = "# TYPE onnxd_shadow_pairs_total counter\n\
            onnxd_shadow_pairs_total{model=\"anomaly\",outcome=\"compared\"} 12\n\
            onnxd_shadow_pairs_total{model=\"anomaly\",outcome=\"dropped\"} 3\n\
            onnxd_model_info{model=\"anomaly\",role=\"challenger\",version=\"2\"} 1\n";
        assert_eq!(pairs(metrics), BTreeMap::from([("compared".to_owned(), 12.0), ("dropped".to_owned(), 3.0)]));
        assert!(has_challenger(metrics));
        assert!(!has_challenger("onnxd_model_info{role=\"champion\"} 1"));
    }
}

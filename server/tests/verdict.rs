//! The statistics of the verdict: against an independent implementation, against themselves when merged, and against the
//! error that they promise.

mod common;
#[path = "verdict/controls.rs"]
mod controls;
#[path = "verdict/recorded.rs"]
mod recorded;

use std::collections::BTreeMap;
use std::io::Write;
use std::process::{Command, Stdio};
use std::time::Duration;

use common::root;
use fastrand::Rng;
use onnxd::verdict::buckets::{Buckets, Improvement, POINTS, SECONDS};
use onnxd::verdict::drift::{Drifts, Histogram, Reference};
use onnxd::verdict::evidence::{Alarms, Discordant, above, averaged, below, differs};
use onnxd::verdict::rule::{Circumstances, Decision, Rule};
use onnxd::verdict::scores::Scores;
use onnxd::verdict::sketch::{ACCURACY, Sketch};
use onnxd::verdict::state::Evidence;
use serde_json::{Value, json};

/// Cases and our answers to them.
#[derive(Default)]
struct Cases {
    asked: Vec<Value>,
    ours: Vec<(Vec<f64>, f64)>,
}

impl Cases {
    fn add(&mut self, function: &str, arguments: &Value, ours: &[f64]) {
        self.add_within(1e-9, function, arguments, ours);
    }

    fn add_within(&mut self, share: f64, function: &str, arguments: &Value, ours: &[f64]) {
        self.asked.push(json!({"function": function, "arguments": arguments}));
        self.ours.push((ours.to_vec(), share));
    }

    /// Asks numpy.
    fn check(&self) {
        let python = root().join(".venv/bin/python");
        let mut child = Command::new(&python)
            .arg(root().join("server/tests/evidence.py"))
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap_or_else(|e| panic!("{}: {e}", python.display()));
        let asked = serde_json::to_vec(&self.asked).expect("numbers");
        child.stdin.take().expect("a pipe").write_all(&asked).expect("sent");
        let output = child.wait_with_output().expect("an end");
        assert!(output.status.success());
        let theirs: Vec<Vec<f64>> = serde_json::from_slice(&output.stdout).expect("numbers");
        assert_eq!(theirs.len(), self.ours.len());
        for ((case, (ours, share)), theirs) in self.asked.iter().zip(&self.ours).zip(&theirs) {
            assert_eq!(ours.len(), theirs.len(), "{}", case["function"]);
            for (a, b) in ours.iter().zip(theirs) {
                assert!((a - b).abs() <= share * b.abs().max(1.0), "{a} {b}: {}", case["function"]);
            }
        }
    }
}

#[test]
fn an_independent_implementation_finds_the_same() {
    let mut random = Rng::with_seed(1);
    let mut cases = Cases::default();
    for _ in 0..300 {
        // Where numpy, which takes the logarithm last, still has one.
        let size = 10_u64.pow(random.u32(0..3));
        let pairs = Discordant { challenger: random.u64(0..=5 * size), champion: random.u64(0..=5 * size) };
        cases.add("mcnemar", &json!([pairs.challenger, pairs.champion]), &[pairs.challenger_is_better()]);
        cases.add("mcnemar", &json!([pairs.champion, pairs.challenger]), &[pairs.champion_is_better()]);
        let most = 10_u64.pow(random.u32(0..7));
        let trials = random.u64(0..=most);
        let events = random.u64(0..=trials);
        let limit = [0.001, 0.01, 0.2, 1.0 / 3.0, 0.8, 0.95][random.usize(..6)];
        cases.add("above", &json!([events, trials, limit]), &[above(events, trials, limit)]);
        cases.add("below", &json!([events, trials, limit]), &[below(events, trials, limit)]);
        let mut count = || random.u64(0..=3 * size);
        let alarms = Alarms { both: count(), champion: count(), challenger: count(), neither: count() };
        let limit = [0.8, 1.0, 1.25, 3.0][random.usize(..4)];
        let counts = [alarms.both, alarms.champion, alarms.challenger];
        cases.add("ratio", &json!([counts, limit]), &[alarms.ratio_above(limit), alarms.ratio_below(limit)]);
        let several = [random.f64() * 9.0, random.f64() * 9.0 - 5.0, -3.0, 0.0];
        cases.add("averaged", &json!([several]), &[averaged(several)]);
        let bins = random.usize(2..12);
        let weights: Vec<f64> = (0..bins).map(|_| random.f64() + 0.01).collect();
        let total: f64 = weights.iter().sum();
        let probabilities: Vec<f64> = weights.iter().map(|weight| weight / total).collect();
        let counts: Vec<u64> = (0..bins).map(|_| random.u64(0..2000)).collect();
        cases.add("differs", &json!([counts, probabilities, 100.0]), &[differs(&counts, &probabilities, 100.0)]);
        let others: Vec<u64> = (0..bins).map(|_| random.u64(1..2000)).collect();
        let a = Histogram { counts: counts.iter().map(|count| count + 1).collect(), missing: 0 };
        let b = Histogram { counts: others, missing: 3 };
        cases.add("distances", &json!([a.counts, b.counts, 0.25]), &[a.psi(&b), a.ks(&b), a.w1(&b, 0.25)]);
    }
    // Bins that are empty in both.
    let (a, b) = ([5, 0, 900, 0], [0, 0, 800, 0]);
    let [ours, theirs] = [a, b].map(|counts| Histogram { counts: counts.to_vec(), missing: 0 });
    cases.add("distances", &json!([a, b, 1.0]), &[ours.psi(&theirs), ours.ks(&theirs), ours.w1(&theirs, 1.0)]);
    for alpha in [0.005, 0.01, 0.05] {
        let pairs = losses(&mut random, 4000, 0.3);
        let now = 4000 * 60 / 2;
        let counted = counted(&pairs);
        let Improvement { mean, lower, upper, seen, .. } = counted.improvement(5, now, alpha).expect("buckets");
        cases.add("improvement", &json!([pairs, 5, now, alpha]), &[mean, lower, upper, seen]);
        for buckets in [3, 60, 190] {
            let now = buckets * SECONDS;
            let band = counted.band(5, now, alpha);
            assert!(band.len() <= POINTS && band.last().is_some_and(|last| last.at == now), "{band:?}");
            let numbers: Vec<f64> = band.iter().flat_map(|point| [point.mean, point.lower, point.upper]).collect();
            cases.add("band", &json!([pairs, 5, now, alpha]), &numbers);
            let mean = band.last().expect("a bucket").mean;
            for share in [mean - 0.3, mean - 0.1] {
                let more = counted.more(5, now, alpha, share, true).map_or(-1.0, |more| more as f64);
                cases.add("more", &json!([pairs, 5, now, alpha, share]), &[more]);
            }
            assert_eq!(counted.more(5, now, alpha, mean + 0.01, true), None, "it never is");
        }
    }
    cases.check();
}

#[test]
fn an_independent_implementation_finds_the_same_distributions() {
    let mut random = Rng::with_seed(4);
    let mut cases = Cases::default();
    for outside in [0.0, 0.0, 3.0] {
        let mut draw = |shift: f64| random.f64().powi(3) * (1.0 + outside) + shift;
        let pairs: Vec<(f64, f64)> = (0..3000).map(|_| (draw(0.0), draw(-outside / 9.0))).collect();
        let mut scores = Scores::default();
        pairs.iter().chain(&[(0.0, 1.0), (1.0, 0.0)]).for_each(|(a, b)| scores.record(*a, *b));
        let (mut champion, mut challenger): (Vec<f64>, Vec<f64>) = pairs.into_iter().unzip();
        champion.extend([0.0, 1.0]);
        challenger.extend([1.0, 0.0]);
        let apart = scores.distances().expect("pairs");
        assert!(apart.psi == scores.psi());
        cases.add("scores", &json!([champion, challenger]), &[apart.psi, apart.ks, apart.w1]);
    }
    for shift in [0.0, 0.3, 2.0] {
        let entry =
            json!({"edges": [-2.0, -1.0, 0.0, 0.5, 3.0], "p": [0.1, 0.4, 0.2, 0.3], "p_missing": 0.01, "n": 5000});
        let reference = Reference::parse(&entry).expect("a reference");
        let mut drifts = Drifts::new(BTreeMap::from([("x".to_owned(), reference)]));
        let values: Vec<f64> =
            (0..800).map(|number| if number % 50 == 0 { f64::NAN } else { normal(&mut random) + shift }).collect();
        for (bucket, value) in (0..).zip(&values) {
            drifts.record(7, bucket * SECONDS, 0, *value);
            // The second row of a bucket is not drawn.
            drifts.record(7, bucket * SECONDS + 60, 0, 99.0);
        }
        let feature = &drifts.state().features["x"];
        // NaN is null in JSON.
        cases.add("drift", &json!([entry, values]), &[feature.log_e(), feature.psi()]);
        assert_eq!(feature.is_alarm(), shift > 1.0, "{shift}: {} {}", feature.log_e(), feature.psi());
    }
    let times: Vec<f64> = (0..5000).map(|_| 2e-5 * (1.5 * normal(&mut random)).exp()).collect();
    let mut sketch = Sketch::default();
    times.iter().for_each(|seconds| sketch.record(Duration::from_secs_f64(*seconds)));
    let shares = [0.0, 0.01, 0.25, 0.5, 0.9, 0.99, 0.999, 1.0];
    let nanoseconds: Vec<f64> = times.iter().map(|seconds| seconds * 1e9).collect();
    let ours = shares.map(|share| sketch.quantile(share).expect("times") * 1e9);
    // Times are kept in whole nanoseconds.
    cases.add_within(ACCURACY + 1e-4, "quantiles", &json!([nanoseconds, shares]), &ours);
    cases.check();
}

/// Pairs of losses, one every half minute, the latter `worse` than the former; among them what is clipped.
fn losses(random: &mut Rng, pairs: u64, worse: f64) -> Vec<(u64, f64, f64)> {
    let draw = |random: &mut Rng| if random.u32(..50) == 0 { random.f64() * 200.0 - 20.0 } else { random.f64() };
    (0..pairs).map(|i| (i * 30, draw(random), draw(random) + worse)).collect()
}

fn counted(pairs: &[(u64, f64, f64)]) -> Buckets {
    let mut buckets = Buckets::default();
    pairs.iter().for_each(|(seconds, champion, challenger)| buckets.record(*seconds, *champion, *challenger));
    buckets
}

/// However pairs are spread over servers and in whatever order these are added, the state is the same.
#[test]
fn merged_states_are_the_same_as_one() {
    let mut random = Rng::with_seed(2);
    for replicas in 1..8 {
        // Two of the days are beyond what is kept.
        let pairs = losses(&mut random, 16 * 24 * 120, -0.1);
        let whole = counted(&pairs);
        let mut spread = vec![vec![]; replicas];
        for pair in &pairs {
            spread[random.usize(..replicas)].push(*pair);
        }
        random.shuffle(&mut spread);
        let mut merged = Buckets::default();
        spread.iter().for_each(|part| merged.merge(&counted(part)));
        assert_eq!(merged, whole);
        let now = 16 * 24 * 3600;
        assert_eq!(merged.improvement(5, now, 0.01), whole.improvement(5, now, 0.01));
    }
}

/// A normal number (Box and Muller).
fn normal(random: &mut Rng) -> f64 {
    (-2.0 * (1.0 - random.f64()).ln()).sqrt() * (std::f64::consts::TAU * random.f64()).cos()
}

/// How losses differ from one ten minutes to the next.
#[derive(Clone, Copy, Debug)]
enum Noise {
    /// An autoregression of this correlation, and white noise of this variance beside it.
    Lasting(f64, f64),
    /// White noise in parts of a load that goes up and down for hours: both lose more at times.
    Load,
    /// A little better always, and much worse once in 200 times: the same on average.
    Rare,
}

const NOISES: [Noise; 9] = [
    Noise::Lasting(0.0, 0.0),
    Noise::Lasting(0.5, 0.0),
    Noise::Lasting(0.7, 0.0),
    Noise::Lasting(0.9, 0.0),
    Noise::Lasting(0.95, 0.0),
    Noise::Lasting(0.95, 1.0),
    Noise::Lasting(0.95, 4.0),
    Noise::Load,
    Noise::Rare,
];

impl Noise {
    /// The next losses of both, which differ by noise of a variance of about one, and by `effect`; `state` is kept for it.
    fn losses(self, random: &mut Rng, state: &mut f64, effect: f64) -> (f64, f64) {
        let mut lasting = |correlation: f64, random: &mut Rng| {
            *state = correlation * *state + (1.0 - correlation * correlation).sqrt() * normal(random);
            *state
        };
        let (champion, difference) = match self {
            Self::Lasting(correlation, white) => {
                (10.0, lasting(correlation, random) + white.sqrt() * normal(random) + effect)
            }
            Self::Load => {
                let load = (0.5 * lasting(0.9, random)).exp();
                (3.0 * load, load * (normal(random) + effect))
            }
            Self::Rare => {
                let lost = if random.u32(..200) == 0 { 10.0 } else { 0.0 };
                (3.0, 0.05 + 0.1 * normal(random) - lost + effect)
            }
        };
        (champion + difference.max(0.0), champion - difference.min(0.0))
    }
}

/// Whether a challenger is found to be better, or worse, at any of the looks after each ten minutes of 14 days. Its losses
/// differ by `effect` and by noise.
fn looked_at(random: &mut Rng, noise: Noise, effect: f64, alpha: f64) -> (bool, bool) {
    let mut buckets = Buckets::default();
    let mut state = normal(random);
    for bucket in 0..14 * 24 * 6 {
        let (champion, challenger) = noise.losses(random, &mut state, effect);
        buckets.record(bucket * SECONDS, champion, challenger);
    }
    let looks = buckets.after_each(1, 14 * 24 * 3600, alpha);
    assert_eq!(looks.len(), 14 * 24 * 6 - 1);
    let ready = || looks.iter().map(|(_, found)| found).filter(|found| found.ready);
    (ready().any(|found| found.lower > 0.0), ready().any(|found| found.upper < 0.0))
}

/// An equal challenger is promoted with at most the probability that was promised, however often one looks; a better one is
/// promoted and a worse one is found out.
#[test]
fn the_promised_error_holds_at_every_look() {
    let (alpha, runs) = (0.05, 200);
    for noise in NOISES {
        let mut random = Rng::with_seed(3);
        let promoted = (0..runs).filter(|_| looked_at(&mut random, noise, 0.0, alpha).0).count();
        println!("{promoted} of {runs} equal ones promoted by the interval at {noise:?}");
        assert!(promoted as f64 <= alpha * f64::from(runs), "{promoted} of {runs} at {noise:?}");
        let better = (0..10).filter(|_| looked_at(&mut random, noise, 2.0, alpha).0).count();
        let worse = (0..10).filter(|_| looked_at(&mut random, noise, -2.0, alpha).1).count();
        assert!(better >= 9 && worse >= 9, "{better} and {worse} of 10 at {noise:?}");
    }
}

/// Evidence on a challenger whose decisions are the champion's, without any loss yet.
fn alike() -> Evidence {
    let mut evidence = Evidence { requests: 20_000, forecasts: 20_000, ..Evidence::default() };
    evidence.series.extend([1, 2, 3]);
    for hour in 0..60 {
        evidence.draws.decided(1, 3600 * hour, true, true);
    }
    evidence
}

/// What becomes of a challenger that is looked at each ten minutes of five days, until it is promoted or rejected.
fn judged(random: &mut Rng, rule: &Rule, noise: Noise, effect: f64) -> Decision {
    let mut evidence = alike();
    let mut state = normal(random);
    for bucket in 0..5 * 24 * 6 {
        let (champion, challenger) = noise.losses(random, &mut state, effect);
        for _ in 0..5 {
            evidence.forecast.record(bucket * SECONDS, champion, challenger);
        }
        let now = (bucket + 1) * SECONDS;
        let verdict = rule.decide(&evidence, &Circumstances { now, ..Circumstances::default() });
        if verdict.decision != Decision::Hold {
            return verdict.decision;
        }
    }
    Decision::Hold
}

/// The same promise, by the rule itself: of the two routes to a promotion each has half of the error.
#[test]
fn the_rule_keeps_its_promise_at_every_look() {
    let rule = Rule { alpha: 0.1, least_time: Duration::ZERO, ..Rule::default() };
    let runs = 20;
    for noise in [NOISES[0], NOISES[2], NOISES[6], Noise::Load, Noise::Rare] {
        let mut random = Rng::with_seed(6);
        let promoted = (0..runs).filter(|_| judged(&mut random, &rule, noise, 0.0) == Decision::Promote).count();
        println!("{promoted} of {runs} equal ones promoted by the rule at {noise:?}");
        assert!(promoted as f64 <= rule.alpha / 2.0 * f64::from(runs), "{promoted} of {runs} at {noise:?}");
        let worse = (0..5).filter(|_| judged(&mut random, &rule, noise, -3.0) == Decision::Reject).count();
        let better = (0..5).filter(|_| judged(&mut random, &rule, noise, 3.0) == Decision::Promote).count();
        assert!(better == 5 && worse == 5, "{better} and {worse} of 5 at {noise:?}");
    }
}

//! How a verdict is written for people: its conditions by the way to a promotion, with units, and what they mean.

use std::io::Write;

use super::{Failure, say, table};
use crate::verdict::buckets::Improvement;
use crate::verdict::rule::{Condition, Route, Rule, names};

/// The ways to a promotion as a reader meets them.
const WAYS: [(Option<Route>, &str); 4] = [
    (None, "needed always"),
    (Some(Route::Forecast), "by its forecast"),
    (Some(Route::Decisions), "by its decisions"),
    (Some(Route::Both), "either way"),
];
/// Beyond 1 in this many, nobody wants to know in how many.
const RAREST: f64 = 1e6;
/// Evidence below this is as good as none.
const LEAST_ODDS: f64 = 2.0;
/// Beyond this many percent, nobody wants to know how many.
const MOST_PERCENT: f64 = 1000.0;

/// Prints conditions as a table, grouped by the way that they are part of.
pub(super) fn print_conditions(conditions: &[Condition], out: &mut dyn Write) -> Result<(), Failure> {
    let mut rows = vec![];
    for (route, way) in WAYS {
        let mut of = conditions.iter().filter(|condition| condition.route == route).peekable();
        if of.peek().is_some() {
            rows.push(vec![way.to_owned()]);
        }
        rows.extend(of.map(|condition| {
            let holds = if condition.holds { "yes" } else { "no" };
            vec![format!("  {}", label(condition.name)), holds.into(), value(condition), needs(condition)]
        }));
    }
    let lines = table(&["CONDITION", "HOLDS", "VALUE", "NEEDS"], rows.into_iter()).trim_fmt();
    lines.lines().try_for_each(|line| Ok(writeln!(out, "  {line}")?))
}

/// Prints what the words of [`print_conditions`] mean, of all tables together.
pub(super) fn print_legend<'a>(
    conditions: impl Iterator<Item = &'a Condition> + Clone,
    out: &mut dyn Write,
) -> Result<(), Failure> {
    let routes = conditions.clone().any(|condition| condition.route.is_some());
    if routes {
        writeln!(
            out,
            "\none way is enough, with all that is needed always:\n  \
             by its forecast: it is better, and decisions are no worse: alarms are like the champion's, or labels show it (both \
             of \"either way\")\n  \
             by its decisions: it catches more and gives no more false alarms, or gives fewer and catches no less; its forecast \
             is not worse"
        )?;
    }
    if conditions.clone().any(is_evidence) {
        let before = if routes { "" } else { "\n" };
        writeln!(
            out,
            "{before}1 in 20: evidence that luck alone would give with a chance of at most 1 in 20, however often one looks"
        )?;
    }
    if conditions.into_iter().any(is_without_difference) {
        writeln!(
            out,
            "no difference: labels show enough half hours in which both are right, and none in which just one is"
        )?;
    }
    Ok(())
}

/// Says how much better the forecast is.
pub(super) fn print_improvement(found: &Improvement, out: &mut dyn Write) -> Result<(), Failure> {
    let Improvement { buckets, mean, lower, upper, .. } = *found;
    let [mean, lower, upper] = [mean, lower, upper].map(|share| {
        let side = if share < 0.0 { "worse" } else { "better" };
        format!("{} {side}", percent(share.abs()))
    });
    say(out, &format!("  its forecast is {mean} (from {lower} to {upper}), by {buckets} times ten minutes"))
}

/// A condition's name where it is read without its reason.
pub(super) fn label(name: &'static str) -> &'static str {
    if name == names::SERVERS { "servers that did not tell" } else { name }
}

/// Whether the value is a natural logarithm of evidence.
fn is_evidence(condition: &Condition) -> bool {
    !matches!(
        condition.name,
        names::HOURS
            | names::REQUESTS
            | names::SERIES
            | names::SERVERS
            | names::INPUTS
            | names::SCORES
            | names::BETTER
            | names::NOT_WORSE
            | names::RATIO
            | names::COMPARED
    )
}

/// Whether it holds without evidence, since both were right in so many half hours.
fn is_without_difference(condition: &Condition) -> bool {
    is_evidence(condition) && condition.holds && condition.value.is_some_and(|value| value < condition.needs)
}

fn value(condition: &Condition) -> String {
    let Condition { name, value, .. } = *condition;
    let Some(value) = value else {
        return if name == names::SCORES { "too few rows" } else { "-" }.into();
    };
    match name {
        names::HOURS => in_hours(value),
        names::REQUESTS | names::COMPARED => format!("{value:.0} rows"),
        names::SERIES => format!("{value:.0} series"),
        names::SERVERS => format!("{value:.0}"),
        names::INPUTS if value == 0.0 => "none drifted".into(),
        names::INPUTS => format!("{value:.0} drifted"),
        // What noise alone would have is taken off: less than nothing is none.
        names::SCORES => format!("PSI {}", short(value.max(0.0))),
        names::BETTER | names::NOT_WORSE if (100.0 * value).abs() > MOST_PERCENT => percent(value),
        names::BETTER | names::NOT_WORSE => format!("at least {}", percent(value)),
        names::RATIO => short(value),
        _ if is_without_difference(condition) => "no difference".into(),
        _ if value < LEAST_ODDS.ln() => "none".into(),
        _ => odds(value),
    }
}

fn needs(condition: &Condition) -> String {
    let Condition { name, needs, .. } = *condition;
    match name {
        names::HOURS => format!("at least {}", in_hours(needs)),
        names::REQUESTS => format!("at least {needs:.0} rows"),
        names::COMPARED => "some rows".into(),
        names::SERIES => format!("at least {needs:.0} series"),
        names::SERVERS | names::INPUTS => "none".into(),
        names::SCORES => format!("PSI at most {}", short(needs)),
        names::BETTER | names::NOT_WORSE => format!("more than {}", percent(needs)),
        names::RATIO => format!("{} to {}", short(Rule::default().alarms.0), short(needs)),
        names::CATCHES_NO_LESS | names::NO_LOUDER => format!("{}, or no difference", odds(needs)),
        _ => odds(needs),
    }
}

/// Evidence, as the chance at most that luck alone gives as much.
fn odds(log_e: f64) -> String {
    let e = log_e.exp();
    if e < RAREST { format!("1 in {:.0}", (e * (1.0 + f64::EPSILON.sqrt())).floor()) } else { "1 in a million".into() }
}

fn in_hours(hours: f64) -> String {
    format!("{} h", format!("{hours:.1}").trim_end_matches(".0"))
}

/// A share in percent, with as many digits as are of interest.
pub(super) fn percent(share: f64) -> String {
    let hundreds = 100.0 * share;
    if hundreds.abs() > MOST_PERCENT {
        return if hundreds < 0.0 { "below -1000 %" } else { "over 1000 %" }.into();
    }
    let text = if hundreds.abs() < 0.095 { format!("{hundreds:.2}") } else { format!("{hundreds:.1}") };
    format!("{} %", without_zeros(&text))
}

/// A number with up to two digits after the point.
fn short(value: f64) -> String {
    without_zeros(&format!("{value:.2}")).to_owned()
}

/// What was rounded, as people write it; zero has no sign.
fn without_zeros(text: &str) -> &str {
    let text = if text.contains('.') { text.trim_end_matches('0').trim_end_matches('.') } else { text };
    if text == "-0" { "0" } else { text }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn written(name: &'static str, holds: bool, value: Option<f64>, needs: f64) -> String {
        let condition = Condition { name, holds, value, needs, route: None };
        format!("{} | {}", super::value(&condition), super::needs(&condition))
    }

    #[test]
    fn values_have_units_and_needs_have_a_direction() {
        for (name, holds, value, needs, expected) in [
            (names::HOURS, true, Some(43.833), 24.0, "43.8 h | at least 24 h"),
            (names::REQUESTS, true, Some(2880.0), 1000.0, "2880 rows | at least 1000 rows"),
            (names::SERIES, true, Some(3.0), 3.0, "3 series | at least 3 series"),
            (names::SERVERS, false, Some(1.0), 0.0, "1 | none"),
            (names::INPUTS, true, Some(0.0), 0.0, "none drifted | none"),
            (names::INPUTS, false, Some(2.0), 0.0, "2 drifted | none"),
            (names::SCORES, true, Some(0.031), 0.25, "PSI 0.03 | PSI at most 0.25"),
            (names::SCORES, true, Some(-0.0056), 0.25, "PSI 0 | PSI at most 0.25"),
            (names::SCORES, true, None, 0.25, "too few rows | PSI at most 0.25"),
            (names::BETTER, true, Some(0.0314), 0.0, "at least 3.1 % | more than 0 %"),
            (names::BETTER, false, None, 0.0, "- | more than 0 %"),
            (names::NOT_WORSE, true, Some(-6.7e-16), -0.01, "at least 0 % | more than -1 %"),
            (names::NOT_WORSE, false, Some(-0.0005), -0.01, "at least -0.05 % | more than -1 %"),
            (names::NOT_WORSE, false, Some(-1e9), -0.01, "below -1000 % | more than -1 %"),
            (names::RATIO, true, Some(1.024), 1.5, "1.02 | 0.67 to 1.5"),
            (names::RATIO, false, None, 1.5, "- | 0.67 to 1.5"),
            (names::CATCHES_MORE, false, Some(7_f64.ln()), 400_f64.ln(), "1 in 7 | 1 in 400"),
            (names::CATCHES_MORE, true, Some(400_f64.ln()), 400_f64.ln(), "1 in 400 | 1 in 400"),
            (names::QUIETER, false, Some(-12.5), 400_f64.ln(), "none | 1 in 400"),
            (names::QUIETER, true, Some(300.0), 400_f64.ln(), "1 in a million | 1 in 400"),
            (names::NO_LOUDER, true, Some(0.0), 20_f64.ln(), "no difference | 1 in 20, or no difference"),
            (names::GIVES, false, Some(-0.0), 20_f64.ln(), "none | 1 in 20"),
            (names::COMPARED, false, Some(0.0), 1.0, "0 rows | some rows"),
        ] {
            assert_eq!(written(name, holds, value, needs), expected, "{name}");
        }
    }

    #[test]
    fn zero_has_no_sign() {
        for (share, expected) in [
            (-0.000_01, "0 %"),
            (-0.0, "0 %"),
            (0.000_96, "0.1 %"),
            (0.0005, "0.05 %"),
            (-0.5, "-50 %"),
            (0.999, "99.9 %"),
            (20.0, "over 1000 %"),
        ] {
            assert_eq!(percent(share), expected, "{share}");
        }
    }
}

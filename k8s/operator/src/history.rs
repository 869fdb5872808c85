//! What was done, and what follows from it for what may be done: the records in a policy's status.
//!
//! Each record is written as *claimed* before its action, and settled after it. The API server takes a status only with the version that it
//! was made from, so of two operators only one can claim. One that dies between claim and action has used the budget for nothing; none can
//! use more than the budget. The list is bounded: a record is kept while the budget or a cool-down needs it, and where there is no
//! room for another one, nothing is done.

use std::collections::HashMap;

use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;
use k8s_openapi::jiff::{SignedDuration, Timestamp};

use crate::policy::{Outcome, Record, Verb};
use crate::rules::Rules;

/// Records that a status holds at most.
pub const ROOM: usize = 500;
/// Records that are kept for people to read, however old.
const READABLE: usize = 20;
/// After something was tried in vain for the first time; doubled each time, up to the longest.
const FIRST_PAUSE: SignedDuration = SignedDuration::from_secs(10);
const LONGEST_PAUSE: SignedDuration = SignedDuration::from_mins(10);

/// What was done, for one policy at one moment.
pub struct History<'a> {
    own: &'a [Record],
    latest: HashMap<&'a str, &'a Record>,
    dry_run: bool,
}

impl<'a> History<'a> {
    /// `others` are the records of the other policies of the namespace: a workload is left alone whoever has acted upon it.
    pub fn new(own: &'a [Record], others: &'a [Record], dry_run: bool) -> Self {
        let mut latest: HashMap<&str, &Record> = HashMap::new();
        let real = |record: &&Record| dry_run || record.outcome != Outcome::DryRun;
        for record in own.iter().chain(others).filter(real) {
            let known = latest.entry(&record.subject).or_insert(record);
            if known.at.0 <= record.at.0 {
                *known = record;
            }
        }
        Self { own, latest, dry_run }
    }

    /// The last thing that was done to a subject.
    pub fn latest(&self, subject: &str) -> Option<&'a Record> {
        self.latest.get(subject).copied()
    }

    /// How much of the budget is used now.
    pub fn spent(&self, rules: &Rules, now: Timestamp) -> usize {
        self.own.iter().filter(|record| self.counts(record) && recent(record, rules, now)).count()
    }

    /// A record for what is to be done now: the next one in a row, unless it went well for long enough.
    pub fn claim(&self, rules: &Rules, verb: Verb, target: &str, subject: String, now: Timestamp) -> Record {
        let before = self.latest(&subject).filter(|record| now < forgotten(record, rules));
        let times = before.map_or(0, |record| record.times).saturating_add(1);
        let tries = before.filter(|record| record.outcome == Outcome::Refused).map_or(0, |record| record.tries);
        Record {
            at: Time(now),
            action: verb,
            target: target.to_owned(),
            uid: None,
            subject,
            reason: String::new(),
            outcome: if rules.dry_run { Outcome::DryRun } else { Outcome::Claimed },
            times,
            tries,
            until: Time(later(now, rules.cool_down(times))),
        }
    }

    fn counts(&self, record: &Record) -> bool {
        let real = match record.outcome {
            Outcome::Claimed | Outcome::Done | Outcome::Failed => true,
            Outcome::DryRun => self.dry_run,
            Outcome::Refused => false,
        };
        real && matches!(record.action, Verb::Evict | Verb::Delete | Verb::Cordon)
    }
}

fn recent(record: &Record, rules: &Rules, now: Timestamp) -> bool {
    now.duration_since(record.at.0) < rules.per
}

fn forgotten(record: &Record, rules: &Rules) -> Timestamp {
    later(record.until.0, rules.most)
}

/// So far in the future that nothing is due, instead of beyond the end of time.
pub fn later(at: Timestamp, by: SignedDuration) -> Timestamp {
    at.saturating_add(by).unwrap_or(Timestamp::MAX)
}

/// Puts a claim into the records. What was tried in vain before goes on in it.
pub fn insert(records: &mut Vec<Record>, claim: Record) {
    let refused = |record: &Record| record.subject == claim.subject && record.outcome == Outcome::Refused;
    let started = |record: &Record| record.action == Verb::Retrain && record.target == claim.target;
    records.retain(|record| !refused(record) && !started(record));
    records.push(claim);
}

/// Says how the claim of `target` ended.
pub fn settle(records: &mut [Record], verb: Verb, target: &str, outcome: Outcome, now: Timestamp) {
    let claimed = |r: &&mut Record| r.action == verb && r.target == target && r.outcome == Outcome::Claimed;
    let Some(record) = records.iter_mut().rev().find(claimed) else { return };
    record.outcome = outcome;
    let in_vain = outcome == Outcome::Refused || outcome == Outcome::Failed && verb == Verb::Retrain;
    if !in_vain {
        return;
    }
    record.tries = record.tries.saturating_add(1);
    record.until = Time(later(now, pause(record.tries)));
    if outcome == Outcome::Refused {
        record.times = record.times.saturating_sub(1);
    }
}

fn pause(tries: u32) -> SignedDuration {
    FIRST_PAUSE.saturating_mul(1 << tries.saturating_sub(1).min(16)).min(LONGEST_PAUSE)
}

/// Forgets what nothing needs any more.
pub fn prune(records: &mut Vec<Record>, rules: &Rules, now: Timestamp) {
    let mut latest: HashMap<&str, usize> = HashMap::new();
    for (i, record) in records.iter().enumerate() {
        latest.insert(&record.subject, i);
    }
    let first_readable = records.len().saturating_sub(READABLE);
    let needed: Vec<bool> = records
        .iter()
        .enumerate()
        .map(|(i, record)| {
            let cooling = latest.get(record.subject.as_str()) == Some(&i) && now < forgotten(record, rules);
            i >= first_readable || cooling || recent(record, rules, now)
        })
        .collect();
    let mut needed = needed.into_iter();
    records.retain(|_| needed.next().unwrap_or(true));
}

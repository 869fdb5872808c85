//! What is measured, and against what.

use std::{
    cell::RefCell,
    collections::BTreeMap,
    fs,
    path::Path,
    process::Command,
    sync::mpsc,
    thread,
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result, bail, ensure};
use onnxd::load::{
    self, Plan, Requests,
    http::{self, Target},
    model::{Model, Protocol},
};

use super::{
    Challenger, Group, Reach,
    line::{Goal, Line, Over},
    rounds::{CPU, FROM_SENT_P99, Figure, P50, P99, P999, Party, Series, THROUGHPUT},
};
use crate::{
    bare::Bare,
    bodies,
    load::requests,
    progress,
    report::{Figures, median},
    repository::Repository,
    server::{Server, samples},
    shadow::{self, Pairs},
};

const ECHOES: [&str; 2] = ["echo-1", "echo-2"];
/// The least servers with the model.
const LEAST: [&str; 2] = ["least-1", "least-2"];
const ALONE: &str = "onnxd";
const SHADOWED: &str = "onnxd with a challenger";
const CONNECTIONS: usize = 64;
/// Rows of a large request.
const TABLE: usize = 1000;
/// Connections that keep all workers busy with large requests.
const BUSY: usize = 4;
/// HTTP/2 connections that the streams of gRPC are spread over.
const CHANNELS: usize = 4;
const SWAP_EVERY: Duration = Duration::from_secs(1);
/// Swaps in a round.
const SWAPS: u32 = 4;

impl Reach {
    pub(super) fn rows(&mut self) -> Result<()> {
        let group = Group::Rows;
        let echoes = Self::echoes(&[])?;
        let (alone, _folder) = self.serve(ALONE, Challenger::None)?;
        let (shadowed, _other) = self.serve(SHADOWED, Challenger::Light)?;
        let least = Self::least(&self.version("1"))?;
        let servers: Vec<_> = echoes.iter().chain(&least).chain([&alone, &shadowed]).collect();
        let mut parties: Vec<_> = servers.iter().map(|server| rows(server, CONNECTIONS, None)).collect();
        let series = self.rounds(group, &mut parties)?;
        self.greatest = Some(median(&series.of(ALONE, THROUGHPUT)));
        let what = "single row, 64 connections";
        self.ratio(group, what, &series, THROUGHPUT, (ALONE, &ECHOES), Some(Goal::AtLeast(0.9)));
        let with = "single row, 64 connections, challenger in the shadow";
        self.ratio(group, with, &series, THROUGHPUT, (SHADOWED, &ECHOES), Some(Goal::AtLeast(0.9)));
        for figure in [P50, P99, CPU] {
            self.ratio(group, what, &series, figure, (ALONE, &ECHOES), None);
        }
        self.ratio(group, what, &series, THROUGHPUT, (ALONE, &LEAST), None);
        Ok(())
    }

    pub(super) fn one(&mut self) -> Result<()> {
        let echoes = Self::echoes(&[])?;
        let (alone, _folder) = self.serve(ALONE, Challenger::None)?;
        let least = Self::least(&self.version("1"))?;
        let servers = echoes.iter().chain(&least).chain([&alone]);
        let mut parties: Vec<_> = servers.map(|server| rows(server, 1, None)).collect();
        let series = self.rounds(Group::One, &mut parties)?;
        let what = "single row, 1 connection";
        self.ratio(Group::One, what, &series, P50, (ALONE, &ECHOES), Some(Goal::AtMost(1.4)));
        self.ratio(Group::One, what, &series, P99, (ALONE, &ECHOES), None);
        self.ratio(Group::One, what, &series, P50, (ALONE, &LEAST), None);
        Ok(())
    }

    pub(super) fn half(&mut self) -> Result<()> {
        let group = Group::Half;
        let rate = self.half_rate()?;
        let echoes = Self::echoes(&[])?;
        let (alone, _folder) = self.serve(ALONE, Challenger::None)?;
        let (shadowed, _other) = self.serve(SHADOWED, Challenger::Light)?;
        let before = shadow::pairs_of(&shadowed)?;
        let servers: Vec<_> = echoes.iter().chain([&alone, &shadowed]).collect();
        let mut parties: Vec<_> = servers.iter().map(|server| rows(server, CONNECTIONS, Some(rate))).collect();
        let series = self.rounds(group, &mut parties)?;
        let pairs = shadow::less(&shadow::pairs_of(&shadowed)?, &before);
        let note = format!("{rate:.0} requests/s");
        let what = "single row, half the maximum rate";
        self.ratio(group, what, &series, P99, (ALONE, &ECHOES), Some(Goal::AtMost(1.5)));
        self.note(&note);
        self.ratio(group, what, &series, FROM_SENT_P99, (ALONE, &ECHOES), None);
        let what = "shadow at 100 %, half the maximum rate, with over without";
        self.ratio(group, what, &series, P99, (SHADOWED, &[ALONE]), Some(Goal::AtMost(1.1)));
        self.note(&format!("{note}; rows offered to the challenger: {}", told(&pairs)));
        self.ratio(group, what, &series, FROM_SENT_P99, (SHADOWED, &[ALONE]), None);
        Ok(())
    }

    pub(super) fn json(&mut self) -> Result<()> {
        self.tables(Group::Json, Protocol::Json, Goal::AtLeast(0.85))
    }

    pub(super) fn binary(&mut self) -> Result<()> {
        self.tables(Group::Binary, Protocol::Binary, Goal::AtLeast(0.9))
    }

    /// Large requests over ONNX Runtime alone: one at a time over one thread, and all busy over all threads.
    fn tables(&mut self, group: Group, protocol: Protocol, goal: Goal) -> Result<()> {
        let (alone, _folder) = self.serve(ALONE, Challenger::None)?;
        let model = self.told(&alone)?;
        let all = thread::available_parallelism().map_or(1, usize::from);
        let bare = Bare::load(&self.version("1").join("model.onnx"), all)?;
        let work = bare.work(Some(&model), TABLE, protocol == Protocol::Json)?;
        let bare = RefCell::new(bare);
        let floor = |name: &str, threads: usize| Party {
            name: name.to_owned(),
            seconds: None,
            run: Box::new({
                let (bare, work) = (&bare, &work);
                move |duration| bare.borrow_mut().measure(work, threads, duration)
            }),
        };
        let requests = requests(&model, protocol, TABLE, 1)?;
        let served = |server, name: &str, connections| asked(server, name, &model, protocol, &requests, connections);
        let least = Self::least(&self.version("1"))?;
        let runtime = if protocol == Protocol::Json { "serde and ONNX Runtime" } else { "ONNX Runtime" };
        let (one, many) = (format!("{runtime}, 1 thread"), format!("{runtime}, {all} threads"));
        let (single, busy) = ("onnxd, 1 connection", format!("onnxd, {BUSY} connections"));
        let mut parties =
            vec![served(&alone, single, 1), floor(&one, 1), served(&alone, &busy, BUSY), floor(&many, all)];
        let (mut leasts, mut busy_leasts) = (Vec::new(), Vec::new());
        for server in &least {
            leasts.push(format!("{}, 1 connection", server.name));
            busy_leasts.push(format!("{}, {BUSY} connections", server.name));
            parties.push(served(server, &leasts[leasts.len() - 1], 1));
            parties.push(served(server, &busy_leasts[busy_leasts.len() - 1], BUSY));
        }
        let series = self.rounds(group, &mut parties)?;
        let kind = if protocol == Protocol::Json { "JSON" } else { "binary" };
        let lines = [("one at a time", single, one, leasts), ("all busy", busy.as_str(), many, busy_leasts)];
        for (what, ours, floor, least) in lines {
            let what = format!("{TABLE} rows of {kind}, {what}");
            let mut ratio = |floors: &[&str], goal| {
                let over = Over { ours, floors, rows: TABLE };
                self.lines.extend(Line::ratio(group, &what, &series, THROUGHPUT, &over, goal));
            };
            ratio(&[&floor], Some(goal));
            ratio(&least.iter().map(String::as_str).collect::<Vec<_>>(), None);
        }
        Ok(())
    }

    pub(super) fn grpc(&mut self) -> Result<()> {
        let echoes = Self::echoes(&[])?;
        let (alone, _folder) = self.serve(ALONE, Challenger::None)?;
        let model = self.told(&alone)?;
        let requests = requests(&model, Protocol::Grpc, 1, CHANNELS)?;
        let party = |server| call(server, &model, &requests);
        let mut parties = echoes.iter().chain([&alone]).map(party).collect::<Result<Vec<_>>>()?;
        let series = self.rounds(Group::Grpc, &mut parties)?;
        let what = format!("gRPC, single row, {CONNECTIONS} streams on {CHANNELS} connections");
        self.ratio(Group::Grpc, &what, &series, THROUGHPUT, (ALONE, &ECHOES), Some(Goal::AtLeast(0.85)));
        self.ratio(Group::Grpc, &what, &series, P99, (ALONE, &ECHOES), None);
        Ok(())
    }

    pub(super) fn swap(&mut self) -> Result<()> {
        const SWAPPED: &str = "onnxd, swapping";
        let rate = self.half_rate()?;
        let (alone, _folder) = self.serve(ALONE, Challenger::None)?;
        let (swapped, repository) = self.serve(SWAPPED, Challenger::None)?;
        let (repository, changes) = (RefCell::new(repository), RefCell::new(Vec::new()));
        let seconds = if self.arguments.quick { SWAP_EVERY * 2 } else { SWAP_EVERY * SWAPS };
        let steady = Party { seconds: Some(seconds), ..rows(&alone, CONNECTIONS, Some(rate)) };
        let swapping = Party {
            name: SWAPPED.to_owned(),
            seconds: Some(seconds),
            run: Box::new(|duration| {
                let plan = plan(&swapped, CONNECTIONS, Some(rate), duration);
                let before = published(&swapped.metrics()?);
                let figures = while_swapping(plan, &mut repository.borrow_mut())?;
                if duration == seconds {
                    changes.borrow_mut().push(published(&swapped.metrics()?) - before);
                }
                Ok(figures)
            }),
        };
        let series = self.rounds(Group::Swap, &mut [steady, swapping])?;
        let what = "swap once a second, half the maximum rate, with over without";
        self.ratio(Group::Swap, what, &series, P999, (SWAPPED, &[ALONE]), Some(Goal::AtMost(1.5)));
        let seen = changes.borrow();
        self.note(&format!("{rate:.0} requests/s; swaps in each round: {seen:?}"));
        ensure!(seen.iter().all(|count| *count > 0.0), "a round without a swap shows nothing: {seen:?}");
        self.ratio(Group::Swap, what, &series, P99, (SWAPPED, &[ALONE]), None);
        Ok(())
    }

    pub(super) fn start(&mut self) -> Result<()> {
        let (mut answers, mut resident) = (Vec::new(), Vec::new());
        for round in 1..=self.arguments.rounds {
            let repository = self.repository(Challenger::Light)?;
            let begin = Instant::now();
            let server = self.onnxd(SHADOWED, repository.path())?;
            let Requests::Json(bodies) = bodies::ordinary() else { bail!("rows are JSON") };
            let (response, _) = http::exchange(server.target.address, &server.target.post(&bodies[0]))?;
            let answered = begin.elapsed().as_secs_f64() * 1e3;
            ensure!(response.status == 200, "the first answer is a {}", response.status);
            server.await_metrics("a challenger", shadow::has_challenger)?;
            load::run(&plan(&server, CONNECTIONS, None, self.arguments.seconds))?;
            let memory = server.resident_mib();
            progress(&format!(
                "Start, {round}: first answer after {answered:.0} ms, {} MiB",
                memory.unwrap_or_default()
            ));
            answers.push(answered);
            resident.extend(memory);
        }
        let group = Group::Start;
        let goal = |most| Some(Goal::AtMost(most));
        self.lines.push(Line::number(group, "start to first answer", Some("ms"), answers, goal(100.0)));
        // The goal is in megabytes.
        let resident: Vec<_> = resident.iter().map(|mib| mib * 1.048_576).collect();
        if !resident.is_empty() {
            let what = "resident memory with two models, after load";
            self.lines.push(Line::number(group, what, Some("MB"), resident, goal(70.0)));
        }
        let (size, note) = stripped(&self.arguments.onnxd)?;
        self.lines.push(Line::number(group, "binary", Some("MB"), vec![size], goal(25.0)));
        self.note(note);
        Ok(())
    }

    pub(super) fn models(&mut self) -> Result<()> {
        let repository = self.arguments.models.clone().context("--models is needed")?;
        let server = self.onnxd(ALONE, &repository)?;
        let mut names: Vec<String> = fs::read_dir(&repository)?
            .filter_map(|entry| Some(entry.ok().filter(|entry| entry.path().join("1").is_dir())?.file_name()))
            .map(|name| name.to_string_lossy().into_owned())
            .collect();
        names.sort();
        ensure!(!names.is_empty(), "{} has no model", repository.display());
        for name in names {
            let model = Model::ask(server.target.address, Some(&name))?;
            let Some(features) = model.features() else { continue };
            let requests = requests(&model, Protocol::Json, 1, 1)?;
            let target = model.target(server.target.address, Protocol::Json);
            let answer = answer(&target, &requests)?;
            let echoes = Self::echoes(&["--features".to_owned(), features.join(","), "--answer".to_owned(), answer])?;
            let party = |server| {
                let Server { name, .. }: &Server = server;
                asked(server, name, &model, Protocol::Json, &requests, CONNECTIONS)
            };
            let least = Self::least(&repository.join(&name).join("1"))?;
            let mut parties: Vec<_> = echoes.iter().chain(&least).chain([&server]).map(party).collect();
            progress(&format!("model {name}"));
            let series = self.rounds(Group::Models, &mut parties)?;
            let goal = (name == "gbt").then_some(Goal::AtLeast(0.6));
            let what = format!("{name}, single row of {} features, 64 connections", features.len());
            self.ratio(Group::Models, &what, &series, THROUGHPUT, (ALONE, &ECHOES), goal);
            self.ratio(Group::Models, &what, &series, P99, (ALONE, &ECHOES), None);
            self.ratio(Group::Models, &what, &series, THROUGHPUT, (ALONE, &LEAST), None);
        }
        Ok(())
    }

    /// Half of what the champion alone answers at 64 connections.
    fn half_rate(&mut self) -> Result<f64> {
        if let Some(greatest) = self.greatest {
            return Ok(greatest / 2.0);
        }
        let (alone, _folder) = self.serve(ALONE, Challenger::None)?;
        let mut rates = Vec::new();
        for _ in 0..3 {
            let outcome = load::run(&plan(&alone, CONNECTIONS, None, self.arguments.seconds))?;
            rates.push(Figures::new(&outcome, None).requests_per_second);
        }
        let greatest = median(&rates);
        progress(&format!("maximum rate: {greatest:.0}/s"));
        self.greatest = Some(greatest);
        Ok(greatest / 2.0)
    }

    fn ratio(
        &mut self,
        group: Group,
        what: &str,
        series: &Series,
        figure: Figure,
        (ours, floors): (&str, &[&str]),
        goal: Option<Goal>,
    ) {
        let over = Over { ours, floors, rows: 1 };
        self.lines.extend(Line::ratio(group, what, series, figure, &over, goal));
    }

    /// Of the last line.
    fn note(&mut self, note: &str) {
        if let Some(line) = self.lines.last_mut() {
            note.clone_into(&mut line.note);
        }
    }
}

fn plan(server: &Server, connections: usize, rate: Option<f64>, duration: Duration) -> Plan {
    let plan = Plan::new(server.target.clone(), bodies::ordinary(), connections, duration);
    Plan { rate, is_good: bodies::has_score, ..plan }
}

/// Single rows of the anomaly model.
fn rows<'a>(server: &'a Server, connections: usize, rate: Option<f64>) -> Party<'a> {
    Party::server(&server.name, server, plan(server, connections, rate, Duration::ZERO))
}

/// Requests of a model over HTTP.
fn asked<'a>(
    server: &'a Server,
    name: &str,
    model: &Model,
    protocol: Protocol,
    requests: &Requests,
    connections: usize,
) -> Party<'a> {
    let target = model.target(server.target.address, protocol);
    Party::server(name, server, Plan::new(target, requests.clone(), connections, Duration::ZERO))
}

/// The same over gRPC.
fn call<'a>(server: &'a Server, model: &Model, requests: &Requests) -> Result<Party<'a>> {
    let address = server.grpc.with_context(|| format!("{} has no gRPC", server.name))?;
    let target = model.target(address, Protocol::Grpc);
    Ok(Party::server(&server.name, server, Plan::new(target, requests.clone(), CONNECTIONS, Duration::ZERO)))
}

/// What a server answers to the first of the requests.
fn answer(target: &Target, requests: &Requests) -> Result<String> {
    let Requests::Json(bodies) = requests else { bail!("rows are JSON") };
    let (response, bytes) = http::exchange(target.address, &target.post(&bodies[0]))?;
    let text = String::from_utf8_lossy(&bytes[response.body]).into_owned();
    ensure!(response.status == 200, "{} answered {}: {text}", target.path, response.status);
    Ok(text)
}

/// Runs the load while the champion changes every second.
fn while_swapping(plan: Plan, repository: &mut Repository) -> Result<Figures> {
    let (end, ended) = mpsc::channel::<()>();
    let outcome = thread::scope(|scope| {
        let swaps = scope.spawn(move || {
            // Half a second in, so that each change has load before it and after it.
            let mut wait = SWAP_EVERY / 2;
            while ended.recv_timeout(wait) == Err(mpsc::RecvTimeoutError::Timeout) {
                wait = SWAP_EVERY;
                repository.swap()?;
            }
            Ok::<_, anyhow::Error>(())
        });
        let outcome = load::run(&plan);
        drop(end);
        swaps.join().ok().context("the swaps ended badly")??;
        outcome
    })?;
    Ok(Figures::new(&outcome, None))
}

/// How many champions were put in the place of others, by the text of `/metrics`.
fn published(metrics: &str) -> f64 {
    let wanted = [r#"role="champion""#, r#"outcome="published""#];
    let swaps = samples(metrics, "onnxd_model_swaps_total");
    swaps.filter(|(labels, _)| wanted.iter().all(|label| labels.contains(label))).map(|(_, count)| count).sum()
}

/// The binary's size in megabytes without symbols, where the system has `strip`.
fn stripped(binary: &Path) -> Result<(f64, &'static str)> {
    let folder = tempfile::tempdir()?;
    let copy = folder.path().join("stripped");
    let strip = Command::new("strip").arg("-o").arg(&copy).arg(binary).status();
    let (file, note) = match strip {
        Ok(status) if status.success() => (copy.as_path(), "stripped of all symbols"),
        _ => (binary, "not stripped: there is no strip here"),
    };
    Ok((fs::metadata(file).with_context(|| format!("no {}", binary.display()))?.len() as f64 / 1e6, note))
}

/// Counts by outcome, as text.
fn told(pairs: &Pairs) -> String {
    let pairs: BTreeMap<_, _> = pairs.iter().filter(|(_, count)| **count > 0.0).collect();
    pairs.iter().map(|(outcome, count)| format!("{outcome} {count:.0}")).collect::<Vec<_>>().join(", ")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_the_shadow_did_is_told_without_what_it_did_not() {
        let pairs = Pairs::from([("compared".to_owned(), 12.0), ("full".to_owned(), 0.0), ("paused".to_owned(), 3.0)]);
        assert_eq!(told(&pairs), "compared 12, paused 3");
    }

    #[test]
    fn the_champion_changes_while_the_load_runs_to_its_end() {
        let fixtures = Path::new(env!("CARGO_MANIFEST_DIR")).join("../server/tests/fixtures");
        let (good, other) = (fixtures.join("good"), fixtures.join("other"));
        let mut repository = Repository::new("anomaly", &[&good, &other]).expect("the fixtures are there");
        repository.point("1", &[], None).expect("it is written");
        let target = Target { address: crate::echo::in_thread().http, path: "/predict".to_owned() };
        let plan = Plan::new(target, bodies::ordinary(), 1, Duration::from_millis(700)).at(100.0);
        let figures = while_swapping(plan, &mut repository).expect("it runs");
        assert_eq!((figures.answered, figures.errors), (70, 0));
        let aliases = fs::read_to_string(repository.path().join("anomaly/aliases.json")).expect("it is there");
        assert!(aliases.contains(r#""champion":"2""#) && aliases.contains(r#""previous":"1""#), "{aliases}");
    }

    #[test]
    fn swaps_are_those_of_champions_that_serve() {
        let line = |role: &str, outcome: &str, count: u8| {
            format!(
                "onnxd_model_swaps_total{{model=\"m\",role=\"{role}\",outcome=\"{outcome}\",stage=\"x\"}} {count}\n"
            )
        };
        let metrics =
            [line("champion", "published", 3), line("champion", "rejected", 1), line("challenger", "published", 4)];
        assert_eq!(published(&metrics.concat()), 3.0);
    }

    #[test]
    fn a_binary_has_a_size() {
        let (size, _) = stripped(&std::env::current_exe().expect("this test is a file")).expect("it is there");
        assert!(size > 0.1, "{size}");
    }
}

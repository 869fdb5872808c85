//! A server that runs: started, timed until its first right answer, checked, and put under load.

use std::{
    net::SocketAddr,
    path::Path,
    process::Command,
    thread,
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result, bail, ensure};
use onnxd::load::{
    self, Outcome, Plan,
    http::{self, Target},
};

use super::{
    catalog::{Peer, Places, free_port},
    model::Model,
    protocol::{Protocol, Row},
    tree::Tree,
};
use crate::repository::Repository;

/// Ray takes about 20 s where nothing else runs.
const READY_WITHIN: Duration = Duration::from_secs(120);
/// How many rows are asked for and compared before anything is measured.
const CHECKED: usize = 16;
/// How far a score may be from onnxd's.
const TOLERANCE: f64 = 1e-4;

/// A server under measurement. Dropping it ends all its processes.
pub(super) struct Running {
    pub(super) tree: Tree,
    /// From the start of its process to its first right answer.
    pub(super) cold_start: Duration,
    target: Target,
    protocol: Protocol,
    /// What onnxd serves; it is gone when this is.
    #[expect(dead_code, reason = "kept for its end")]
    repository: Option<Repository>,
}

impl Running {
    /// onnxd with one version of one model.
    pub(super) fn onnxd(binary: &Path, model: &Model) -> Result<Self> {
        let folder = tempfile::tempdir()?;
        let repository = model.repository()?;
        let address = SocketAddr::from(([127, 0, 0, 1], free_port()?));
        let mut command = Command::new(binary);
        command.arg("serve").arg(repository.path()).args([
            "--http",
            &address.to_string(),
            "--grpc",
            "off",
            "--ops",
            "off",
        ]);
        let target = Target { address, path: "/predict".to_owned() };
        let begin = Instant::now();
        let tree = Tree::start(command, folder)?;
        let answers = |running: &Self| running.score(&model.rows[0]).map(drop);
        Ok(Self { repository: Some(repository), ..Self::answering(tree, target, Protocol::Named, begin, answers)? })
    }

    /// Another server, whose answers must be `expected`.
    pub(super) fn peer(places: &Places, peer: &Peer, model: &Model, expected: &[f64]) -> Result<Self> {
        let folder = tempfile::tempdir()?;
        let port = free_port()?;
        let command = places.ready(peer, model, port, folder.path())?;
        let target = Target { address: SocketAddr::from(([127, 0, 0, 1], port)), path: peer.path.to_owned() };
        let begin = Instant::now();
        let tree = Tree::start(command, folder)?;
        let first = &expected[..1];
        let running = Self::answering(tree, target, peer.protocol, begin, |running| running.check(&model.rows, first))?;
        running.check(&model.rows, expected).with_context(|| format!("its answers{}", running.tree.log_tail()))?;
        Ok(running)
    }

    fn answering(
        tree: Tree,
        target: Target,
        protocol: Protocol,
        begin: Instant,
        right: impl Fn(&Self) -> Result<()>,
    ) -> Result<Self> {
        let mut running = Self { tree, target, protocol, cold_start: Duration::ZERO, repository: None };
        loop {
            let Err(error) = right(&running) else {
                running.cold_start = begin.elapsed();
                return Ok(running);
            };
            running.tree.still_runs()?;
            if begin.elapsed() > READY_WITHIN {
                bail!("no right answer within {READY_WITHIN:?}: {error:#}{}", running.tree.log_tail());
            }
            thread::sleep(Duration::from_millis(10));
        }
    }

    /// The scores of the rows that are compared.
    pub(super) fn scores(&self, rows: &[Row]) -> Result<Vec<f64>> {
        rows.iter().take(CHECKED).map(|row| self.score(row)).collect()
    }

    fn check(&self, rows: &[Row], expected: &[f64]) -> Result<()> {
        for (number, (row, expected)) in rows.iter().zip(expected).enumerate() {
            let score = self.score(row)?;
            ensure!((score - expected).abs() <= TOLERANCE, "row {number}: score {score}, but onnxd says {expected}");
        }
        Ok(())
    }

    fn score(&self, row: &Row) -> Result<f64> {
        let request = self.target.post(self.protocol.body(row).as_bytes());
        let (response, bytes) = http::exchange(self.target.address, &request)?;
        let body = &bytes[response.body];
        let score = (response.status == 200).then(|| self.protocol.score(body)).flatten();
        score.with_context(|| format!("status {}: {}", response.status, String::from_utf8_lossy(body)))
    }

    /// Loads it with all rows in turn: as fast as it answers, or at a rate.
    pub(super) fn load(
        &self,
        rows: &[Row],
        connections: usize,
        duration: Duration,
        rate: Option<f64>,
    ) -> Result<Outcome> {
        let plan = Plan::new(self.target.clone(), self.protocol.requests(rows), connections, duration);
        load::run(&Plan { rate, is_good: self.protocol.is_good(), ..plan })
    }
}

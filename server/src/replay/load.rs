//! The models of a replay: fetched, tried out in a child process and loaded as a server does.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use crate::inspect;
use crate::model::check::Rejection;
use crate::model::runtime::Runtime;
use crate::model::{Artifact, Duty, Model, Threads};
use crate::probe::Probe;
use crate::source::{MANIFEST, MANIFEST_BYTES, Revision, Source, Wanted, sha256};

/// How long a file without a manifest may still be being written.
const PATIENCE: Duration = Duration::from_millis(300);

/// What to compare: `challengers` against `champion`, on one session each.
pub struct Models {
    /// The model's name.
    pub name: String,
    /// `epoch` of the `aliases.json`; 0 where there is none.
    pub epoch: u64,
    /// Whose answers count.
    pub champion: Arc<Model>,
    /// In the order in which they were named.
    pub challengers: Vec<Arc<Model>>,
}

/// What loads models.
pub struct Loader {
    /// ONNX Runtime.
    pub runtime: Runtime,
    /// How they are tried out.
    pub probe: Probe,
}

impl Loader {
    /// Loads versions of a repository: those that are named, else those of `aliases.json`.
    ///
    /// # Errors
    /// One sentence that names the version.
    pub fn versions(
        &self,
        source: &Source,
        name: &str,
        champion: Option<&str>,
        challengers: &[String],
    ) -> Result<Models, String> {
        let wanted = wanted(source, name)?;
        let champion = match champion {
            Some(version) => revision(source, name, version)?,
            None => wanted.champion.clone(),
        };
        let challengers = if challengers.is_empty() {
            wanted.challengers.clone()
        } else {
            challengers.iter().map(|version| revision(source, name, version)).collect::<Result<_, _>>()?
        };
        if challengers.is_empty() {
            return Err(format!("{name} has no challenger: name a version with --challenger"));
        }
        let load = |revision: &Revision| {
            let of = |e: Rejection| format!("{name} version {}: {e}", revision.version);
            let fetched = fetch(source, name, revision).map_err(of)?;
            self.load(&fetched.artifact, fetched.manifest.as_deref()).map_err(of)
        };
        let models = Models {
            name: name.into(),
            epoch: wanted.epoch,
            champion: load(&champion)?,
            challengers: challengers.iter().map(load).collect::<Result<_, _>>()?,
        };
        models.check()
    }

    /// Loads model files; a manifest beside one is taken.
    ///
    /// # Errors
    /// One sentence that names the file.
    pub fn files(&self, champion: &Path, challengers: &[PathBuf]) -> Result<Models, String> {
        let load = |file: &Path| {
            let (artifact, manifest) = inspect::artifact(file)?;
            self.load(&artifact, manifest.as_deref()).map_err(|e| format!("{}: {e}", file.display()))
        };
        let champion = load(champion)?;
        let models = Models {
            name: champion.id.name.clone(),
            epoch: 0,
            champion,
            challengers: challengers.iter().map(|file| load(file)).collect::<Result<_, _>>()?,
        };
        models.check()
    }

    fn load(&self, artifact: &Artifact, manifest: Option<&[u8]>) -> Result<Arc<Model>, Rejection> {
        let profile = self.probe.examine(&self.runtime, artifact, manifest)?;
        // One session is enough: rows are scored one batch after the other.
        let threads = Threads { http: 1, workers: 1 };
        Model::load(&self.runtime, artifact, profile, Duty::Shadow, threads).map(Arc::new)
    }
}

impl Models {
    /// Whether the challengers take what the champion takes.
    fn check(self) -> Result<Self, String> {
        for challenger in &self.challengers {
            let version = &challenger.id.version;
            let fits = challenger.signature.can_shadow(&self.champion.signature);
            fits.map_err(|e| format!("challenger {version} cannot be compared with the champion: {e}"))?;
        }
        Ok(self)
    }
}

/// What `aliases.json` names, or the highest version.
pub(crate) fn wanted(source: &Source, name: &str) -> Result<Wanted, String> {
    let mut listing = source.look(true)?;
    listing.remove(name).ok_or_else(|| format!("the repository holds no model {name:?}"))?
}

/// A version that was named by hand: what its manifest is now is what is loaded.
fn revision(source: &Source, name: &str, version: &str) -> Result<Revision, String> {
    let manifest = source.read(&format!("{name}/{version}/{MANIFEST}"), MANIFEST_BYTES)?;
    if let Some(manifest) = manifest {
        let sha256 = sha256(&manifest.bytes);
        return Ok(Revision { version: version.into(), manifest_sha256: Some(sha256.clone()), fingerprint: sha256 });
    }
    let mut found = source.versions(name)?;
    found.sort_by_key(|found| found.version.parse::<u64>().unwrap_or(0));
    let held = || found.iter().map(|found| found.version.as_str()).collect::<Vec<_>>().join(", ");
    let Some(found) = found.iter().find(|found| found.version == version) else {
        return Err(format!("{name} has no version {version}; it has: {}", held()));
    };
    Ok(Revision { version: version.into(), manifest_sha256: None, fingerprint: found.stamp.clone() })
}

/// Reads a version, and once more if it was written this moment.
pub(crate) fn fetch(source: &Source, name: &str, revision: &Revision) -> Result<crate::source::Fetched, Rejection> {
    let fetched = source.fetch_whole(name, revision);
    if !fetched.as_ref().is_err_and(|e| e.passing && revision.manifest_sha256.is_none()) {
        return fetched;
    }
    std::thread::park_timeout(PATIENCE);
    source.fetch_whole(name, revision)
}

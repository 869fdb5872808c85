//! The change that a verdict asks for.

use super::{Author, ChangeError, Changed, change, lost, present};
use crate::judge::{Judgement, Step, StepKind};
use crate::source::{MANIFEST, MANIFEST_BYTES, Source, sha256};

/// Does what a judgement asks for, if the pointer still is the one that was judged, and the version what its servers ran.
///
/// # Errors
/// See [`ChangeError`]; nothing was changed then.
pub fn carry_out(
    source: &Source,
    judgement: &Judgement,
    step: &Step<'_>,
    author: &Author,
    dry_run: bool,
) -> Result<Changed, ChangeError> {
    let model = &judgement.model;
    let present = present(source, model)?.map(|(aliases, _)| aliases);
    let is_judged = |champion: &str, epoch| champion == judgement.champion.version && epoch == judgement.epoch;
    let Some(aliases) = present.as_ref().filter(|aliases| is_judged(&aliases.champion, aliases.epoch)) else {
        return Err(ChangeError::Lost(lost(model, present.as_ref())));
    };
    if step.kind != StepKind::Reject {
        let version = &step.of.version.version;
        let key = format!("{model}/{version}/{MANIFEST}");
        let manifest = source.read(&key, MANIFEST_BYTES).map_err(ChangeError::Failed)?;
        let found = manifest.map(|manifest| sha256(&manifest.bytes));
        let pin = aliases.manifest_sha256.get(version).map(|pin| pin.to_ascii_lowercase());
        if found != pin {
            let message = format!("{key} is not the one that was judged: push the model again, as a new version");
            return Err(ChangeError::Refused(message));
        }
    }
    change(source, model, &step.change(), author, Some(judgement.epoch), dry_run)
}

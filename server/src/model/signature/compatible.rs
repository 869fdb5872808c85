//! Whether one model may take the place of another, or score what was decoded for it.

use super::{Input, Rows, Signature, Slot, show};
use crate::model::manifest::{Feature, Missing, Semantics};

impl Signature {
    /// Whether a model with this signature can score, unchanged, the tensors decoded for `champion`.
    ///
    /// # Errors
    /// The first difference.
    pub fn can_shadow(&self, champion: &Self) -> Result<(), String> {
        if self.inputs.len() != champion.inputs.len() {
            return Err(format!("it has {} inputs, the champion {}", self.inputs.len(), champion.inputs.len()));
        }
        for (mine, theirs) in self.inputs.iter().zip(&champion.inputs) {
            same_input(mine, theirs)?;
            let names = |i: &Input| i.features.iter().map(|f| f.name.clone()).collect::<Vec<_>>();
            if names(mine) != names(theirs) {
                return Err(format!(
                    "input {}: its features are {:?}, the champion's {:?}",
                    mine.name,
                    names(mine),
                    names(theirs)
                ));
            }
        }
        self.means_the_same(champion)?;
        self.gives_all_of(champion)
    }

    /// What both manifests say of a forecast is the same: it is judged by what the champion's says.
    fn means_the_same(&self, champion: &Self) -> Result<(), String> {
        for theirs in &champion.outputs {
            let mine = self.outputs.iter().find(|output| output.name == theirs.name);
            let (Some(mine), Some(theirs)) = (mine.and_then(|output| output.semantics.as_ref()), &theirs.semantics)
            else {
                continue;
            };
            let told = |semantics: &Semantics| {
                let Semantics { horizon_seconds, target_feature, unit, .. } = semantics;
                [
                    ("horizon_seconds", horizon_seconds.map(|seconds| seconds.to_string())),
                    ("target_feature", target_feature.clone()),
                    ("unit", unit.clone()),
                ]
            };
            for ((key, mine), (_, theirs)) in told(mine).into_iter().zip(told(theirs)) {
                if let (Some(mine), Some(theirs)) = (mine, theirs)
                    && mine != theirs
                {
                    return Err(format!(
                        "outputs_semantics: its {key} is {mine}, the champion's {theirs}, so that they cannot be compared"
                    ));
                }
            }
        }
        Ok(())
    }

    /// Whether every request and every reader of `old` would still be served.
    ///
    /// # Errors
    /// The first difference.
    pub fn can_replace(&self, old: &Self) -> Result<(), String> {
        let whole = |signature: &Self| signature.rows == Rows::Whole;
        if whole(self) != whole(old) {
            let kind = |signature| if whole(signature) { "whole tensors" } else { "rows" };
            return Err(format!("it takes {}, the champion takes {}", kind(self), kind(old)));
        }
        // Clients that send tensors know inputs by name, type and rank.
        for theirs in &old.inputs {
            let Some(mine) = self.inputs.iter().find(|i| i.name == theirs.name) else {
                return Err(format!("it has no input {:?}, which the champion has", theirs.name));
            };
            if mine.dtype != theirs.dtype || mine.row_shape.len() != theirs.row_shape.len() {
                same_input(mine, theirs)?;
            }
        }
        for (key, slot) in &old.keys {
            let Some(now) = self.lookup.get(key).map(|i| self.keys[*i].1) else {
                return Err(format!("it does not take {key:?}, which the champion takes"));
            };
            let (mine, theirs) = (&self.inputs[now.input()], &old.inputs[slot.input()]);
            if let (Slot::Row { .. }, Slot::Row { .. }) = (now, slot) {
                same_input(mine, theirs)?;
            } else if std::mem::discriminant(&now) != std::mem::discriminant(slot) || mine.dtype != theirs.dtype {
                return Err(format!("{key:?} is {}, the champion takes {}", mine.dtype, theirs.dtype));
            }
        }
        let required = |f: &Feature| f.required || f.missing == Missing::Reject;
        for (key, slot) in &self.keys {
            let now_required = self.feature(*slot).is_none_or(required);
            let was_required = old.lookup.get(key).is_some_and(|i| old.feature(old.keys[*i].1).is_none_or(required));
            if now_required && !was_required {
                return Err(format!("it requires {key:?}, which the champion does not"));
            }
        }
        self.gives_all_of(old)
    }

    fn gives_all_of(&self, other: &Self) -> Result<(), String> {
        for output in &other.outputs {
            match self.outputs.iter().find(|o| o.name == output.name) {
                None => return Err(format!("it has no output {:?}, which the champion has", output.name)),
                Some(o) if o.dtype != output.dtype => {
                    return Err(format!("output {} is {}, the champion's {}", o.name, o.dtype, output.dtype));
                }
                Some(_) => {}
            }
        }
        Ok(())
    }
}

fn same_input(mine: &Input, theirs: &Input) -> Result<(), String> {
    if mine.name != theirs.name {
        return Err(format!("its input is named {:?}, the champion's {:?}", mine.name, theirs.name));
    }
    if mine.dtype != theirs.dtype {
        return Err(format!("input {} is {}, the champion's {}", mine.name, mine.dtype, theirs.dtype));
    }
    if mine.row_shape != theirs.row_shape {
        return Err(format!(
            "input {}: a row has shape {}, the champion's {}",
            mine.name,
            show(&mine.row_shape),
            show(&theirs.row_shape)
        ));
    }
    Ok(())
}

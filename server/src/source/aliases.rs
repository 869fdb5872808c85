//! `aliases.json`: what a model's name stands for. The one object that a promotion writes.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};
use time::OffsetDateTime;
use time::format_description::well_known::Rfc3339;

use super::{Revision, Wanted};

/// The object's name in a model's folder.
pub const ALIASES: &str = "aliases.json";
/// Challengers that are scored at a time.
pub const MOST_CHALLENGERS: usize = 3;
/// A pointer is small; what is larger is something else.
pub const ALIASES_BYTES: u64 = 64 << 10;

/// The parsed object. Keys that this program does not know are kept when it writes the next one.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Aliases {
    /// The version that answers.
    pub champion: String,
    /// The versions that score in the shadow.
    #[serde(default)]
    pub challengers: Vec<String>,
    /// The champion before, to which `rollback` goes back.
    #[serde(default)]
    pub previous: Option<String>,
    /// Counts the changes; one higher with each.
    #[serde(default)]
    pub epoch: u64,
    /// SHA-256 of each named version's `manifest.json`.
    #[serde(default)]
    pub manifest_sha256: BTreeMap<String, String>,
    /// When it was written (RFC 3339).
    #[serde(default)]
    pub updated_at: String,
    /// When the champion was made it (RFC 3339), however often challengers came and went since.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub promoted_at: String,
    /// Who wrote it.
    #[serde(default)]
    pub by: String,
    /// Why.
    #[serde(default)]
    pub reason: String,
    /// What others keep in it.
    #[serde(flatten)]
    pub other: Map<String, Value>,
}

impl Aliases {
    /// Parses the object.
    ///
    /// # Errors
    /// One sentence that names the key.
    pub fn parse(bytes: &[u8]) -> Result<Self, String> {
        serde_json::from_slice(bytes).map_err(|e| format!("{ALIASES}: {e}"))
    }

    /// The object's bytes.
    #[must_use]
    pub fn to_bytes(&self) -> Vec<u8> {
        let mut bytes = serde_json::to_vec_pretty(self).expect("strings and numbers can always be written");
        bytes.push(b'\n');
        bytes
    }

    /// What should be served.
    ///
    /// # Errors
    /// One sentence when the champion is not named as it must be.
    pub fn wanted(&self) -> Result<Wanted, String> {
        let mut wanted = Wanted { epoch: self.epoch, ..Wanted::of(self.revision(&self.champion)?) };
        for version in &self.challengers {
            // A challenger never holds the champion back.
            match self.revision(version) {
                Ok(revision) => wanted.challengers.push(revision),
                Err(reason) => wanted.misnamed.push((version.clone(), reason)),
            }
        }
        // It is only a fallback: one without a pin is as good as none.
        wanted.previous = self.previous.as_ref().and_then(|version| self.revision(version).ok());
        let promoted = OffsetDateTime::parse(&self.promoted_at, &Rfc3339).ok();
        wanted.promoted_at = promoted.and_then(|at| u64::try_from(at.unix_timestamp()).ok());
        Ok(wanted)
    }

    fn revision(&self, version: &str) -> Result<Revision, String> {
        if !super::is_version(version) {
            return Err(format!("{ALIASES}: version {version:?} is not a positive whole number in quotes"));
        }
        let sha256 = self.manifest_sha256.get(version).ok_or_else(|| {
            format!(
                "{ALIASES}: manifest_sha256 has no entry for version {version}: add the SHA-256 of {version}/manifest.json"
            )
        })?;
        // It becomes a file name in the cache.
        if sha256.len() != 64 || !sha256.bytes().all(|b| b.is_ascii_hexdigit()) {
            return Err(format!("{ALIASES}: manifest_sha256 of version {version} is not 64 hexadecimal digits"));
        }
        Ok(Revision::pinned(version, sha256))
    }

    /// The next object with another champion. The one before becomes `previous`, unless this goes back (then there is
    /// nothing further to go back to, and a second rollback cannot bring the faulty version again).
    #[must_use]
    pub fn with_champion(&self, version: &str, manifest_sha256: &str, goes_back: bool) -> Self {
        let mut next = self.clone();
        next.previous = (!goes_back && !self.champion.is_empty()).then(|| self.champion.clone());
        next.champion = version.into();
        next.challengers.retain(|challenger| challenger != version);
        next.pin(version, manifest_sha256)
    }

    /// The next object with this challenger in the place of the present ones.
    #[must_use]
    pub fn with_challenger(&self, version: &str, manifest_sha256: &str) -> Self {
        let mut next = self.clone();
        next.challengers = vec![version.into()];
        next.pin(version, manifest_sha256)
    }

    /// The next object with this challenger behind the present ones.
    #[must_use]
    pub fn with_another(&self, version: &str, manifest_sha256: &str) -> Self {
        let mut next = self.clone();
        if !next.challengers.iter().any(|challenger| challenger == version) {
            next.challengers.push(version.into());
        }
        next.pin(version, manifest_sha256)
    }

    /// The next object without this challenger.
    #[must_use]
    pub fn without_challenger(&self, version: &str) -> Self {
        let mut next = self.clone();
        next.challengers.retain(|challenger| challenger != version);
        next.next()
    }

    fn pin(mut self, version: &str, manifest_sha256: &str) -> Self {
        self.manifest_sha256.insert(version.into(), manifest_sha256.into());
        self.next()
    }

    /// One change later, with the pins of what it names.
    fn next(mut self) -> Self {
        let named =
            |v: &String| *v == self.champion || self.challengers.contains(v) || self.previous.as_ref() == Some(v);
        self.manifest_sha256 =
            std::mem::take(&mut self.manifest_sha256).into_iter().filter(|(v, _)| named(v)).collect();
        self.epoch = self.epoch.saturating_add(1);
        self
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn aliases() -> Aliases {
        let text = format!(
            r#"{{"champion":"3","challengers":["4"],"previous":"2","epoch":17,
                "manifest_sha256":{{"2":"{}","3":"{}","4":"{}"}},"team":"ml"}}"#,
            "a".repeat(64),
            "b".repeat(64),
            "c".repeat(64)
        );
        Aliases::parse(text.as_bytes()).expect("it is whole")
    }

    #[test]
    fn a_promotion_and_its_rollback_keep_what_they_do_not_know() {
        let promoted = aliases().with_champion("4", "cc", false);
        assert_eq!((promoted.champion.as_str(), promoted.previous.as_deref()), ("4", Some("3")));
        assert_eq!((promoted.challengers.len(), promoted.epoch), (0, 18));
        assert_eq!(promoted.manifest_sha256.keys().collect::<Vec<_>>(), ["3", "4"]);
        assert_eq!(promoted.other["team"], "ml");
        let back = promoted.with_champion("3", "bb", true);
        assert_eq!((back.champion.as_str(), back.previous, back.epoch), ("3", None, 19));
        assert_eq!(Aliases::parse(&promoted.to_bytes()), Ok(promoted));
    }

    #[test]
    fn a_challenger_that_is_taken_out_leaves_the_others() {
        let mut three = aliases();
        three.challengers = vec!["4".into(), "5".into(), "3".into()];
        three.manifest_sha256.insert("5".into(), "d".repeat(64));
        let out = three.without_challenger("4");
        assert_eq!((out.champion.as_str(), out.previous.as_deref(), out.epoch), ("3", Some("2"), 18));
        assert_eq!(out.challengers, ["5", "3"]);
        assert_eq!(out.manifest_sha256.keys().collect::<Vec<_>>(), ["2", "3", "5"]);
        assert_eq!(out.other["team"], "ml");
    }

    #[test]
    fn what_is_wanted_is_pinned() {
        let wanted = aliases().wanted().expect("all is pinned");
        assert_eq!(wanted.previous.map(|p| p.version), Some("2".into()));
        let unpinned = Aliases { manifest_sha256: BTreeMap::new(), ..aliases() };
        assert!(unpinned.wanted().is_err_and(|e| e.contains("no entry for version 3")));
        // Whoever can write a pointer must not name files of the server with it.
        for pin in ["/dev/zero", "../../etc/passwd", "aa", ""] {
            let pins = BTreeMap::from([("3".to_owned(), pin.to_owned())]);
            let odd = Aliases { manifest_sha256: pins, ..aliases() };
            assert!(odd.wanted().is_err_and(|e| e.contains("64 hexadecimal digits")), "{pin}");
        }
        let times =
            [("1970-01-01T00:01:00Z", Some(60)), ("1969-01-01T00:00:00Z", None), ("yesterday", None), ("", None)];
        for (at, seconds) in times {
            let promoted = Aliases { promoted_at: at.into(), ..aliases() };
            assert_eq!(promoted.wanted().expect("all is pinned").promoted_at, seconds, "{at}");
        }
        let misnamed = Aliases { challengers: vec!["x".into()], ..aliases() }.wanted().expect("the champion is good");
        assert_eq!(misnamed.misnamed.len(), 1);
    }
}

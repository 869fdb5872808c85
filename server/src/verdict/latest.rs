//! What is kept by time: the latest, up to the newest of it, the same whatever the order in which it came.

use std::collections::BTreeMap;
use std::collections::btree_map::OccupiedEntry;

/// The entry of this number, if it is less than `most` before the newest; whatever then is not, goes.
///
/// The clock of a server may be far behind: what it saw would otherwise be taken for old evidence.
pub(super) fn entry<T: Default>(kept: &mut BTreeMap<u64, T>, number: u64, most: u64) -> Option<&mut T> {
    let newest = kept.last_key_value().map_or(number, |(newest, _)| *newest);
    if number == newest {
        // Nearly all are of the newest.
        if !kept.is_empty() {
            return kept.last_entry().map(OccupiedEntry::into_mut);
        }
    } else if number > newest {
        while let Some(first) = kept.first_entry().filter(|first| number - first.key() >= most) {
            first.remove();
        }
    } else if newest - number >= most {
        return None;
    }
    Some(kept.entry(number).or_default())
}

//! What is wrong now, told once: when it begins, when it becomes something else, and when it is over.

use std::collections::HashMap;

/// Faults by the part that has them. Parts are a small closed set.
#[derive(Debug, Default)]
pub struct Changes {
    faults: HashMap<String, String>,
}

impl Changes {
    /// A part fails like this, or still does.
    pub fn fault(&mut self, part: &str, message: &str) {
        if self.faults.get(part).is_none_or(|told| told != message) {
            tracing::warn!(part, "{message}");
            self.faults.insert(part.to_owned(), message.to_owned());
        }
    }

    /// A part works.
    pub fn fine(&mut self, part: &str) {
        if self.faults.remove(part).is_some() {
            tracing::info!(part, "works again");
        }
    }
}

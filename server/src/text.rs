//! Names and sentences that hold what others wrote, short enough to be read and to be sent.

/// Bytes of a sentence. gRPC sends it in a header, of which clients take 8 KiB, with three bytes for some of these.
pub(crate) const SENTENCE: usize = 1024;
/// Bytes of a name.
const NAME: usize = 64;
/// Names in a list.
const NAMES: usize = 20;

/// The text, or as much of it as `most` bytes hold and a sign that there is more.
pub(crate) fn cut(mut text: String, most: usize) -> String {
    if text.len() > most {
        text.truncate(text.floor_char_boundary(most));
        text.push('…');
    }
    text
}

/// A name that may be of any length, where the sentence goes on after it.
pub(crate) fn shown(name: &str) -> String {
    cut(name[..name.floor_char_boundary(NAME + 4)].to_owned(), NAME)
}

/// The first names of a list, and how many more there are.
pub(crate) fn listed<'a>(names: impl IntoIterator<Item = &'a str>) -> String {
    let mut names = names.into_iter();
    let first: Vec<&str> = names.by_ref().take(NAMES).collect();
    match names.count() {
        0 => first.join(", "),
        more => format!("{} and {more} more", first.join(", ")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_long_is_cut_between_characters() {
        assert_eq!((cut("abc".into(), 3), cut("abcd".into(), 3)), ("abc".into(), "abc…".into()));
        assert_eq!(cut("aéé".into(), 4), "aé…");
        assert_eq!((shown(&"a".repeat(64)), shown(&"a".repeat(65))), ("a".repeat(64), format!("{}…", "a".repeat(64))));
        assert_eq!(shown(&"é".repeat(1000)), format!("{}…", "é".repeat(32)));
        assert_eq!(shown(&format!("{}€", "a".repeat(62))), format!("{}…", "a".repeat(62)));
    }

    #[test]
    fn lists_say_how_much_they_leave_out() {
        assert_eq!(listed(["a", "b"]), "a, b");
        assert!(listed(["a"; 23]).ends_with("a, a and 3 more"));
    }
}

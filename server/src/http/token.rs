//! Who may change what: the tokens of admin calls.

use std::path::Path;

use axum::http::{HeaderMap, StatusCode, header};

use super::error::Problem;
use crate::source::sha256;

/// A file of tokens is short.
const BYTES: usize = 64 << 10;
/// A token that is shorter can be guessed.
const LEAST: usize = 16;
/// What stands before the hash of a token.
const HASHED: &str = "sha256:";

/// What an admin call does, as tokens allow it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Action {
    Promote,
    RollBack,
    Reload,
    Load,
    Unload,
}

/// A token that somebody may have.
#[derive(Debug, PartialEq, Eq)]
struct Known {
    name: String,
    sha256: String,
    /// Words of actions, and names of models; `None` for all.
    actions: Option<Vec<String>>,
    models: Option<Vec<String>>,
}

impl Action {
    const ALL: [Self; 5] = [Self::Promote, Self::RollBack, Self::Reload, Self::Load, Self::Unload];

    pub(super) const fn name(self) -> &'static str {
        match self {
            Self::Promote => "promote",
            Self::RollBack => "rollback",
            Self::Reload => "reload",
            Self::Load => "load",
            Self::Unload => "unload",
        }
    }
}

/// The name of whoever may do this with a model, by the token in `headers`. The file is read at each call, so that tokens come and go
/// while the server runs.
pub(super) fn admit(file: Option<&Path>, headers: &HeaderMap, action: Action, model: &str) -> Result<String, Problem> {
    let refuse = |status, detail: String| Err(Problem::new(status, detail));
    let Some(file) = file else {
        let detail = "admin calls are off: serve with --admin-token-file to allow them";
        return refuse(StatusCode::FORBIDDEN, detail.into());
    };
    let known = match read(file) {
        Ok(known) => known,
        Err(error) => {
            tracing::error!(error, file = %file.display(), "no admin call is possible");
            return refuse(StatusCode::FORBIDDEN, "the file of --admin-token-file cannot be used, see the log".into());
        }
    };
    let given = headers.get(header::AUTHORIZATION).map(|value| value.as_bytes()).unwrap_or_default();
    let Some((_, token)) = given.split_at_checked(7).filter(|(scheme, _)| scheme.eq_ignore_ascii_case(b"bearer "))
    else {
        let detail = "this call needs the header Authorization: Bearer TOKEN, with a token of the file that the server's \
                      --admin-token-file names";
        return refuse(StatusCode::UNAUTHORIZED, detail.into());
    };
    // Hashes are compared, so that the time tells nothing of a token.
    let hash = sha256(token.trim_ascii());
    let Some(found) = known.into_iter().find(|known| known.sha256 == hash) else {
        tracing::warn!(action = action.name(), "an admin call had a token that is not known");
        let detail = "that is not an admin token: they are in the file that the server's --admin-token-file names";
        return refuse(StatusCode::UNAUTHORIZED, detail.into());
    };
    let allows =
        |list: &Option<Vec<String>>, what: &str| list.as_ref().is_none_or(|list| list.iter().any(|one| one == what));
    if !allows(&found.actions, action.name()) || !allows(&found.models, model) {
        tracing::warn!(token = found.name, action = action.name(), "an admin call was not allowed by its token");
        let detail = format!("the token {:?} does not allow {} for this model", found.name, action.name());
        return refuse(StatusCode::FORBIDDEN, detail);
    }
    tracing::info!(token = found.name, action = action.name(), model, "an admin call");
    Ok(found.name)
}

fn read(file: &Path) -> Result<Vec<Known>, String> {
    let bytes = std::fs::read(file).map_err(|e| format!("it cannot be read: {e}"))?;
    if bytes.len() > BYTES {
        return Err(format!("it has {} bytes, and tokens are short", bytes.len()));
    }
    let text = str::from_utf8(&bytes).map_err(|_| "it is no text")?;
    let lines = text.lines().map(str::trim).zip(1..).filter(|(line, _)| !line.is_empty() && !line.starts_with('#'));
    let known = lines.map(|(line, number)| parse(line).map_err(|e| format!("line {number}: {e}")));
    let known = known.collect::<Result<Vec<_>, _>>()?;
    if known.is_empty() { Err("it is empty".into()) } else { Ok(known) }
}

/// A line: a token alone, or a name, a token or its hash, and what it is for.
fn parse(line: &str) -> Result<Known, String> {
    let words: Vec<&str> = line.split_whitespace().collect();
    let (name, secret, actions, models) = match *words.as_slice() {
        [secret] => ("admin", secret, "*", "*"),
        [name, secret] => (name, secret, "*", "*"),
        [name, secret, actions] => (name, secret, actions, "*"),
        [name, secret, actions, models] => (name, secret, actions, models),
        _ => return Err("a line is a token, or NAME TOKEN [ACTIONS [MODELS]]".into()),
    };
    let list = |text: &str| (text != "*").then(|| text.split(',').map(str::to_owned).collect::<Vec<_>>());
    let actions = list(actions);
    for action in actions.iter().flatten() {
        if !Action::ALL.iter().any(|known| known.name() == action) {
            let known = Action::ALL.map(Action::name).join(", ");
            return Err(format!("the third word is * or some of {known}, with commas between"));
        }
    }
    let sha256 = match secret.strip_prefix(HASHED) {
        Some(hash) if hash.len() == 64 && hash.bytes().all(|b| b.is_ascii_hexdigit()) => hash.to_ascii_lowercase(),
        Some(_) => return Err("after sha256: there are 64 hexadecimal digits".into()),
        None if secret.len() < LEAST => {
            return Err(format!("a token has at least {LEAST} characters: openssl rand -base64 36 makes one"));
        }
        None => sha256(secret.as_bytes()),
    };
    Ok(Known { name: name.into(), sha256, actions, models: list(models) })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_are_read_and_mistakes_do_not_tell_the_token() {
        let token = "0123456789abcdef";
        let whole = parse(token).expect("a token");
        assert_eq!((whole.name.as_str(), whole.sha256.as_str()), ("admin", sha256(token.as_bytes()).as_str()));
        assert_eq!((whole.actions, whole.models), (None, None));
        let hashed = parse(&format!("ann sha256:{} promote,rollback shop", sha256(token.as_bytes()))).expect("a token");
        assert_eq!((hashed.name.as_str(), &hashed.sha256), ("ann", &whole.sha256));
        assert_eq!(hashed.actions, Some(vec!["promote".into(), "rollback".into()]));
        assert_eq!(hashed.models, Some(vec!["shop".into()]));
        for line in ["secret-too-short", "ann sha256:12", "ann 0123456789abcdef fly", "a b c d e"] {
            let line = if line == "secret-too-short" { "secret" } else { line };
            let error = parse(line).expect_err(line);
            assert!(!error.contains("secret") && !error.contains("0123456789abcdef"), "{error}");
        }
    }
}

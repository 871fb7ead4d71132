//! The methods of a service as text, and the comparison of that text with a file: `check_schema!`.

use crate::service::{Argument, Mark, Method, Service};
use std::fmt::Write as _;
use std::path::Path;

/// Set to 1, the check writes the file instead of comparing it.
pub const BLESS: &str = "TRIMARAN_BLESS";

/// One line for each method, in the order of their names, so that moving a method changes nothing.
pub fn render<S: Service>() -> String {
    let mut methods: Vec<&Method> = S::methods().iter().collect();
    methods.sort_by_key(|method| method.name);
    let widest = methods.iter().map(|method| method.name.len()).max().unwrap_or(0);
    let mut out = format!("service {}\n", S::NAME);
    for method in methods {
        let argument = |argument: &Argument| format!("{}: {}", argument.name, argument.kind);
        let arguments: Vec<String> = method.arguments.iter().map(argument).collect();
        let (key, name, rev, mark) = (method.key, method.name, method.rev, mark(method.mark));
        let _ = writeln!(
            out,
            "{key:08x}  {name:widest$}  rev {rev}  {mark:10}  ({}) -> {}",
            arguments.join(", "),
            method.returns
        );
    }
    out
}

fn mark(mark: Mark) -> &'static str {
    match mark {
        Mark::Replicated => "replicated",
        Mark::Read => "read",
        Mark::Local => "local",
        Mark::Timer => "timer",
        Mark::Effect => "effect",
        Mark::Raw => "raw",
    }
}

/// Compares the methods of `S` with the file, or writes it where [`BLESS`] is set to 1.
///
/// # Errors
/// What differs, line by line, and what to do about it; or why the file cannot be read or written.
pub fn check<S: Service>(file: impl AsRef<Path>) -> Result<(), String> {
    let is_blessed = std::env::var(BLESS).is_ok_and(|value| value == "1");
    compare(&render::<S>(), S::NAME, file.as_ref(), is_blessed)
}

fn compare(now: &str, service: &str, file: &Path, is_blessed: bool) -> Result<(), String> {
    let shown = file.display();
    let before = match std::fs::read_to_string(file) {
        Ok(before) => before,
        Err(error) if error.kind() == std::io::ErrorKind::NotFound && !is_blessed => {
            return Err(format!("{shown} is not there: `{BLESS}=1 cargo test schema` writes it"));
        }
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => String::new(),
        Err(error) => return Err(format!("{shown} cannot be read: {error}")),
    };
    if before == now {
        return Ok(());
    }
    if is_blessed {
        let made = file.parent().map_or(Ok(()), std::fs::create_dir_all);
        return made
            .and_then(|()| std::fs::write(file, now))
            .map_err(|error| format!("{shown} cannot be written: {error}"));
    }
    let mut out = format!("the methods of `{service}` are not those of {shown}:\n");
    for gone in before.lines().filter(|line| !now.lines().any(|other| other == *line)) {
        let _ = writeln!(out, "  - {gone}");
    }
    for new in now.lines().filter(|line| !before.lines().any(|other| other == *line)) {
        let _ = writeln!(out, "  + {new}");
    }
    let _ = write!(
        out,
        "Clients and logs of the build before do not understand a changed line: give the method another revision, \
         `rev = 2`, or another name. Then `{BLESS}=1 cargo test schema` accepts the change."
    );
    Err(out)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_change_is_shown_and_can_be_accepted() {
        let directory = std::env::temp_dir().join(format!("trimaran-schema-{}", std::process::id()));
        let file = directory.join("kv.txt");
        let compare = |now: &str, is_blessed| compare(now, "kv", &file, is_blessed);
        assert!(compare("service kv\na\n", false).unwrap_err().contains("TRIMARAN_BLESS=1"));
        assert_eq!(compare("service kv\na\n", true), Ok(()));
        assert_eq!(compare("service kv\na\n", false), Ok(()));
        let change = compare("service kv\nb\n", false).unwrap_err();
        assert!(change.contains("  - a\n  + b\n") && change.contains("TRIMARAN_BLESS=1"), "{change}");
        assert_eq!(compare("service kv\nb\n", true), Ok(()));
        assert_eq!(std::fs::read_to_string(&file).unwrap(), "service kv\nb\n");
        std::fs::remove_dir_all(directory).unwrap();
    }
}

//! Rust source reduced to what a rule may look at: no comments, no literals, tests cut off where a rule says so.

use std::fs;
use std::path::{Path, PathBuf};

/// One source file of the workspace.
pub(crate) struct Source {
    /// Relative to the workspace root, with `/` between the parts.
    pub(crate) path: String,
    pub(crate) text: String,
}

impl Source {
    #[cfg(test)]
    pub(crate) fn sample(path: &str, text: &str) -> Self {
        Self { path: path.to_owned(), text: text.to_owned() }
    }

    /// Words of the code with their line numbers from 1; punctuation comes as single characters.
    pub(crate) fn words(&self) -> Vec<(usize, String)> {
        words(&blank(&self.text))
    }

    /// The same, up to the tests at the foot of the file.
    pub(crate) fn words_without_tests(&self) -> Vec<(usize, String)> {
        let code = blank(&self.text);
        words(code.split("#[cfg(test)]\nmod ").next().unwrap_or(&code))
    }
}

/// Every `.rs` file below `dir`, in order of name. A directory that does not exist holds none.
pub(crate) fn below(root: &Path, dir: &str) -> Vec<Source> {
    let mut found = Vec::new();
    let mut todo: Vec<PathBuf> = vec![root.join(dir)];
    while let Some(path) = todo.pop() {
        if path.is_dir() {
            todo.extend(fs::read_dir(&path).into_iter().flatten().flatten().map(|entry| entry.path()));
        } else if path.extension().is_some_and(|extension| extension == "rs") {
            let text = fs::read_to_string(&path).unwrap_or_else(|e| panic!("cannot read {}: {e}", path.display()));
            let relative = path.strip_prefix(root).expect("found below the root");
            found.push(Source { path: relative.to_string_lossy().into_owned(), text });
        }
    }
    found.sort_by(|a, b| a.path.cmp(&b.path));
    found
}

fn words(code: &str) -> Vec<(usize, String)> {
    let mut words: Vec<(usize, String)> = Vec::new();
    for (line, text) in code.lines().enumerate() {
        let mut grows = false;
        for c in text.chars() {
            let in_name = c == '_' || c.is_alphanumeric();
            match words.last_mut() {
                Some((_, word)) if in_name && grows => word.push(c),
                _ if c.is_whitespace() => {}
                _ => words.push((line + 1, c.to_string())),
            }
            grows = in_name;
        }
    }
    words
}

/// Replaces comments and the insides of string and character literals by spaces; keeps every line break.
fn blank(text: &str) -> String {
    let chars: Vec<char> = text.chars().collect();
    let mut out = String::with_capacity(text.len());
    let mut at = 0;
    while at < chars.len() {
        let end = literal_or_comment(&chars, at);
        if end == at {
            out.push(chars[at]);
            at += 1;
        } else {
            out.extend(chars[at..end].iter().map(|c| if *c == '\n' { '\n' } else { ' ' }));
            at = end;
        }
    }
    out
}

/// Where the comment or literal that starts at `at` ends; `at` itself when none does.
fn literal_or_comment(chars: &[char], at: usize) -> usize {
    let starts = |what: &str, from: usize| what.chars().enumerate().all(|(i, c)| chars.get(from + i) == Some(&c));
    let find =
        |what: &str, from: usize| (from..chars.len()).find(|&i| starts(what, i)).map(|i| i + what.chars().count());
    let rest = chars.len();
    let after_name = at > 0 && (chars[at - 1] == '_' || chars[at - 1].is_alphanumeric());
    if starts("//", at) {
        return find("\n", at).map_or(rest, |end| end - 1);
    }
    if starts("/*", at) {
        let (mut depth, mut i) = (1, at + 2);
        while i < rest && depth > 0 {
            let step = if starts("/*", i) {
                depth += 1;
                2
            } else if starts("*/", i) {
                depth -= 1;
                2
            } else {
                1
            };
            i += step;
        }
        return i.min(rest);
    }
    let raw = if starts("br", at) || starts("cr", at) { 2 } else { 1 };
    if !after_name && (starts("r", at) || raw == 2) {
        let hashes = chars[at + raw..].iter().take_while(|c| **c == '#').count();
        if chars.get(at + raw + hashes) == Some(&'"') {
            let close = format!("\"{}", "#".repeat(hashes));
            return find(&close, at + raw + hashes + 1).unwrap_or(rest);
        }
    }
    if chars[at] == '"' {
        let mut i = at + 1;
        while i < rest && chars[i] != '"' {
            i += if chars[i] == '\\' { 2 } else { 1 };
        }
        return (i + 1).min(rest);
    }
    // A character, not a lifetime: '\..' or one character between two quotes.
    if chars[at] == '\'' && chars.get(at + 1) == Some(&'\\') {
        return find("'", at + 3).unwrap_or(rest);
    }
    if chars[at] == '\'' && chars.get(at + 2) == Some(&'\'') {
        return at + 3;
    }
    at
}

#[test]
fn comments_and_literals_are_no_code() {
    let source = Source::sample(
        "a.rs",
        "// one\nfn f<'a>() { /* two /* three */ four */ g(\"five \\\" six\", r#\"sev\"en\"#, b\"eight\", '\"', '\\''); } /// nine\nten",
    );
    let words: Vec<String> = source.words().into_iter().map(|(_, word)| word).filter(|word| word.len() > 1).collect();
    assert_eq!(words, ["fn", "ten"]);
    assert!(source.words().contains(&(3, "ten".to_owned())));
    assert!(source.words().contains(&(2, "a".to_owned())), "a lifetime opens no literal");
}

#[test]
fn the_tests_at_the_foot_can_be_left_out() {
    let source = Source::sample("a.rs", "fn a() {}\n#[cfg(test)]\nmod tests { fn bb() {} }");
    assert!(source.words().iter().any(|(_, word)| word == "bb"));
    assert!(!source.words_without_tests().iter().any(|(_, word)| word == "bb"));
}

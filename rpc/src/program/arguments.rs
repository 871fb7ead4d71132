//! Arguments as they are typed, made into the JSON that a method takes.
//!
//! `call put user:1 ada 5s` and `call put '{"key":"user:1","value":[97,100,97],"ttl":{"secs":5,"nanos":0}}'` say the
//! same. How a word is read depends on the argument's type as its author wrote it: texts and bytes are taken as they
//! are, times with their unit, everything else as JSON where it is some, and else as a text. A word that is read wrongly
//! can always be written as part of an object.

use crate::program::config::units;
use crate::service::{Argument, Method};
use serde_json::{Map, Value, json};

/// The JSON object of a method's arguments: `words` in the order of the arguments, or one word that is the object itself.
/// Optional arguments at the end may be left out.
///
/// # Errors
/// What the method takes, where it is given something else.
pub fn to_json(method: &Method, words: &[String]) -> Result<Value, String> {
    if let [object] = words
        && let Ok(Value::Object(given)) = serde_json::from_str(object)
        && given.keys().all(|name| method.arguments.iter().any(|argument| argument.name == name))
    {
        return Ok(Value::Object(given));
    }
    if words.len() > method.arguments.len() {
        return Err(format!("{} arguments are given to {}", words.len(), usage(method)));
    }
    let mut object = Map::new();
    for (nth, Argument { name, kind }) in method.arguments.iter().enumerate() {
        let kind = plain(kind);
        let value = match words.get(nth) {
            Some(word) => value_of(&kind, word).ok_or_else(|| format!("`{name}` is no {kind}: {word}"))?,
            None if inside("Option", &kind).is_some() => Value::Null,
            None => return Err(format!("`{name}` is missing in {}", usage(method))),
        };
        object.insert((*name).to_owned(), value);
    }
    Ok(Value::Object(object))
}

/// A method as a call of it is written: `put <key> <value> [ttl]`.
pub fn usage(method: &Method) -> String {
    let words = method.arguments.iter().map(|Argument { name, kind }| match inside("Option", &plain(kind)) {
        Some(_) => format!(" [{name}]"),
        None => format!(" <{name}>"),
    });
    method.name.to_owned() + &words.collect::<String>()
}

/// Bytes that are text, which JSON carries as lists of numbers, become text. For people: a list of small numbers looks
/// the same.
pub fn with_texts(value: Value) -> Value {
    match value {
        Value::Array(items) => match as_text(&items) {
            Some(text) => Value::String(text),
            None => Value::Array(items.into_iter().map(with_texts).collect()),
        },
        Value::Object(fields) => {
            Value::Object(fields.into_iter().map(|(name, value)| (name, with_texts(value))).collect())
        }
        other => other,
    }
}

fn as_text(items: &[Value]) -> Option<String> {
    let bytes: Option<Vec<u8>> = items.iter().map(|item| u8::try_from(item.as_u64()?).ok()).collect();
    let text = String::from_utf8(bytes.filter(|bytes| !bytes.is_empty())?).ok()?;
    let is_readable = text.chars().all(|c| !c.is_control() || matches!(c, '\n' | '\t'));
    is_readable.then_some(text)
}

/// `None` where the word is none of these.
fn value_of(kind: &str, word: &str) -> Option<Value> {
    if let Some(of) = inside("Option", kind) {
        return if word == "null" { Some(Value::Null) } else { value_of(of, word) };
    }
    match kind.rsplit("::").next().unwrap_or(kind) {
        "str" | "String" | "char" | "Box<str>" => Some(json!(word)),
        "[u8]" | "Vec<u8>" | "Box<[u8]>" => Some(json!(word.as_bytes())),
        "Duration" => match units::duration(word) {
            Some(time) => Some(json!({ "secs": time.as_secs(), "nanos": time.subsec_nanos() })),
            None => serde_json::from_str(word).ok(),
        },
        "bool" | "u8" | "u16" | "u32" | "u64" | "u128" | "usize" | "i8" | "i16" | "i32" | "i64" | "i128" | "isize"
        | "f32" | "f64" => serde_json::from_str(word).ok(),
        _ => Some(serde_json::from_str(word).unwrap_or_else(|_| json!(word))),
    }
}

/// A type's text without references, lifetimes and spaces.
fn plain(kind: &str) -> String {
    let mut out = String::with_capacity(kind.len());
    let mut in_lifetime = false;
    for c in kind.chars() {
        in_lifetime = c == '\'' || (in_lifetime && (c.is_alphanumeric() || c == '_'));
        if !in_lifetime && !c.is_whitespace() && c != '&' {
            out.push(c);
        }
    }
    out
}

/// The type inside of `wrapper<..>`, whatever path leads to the wrapper.
fn inside<'k>(wrapper: &str, kind: &'k str) -> Option<&'k str> {
    let (path, rest) = kind.split_once('<')?;
    (path.rsplit("::").next() == Some(wrapper)).then(|| rest.strip_suffix('>')).flatten()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::program::methods::tests::{GET, PUT};

    fn object(words: &[&str]) -> Result<String, String> {
        let words: Vec<String> = words.iter().map(ToString::to_string).collect();
        to_json(&PUT, &words).map(|value| value.to_string())
    }

    #[test]
    fn words_are_read_as_their_types_say() {
        assert_eq!(
            object(&["5", "a\"b", "500ms"]).as_deref(),
            Ok(r#"{"key":"5","ttl":{"nanos":500000000,"secs":0},"value":[97,34,98]}"#)
        );
        assert_eq!(
            object(&["k", ""]).as_deref(),
            Ok(r#"{"key":"k","ttl":null,"value":[]}"#),
            "the last one is optional"
        );
        let shapes = [
            ("u64", "7", json!(7)),
            ("Option < u64 >", "null", Value::Null),
            ("std::option::Option<i8>", "-7", json!(-7)),
            ("& 'a str", "7", json!("7")),
            ("Mode", "Fast", json!("Fast")),
            ("BTreeMap<String, u8>", r#"{"a":1}"#, json!({ "a": 1 })),
            ("Vec<u64>", "[1,2]", json!([1, 2])),
            ("std::time::Duration", r#"{"secs":1,"nanos":0}"#, json!({ "secs": 1, "nanos": 0 })),
        ];
        for (kind, word, value) in shapes {
            assert_eq!(value_of(&plain(kind), word), Some(value), "{kind}");
        }
    }

    #[test]
    fn an_object_is_taken_as_it_is_unless_it_is_a_value() {
        assert_eq!(
            object(&[r#"{"key":"a"}"#]).as_deref(),
            Ok(r#"{"key":"a"}"#),
            "what is missing the method itself says"
        );
        let value = to_json(&GET, &[r#"{"colour":1}"#.to_owned()]).map(|value| value.to_string());
        assert_eq!(value.as_deref(), Ok(r#"{"key":"{\"colour\":1}"}"#));
    }

    #[test]
    fn what_does_not_fit_is_said() {
        assert_eq!(object(&["k"]), Err("`value` is missing in put <key> <value> [ttl]".into()));
        assert_eq!(object(&["a", "b", "1s", "d"]), Err("4 arguments are given to put <key> <value> [ttl]".into()));
        assert_eq!(object(&["a", "b", "soon"]), Err("`ttl` is no Option<Duration>: soon".into()));
    }

    #[test]
    fn bytes_that_are_text_can_be_shown_as_text() {
        let value = json!({ "a": [104, 105], "b": [1, 2], "c": [[104, 105], []], "d": [255, 104], "e": [300] });
        let shown = json!({ "a": "hi", "b": [1, 2], "c": ["hi", []], "d": [255, 104], "e": [300] });
        assert_eq!(with_texts(value), shown);
    }
}

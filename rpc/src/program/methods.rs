//! `methods`: what a service offers, as its author wrote it.

use crate::program::error::Error;
use crate::program::say;
use crate::service::{Argument, Mark, Method, Service};
use clap::Args;
use serde_json::{Value, json};

/// `methods`
#[derive(Debug, Args)]
pub struct Methods {
    /// One JSON object per method
    #[arg(long)]
    pub json: bool,
}

/// Prints the methods that clients may call.
///
/// # Errors
/// Those of writing to standard output.
pub fn run<S: Service>(methods: &Methods) -> Result<(), Error> {
    let callable = S::methods().iter().filter(|method| is_callable(method.mark));
    let mut text: String = match methods.json {
        true => callable.map(|method| format!("{}\n", as_json(method))).collect(),
        false => callable.map(lines).collect(),
    };
    if S::methods().is_empty() && !methods.json {
        text = format!("{} has no typed methods: it takes and gives bytes\n", S::NAME);
    }
    say(&text)
}

/// The method called `name`, of several revisions the newest; timers and effects are no client's to call.
///
/// # Errors
/// E0215 with the name that was perhaps meant.
pub fn find<S: Service>(name: &str) -> Result<&'static Method, Error> {
    let callable = || S::methods().iter().filter(|method| is_callable(method.mark));
    if let Some(method) = callable().filter(|method| method.name == name).max_by_key(|method| method.rev) {
        return Ok(method);
    }
    let near = callable().map(|method| (strsim::damerau_levenshtein(name, method.name), method.name)).min();
    let help = match near {
        Some((distance, near)) if distance <= 1 + near.len() / 4 => format!("did you mean `{near}`?"),
        Some(_) => format!("the methods are {}", callable().map(|method| method.name).collect::<Vec<_>>().join(", ")),
        None => "it takes and gives bytes: use a client of its own".to_owned(),
    };
    Err(Error::Usage { problem: format!("{} has no method `{name}`", S::NAME), help })
}

fn is_callable(mark: Mark) -> bool {
    !matches!(mark, Mark::Timer | Mark::Effect)
}

fn mark_name(mark: Mark) -> &'static str {
    match mark {
        Mark::Replicated => "replicated",
        Mark::Read => "read",
        Mark::Local => "local",
        Mark::Timer => "timer",
        Mark::Effect => "effect",
        Mark::Raw => "raw",
    }
}

fn lines(method: &Method) -> String {
    let arguments = method.arguments.iter().map(|Argument { name, kind }| format!("{name}: {kind}"));
    let arguments = arguments.collect::<Vec<_>>().join(", ");
    let returns = if method.returns.is_empty() { String::new() } else { format!(" -> {}", method.returns) };
    let mut out = format!("#[{}] {}({arguments}){returns}\n", mark_name(method.mark), method.name);
    for line in method.doc.trim().lines() {
        out += &format!("    {}\n", line.trim());
    }
    out
}

fn as_json(method: &Method) -> Value {
    let arguments: Vec<Value> =
        method.arguments.iter().map(|Argument { name, kind }| json!({ "name": name, "type": kind })).collect();
    json!({
        "name": method.name,
        "rev": method.rev,
        "key": format!("{:08x}", method.key),
        "mark": mark_name(method.mark),
        "arguments": arguments,
        "returns": method.returns,
        "doc": method.doc.trim(),
    })
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;
    use crate::service::{Answer, Cx, ReadCx};
    use crate::state::{Reader, State, StateError, Writer};

    const fn method(name: &'static str, mark: Mark, arguments: &'static [Argument]) -> Method {
        Method {
            key: 7,
            name,
            rev: 1,
            mark,
            doc: " Says what it does,\n in two lines.",
            arguments,
            returns: "Option<Vec<u8>>",
            encode_json: |text| Ok(text.as_bytes().to_vec()),
            decode_json: |_, bytes| String::from_utf8(bytes.to_vec()).map_err(|error| error.to_string()),
        }
    }

    pub(crate) const PUT: Method = method(
        "put",
        Mark::Replicated,
        &[
            Argument { name: "key", kind: "&str" },
            Argument { name: "value", kind: "&[u8]" },
            Argument { name: "ttl", kind: "Option<Duration>" },
        ],
    );
    pub(crate) const GET: Method = method("get", Mark::Read, &[Argument { name: "key", kind: "&str" }]);
    const EXPIRE: Method = method("expire", Mark::Timer, &[Argument { name: "key", kind: "&str" }]);

    /// A service whose methods are the above and do nothing.
    #[derive(Default)]
    pub(crate) struct Idle;

    impl State for Idle {
        async fn save(&self, _: &mut Writer) {}
        async fn load(_: u32, _: &mut Reader<'_>) -> Result<Self, StateError> {
            Ok(Idle)
        }
    }

    impl Service for Idle {
        const NAME: &'static str = "idle";
        fn methods() -> &'static [Method] {
            &[PUT, GET, EXPIRE]
        }
        async fn apply(&mut self, _: &mut Cx, _: &[u8], _: &mut Vec<u8>) -> Answer {
            Answer::Ok
        }
        fn query(&self, _: &ReadCx, _: &[u8], _: &mut Vec<u8>) -> Answer {
            Answer::Ok
        }
    }

    #[test]
    fn a_method_is_shown_as_it_was_written() {
        let expected = "\
#[replicated] put(key: &str, value: &[u8], ttl: Option<Duration>) -> Option<Vec<u8>>
    Says what it does,
    in two lines.
";
        assert_eq!(lines(&PUT), expected);
        assert_eq!(as_json(&GET)["arguments"][0]["type"], "&str");
        assert_eq!(as_json(&GET)["key"], "00000007");
    }

    #[test]
    fn methods_are_found_or_guessed() {
        let complaint = |name| find::<Idle>(name).map_err(|error| (error.to_string(), error.help("idle"))).err();
        assert_eq!(find::<Idle>("get").map(|method| method.mark).ok(), Some(Mark::Read));
        let (problem, help) = complaint("putt").expect("there is none");
        assert_eq!((problem.as_str(), help.as_str()), ("idle has no method `putt`", "did you mean `put`?"));
        assert_eq!(complaint("expire").map(|(_, help)| help).as_deref(), Some("the methods are put, get"));
    }
}

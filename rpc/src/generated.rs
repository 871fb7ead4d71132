//! What the code that `#[service]` generates calls: the same few steps for every method, so that they are compiled once and
//! not once for each method. Not for use by hand, and changed together with the macros.

use crate::codec;
use crate::r2p2::Refusal;
use crate::service::Answer;
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize, Serializer};
use serde_json::{Map, Value};
use std::future::Future;
use std::pin::pin;
use std::task::{Context, Poll, Waker};
use tracing::error;

/// What arguments and replies are. Generated code asks for it once, at the type as the user wrote it; all that follows from
/// it would otherwise be said again at every use.
#[diagnostic::on_unimplemented(
    message = "`{Self}` cannot be sent in a call",
    label = "not known to serde",
    note = "write `#[data]` above the types of yours that it is made of"
)]
pub trait Data: Serialize + DeserializeOwned {}

#[diagnostic::do_not_recommend]
impl<T: Serialize + DeserializeOwned> Data for T {}

/// The answer to a method key that the service does not have.
pub const UNKNOWN_METHOD: Answer = Answer::Refused(Refusal::UnknownMethod);

/// A method's arguments, a tuple of them.
///
/// # Errors
/// The answer to bytes that are something else.
pub fn arguments<'a, T: Deserialize<'a>>(request: &'a [u8]) -> Result<T, Answer> {
    codec::decode(request).map_err(|_| Answer::Refused(Refusal::BadArguments))
}

/// Writes what a method without errors has returned.
pub fn value<T: Serialize>(value: &T, reply: &mut Vec<u8>) -> Answer {
    write(value, reply, Answer::Ok)
}

/// Writes what a method has returned.
pub fn result<T: Serialize, E: Serialize>(result: &Result<T, E>, reply: &mut Vec<u8>) -> Answer {
    match result {
        Ok(value) => write(value, reply, Answer::Ok),
        Err(no) => write(no, reply, Answer::App),
    }
}

fn write<T: Serialize>(value: &T, reply: &mut Vec<u8>, answer: Answer) -> Answer {
    match codec::encode_to(value, reply) {
        Ok(()) => answer,
        Err(error) => {
            // A flattened map, say. The method has run, so this is no refusal: the caller finds no reply that it can read.
            error!(%error, "a reply of type {} cannot be sent", std::any::type_name::<T>());
            reply.clear();
            answer
        }
    }
}

/// What a method that cannot wait returns.
///
/// # Panics
/// When it waits after all: the caller sees that the service failed.
pub fn in_one_go<F: Future>(method: F) -> F::Output {
    match pin!(method).poll(&mut Context::from_waker(Waker::noop())) {
        Poll::Ready(output) => output,
        Poll::Pending => panic!("a #[read] method waited; it runs in one go"),
    }
}

/// The encoded arguments of a call, a timer or an effect. Those of a type without a form, which only a hand-written
/// `Serialize` can be, become bytes that no server takes for arguments.
pub fn request<T: Serialize>(arguments: &T) -> Vec<u8> {
    codec::encode(arguments).unwrap_or_else(|error| {
        error!(%error, "arguments {} cannot be sent", std::any::type_name::<T>());
        // No value begins with a number of eleven bytes.
        vec![0xff; 11]
    })
}

/// Where a call goes in a cluster of several shards.
pub use crate::shards::shard_key;

/// Bytes that are copied whole, where serde would hand over one by one. The form is the same.
#[derive(Debug)]
pub struct Bytes<'a>(pub &'a [u8]);

impl Serialize for Bytes<'_> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_bytes(self.0)
    }
}

/// A method's arguments as a JSON object, taken out one by one.
#[derive(Debug)]
pub struct JsonArguments {
    values: Map<String, Value>,
}

impl JsonArguments {
    /// Reads an object whose names are among `names`; for a method without arguments no text will do too.
    ///
    /// # Errors
    /// What is wrong, for people.
    pub fn parse(text: &str, names: &[&str]) -> Result<Self, String> {
        let values = if text.trim().is_empty() {
            Map::new()
        } else {
            serde_json::from_str(text).map_err(|error| format!("the arguments are not a JSON object: {error}"))?
        };
        match values.keys().find(|name| !names.contains(&name.as_str())) {
            Some(unknown) if names.is_empty() => {
                Err(format!("there is no argument `{unknown}`: the method takes none"))
            }
            Some(unknown) => {
                Err(format!("there is no argument `{unknown}`: the method takes `{}`", names.join("`, `")))
            }
            None => Ok(JsonArguments { values }),
        }
    }

    /// One argument; one that is not there counts as `null`.
    ///
    /// # Errors
    /// What is wrong, for people.
    pub fn take<T: DeserializeOwned>(&mut self, name: &str) -> Result<T, String> {
        let value = self.values.remove(name);
        let is_there = value.is_some();
        serde_json::from_value(value.unwrap_or_default()).map_err(|error| {
            if is_there { format!("argument `{name}`: {error}") } else { format!("argument `{name}` is missing") }
        })
    }

    /// An argument of bytes: an array of numbers, or text, which stands for its UTF-8.
    ///
    /// # Errors
    /// As [`JsonArguments::take`].
    pub fn take_bytes(&mut self, name: &str) -> Result<Vec<u8>, String> {
        if let Some(Value::String(text)) = self.values.get_mut(name) {
            return Ok(std::mem::take(text).into_bytes());
        }
        self.take(name)
    }
}

/// Encodes arguments that came as JSON.
///
/// # Errors
/// What is wrong, for people.
pub fn encode<T: Serialize>(arguments: &T) -> Result<Vec<u8>, String> {
    codec::encode(arguments).map_err(|error| error.to_string())
}

/// The reply of a method without errors, as JSON.
///
/// # Errors
/// A refusal, or a reply that is something else.
pub fn value_json<T: Serialize + DeserializeOwned>(answer: Answer, reply: &[u8]) -> Result<String, String> {
    match answer {
        Answer::Ok => json::<T>(reply),
        Answer::App => Err("the method has no errors, and answered with one".to_owned()),
        Answer::Refused(refusal) => Err(format!("refused: {refusal:?}")),
    }
}

/// The reply of a method, as JSON: its value or its error.
///
/// # Errors
/// As [`value_json`].
pub fn result_json<T, E>(answer: Answer, reply: &[u8]) -> Result<String, String>
where
    T: Serialize + DeserializeOwned,
    E: Serialize + DeserializeOwned,
{
    match answer {
        Answer::App => json::<E>(reply),
        Answer::Ok | Answer::Refused(_) => value_json::<T>(answer, reply),
    }
}

fn json<T: Serialize + DeserializeOwned>(bytes: &[u8]) -> Result<String, String> {
    let value: T = codec::decode(bytes).map_err(|error| format!("the reply {error}"))?;
    serde_json::to_string(&value).map_err(|error| error.to_string())
}

//! Tables and values with their places: unknown keys, wrong types and values out of range are found here.

use super::SHARD_PORTS;
use super::place::{Document, Place};
use super::units;
use crate::program::error::Error;
use std::net::SocketAddrV4;
use std::ops::Range;
use std::time::Duration;
use toml::Spanned;
use toml::de::{DeTable, DeValue};

pub(super) const ROOT: &[&str] = &[
    "cluster",
    "slot",
    "durability",
    "data_dir",
    "profile",
    "heartbeat",
    "election",
    "quiet_after",
    "net",
    "dpdk",
    "disk",
    "cores",
    "member",
    "reads",
    "limits",
];
pub(super) const NET: &[&str] = &["port", "payload_bytes", "rcvbuf_bytes", "router"];
pub(super) const DPDK: &[&str] = &[
    "device",
    "links",
    "prefix_bits",
    "gateway",
    "queues",
    "core",
    "memory_mib",
    "huge_pages",
    "mbufs",
    "file_prefix",
];
pub(super) const DISK: &[&str] = &["file_bytes", "files", "snapshot_every_bytes"];
pub(super) const CORES: &[&str] = &["shards", "count", "cpus", "applier", "applier_cpus"];
pub(super) const MEMBER: &[&str] = &["slot", "client", "peer"];
pub(super) const READS: &[&str] = &["lease", "clock_drift_ppm"];
pub(super) const LIMITS: &[&str] = &[
    "log_bytes",
    "uncommitted_bytes",
    "snapshot_bytes",
    "reply_bytes",
    "request_bytes",
    "pending_messages",
    "pending_per_source",
    "pending_bytes",
    "reassembly_ms",
];
const SECTIONS: [(&str, &[&str]); 8] = [
    ("the top level", ROOT),
    ("[net]", NET),
    ("[dpdk]", DPDK),
    ("[disk]", DISK),
    ("[cores]", CORES),
    ("[[member]]", MEMBER),
    ("[reads]", READS),
    ("[limits]", LIMITS),
];

/// A table all of whose keys are known.
#[derive(Debug)]
pub(super) struct Section<'a> {
    document: &'a Document<'a>,
    name: &'static str,
    table: &'a DeTable<'a>,
    span: Range<usize>,
}

impl<'a> Section<'a> {
    pub(super) fn new(
        document: &'a Document<'a>,
        name: &'static str,
        table: &'a Spanned<DeTable<'a>>,
        known: &'static [&'static str],
    ) -> Result<Self, Error> {
        Section::of_table(document, name, table.get_ref(), table.span(), known)
    }

    pub(super) fn of_table(
        document: &'a Document<'a>,
        name: &'static str,
        table: &'a DeTable<'a>,
        span: Range<usize>,
        known: &'static [&'static str],
    ) -> Result<Self, Error> {
        // The table is sorted by name; the first unknown key of the file is the one to show.
        let unknown =
            table.keys().filter(|key| !known.contains(&key.get_ref().as_ref())).min_by_key(|key| key.span().start);
        match unknown {
            None => Ok(Section { document, name, table, span }),
            Some(key) => Err(Error::UnknownKey {
                key: key.get_ref().to_string(),
                section: name.to_owned(),
                hint: hint(key.get_ref(), name, known),
                place: document.place(key.span()),
            }),
        }
    }

    /// The line where the table begins.
    pub(super) fn place(&self) -> Box<Place> {
        self.document.place(self.span.start..self.span.start)
    }

    pub(super) fn find(&self, key: &'static str) -> Option<Found<'a>> {
        self.table.get(key).map(|value| Found { document: self.document, key, value })
    }

    pub(super) fn required(&self, key: &'static str, example: &'static str) -> Result<Found<'a>, Error> {
        let missing = || Error::MissingKey { key, section: self.name.to_owned(), example, place: self.place() };
        self.find(key).ok_or_else(missing)
    }

    /// A count, or `default` where the key is absent.
    pub(super) fn integer_or(&self, key: &'static str, default: usize, min: u64, max: u64) -> Result<usize, Error> {
        self.find(key).map_or(Ok(default), |found| found.integer(min, max).map(|number| number as usize))
    }

    /// A number of bytes, or `default` where the key is absent.
    pub(super) fn bytes_or(&self, key: &'static str, default: usize, min: u64, max: u64) -> Result<usize, Error> {
        self.find(key).map_or(Ok(default), |found| found.bytes(min, max).map(|number| number as usize))
    }
}

/// A value that is there, of whatever type.
#[derive(Debug, Clone, Copy)]
pub(super) struct Found<'a> {
    document: &'a Document<'a>,
    key: &'static str,
    value: &'a Spanned<DeValue<'a>>,
}

impl<'a> Found<'a> {
    pub(super) fn span(&self) -> Range<usize> {
        self.value.span()
    }

    pub(super) fn place(&self) -> Box<Place> {
        self.document.place(self.value.span())
    }

    pub(super) fn bad(&self, expected: impl Into<String>) -> Error {
        let found = match self.value.get_ref() {
            DeValue::String(text) => format!("\"{text}\""),
            DeValue::Integer(number) => number.to_string(),
            DeValue::Table(_) => "a table".to_owned(),
            DeValue::Array(_) => "a list".to_owned(),
            other => format!("a {}", other.type_str()),
        };
        Error::BadValue { key: self.key.to_owned(), expected: expected.into(), found, place: self.place() }
    }

    /// A text that is not empty.
    pub(super) fn text(&self) -> Result<&'a str, Error> {
        self.value.get_ref().as_str().filter(|text| !text.is_empty()).ok_or_else(|| self.bad("a text in quotes"))
    }

    pub(super) fn choice<T: Copy>(&self, choices: &[(&str, T)]) -> Result<T, Error> {
        let text = self.value.get_ref().as_str();
        let chosen = choices.iter().find(|(name, _)| text == Some(*name));
        let names = || choices.iter().map(|(name, _)| format!("\"{name}\"")).collect::<Vec<_>>().join(" or ");
        chosen.map(|(_, value)| *value).ok_or_else(|| self.bad(names()))
    }

    pub(super) fn boolean(&self) -> Result<bool, Error> {
        self.value.get_ref().as_bool().ok_or_else(|| self.bad("true or false"))
    }

    fn number(&self) -> Option<u64> {
        let integer = self.value.get_ref().as_integer()?;
        u64::from_str_radix(integer.as_str(), integer.radix()).ok()
    }

    pub(super) fn integer(&self, min: u64, max: u64) -> Result<u64, Error> {
        let number = self.number().filter(|number| (min..=max).contains(number));
        number.ok_or_else(|| self.bad(format!("a number from {min} to {max}")))
    }

    /// A list of at most so many, each a value of its own, each once.
    pub(super) fn list<T: PartialEq>(
        &self,
        most: usize,
        read: impl Fn(&Found<'a>) -> Result<T, Error>,
    ) -> Result<Vec<T>, Error> {
        let wrong = || self.bad(format!("a list of at most {most}, all different"));
        let mut values = Vec::new();
        for value in self.value.get_ref().as_array().filter(|items| items.len() <= most).ok_or_else(wrong)?.iter() {
            let value = read(&Found { document: self.document, key: self.key, value })?;
            if values.contains(&value) {
                return Err(wrong());
            }
            values.push(value);
        }
        Ok(values)
    }

    /// A list of numbers, each once.
    pub(super) fn integers(&self, min: u64, max: u64) -> Result<Vec<usize>, Error> {
        let wrong = || self.bad(format!("a list of different numbers from {min} to {max}"));
        let items = self.value.get_ref().as_array().ok_or_else(wrong)?;
        let mut numbers = Vec::new();
        for value in items.iter() {
            let found = Found { document: self.document, key: self.key, value };
            let number = found.integer(min, max).map_err(|_| wrong())? as usize;
            if numbers.contains(&number) {
                return Err(wrong());
            }
            numbers.push(number);
        }
        Ok(numbers)
    }

    pub(super) fn bytes(&self, min: u64, max: u64) -> Result<u64, Error> {
        let written = self.value.get_ref().as_str().and_then(units::bytes).or_else(|| self.number());
        written
            .filter(|bytes| (min..=max).contains(bytes))
            .ok_or_else(|| self.bad(format!("a size such as \"64MiB\", from {min} to {max} bytes")))
    }

    pub(super) fn duration(&self) -> Result<Duration, Error> {
        let written = self.value.get_ref().as_str().and_then(units::duration);
        let allowed = Duration::from_micros(100)..=Duration::from_secs(60);
        written
            .filter(|time| allowed.contains(time))
            .ok_or_else(|| self.bad("a time such as \"20ms\", from 100us to 60s"))
    }

    /// As [`Found::duration`]; zero stands for "never".
    pub(super) fn duration_or_never(&self) -> Result<Duration, Error> {
        match self.value.get_ref().as_str() {
            Some("never") => Ok(Duration::ZERO),
            _ => self.duration().map_err(|_| self.bad("\"never\", or a time such as \"10s\", from 100us to 60s")),
        }
    }

    /// Two durations, the first below the second.
    pub(super) fn duration_range(&self) -> Result<(Duration, Duration), Error> {
        let wrong = || self.bad("a pair such as [\"100ms\", \"200ms\"], the shorter first");
        let [min, max] = self.value.get_ref().as_array().ok_or_else(wrong)?.get(..).unwrap_or(&[]) else {
            return Err(wrong());
        };
        let end = |value| Found { document: self.document, key: self.key, value }.duration();
        let (min, max) = (end(min)?, end(max)?);
        if min < max { Ok((min, max)) } else { Err(wrong()) }
    }

    /// An IPv4 address with a port that leaves room for every shard's.
    pub(super) fn address(&self) -> Result<SocketAddrV4, Error> {
        let highest = u16::MAX - SHARD_PORTS + 1;
        let address = self.value.get_ref().as_str().and_then(|text| text.parse::<SocketAddrV4>().ok());
        let usable = |address: &SocketAddrV4| {
            let ip = address.ip();
            (1..=highest).contains(&address.port()) && !ip.is_unspecified() && !ip.is_broadcast() && !ip.is_multicast()
        };
        address.filter(usable).ok_or_else(|| {
            self.bad(format!("one host's IPv4 address and a port from 1 to {highest}, such as \"10.0.0.1:8000\""))
        })
    }

    pub(super) fn table(&self) -> Result<&'a DeTable<'a>, Error> {
        self.value.get_ref().as_table().ok_or_else(|| self.bad(format!("a section: [{}]", self.key)))
    }

    /// A list of one to nine tables.
    pub(super) fn tables(&self) -> Result<Vec<(&'a DeTable<'a>, Range<usize>)>, Error> {
        let wrong = || self.bad(format!("one to nine sections: [[{}]]", self.key));
        let items = self.value.get_ref().as_array().ok_or_else(wrong)?;
        let tables: Option<Vec<_>> =
            items.iter().map(|item| item.get_ref().as_table().map(|table| (table, item.span()))).collect();
        tables.filter(|tables| (1..=9).contains(&tables.len())).ok_or_else(wrong)
    }
}

/// Where an unknown key should have gone: a similar name here, the same name elsewhere, or the list of names.
fn hint(key: &str, section: &str, known: &[&str]) -> String {
    if let Some((home, _)) = SECTIONS.iter().find(|(name, keys)| *name != section && keys.contains(&key)) {
        return format!("`{key}` belongs in {home}");
    }
    let near = known.iter().map(|name| (strsim::damerau_levenshtein(key, name), name)).min();
    match near {
        Some((distance, name)) if distance <= 1 + name.len() / 4 => format!("did you mean `{name}`?"),
        _ => format!("the keys of {section} are {}", known.join(", ")),
    }
}

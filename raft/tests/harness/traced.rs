//! Reads a trace back, as a model outside would: checks that causes come before effects, and what Raft promises, from the
//! lines alone.

#![allow(dead_code, reason = "each test binary uses a part")]

use std::cell::RefCell;
use std::collections::BTreeMap;
use std::rc::Rc;

use serde_json::Value;

/// What a trace was about.
#[derive(Debug, Default, Clone, PartialEq, Eq)]
pub(crate) struct Summary {
    pub(crate) lines: usize,
    pub(crate) received: usize,
    pub(crate) leaders: usize,
    pub(crate) committed: u64,
    pub(crate) recovered: usize,
}

/// Runs `history` with every event recorded.
pub(crate) fn record(history: impl FnOnce()) -> Vec<String> {
    let lines = Rc::new(RefCell::new(Vec::new()));
    let sink = lines.clone();
    trimaran_raft::trace::record(Some(Box::new(move |line| sink.borrow_mut().push(line.to_owned()))));
    history();
    trimaran_raft::trace::record(None);
    Rc::try_unwrap(lines).expect("the sink is gone").into_inner()
}

#[derive(Default)]
struct Checker {
    summary: Summary,
    /// The newest line of each node.
    nodes: BTreeMap<String, Value>,
    sent: BTreeMap<(String, String, String, u64), Vec<Value>>,
    leaders: BTreeMap<u64, String>,
    /// Where each term begins in any log, and the term before.
    begins: BTreeMap<u64, (u64, u64)>,
    committed: BTreeMap<u64, u64>,
    /// What each leader of a term was told that others have, and who voted for it.
    acked: BTreeMap<(String, u64), BTreeMap<String, u64>>,
    votes: BTreeMap<(String, u64), Vec<String>>,
}

/// Checks a whole trace; the error says which line contradicts what.
pub(crate) fn check(lines: &[String]) -> Result<Summary, String> {
    let mut checker = Checker::default();
    for (at, text) in lines.iter().enumerate() {
        let line: Value = serde_json::from_str(text).map_err(|error| format!("line {at} is no JSON: {error}"))?;
        checker.line(at, &line).map_err(|what| format!("{what}, at line {at}: {text}"))?;
    }
    checker.summary.lines = lines.len();
    checker.summary.leaders = checker.leaders.len();
    checker.summary.committed = checker.committed.keys().next_back().copied().unwrap_or(0);
    Ok(checker.summary)
}

fn number(value: &Value, key: &str) -> u64 {
    value[key].as_u64().unwrap_or_else(|| panic!("{key} is no number in {value}"))
}

fn text(value: &Value, key: &str) -> String {
    value[key].as_str().unwrap_or_else(|| panic!("{key} is no text in {value}")).to_owned()
}

fn ensure(holds: bool, what: &str) -> Result<(), String> {
    if holds { Ok(()) } else { Err(what.to_owned()) }
}

fn runs(value: &Value) -> Vec<(u64, u64)> {
    let pair = |run: &Value| (run[0].as_u64().expect("an index"), run[1].as_u64().expect("a term"));
    value["terms"].as_array().expect("runs").iter().map(pair).collect()
}

/// The term at an index of the log in a line.
fn term_at(line: &Value, index: u64) -> Option<u64> {
    if index + 1 == number(line, "first") {
        return Some(number(line, "base_term"));
    }
    if index > number(line, "last") {
        return None;
    }
    runs(line).iter().rev().find(|run| run.0 <= index).map(|run| run.1)
}

fn has_quorum(line: &Value, has: impl Fn(&str) -> bool) -> bool {
    let half = |list: &str| {
        let voters = line["config"][list].as_array().expect("a list");
        let count = voters.iter().filter(|voter| voter.as_str().is_some_and(&has)).count();
        voters.is_empty() || count > voters.len() / 2
    };
    half("voters") && half("old_voters")
}

impl Checker {
    fn line(&mut self, at: usize, line: &Value) -> Result<(), String> {
        ensure(number(line, "seq") == at as u64, "a line is missing")?;
        let (node, event) = (text(line, "node"), text(line, "event"));
        match event.as_str() {
            "send" => self.send(&node, line)?,
            "receive" => self.receive(&node, line)?,
            _ => {}
        }
        let before = self.nodes.get(&node).filter(|_| event != "start").cloned();
        match before {
            Some(before) if event == "recover" => self.recovered(&before, line)?,
            Some(before) => self.moved_on(&before, line)?,
            None => {}
        }
        self.log_matches(line)?;
        self.commits(&node, line)?;
        self.leads(&node, line)?;
        // What is durable survives a start, for the check of what is recovered.
        let durable = self.nodes.get(&node).map(|old| (old["durable_term"].clone(), old["durable_vote"].clone()));
        let mut kept = line.clone();
        if let Some((term, vote)) = durable.filter(|_| event == "start") {
            kept["survived_term"] = term;
            kept["survived_vote"] = vote;
        }
        self.nodes.insert(node, kept);
        Ok(())
    }

    fn send(&mut self, node: &str, line: &Value) -> Result<(), String> {
        let message = &line["message"];
        let (to, kind, term) = (text(line, "to"), text(message, "type"), number(message, "term"));
        if kind == "vote_reply" && message["granted"] == true {
            let durable =
                number(line, "durable_term") == number(message, "campaign") && line["durable_vote"] == line["to"];
            ensure(durable, "a vote is given that is not durable")?;
        }
        if kind == "ack" {
            ensure(number(message, "matched") <= number(line, "durable"), "what is not durable is acknowledged")?;
        }
        self.sent.entry((node.to_owned(), to, kind, term)).or_default().push(message.clone());
        Ok(())
    }

    fn receive(&mut self, node: &str, line: &Value) -> Result<(), String> {
        self.summary.received += 1;
        let message = &line["message"];
        let (from, kind, term) = (text(line, "from"), text(message, "type"), number(message, "term"));
        let sent_as = if kind == "fragment" { "append".to_owned() } else { kind.clone() };
        let sent = self.sent.get(&(from.clone(), text(message, "to"), sent_as, term));
        let same = |sent: &Value| match kind.as_str() {
            // It may have been cut into several.
            "append" | "fragment" => {
                let within =
                    number(sent, "prev") <= number(message, "prev") && number(message, "last") <= number(sent, "last");
                within && sent["round"] == message["round"] && sent["commit"] == message["commit"]
            }
            _ => sent.as_object().expect("fields").iter().all(|(key, value)| message[key] == *value),
        };
        ensure(sent.is_some_and(|sent| sent.iter().rev().any(same)), "received before it was sent")?;
        if line.get("dropped").is_some() {
            return Ok(());
        }
        if kind == "ack" {
            let known = self.acked.entry((node.to_owned(), term)).or_default().entry(from).or_default();
            *known = (*known).max(number(message, "matched"));
        } else if kind == "vote_reply" && message["granted"] == true {
            self.votes.entry((node.to_owned(), number(message, "campaign"))).or_default().push(from);
        }
        Ok(())
    }

    fn recovered(&mut self, started: &Value, line: &Value) -> Result<(), String> {
        self.summary.recovered += 1;
        let same = started["survived_term"] == line["term"] && started["survived_vote"] == line["vote"];
        ensure(same || started.get("survived_term").is_none(), "term and vote were forgotten")
    }

    fn moved_on(&self, before: &Value, line: &Value) -> Result<(), String> {
        for key in ["term", "commit", "applied", "durable_term", "at"] {
            ensure(number(before, key) <= number(line, key), &format!("{key} went back"))?;
        }
        let same_term = before["term"] == line["term"];
        ensure(!same_term || before["vote"].is_null() || before["vote"] == line["vote"], "two votes in one term")?;
        ensure(number(line, "applied") <= number(line, "commit"), "applied beyond what is committed")?;
        ensure(number(line, "commit") <= number(line, "last"), "committed beyond the log")?;
        if same_term && before["role"] == "leader" && line["role"] == "leader" {
            let kept = (number(line, "first")..=number(before, "last")).all(|at| {
                let known = (at >= number(before, "first")).then(|| term_at(before, at)).flatten();
                known.is_none_or(|known| term_at(line, at) == Some(known))
            });
            ensure(kept && number(line, "last") >= number(before, "last"), "a leader took entries back")?;
        }
        Ok(())
    }

    /// A term has one leader, which appends in sequence: so its entries begin at the same place in every log, after the same
    /// term. Where that holds for all terms, logs that agree at an index agree before it.
    fn log_matches(&mut self, line: &Value) -> Result<(), String> {
        let mut prior = number(line, "base_term");
        for (index, term) in runs(line) {
            if term != prior {
                let begins = *self.begins.entry(term).or_insert((index, prior));
                ensure(begins == (index, prior), "log matching: a term begins elsewhere")?;
            }
            ensure(term >= prior, "terms go back in a log")?;
            prior = term;
        }
        Ok(())
    }

    fn commits(&mut self, node: &str, line: &Value) -> Result<(), String> {
        let known =
            self.nodes.get(node).filter(|_| line["event"] != "start").map_or(0, |before| number(before, "commit"));
        let commit = number(line, "commit");
        for index in (known + 1..=commit).rev() {
            let Some(term) = term_at(line, index).filter(|_| index + 1 >= number(line, "first")) else { break };
            let first = *self.committed.entry(index).or_insert(term);
            ensure(first == term, "state machine safety: two entries are committed at one index")?;
        }
        if commit > known && line["role"] == "leader" && line["event"] != "start" {
            let term = number(line, "term");
            ensure(term_at(line, commit) == Some(term), "an entry of an old term is committed by counting")?;
            let acked = self.acked.get(&(node.to_owned(), term));
            let has = |id: &str| {
                let matched = acked.and_then(|acked| acked.get(id)).copied().unwrap_or(0);
                matched >= commit || id == node && number(line, "durable") >= commit
            };
            ensure(has_quorum(line, has), "committed without a quorum")?;
        }
        Ok(())
    }

    fn leads(&mut self, node: &str, line: &Value) -> Result<(), String> {
        if line["role"] != "leader" {
            return Ok(());
        }
        let term = number(line, "term");
        if let Some(known) = self.leaders.get(&term) {
            return ensure(known == node, "election safety: two leaders in a term");
        }
        self.leaders.insert(term, node.to_owned());
        let votes = self.votes.get(&(node.to_owned(), term)).cloned().unwrap_or_default();
        ensure(has_quorum(line, |id| id == node || votes.iter().any(|vote| vote == id)), "elected without a quorum")?;
        for (index, entry) in self.committed.range(number(line, "first")..) {
            let held = *entry >= term || term_at(line, *index) == Some(*entry);
            ensure(held, "leader completeness: a committed entry is missing")?;
        }
        Ok(())
    }
}

//! Whether what is to be reached was reached. The goals are data: `goals.toml`.

use std::collections::BTreeMap;
use std::fmt;
use std::ops::Range;

use serde_json::{Value, json};
use toml::Spanned;
use toml::de::{DeTable, DeValue};

/// A latency says little of a load of which more calls than this failed: those are not in it.
pub(crate) const FAILED_MAX: f64 = 0.001;

/// Numbers that a run has measured, by their names.
pub(crate) type Metrics = BTreeMap<String, f64>;

/// On which side of a number a value is good.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(crate) enum Wanted {
    AtLeast(f64),
    AtMost(f64),
}

/// One thing to reach.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Goal {
    pub(crate) name: String,
    value: String,
    over: Option<String>,
    /// The share of failed calls of the load that was measured.
    failed: Option<String>,
    times: f64,
    pub(crate) wanted: Wanted,
    pub(crate) unit: String,
}

/// What became of it.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(crate) enum Verdict {
    Met(f64),
    Missed(f64),
    /// Whatever the value is: this share of the calls failed.
    Failed(f64, f64),
    NotMeasured,
}

/// The goals of this repository.
///
/// # Errors
/// What is wrong with their file.
pub(crate) fn load() -> Result<Vec<Goal>, String> {
    parse(include_str!("goals.toml"))
}

fn parse(text: &str) -> Result<Vec<Goal>, String> {
    let table = DeTable::parse(text).map_err(|error| error.to_string())?;
    let list = table.get_ref().get("goal").and_then(|goals| goals.get_ref().as_array()).ok_or("no [[goal]]")?;
    list.iter().map(|goal| read(text, goal)).collect()
}

fn read(text: &str, goal: &Spanned<DeValue<'_>>) -> Result<Goal, String> {
    let line = |span: Range<usize>| text.get(..span.start).unwrap_or("").lines().count() + 1;
    let wrong = |what: &str| format!("goals.toml, line {}: {what}", line(goal.span()));
    let table = goal.get_ref().as_table().ok_or_else(|| wrong("not a table"))?;
    let known = ["name", "value", "over", "failed", "times", "at_least", "at_most", "unit"];
    if let Some(key) = table.keys().find(|key| !known.contains(&key.get_ref().as_ref())) {
        return Err(wrong(&format!("unknown key `{}`", key.get_ref())));
    }
    let words = |key: &str| table.get(key).and_then(|value| value.get_ref().as_str()).map(str::to_owned);
    let number = |key: &str| match table.get(key).map(Spanned::get_ref) {
        Some(DeValue::Integer(number)) => number.as_str().parse::<f64>().ok(),
        Some(DeValue::Float(number)) => number.as_str().parse::<f64>().ok(),
        _ => None,
    };
    let wanted = match (number("at_least"), number("at_most")) {
        (Some(number), None) => Wanted::AtLeast(number),
        (None, Some(number)) => Wanted::AtMost(number),
        _ => return Err(wrong("either `at_least` or `at_most`, a number")),
    };
    Ok(Goal {
        name: words("name").ok_or_else(|| wrong("no `name`"))?,
        value: words("value").ok_or_else(|| wrong("no `value`"))?,
        over: words("over"),
        failed: words("failed"),
        times: number("times").unwrap_or(1.0),
        wanted,
        unit: words("unit").unwrap_or_default(),
    })
}

impl Goal {
    /// Judges what was measured.
    pub(crate) fn judge(&self, metrics: &Metrics) -> Verdict {
        let number = |name: &String| metrics.get(name).copied().filter(|number| number.is_finite());
        let value = number(&self.value);
        let over = self.over.as_ref().map_or(Some(1.0), number).filter(|over| *over != 0.0);
        let Some(value) = value.zip(over).map(|(value, over)| value / over * self.times) else {
            return Verdict::NotMeasured;
        };
        if let Some(failed) = self.failed.as_ref().and_then(number).filter(|failed| *failed > FAILED_MAX) {
            return Verdict::Failed(value, failed);
        }
        let is_met = match self.wanted {
            Wanted::AtLeast(least) => value >= least,
            Wanted::AtMost(most) => value <= most,
        };
        if is_met { Verdict::Met(value) } else { Verdict::Missed(value) }
    }

    /// What is wanted, as it is written.
    pub(crate) fn wish(&self) -> String {
        match self.wanted {
            Wanted::AtLeast(least) => format!(">= {least} {}", self.unit),
            Wanted::AtMost(most) => format!("<= {most} {}", self.unit),
        }
    }

    /// The goal with its verdict.
    pub(crate) fn json(&self, verdict: Verdict) -> Value {
        json!({ "name": self.name, "value": verdict.value(), "unit": self.unit, "goal": self.wish(), "verdict": verdict.word(), "failed_share": verdict.failed_share() })
    }
}

impl Verdict {
    pub(crate) fn value(self) -> Option<f64> {
        match self {
            Verdict::Met(value) | Verdict::Missed(value) | Verdict::Failed(value, _) => Some(value),
            Verdict::NotMeasured => None,
        }
    }

    fn failed_share(self) -> Option<f64> {
        if let Verdict::Failed(_, share) = self { Some(share) } else { None }
    }

    pub(crate) fn word(self) -> &'static str {
        match self {
            Verdict::Met(_) => "met",
            Verdict::Missed(_) | Verdict::Failed(..) => "missed",
            Verdict::NotMeasured => "not measured",
        }
    }
}

impl fmt::Display for Verdict {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Verdict::Failed(_, share) => write!(out, "missed: {} % of the calls failed", short(share * 100.0)),
            verdict => verdict.word().fmt(out),
        }
    }
}

/// One line of text a goal.
pub(crate) fn line(goal: &Goal, verdict: Verdict) -> String {
    let value = verdict.value().map_or("-".to_owned(), |value| format!("{} {}", short(value), goal.unit));
    format!("{:<90} {value:>14}   {:<12} {verdict}", goal.name, goal.wish())
}

/// A number with three digits that count.
pub(crate) fn short(value: f64) -> String {
    let size = value.abs();
    match size {
        _ if size >= 1e7 => format!("{:.1} M", value / 1e6),
        _ if size >= 1e6 => format!("{:.2} M", value / 1e6),
        _ if size >= 100.0 => group(value),
        _ if size >= 10.0 => format!("{value:.1}"),
        _ if size >= 0.01 || size == 0.0 => format!("{value:.2}"),
        _ => format!("{value:.1e}"),
    }
}

/// A whole number with its thousands apart.
fn group(value: f64) -> String {
    let digits = format!("{:.0}", value.abs());
    let mut out = String::new();
    for (at, digit) in digits.chars().enumerate() {
        if at > 0 && (digits.len() - at).is_multiple_of(3) {
            out.push(',');
        }
        out.push(digit);
    }
    if value < 0.0 { format!("-{out}") } else { out }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn goal(more: &str) -> Goal {
        parse(&format!("[[goal]]\nname = \"n\"\nvalue = \"a\"\n{more}")).unwrap().remove(0)
    }

    fn metrics(pairs: &[(&str, f64)]) -> Metrics {
        pairs.iter().map(|(name, value)| ((*name).to_owned(), *value)).collect()
    }

    #[test]
    fn the_goals_of_the_repository_can_be_read() {
        let goals = load().unwrap();
        assert!(goals.len() > 25, "{}", goals.len());
        let nothing = Metrics::new();
        assert!(goals.iter().all(|goal| goal.judge(&nothing) == Verdict::NotMeasured));
    }

    #[test]
    fn a_bound_itself_is_good_on_either_side() {
        let (least, most) = (goal("at_least = 2"), goal("at_most = 2.0"));
        for (value, least_met, most_met) in [(1.9, false, true), (2.0, true, true), (2.1, true, false)] {
            let metrics = metrics(&[("a", value)]);
            assert_eq!(matches!(least.judge(&metrics), Verdict::Met(_)), least_met, "{value}");
            assert_eq!(matches!(most.judge(&metrics), Verdict::Met(_)), most_met, "{value}");
        }
    }

    #[test]
    fn a_ratio_needs_both_numbers() {
        let share = goal("over = \"b\"\ntimes = 100\nat_least = 55\nunit = \"%\"");
        assert_eq!(share.judge(&metrics(&[("a", 3.0), ("b", 4.0)])), Verdict::Met(75.0));
        assert_eq!(share.judge(&metrics(&[("a", 1.0), ("b", 4.0)])), Verdict::Missed(25.0));
        for incomplete in [&[("a", 3.0)][..], &[("b", 4.0)], &[("a", 3.0), ("b", 0.0)], &[("a", f64::NAN), ("b", 1.0)]]
        {
            assert_eq!(share.judge(&metrics(incomplete)), Verdict::NotMeasured, "{incomplete:?}");
        }
    }

    #[test]
    fn a_latency_of_a_load_that_failed_is_no_good_one() {
        let p99 = goal("failed = \"f\"\nat_most = 2\nunit = \"x\"");
        let judged = |failed| p99.judge(&metrics(&[("a", 1.0), ("f", failed)]));
        assert_eq!((judged(0.001), judged(0.02)), (Verdict::Met(1.0), Verdict::Failed(1.0, 0.02)));
        assert_eq!(p99.judge(&metrics(&[("a", 1.0)])), Verdict::Met(1.0), "of what counts no calls");
        assert_eq!(p99.judge(&metrics(&[("f", 1.0)])), Verdict::NotMeasured);
        assert_eq!(judged(0.02).word(), "missed");
        assert!(line(&p99, judged(0.02)).ends_with("missed: 2.00 % of the calls failed"));
        assert_eq!(p99.json(judged(0.02))["failed_share"], json!(0.02));
    }

    /// A load that was not carried is quick, small and free of elections. So each goal for a latency, for memory under load or for elections
    /// says where the failed calls of that very load are counted. A failover's load fails while nobody leads, by design.
    #[test]
    fn no_goal_that_an_unanswered_load_would_meet_forgets_what_failed() {
        let forgets = |goal: &Goal| {
            let load_of = |name: &str| name.rsplit_once('.').map(|(load, _)| load.to_owned());
            let numbers = [Some(&goal.value), goal.over.as_ref()].into_iter().flatten();
            let needs_load = ["p50", "p99", ".mib", ".leadership_changes"];
            let asks = numbers.clone().any(|name| needs_load.iter().any(|part| name.contains(part)));
            let is_free = goal.value.starts_with("failover.") || goal.value == "idle.mib";
            let failed = goal.failed.as_ref().filter(|name| name.ends_with(".failed_share"));
            let is_told = failed.is_some_and(|failed| numbers.clone().any(|name| load_of(name) == load_of(failed)));
            asks && !is_free && !is_told
        };
        assert_eq!(load().unwrap().into_iter().filter(forgets).map(|goal| goal.name).collect::<Vec<_>>(), [""; 0]);
    }

    #[test]
    fn elections_are_no_fewer_because_nobody_was_answered() {
        let goal =
            load().unwrap().into_iter().find(|goal| goal.value.ends_with("own_core.leadership_changes")).unwrap();
        let judged = |failed| {
            let name = "applier.three.own_core";
            let [changes, share] = ["leadership_changes", "failed_share"].map(|key| format!("{name}.{key}"));
            goal.judge(&metrics(&[(&changes, 0.0), (&share, failed)]))
        };
        assert_eq!((judged(0.0), judged(0.3)), (Verdict::Met(0.0), Verdict::Failed(0.0, 0.3)));
    }

    #[test]
    fn a_goal_that_says_nothing_or_too_much_is_refused_with_its_line() {
        for (more, what) in [
            ("", "either `at_least` or `at_most`"),
            ("at_least = 1\nat_most = 2", "either `at_least` or `at_most`"),
            ("at_least = 1\nunti = \"x\"", "unknown key `unti`"),
        ] {
            let text = format!("\n\n[[goal]]\nname = \"n\"\nvalue = \"a\"\n{more}");
            let error = parse(&text).unwrap_err();
            assert!(error.starts_with("goals.toml, line 3: ") && error.contains(what), "{error}");
        }
    }

    #[test]
    fn a_line_says_name_value_goal_and_verdict() {
        let goal = goal("at_most = 0.55\nunit = \"ms\"");
        let words = |verdict| line(&goal, verdict).split_whitespace().collect::<Vec<_>>().join(" ");
        assert_eq!(words(Verdict::Met(0.3812)), "n 0.38 ms <= 0.55 ms met");
        assert_eq!(words(Verdict::NotMeasured), "n - <= 0.55 ms not measured");
        let shown: Vec<String> =
            [0.0, 0.00123, 1.239, 71.26, 1234.5, 338_000.0, 2_857_143.0, 23_456_789.0].map(short).to_vec();
        assert_eq!(shown, ["0.00", "1.2e-3", "1.24", "71.3", "1,234", "338,000", "2.86 M", "23.5 M"]);
    }
}

//! What a run was measured on: machine, kernel, processor, commit, and how restless the machine was.

use std::fs;
use std::process::Command;
use std::time::{Duration, Instant, SystemTime};

use serde_json::{Value, json};

use crate::workspace::Workspace;

/// Times that the calibrated loop runs.
const ROUNDS: usize = 60;
/// Steps of a run by which it is calibrated, short enough to be left alone now and then, and so many such runs.
const CALIBRATION_STEPS: u64 = 200_000;
const CALIBRATIONS: usize = 20;
/// How long one run of it takes on a quiet machine.
const ROUND: Duration = Duration::from_millis(5);

/// Everything about the machine that a reader wants to know.
pub(crate) fn describe(workspace: &Workspace) -> Value {
    let read = |path: &str| fs::read_to_string(path).unwrap_or_default();
    let field = |text: &str, name: &str| {
        let line = text.lines().find(|line| line.starts_with(name));
        line.and_then(|line| line.split_once(':')).map(|(_, value)| value.trim().to_owned()).unwrap_or_default()
    };
    let cpu = read("/proc/cpuinfo");
    let cores = std::thread::available_parallelism().map_or(0, std::num::NonZero::get);
    let load = read("/proc/loadavg").split(' ').take(3).collect::<Vec<_>>().join(" ");
    let is_guest = field(&cpu, "flags").split(' ').any(|flag| flag == "hypervisor");
    json!({
        "cpu": field(&cpu, "model name"),
        "cores": cores,
        "virtual": is_guest,
        "memory": field(&read("/proc/meminfo"), "MemTotal"),
        "kernel": read("/proc/sys/kernel/osrelease").trim(),
        "load": load,
        "commit": commit(workspace),
        "date": date(),
    })
}

fn commit(workspace: &Workspace) -> String {
    let git = |args: &[&str]| {
        let output = Command::new("git").current_dir(workspace.root()).args(args).output().ok()?;
        output.status.success().then(|| String::from_utf8_lossy(&output.stdout).trim().to_owned())
    };
    let Some(commit) = git(&["rev-parse", "--short", "HEAD"]) else { return "unknown".into() };
    let is_changed = git(&["status", "--porcelain", "--untracked-files=no"]).is_none_or(|changes| !changes.is_empty());
    if is_changed { format!("{commit}, with changes") } else { commit }
}

#[allow(clippy::disallowed_methods, reason = "a report says when it was made")]
fn date() -> String {
    let seconds = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default().as_secs();
    utc(seconds)
}

/// Seconds since 1970 as a date and a time of day.
fn utc(seconds: u64) -> String {
    // Days since 0000-03-01: years then end with the day that is not in all of them.
    let (days, time) = (seconds / 86_400 + 719_468, seconds % 86_400);
    let (era, day_of_era) = (days / 146_097, days % 146_097);
    let year_of_era = (day_of_era - day_of_era / 1460 + day_of_era / 36_524 - day_of_era / 146_096) / 365;
    let day_of_year = day_of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
    let shifted = (5 * day_of_year + 2) / 153;
    let day = day_of_year - (153 * shifted + 2) / 5 + 1;
    let month = if shifted < 10 { shifted + 3 } else { shifted - 9 };
    let year = year_of_era + era * 400 + u64::from(month <= 2);
    format!("{year:04}-{month:02}-{day:02} {:02}:{:02} UTC", time / 3600, time / 60 % 60)
}

/// How much the same work took, again and again.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(crate) struct Noise {
    /// The middle run, in milliseconds.
    pub(crate) median_ms: f64,
    /// So much longer than the shortest one took the middle one, the one that nine of ten did not pass, and the longest; 0 is quiet.
    pub(crate) median: f64,
    pub(crate) p90: f64,
    pub(crate) max: f64,
}

impl Noise {
    fn of(mut times: Vec<f64>) -> Option<Noise> {
        times.sort_by(f64::total_cmp);
        let at = |share: f64| times.get(((times.len() as f64 - 1.0) * share) as usize).copied();
        let shortest = at(0.0).filter(|shortest| *shortest > 0.0)?;
        let over = |time: f64| time / shortest - 1.0;
        let (median, p90, max) = (at(0.5)?, at(0.9)?, at(1.0)?);
        Some(Noise { median_ms: median * 1e3, median: over(median), p90: over(p90), max: over(max) })
    }

    pub(crate) fn json(self) -> Value {
        json!({ "loop_ms": self.median_ms, "median_over_shortest": self.median, "p90_over_shortest": self.p90, "max_over_shortest": self.max })
    }

    /// In words.
    pub(crate) fn text(self) -> String {
        let percent = |share: f64| format!("{:.1} %", 100.0 * share);
        format!(
            "a loop of {:.1} ms took {} longer than its shortest run in half of all runs, {} in one of ten, {} at worst",
            self.median_ms,
            percent(self.median),
            percent(self.p90),
            percent(self.max)
        )
    }
}

/// What became of the processors' time since the start of the machine, in ticks.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Ticks {
    /// Used by somebody.
    used: u64,
    /// Wanted by somebody while the host gave the processor to another machine: steal time.
    withheld: u64,
}

impl Ticks {
    /// As the kernel tells it; none where it does not.
    pub(crate) fn now() -> Option<Ticks> {
        Ticks::of(&fs::read_to_string("/proc/stat").ok()?)
    }

    fn of(stat: &str) -> Option<Ticks> {
        let line = stat.lines().find(|line| line.starts_with("cpu "))?;
        let ticks: Vec<u64> = line.split_whitespace().skip(1).filter_map(|ticks| ticks.parse().ok()).collect();
        // Guests of this machine are counted in `user` and `nice` as well.
        let [user, nice, system, _idle, _iowait, irq, softirq, withheld, ..] = ticks[..] else { return None };
        Some(Ticks { used: user + nice + system + irq + softirq, withheld })
    }

    /// Of the time that was wanted since `before`, the share that the host withheld; none where none was wanted.
    pub(crate) fn withheld_since(self, before: Ticks) -> Option<f64> {
        let (used, withheld) = (self.used.saturating_sub(before.used), self.withheld.saturating_sub(before.withheld));
        let wanted = used + withheld;
        (wanted > 0).then(|| withheld as f64 / wanted as f64)
    }
}

/// Runs a loop of arithmetic, calibrated to some milliseconds, again and again.
pub(crate) fn noise() -> Option<Noise> {
    // The shortest of several: a neighbour's turn on the processor must not count.
    let shortest = |count| (0..CALIBRATIONS).map(|_| seconds(count)).fold(f64::MAX, f64::min);
    let each = shortest(CALIBRATION_STEPS) / CALIBRATION_STEPS as f64;
    let count = (ROUND.as_secs_f64() / each.max(1e-10)) as u64;
    Noise::of((0..ROUNDS).map(|_| seconds(count)).collect())
}

#[allow(clippy::disallowed_methods, reason = "measures the machine, not a task of a core")]
fn seconds(count: u64) -> f64 {
    let start = Instant::now();
    let mut state = 1u64;
    for _ in 0..count {
        // Each step needs the one before it.
        state = std::hint::black_box(state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1));
    }
    std::hint::black_box(state);
    start.elapsed().as_secs_f64()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn dates_are_right_around_leap_days() {
        assert_eq!(utc(0), "1970-01-01 00:00 UTC");
        assert_eq!(utc(951_782_400), "2000-02-29 00:00 UTC");
        assert_eq!(utc(1_709_251_199), "2024-02-29 23:59 UTC");
        assert_eq!(utc(1_709_251_200), "2024-03-01 00:00 UTC");
        assert_eq!(utc(1_795_926_540), "2026-11-29 04:29 UTC");
    }

    #[test]
    fn what_the_host_withholds_is_a_share_of_what_was_wanted() {
        let ticks = |text: &str| Ticks::of(text).unwrap();
        let before = ticks("cpu  100 10 20 5000 70 1 2 30 9 9\ncpu0 1 1 1 1 1 1 1 1 1 1\n");
        let after = ticks("cpu  150 20 30 9000 90 3 5 55 9 9\n");
        assert_eq!(after.withheld_since(before), Some(0.25), "25 ticks beside 75");
        assert_eq!(before.withheld_since(before), None);
        assert_eq!((Ticks::of("cpu  1 2 3 4 5 6 7\n"), Ticks::of("intr 5\n")), (None, None));
    }

    #[test]
    fn noise_is_told_over_the_shortest_run() {
        let times = (0..=100).map(|n| 0.010 + f64::from(n) * 0.0001).collect();
        let noise = Noise::of(times).unwrap();
        let near = |a: f64, b: f64| (a - b).abs() < 1e-9;
        assert!(near(noise.median, 0.5) && near(noise.p90, 0.9) && near(noise.max, 1.0) && near(noise.median_ms, 15.0));
        assert_eq!(Noise::of(Vec::new()), None);
        assert!(noise.text().contains("50.0 % longer"), "{}", noise.text());
    }
}

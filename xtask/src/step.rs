//! Runs one step: prints its line, keeps its output in a file, ends it at its limit.

use std::fs::{self, File};
use std::io::{self, Write};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitCode, ExitStatus, Stdio};
use std::time::{Duration, Instant};

use rustix::process::{Pid, Signal, kill_process};

/// A step that takes longer than this has hung, also on a slow machine that starts from nothing.
const STEP_LIMIT: Duration = Duration::from_secs(30 * 60);

/// The steps of one run, counted and timed.
pub(crate) struct Steps {
    log_dir: PathBuf,
    started: Instant,
    done: usize,
    total: usize,
}

/// Why a step did not pass.
pub(crate) struct Failed {
    step: String,
    reason: String,
    log: PathBuf,
}

impl Steps {
    #[allow(clippy::disallowed_methods, reason = "times a build, not a task of a core")]
    pub(crate) fn new(log_dir: PathBuf, total: usize) -> Self {
        Self { log_dir, started: Instant::now(), done: 0, total }
    }

    /// Runs `commands` one after another as one step; returns all that they printed.
    ///
    /// Their output goes to `<log_dir>/<name>.log`, readable while they run.
    pub(crate) fn run(&mut self, name: &str, commands: Vec<Command>) -> Result<String, Failed> {
        self.execute(name, commands, "FAILED")
    }

    /// Like `run`, for something that the run can do without: says so in its line when it fails.
    pub(crate) fn attempt(&mut self, name: &str, commands: Vec<Command>) -> bool {
        self.execute(name, commands, "not possible here, going on after").is_ok()
    }

    #[allow(clippy::disallowed_methods, reason = "times a build, not a task of a core")]
    fn execute(&mut self, name: &str, commands: Vec<Command>, failed: &str) -> Result<String, Failed> {
        self.announce(name);
        let started = Instant::now();
        let log = self.log_dir.join(format!("{}.log", name.replace(' ', "-")));
        let mut outcome = File::create(&log).map(|_| Ok(()));
        for command in commands {
            if matches!(outcome, Ok(Ok(()))) {
                outcome = run_into(&log, command, started + STEP_LIMIT);
            }
        }
        let failure = match outcome {
            Ok(Ok(())) => {
                println!("ok {:>7.1} s", started.elapsed().as_secs_f64());
                return Ok(read(&log));
            }
            Ok(Err(reason)) => reason,
            Err(error) => format!("could not run: {error}"),
        };
        println!("{failed} {:.1} s", started.elapsed().as_secs_f64());
        Err(Failed { step: name.to_owned(), reason: failure, log })
    }

    /// Where the logs are.
    pub(crate) fn log_dir(&self) -> &Path {
        &self.log_dir
    }

    /// Prints the line of a step that has nothing to do here, and why.
    pub(crate) fn skip(&mut self, name: &str, why: &str) {
        self.announce(name);
        println!("skipped: {why}");
    }

    /// Prints the line of the whole run.
    pub(crate) fn finish(&self) {
        println!("all {} steps passed in {:.0} s", self.done, self.started.elapsed().as_secs_f64());
    }

    fn announce(&mut self, name: &str) {
        self.done += 1;
        print!("[{}/{}] {name:<18} ", self.done, self.total);
        let _ = io::stdout().flush();
    }
}

impl Failed {
    /// Prints what the step printed, then what went wrong in one line; returns the output for its closing lines.
    pub(crate) fn explain(&self) -> String {
        let output = read(&self.log);
        println!("\n{output}");
        println!("step '{}' failed: {} (all of its output: {})", self.step, self.reason, self.log.display());
        output
    }
}

/// Runs a command on our own terminal and hands its exit code on.
pub(crate) fn pass_through(command: &mut Command) -> ExitCode {
    match command.status() {
        Ok(status) => ExitCode::from(status.code().and_then(|code| u8::try_from(code).ok()).unwrap_or(1)),
        Err(error) => {
            eprintln!("xtask: cannot run {}: {error}", command.get_program().display());
            ExitCode::from(3)
        }
    }
}

/// Outer error: the command could not be started; inner: it failed.
fn run_into(log: &Path, mut command: Command, deadline: Instant) -> io::Result<Result<(), String>> {
    let mut out = File::options().append(true).open(log)?;
    writeln!(out, "$ {}", shown(&command))?;
    command.stdin(Stdio::null()).stdout(out.try_clone()?).stderr(out);
    // The closing lines of the runner are looked for by their text.
    command.env("CARGO_TERM_COLOR", "never");
    let status = wait(command.spawn()?, deadline)?;
    Ok(match status {
        Some(status) if status.success() => Ok(()),
        Some(status) => Err(format!("`{}` ended with {status}", shown(&command))),
        None => Err(format!("`{}` still ran after {} s and was killed", shown(&command), STEP_LIMIT.as_secs())),
    })
}

/// `None` when the deadline came first; then the child and all that it started are gone.
pub(crate) fn wait(child: Child, deadline: Instant) -> io::Result<Option<ExitStatus>> {
    wait_ticking(child, deadline, &|| ())
}

/// As [`wait`]; calls `tick` again and again meanwhile.
#[allow(clippy::disallowed_methods, reason = "waits for a compiler, not inside a core")]
pub(crate) fn wait_ticking(mut child: Child, deadline: Instant, tick: &dyn Fn()) -> io::Result<Option<ExitStatus>> {
    loop {
        tick();
        if let Some(status) = child.try_wait()? {
            return Ok(Some(status));
        }
        if Instant::now() >= deadline {
            for pid in descendants(child.id()) {
                let _ = kill_process(pid, Signal::KILL);
            }
            child.kill()?;
            child.wait()?;
            return Ok(None);
        }
        std::thread::sleep(Duration::from_millis(20));
    }
}

/// Everything below `root` in the process tree: a runner that is killed leaves its tests running.
fn descendants(root: u32) -> Vec<Pid> {
    let parents: Vec<(u32, u32)> = fs::read_dir("/proc")
        .into_iter()
        .flatten()
        .filter_map(|entry| entry.ok()?.file_name().to_str()?.parse::<u32>().ok())
        .filter_map(|pid| Some((pid, parent_in(&fs::read_to_string(format!("/proc/{pid}/stat")).ok()?)?)))
        .collect();
    let mut found = vec![root];
    let mut next = 0;
    while next < found.len() {
        found.extend(
            parents.iter().filter(|(_, parent)| *parent == found[next]).map(|(pid, _)| *pid).collect::<Vec<_>>(),
        );
        next += 1;
    }
    found[1..].iter().filter_map(|pid| Pid::from_raw(i32::try_from(*pid).ok()?)).collect()
}

/// The fourth field of /proc/PID/stat; the second is a name in parentheses that may hold anything.
fn parent_in(stat: &str) -> Option<u32> {
    stat.rsplit_once(')')?.1.split_whitespace().nth(1)?.parse().ok()
}

fn read(log: &Path) -> String {
    fs::read(log).map(|bytes| String::from_utf8_lossy(&bytes).into_owned()).unwrap_or_default()
}

/// The command as one would type it.
fn shown(command: &Command) -> String {
    let program = Path::new(command.get_program()).file_name().unwrap_or(command.get_program());
    let words = std::iter::once(program).chain(command.get_args());
    words.map(|word| word.to_string_lossy()).collect::<Vec<_>>().join(" ")
}

#[cfg(test)]
#[allow(clippy::disallowed_methods, reason = "deadlines of child processes")]
mod tests {
    use super::*;

    fn shell(script: &str) -> Command {
        let mut command = Command::new("sh");
        command.args(["-c", script]);
        command
    }

    fn log(name: &str) -> PathBuf {
        let path = std::env::temp_dir().join(format!("xtask-{}-{name}.log", std::process::id()));
        File::create(&path).unwrap();
        path
    }

    #[test]
    fn output_and_errors_land_in_the_log_in_order() {
        let log = log("order");
        let far = Instant::now() + Duration::from_secs(60);
        let outcome = run_into(&log, shell("echo one; echo two >&2; echo three; exit 4"), far).unwrap();
        assert!(outcome.unwrap_err().contains("exit status: 4"));
        assert_eq!(read(&log).lines().skip(1).collect::<Vec<_>>(), ["one", "two", "three"]);
        fs::remove_file(log).unwrap();
    }

    #[test]
    fn a_step_over_its_limit_is_killed_with_what_it_started() {
        let log = log("limit");
        // The shell waits for a grandchild that would outlive it and hold the pipe open.
        let (mut held, holder) = io::pipe().unwrap();
        let mut command = shell("sleep 1000 & wait");
        command.stdin(Stdio::null()).stdout(holder);
        let child = command.spawn().unwrap();
        drop(command);
        while descendants(child.id()).is_empty() {
            std::thread::yield_now();
        }
        assert_eq!(wait(child, Instant::now()).unwrap(), None);
        let mut left = Vec::new();
        io::Read::read_to_end(&mut held, &mut left).unwrap();
        fs::remove_file(log).unwrap();
    }

    #[test]
    fn a_parent_is_found_behind_an_awkward_name() {
        assert_eq!(parent_in("77 (a) b (c) S 42 77 77 0"), Some(42));
        assert_eq!(parent_in("77"), None);
    }
}

//! A machine of QEMU's: power on, run commands in it, power off.

use std::fs::File;
use std::io::{Read, Write};
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use rustix::event::{PollFd, PollFlags, Timespec, poll};

use super::{Card, image, stop};

/// From power-on to the first command.
const BOOT_LIMIT: Duration = Duration::from_secs(180);
/// Longest answer of one command; whoever says more is cut off and fails.
const ANSWER_BYTES_MAX: usize = 1 << 20;
/// A command is typed again where the machine has not taken it so long after it was typed,
const TAKEN_WITHIN: Duration = Duration::from_secs(10);
/// and so often.
const TYPINGS: u32 = 6;

/// A machine that runs. Its memory, processor and card end with it.
pub(super) struct Guest {
    qemu: Child,
    unread: Vec<u8>,
    transcript: File,
    /// Commands so far.
    number: u32,
}

impl Guest {
    /// Powers it on and waits until it takes commands. The kernel's words go to CARD-console.log, commands and answers to
    /// CARD-guest.log, QEMU's own to CARD-qemu.log.
    pub(super) fn boot(card: Card, interface: &str, directory: &Path) -> Result<Guest, String> {
        let log = |name: &str| {
            let path = directory.join(format!("{card}-{name}.log"));
            File::create(&path).map(|file| (file, path)).map_err(|error| format!("cannot write a log: {error}"))
        };
        let (_, console) = log("console")?;
        let mut command = Command::new("qemu-system-x86_64");
        command.args(["-machine", "q35", "-accel", "tcg,thread=multi", "-cpu", "max", "-smp", "2", "-m", "1024"]);
        command.args(["-nodefaults", "-no-user-config", "-display", "none", "-no-reboot"]);
        command.arg("-kernel").arg(image::kernel(directory)).arg("-initrd").arg(image::initramfs(directory));
        // Huge pages: 192 MiB. A panic powers off. The timer works, but on a busy machine not as soon as the kernel would have it.
        let words = format!("console=ttyS0 quiet panic=-1 no_timer_check hugepages=96 {}", card.kernel_words());
        command.args(["-append", &words]);
        command.arg("-serial").arg(format!("file:{}", console.display())).args(["-serial", "stdio"]);
        command.args(card.arguments(interface));
        command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(log("qemu")?.0);
        let qemu = command.spawn().map_err(|error| format!("cannot run qemu-system-x86_64: {error}"))?;
        let mut guest = Guest { qemu, unread: Vec::new(), transcript: log("guest")?.0, number: 0 };
        match guest.mark(BOOT_LIMIT) {
            Ok(Some(_)) => Ok(guest),
            Ok(None) => Err(guest.silence("the machine does not boot", BOOT_LIMIT)),
            Err(problem) => Err(format!("the machine does not boot: {problem}")),
        }
    }

    /// Runs one line of shell; what it printed, or an error with that where it failed or took longer than `limit`.
    pub(super) fn run(&mut self, line: &str, limit: Duration) -> Result<String, String> {
        let line = line.trim();
        self.number += 1;
        self.have_taken(line)?;
        match self.mark(limit)? {
            Some((said, Mark::Ended(0))) => Ok(said),
            Some((said, Mark::Ended(code))) => Err(format!("`{line}` ends with {code}: {}", said.trim())),
            Some((_, mark)) => Err(format!("the machine says {mark:?} while it runs `{line}`")),
            None => Err(self.silence(&format!("no end of `{line}`"), limit)),
        }
    }

    /// Types a command until the machine has it whole. What it runs is what was typed, once, whatever the line loses on the way.
    fn have_taken(&mut self, line: &str) -> Result<(), String> {
        for _ in 0..TYPINGS {
            // The first end of line is for what a damaged one may have left behind.
            let typed = format!("\n@ {} {} {line}\n", self.number, line.len());
            let input = self.qemu.stdin.as_mut().ok_or("the machine has no serial line")?;
            let written =
                input.write_all(typed.as_bytes()).and_then(|()| self.transcript.write_all(&typed.as_bytes()[1..]));
            written.map_err(|error| format!("cannot ask the machine: {error}"))?;
            while let Some((_, mark)) = self.mark(TAKEN_WITHIN)? {
                match mark {
                    Mark::Taken(number) if number == self.number => return Ok(()),
                    Mark::Damaged => break,
                    // Of an earlier typing of an earlier command.
                    Mark::Taken(_) => {}
                    Mark::Ended(_) => return Err(format!("an answer to nothing before `{line}`")),
                }
            }
        }
        Err(self.silence(&format!("`{line}` does not arrive, typed {TYPINGS} times"), TAKEN_WITHIN))
    }

    /// Why the machine is given up, with what it said last.
    fn silence(&self, problem: &str, limit: Duration) -> String {
        let said = String::from_utf8_lossy(&self.unread).into_owned();
        format!("{problem}, {} s: {}", limit.as_secs(), said.trim())
    }

    /// Like [`Guest::run`], of a line that must fail: what it printed.
    pub(super) fn run_failing(&mut self, line: &str, limit: Duration) -> Result<String, String> {
        match self.run(line, limit) {
            Ok(_) => Err(format!("`{line}` does not fail")),
            Err(said) => Ok(said),
        }
    }

    /// Text up to the next mark, and the mark; `None` where none comes within `limit`.
    #[allow(clippy::disallowed_methods, reason = "waits for a process, on no core")]
    fn mark(&mut self, limit: Duration) -> Result<Option<(String, Mark)>, String> {
        let end = Instant::now() + limit;
        loop {
            if let Some((text, mark, used)) = split(&self.unread) {
                self.unread.drain(..used);
                return Ok(Some((text, mark)));
            }
            let left = end.saturating_duration_since(Instant::now());
            if self.unread.len() > ANSWER_BYTES_MAX {
                return Err("the machine says too much at once".to_owned());
            }
            if left.is_zero() {
                return Ok(None);
            }
            let output = self.qemu.stdout.as_mut().ok_or("the machine has no serial line")?;
            let wait = Timespec { tv_sec: left.as_secs() as i64, tv_nsec: left.subsec_nanos().into() };
            let mut polled = [PollFd::new(output, PollFlags::IN)];
            match poll(&mut polled, Some(&wait)) {
                Ok(0) | Err(rustix::io::Errno::INTR) => continue,
                Ok(_) => {}
                Err(error) => return Err(error.to_string()),
            }
            let mut bytes = [0; 4096];
            let read = output.read(&mut bytes).map_err(|error| error.to_string())?;
            if read == 0 {
                return Err("the machine has powered off".to_owned());
            }
            self.unread.extend_from_slice(&bytes[..read]);
            // A log that cannot be written is no reason to fail a test.
            let _ = self.transcript.write_all(&bytes[..read]);
        }
    }
}

impl Drop for Guest {
    fn drop(&mut self) {
        stop(&mut self.qemu);
    }
}

/// What the machine's shell says about commands, on lines of their own.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Mark {
    /// It has the command of this number, whole, and runs it now.
    Taken(u32),
    /// What was typed has not arrived as it was.
    Damaged,
    /// The command has ended with this code.
    Ended(i32),
}

/// What stands before the first mark, the mark, and the bytes of both.
fn split(bytes: &[u8]) -> Option<(String, Mark, usize)> {
    let at = bytes.windows(3).position(|window| matches!(window, b"\n@@" | b"\n@>" | b"\n@?"))?;
    let length = bytes[at + 1..].iter().position(|byte| *byte == b'\n')?;
    let line = std::str::from_utf8(&bytes[at + 1..at + 1 + length]).ok()?;
    let (kind, number) = line.split_at_checked(2)?;
    let mark = match kind {
        "@?" => Mark::Damaged,
        "@>" => Mark::Taken(number.trim().parse().ok()?),
        _ => Mark::Ended(number.trim().parse().ok()?),
    };
    // Of the original, which may hold what is no UTF-8.
    Some((String::from_utf8_lossy(&bytes[..at]).into_owned(), mark, at + 1 + length + 1))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_answer_ends_with_its_mark() {
        assert_eq!(split(b"a\nb\n\n@@ 7\nrest"), Some(("a\nb\n".to_owned(), Mark::Ended(7), 10)));
        assert_eq!(split(b"\xff\n@@ 0\n"), Some(("\u{fffd}".to_owned(), Mark::Ended(0), 7)));
        assert_eq!(split(b"\n@> 12\na"), Some((String::new(), Mark::Taken(12), 7)));
        assert_eq!(split(b"\n@?\n@> 1\n"), Some((String::new(), Mark::Damaged, 4)));
        assert_eq!(split(b"a\n@@ 1"), None, "the code is not complete");
        assert_eq!(split(b"a @@ 1\n"), None, "inside of a line");
    }
}

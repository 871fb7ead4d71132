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

/// A machine that runs. Its memory, processor and card end with it.
pub(super) struct Guest {
    qemu: Child,
    unread: Vec<u8>,
    transcript: File,
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
        // Huge pages: 192 MiB. A panic powers off.
        let words = format!("console=ttyS0 quiet panic=-1 hugepages=96 {}", card.kernel_words());
        command.args(["-append", &words]);
        command.arg("-serial").arg(format!("file:{}", console.display())).args(["-serial", "stdio"]);
        command.args(card.arguments(interface));
        command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(log("qemu")?.0);
        let qemu = command.spawn().map_err(|error| format!("cannot run qemu-system-x86_64: {error}"))?;
        let mut guest = Guest { qemu, unread: Vec::new(), transcript: log("guest")?.0 };
        guest.answer(BOOT_LIMIT).map_err(|problem| format!("the machine does not boot: {problem}"))?;
        Ok(guest)
    }

    /// Runs one line of shell; what it printed, or an error with that where it failed or took longer than `limit`.
    pub(super) fn run(&mut self, line: &str, limit: Duration) -> Result<String, String> {
        let input = self.qemu.stdin.as_mut().ok_or("the machine has no serial line")?;
        let written = writeln!(input, "{line}").and_then(|()| writeln!(self.transcript, "$ {line}"));
        written.map_err(|error| format!("cannot ask the machine: {error}"))?;
        match self.answer(limit)? {
            (said, 0) => Ok(said),
            (said, code) => Err(format!("`{line}` ends with {code}: {}", said.trim())),
        }
    }

    /// Like [`Guest::run`], of a line that must fail: what it printed.
    pub(super) fn run_failing(&mut self, line: &str, limit: Duration) -> Result<String, String> {
        match self.run(line, limit) {
            Ok(_) => Err(format!("`{line}` does not fail")),
            Err(said) => Ok(said),
        }
    }

    /// Text up to the next mark, and the exit code behind it.
    #[allow(clippy::disallowed_methods, reason = "waits for a process, on no core")]
    fn answer(&mut self, limit: Duration) -> Result<(String, i32), String> {
        let end = Instant::now() + limit;
        loop {
            if let Some((text, code, used)) = split(&self.unread) {
                self.unread.drain(..used);
                return Ok((text, code));
            }
            let left = end.saturating_duration_since(Instant::now());
            if left.is_zero() || self.unread.len() > ANSWER_BYTES_MAX {
                let said = String::from_utf8_lossy(&self.unread).into_owned();
                return Err(format!("no answer within {} s: {}", limit.as_secs(), said.trim()));
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

/// What stands before the first mark, the code behind it, and the bytes of both.
fn split(bytes: &[u8]) -> Option<(String, i32, usize)> {
    let text = String::from_utf8_lossy(bytes);
    let (before, behind) = text.split_once("\n@@ ")?;
    let (code, _) = behind.split_once('\n')?;
    // Of the original, which may hold what is no UTF-8.
    let mark = bytes.windows(4).position(|window| window == b"\n@@ ")? + 4;
    let used = mark + bytes[mark..].iter().position(|byte| *byte == b'\n')? + 1;
    Some((before.to_owned(), code.trim().parse().ok()?, used))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_answer_ends_with_its_mark() {
        assert_eq!(split(b"a\nb\n\n@@ 7\nrest"), Some(("a\nb\n".to_owned(), 7, 10)));
        assert_eq!(split(b"\xff\n@@ 0\n"), Some(("\u{fffd}".to_owned(), 0, 7)));
        assert_eq!(split(b"a\n@@ 1"), None, "the code is not complete");
        assert_eq!(split(b"a @@ 1\n"), None, "inside of a line");
    }
}

//! DPDK's own test program: the generator of frames, and what we are compared with.

use std::io::{Read, Write};
use std::process::{Child, ChildStdin, Command, Stdio};
use std::time::Duration;

const PROMPT: &[u8] = b"testpmd> ";
/// Before anything is counted.
pub(crate) const WARM_UP: Duration = Duration::from_millis(100);
/// What is counted at once.
pub(crate) const WINDOW: Duration = Duration::from_millis(20);

/// A testpmd that takes orders. Killed when it is dropped.
pub(crate) struct Testpmd {
    child: Child,
    orders: ChildStdin,
}

impl Testpmd {
    /// Starts one on processor `cpu` with one virtual device, and waits until it takes orders.
    pub(crate) fn start(cpu: usize, prefix: &str, device: &str, mode: &str, more: &[&str]) -> Result<Testpmd, String> {
        let mut command = Command::new("dpdk-testpmd");
        command.args(["--no-huge", "--no-pci", "--no-telemetry", "--no-shconf", "--log-level=error", "-m", "64"]);
        command.arg(format!("--lcores=0@{cpu},1@{cpu}")).arg(format!("--file-prefix={prefix}"));
        command.arg(format!("--vdev={device}")).args(["--", "--interactive", "--total-num-mbufs=8191"]);
        command.arg(format!("--forward-mode={mode}")).args(more);
        let child = command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::null()).spawn();
        let mut child = child.map_err(|error| format!("cannot start dpdk-testpmd: {error}"))?;
        let orders = child.stdin.take().ok_or("testpmd has no input")?;
        let mut testpmd = Testpmd { child, orders };
        testpmd.wait_for_prompt()?;
        Ok(testpmd)
    }

    /// It writes its prompt at once, but everything else when it ends.
    fn wait_for_prompt(&mut self) -> Result<(), String> {
        let output = self.child.stdout.as_mut().ok_or("testpmd has no output")?;
        let (mut seen, mut byte) = (Vec::new(), [0]);
        while !seen.ends_with(PROMPT) {
            if output.read(&mut byte).map_err(|error| error.to_string())? == 0 {
                return Err(format!("dpdk-testpmd has ended: {}", String::from_utf8_lossy(&seen)));
            }
            seen.push(byte[0]);
        }
        Ok(())
    }

    pub(crate) fn order(&mut self, what: &str) -> Result<(), String> {
        writeln!(self.orders, "{what}").map_err(|error| format!("testpmd takes no orders: {error}"))
    }

    /// Starts it as `start` says and returns how many frames a second it receives in the best of `windows`, each so long that no sum of
    /// frames on the way matters. The best, because whoever else uses the processors can only make it less. Ends testpmd.
    pub(crate) fn best_rate(mut self, start: &str, windows: u32) -> Result<f64, String> {
        self.order(start)?;
        pause(WARM_UP);
        for _ in 0..windows {
            // It counts from one showing to the next.
            self.order("show port stats 0")?;
            pause(WINDOW);
        }
        self.order("show port stats 0")?;
        self.order("quit")?;
        let mut said = String::new();
        let output = self.child.stdout.as_mut().ok_or("testpmd has no output")?;
        output.read_to_string(&mut said).map_err(|error| error.to_string())?;
        let rates = said.lines().filter_map(|line| line.trim_start().strip_prefix("Rx-pps:"));
        let rates = rates.filter_map(|rest| rest.split_whitespace().next()?.parse::<f64>().ok());
        // The first showing knows no time before it.
        let best = rates.skip(1).fold(0.0, f64::max);
        if best > 0.0 { Ok(best) } else { Err(format!("no frame has come back: {said}")) }
    }
}

impl Drop for Testpmd {
    fn drop(&mut self) {
        // Gone already, where it was told to quit.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

#[allow(clippy::disallowed_methods, reason = "a bench measures the real clock")]
pub(crate) fn pause(span: Duration) {
    std::thread::sleep(span);
}

//! Instructions counted by callgrind in a process of its own: the same number at every run of the same program, however busy the
//! machine is.

use std::collections::BTreeMap;
use std::process::Command;

/// Runs this program again under callgrind, with these arguments. What each function whose name begins with `counted_` has cost
/// together with all that it called, by its bare name. The kernel's own work is not counted.
///
/// # Errors
/// There is no valgrind, or the process has failed, in words.
pub fn count(arguments: &[&str]) -> Result<BTreeMap<String, u64>, String> {
    let program = std::env::current_exe().map_err(|error| error.to_string())?;
    let file = std::env::temp_dir().join(format!("trimaran-callgrind-{}", std::process::id()));
    let mut command = Command::new("valgrind");
    command.args(["--quiet", "--tool=callgrind"]).arg(format!("--callgrind-out-file={}", file.display()));
    let output = command.arg(program).args(arguments).output().map_err(|error| format!("valgrind: {error}"))?;
    let profile = std::fs::read_to_string(&file);
    let _ = std::fs::remove_file(&file);
    if !output.status.success() {
        return Err(format!("the counted process has failed: {}", String::from_utf8_lossy(&output.stderr)));
    }
    Ok(inclusive(&profile.map_err(|error| format!("callgrind has written nothing: {error}"))?))
}

fn inclusive(profile: &str) -> BTreeMap<String, u64> {
    let mut names: BTreeMap<&str, &str> = BTreeMap::new();
    let mut counts = BTreeMap::new();
    let mut current = None;
    for line in profile.lines() {
        if let Some((key, id_and_name)) = line.split_once("=(") {
            // A name is written once, and stands for its number from then on.
            let (id, name) = id_and_name.split_once(')').unwrap_or((id_and_name, ""));
            if key == "fn" || key == "cfn" {
                if !name.is_empty() {
                    names.insert(id, name.trim_start());
                }
                if key == "fn" {
                    let name = names.get(id).copied().unwrap_or_default();
                    current = name.find("counted_").map(|at| bare(&name[at..]));
                }
            }
        } else if let Some(function) = current
            && line.starts_with(|c: char| c.is_ascii_digit() || "+-*".contains(c))
            && let Some(cost) = line.split(' ').nth(1).and_then(|cost| cost.parse::<u64>().ok())
        {
            // Its own instructions, or those of a call, which follow the call's line.
            *counts.entry(function.to_owned()).or_default() += cost;
        }
    }
    counts
}

/// The name up to what the compiler has added.
fn bare(name: &str) -> &str {
    name.split(|c: char| !c.is_ascii_alphanumeric() && c != '_').next().unwrap_or(name)
}

//! Rows out of what programs print for people: the loops of `kv bench-scale`, and the tables of the benches `ring` and `dpdk`.

use serde_json::{Value, json};

fn numbers(line: &str) -> Vec<f64> {
    let plain = |word: &str| word.trim_matches(['(', ')', '%', '+', ',', ':']).parse().ok();
    line.split_whitespace().filter_map(plain).collect()
}

/// The number behind some words of a line.
fn after(line: &str, words: &str) -> Option<f64> {
    numbers(line.split_once(words)?.1).first().copied()
}

/// `kv bench-scale`: puts with one loop and with two, round by round, for each second of a processor and by the clock; and at the end
/// what is left of one loop's with two, corrected for what the machine's cores take from each other.
pub(crate) fn scaling(output: &str) -> Vec<Value> {
    let mut rows = Vec::new();
    for line in output.lines() {
        for (cores, words) in [(1, "one loop "), (2, "two loops ")] {
            let rates = line.split_once(words).map(|(_, rest)| numbers(rest)).unwrap_or_default();
            if let [per_cpu_second, per_second, ..] = rates[..] {
                rows.push(json!({ "cores": cores, "per_cpu_second": per_cpu_second, "per_second": per_second }));
            }
        }
        if let Some((_, end)) = line.split_once("scaling from 1 to 2 cores") {
            let ratio = end.rsplit(' ').next().and_then(|word| word.parse::<f64>().ok());
            rows.extend(ratio.map(|ratio| json!({ "one_to_two": ratio })));
        }
    }
    rows
}

/// `cargo bench --bench dpdk -- macswap`: our loops' frames a second as shares of testpmd's, bare and by the runtime.
pub(crate) fn dpdk(output: &str) -> Vec<Value> {
    let row = |line: &str| {
        let [bare, runtime] = ["bare loop ", "the runtime's "].map(|words| after(line, words));
        Some(json!({ "bare_of_testpmd": bare?, "loop_of_testpmd": runtime? }))
    };
    output.lines().filter_map(row).collect()
}

/// `cargo bench --bench ring -- counts`: instructions, what they were, the change, and of what. A later word in capitals is a verdict.
pub(crate) fn counts(output: &str) -> Vec<Value> {
    let row = |line: &str| {
        let (numbers_part, what) = line.split_once('%')?;
        let each = numbers(numbers_part).first().copied().filter(|each| *each > 0.0)?;
        let what = what.split("  ").map(str::trim).find(|part| !part.is_empty())?;
        Some(json!({ "name": what, "instructions": each }))
    };
    output.lines().filter_map(row).collect()
}

/// `cargo bench --bench ring`: operations a second of the processor: one table with a core for each node, one with a core for all.
pub(crate) fn ring(output: &str) -> Vec<Value> {
    let mut layout = "";
    let mut rows = Vec::new();
    for line in output.lines() {
        layout = match line {
            line if line.starts_with("one core each") => "apart",
            line if line.starts_with("one core for all") => "together",
            _ => layout,
        };
        if let ([outstanding, echo, _, put, _, plain, _, read, _], false) =
            (numbers(line).as_slice(), layout.is_empty())
        {
            for (op, rate) in [("echo", echo), ("put", put), ("plain-put", plain), ("read", read)] {
                rows.push(json!({ "layout": layout, "op": op, "outstanding": outstanding, "per_second": rate }));
            }
        }
    }
    rows
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn loops_are_read_with_their_ratio() {
        let text = "one loop    512345 puts/CPU-s    480000 puts/s   two loops    500000 puts/CPU-s    910000 puts/s (0.976)   \
                    plain loop alone and beside another 0.990   scaling 0.986\n\
                    scaling from 1 to 2 cores, median of 5: 0.981\n";
        let rows = scaling(text);
        assert_eq!(rows[0], json!({ "cores": 1, "per_cpu_second": 512_345.0, "per_second": 480_000.0 }));
        assert_eq!(rows[1], json!({ "cores": 2, "per_cpu_second": 500_000.0, "per_second": 910_000.0 }), "as measured");
        assert_eq!(rows[2], json!({ "one_to_two": 0.981 }));
        assert!(scaling("nothing").is_empty());
    }

    #[test]
    fn shares_of_testpmd_are_read() {
        let text = "round 5:  testpmd macswap 9.10 M  bare 8.90 M  core 8.50 M\n\
                    bare loop 0.98 of testpmd, the runtime's 0.93: at least 0.90 is the goal of both\n";
        assert_eq!(dpdk(text), [json!({ "bare_of_testpmd": 0.98, "loop_of_testpmd": 0.93 })]);
        assert!(dpdk("macswap over memif").is_empty());
    }

    #[test]
    fn counts_are_read_with_and_without_a_verdict() {
        let text = "instructions         were\n        2123         2000  +6.2%  commit at the leader\n         900         1000 -10.0%  call at the client  cheaper: write it\n           0            5 -100.0%  gone  NOT COUNTED\n";
        let rows = counts(text);
        assert_eq!(rows.len(), 2, "{rows:?}");
        assert_eq!(rows[0], json!({ "name": "commit at the leader", "instructions": 2123.0 }));
        assert_eq!(rows[1]["name"], "call at the client");
    }

    #[test]
    fn rings_are_read_by_layout() {
        let text = "one core each, one thread, operations per second (of unreplicated)\n outstanding   unreplicated   put   put, plain client   linearizable read\n\
                    \x20          1       900000 (1.00)       400000 (0.44)       500000 (0.56)       800000 (0.89)\n\
                    one core for all, operations per second (of unreplicated)\n         256      2000000 (1.00)      1000000 (0.50)      1200000 (0.60)      1800000 (0.90)\n";
        let rows = ring(text);
        assert_eq!(rows.len(), 8, "{rows:?}");
        assert_eq!(rows[5], json!({ "layout": "together", "op": "put", "outstanding": 256.0, "per_second": 1e6 }));
        assert_eq!(
            rows[6],
            json!({ "layout": "together", "op": "plain-put", "outstanding": 256.0, "per_second": 1.2e6 })
        );
    }
}

//! How errors and warnings look: the only place that prints them.

use crate::program::config::Warning;
use crate::program::config::place::Place;
use crate::program::error::Error;
use std::fmt::Write;

/// The error as `program` prints it: code and cause, the line to blame with a caret, and what mends it.
pub fn error(error: &Error, program: &str) -> String {
    render(&format!("error[{}]: {error}", error.code()), error.place(), &error.help(program))
}

/// A warning in the same form.
pub fn warning(warning: &Warning) -> String {
    render(&format!("warning[{}]: {warning}", warning.code()), warning.place(), warning.help())
}

fn render(head: &str, place: Option<&Place>, help: &str) -> String {
    let mut out = format!("{head}\n");
    // Writing to a String cannot fail.
    let _ = match place {
        Some(Place { file, line, column, width, text }) => {
            let number = line.to_string();
            let margin = " ".repeat(number.len());
            let (before, caret) = (" ".repeat(column.saturating_sub(1)), "^".repeat((*width).max(1)));
            write!(
                out,
                "{margin}--> {file}:{line}:{column}\n{margin} |\n{number} | {text}\n{margin} | {before}{caret}\n{margin} = help: {help}\n"
            )
        }
        None => writeln!(out, "  = help: {help}"),
    };
    out
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::net::{Ipv4Addr, SocketAddrV4};

    #[test]
    fn an_error_with_a_place_points_at_it() {
        let place = Place { file: "n.toml".into(), line: 12, column: 3, width: 4, text: "  slto = 1".into() };
        let bad = Error::UnknownKey {
            key: "slto".into(),
            section: "[[member]]".into(),
            hint: "did you mean `slot`?".into(),
            place: Box::new(place),
        };
        let expected = "\
error[E0203]: unknown key `slto` in [[member]]
  --> n.toml:12:3
   |
12 |   slto = 1
   |   ^^^^
   = help: did you mean `slot`?
";
        assert_eq!(error(&bad, "kv"), expected);
    }

    #[test]
    fn an_error_without_a_place_is_two_lines() {
        let address = SocketAddrV4::new(Ipv4Addr::LOCALHOST, 8000);
        let taken = Error::AddressInUse { address, owner: Some("kv (pid 42)".into()) };
        let expected = "\
error[E0101]: 127.0.0.1:8000/udp is in use by kv (pid 42)
  = help: `kill 42`, or give this member another port than 8000 in the configuration of every node
";
        assert_eq!(error(&taken, "kv"), expected);
        assert_eq!(taken.exit_code(), 3);
        assert_eq!(
            error(&Error::NoQuorum { reachable: 1, total: 3, quorum: 2 }, "kv"),
            "error[E0301]: no quorum: 1 of 3 replicas reachable, 2 needed\n  = help: start the missing nodes: `kv serve --config node.toml`; `kv status` shows which\n"
        );
    }

    #[test]
    fn exit_codes_follow_the_kind_of_error() {
        assert_eq!(Error::NoQuorum { reachable: 1, total: 3, quorum: 2 }.exit_code(), 4);
        assert_eq!(Error::Usage { problem: String::new(), help: String::new() }.exit_code(), 2);
        assert_eq!(Error::SharedCores.exit_code(), 3);
        assert_eq!(Error::Refused { message: String::new() }.exit_code(), 1);
        assert_eq!(Error::Interrupted.exit_code(), 130);
    }
}

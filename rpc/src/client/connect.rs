//! The text that names a cluster's servers: `10.0.0.1:8000,10.0.0.2:8000,10.0.0.3:8000`.

use std::fmt;
use std::net::{Ipv4Addr, SocketAddr, SocketAddrV4, ToSocketAddrs};

/// Servers that one text may name: as many as a cluster has.
pub(super) const SERVERS_MAX: usize = 9;

/// Why a client could not be connected. Nobody has been asked yet: a cluster that is down shows at the first call.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ConnectError {
    /// The text names nobody.
    #[error("no servers given; expected \"10.0.0.1:8000,10.0.0.2:8000,...\"")]
    NoServers,
    /// The text names more servers than a cluster may have.
    #[error("{count} servers given, {SERVERS_MAX} at most")]
    TooManyServers {
        /// How many.
        count: usize,
    },
    /// One part of the text is no address.
    #[error("server {number} of {servers:?}: {part:?} {why}")]
    BadServer {
        /// The whole text.
        servers: String,
        /// Which part, from 1.
        number: usize,
        /// The part, without the spaces around it.
        part: String,
        /// What is wrong with it.
        why: BadServer,
    },
    /// The background thread could not be started, or has no network.
    #[error("cannot start the client: {0}")]
    Start(String),
}

/// What is wrong with one part of a list of servers.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub enum BadServer {
    /// Nothing between two commas.
    Empty,
    /// No `:` with a port behind it.
    NoPort,
    /// The port is no number from 1 to 65535.
    Port,
    /// Digits and dots that are no IPv4 address.
    Address,
    /// An IPv6 address. The protocol knows IPv4 only.
    Ipv6,
    /// A name that cannot be resolved to an IPv4 address; what the system says.
    Name(String),
    /// The same server as in an earlier part.
    Twice,
}

impl fmt::Display for BadServer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            BadServer::Empty => "is empty: remove the comma",
            BadServer::NoPort => "has no port: write address:port",
            BadServer::Port => "has no valid port: a number from 1 to 65535",
            BadServer::Address => "is no IPv4 address",
            BadServer::Ipv6 => "is an IPv6 address, and only IPv4 is spoken",
            BadServer::Name(why) => return write!(f, "cannot be resolved: {why}"),
            BadServer::Twice => "is named twice",
        })
    }
}

/// The addresses that `servers` names, in its order. A name that is no address is asked of the system's resolver, which may
/// take a while.
pub(super) fn parse_servers(servers: &str) -> Result<Vec<SocketAddrV4>, ConnectError> {
    if servers.trim().is_empty() {
        return Err(ConnectError::NoServers);
    }
    let count = servers.split(',').count();
    if count > SERVERS_MAX {
        return Err(ConnectError::TooManyServers { count });
    }
    let mut addresses = Vec::with_capacity(count);
    for (place, part) in servers.split(',').map(str::trim).enumerate() {
        let parsed = parse_server(part).and_then(|address| match addresses.contains(&address) {
            true => Err(BadServer::Twice),
            false => Ok(address),
        });
        addresses.push(parsed.map_err(|why| ConnectError::BadServer {
            servers: servers.to_owned(),
            number: place + 1,
            part: part.to_owned(),
            why,
        })?);
    }
    Ok(addresses)
}

fn parse_server(part: &str) -> Result<SocketAddrV4, BadServer> {
    if part.is_empty() {
        return Err(BadServer::Empty);
    }
    if part.starts_with('[') || part.matches(':').count() > 1 {
        return Err(BadServer::Ipv6);
    }
    let (host, port) = part.split_once(':').ok_or(BadServer::NoPort)?;
    let port: u16 = port.parse().ok().filter(|port| *port > 0).ok_or(BadServer::Port)?;
    if let Ok(ip) = host.parse::<Ipv4Addr>() {
        return Ok(SocketAddrV4::new(ip, port));
    }
    if host.is_empty() || host.bytes().all(|byte| byte.is_ascii_digit() || byte == b'.') {
        return Err(BadServer::Address);
    }
    let found = (host, port).to_socket_addrs().map_err(|error| BadServer::Name(error.to_string()))?;
    let first = found.into_iter().find_map(|address| match address {
        SocketAddr::V4(address) => Some(address),
        SocketAddr::V6(_) => None,
    });
    first.ok_or_else(|| BadServer::Name("it has no IPv4 address".into()))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn wrong(servers: &str) -> (usize, String, BadServer) {
        match parse_servers(servers) {
            Err(ConnectError::BadServer { number, part, why, .. }) => (number, part, why),
            other => panic!("{servers:?}: {other:?}"),
        }
    }

    #[test]
    fn addresses_in_their_order() {
        let found = parse_servers(" 10.0.0.3:8000, 10.0.0.1:8001 ").unwrap();
        assert_eq!(found, ["10.0.0.3:8000".parse().unwrap(), "10.0.0.1:8001".parse().unwrap()]);
    }

    #[test]
    fn the_error_says_which_part_is_wrong() {
        let good = "10.0.0.1:8000";
        let cases = [
            ("", BadServer::Empty),
            ("10.0.0.2", BadServer::NoPort),
            ("10.0.0.2:", BadServer::Port),
            ("10.0.0.2:0", BadServer::Port),
            ("10.0.0.2:65536", BadServer::Port),
            ("10.0.0.2:http", BadServer::Port),
            ("10.0.0.256:1", BadServer::Address),
            (":1", BadServer::Address),
            ("[::1]:1", BadServer::Ipv6),
            ("::1", BadServer::Ipv6),
            (good, BadServer::Twice),
        ];
        for (part, why) in cases {
            assert_eq!(wrong(&format!("{good}, {part}")), (2, part.to_owned(), why), "{part:?}");
        }
        let error = parse_servers("10.0.0.1:8000,10.0.0.2").unwrap_err();
        let text = "server 2 of \"10.0.0.1:8000,10.0.0.2\": \"10.0.0.2\" has no port: write address:port";
        assert_eq!(error.to_string(), text);
    }

    #[test]
    fn too_few_and_too_many() {
        assert!(matches!(parse_servers("  "), Err(ConnectError::NoServers)));
        let many: Vec<_> = (1..=10).map(|number| format!("10.0.0.{number}:1")).collect();
        assert!(matches!(parse_servers(&many.join(",")), Err(ConnectError::TooManyServers { count: 10 })));
        assert!(parse_servers(&many[..9].join(",")).is_ok());
    }
}

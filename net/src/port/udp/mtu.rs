//! What the device behind an address can carry.

use std::ffi::CStr;
use std::net::Ipv4Addr;
use std::path::Path;
use std::ptr::null_mut;

/// Bytes of the IPv4 and UDP headers in front of a payload.
const HEADERS_BYTES: usize = 28;

/// The largest UDP payload that leaves the device to which `local` belongs in one piece, in bytes. `None` where no device
/// has that address or the system does not tell. Reads a file; for the start of a program.
pub fn device_payload_bytes(local: Ipv4Addr) -> Option<usize> {
    let device = device_of(local)?;
    let mtu = std::fs::read_to_string(Path::new("/sys/class/net").join(device).join("mtu")).ok()?;
    mtu.trim().parse::<usize>().ok()?.checked_sub(HEADERS_BYTES)
}

/// The name of the device whose network holds `local`; a loopback device has the whole of 127/8.
fn device_of(local: Ipv4Addr) -> Option<String> {
    let mut list: *mut libc::ifaddrs = null_mut();
    // SAFETY: getifaddrs writes one pointer, to a list that is ours until freeifaddrs.
    if unsafe { libc::getifaddrs(&mut list) } != 0 {
        return None;
    }
    let mut found: Option<(u32, String)> = None;
    let mut next = list;
    // SAFETY: `next` is null or an element of the list, which is freed only after the loop.
    while let Some(entry) = unsafe { next.as_ref() } {
        next = entry.ifa_next;
        let (Some(address), Some(mask)) = (ipv4(entry.ifa_addr), ipv4(entry.ifa_netmask)) else { continue };
        let is_longer = found.as_ref().is_none_or(|(longest, _)| mask > *longest);
        if u32::from(local) & mask == address & mask && is_longer {
            // SAFETY: the name is a string that ends with 0 and lives as long as the list.
            let name = unsafe { CStr::from_ptr(entry.ifa_name) };
            found = Some((mask, name.to_string_lossy().into_owned()));
        }
    }
    // SAFETY: the list came from getifaddrs, and nothing borrows from it any more.
    unsafe { libc::freeifaddrs(list) };
    found.map(|(_, name)| name)
}

fn ipv4(address: *const libc::sockaddr) -> Option<u32> {
    // SAFETY: addresses of the list are null or valid, and carry their family in front.
    let family = unsafe { address.as_ref() }?.sa_family;
    if i32::from(family) != libc::AF_INET {
        return None;
    }
    // SAFETY: an address of family AF_INET is a sockaddr_in.
    let address = unsafe { &*address.cast::<libc::sockaddr_in>() };
    Some(u32::from_be(address.sin_addr.s_addr))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_loopback_address_belongs_to_the_loopback_device() {
        let whole = device_payload_bytes(Ipv4Addr::LOCALHOST);
        assert!(whole.is_some_and(|bytes| bytes >= 1472), "{whole:?}");
        assert_eq!(device_payload_bytes(Ipv4Addr::new(127, 0, 0, 77)), whole);
    }

    #[test]
    fn an_address_of_no_device_has_no_limit_to_tell() {
        // Reserved: no machine has it.
        assert_eq!(device_payload_bytes(Ipv4Addr::new(240, 0, 0, 1)), None);
    }
}

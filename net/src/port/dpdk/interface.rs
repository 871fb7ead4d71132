//! What the kernel says of its network interfaces, in the network namespace of the calling thread.
//!
//! Not by /sys: that shows the namespace of whoever mounted it.

use rustix::net::{AddressFamily, SocketFlags, SocketType, socket_with};
use std::os::fd::AsRawFd;

/// The interface of this name is up; `None` where there is none.
pub(super) fn is_up(name: &str) -> Option<bool> {
    let request = ask(name, libc::SIOCGIFFLAGS)?;
    // SAFETY: the kernel has answered with flags, and any bits are valid.
    let flags = unsafe { request.ifr_ifru.ifru_flags };
    Some(i32::from(flags) & libc::IFF_UP != 0)
}

/// Largest payload of its frames, in bytes; `None` where there is no such interface.
pub(super) fn mtu_bytes(name: &str) -> Option<usize> {
    let request = ask(name, libc::SIOCGIFMTU)?;
    // SAFETY: the kernel has answered with a number.
    let mtu = unsafe { request.ifr_ifru.ifru_mtu };
    usize::try_from(mtu).ok()
}

fn ask(name: &str, question: libc::Ioctl) -> Option<libc::ifreq> {
    // SAFETY: a plain C struct of integers and pointers, for which zero bytes are valid.
    let mut request: libc::ifreq = unsafe { std::mem::zeroed() };
    // The last byte stays zero.
    let limit = request.ifr_name.len() - 1;
    if name.is_empty() || name.len() > limit {
        return None;
    }
    for (to, from) in request.ifr_name.iter_mut().zip(name.bytes()) {
        *to = from as libc::c_char;
    }
    let socket = socket_with(AddressFamily::INET, SocketType::DGRAM, SocketFlags::CLOEXEC, None).ok()?;
    // SAFETY: the socket is open, and both questions read and fill one such struct.
    let answered = unsafe { libc::ioctl(socket.as_raw_fd(), question, &mut request) };
    (answered == 0).then_some(request)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_loopback_device_and_none() {
        assert!(is_up("lo").is_some());
        assert!(mtu_bytes("lo").is_some_and(|bytes| bytes >= 1500));
        for absent in ["", "no-such-if", "longer-than-any-interface"] {
            assert_eq!((is_up(absent), mtu_bytes(absent)), (None, None));
        }
    }
}

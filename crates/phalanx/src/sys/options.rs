//! Options of sockets, from one to another.

use rustix::fd::{AsFd, AsRawFd};

type Name = (libc::c_int, libc::c_int);

/// What a program sets on a socket before it binds, and what its connections inherit.
const TCP: [Name; 11] = [
    (libc::IPPROTO_TCP, libc::TCP_NODELAY),
    (libc::IPPROTO_TCP, libc::TCP_DEFER_ACCEPT),
    (libc::IPPROTO_TCP, libc::TCP_KEEPIDLE),
    (libc::IPPROTO_TCP, libc::TCP_KEEPINTVL),
    (libc::IPPROTO_TCP, libc::TCP_KEEPCNT),
    (libc::IPPROTO_TCP, libc::TCP_USER_TIMEOUT),
    (libc::IPPROTO_TCP, libc::TCP_FASTOPEN),
    (libc::IPPROTO_TCP, libc::TCP_SYNCNT),
    (libc::IPPROTO_TCP, libc::TCP_LINGER2),
    (libc::IPPROTO_TCP, libc::TCP_NOTSENT_LOWAT),
    (libc::IPPROTO_TCP, libc::TCP_CONGESTION),
];
const UDP: [Name; 4] = [
    (libc::SOL_SOCKET, libc::SO_BROADCAST),
    (libc::SOL_SOCKET, libc::SO_RXQ_OVFL),
    (libc::SOL_SOCKET, libc::SO_TIMESTAMP),
    (libc::SOL_SOCKET, libc::SO_TIMESTAMPNS),
];
const V4: [Name; 4] = [
    (libc::IPPROTO_IP, libc::IP_TOS),
    (libc::IPPROTO_IP, libc::IP_TTL),
    (libc::IPPROTO_IP, libc::IP_PKTINFO),
    (libc::IPPROTO_IP, libc::IP_RECVTTL),
];
const V6: [Name; 3] = [
    (libc::IPPROTO_IPV6, libc::IPV6_TCLASS),
    (libc::IPPROTO_IPV6, libc::IPV6_UNICAST_HOPS),
    (libc::IPPROTO_IPV6, libc::IPV6_RECVPKTINFO),
];
/// The priority after the type of service, which sets it.
const ALL: [Name; 7] = [
    (libc::SOL_SOCKET, libc::SO_KEEPALIVE),
    (libc::SOL_SOCKET, libc::SO_PRIORITY),
    (libc::SOL_SOCKET, libc::SO_RCVLOWAT),
    (libc::SOL_SOCKET, libc::SO_OOBINLINE),
    (libc::SOL_SOCKET, libc::SO_LINGER),
    (libc::SOL_SOCKET, libc::SO_RCVTIMEO),
    (libc::SOL_SOCKET, libc::SO_SNDTIMEO),
];
/// Of these the kernel tells twice what was set (socket(7)).
const DOUBLED: [Name; 2] =
    [(libc::SOL_SOCKET, libc::SO_RCVBUF), (libc::SOL_SOCKET, libc::SO_SNDBUF)];
/// Longer than the value of any of them.
const LONGEST: usize = 32;

/// Options that change what an address means: a socket with one of them is bound by its program alone.
const FOREIGN: [Name; 2] =
    [(libc::IPPROTO_IP, libc::IP_TRANSPARENT), (libc::IPPROTO_IP, libc::IP_FREEBIND)];

/// Whether a socket's address is not what it looks like.
pub(crate) fn is_bound_otherwise(socket: impl AsFd) -> bool {
    let device = get(&socket, (libc::SOL_SOCKET, libc::SO_BINDTODEVICE));
    device.is_some_and(|name| name.first().is_some_and(|byte| *byte != 0))
        || FOREIGN.iter().any(|option| number(&socket, *option).is_some_and(|on| on != 0))
}

/// What a program set on `from` is set on `to`, as far as it differs.
pub(crate) fn copy(from: impl AsFd, to: impl AsFd, udp: bool, v6: bool) {
    let kind: &[Name] = if udp { &UDP } else { &TCP };
    let family: &[Name] = if v6 { &V6 } else { &V4 };
    for option in kind.iter().chain(family).chain(&ALL) {
        if let (Some(wanted), is) = (get(&from, *option), get(&to, *option))
            && is.as_ref() != Some(&wanted)
        {
            set(&to, *option, &wanted);
        }
    }
    for option in DOUBLED {
        if let (Some(wanted), is) = (number(&from, option), number(&to, option))
            && is != Some(wanted)
        {
            set(&to, option, &(wanted / 2).to_ne_bytes());
        }
    }
}

fn number(socket: &impl AsFd, option: Name) -> Option<libc::c_int> {
    get(socket, option)?.try_into().ok().map(libc::c_int::from_ne_bytes)
}

fn get(socket: &impl AsFd, (level, name): Name) -> Option<Vec<u8>> {
    let mut value = vec![0_u8; LONGEST];
    let mut size = libc::socklen_t::try_from(value.len()).unwrap_or(0);
    // SAFETY: `value` is writable for `size` bytes, and the kernel writes at most that many.
    let done = unsafe {
        libc::getsockopt(
            socket.as_fd().as_raw_fd(),
            level,
            name,
            value.as_mut_ptr().cast(),
            &raw mut size,
        )
    };
    value.truncate(size as usize);
    (done == 0).then_some(value)
}

/// One that cannot be set is left as it is: the socket serves without.
fn set(socket: &impl AsFd, (level, name): Name, value: &[u8]) {
    let size = libc::socklen_t::try_from(value.len()).unwrap_or(0);
    // SAFETY: `value` is readable for `size` bytes.
    unsafe {
        libc::setsockopt(socket.as_fd().as_raw_fd(), level, name, value.as_ptr().cast(), size);
    }
}

/// Lets a listening socket get no new connection: whoever tries waits, until the port is closed. Those
/// that wait in its queue, or are on their way to it, stay.
pub(crate) fn deafen(socket: impl AsFd) -> std::io::Result<()> {
    let insn = |code, jt, jf, k| libc::sock_filter { code, jt, jf, k };
    // The packet begins with TCP's header, whose byte 13 has the flags (RFC 9293, 3.1).
    let mut filter = [
        insn(0x30, 0, 0, 13),       // BPF_LD | BPF_B | BPF_ABS
        insn(0x54, 0, 0, 0x12),     // BPF_ALU | BPF_AND | BPF_K: SYN, ACK
        insn(0x15, 0, 1, 0x02),     // BPF_JMP | BPF_JEQ | BPF_K: SYN alone
        insn(0x06, 0, 0, 0),        // BPF_RET | BPF_K: drop it
        insn(0x06, 0, 0, u32::MAX), // keep all of it
    ];
    super::attach(socket, libc::SO_ATTACH_FILTER, &mut filter)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::net::{TcpListener, TcpStream};
    use std::time::Duration;

    #[test]
    fn options_are_copied() {
        let [from, to] = [(); 2].map(|()| TcpListener::bind("127.0.0.1:0").expect("bound"));
        let on = 1_i32.to_ne_bytes();
        let linger = (libc::SOL_SOCKET, libc::SO_LINGER);
        set(&from, TCP[0], &on);
        set(&from, DOUBLED[0], &100_000_i32.to_ne_bytes());
        set(&from, linger, &[on, 7_i32.to_ne_bytes()].concat());
        copy(&from, &to, false, false);
        assert_eq!(number(&to, TCP[0]), Some(1));
        assert_eq!(number(&to, DOUBLED[0]), Some(200_000));
        assert_eq!(get(&to, linger), get(&from, linger));
        assert!(!is_bound_otherwise(&to));
        set(&to, FOREIGN[1], &on);
        assert!(is_bound_otherwise(&to));
    }

    #[test]
    fn a_deaf_socket_keeps_what_waits() {
        let listener = TcpListener::bind("127.0.0.1:0").expect("bound");
        let address = listener.local_addr().expect("an address");
        let before = TcpStream::connect(address).expect("connected");
        deafen(&listener).expect("deaf");
        let error = TcpStream::connect_timeout(&address, Duration::from_millis(100));
        assert_eq!(error.expect_err("nobody hears").kind(), std::io::ErrorKind::TimedOut);
        let (_, from) = listener.accept().expect("it waited");
        assert_eq!(from, before.local_addr().expect("an address"));
    }
}

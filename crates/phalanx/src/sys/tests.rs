//! The steering programs against the kernel, on real reuseport groups.

use super::{accept_queue, attach_steering};
use crate::Address;
use crate::socket::{Sharing, Wish, local_address};
use phalanx_core::steering::{MAX_SLOTS, Mode, Share, program};
use rustix::fd::OwnedFd;
use std::net::{SocketAddr, TcpStream, UdpSocket};

fn group(slots: usize, address: &str, udp: bool) -> (Vec<OwnedFd>, SocketAddr) {
    let mut wish = Wish {
        address: address.parse().expect("an address"),
        udp,
        v6_only: false,
        backlog: 511,
        mode: None,
    };
    let mut sockets = vec![wish.open(Sharing::First).expect("opened")];
    wish.address = local_address(&sockets[0]).expect("an address");
    for _ in 1..slots {
        sockets.push(wish.open(Sharing::Join).expect("joined"));
    }
    let Address::Ip(real) = wish.address else { panic!("an IP address") };
    (sockets, real)
}

fn up(weights: &[u32]) -> Vec<Share> {
    weights.iter().map(|weight| Share { weight: *weight, up: true }).collect()
}

fn steer(sockets: &[OwnedFd], mode: Mode, shares: &[Share]) {
    let program = program(mode, shares).expect("a program");
    attach_steering(&sockets[0], &program).expect("the kernel takes it");
}

fn waiting(sockets: &[OwnedFd]) -> Vec<u32> {
    sockets.iter().map(|socket| accept_queue(socket).expect("a length")).collect()
}

#[test]
fn weights_decide_where_connections_wait() {
    for address in ["127.0.0.1:0", "[::1]:0"] {
        let (sockets, to) = group(4, address, false);
        steer(&sockets, Mode::Random, &up(&[0, 1, 0, 3]));
        let _clients: Vec<_> =
            (0..200).map(|_| TcpStream::connect(to).expect("connects")).collect();
        let queues = waiting(&sockets);
        assert_eq!((queues[0], queues[2], queues.iter().sum()), (0, 0, 200), "{queues:?}");
        // 50 expected, standard deviation 6.
        assert!((20..90).contains(&queues[1]), "{queues:?}");
        // A slot that goes down gets nothing more; its queue stays.
        let mut shares = up(&[0, 1, 0, 3]);
        shares[3].up = false;
        steer(&sockets, Mode::Random, &shares);
        let _more: Vec<_> = (0..100).map(|_| TcpStream::connect(to).expect("connects")).collect();
        assert_eq!(waiting(&sockets), [0, queues[1] + 100, 0, queues[3]]);
    }
}

#[test]
fn a_source_address_stays_with_its_slot() {
    let (sockets, to) = group(3, "127.0.0.1:0", false);
    steer(&sockets, Mode::Source, &up(&[1, 1, 1]));
    let mut homes = std::collections::BTreeSet::new();
    for host in 1..=20 {
        let before = waiting(&sockets);
        let _clients: Vec<TcpStream> =
            (0..5).map(|_| connect_from([127, 0, 2, host], to)).collect();
        let after = waiting(&sockets);
        let grown: Vec<usize> = (0..3).filter(|i| after[*i] != before[*i]).collect();
        assert_eq!(grown.len(), 1, "127.0.2.{host} went to {grown:?}");
        homes.extend(grown);
    }
    assert_eq!(homes.len(), 3, "and the addresses are spread");
}

fn connect_from(ip: [u8; 4], to: SocketAddr) -> TcpStream {
    use rustix::net::{AddressFamily, SocketType, bind, connect, socket};
    let socket = socket(AddressFamily::INET, SocketType::STREAM, None).expect("a socket");
    bind(&socket, &SocketAddr::from((ip, 0))).expect("bound");
    connect(&socket, &to).expect("connects");
    socket.into()
}

#[test]
fn a_udp_flow_stays_with_its_slot() {
    for address in ["127.0.0.1:0", "[::1]:0"] {
        let (sockets, to) = group(3, address, true);
        steer(&sockets, Mode::Flow, &up(&[1, 1, 1]));
        let sockets: Vec<UdpSocket> = sockets.into_iter().map(UdpSocket::from).collect();
        for _ in 0..20 {
            let client = UdpSocket::bind(SocketAddr::new(to.ip(), 0)).expect("bound");
            for _ in 0..5 {
                client.send_to(b"x", to).expect("sent");
            }
            let counts: Vec<usize> = sockets
                .iter()
                .map(|s| (0..).take_while(|_| s.recv(&mut [0; 4]).is_ok()).count())
                .collect();
            assert!(counts.contains(&5), "{counts:?}");
        }
    }
}

/// The largest programs there are: the kernel's checker takes them, and they reach the only two sockets.
#[test]
fn five_hundred_and_twelve_slots() {
    let (sockets, to) = group(2, "127.0.0.1:0", false);
    for mode in [Mode::Random, Mode::Source, Mode::Flow] {
        let mut shares: Vec<Share> =
            (0..512).map(|n| Share { weight: n % 7 + 1, up: n < 2 }).collect();
        assert_eq!(shares.len(), MAX_SLOTS);
        steer(&sockets, mode, &shares);
        let before: u32 = waiting(&sockets).iter().sum();
        let _clients: Vec<_> = (0..40).map(|_| TcpStream::connect(to).expect("connects")).collect();
        let after = waiting(&sockets);
        assert_eq!(after.iter().sum::<u32>(), before + 40, "{mode:?}: {after:?}");
        shares.iter_mut().for_each(|share| share.up = true);
        steer(&sockets, mode, &shares);
    }
}

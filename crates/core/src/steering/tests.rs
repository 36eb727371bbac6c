//! What the programs do, seen through an interpreter.

use alloc::collections::BTreeSet;
use alloc::string::ToString;
use alloc::vec;
use alloc::vec::Vec;

use proptest::prelude::*;

use super::interpret::{run, verify};
use super::{Insn, MAX_SLOTS, Mode, Share, SteeringError, program};

const STICKY: [Mode; 2] = [Mode::Source, Mode::Flow];

fn up(weight: u32) -> Share {
    Share { weight, up: true }
}

fn down(weight: u32) -> Share {
    Share { weight, up: false }
}

fn verified(mode: Mode, shares: &[Share]) -> Vec<Insn> {
    let program = program(mode, shares).expect("a program");
    assert_eq!(verify(&program), Ok(()));
    program
}

/// An IPv4 packet without options, then UDP.
fn v4(address: u32, port: u16) -> Vec<u8> {
    v4_with_options(0, address, port)
}

fn v4_with_options(words: u8, address: u32, port: u16) -> Vec<u8> {
    let mut packet = vec![0u8; 28];
    packet[0] = 0x45 + words;
    packet[9] = 17;
    packet[12..16].copy_from_slice(&address.to_be_bytes());
    packet[20..22].copy_from_slice(&port.to_be_bytes());
    let options = vec![1u8; 4 * usize::from(words)];
    packet.splice(20..20, options);
    packet
}

/// An IPv6 packet, then the protocol given.
fn v6(address: [u16; 8], protocol: u8, port: u16) -> Vec<u8> {
    let mut packet = vec![0u8; 48];
    packet[0] = 0x60;
    packet[6] = protocol;
    for (bytes, group) in packet[8..24].chunks_mut(2).zip(address) {
        bytes.copy_from_slice(&group.to_be_bytes());
    }
    packet[40..42].copy_from_slice(&port.to_be_bytes());
    packet
}

fn v6_host(n: u16) -> Vec<u8> {
    v6([0x2001, 0xdb8, 0, 0, 0, 0, 0, n], 17, 4711)
}

/// As good a sample of 32-bit numbers as can be had without luck: a Weyl sequence.
fn randoms(n: u32) -> impl Iterator<Item = u32> {
    (0..n).map(|i| i.wrapping_mul(0x9e37_79b9))
}

fn count(slots: usize, chosen: impl IntoIterator<Item = u32>) -> Vec<u32> {
    let mut counts = vec![0; slots];
    for slot in chosen {
        counts[slot as usize] += 1;
    }
    counts
}

fn count_random(shares: &[Share], n: u32) -> Vec<u32> {
    let program = verified(Mode::Random, shares);
    count(shares.len(), randoms(n).map(|random| run(&program, &[], random)))
}

#[track_caller]
fn assert_even(counts: &[u32]) {
    let (min, max) = (counts.iter().min().unwrap(), counts.iter().max().unwrap());
    assert!(f64::from(*max) / f64::from(*min) <= 1.15, "{counts:?}");
}

#[test]
fn random_is_even() {
    let counts = count_random(&[up(7); 4], 10_000);
    assert!(counts.iter().all(|&count| count.abs_diff(2_500) < 60), "{counts:?}");
    assert_eq!(verified(Mode::Random, &[up(7); 4]).len(), 3, "ld, mod, ret");
    // Not the first indices: the general form.
    let counts = count_random(&[down(7), up(7), up(7)], 10_000);
    assert!(counts[0] == 0 && counts[1].abs_diff(5_000) < 60, "{counts:?}");
}

#[test]
fn random_is_by_weight() {
    let counts = count_random(&[up(95), up(95), up(10)], 20_000);
    assert!(counts[2].abs_diff(1_000) < 60, "{counts:?}");
    assert!(counts[0].abs_diff(9_500) < 60, "{counts:?}");
}

#[test]
fn weight_zero_gets_nothing() {
    assert_eq!(count_random(&[up(0), up(3), up(0), up(1)], 1_000)[..3], [0, 750, 0]);
    assert_eq!(count_random(&[up(0), up(3)], 1_000), [0, 1_000]);
    let shares = [up(0), up(3), up(0), up(2), down(9)];
    for mode in STICKY {
        let program = verified(mode, &shares);
        let counts = count(5, (0..5_000).map(|host| run(&program, &v4(host, 1), 0)));
        assert!(counts[0] == 0 && counts[2] == 0 && counts[4] == 0, "{counts:?}");
        assert!(counts[1].abs_diff(3_000) < 120, "{counts:?}");
    }
}

#[test]
fn any_weights_fit() {
    let counts = count_random(&[up(u32::MAX), up(u32::MAX), up(1)], 1 << 20);
    assert!(counts[0].abs_diff(counts[1]) < 2_000, "{counts:?}");
    assert!(counts[2] < 10, "{counts:?}");
    let counts = count_random(&[up(3_000_000_000), up(1_500_000_000), up(1)], 1 << 20);
    assert!((counts[0] / 2).abs_diff(counts[1]) < 2_000, "{counts:?}");
    let most = vec![up(u32::MAX - 1); MAX_SLOTS];
    assert_eq!(verified(Mode::Random, &most).len(), 3);
}

#[test]
fn every_slot_is_reached() {
    for slots in [1, 2, 3, 255, 256, 257, 511, 512] {
        let equal = vec![up(1); slots];
        let weighted: Vec<Share> = (0..slots).map(|slot| up(1 + u32::from(slot > 0))).collect();
        for shares in [&equal, &weighted] {
            let counts = count_random(shares, 16 * 1024);
            assert!(counts.iter().all(|&count| count > 0), "{slots}: {counts:?}");
            for mode in STICKY {
                let program = verified(mode, shares);
                let chosen = (0..16 * 1024).map(|host| run(&program, &v4(host, 1), 0));
                let counts = count(slots, chosen);
                assert!(counts.iter().all(|&count| count > 0), "{slots}: {counts:?}");
            }
        }
        // Every other slot is down: both trees at their largest.
        let mut half = weighted;
        half.iter_mut().skip(1).step_by(2).for_each(|share| share.up = false);
        let program = verified(Mode::Flow, &half);
        let chosen = (0..16 * 1024).map(|host| run(&program, &v4(host, 1), 0));
        for (slot, count) in count(slots, chosen).into_iter().enumerate() {
            assert_eq!(count > 0, slot % 2 == 0, "{slots}: slot {slot}: {count}");
        }
    }
}

#[test]
fn source_is_sticky() {
    let program = verified(Mode::Source, &[up(3), up(1), up(2), up(2)]);
    for host in 0..1_000u16 {
        let slot = run(&program, &v4(host.into(), 1), 0);
        assert_eq!(slot, run(&program, &v4(host.into(), 65_535), u32::MAX));
        assert_eq!(slot, run(&program, &v4_with_options(10, host.into(), 9), 5));
        let slot = run(&program, &v6_host(host), 0);
        assert_eq!(slot, run(&program, &v6([0x2001, 0xdb8, 0, 0, 0, 0, 0, host], 6, 99), 1));
    }
}

#[test]
fn source_hash_spreads() {
    let program = verified(Mode::Source, &[up(1); 4]);
    let spread = |packet: &dyn Fn(u16) -> Vec<u8>| {
        count(4, (0..10_000).map(|n| run(&program, &packet(n), 0)))
    };
    assert_even(&spread(&|n| v4(0x0a00_0000 + u32::from(n), 1)));
    assert_even(&spread(&|n| v4(0xc0a8_0000 + (u32::from(n) << 8), 1)));
    for group in 0..8 {
        assert_even(&spread(&|n| {
            let mut address = [0x2001, 0xdb8, 0, 0, 0, 0, 0, 1];
            address[group] = n;
            v6(address, 17, 1)
        }));
    }
}

#[test]
fn flow_is_sticky_by_port_too() {
    let program = verified(Mode::Flow, &[up(1); 4]);
    let slot = |packet: Vec<u8>, random| run(&program, &packet, random);
    let address = [0x2001, 0xdb8, 0, 0, 0, 0, 0, 1];
    for port in 0..1_000 {
        let home = slot(v4(0x7f00_0001, port), 0);
        // The port is found behind IP options; the random number plays no part.
        assert_eq!(home, slot(v4_with_options(3, 0x7f00_0001, port), 7));
        assert_eq!(home, slot(v4_with_options(10, 0x7f00_0001, port), 9));
        assert_eq!(slot(v6(address, 17, port), 0), slot(v6(address, 17, port), 1));
        // What stands behind an extension header's beginning is not a port.
        assert_eq!(slot(v6(address, 0, 1), 0), slot(v6(address, 0, port), 1));
    }
    assert_even(&count(4, (0..10_000).map(|port| slot(v4(0x7f00_0001, port), 0))));
    assert_even(&count(4, (0..10_000).map(|port| slot(v6(address, 17, port), 0))));
    assert_even(&count(4, (0..10_000).map(|port| slot(v6(address, 6, port), 0))));
    assert_even(&count(4, (0..10_000).map(|host| slot(v4(host, 53), 0))));
}

#[test]
fn only_the_clients_of_a_slot_that_goes_down_move() {
    let packets: Vec<Vec<u8>> = (0..2_000)
        .map(|n| v4(0x0a00_0000 + u32::from(n), n))
        .chain((0..2_000).map(v6_host))
        .collect();
    let all_up = [up(1), up(2), up(3), up(2)];
    for mode in STICKY {
        let homes = |shares: &[Share]| -> Vec<u32> {
            let program = verified(mode, shares);
            packets.iter().map(|packet| run(&program, packet, 0)).collect()
        };
        let before = homes(&all_up);
        for gone in 0..4usize {
            let mut shares = all_up;
            shares[gone].up = false;
            let during = homes(&shares);
            let mut moved = Vec::new();
            for (&home, &slot) in before.iter().zip(&during) {
                if home as usize == gone {
                    moved.push(slot);
                } else {
                    assert_eq!(home, slot);
                }
            }
            // Those that move go to the others by weight.
            let weights: u32 = shares.iter().filter(|share| share.up).map(|s| s.weight).sum();
            let counts = count(4, moved.iter().copied());
            for (share, got) in shares.iter().zip(counts) {
                let due = if share.up { share.weight } else { 0 };
                let due = f64::from(due) * moved.len() as f64 / f64::from(weights);
                assert!((f64::from(got) - due).abs() <= 60.0, "{got}, not {due}");
            }
            shares[gone].up = true;
            assert_eq!(before, homes(&shares), "they return");
        }
    }
}

#[test]
fn none_up_and_none_weighted() {
    for mode in [Mode::Random, Mode::Source, Mode::Flow] {
        // They wait at home.
        assert_eq!(
            program(mode, &[down(3), up(0), down(1)]),
            program(mode, &[up(3), up(0), up(1)]),
        );
        for all_zero in [[up(0); 3], [down(0); 3]] {
            assert_eq!(program(mode, &all_zero), program(mode, &[up(1); 3]));
        }
        // Without any weight, those that are up are still better.
        assert_eq!(
            program(mode, &[up(0), down(0), up(0)]),
            program(mode, &[up(1), down(1), up(1)]),
        );
    }
}

#[test]
fn neither_v4_nor_v6_is_random() {
    for mode in STICKY {
        let program = verified(mode, &[up(1); 4]);
        let counts = count(4, randoms(4_000).map(|random| run(&program, &[0x55; 60], random)));
        assert!(counts.iter().all(|&count| count.abs_diff(1_000) < 20), "{counts:?}");
    }
}

#[test]
fn errors_say_what_to_do() {
    assert_eq!(program(Mode::Random, &[]), Err(SteeringError::NoSlots));
    let error = program(Mode::Random, &[up(1); MAX_SLOTS + 1]).unwrap_err();
    assert_eq!(error, SteeringError::TooManySlots { slots: 513 });
    assert!(error.to_string().starts_with("513 slots"), "{error}");
    assert!(error.to_string().ends_with("use at most 512 workers"), "{error}");
}

fn any_weight() -> impl Strategy<Value = u32> {
    prop_oneof![Just(0), Just(1), Just(u32::MAX), 0..200u32, any::<u32>()]
}

fn any_shares() -> impl Strategy<Value = Vec<Share>> {
    let share = (any_weight(), any::<bool>()).prop_map(|(weight, up)| Share { weight, up });
    let mixed = prop::collection::vec(share, 1..=MAX_SLOTS);
    let equal = (any_weight(), 1..=MAX_SLOTS, any::<bool>())
        .prop_map(|(weight, slots, up)| vec![Share { weight, up }; slots]);
    prop_oneof![4 => mixed, 1 => equal]
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn any_program_is_valid_and_chooses_what_may_be_chosen(
        shares in any_shares(),
        mode in prop::sample::select(vec![Mode::Random, Mode::Source, Mode::Flow]),
        packets in prop::collection::vec((prop::array::uniform32(any::<u8>()), any::<u32>()), 20),
    ) {
        let program = program(mode, &shares).unwrap();
        prop_assert_eq!(verify(&program), Ok(()));

        let slots = |test: &dyn Fn(&Share) -> bool| -> BTreeSet<usize> {
            (0..shares.len()).filter(|&slot| test(&shares[slot])).collect()
        };
        let allowed = [
            slots(&|share| share.weight > 0 && share.up),
            slots(&|share| share.weight > 0),
            slots(&|share| share.up),
            slots(&|_| true),
        ];
        let allowed = allowed.iter().find(|slots| !slots.is_empty()).unwrap();
        for (bytes, random) in packets {
            // 64 bytes hold the longest IPv4 header with ports.
            for version in [bytes[0], 0x45, 0x4f, 0x60] {
                let mut packet = [bytes, bytes].concat();
                packet[0] = version;
                let slot = run(&program, &packet, random) as usize;
                prop_assert!(allowed.contains(&slot), "slot {} of {:?}", slot, shares);
            }
        }
    }
}

//! Which addresses a request may go to, whatever name led there.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use crate::config::Means;

/// Whose an address is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Reach {
    /// Of the public internet.
    Public,
    /// Of the operator's own network.
    Private,
    /// Of this machine.
    Loopback,
    /// Of nobody that a plugin has to talk to: the machines' own metadata, reserved, multicast.
    Never,
}

/// An IPv4 block: address, length of its prefix, and whose it is. The first that holds an address counts.
///
/// The IANA registry of special-purpose IPv4 addresses, and before them the places where clouds tell machines their secrets
/// outside of 169.254/16.
const V4: &[(Ipv4Addr, u32, Reach)] = &[
    (Ipv4Addr::new(100, 100, 100, 200), 32, Reach::Never),
    (Ipv4Addr::new(168, 63, 129, 16), 32, Reach::Never),
    (Ipv4Addr::new(0, 0, 0, 0), 8, Reach::Never),
    (Ipv4Addr::new(10, 0, 0, 0), 8, Reach::Private),
    (Ipv4Addr::new(100, 64, 0, 0), 10, Reach::Private),
    (Ipv4Addr::new(127, 0, 0, 0), 8, Reach::Loopback),
    (Ipv4Addr::new(169, 254, 0, 0), 16, Reach::Never),
    (Ipv4Addr::new(172, 16, 0, 0), 12, Reach::Private),
    (Ipv4Addr::new(192, 0, 0, 0), 24, Reach::Never),
    (Ipv4Addr::new(192, 0, 2, 0), 24, Reach::Never),
    (Ipv4Addr::new(192, 88, 99, 0), 24, Reach::Never),
    (Ipv4Addr::new(192, 168, 0, 0), 16, Reach::Private),
    (Ipv4Addr::new(198, 18, 0, 0), 15, Reach::Never),
    (Ipv4Addr::new(198, 51, 100, 0), 24, Reach::Never),
    (Ipv4Addr::new(203, 0, 113, 0), 24, Reach::Never),
    (Ipv4Addr::new(224, 0, 0, 0), 4, Reach::Never),
    (Ipv4Addr::new(240, 0, 0, 0), 4, Reach::Never),
];

/// The same for IPv6. What is in none of them and outside of 2000::/3 is nobody's.
const V6: &[(Ipv6Addr, u32, Reach)] = &[
    (Ipv6Addr::LOCALHOST, 128, Reach::Loopback),
    (Ipv6Addr::new(0xfd00, 0xec2, 0, 0, 0, 0, 0, 0), 32, Reach::Never),
    (Ipv6Addr::new(0xfc00, 0, 0, 0, 0, 0, 0, 0), 7, Reach::Private),
    (Ipv6Addr::new(0x2001, 0, 0, 0, 0, 0, 0, 0), 23, Reach::Never),
    (Ipv6Addr::new(0x2001, 0xdb8, 0, 0, 0, 0, 0, 0), 32, Reach::Never),
    (Ipv6Addr::new(0x3fff, 0, 0, 0, 0, 0, 0, 0), 20, Reach::Never),
    (Ipv6Addr::new(0x2000, 0, 0, 0, 0, 0, 0, 0), 3, Reach::Public),
];

/// IPv6 addresses that lead to an IPv4 address inside them, which is judged in their place: NAT64 (RFC 6052) and 6to4
/// (RFC 3056), with the bits that stand behind it.
const EMBEDDED: &[(Ipv6Addr, u32, u32)] = &[
    (Ipv6Addr::new(0x64, 0xff9b, 0, 0, 0, 0, 0, 0), 96, 0),
    (Ipv6Addr::new(0x2002, 0, 0, 0, 0, 0, 0, 0), 16, 80),
];

/// Whose an address is.
pub(super) fn reach(address: IpAddr) -> Reach {
    match address.to_canonical() {
        IpAddr::V4(address) => {
            let holds =
                |block: &&(Ipv4Addr, u32, Reach)| (address.to_bits() ^ block.0.to_bits()) >> (32 - block.1) == 0;
            V4.iter().find(holds).map_or(Reach::Public, |block| block.2)
        }
        IpAddr::V6(address) => {
            let within = |block: Ipv6Addr, prefix: u32| (address.to_bits() ^ block.to_bits()) >> (128 - prefix) == 0;
            if let Some((_, _, behind)) = EMBEDDED.iter().find(|(block, prefix, _)| within(*block, *prefix)) {
                let inner = (address.to_bits() >> behind) & u128::from(u32::MAX);
                return reach(Ipv4Addr::from_bits(u32::try_from(inner).unwrap_or_default()).into());
            }
            let block = V6.iter().find(|(block, prefix, _)| within(*block, *prefix));
            block.map_or(Reach::Never, |block| block.2)
        }
    }
}

/// Whether an address is one that the grant of its server means.
pub(super) fn meant(means: Means, address: IpAddr) -> bool {
    match means {
        Means::Public => reach(address) == Reach::Public,
        Means::Private => matches!(reach(address), Reach::Public | Reach::Private),
        Means::Loopback => reach(address) == Reach::Loopback,
        Means::Itself => true,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    /// First and last address of every block, whose it is, and whose its neighbours are.
    #[test]
    fn every_edge_of_every_block_is_where_it_should_be() {
        use Reach::{Loopback, Never, Private, Public};
        for (first, last, inside, before, after) in [
            ("0.0.0.0", "0.255.255.255", Never, None, Some(Public)),
            ("10.0.0.0", "10.255.255.255", Private, Some(Public), Some(Public)),
            ("100.64.0.0", "100.127.255.255", Private, Some(Public), Some(Public)),
            (
                "100.100.100.200",
                "100.100.100.200",
                Never,
                Some(Private),
                Some(Private),
            ),
            ("127.0.0.0", "127.255.255.255", Loopback, Some(Public), Some(Public)),
            ("168.63.129.16", "168.63.129.16", Never, Some(Public), Some(Public)),
            ("169.254.0.0", "169.254.255.255", Never, Some(Public), Some(Public)),
            ("172.16.0.0", "172.31.255.255", Private, Some(Public), Some(Public)),
            ("192.0.0.0", "192.0.0.255", Never, Some(Public), Some(Public)),
            ("192.0.2.0", "192.0.2.255", Never, Some(Public), Some(Public)),
            ("192.88.99.0", "192.88.99.255", Never, Some(Public), Some(Public)),
            ("192.168.0.0", "192.168.255.255", Private, Some(Public), Some(Public)),
            ("198.18.0.0", "198.19.255.255", Never, Some(Public), Some(Public)),
            ("198.51.100.0", "198.51.100.255", Never, Some(Public), Some(Public)),
            ("203.0.113.0", "203.0.113.255", Never, Some(Public), Some(Public)),
            ("224.0.0.0", "255.255.255.255", Never, Some(Public), None),
            ("::", "::", Never, None, Some(Loopback)),
            ("::1", "::1", Loopback, Some(Never), Some(Never)),
            ("::2", "::fffe:ffff:ffff", Never, Some(Loopback), Some(Never)),
            (
                "64:ff9b::a00:0",
                "64:ff9b::aff:ffff",
                Private,
                Some(Public),
                Some(Public),
            ),
            (
                "64:ff9b::7f00:0",
                "64:ff9b::7fff:ffff",
                Loopback,
                Some(Public),
                Some(Public),
            ),
            (
                "64:ff9b::a9fe:0",
                "64:ff9b::a9fe:ffff",
                Never,
                Some(Public),
                Some(Public),
            ),
            (
                "64:ff9b::1:0:0",
                "1fff:ffff:ffff:ffff:ffff:ffff:ffff:ffff",
                Never,
                Some(Never),
                Some(Public),
            ),
            (
                "2001::",
                "2001:1ff:ffff:ffff:ffff:ffff:ffff:ffff",
                Never,
                Some(Public),
                Some(Public),
            ),
            (
                "2001:db8::",
                "2001:db8:ffff:ffff:ffff:ffff:ffff:ffff",
                Never,
                Some(Public),
                Some(Public),
            ),
            (
                "2002:a00::",
                "2002:aff:ffff:ffff:ffff:ffff:ffff:ffff",
                Private,
                Some(Public),
                Some(Public),
            ),
            (
                "2002:7f00::",
                "2002:7fff:ffff:ffff:ffff:ffff:ffff:ffff",
                Loopback,
                Some(Public),
                Some(Public),
            ),
            (
                "2002:a9fe::",
                "2002:a9fe:ffff:ffff:ffff:ffff:ffff:ffff",
                Never,
                Some(Public),
                Some(Public),
            ),
            (
                "3fff::",
                "3fff:fff:ffff:ffff:ffff:ffff:ffff:ffff",
                Never,
                Some(Public),
                Some(Public),
            ),
            (
                "4000::",
                "fbff:ffff:ffff:ffff:ffff:ffff:ffff:ffff",
                Never,
                Some(Public),
                Some(Private),
            ),
            (
                "fc00::",
                "fd00:ec1:ffff:ffff:ffff:ffff:ffff:ffff",
                Private,
                Some(Never),
                Some(Never),
            ),
            (
                "fd00:ec2::",
                "fd00:ec2:ffff:ffff:ffff:ffff:ffff:ffff",
                Never,
                Some(Private),
                Some(Private),
            ),
            (
                "fd00:ec3::",
                "fdff:ffff:ffff:ffff:ffff:ffff:ffff:ffff",
                Private,
                Some(Never),
                Some(Never),
            ),
            (
                "fe80::",
                "febf:ffff:ffff:ffff:ffff:ffff:ffff:ffff",
                Never,
                Some(Never),
                Some(Never),
            ),
            (
                "fec0::",
                "feff:ffff:ffff:ffff:ffff:ffff:ffff:ffff",
                Never,
                Some(Never),
                Some(Never),
            ),
            (
                "ff00::",
                "ffff:ffff:ffff:ffff:ffff:ffff:ffff:ffff",
                Never,
                Some(Never),
                None,
            ),
        ] {
            let (first, last): (IpAddr, IpAddr) = (first.parse().unwrap(), last.parse().unwrap());
            assert_eq!((reach(first), reach(last)), (inside, inside), "{first} to {last}");
            assert_eq!(step(first, -1).map(reach), before, "before {first}");
            assert_eq!(step(last, 1).map(reach), after, "after {last}");
        }
    }

    fn step(address: IpAddr, by: i8) -> Option<IpAddr> {
        Some(match address {
            IpAddr::V4(v4) => Ipv4Addr::from_bits(v4.to_bits().checked_add_signed(by.into())?).into(),
            IpAddr::V6(v6) => Ipv6Addr::from_bits(v6.to_bits().checked_add_signed(by.into())?).into(),
        })
    }

    #[test]
    fn what_a_grant_means_is_what_it_reaches() {
        let addresses = [
            "93.184.215.14",
            "10.0.0.1",
            "127.0.0.1",
            "169.254.169.254",
            "::1",
            "fd00:ec2::254",
        ];
        for (means, expected) in [
            (Means::Public, [true, false, false, false, false, false]),
            (Means::Private, [true, true, false, false, false, false]),
            (Means::Loopback, [false, false, true, false, true, false]),
            (Means::Itself, [true; 6]),
        ] {
            assert_eq!(
                addresses.map(|address| meant(means, address.parse().unwrap())),
                expected,
                "{means:?}"
            );
        }
    }

    proptest! {
        #[test]
        fn an_ipv4_address_is_judged_alike_however_it_is_wrapped(bits in any::<u32>(), rest in any::<u64>()) {
            let plain = Ipv4Addr::from_bits(bits);
            let expected = reach(plain.into());
            prop_assert_eq!(reach(plain.to_ipv6_mapped().into()), expected);
            let nat = Ipv6Addr::from_bits((0x64_ff9b_u128 << 96) | u128::from(bits));
            prop_assert_eq!(reach(nat.into()), expected);
            let six_to_four = Ipv6Addr::from_bits((0x2002_u128 << 112) | (u128::from(bits) << 80) | u128::from(rest));
            prop_assert_eq!(reach(six_to_four.into()), expected);
        }
    }
}

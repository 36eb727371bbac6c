//! What a worker asks for, in the terms of sockets.

use crate::address::{Address, printable};
use crate::error::{Error, Result};
use crate::socket::{self, Wish};
use phalanx_core::wire::{AddressType, Query};
use std::net::{IpAddr, Ipv6Addr, SocketAddr};
use std::path::PathBuf;

/// The socket that a query means, at this address.
pub(super) fn wish(query: &Query, address: Address, udp: bool) -> Wish {
    let bits = (u32::from(query.readable_all) * 0o444) | (u32::from(query.writable_all) * 0o222);
    // As libuv: the bits are added to the owner's.
    let asked = (bits != 0).then_some(0o755 | bits);
    let mode = query.extras.mode.map(|m| m & 0o777).or(asked);
    Wish {
        address,
        udp,
        v6_only: query.flags & 1 != 0,
        backlog: query
            .backlog
            .and_then(|b| i32::try_from(b).ok())
            .filter(|b| *b > 0)
            .unwrap_or(socket::BACKLOG),
        mode,
    }
}

/// The address of a query. A worker's word is not trusted: whatever it is, an answer or an error.
pub(super) fn address(query: &Query) -> Result<Address> {
    let bad = || {
        let text = printable(query.address.as_deref().unwrap_or_default());
        Error::Address(format!("{text} port {}", query.port.unwrap_or(0)))
    };
    if query.address_type == AddressType::Unix {
        // An empty name would be one that the kernel makes up (unix(7), autobind).
        let path = query.address.as_deref().filter(|p| !p.is_empty() && !p.contains('\0'));
        return Ok(Address::Unix(PathBuf::from(path.ok_or_else(bad)?)));
    }
    let port = u16::try_from(query.port.unwrap_or(0)).map_err(|_| bad())?;
    let ip = match query.address.as_deref() {
        None | Some("") => IpAddr::V6(Ipv6Addr::UNSPECIFIED),
        Some(text) => text.parse().map_err(|_| bad())?,
    };
    Ok(Address::Ip(SocketAddr::new(ip, port)))
}

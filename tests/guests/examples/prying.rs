//! Tries everything that WASI has to reach the world outside.

use std::net::{TcpListener, TcpStream, ToSocketAddrs, UdpSocket};
use std::time::{Instant, SystemTime, UNIX_EPOCH};

use serde_json::{Value, json};
use waypost_sdk::{Call, Result};

fn tried<T>(result: std::io::Result<T>) -> String {
    result.map_or_else(|error| format!("{:?}", error.kind()), |_| "reached".to_owned())
}

/// Whether the next step of the clock is a whole millisecond, or several.
fn ticks() -> bool {
    let began = Instant::now();
    loop {
        let step = began.elapsed();
        if !step.is_zero() {
            return step.subsec_nanos().is_multiple_of(1_000_000);
        }
    }
}

fn pry(_: &Call, (): ()) -> Result<Value> {
    Ok(json!({
        "variables": std::env::vars().count(),
        "arguments": std::env::args().count(),
        "root": tried(std::fs::read_dir("/")),
        "here": tried(std::fs::read_dir(".")),
        "file": tried(std::fs::read("/etc/passwd")),
        "write": tried(std::fs::write("out.txt", "x")),
        "connect": tried(TcpStream::connect(("127.0.0.1", 80))),
        "listen": tried(TcpListener::bind(("127.0.0.1", 0))),
        "datagram": tried(UdpSocket::bind(("127.0.0.1", 0))),
        "name": tried(("localhost", 80).to_socket_addrs()),
        "clock": SystemTime::now().duration_since(UNIX_EPOCH).is_ok_and(|now| now.as_secs() > 1_700_000_000),
        "ticks": (0..3).all(|_| ticks()),
        "input": tried(std::io::stdin().read_line(&mut String::new()).and_then(|read| match read {
            0 => Err(std::io::ErrorKind::UnexpectedEof.into()),
            _ => Ok(read),
        })),
    }))
}

waypost_sdk::handler!(pry);

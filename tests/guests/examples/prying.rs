//! Tries everything that WASI has to reach the world outside.

use std::net::{TcpListener, TcpStream, ToSocketAddrs, UdpSocket};
use std::time::{Instant, SystemTime, UNIX_EPOCH};

use serde_json::{Value, json};
use waypost_sdk::{Call, Result};

fn tried<T>(result: std::io::Result<T>) -> String {
    result.map_or_else(|error| format!("{:?}", error.kind()), |_| "reached".to_owned())
}

fn pry(_: &Call, (): ()) -> Result<Value> {
    let began = Instant::now();
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
        "ticks": began.elapsed().as_nanos() > 0,
        "input": tried(std::io::stdin().read_line(&mut String::new()).and_then(|read| match read {
            0 => Err(std::io::ErrorKind::UnexpectedEof.into()),
            _ => Ok(read),
        })),
    }))
}

waypost_sdk::handler!(pry);

//! SOCKS port that answers as Tor does and connects at once.

use std::collections::HashMap;
use std::io::{Read, Result, Write};
use std::net::{Ipv4Addr, SocketAddr, TcpListener, TcpStream};
use std::sync::Arc;

/// Starts a SOCKS port and returns its address. It connects to these hosts, and to IPv4 addresses as an exit would.
pub(crate) fn start_fake_tor(hosts: HashMap<String, SocketAddr>) -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap();
    let hosts = Arc::new(hosts);
    std::thread::spawn(move || {
        for client in listener.incoming().flatten() {
            let hosts = Arc::clone(&hosts);
            std::thread::spawn(move || serve(client, &hosts));
        }
    });
    address
}

fn serve(mut client: TcpStream, hosts: &HashMap<String, SocketAddr>) -> Result<()> {
    let [_, count] = read(&mut client)?;
    let mut methods = vec![0; usize::from(count)];
    client.read_exact(&mut methods)?;
    let method = if methods.contains(&2) { 2 } else { 0 };
    client.write_all(&[5, method])?;
    if method == 2 {
        // User name and password, which select a circuit.
        let [_] = read(&mut client)?;
        for _ in 0..2 {
            read_text(&mut client)?;
        }
        client.write_all(&[1, 0])?;
    }
    let [_, command, _, kind] = read(&mut client)?;
    let host = match kind {
        1 => Ipv4Addr::from(read::<4>(&mut client)?).to_string(),
        _ => read_text(&mut client)?,
    };
    let port = u16::from_be_bytes(read(&mut client)?);
    let ip: Option<Ipv4Addr> = host.parse().ok();
    match command {
        // CONNECT
        1 => match hosts.get(&host).copied().or(ip.map(|ip| SocketAddr::from((ip, port)))).map(TcpStream::connect) {
            Some(Ok(server)) => {
                client.write_all(&[5, 0, 0, 1, 0, 0, 0, 0, 0, 0])?;
                relay(client, server)
            }
            Some(Err(_)) => client.write_all(&[5, 5, 0, 1, 0, 0, 0, 0, 0, 0]),
            None => client.write_all(&[5, 4, 0, 1, 0, 0, 0, 0, 0, 0]),
        },
        // RESOLVE
        0xf0 => match ip.map(|ip| ip.octets()) {
            Some([a, b, c, d]) => client.write_all(&[5, 0, 0, 1, a, b, c, d, 0, 0]),
            None => client.write_all(&[5, 4, 0, 1, 0, 0, 0, 0, 0, 0]),
        },
        _ => client.write_all(&[5, 7, 0, 1, 0, 0, 0, 0, 0, 0]),
    }
}

fn relay(mut client: TcpStream, mut server: TcpStream) -> Result<()> {
    let (mut from_client, mut to_server) = (client.try_clone()?, server.try_clone()?);
    std::thread::spawn(move || {
        let _ = std::io::copy(&mut from_client, &mut to_server);
        let _ = to_server.shutdown(std::net::Shutdown::Write);
    });
    let _ = std::io::copy(&mut server, &mut client);
    client.shutdown(std::net::Shutdown::Both)
}

fn read<const N: usize>(stream: &mut TcpStream) -> Result<[u8; N]> {
    let mut bytes = [0; N];
    stream.read_exact(&mut bytes)?;
    Ok(bytes)
}

/// Reads a text that follows its length.
fn read_text(stream: &mut TcpStream) -> Result<String> {
    let [length] = read(stream)?;
    let mut text = vec![0; usize::from(length)];
    stream.read_exact(&mut text)?;
    Ok(String::from_utf8_lossy(&text).into_owned())
}

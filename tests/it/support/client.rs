//! Clients of a daemon's listeners and of its status page.

use std::collections::BTreeSet;
use std::io::{BufRead, BufReader, ErrorKind, Read, Write};
use std::net::{IpAddr, SocketAddr, TcpStream, ToSocketAddrs};
use std::time::Duration;

use serde_json::{Value, json};
use socket2::{Domain, Socket, Type};

/// Time that a client waits for a response.
const TIMEOUT: Duration = Duration::from_secs(20);

/// Connection to a server of the Electrum protocol.
pub(crate) struct TestClient(BufReader<TcpStream>);

impl TestClient {
    pub(crate) fn connect(server: impl ToSocketAddrs) -> TestClient {
        TestClient::new(TcpStream::connect(server).unwrap())
    }

    /// Connects, and waits this long for a response.
    pub(crate) fn connect_patiently(server: impl ToSocketAddrs, timeout: Duration) -> TestClient {
        let client = TestClient::connect(server);
        client.0.get_ref().set_read_timeout(Some(timeout)).unwrap();
        client
    }

    /// Connects from a source address.
    pub(crate) fn connect_from(source: &str, server: SocketAddr) -> TestClient {
        TestClient::new(connect_from(source.parse().unwrap(), server))
    }

    fn new(stream: TcpStream) -> TestClient {
        stream.set_read_timeout(Some(TIMEOUT)).unwrap();
        TestClient(BufReader::new(stream))
    }

    /// Sends a line and returns the response, or null when the connection is closed.
    pub(crate) fn request(&mut self, line: &str) -> Value {
        self.send(&format!("{line}\n"));
        self.receive()
    }

    /// Sends bytes. An error is ignored, since a rejected client may be disconnected already.
    pub(crate) fn send(&mut self, bytes: &str) {
        let _ = self.0.get_mut().write_all(bytes.as_bytes());
    }

    /// Returns the next line, or null when the connection is closed.
    pub(crate) fn receive(&mut self) -> Value {
        let mut line = String::new();
        let _ = self.0.read_line(&mut line);
        serde_json::from_str(&line).unwrap_or_default()
    }

    /// Tells whether a request for the peer list is answered with one.
    pub(crate) fn is_served(&mut self) -> bool {
        self.request(r#"{"id":1,"method":"server.peers.subscribe"}"#)["result"].is_array()
    }

    /// Returns the error code for such a request; 0 without an error.
    pub(crate) fn error_code(&mut self) -> i64 {
        let response = self.request(r#"{"id":1,"method":"server.peers.subscribe"}"#);
        response["error"]["code"].as_i64().unwrap_or_default()
    }

    /// Tells whether the server closes the connection before it sends anything else.
    pub(crate) fn is_closed(&mut self) -> bool {
        match self.0.read(&mut [0; 16]) {
            Ok(length) => length == 0,
            Err(error) => error.kind() == ErrorKind::ConnectionReset,
        }
    }

    fn call(&mut self, method: &str, params: &Value) -> Result<Value, Value> {
        let request = json!({ "jsonrpc": "2.0", "id": 1, "method": method, "params": params });
        let mut response = self.request(&request.to_string());
        assert!(response.is_object(), "{method}: no response");
        if response["error"].is_null() { Ok(response["result"].take()) } else { Err(response["error"].take()) }
    }
}

/// Connects from a source address; loopback has many.
pub(crate) fn connect_from(source: IpAddr, server: SocketAddr) -> TcpStream {
    let socket = Socket::new(Domain::IPV4, Type::STREAM, None).unwrap();
    socket.bind(&SocketAddr::new(source, 0).into()).unwrap();
    socket.connect(&server.into()).unwrap();
    let stream = TcpStream::from(socket);
    stream.set_read_timeout(Some(TIMEOUT)).unwrap();
    stream
}

/// Sends one request, after `server.version`, and expects a result.
pub(crate) fn call(address: &str, method: &str, params: Value) -> Value {
    try_call(address, method, params).unwrap_or_else(|error| panic!("{method}: {error}"))
}

/// Sends one request, after `server.version`. Returns the result or the error.
pub(crate) fn try_call(address: &str, method: &str, params: Value) -> Result<Value, Value> {
    let mut client = TestClient::connect(address);
    client.call("server.version", &json!(["test", ["1.4", "1.6"]]))?;
    client.call(method, &params)
}

/// Returns the hosts that a server lists.
pub(crate) fn hosts(address: &str) -> BTreeSet<String> {
    let list = call(address, "server.peers.subscribe", json!([]));
    list.as_array().unwrap().iter().map(|entry| entry[1].as_str().unwrap().to_owned()).collect()
}

/// Returns the entry of a host in a server's list.
pub(crate) fn own_entry(server: &str, host: &str) -> Option<Value> {
    let list = call(server, "server.peers.subscribe", json!([]));
    list.as_array().unwrap().iter().find(|entry| entry[1] == host).cloned()
}

/// Fetches a page. Returns the status code and the body.
pub(crate) fn fetch(address: &str, path: &str) -> (u16, String) {
    fetch_as(address, address, path)
}

/// Fetches a page with another name in the `Host` header.
pub(crate) fn fetch_as(address: &str, host: &str, path: &str) -> (u16, String) {
    http(address, &format!("GET {path} HTTP/1.1\r\nHost: {host}\r\nConnection: close\r\n\r\n"))
}

/// Sends an HTTP request as it is. Returns the status code and the body of the response.
pub(crate) fn http(address: impl ToSocketAddrs, request: &str) -> (u16, String) {
    let mut stream = TcpStream::connect(address).unwrap();
    stream.set_read_timeout(Some(TIMEOUT)).unwrap();
    stream.write_all(request.as_bytes()).unwrap();
    let mut response = String::new();
    stream.read_to_string(&mut response).unwrap();
    let (head, body) = response.split_once("\r\n\r\n").expect("a head and a body");
    (head.split(' ').nth(1).unwrap().parse().unwrap(), body.to_owned())
}

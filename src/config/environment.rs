//! Environment variables: which of them are settings, and how one is read.

use super::{ConfigFile, key_types};

/// Prefix of the environment variables that set a key: `WAYPOST_TOR__MODE` is `tor.mode`.
pub const PREFIX: &str = "WAYPOST_";

/// Whether Kubernetes sets this variable for a service named `waypost` or `waypost-…`.
///
/// A key has `__` or is a table or top-level key, and no name of these looks like one below. `…_PORT` alone could be a
/// key whose second underscore is missing, but Kubernetes gives it a URL for value.
pub fn is_of_kubernetes(name: &str, value: &str) -> bool {
    let Some(rest) = name.strip_prefix(PREFIX).filter(|rest| !rest.contains("__")) else { return false };
    // As if it stood after the name of a service, which may be "waypost" itself.
    let rest = format!("_{rest}");
    let is_url = ["tcp://", "udp://", "sctp://"].iter().any(|scheme| value.starts_with(scheme));
    rest.ends_with("_SERVICE_HOST")
        || rest.ends_with("_SERVICE_PORT")
        || rest.contains("_SERVICE_PORT_")
        || (rest.ends_with("_PORT") && is_url)
        || is_port_of_protocol(&rest)
}

/// Whether a name ends in `_PORT_50001_TCP`, or in that with `_PROTO`, `_PORT` or `_ADDR`.
fn is_port_of_protocol(name: &str) -> bool {
    let name = ["_PROTO", "_PORT", "_ADDR"].iter().find_map(|end| name.strip_suffix(end)).unwrap_or(name);
    let without_protocol = ["_TCP", "_UDP", "_SCTP"].iter().find_map(|end| name.strip_suffix(end));
    let port = without_protocol.and_then(|rest| rest.rsplit_once("_PORT_")).map(|(_, port)| port);
    port.is_some_and(|port| !port.is_empty() && port.bytes().all(|byte| byte.is_ascii_digit()))
}

/// Reads a single key as if it stood in a file. Its value may be written as TOML, or as bare text.
pub fn read(name: &str, key: &str, value: &str) -> Result<ConfigFile, String> {
    let known =
        key.split('.').all(|part| !part.is_empty() && part.bytes().all(|b| b.is_ascii_lowercase() || b == b'_'));
    if !known {
        return Err("no key has such a name".to_owned());
    }
    let parse = |value: &str| {
        let text = format!("{key} = {value}");
        toml::from_str::<ConfigFile>(&text)
            .map_err(|error| key_types::describe(&text, &error, |key, example| as_variable(name, key, example)))
    };
    let is_toml = toml::from_str::<toml::Table>(&format!("value = {value}")).is_ok();
    let quoted = toml::Value::String(value.to_owned()).to_string();
    match parse(value) {
        Ok(raw) => Ok(raw),
        // A bare number may still be meant as a text, a list hardly.
        Err(error) if is_toml && value.starts_with(['[', '{', '"']) => Err(error),
        Err(_) => parse(&quoted),
    }
}

/// An example as a shell or a unit file takes it. A whole table's variable has no example of its own.
fn as_variable(name: &str, key: &str, example: &str) -> String {
    let variable = format!("{PREFIX}{}", key.to_ascii_uppercase().replace('.', "__"));
    let name = if variable == name { name } else { &variable };
    match example.strip_prefix('"').and_then(|text| text.strip_suffix('"')) {
        Some(text) if !text.contains([' ', '#']) => format!("{name}={text}"),
        _ if example.contains(['[', '"']) => format!("{name}='{example}'"),
        _ => format!("{name}={example}"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn variables_of_kubernetes_services_are_recognised() {
        for (name, value) in [
            ("WAYPOST_SERVICE_HOST", "10.0.0.7"),
            ("WAYPOST_SERVICE_PORT", "50001"),
            ("WAYPOST_SERVICE_PORT_ELECTRUM_TLS", "50002"),
            ("WAYPOST_PORT", "tcp://10.0.0.7:50001"),
            ("WAYPOST_PORT_50001_TCP", "tcp://10.0.0.7:50001"),
            ("WAYPOST_PORT_50001_TCP_PROTO", "tcp"),
            ("WAYPOST_PORT_50001_TCP_PORT", "50001"),
            ("WAYPOST_PORT_50001_TCP_ADDR", "10.0.0.7"),
            ("WAYPOST_PORT_53_UDP_ADDR", "10.0.0.7"),
            ("WAYPOST_STATUS_SERVICE_HOST", "10.0.0.8"),
            ("WAYPOST_STATUS_SERVICE_PORT_HTTP", "4280"),
            ("WAYPOST_STATUS_PORT", "tcp://10.0.0.8:4280"),
            ("WAYPOST_STATUS_PORT_4280_TCP_ADDR", "10.0.0.8"),
        ] {
            assert!(is_of_kubernetes(name, value), "{name}");
        }
    }

    #[test]
    fn misspelt_keys_are_not_taken_for_kubernetes() {
        for (name, value) in [
            ("WAYPOST_NETWROK", "bitcoin"),
            ("WAYPOST_IDENTITY_TCP_PORT", "50001"),
            ("WAYPOST_IDENTITY__TCP_PORT", "50001"),
            ("WAYPOST_LISTEN__SERVICE_PORT", "tcp://10.0.0.7:50001"),
            ("WAYPOST_LISTEN_ONION_PORT", "50001"),
            ("WAYPOST_PORT", "50001"),
            ("WAYPOST_PORT_TCP", "50001"),
            ("WAYPOST_PORT_X_TCP", "50001"),
            ("WAYPOST_HOST", "10.0.0.7"),
            ("OTHER_SERVICE_HOST", "10.0.0.7"),
        ] {
            assert!(!is_of_kubernetes(name, value), "{name}");
        }
    }
}

//! Environment variables that set configuration keys.

use super::{ConfigFile, key_types};

/// Prefix of the variables that set a key: `WAYPOST_TOR__MODE` is `tor.mode`.
pub const PREFIX: &str = "WAYPOST_";

/// Returns whether Kubernetes sets this variable for a service named `waypost` or `waypost-…`.
///
/// Keys contain `__` or are top-level names, and none of them matches. `…_PORT` may also be a misspelt key, so it
/// counts only with a URL as value, which Kubernetes sets.
pub(super) fn is_of_kubernetes(name: &str, value: &str) -> bool {
    let Some(rest) = name.strip_prefix(PREFIX).filter(|rest| !rest.contains("__")) else { return false };
    // The service may be named "waypost" itself, so the rest gets the separator back.
    let rest = format!("_{rest}");
    let is_url = ["tcp://", "udp://", "sctp://"].iter().any(|scheme| value.starts_with(scheme));
    rest.ends_with("_SERVICE_HOST")
        || rest.ends_with("_SERVICE_PORT")
        || rest.contains("_SERVICE_PORT_")
        || (rest.ends_with("_PORT") && is_url)
        || is_port_of_protocol(&rest)
}

/// Returns whether a name ends in `_PORT_50001_TCP`, optionally with `_PROTO`, `_PORT` or `_ADDR`.
fn is_port_of_protocol(name: &str) -> bool {
    let name = ["_PROTO", "_PORT", "_ADDR"].iter().find_map(|end| name.strip_suffix(end)).unwrap_or(name);
    let without_protocol = ["_TCP", "_UDP", "_SCTP"].iter().find_map(|end| name.strip_suffix(end));
    let port = without_protocol.and_then(|rest| rest.rsplit_once("_PORT_")).map(|(_, port)| port);
    port.is_some_and(|port| !port.is_empty() && port.bytes().all(|byte| byte.is_ascii_digit()))
}

/// Parses the value of a single key, which is TOML or bare text.
pub(super) fn read(name: &str, key: &str, value: &str) -> Result<ConfigFile, String> {
    let known =
        key.split('.').all(|part| !part.is_empty() && part.bytes().all(|b| b.is_ascii_lowercase() || b == b'_'));
    if !known {
        return Err("no key has this name".to_owned());
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
        // A bare number may be meant as text. A list, table or quoted text is TOML.
        Err(error) if is_toml && value.starts_with(['[', '{', '"']) => Err(error),
        Err(_) => parse(&quoted),
    }
}

/// Writes an example as an assignment for a shell or unit file.
///
/// The example of a key inside a table's variable names the variable of that key.
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
    fn kubernetes_service_variables_are_recognised() {
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
    fn misspelt_keys_are_not_kubernetes_variables() {
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

//! Times and ports in few words.

use std::time::Duration;

use crate::clock::{self, Time};

/// As in a real name.
pub fn ports(tls: Option<u16>, tcp: Option<u16>) -> String {
    let port = |letter: char, port: Option<u16>| port.map(|port| format!("{letter}{port}"));
    let ports: Vec<String> = [port('s', tls), port('t', tcp)].into_iter().flatten().collect();
    ports.join(" ")
}

/// The largest unit is precise enough: `3m`, `17h`, `4d`.
pub fn ago(time: Duration) -> String {
    match time.as_secs() {
        secs @ 0..60 => format!("{secs}s ago"),
        secs @ 60..3600 => format!("{}m ago", secs / 60),
        secs @ 3600..172_800 => format!("{}h ago", secs / 3600),
        secs => format!("{}d ago", secs / 86_400),
    }
}

pub fn until(time: Time) -> String {
    match time.since(clock::now()).as_secs() {
        0 => "at once".to_owned(),
        secs => format!("in {}", humantime::format_duration(Duration::from_secs(secs))),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_and_ports_are_short() {
        let of = |secs| ago(Duration::from_secs(secs));
        assert_eq!([of(0), of(3599), of(172_799), of(172_800)], ["0s ago", "59m ago", "47h ago", "2d ago"]);
        assert_eq!(until(Time::default()), "at once");
        assert_eq!(until(clock::now() + Duration::from_millis(61_900)), "in 1m 1s");
        assert_eq!([ports(Some(2), Some(1)), ports(None, Some(1)), ports(None, None)], ["s2 t1", "t1", ""]);
    }
}

//! Requests that all servers of a chain answer alike, and the comparison of their answers.

use serde::Deserialize;
use serde_json::Value;
use serde_json::value::RawValue;

/// Longest answer that is compared, in bytes. A history of some 600 transactions is as long.
pub const MAX_COMPARED_BYTES: usize = 64 * 1024;

/// Digits of a script hash: SHA-256 in hexadecimal.
const SCRIPT_HASH_DIGITS: usize = 64;

/// Request for the balance or the history of a script hash.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ReadRequest {
    kind: ReadKind,
    script_hash: String,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum ReadKind {
    Balance,
    History,
}

/// Part of an answer that does not depend on a server's memory pool.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum ConfirmedAnswer {
    /// Balance in the smallest unit of the currency.
    Balance(i64),
    /// Height and id of each transaction, sorted.
    History(Vec<(i64, String)>),
}

/// Result of comparing the answers of three servers.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Verdict {
    /// The first one's answer differs from those of the other two.
    FirstIsWrong,
    /// The second one's answer differs from those of the other two.
    SecondIsWrong,
    /// The first two agree, or all three differ.
    Open,
}

impl ReadRequest {
    /// Parses a request; `None` if it is of another kind.
    pub fn parse(method: &str, params: &RawValue) -> Option<ReadRequest> {
        let kind = match method {
            "blockchain.scripthash.get_balance" => ReadKind::Balance,
            "blockchain.scripthash.get_history" => ReadKind::History,
            _ => return None,
        };
        let [script_hash]: [String; 1] = serde_json::from_str(params.get()).ok()?;
        let is_hash =
            script_hash.len() == SCRIPT_HASH_DIGITS && script_hash.bytes().all(|digit| digit.is_ascii_hexdigit());
        is_hash.then_some(ReadRequest { kind, script_hash })
    }

    /// Builds a request for the history of this script hash.
    pub(super) fn history(script_hash: [u8; 32]) -> ReadRequest {
        ReadRequest { kind: ReadKind::History, script_hash: data_encoding::HEXLOWER.encode(&script_hash) }
    }

    /// Returns the method.
    pub(super) fn method(&self) -> &'static str {
        match self.kind {
            ReadKind::Balance => "blockchain.scripthash.get_balance",
            ReadKind::History => "blockchain.scripthash.get_history",
        }
    }

    /// Returns the parameters.
    pub(super) fn params(&self) -> [&str; 1] {
        [&self.script_hash]
    }

    /// Returns what is compared of a result; `None` if the result has another form or is too long.
    pub(super) fn confirmed(&self, result: &[u8]) -> Option<ConfirmedAnswer> {
        #[derive(Deserialize)]
        struct Balance {
            confirmed: i64,
        }
        #[derive(Deserialize)]
        struct Transaction {
            height: i64,
            tx_hash: String,
        }
        if result.len() > MAX_COMPARED_BYTES {
            return None;
        }
        match self.kind {
            ReadKind::Balance => {
                serde_json::from_slice(result).ok().map(|Balance { confirmed }| ConfirmedAnswer::Balance(confirmed))
            }
            ReadKind::History => {
                let all: Vec<Transaction> = serde_json::from_slice(result).ok()?;
                // Zero and -1 are heights of unconfirmed transactions.
                let confirmed = all.into_iter().filter(|transaction| transaction.height > 0);
                let mut confirmed: Vec<_> =
                    confirmed.map(|transaction| (transaction.height, transaction.tx_hash)).collect();
                confirmed.sort_unstable();
                Some(ConfirmedAnswer::History(confirmed))
            }
        }
    }
}

/// Returns the result in a line that responds to a request; `None` if it is an error.
pub fn result_of(line: &[u8]) -> Option<Vec<u8>> {
    #[derive(Deserialize)]
    struct Response<'a> {
        #[serde(borrow)]
        result: &'a RawValue,
        #[serde(default)]
        error: Value,
    }
    let response: Response<'_> = serde_json::from_slice(line).ok()?;
    response.error.is_null().then(|| response.result.get().as_bytes().to_vec())
}

/// Returns whose answer differs from those of the other two.
pub(super) fn verdict<A: PartialEq>(first: &A, second: &A, third: &A) -> Verdict {
    match (first == second, first == third, second == third) {
        (false, false, true) => Verdict::FirstIsWrong,
        (false, true, false) => Verdict::SecondIsWrong,
        _ => Verdict::Open,
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn request(method: &str, params: &str) -> Option<ReadRequest> {
        ReadRequest::parse(method, &RawValue::from_string(params.to_owned()).unwrap())
    }

    #[test]
    fn requests_of_script_hashes_are_compared() {
        let hash = "ab".repeat(32);
        let params = format!("[\"{hash}\"]");
        let history = request("blockchain.scripthash.get_history", &params).unwrap();
        assert_eq!((history.method(), history.params()), ("blockchain.scripthash.get_history", [&*hash]));
        assert!(request("blockchain.scripthash.get_balance", &params).is_some());
        assert_eq!(request("blockchain.transaction.broadcast", &params), None);
        for params in ["[]", "[\"ab\"]", "{}", "7", &format!("[\"{hash}\",1]"), &format!("[\"{}\"]", "x".repeat(64))] {
            assert_eq!(request("blockchain.scripthash.get_balance", params), None, "{params}");
        }
    }

    #[test]
    fn only_confirmed_parts_are_compared() {
        let balance = ReadRequest { kind: ReadKind::Balance, script_hash: String::new() };
        let history = ReadRequest::history([1; 32]);
        let same = |request: &ReadRequest, one: &str, other: &str| {
            let [one, other] = [one, other].map(|text| request.confirmed(text.as_bytes()).unwrap());
            one == other
        };
        assert!(same(&balance, r#"{"confirmed":5,"unconfirmed":1}"#, r#"{"unconfirmed":0,"confirmed":5}"#));
        assert!(!same(&balance, r#"{"confirmed":5,"unconfirmed":1}"#, r#"{"confirmed":6,"unconfirmed":0}"#));
        let (a, b) = (r#"{"height":5,"tx_hash":"a"}"#, r#"{"tx_hash":"b","height":5}"#);
        let pending = r#"{"height":-1,"tx_hash":"c","fee":1}"#;
        assert!(same(&history, &format!("[{a},{b}]"), &format!("[{b},{a},{pending}]")));
        assert!(!same(&history, &format!("[{a},{b}]"), &format!("[{a}]")));
        assert_eq!(history.confirmed(b"null"), None);
        assert_eq!(history.confirmed(&vec![b' '; MAX_COMPARED_BYTES + 1]), None);
    }

    #[test]
    fn two_equal_answers_decide() {
        assert_eq!(verdict(&1, &2, &2), Verdict::FirstIsWrong);
        assert_eq!(verdict(&1, &2, &1), Verdict::SecondIsWrong);
        assert_eq!(verdict(&1, &1, &2), Verdict::Open);
        assert_eq!(verdict(&1, &2, &3), Verdict::Open);
    }

    #[test]
    fn errors_have_no_result() {
        assert_eq!(result_of(br#"{"id":1,"result":[1, 2]}"#).unwrap(), b"[1, 2]");
        assert_eq!(result_of(br#"{"id":1,"result":5,"error":null}"#).unwrap(), b"5");
        for line in [r#"{"id":1,"result":null,"error":{"code":1}}"#, r#"{"id":1}"#, "[]", ""] {
            assert_eq!(result_of(line.as_bytes()), None, "{line}");
        }
    }

    proptest! {
        #[test]
        fn arbitrary_results_never_panic(text in ".{0,80}") {
            let _ = ReadRequest::history([0; 32]).confirmed(text.as_bytes());
            let _ = (result_of(text.as_bytes()), request("blockchain.scripthash.get_history", "[]"));
        }
    }
}

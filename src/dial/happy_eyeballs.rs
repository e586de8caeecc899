//! Concurrent attempts at the addresses of a name (RFC 8305).
//!
//! The crates for this resolve names themselves or connect from any local address, so they can't be used for addresses
//! that were checked before.

use std::future::pending;
use std::net::IpAddr;
use std::time::Duration;

use futures_util::StreamExt;
use futures_util::stream::FuturesUnordered;
use tokio::time::sleep;

/// Delay until the next attempt starts while one is pending: the recommendation of RFC 8305, section 5.
const ATTEMPT_DELAY: Duration = Duration::from_millis(250);

/// Returns the addresses with alternating families, beginning with that of the first (RFC 8305, section 4).
pub(super) fn interleaved(addresses: &[IpAddr]) -> Vec<IpAddr> {
    let starts_with_v4 = addresses.first().is_some_and(IpAddr::is_ipv4);
    let (first, second): (Vec<IpAddr>, Vec<IpAddr>) = addresses.iter().partition(|ip| ip.is_ipv4() == starts_with_v4);
    let mut ordered = Vec::with_capacity(addresses.len());
    let (mut first, mut second) = (first.into_iter(), second.into_iter());
    while ordered.len() < addresses.len() {
        ordered.extend(first.next());
        ordered.extend(second.next());
    }
    ordered
}

/// Starts an attempt at each address in turn and returns the first success. The other attempts are then dropped.
///
/// The next attempt starts when the last one has failed, or after 250 ms. `on_failure` gets each error, and returns
/// whether the remaining addresses are tried. `None` if no attempt succeeds.
pub(super) async fn first_success<T, E, F: Future<Output = Result<T, E>>>(
    addresses: &[IpAddr],
    attempt: impl Fn(IpAddr) -> F,
    mut on_failure: impl FnMut(IpAddr, E) -> Remaining,
) -> Option<(T, IpAddr)> {
    let (mut waiting, mut running) = (addresses.iter().copied(), FuturesUnordered::new());
    let start = |ip: IpAddr| {
        let attempt = attempt(ip);
        async move { (ip, attempt.await) }
    };
    running.push(start(waiting.next()?));
    loop {
        let has_more = waiting.len() > 0;
        let next_attempt = async { if has_more { sleep(ATTEMPT_DELAY).await } else { pending().await } };
        tokio::select! {
            biased;
            ended = running.next() => match ended {
                Some((ip, Ok(success))) => return Some((success, ip)),
                Some((ip, Err(error))) => {
                    if on_failure(ip, error) == Remaining::Skipped {
                        return None;
                    }
                    running.extend(waiting.next().map(&start));
                }
                None => return None,
            },
            () = next_attempt => running.extend(waiting.next().map(&start)),
        }
    }
}

/// What happens to the remaining addresses after a failure.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Remaining {
    /// They are tried.
    Tried,
    /// They are not tried.
    Skipped,
}

#[cfg(test)]
mod tests {
    use std::cell::RefCell;

    use tokio::time::Instant;

    use super::*;

    fn ip(text: &str) -> IpAddr {
        text.parse().unwrap()
    }

    fn ips(texts: &[&str]) -> Vec<IpAddr> {
        texts.iter().map(|text| ip(text)).collect()
    }

    /// Runs attempts that take some milliseconds and then succeed or fail. Returns the result, the started attempts
    /// with their time in milliseconds, and the time in total.
    async fn race(attempts: &[(&str, u64, bool)]) -> (Option<IpAddr>, Vec<(String, u128)>, u128) {
        let (begun, started) = (Instant::now(), RefCell::new(Vec::new()));
        let addresses: Vec<IpAddr> = attempts.iter().map(|(text, ..)| ip(text)).collect();
        let attempt = |address: IpAddr| {
            started.borrow_mut().push((address.to_string(), begun.elapsed().as_millis()));
            let (_, millis, succeeds) = *attempts.iter().find(|(text, ..)| ip(text) == address).unwrap();
            async move {
                sleep(Duration::from_millis(millis)).await;
                if succeeds { Ok(()) } else { Err(()) }
            }
        };
        let winner = first_success(&addresses, attempt, |_, ()| Remaining::Tried).await;
        (winner.map(|((), ip)| ip), started.into_inner(), begun.elapsed().as_millis())
    }

    #[test]
    fn families_alternate_beginning_with_the_first() {
        for (addresses, expected) in [
            (&["5.9.0.1", "5.9.0.2", "2a01::1"][..], &["5.9.0.1", "2a01::1", "5.9.0.2"][..]),
            (&["2a01::1", "2a01::2", "2a01::3", "5.9.0.1"], &["2a01::1", "5.9.0.1", "2a01::2", "2a01::3"]),
            (&["5.9.0.1"], &["5.9.0.1"]),
            (&[], &[]),
        ] {
            assert_eq!(interleaved(&ips(addresses)), ips(expected));
        }
    }

    #[tokio::test(start_paused = true)]
    async fn silent_address_delays_by_a_quarter_of_a_second() {
        let (winner, started, millis) = race(&[("2a01::1", 8_000, false), ("5.9.0.1", 30, true)]).await;
        assert_eq!((winner, millis), (Some(ip("5.9.0.1")), 280));
        assert_eq!(started, [("2a01::1".to_owned(), 0), ("5.9.0.1".to_owned(), 250)]);
    }

    #[tokio::test(start_paused = true)]
    async fn refused_attempt_starts_the_next_at_once() {
        let (winner, _, millis) = race(&[("5.9.0.1", 1, false), ("5.9.0.2", 1, false), ("5.9.0.3", 30, true)]).await;
        assert_eq!((winner, millis), (Some(ip("5.9.0.3")), 32));
    }

    #[tokio::test(start_paused = true)]
    async fn slow_first_address_may_still_win() {
        let (winner, _, millis) = race(&[("5.9.0.1", 300, true), ("5.9.0.2", 900, true)]).await;
        assert_eq!((winner, millis), (Some(ip("5.9.0.1")), 300));
    }

    #[tokio::test(start_paused = true)]
    async fn second_address_is_not_tried_if_the_first_answers_soon() {
        let (_, started, _) = race(&[("5.9.0.1", 200, true), ("5.9.0.2", 1, true)]).await;
        assert_eq!(started.len(), 1);
    }

    #[tokio::test(start_paused = true)]
    async fn nothing_is_returned_if_all_fail() {
        assert_eq!(race(&[("5.9.0.1", 8_000, false), ("5.9.0.2", 8_000, false)]).await.0, None);
        assert_eq!(race(&[]).await.0, None);
        let addresses = ips(&["5.9.0.1", "5.9.0.2"]);
        let outcome = first_success(&addresses, |_| async { Err::<(), _>(()) }, |_, ()| Remaining::Skipped);
        assert_eq!(outcome.await, None);
    }
}

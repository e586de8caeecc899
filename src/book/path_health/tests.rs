//! Verdicts on a path, and attribution of failures.

use super::*;

const START: Time = Time::from_secs(1_000_000);
const GONE: ProbeError = ProbeError::Unreachable;

fn host(n: u8) -> Host {
    format!("h{n}.example").parse().unwrap()
}

fn at(secs: u64) -> Time {
    START + Duration::from_secs(secs)
}

fn answer(n: u8, has_standing: bool) -> Answer {
    Answer { host: Some(host(n)), has_standing }
}

fn pending(n: u8, witness: Option<WitnessGroup>, has_standing: bool, began: Time) -> PendingFailure {
    let ended = began + Duration::from_secs(10);
    PendingFailure { host: host(n), failure: GONE, witness, has_standing, started_at: began, ended }
}

fn fail(reach: &mut PathHealth, n: u8, good: bool, began: Time) -> PathVerdict {
    let witness = good.then(|| WitnessGroup::Network(Netgroup::allocation([5, n, 0, 1].into())));
    let population = PathPopulation { known: 9, witnesses: 5, standing: 0 };
    reach.on_failure(pending(n, witness, false, began), population, Route::Direct)
}

fn fail_tor(reach: &mut PathHealth, n: u8, has_standing: bool, began: Time) -> PathVerdict {
    let witness = Some(WitnessGroup::Host(host(n)));
    let population = PathPopulation { known: 99, witnesses: 70, standing: 4 };
    reach.on_failure(pending(n, witness, has_standing, began), population, Route::Tor)
}

#[test]
fn proof_soon_after_failure_attributes_it_to_the_peer() {
    let mut reach = PathHealth::new(Duration::ZERO);
    reach.on_answer(answer(0, true), START);
    assert_eq!(fail(&mut reach, 1, false, at(900)), PathVerdict::Pending);
    assert!(reach.has_pending_failure());
    assert_eq!(reach.on_answer(answer(0, true), at(960)), [(host(1), GONE)]);
    assert!(!reach.has_pending_failure());
}

#[test]
fn probe_started_in_outage_is_not_attributed() {
    let mut reach = PathHealth::new(Duration::ZERO);
    reach.mark_down(START);
    reach.on_answer(answer(0, true), at(105));
    assert_eq!(fail(&mut reach, 1, false, at(100)), PathVerdict::Pending);
    assert!(!reach.has_pending_failure());
}

#[test]
fn late_proof_discards_failure() {
    let mut reach = PathHealth::new(Duration::ZERO);
    fail(&mut reach, 1, false, START);
    assert!(reach.on_answer(answer(0, true), at(600)).is_empty());
}

#[test]
fn failures_of_healthy_peers_mark_path_down() {
    let mut reach = PathHealth::new(Duration::ZERO);
    assert_eq!(fail(&mut reach, 1, false, START), PathVerdict::Pending);
    assert_eq!(fail(&mut reach, 2, false, START), PathVerdict::Pending);
    assert_eq!(fail(&mut reach, 3, false, START), PathVerdict::Pending);
    assert_eq!(fail(&mut reach, 4, true, START), PathVerdict::Pending);
    assert_eq!(fail(&mut reach, 5, true, START), PathVerdict::Pending);
    assert_eq!(fail(&mut reach, 6, true, START), PathVerdict::PathDown);
    assert!(reach.is_down());
    assert!(reach.on_answer(answer(0, true), at(70)).is_empty());
    assert!(!reach.is_down());
}

#[test]
fn working_time_counts_only_between_proofs() {
    let mut reach = PathHealth::new(Duration::ZERO);
    reach.on_answer(answer(0, true), START);
    reach.on_answer(answer(0, true), at(3600));
    assert_eq!(reach.working_time(), Duration::from_hours(1));
    reach.mark_down(at(4000));
    reach.on_answer(answer(0, true), at(90_000));
    assert_eq!(reach.working_time(), Duration::from_hours(1));
    reach.on_answer(answer(0, true), at(90_000 + 72 * 3600));
    assert_eq!(reach.working_time(), Duration::from_hours(25));
}

#[test]
fn trials_of_down_path_back_off() {
    let mut reach = PathHealth::new(Duration::ZERO);
    reach.mark_down(START);
    let mut now = START;
    let mut trials = 0;
    while now < at(24 * 3600) {
        now = reach.next_trial();
        reach.trial_started(now);
        trials += 1;
    }
    assert!((100..170).contains(&trials), "{trials}");
}

#[test]
fn failures_in_one_network_do_not_mark_path_down() {
    let mut reach = PathHealth::new(Duration::ZERO);
    let one = WitnessGroup::Network(Netgroup::allocation([5, 9, 0, 1].into()));
    let population = PathPopulation { known: 99, witnesses: 9, standing: 0 };
    for n in 0..50 {
        let verdict = reach.on_failure(pending(n, Some(one.clone()), false, START), population, Route::Direct);
        assert_eq!(verdict, PathVerdict::Pending);
    }
}

#[test]
fn vanished_names_do_not_mark_tor_down_before_those_with_standing_failed() {
    let mut reach = PathHealth::new(Duration::ZERO);
    assert!((10..90).all(|n| fail_tor(&mut reach, n, false, START) == PathVerdict::Pending));
    assert!((0..3).all(|n| fail_tor(&mut reach, n, true, START) == PathVerdict::Pending));
    assert_eq!(fail_tor(&mut reach, 3, true, START), PathVerdict::PathDown);
    assert!(!reach.may_be_witness(&host(10), at(3600)), "it was excused");
    assert!(reach.may_be_witness(&host(10), at(90_000)));
}

#[test]
fn free_name_neither_accuses_peers_with_standing_nor_keeps_tor_up() {
    let mut reach = PathHealth::new(Duration::ZERO);
    for n in 0..4 {
        fail_tor(&mut reach, n, true, START);
        assert!(reach.on_answer(answer(99, false), at(20)).is_empty());
    }
    assert!(reach.pending_witnesses().contains(&WitnessGroup::Host(host(0))));
    let verdicts: Vec<PathVerdict> = (10..30).map(|n| fail_tor(&mut reach, n, false, at(30))).collect();
    assert!(verdicts.contains(&PathVerdict::PathDown));
    for _ in 0..9 {
        reach.on_answer(answer(99, false), at(60));
    }
    assert!(reach.is_down(), "one free name is not enough");
    reach.on_answer(answer(98, false), at(70));
    reach.on_answer(answer(97, false), at(80));
    assert!(!reach.is_down());
}

#[test]
fn answer_of_a_peer_with_standing_restores_path() {
    let mut reach = PathHealth::new(Duration::ZERO);
    for n in 10..30 {
        fail_tor(&mut reach, n, false, START);
    }
    for n in 0..4 {
        fail_tor(&mut reach, n, true, START);
    }
    assert!(reach.is_down());
    reach.on_answer(answer(0, true), at(60));
    assert!(!reach.is_down());
}

#[test]
fn without_witnesses_a_recent_answer_contradicts_an_outage() {
    let mut reach = PathHealth::new(Duration::ZERO);
    let population = PathPopulation { known: 9, witnesses: 0, standing: 0 };
    reach.on_answer(Answer { host: None, has_standing: true }, START);
    let mut verdict = |n, began| reach.on_failure(pending(n, None, false, began), population, Route::Tor);
    assert!((0..9).all(|n| verdict(n, at(60)) == PathVerdict::Pending));
    let later: Vec<PathVerdict> = (0..9).map(|n| verdict(n, at(3600))).collect();
    assert!(later.contains(&PathVerdict::PathDown));
}

use proptest::prelude::*;
use rand::SeedableRng;
use rand::rngs::StdRng;

use super::*;
use crate::chain::Chain;

fn config() -> IrcVisitConfig {
    IrcVisitConfig {
        channel: "#electrum".to_owned(),
        nick_prefix: "E_".to_owned(),
        password: None,
        sasl: None,
        advertise: None,
        persistent: false,
        default_ports: Chain::BITCOIN.default_ports,
    }
}

struct TestSession {
    irc: IrcSession,
    rng: StdRng,
    opening: Vec<IrcAction>,
}

fn start(config: IrcVisitConfig) -> TestSession {
    let mut rng = StdRng::seed_from_u64(7);
    let (irc, opening) = IrcSession::new(Arc::new(config), &mut rng);
    TestSession { irc, rng, opening }
}

impl TestSession {
    fn handle(&mut self, line: &str) -> Vec<IrcAction> {
        self.irc.handle_line(line, &mut self.rng)
    }

    /// Returns the lines that are sent in response.
    fn sent(&mut self, line: &str) -> Vec<String> {
        sent(self.handle(line))
    }

    fn ends(&mut self, line: &str) -> Option<IrcError> {
        match self.handle(line).pop() {
            Some(IrcAction::End(outcome)) => outcome.err(),
            _ => None,
        }
    }

    fn enter(&mut self) {
        let nick = self.irc.nick.clone();
        assert_eq!(self.sent(&format!(":irc.example 001 {nick} :Welcome")), ["JOIN #electrum"]);
        assert_eq!(self.sent(&format!(":{nick}!u@h JOIN :#electrum")), ["WHO #electrum"]);
    }
}

fn sent(actions: Vec<IrcAction>) -> Vec<String> {
    let line = |action| match action {
        IrcAction::Send(line) => Some(line),
        _ => None,
    };
    actions.into_iter().filter_map(line).collect()
}

#[test]
fn one_time_visit_sends_six_lines() {
    let mut session = start(config());
    let opening = sent(session.opening.clone());
    assert_eq!(opening.len(), 2);
    assert!(opening[0].starts_with("NICK ") && opening[0].len() == 5 + NICK_LENGTH);
    assert!(!opening[0].contains("E_"));
    // As many words as there may be, after which the parser leaves the space that follows.
    session.handle(&format!(":irc.example 005 me {}NAMELEN=100 :are supported", "A=1 ".repeat(12)));
    session.enter();
    let who = |nick: &str, text: &str| format!(":irc.example 352 me #electrum u h irc.example {nick} H :0 {text}");
    assert_eq!(session.handle(&who("E_abc", "a.example v1.4 s t")), []);
    assert_eq!(session.handle(&who("e_def", "b.example t50001")), []);
    assert_eq!(session.handle(&who("user", "c.example v1.4 s t")), [], "has no server's nick");
    assert_eq!(session.handle(&who("E_eve", "I am Eve")), [IrcAction::Rejected(RejectReason::Unreadable)]);
    assert_eq!(
        session.handle(&who("E_long", &format!("{}.example t", ["a"; 50].join(".")))),
        [IrcAction::Rejected(RejectReason::CutOff)]
    );
    let mut actions = session.handle(":irc.example 315 me #electrum :End of WHO list");
    assert_eq!(actions.split_off(2), [IrcAction::WhoComplete, IrcAction::Send("QUIT :bye".to_owned())]);
    let mut found: Vec<String> = actions.iter().map(|action| format!("{action:?}")).collect();
    found.sort();
    assert!(found[0].contains("\"a.example\"") && found[1].contains("\"b.example\""), "{found:?}");
    assert!(session.irc.is_leaving());
    assert_eq!(session.handle("ERROR :Closing link (bye)"), [IrcAction::End(Ok(()))]);
}

#[test]
fn assigned_nick_is_used() {
    let mut session = start(config());
    for tried in 1..MAX_NICKS {
        let line = session.sent(":irc.example 433 * taken :Nickname is already in use");
        assert!(line[0].starts_with("NICK "), "{tried}");
    }
    assert_eq!(session.ends(":irc.example 433 * taken :Nickname is already in use"), Some(IrcError::Nick));
    let mut session = start(config());
    session.handle(":irc.example 001 forced :Welcome");
    session.handle(":forced!u@h NICK :again");
    assert_eq!(session.sent(":FORCED!u@h JOIN #electrum"), [""; 0], "no longer the own nick");
    assert_eq!(session.sent(":again!u@h JOIN #ELECTRUM"), ["WHO #electrum"]);
}

#[test]
fn ping_is_answered_in_any_phase() {
    let mut session = start(config());
    assert_eq!(session.sent("PING :abc def"), ["PONG :abc def"]);
    session.enter();
    assert_eq!(session.sent("PING irc.example"), ["PONG :irc.example"]);
}

#[test]
fn sasl_account_is_authenticated() {
    let sasl = Some(("wp".to_owned(), crate::secret::Secret::new("secret")));
    let mut session = start(IrcVisitConfig { sasl, password: Some(crate::secret::Secret::new("door")), ..config() });
    let opening = sent(session.opening.clone());
    assert_eq!(opening[..2], ["CAP REQ :sasl", "PASS :door"]);
    assert_eq!(session.sent(":irc.example CAP * ACK :sasl"), ["AUTHENTICATE PLAIN"]);
    assert_eq!(session.sent("AUTHENTICATE +"), ["AUTHENTICATE AHdwAHNlY3JldA=="]);
    assert_eq!(session.sent(":irc.example 903 * :SASL authentication successful"), ["CAP END"]);
    assert_eq!(session.ends(":irc.example 904 * :SASL authentication failed"), Some(IrcError::Sasl));
    assert_eq!(session.ends(":irc.example CAP * NAK :sasl"), Some(IrcError::Sasl));
}

#[test]
fn rejections_are_classified() {
    let problem = |line: &str| {
        let mut session = start(config());
        session.handle(":irc.example 001 me :Welcome");
        session.ends(line).unwrap_or_else(|| panic!("{line}"))
    };
    assert_eq!(problem(":irc.example 477 me #electrum :Need a registered nick"), IrcError::Registered);
    assert!(matches!(problem(":irc.example 474 me #electrum :Banned"), IrcError::Banned(_)));
    assert!(matches!(problem(":irc.example 473 me #electrum :Invite only"), IrcError::Channel(_)));
    assert_eq!(
        problem(":irc.example 470 me #electrum ##overflow :Forwarding"),
        IrcError::Redirected("##overflow".into())
    );
    assert!(matches!(problem(":irc.example 480 me #electrum :Throttled"), IrcError::Channel(_)));
    assert!(matches!(problem(":irc.example 479 me #electrum :Reserved"), IrcError::Channel(_)));
    assert!(matches!(problem(":me!u@h PART #electrum :requested by op"), IrcError::Kicked(_)));
    assert_eq!(problem(":op!u@h KICK #electrum me :no\u{1b}[31m bots"), IrcError::Kicked("no[31m bots".into()));
    assert_eq!(
        problem(":irc.example 010 me irc2.example 6667 :Please use this server"),
        IrcError::Redirected("irc2.example 6667 Please use this server".into())
    );
    assert!(matches!(problem("ERROR :Closing Link: (K-Lined)"), IrcError::Banned(_)));
    assert!(matches!(problem("ERROR :Trying to reconnect too fast."), IrcError::Busy(_)));
    assert!(matches!(problem("ERROR :a.split b.split"), IrcError::Closed(_)));
    assert!(matches!(problem(":op!u@h KICK #electrum me :no bots"), IrcError::Kicked(_)));
}

#[test]
fn forced_channel_is_ignored() {
    let mut session = start(config());
    session.handle(":irc.example 001 me :Welcome");
    assert_eq!(session.handle(":me!u@h JOIN :#welcome"), []);
    assert_eq!(session.handle(":irc.example 404 me #welcome :Cannot send"), []);
    assert_eq!(session.sent(":me!u@h JOIN :#electrum"), ["WHO #electrum"]);
}

#[test]
fn persistent_session_queries_new_nicks() {
    let mut session = start(IrcVisitConfig { persistent: true, ..config() });
    session.enter();
    assert_eq!(session.handle(":irc.example 315 me #electrum :End"), [IrcAction::WhoComplete]);
    for line in [":E_new!u@h JOIN #electrum", ":E_new!u@h JOIN #electrum", ":human!u@h JOIN #electrum"] {
        assert_eq!(session.handle(line), []);
    }
    assert_eq!(session.irc.next_who(), Some(IrcAction::Send("WHO E_new".to_owned())));
    assert_eq!(session.irc.next_who(), None);
    let actions = session.handle(":irc.example 352 me #electrum u h irc.example E_new H :0 n.example t");
    assert!(matches!(&actions[..], [IrcAction::Found(_)]));
    assert_eq!(session.handle(":irc.example 315 me E_new :End"), [], "the session stays");
}

#[test]
fn advertised_name_uses_the_server_prefix() {
    let name = RealName::parse("wp.example.org v1.4 s50002", config().default_ports).unwrap();
    let session = start(IrcVisitConfig { advertise: Some(name), persistent: true, ..config() });
    let opening = sent(session.opening);
    assert!(opening[0].starts_with("NICK E_"), "{opening:?}");
    assert!(opening[1].ends_with(" 0 * :wp.example.org v1.4 s50002"), "{opening:?}");
}

/// A line that a server might send, or nearly.
fn any_line() -> impl Strategy<Value = String> {
    let word = prop_oneof![
        Just("me".to_owned()),
        Just("#electrum".to_owned()),
        Just("E_a".to_owned()),
        "[ -~]{0,12}",
        "[\\x00-\\x1f]{1,3}",
    ];
    let command = prop_oneof![
        prop::sample::select(vec![
            "PING",
            "JOIN",
            "PART",
            "KICK",
            "NICK",
            "ERROR",
            "CAP",
            "AUTHENTICATE",
            "QUIT",
            "KILL"
        ])
        .prop_map(str::to_owned),
        prop::sample::select(vec![1_u16, 5, 10, 263, 315, 352, 433, 465, 470, 477, 903, 904])
            .prop_map(|number| format!("{number:03}")),
    ];
    (word.clone(), command, proptest::collection::vec(word, 0..8), "[ -~\\x00-\\x1f]{0,40}")
        .prop_map(|(from, command, words, last)| format!(":{from}!u@h {command} {} :{last}", words.join(" ")))
}

proptest! {
    #[test]
    fn arbitrary_lines_never_inject_or_repeat_who(lines in proptest::collection::vec(any_line(), 0..40), persistent: bool, inside: bool) {
        let mut session = start(IrcVisitConfig { persistent, ..config() });
        if inside {
            session.enter();
        }
        let mut who_requests = 0;
        for line in lines {
            for line in session.sent(&line) {
                prop_assert!(!line.contains(['\r', '\n', '\0']), "{:?}", line);
                who_requests += u32::from(line.starts_with("WHO"));
            }
        }
        prop_assert!(who_requests <= 1);
    }
}

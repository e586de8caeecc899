use proptest::prelude::*;
use rand::SeedableRng;
use rand::rngs::StdRng;

use super::*;
use crate::network::Network;

fn plan() -> IrcVisitConfig {
    IrcVisitConfig {
        channel: "#electrum".to_owned(),
        nick_prefix: "E_".to_owned(),
        password: None,
        sasl: None,
        advertise: None,
        stay: false,
        default_ports: Network::Bitcoin.default_ports(),
    }
}

struct Talk {
    visit: IrcSession,
    rng: StdRng,
    opening: Vec<IrcAction>,
}

fn talk(plan: IrcVisitConfig) -> Talk {
    let mut rng = StdRng::seed_from_u64(7);
    let (visit, opening) = IrcSession::new(Arc::new(plan), &mut rng);
    Talk { visit, rng, opening }
}

impl Talk {
    fn hear(&mut self, line: &str) -> Vec<IrcAction> {
        self.visit.line(line, &mut self.rng)
    }

    /// The lines that are said in answer to a line.
    fn said(&mut self, line: &str) -> Vec<String> {
        said(self.hear(line))
    }

    fn ends(&mut self, line: &str) -> Option<IrcError> {
        match self.hear(line).pop() {
            Some(IrcAction::End(outcome)) => outcome.err(),
            _ => None,
        }
    }

    fn enter(&mut self) {
        let nick = self.visit.nick.clone();
        assert_eq!(self.said(&format!(":irc.example 001 {nick} :Welcome")), ["JOIN #electrum"]);
        assert_eq!(self.said(&format!(":{nick}!u@h JOIN :#electrum")), ["WHO #electrum"]);
    }
}

fn said(actions: Vec<IrcAction>) -> Vec<String> {
    let line = |action| match action {
        IrcAction::Send(line) => Some(line),
        _ => None,
    };
    actions.into_iter().filter_map(line).collect()
}

#[test]
fn a_visit_takes_six_lines() {
    let mut talk = talk(plan());
    let opening = said(talk.opening.clone());
    assert_eq!(opening.len(), 2);
    assert!(opening[0].starts_with("NICK ") && opening[0].len() == 5 + NICK_LENGTH);
    assert!(!opening[0].contains("E_"));
    // As many words as there may be, after which the parser leaves the space that follows.
    talk.hear(&format!(":irc.example 005 me {}NAMELEN=100 :are supported", "A=1 ".repeat(12)));
    talk.enter();
    let who = |nick: &str, text: &str| format!(":irc.example 352 me #electrum u h irc.example {nick} H :0 {text}");
    assert_eq!(talk.hear(&who("E_abc", "a.example v1.4 s t")), []);
    assert_eq!(talk.hear(&who("e_def", "b.example t50001")), []);
    assert_eq!(talk.hear(&who("somebody", "c.example v1.4 s t")), [], "has no server's nick");
    assert_eq!(talk.hear(&who("E_eve", "I am Eve")), [IrcAction::Rejected(RejectReason::Unreadable)]);
    assert_eq!(
        talk.hear(&who("E_long", &format!("{}.example t", ["a"; 50].join(".")))),
        [IrcAction::Rejected(RejectReason::CutOff)]
    );
    let mut actions = talk.hear(":irc.example 315 me #electrum :End of WHO list");
    assert_eq!(actions.split_off(2), [IrcAction::WhoComplete, IrcAction::Send("QUIT :bye".to_owned())]);
    let mut met: Vec<String> = actions.iter().map(|action| format!("{action:?}")).collect();
    met.sort();
    assert!(met[0].contains("\"a.example\"") && met[1].contains("\"b.example\""), "{met:?}");
    assert!(talk.visit.is_leaving());
    assert_eq!(talk.hear("ERROR :Closing link (bye)"), [IrcAction::End(Ok(()))]);
}

#[test]
fn we_go_by_the_nick_that_we_are_given() {
    let mut talk = talk(plan());
    for tried in 1..NICKS {
        let said = talk.said(":irc.example 433 * taken :Nickname is already in use");
        assert!(said[0].starts_with("NICK "), "{tried}");
    }
    assert_eq!(talk.ends(":irc.example 433 * taken :Nickname is already in use"), Some(IrcError::Nick));
    let mut talk = self::talk(plan());
    talk.hear(":irc.example 001 forced :Welcome");
    talk.hear(":forced!u@h NICK :again");
    assert_eq!(talk.said(":FORCED!u@h JOIN #electrum"), [""; 0], "somebody else by now");
    assert_eq!(talk.said(":again!u@h JOIN #ELECTRUM"), ["WHO #electrum"]);
}

#[test]
fn pings_are_answered_at_any_time() {
    let mut talk = talk(plan());
    assert_eq!(talk.said("PING :abc def"), ["PONG :abc def"]);
    talk.enter();
    assert_eq!(talk.said("PING irc.example"), ["PONG :irc.example"]);
}

#[test]
fn we_log_in_where_we_have_an_account() {
    let sasl = Some(("wp".to_owned(), crate::secret::Secret::new("secret")));
    let mut talk = talk(IrcVisitConfig { sasl, password: Some(crate::secret::Secret::new("door")), ..plan() });
    let opening = said(talk.opening.clone());
    assert_eq!(opening[..2], ["CAP REQ :sasl", "PASS :door"]);
    assert_eq!(talk.said(":irc.example CAP * ACK :sasl"), ["AUTHENTICATE PLAIN"]);
    assert_eq!(talk.said("AUTHENTICATE +"), ["AUTHENTICATE AHdwAHNlY3JldA=="]);
    assert_eq!(talk.said(":irc.example 903 * :SASL authentication successful"), ["CAP END"]);
    assert_eq!(talk.ends(":irc.example 904 * :SASL authentication failed"), Some(IrcError::Sasl));
    assert_eq!(talk.ends(":irc.example CAP * NAK :sasl"), Some(IrcError::Sasl));
}

#[test]
fn what_keeps_us_out_is_told_apart() {
    let problem = |line: &str| {
        let mut talk = talk(plan());
        talk.hear(":irc.example 001 me :Welcome");
        talk.ends(line).unwrap_or_else(|| panic!("{line}"))
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
    let mut talk = talk(plan());
    talk.hear(":irc.example 001 me :Welcome");
    assert_eq!(talk.hear(":me!u@h JOIN :#welcome"), []);
    assert_eq!(talk.hear(":irc.example 404 me #welcome :Cannot send"), []);
    assert_eq!(talk.said(":me!u@h JOIN :#electrum"), ["WHO #electrum"]);
}

#[test]
fn who_stays_asks_after_those_who_come() {
    let mut talk = talk(IrcVisitConfig { stay: true, ..plan() });
    talk.enter();
    assert_eq!(talk.hear(":irc.example 315 me #electrum :End"), [IrcAction::WhoComplete]);
    for line in [":E_new!u@h JOIN #electrum", ":E_new!u@h JOIN #electrum", ":human!u@h JOIN #electrum"] {
        assert_eq!(talk.hear(line), []);
    }
    assert_eq!(talk.visit.next_newcomer(), Some(IrcAction::Send("WHO E_new".to_owned())));
    assert_eq!(talk.visit.next_newcomer(), None);
    let actions = talk.hear(":irc.example 352 me #electrum u h irc.example E_new H :0 n.example t");
    assert!(matches!(&actions[..], [IrcAction::Found(_)]));
    assert_eq!(talk.hear(":irc.example 315 me E_new :End"), [], "we stay");
}

#[test]
fn our_own_name_goes_under_the_prefix() {
    let name = RealName::parse("wp.example.org v1.4 s50002", plan().default_ports).unwrap();
    let talk = talk(IrcVisitConfig { advertise: Some(name), stay: true, ..plan() });
    let opening = said(talk.opening);
    assert!(opening[0].starts_with("NICK E_"), "{opening:?}");
    assert!(opening[1].ends_with(" 0 * :wp.example.org v1.4 s50002"), "{opening:?}");
}

/// A line that a server might say to us, or nearly.
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
    fn no_line_is_trouble(lines in proptest::collection::vec(any_line(), 0..40), stay: bool, inside: bool) {
        let mut talk = talk(IrcVisitConfig { stay, ..plan() });
        if inside {
            talk.enter();
        }
        let mut asked = 0;
        for line in lines {
            for said in talk.said(&line) {
                prop_assert!(!said.contains(['\r', '\n', '\0']), "{:?}", said);
                asked += u32::from(said.starts_with("WHO"));
            }
        }
        prop_assert!(asked <= 1);
    }
}

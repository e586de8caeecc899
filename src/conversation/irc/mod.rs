//! A visit to an IRC channel, without the connection: register, join, ask once who is there, leave.
//!
//! Servers that know no other way to be found sit in a channel under a nick with a prefix of the network's, and say in their real
//! name where they listen. We are a guest there: six lines are all that a visit takes.

mod names;

use std::collections::VecDeque;
use std::sync::Arc;

use data_encoding::BASE64;
use irc_proto::{CapSubCommand, Command, Message, Prefix};
use rand::seq::SliceRandom;
use rand::{Rng, RngExt};

pub use names::{Dropped, USUAL_LENGTH};

use crate::peer::{Ports, RealName};

/// What a visit is to do.
#[derive(Debug, Clone)]
pub struct Plan {
    pub channel: String,
    /// The nicks of servers begin so.
    pub nick_prefix: String,
    pub password: Option<String>,
    /// The account and its password, for SASL.
    pub sasl: Option<(String, String)>,
    /// Our own real name, if we are to be found there as well.
    pub advertise: Option<RealName>,
    /// Whether to stay, and ask after those who come.
    pub stay: bool,
    /// What a bare `s` or `t` means.
    pub default_ports: Ports,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Action {
    /// A line, without its end.
    Say(String),
    Found(RealName),
    Dropped(Dropped),
    /// Everybody who was there is known.
    Told,
    End(Result<(), Trouble>),
}

/// Why a visit came to nothing.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Trouble {
    #[error("every nick that we tried was refused")]
    Nick,
    #[error("it wants another password; see irc.password")]
    Password,
    #[error("it refuses our account; see irc.sasl_user and irc.sasl_password")]
    Sasl,
    #[error("it bans us: {0}")]
    Banned(String),
    #[error("it is too busy for us: {0}")]
    Busy(String),
    #[error("the channel is open to registered nicks alone; register one, and see irc.sasl_user")]
    Registered,
    #[error("the channel can't be joined: {0}")]
    Channel(String),
    #[error("it sent us elsewhere: {0}")]
    Elsewhere(String),
    #[error("we were sent away: {0}")]
    SentAway(String),
    #[error("it closed the connection: {0}")]
    Closed(String),
}

const GOODBYE: &str = "QUIT :bye";

/// Nicks that are tried.
const NICKS: u32 = 5;

/// Characters of a nick; a few networks allow no more.
const NICK_LENGTH: usize = 9;

/// Answers to one WHO that are looked at, and servers that are taken from them.
const MOST_ANSWERS: usize = 5000;
const MOST_FOUND: usize = 500;

/// Those who came since, and are still to be asked after.
const MOST_WAITING: usize = 64;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Phase {
    Registering,
    Joining,
    Asking,
    Staying,
    Leaving,
}

/// One connection to an IRC server.
#[derive(Debug)]
pub struct Visit {
    plan: Arc<Plan>,
    phase: Phase,
    nick: String,
    nicks_tried: u32,
    /// Characters that a real name may have here.
    longest_name: Option<usize>,
    answers: usize,
    found: usize,
    /// Servers that were met, until all are: the first in the server's order shall not use up what the others need.
    met: Vec<RealName>,
    newcomers: VecDeque<String>,
}

impl Visit {
    /// The visit, and its first lines.
    pub fn new(plan: Arc<Plan>, rng: &mut impl Rng) -> (Visit, Vec<Action>) {
        let nick = nick(&plan, rng);
        let mut lines = Vec::new();
        if plan.sasl.is_some() {
            lines.push("CAP REQ :sasl".to_owned());
        }
        lines.extend(plan.password.as_ref().map(|password| format!("PASS :{password}")));
        let real_name = plan.advertise.as_ref().map_or("Electrum peer discovery".to_owned(), RealName::to_string);
        lines.push(format!("NICK {nick}"));
        lines.push(format!("USER discovery 0 * :{real_name}"));
        let visit = Visit {
            plan,
            phase: Phase::Registering,
            nick,
            nicks_tried: 1,
            longest_name: None,
            answers: 0,
            found: 0,
            met: Vec::new(),
            newcomers: VecDeque::new(),
        };
        (visit, lines.into_iter().map(Action::Say).collect())
    }

    /// What to do about a line of the server's. What can't be read is passed over, as is what doesn't concern us.
    pub fn line(&mut self, line: &str, rng: &mut impl Rng) -> Vec<Action> {
        if line.contains(['\r', '\n', '\0']) {
            return Vec::new();
        }
        let Ok(Message { prefix, command, .. }) = line.parse::<Message>() else { return Vec::new() };
        let from = match &prefix {
            Some(Prefix::Nickname(nick, ..)) => nick.as_str(),
            // A nick alone may look like a server's name.
            Some(Prefix::ServerName(name)) => name.as_str(),
            None => "",
        };
        match command {
            Command::PING(token, _) => vec![say(format!("PONG :{token}"))],
            Command::Response(response, args) => self.numeric(response as u16, &args, rng),
            Command::Raw(number, args) => number.parse().map_or(Vec::new(), |number| self.numeric(number, &args, rng)),
            Command::CAP(_, answer, ..) if self.phase == Phase::Registering => match answer {
                CapSubCommand::ACK => vec![say("AUTHENTICATE PLAIN")],
                CapSubCommand::NAK => end(Trouble::Sasl),
                _ => Vec::new(),
            },
            Command::AUTHENTICATE(_) if self.phase == Phase::Registering => self.log_in(),
            Command::NICK(nick) if self.is_us(from) => {
                self.nick = nick;
                Vec::new()
            }
            Command::JOIN(channel, ..) => self.joined(&channel, from),
            Command::KICK(channel, nick, why) if self.is_ours(&channel) && self.is_us(&nick) => {
                end(Trouble::SentAway(told(why.as_deref())))
            }
            // We say no such thing ourselves.
            Command::PART(channel, why) if self.is_ours(&channel) && self.is_us(from) => {
                end(Trouble::SentAway(told(why.as_deref())))
            }
            Command::KILL(nick, why) if self.is_us(&nick) => end(Trouble::SentAway(told(Some(&why)))),
            Command::ERROR(_) if self.phase == Phase::Leaving => vec![Action::End(Ok(()))],
            Command::ERROR(why) => vec![Action::End(Err(closed(told(Some(&why)))))],
            _ => Vec::new(),
        }
    }

    /// Asks after one of those who came since, if there is one.
    pub fn next_newcomer(&mut self) -> Option<Action> {
        let nick = self.newcomers.pop_front()?;
        (self.answers, self.found) = (0, 0);
        Some(say(format!("WHO {nick}")))
    }

    /// Says goodbye.
    pub fn leave(&mut self) -> Action {
        self.phase = Phase::Leaving;
        say(GOODBYE)
    }

    /// Whether the goodbye is said.
    pub fn is_leaving(&self) -> bool {
        self.phase == Phase::Leaving
    }

    fn numeric(&mut self, number: u16, args: &[String], rng: &mut impl Rng) -> Vec<Action> {
        let last = || told(args.last().map(String::as_str));
        let about_ours = args.get(1).is_some_and(|about| self.is_ours(about));
        match (number, self.phase) {
            // Welcome, under the nick that we got.
            (1, Phase::Registering) => {
                self.nick = args.first().cloned().unwrap_or_default();
                self.phase = Phase::Joining;
                vec![say(format!("JOIN {}", self.plan.channel))]
            }
            (5, _) => {
                let longest = args.iter().find_map(|arg| arg.trim_end().strip_prefix("NAMELEN=")?.parse().ok());
                self.longest_name = longest.or(self.longest_name);
                Vec::new()
            }
            (10, _) => end(Trouble::Elsewhere(told(Some(&args.get(1..).unwrap_or_default().join(" "))))),
            (432 | 433 | 436 | 437, Phase::Registering) => {
                if self.nicks_tried >= NICKS {
                    return end(Trouble::Nick);
                }
                self.nicks_tried += 1;
                self.nick = nick(&self.plan, rng);
                vec![say(format!("NICK {}", self.nick))]
            }
            (464, _) => end(Trouble::Password),
            (463 | 465 | 466, _) => end(Trouble::Banned(last())),
            (903, Phase::Registering) => vec![say("CAP END")],
            (902 | 904..=908, Phase::Registering) => end(Trouble::Sasl),
            (470, Phase::Joining) => end(Trouble::Elsewhere(told(args.get(2).map(String::as_str)))),
            (474, Phase::Joining) => end(Trouble::Banned(last())),
            (477, Phase::Joining) => end(Trouble::Registered),
            (400..=599, Phase::Joining) if about_ours => end(Trouble::Channel(last())),
            // Try again later.
            (263, Phase::Registering | Phase::Joining | Phase::Asking) => end(Trouble::Busy(last())),
            (352, Phase::Asking | Phase::Staying) => self.somebody(args),
            (315, Phase::Asking) => {
                self.met.shuffle(rng);
                let mut actions: Vec<Action> = self.met.drain(..).map(Action::Found).collect();
                actions.push(Action::Told);
                if self.plan.stay {
                    self.phase = Phase::Staying;
                } else {
                    actions.push(self.leave());
                }
                actions
            }
            _ => Vec::new(),
        }
    }

    /// One of the answers to WHO: the nick is the sixth word, and the real name all that follows the number of hops.
    fn somebody(&mut self, args: &[String]) -> Vec<Action> {
        self.answers += 1;
        let limits = self.answers <= MOST_ANSWERS && self.found < MOST_FOUND;
        let (Some(nick), Some(last)) = (args.get(5), args.last()) else { return Vec::new() };
        if !limits || self.is_us(nick) || !self.is_a_servers(nick) {
            return Vec::new();
        }
        let text = last.split_once(' ').map_or("", |(_, text)| text);
        match names::read(text, self.longest_name, self.plan.default_ports) {
            Ok(name) => {
                self.found += 1;
                if self.phase == Phase::Staying {
                    return vec![Action::Found(name)];
                }
                self.met.push(name);
                Vec::new()
            }
            Err(why) => vec![Action::Dropped(why)],
        }
    }

    fn joined(&mut self, channel: &str, who: &str) -> Vec<Action> {
        match self.phase {
            // Some networks have everybody join a channel of theirs, which is none of ours.
            Phase::Joining if self.is_us(who) && self.is_ours(channel) => {
                self.phase = Phase::Asking;
                vec![say(format!("WHO {}", self.plan.channel))]
            }
            Phase::Staying if self.is_ours(channel) && self.is_a_servers(who) => {
                let is_known = self.newcomers.iter().any(|nick| nick == who);
                if !is_known && self.newcomers.len() < MOST_WAITING {
                    self.newcomers.push_back(who.to_owned());
                }
                Vec::new()
            }
            _ => Vec::new(),
        }
    }

    fn log_in(&self) -> Vec<Action> {
        let Some((user, password)) = &self.plan.sasl else { return Vec::new() };
        vec![say(format!("AUTHENTICATE {}", BASE64.encode(format!("\0{user}\0{password}").as_bytes())))]
    }

    fn is_us(&self, nick: &str) -> bool {
        nick.eq_ignore_ascii_case(&self.nick)
    }

    fn is_ours(&self, channel: &str) -> bool {
        channel.eq_ignore_ascii_case(&self.plan.channel)
    }

    fn is_a_servers(&self, nick: &str) -> bool {
        let prefix = self.plan.nick_prefix.as_bytes();
        nick.as_bytes().get(..prefix.len()).is_some_and(|begin| begin.eq_ignore_ascii_case(prefix))
    }
}

/// By chance, as a nick of ours that stayed the same would let everybody follow us.
fn nick(plan: &Plan, rng: &mut impl Rng) -> String {
    let mut nick = if plan.advertise.is_some() { plan.nick_prefix.clone() } else { String::new() };
    while nick.len() < NICK_LENGTH {
        nick.push(char::from(rng.random_range(b'a'..=b'z')));
    }
    nick
}

fn say(line: impl Into<String>) -> Action {
    Action::Say(line.into())
}

/// We leave for a reason.
fn end(trouble: Trouble) -> Vec<Action> {
    vec![say(GOODBYE), Action::End(Err(trouble))]
}

/// A stranger's words on their way to a log and a terminal.
fn told(text: Option<&str>) -> String {
    text.unwrap_or_default().chars().filter(|char| !char.is_control()).take(200).collect()
}

/// What an ERROR means goes by its words alone.
fn closed(why: String) -> Trouble {
    let words = why.to_ascii_lowercase();
    let has = |some: &[&str]| some.iter().any(|word| words.contains(word));
    if has(&["-line", "banned", "zline", "gline", "kline", "dnsbl"]) {
        Trouble::Banned(why)
    } else if has(&["throttl", "too fast", "too many", "trying to reconnect"]) {
        Trouble::Busy(why)
    } else {
        Trouble::Closed(why)
    }
}

#[cfg(test)]
mod tests;

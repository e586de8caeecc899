//! A visit to an IRC channel, without the connection: register, join, ask once who is there, leave.
//!
//! Servers that know no other way to be found sit in a channel under a nick with a prefix of the network's, and say in their real
//! name where they listen. We are a guest there: six lines are all that a visit takes.

mod real_name_filter;

use std::collections::VecDeque;
use std::sync::Arc;

use data_encoding::BASE64;
use irc_proto::{CapSubCommand, Command, Message, Prefix};
use rand::seq::SliceRandom;
use rand::{Rng, RngExt};

pub use real_name_filter::{DEFAULT_REALNAME_LIMIT, RejectReason};

use crate::peer::{Ports, RealName};

/// What a visit is to do.
#[derive(Debug, Clone)]
pub struct IrcVisitConfig {
    pub channel: String,
    /// The nicks of servers begin so.
    pub nick_prefix: String,
    pub password: Option<String>,
    /// The account and its password, for SASL.
    pub sasl: Option<(String, String)>,
    /// Our own real name, if we are to be found there as well.
    pub advertise: Option<RealName>,
    /// Whether to stay, and ask after those who come.
    pub persistent: bool,
    /// What a bare `s` or `t` means.
    pub default_ports: Ports,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub enum IrcAction {
    /// A line, without its end.
    Send(String),
    Found(RealName),
    Rejected(RejectReason),
    /// Everybody who was there is known.
    WhoComplete,
    End(Result<(), IrcError>),
}

/// Why a visit came to nothing.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum IrcError {
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
    Redirected(String),
    #[error("we were sent away: {0}")]
    Kicked(String),
    #[error("it closed the connection: {0}")]
    Closed(String),
}

const QUIT: &str = "QUIT :bye";

/// Nicks that are tried.
const MAX_NICKS: u32 = 5;

/// Characters of a nick; a few networks allow no more.
const NICK_LENGTH: usize = 9;

/// Answers to one WHO that are looked at, and servers that are taken from them.
const MAX_WHO_REPLIES: usize = 5000;
const MAX_FOUND: usize = 500;

/// Those who came since, and are still to be asked after.
const MAX_PENDING_WHO: usize = 64;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Phase {
    Registering,
    Joining,
    Listing,
    Staying,
    Leaving,
}

/// One connection to an IRC server.
#[derive(Debug)]
pub struct IrcSession {
    config: Arc<IrcVisitConfig>,
    phase: Phase,
    nick: String,
    nick_attempts: u32,
    /// Characters that a real name may have here.
    max_real_name: Option<usize>,
    who_replies: usize,
    found: usize,
    /// Servers that were met, until all are: the first in the server's order shall not use up what the others need.
    discovered: Vec<RealName>,
    pending_who: VecDeque<String>,
}

impl IrcSession {
    /// The visit, and its first lines.
    pub fn new(config: Arc<IrcVisitConfig>, rng: &mut impl Rng) -> (IrcSession, Vec<IrcAction>) {
        let nick = random_nick(&config, rng);
        let mut lines = Vec::new();
        if config.sasl.is_some() {
            lines.push("CAP REQ :sasl".to_owned());
        }
        lines.extend(config.password.as_ref().map(|password| format!("PASS :{password}")));
        let real_name = config.advertise.as_ref().map_or("Electrum peer discovery".to_owned(), RealName::to_string);
        lines.push(format!("NICK {nick}"));
        lines.push(format!("USER discovery 0 * :{real_name}"));
        let session = IrcSession {
            config,
            phase: Phase::Registering,
            nick,
            nick_attempts: 1,
            max_real_name: None,
            who_replies: 0,
            found: 0,
            discovered: Vec::new(),
            pending_who: VecDeque::new(),
        };
        (session, lines.into_iter().map(IrcAction::Send).collect())
    }

    /// What to do about a line of the server's. What can't be read is passed over, as is what doesn't concern us.
    pub fn handle_line(&mut self, line: &str, rng: &mut impl Rng) -> Vec<IrcAction> {
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
            Command::PING(token, _) => vec![send(format!("PONG :{token}"))],
            Command::Response(response, args) => self.numeric(response as u16, &args, rng),
            Command::Raw(number, args) => number.parse().map_or(Vec::new(), |number| self.numeric(number, &args, rng)),
            Command::CAP(_, answer, ..) if self.phase == Phase::Registering => match answer {
                CapSubCommand::ACK => vec![send("AUTHENTICATE PLAIN")],
                CapSubCommand::NAK => quit_with(IrcError::Sasl),
                _ => Vec::new(),
            },
            Command::AUTHENTICATE(_) if self.phase == Phase::Registering => self.authenticate(),
            Command::NICK(nick) if self.is_own_nick(from) => {
                self.nick = nick;
                Vec::new()
            }
            Command::JOIN(channel, ..) => self.on_join(&channel, from),
            Command::KICK(channel, nick, reason) if self.is_own_channel(&channel) && self.is_own_nick(&nick) => {
                quit_with(IrcError::Kicked(sanitize(reason.as_deref())))
            }
            // We say no such thing ourselves.
            Command::PART(channel, reason) if self.is_own_channel(&channel) && self.is_own_nick(from) => {
                quit_with(IrcError::Kicked(sanitize(reason.as_deref())))
            }
            Command::KILL(nick, reason) if self.is_own_nick(&nick) => {
                quit_with(IrcError::Kicked(sanitize(Some(&reason))))
            }
            Command::ERROR(_) if self.phase == Phase::Leaving => vec![IrcAction::End(Ok(()))],
            Command::ERROR(reason) => vec![IrcAction::End(Err(classify_error(sanitize(Some(&reason)))))],
            _ => Vec::new(),
        }
    }

    /// Asks after one of those who came since, if there is one.
    pub fn next_who(&mut self) -> Option<IrcAction> {
        let nick = self.pending_who.pop_front()?;
        (self.who_replies, self.found) = (0, 0);
        Some(send(format!("WHO {nick}")))
    }

    /// Says goodbye.
    pub fn leave(&mut self) -> IrcAction {
        self.phase = Phase::Leaving;
        send(QUIT)
    }

    /// Whether the goodbye is said.
    pub fn is_leaving(&self) -> bool {
        self.phase == Phase::Leaving
    }

    fn numeric(&mut self, number: u16, args: &[String], rng: &mut impl Rng) -> Vec<IrcAction> {
        let last = || sanitize(args.last().map(String::as_str));
        let is_about_channel = args.get(1).is_some_and(|about| self.is_own_channel(about));
        match (number, self.phase) {
            // Welcome, under the nick that we got.
            (1, Phase::Registering) => {
                self.nick = args.first().cloned().unwrap_or_default();
                self.phase = Phase::Joining;
                vec![send(format!("JOIN {}", self.config.channel))]
            }
            (5, _) => {
                let limit = args.iter().find_map(|arg| arg.trim_end().strip_prefix("NAMELEN=")?.parse().ok());
                self.max_real_name = limit.or(self.max_real_name);
                Vec::new()
            }
            (10, _) => quit_with(IrcError::Redirected(sanitize(Some(&args.get(1..).unwrap_or_default().join(" "))))),
            (432 | 433 | 436 | 437, Phase::Registering) => {
                if self.nick_attempts >= MAX_NICKS {
                    return quit_with(IrcError::Nick);
                }
                self.nick_attempts += 1;
                self.nick = random_nick(&self.config, rng);
                vec![send(format!("NICK {}", self.nick))]
            }
            (464, _) => quit_with(IrcError::Password),
            (463 | 465 | 466, _) => quit_with(IrcError::Banned(last())),
            (903, Phase::Registering) => vec![send("CAP END")],
            (902 | 904..=908, Phase::Registering) => quit_with(IrcError::Sasl),
            (470, Phase::Joining) => quit_with(IrcError::Redirected(sanitize(args.get(2).map(String::as_str)))),
            (474, Phase::Joining) => quit_with(IrcError::Banned(last())),
            (477, Phase::Joining) => quit_with(IrcError::Registered),
            (400..=599, Phase::Joining) if is_about_channel => quit_with(IrcError::Channel(last())),
            // Try again later.
            (263, Phase::Registering | Phase::Joining | Phase::Listing) => quit_with(IrcError::Busy(last())),
            (352, Phase::Listing | Phase::Staying) => self.on_who_reply(args),
            (315, Phase::Listing) => {
                self.discovered.shuffle(rng);
                let mut actions: Vec<IrcAction> = self.discovered.drain(..).map(IrcAction::Found).collect();
                actions.push(IrcAction::WhoComplete);
                if self.config.persistent {
                    self.phase = Phase::Staying;
                } else {
                    actions.push(self.leave());
                }
                actions
            }
            _ => Vec::new(),
        }
    }

    /// One of the who_replies to WHO: the nick is the sixth word, and the real name all that follows the number of hops.
    fn on_who_reply(&mut self, args: &[String]) -> Vec<IrcAction> {
        self.who_replies += 1;
        let within_limits = self.who_replies <= MAX_WHO_REPLIES && self.found < MAX_FOUND;
        let (Some(nick), Some(last)) = (args.get(5), args.last()) else { return Vec::new() };
        if !within_limits || self.is_own_nick(nick) || !self.has_server_prefix(nick) {
            return Vec::new();
        }
        let text = last.split_once(' ').map_or("", |(_, text)| text);
        match real_name_filter::read(text, self.max_real_name, self.config.default_ports) {
            Ok(name) => {
                self.found += 1;
                if self.phase == Phase::Staying {
                    return vec![IrcAction::Found(name)];
                }
                self.discovered.push(name);
                Vec::new()
            }
            Err(reason) => vec![IrcAction::Rejected(reason)],
        }
    }

    fn on_join(&mut self, channel: &str, nick: &str) -> Vec<IrcAction> {
        match self.phase {
            // Some networks make every client join a channel of theirs. It is ignored.
            Phase::Joining if self.is_own_nick(nick) && self.is_own_channel(channel) => {
                self.phase = Phase::Listing;
                vec![send(format!("WHO {}", self.config.channel))]
            }
            Phase::Staying if self.is_own_channel(channel) && self.has_server_prefix(nick) => {
                let is_known = self.pending_who.iter().any(|pending| pending == nick);
                if !is_known && self.pending_who.len() < MAX_PENDING_WHO {
                    self.pending_who.push_back(nick.to_owned());
                }
                Vec::new()
            }
            _ => Vec::new(),
        }
    }

    fn authenticate(&self) -> Vec<IrcAction> {
        let Some((user, password)) = &self.config.sasl else { return Vec::new() };
        vec![send(format!("AUTHENTICATE {}", BASE64.encode(format!("\0{user}\0{password}").as_bytes())))]
    }

    fn is_own_nick(&self, nick: &str) -> bool {
        nick.eq_ignore_ascii_case(&self.nick)
    }

    fn is_own_channel(&self, channel: &str) -> bool {
        channel.eq_ignore_ascii_case(&self.config.channel)
    }

    fn has_server_prefix(&self, nick: &str) -> bool {
        let prefix = self.config.nick_prefix.as_bytes();
        nick.as_bytes().get(..prefix.len()).is_some_and(|begin| begin.eq_ignore_ascii_case(prefix))
    }
}

/// Random, because a constant nick would make the node trackable.
fn random_nick(config: &IrcVisitConfig, rng: &mut impl Rng) -> String {
    let mut nick = if config.advertise.is_some() { config.nick_prefix.clone() } else { String::new() };
    while nick.len() < NICK_LENGTH {
        nick.push(char::from(rng.random_range(b'a'..=b'z')));
    }
    nick
}

fn send(line: impl Into<String>) -> IrcAction {
    IrcAction::Send(line.into())
}

/// We leave for a reason.
fn quit_with(error: IrcError) -> Vec<IrcAction> {
    vec![send(QUIT), IrcAction::End(Err(error))]
}

/// A stranger's words on their way to a log and a terminal.
fn sanitize(text: Option<&str>) -> String {
    text.unwrap_or_default().chars().filter(|char| !char.is_control()).take(200).collect()
}

/// What an ERROR means goes by its words alone.
fn classify_error(reason: String) -> IrcError {
    let lower = reason.to_ascii_lowercase();
    let has = |some: &[&str]| some.iter().any(|word| lower.contains(word));
    if has(&["-line", "banned", "zline", "gline", "kline", "dnsbl"]) {
        IrcError::Banned(reason)
    } else if has(&["throttl", "too fast", "too many", "trying to reconnect"]) {
        IrcError::Busy(reason)
    } else {
        IrcError::Closed(reason)
    }
}

#[cfg(test)]
mod tests;

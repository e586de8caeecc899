//! A visit to an IRC channel, without I/O: register, join, send WHO once, quit.
//!
//! Servers that are listed nowhere else stay in a channel, under a nick with the network's prefix,
//! and give their address in the real name. A visit sends six lines.

mod real_name_filter;

use std::collections::VecDeque;
use std::sync::Arc;

use data_encoding::BASE64;
use irc_proto::{CapSubCommand, Command, Message, Prefix};
use rand::seq::SliceRandom;
use rand::{Rng, RngExt};

pub use real_name_filter::{DEFAULT_REALNAME_LIMIT, RejectReason};

use crate::peer::{Ports, RealName, foreign_text};
use crate::secret::Secret;

/// Parameters of a visit.
#[derive(Debug, Clone)]
pub struct IrcVisitConfig {
    /// The channel's name, with its `#`.
    pub channel: String,
    /// Prefix of the nicks of servers.
    pub nick_prefix: String,
    /// Server password. `None`: PASS is not sent.
    pub password: Option<Secret>,
    /// Account and password for SASL PLAIN. `None`: no login.
    pub sasl: Option<(String, Secret)>,
    /// Own address to advertise as real name. `None`: it is not advertised.
    pub advertise: Option<RealName>,
    /// Whether to stay in the channel and query servers that join. Default: false.
    pub persistent: bool,
    /// Ports of a bare `s` or `t` in a real name.
    pub default_ports: Ports,
}

/// What the driver does after a line.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum IrcAction {
    /// Send this line, without its end.
    Send(String),
    /// Report this server to the book.
    Found(RealName),
    /// Count a rejected real name.
    Rejected(RejectReason),
    /// The answer to WHO is complete.
    WhoComplete,
    /// The visit is over.
    End(Result<(), IrcError>),
}

/// Why a visit failed.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum IrcError {
    /// The server refused every nick.
    #[error("all nicks were refused")]
    Nick,
    /// The server refused the password.
    #[error("server password refused; set irc.password")]
    Password,
    /// The server refused the SASL account or the capability.
    #[error("SASL login refused; check irc.sasl_user and irc.sasl_password")]
    Sasl,
    /// The server or channel bans the node.
    #[error("banned by the server: {0}")]
    Banned(String),
    /// The server is overloaded or throttles connections.
    #[error("server is busy: {0}")]
    Busy(String),
    /// The channel requires a registered nick.
    #[error("channel requires a registered nick; register one and set irc.sasl_user")]
    Registered,
    /// The channel can't be joined for another reason.
    #[error("channel can't be joined: {0}")]
    Channel(String),
    /// The server or channel names another one.
    #[error("server redirects to another server or channel: {0}")]
    Redirected(String),
    /// The node was removed from the channel or killed.
    #[error("removed from the channel: {0}")]
    Kicked(String),
    /// The server closed the connection.
    #[error("connection closed by the server: {0}")]
    Closed(String),
}

/// Line that ends a visit.
const QUIT: &str = "QUIT :bye";

/// Maximum number of nicks that are tried.
const MAX_NICKS: u32 = 5;

/// Length of a nick in bytes; some networks allow no more.
const NICK_LENGTH: usize = 9;

/// Maximum number of replies to one WHO that are parsed.
const MAX_WHO_REPLIES: usize = 5000;
/// Maximum number of servers that are taken from them.
const MAX_FOUND: usize = 500;

/// Maximum number of new nicks that wait for a WHO.
const MAX_PENDING_WHO: usize = 64;

/// Phase of a visit.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Phase {
    Registering,
    Joining,
    Listing,
    Staying,
    Leaving,
}

/// State machine of one connection to an IRC server.
#[derive(Debug)]
pub struct IrcSession {
    config: Arc<IrcVisitConfig>,
    phase: Phase,
    nick: String,
    nick_attempts: u32,
    /// Maximum length of a real name in bytes, if the server reports it.
    max_real_name: Option<usize>,
    who_replies: usize,
    found: usize,
    /// Servers found so far, shuffled at the end: the first must not use up the book's budget.
    discovered: Vec<RealName>,
    pending_who: VecDeque<String>,
}

impl IrcSession {
    /// Starts a visit and returns its first lines.
    pub fn new(config: Arc<IrcVisitConfig>, rng: &mut impl Rng) -> (IrcSession, Vec<IrcAction>) {
        let nick = random_nick(&config, rng);
        let mut lines = Vec::new();
        if config.sasl.is_some() {
            lines.push("CAP REQ :sasl".to_owned());
        }
        lines.extend(config.password.as_ref().map(|password| format!("PASS :{}", password.expose())));
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

    /// Handles a line of the server. Lines that can't be parsed are ignored.
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
            // Waypost never sends PART, so the server removed it.
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

    /// Returns a WHO for the next nick that joined, if there is one.
    pub fn next_who(&mut self) -> Option<IrcAction> {
        let nick = self.pending_who.pop_front()?;
        (self.who_replies, self.found) = (0, 0);
        Some(send(format!("WHO {nick}")))
    }

    /// Ends the visit with QUIT.
    pub fn leave(&mut self) -> IrcAction {
        self.phase = Phase::Leaving;
        send(QUIT)
    }

    /// Whether QUIT was sent.
    pub fn is_leaving(&self) -> bool {
        self.phase == Phase::Leaving
    }

    /// Handles a numeric reply.
    fn numeric(&mut self, number: u16, args: &[String], rng: &mut impl Rng) -> Vec<IrcAction> {
        let last = || sanitize(args.last().map(String::as_str));
        let is_about_channel = args.get(1).is_some_and(|about| self.is_own_channel(about));
        match (number, self.phase) {
            // RPL_WELCOME names the assigned nick.
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
            // RPL_TRYAGAIN.
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

    /// Handles RPL_WHOREPLY: word 6 is the nick, and the real name follows the hop count.
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
            // Some networks make every client join another channel, which is ignored.
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
        vec![send(format!("AUTHENTICATE {}", BASE64.encode(format!("\0{user}\0{}", password.expose()).as_bytes())))]
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

/// Creates a random nick, because a constant one would make the node trackable.
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

/// Ends the visit with an error.
fn quit_with(error: IrcError) -> Vec<IrcAction> {
    vec![send(QUIT), IrcAction::End(Err(error))]
}

/// Returns a text of the server for logs and terminals.
fn sanitize(text: Option<&str>) -> String {
    foreign_text(text.unwrap_or_default(), 200)
}

/// Classifies an ERROR, which has no code, by its text.
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

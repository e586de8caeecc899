"""Scripted users in an IRC channel.

    irc_swarm.py IP PORT CHANNEL

reads one order per line on standard input, and answers each with a line of JSON on standard output:

    join NICK REALNAME...    connects a user; answered when the user is in the channel
    seen                     events of other users that the first user saw: [["JOIN", NICK, SECONDS], ["QUIT", ...], ...],
                             in seconds since the start
    who NICK                 the real name of a user, or null
    stats                    number of commands that the server received, {"WHO": 1, ...}
"""

import json
import socket
import sys
import threading
import time

BEGAN = time.monotonic()


class User:
    def __init__(self, address, channel, nick, real_name):
        self.nick, self.channel, self.seen, self.lines = nick, channel, [], []
        self.condition = threading.Condition()
        self.socket = socket.create_connection(address)
        threading.Thread(target=self.listen, daemon=True).start()
        self.say(f"NICK {nick}")
        # A real name may contain any byte but a line break.
        self.say(f"USER {nick.lower()} 0 * :{real_name}")
        self.wait(lambda line: f" 001 {nick} " in line)
        self.say(f"JOIN {channel}")
        self.wait(lambda line: " 366 " in line)

    def say(self, line):
        self.socket.sendall(line.encode("latin-1") + b"\r\n")

    def listen(self):
        for raw in self.socket.makefile("rb"):
            line = raw.decode("latin-1").rstrip("\r\n")
            if line.startswith("PING"):
                self.say("PONG" + line[4:])
                continue
            words = line.split()
            source = words[0][1:].split("!")[0]
            with self.condition:
                if len(words) > 1 and words[1] in ("JOIN", "QUIT", "PART") and source != self.nick:
                    self.seen.append([words[1], source, round(time.monotonic() - BEGAN, 1)])
                self.lines.append(line)
                self.condition.notify_all()

    def wait(self, wanted, seconds=10):
        """Returns the first new line that matches."""
        end = time.monotonic() + seconds
        with self.condition:
            while True:
                while self.lines:
                    line = self.lines.pop(0)
                    if wanted(line):
                        return line
                if not self.condition.wait(max(0, end - time.monotonic())):
                    raise TimeoutError(f"{self.nick}: timed out waiting for the server")

    def gather(self, question, answer, end):
        """Returns all lines with one numeric, up to a line with another."""
        self.say(question)
        found = []
        while True:
            line = self.wait(lambda line: f" {answer} " in line or f" {end} " in line)
            if f" {end} " in line:
                return found
            found.append(line)


def main():
    address, channel = (sys.argv[1], int(sys.argv[2])), sys.argv[3]
    users = []
    for order in sys.stdin:
        verb, _, rest = order.rstrip("\n").partition(" ")
        if verb == "join":
            nick, _, real_name = rest.partition(" ")
            # "\\x03" stands for a control code.
            users.append(User(address, channel, nick, real_name.encode().decode("unicode_escape")))
            answer = nick
        elif verb == "seen":
            answer = users[0].seen
        elif verb == "who":
            lines = users[0].gather(f"WHO {rest}", 352, 315)
            answer = lines[0].partition(" :")[2].partition(" ")[2] if lines else None
        elif verb == "stats":
            words = [line.split() for line in users[0].gather("STATS m", 212, 219)]
            answer = {word[3]: int(word[4]) for word in words}
        else:
            answer = f"unknown order: {verb}"
        print(json.dumps(answer), flush=True)


main()

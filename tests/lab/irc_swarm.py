"""People and servers who sit in an IRC channel, scripted.

    irc_swarm.py IP PORT CHANNEL

reads orders on standard input, a line each, and answers each with one line of JSON on standard output:

    join NICK REALNAME...    somebody comes, and stays; answered when he is in the channel
    seen                     what the first one of them saw others do: [["JOIN", NICK, SECONDS], ["QUIT", ...], ...], seconds
                             since the start
    who NICK                 the real name that the server has of somebody, or null
    stats                    how often the server was given each command, {"WHO": 1, ...}
"""

import json
import socket
import sys
import threading
import time

BEGAN = time.monotonic()


class Person:
    def __init__(self, address, channel, nick, real_name):
        self.nick, self.channel, self.seen, self.lines = nick, channel, [], []
        self.news = threading.Condition()
        self.socket = socket.create_connection(address)
        threading.Thread(target=self.listen, daemon=True).start()
        self.say(f"NICK {nick}")
        # As bytes: a real name may hold anything but the end of its line.
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
            who = words[0][1:].split("!")[0]
            with self.news:
                if len(words) > 1 and words[1] in ("JOIN", "QUIT", "PART") and who != self.nick:
                    self.seen.append([words[1], who, round(time.monotonic() - BEGAN, 1)])
                self.lines.append(line)
                self.news.notify_all()

    def wait(self, wanted, seconds=10):
        """The first line that is wanted, of those that came since the last one."""
        end = time.monotonic() + seconds
        with self.news:
            while True:
                while self.lines:
                    line = self.lines.pop(0)
                    if wanted(line):
                        return line
                if not self.news.wait(max(0, end - time.monotonic())):
                    raise TimeoutError(f"{self.nick}: the server doesn't say what was awaited")

    def gather(self, question, answer, end):
        """All lines with one number until a line with another."""
        self.say(question)
        found = []
        while True:
            line = self.wait(lambda line: f" {answer} " in line or f" {end} " in line)
            if f" {end} " in line:
                return found
            found.append(line)


def main():
    address, channel = (sys.argv[1], int(sys.argv[2])), sys.argv[3]
    people = []
    for order in sys.stdin:
        verb, _, rest = order.rstrip("\n").partition(" ")
        if verb == "join":
            nick, _, real_name = rest.partition(" ")
            # "\\x03" stands for a control code.
            people.append(Person(address, channel, nick, real_name.encode().decode("unicode_escape")))
            answer = nick
        elif verb == "seen":
            answer = people[0].seen
        elif verb == "who":
            lines = people[0].gather(f"WHO {rest}", 352, 315)
            answer = lines[0].partition(" :")[2].partition(" ")[2] if lines else None
        elif verb == "stats":
            words = [line.split() for line in people[0].gather("STATS m", 212, 219)]
            answer = {word[3]: int(word[4]) for word in words}
        else:
            answer = f"unknown order: {verb}"
        print(json.dumps(answer), flush=True)


main()

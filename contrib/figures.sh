#!/usr/bin/env bash
# Measures the figures of docs/figures.md, and replaces the tables of that page.
#
#   contrib/figures.sh [WORD]...       only the blocks of commands that contain one of the words, such as small or disk
#
# The commands are those of the `sh` blocks of the page. The tables that a block prints, with their captions, replace
# the text between the markers below it. When a command fails or prints no table, the page keeps the old tables of its
# block. The page is written after each block, so an interruption loses only the running one.
#
# All blocks take about 2.5 hours, an hour of it for an idle Tor. The machine should be idle. Installs missing
# dependencies first (see install-test-deps.sh). Exit status 1 if a command failed.
set -euo pipefail
cd "$(dirname "$(realpath "$0")")/.."
. contrib/install-test-deps.sh

install_test_deps
exec python3 - "$@" <<'END'
import re
import subprocess
import sys

PAGE = "docs/figures.md"
BLOCK = re.compile(r"```sh\n([^`]*)```\n\n<!-- measured -->\n(.*?)<!-- end -->\n", re.S)


def read_page():
    with open(PAGE, encoding="utf-8") as page:
        return page.read()


def tables(output):
    """Returns the tables of an output, each with the line above it if that ends with a colon."""
    kept, above = [], ""
    for part in re.split(r"\n\s*\n", output):
        lines = part.strip().splitlines() or [""]
        if all(line.startswith("|") for line in lines):
            kept += [above] * above.endswith(":") + ["\n".join(lines)]
        above = lines[-1]
    return "\n\n".join(kept)


def measure(block):
    """Returns the tables of a block of commands, or None after a failure."""
    measured = []
    for command in filter(str.strip, block.splitlines()):
        print(f"\n== {command}", flush=True)
        run = subprocess.run(["bash", "-c", command], stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, text=True)
        found = tables(run.stdout)
        if run.returncode != 0 or not found:
            print(run.stdout)
            reason = f"exit status {run.returncode}" if run.returncode else "no table in the output"
            failed.append(f"{command}: {reason}")
            return None
        print(found)
        measured.append(found)
    return "\n\n".join(measured)


def replace(block, measured):
    def with_tables(match):
        old, start = match.group(0), match.start(2) - match.start(0)
        return f"{old[:start]}\n{measured}\n\n<!-- end -->\n" if match.group(1) == block else old

    # The page is read again, since its text may have been edited in the meantime.
    text = BLOCK.sub(with_tables, read_page())
    with open(PAGE, "w", encoding="utf-8") as page:
        page.write(text)


words, failed = sys.argv[1:], []
blocks = [block for block, _ in BLOCK.findall(read_page()) if not words or any(word in block for word in words)]
if not blocks:
    sys.exit(f"no command in {PAGE} contains {' or '.join(words) or 'anything'}")
for block in blocks:
    if measured := measure(block):
        replace(block, measured)
if failed:
    sys.exit("\nThese commands failed, and the page keeps their old tables:\n" + "\n".join(failed))
END

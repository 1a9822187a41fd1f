"""Writes what was measured into the README.md of each folder: the tables and sentences between their marks.

    python benchmarks/report.py

A block is what stands between the comments <!-- name --> and <!-- /name -->. A test compares every block with the rows
in benchmarks/results, so a number in one of them can't be older than its row.
"""

import re

import ablations
import learning
import peers
import speed
from launcher import ROOT

import recipes

BLOCKS = {
    "learning": learning.summary,
    "every seed": learning.every_seed,
    "peers": peers.summary,
    "headline": peers.headline,
    "speed": speed.summary,
    "recipes": recipes.summary,
    "ablations ppo_discrete": lambda: ablations.summary("ppo_discrete"),
    "ablations ppo_continuous": lambda: ablations.summary("ppo_continuous"),
    "ablations again": ablations.summary_again,
}
PAGES = tuple(ROOT / folder / "README.md" for folder in (".", "benchmarks", "recipes"))


def fill(text):
    """The text with each block made anew from the rows."""
    return re.sub(
        r"(<!-- ([\w ]+) -->\n).*?(<!-- /\2 -->)",
        lambda match: f"{match[1]}\n{BLOCKS[match[2]]()}\n\n{match[3]}",
        text,
        flags=re.DOTALL,
    )


def main():
    for page in PAGES:
        page.write_text(fill(page.read_text()))


if __name__ == "__main__":
    main()

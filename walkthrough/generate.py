"""Puts into the page what it quotes: lines of the scripts, numbers of numbers.json, the table of the exercises.

    python walkthrough/generate.py

A comment in the page says what stands after it: <!-- code SCRIPT FUNCTION -->, or with the beginnings of the first
and the last line, <!-- code SCRIPT FUNCTION: first ... last -->; <!-- number NAME -->; <!-- exercises -->. A test
fails when the page is not what this writes.
"""

import ast
import json
import re
import shlex
import textwrap

from exercises import EXERCISES, FOLDER, SEEDS

PAGE = FOLDER / "README.md"
NUMBERS = json.loads((FOLDER / "numbers.json").read_text())


def code(script, name, first="", last=""):
    """The text of a function, a class or a method (Class.method), or of the lines from `first` to `last` in it."""
    source = (FOLDER.parent / f"{script}.py").read_text()
    node = ast.parse(source)
    for part in name.split("."):
        node = next(child for child in node.body if getattr(child, "name", None) == part)
    start = min([node.lineno, *(decorator.lineno for decorator in node.decorator_list)])
    lines = source.splitlines()[start - 1 : node.end_lineno]
    if first:
        beginnings = [line.strip() for line in lines]
        begin = next(i for i, line in enumerate(beginnings) if line.startswith(first))
        end = next(i for i, line in enumerate(beginnings) if i >= begin and line.startswith(last))
        lines = lines[begin : end + 1]
    return textwrap.dedent("\n".join(lines))


def exercises():
    rows = json.loads((FOLDER / "exercises.json").read_text())
    lines = ["| | change | command | mean | each seed |", "|---|---|---|---|---|"]
    for number, (exercise, returns) in enumerate(zip(EXERCISES, rows, strict=True), 1):
        name = exercise.name + " (edit a line)" * bool(exercise.changes)
        each = " ".join(f"{value:.0f}" for value in returns)
        flags = shlex.join(exercise.flags.split())
        mean = sum(returns) / len(SEEDS)
        lines.append(f"| {number} | {name} | `python {exercise.script}.py {flags}` | {mean:.0f} | {each} |")
    return "\n".join(lines)


def fill(page):
    page = re.sub(
        r"<!-- code (\w+) ([\w.]+)(?:: (.+?) \.\.\. (.+?))? -->\n```python\n.*?\n```\n",
        lambda m: f"{m[0].splitlines()[0]}\n```python\n{code(m[1], m[2], m[3], m[4])}\n```\n",
        page,
        flags=re.DOTALL,
    )
    page = re.sub(
        r"<!-- number ([^>]+?) -->.*?<!-- /number -->",
        lambda m: f"<!-- number {m[1]} -->{NUMBERS[m[1]]}<!-- /number -->",
        page,
        flags=re.DOTALL,
    )
    return re.sub(
        r"<!-- exercises -->\n.*?<!-- /exercises -->",
        lambda m: f"<!-- exercises -->\n{exercises()}\n<!-- /exercises -->",
        page,
        flags=re.DOTALL,
    )


if __name__ == "__main__":
    PAGE.write_text(fill(PAGE.read_text()))

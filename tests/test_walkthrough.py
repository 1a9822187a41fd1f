"""The walkthrough: what its page quotes is what the scripts and the runs say."""

import json
import re
import xml.etree.ElementTree as ElementTree

import pytest
from conftest import ROOT

pytestmark = pytest.mark.quick

FOLDER = ROOT / "walkthrough"


@pytest.fixture
def generate(monkeypatch):
    monkeypatch.syspath_prepend(FOLDER)
    import generate

    return generate


def test_the_page_quotes_scripts_and_runs_as_they_are(generate):
    page = generate.PAGE.read_text()
    assert generate.fill(page) == page and len(page.splitlines()) <= 350
    assert set(re.findall(r"<!-- number ([^>]+?) -->", page)) <= generate.NUMBERS.keys()
    assert not re.search(r"(?m)^<!-- number", page)  # there, a comment ends the paragraph


@pytest.mark.parametrize(
    "pattern",
    [r"(ratio = log_ratio.exp\(\))", r"<!-- number .+? -->(.+?)<!-- /number -->", r"\| (-?\d+) \| -?\d+ -?\d+"],
)
def test_a_change_does_not_go_unnoticed(generate, pattern):
    """Neither in a quoted line, nor in a number, nor in the table."""
    page = generate.PAGE.read_text()
    place = re.search(pattern, page)
    assert generate.fill(page[: place.start(1)] + "12345" + page[place.end(1) :]) == page


def test_each_exercise_fits_the_script(generate):
    from exercises import EXERCISES, changed

    assert len(json.loads((FOLDER / "exercises.json").read_text())) == len(EXERCISES) >= 7
    for exercise in EXERCISES:
        compile(changed(exercise.script, exercise.changes), exercise.name, "exec")


def test_pictures_are_there_and_small(generate):
    page = generate.PAGE.read_text()
    pictures = re.findall(r"!\[(.+?)\]\((.+?)\)", page)
    assert len(pictures) >= 6
    for alternative, name in pictures:
        path = FOLDER / name
        assert len(alternative) > 20 and path.stat().st_size < 400_000
        assert ElementTree.parse(path).getroot().tag.endswith("svg")


def test_links_lead_somewhere(generate):
    prose = re.sub(r"(?s)\$\$.*?\$\$|\$.*?\$", "", generate.PAGE.read_text())
    for target in re.findall(r"\]\((?!http)([^)#]+)", prose):
        assert (FOLDER / target).exists(), target

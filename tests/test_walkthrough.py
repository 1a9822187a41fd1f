"""The walkthrough: what its page quotes is what the scripts and the runs say."""

import json
import re
import xml.etree.ElementTree as ElementTree

import generate
import pytest
from conftest import ROOT
from exercises import EXERCISES, changed

pytestmark = pytest.mark.quick

FOLDER = ROOT / "walkthrough"


def test_the_page_quotes_scripts_and_runs_as_they_are():
    page = generate.PAGE.read_text()
    code, number, table = (
        r"(code .+? -->\n```python\n).*?(\n```)",
        r"(number .+? -->).*?(<!-- /n)",
        r"(exercises -->\n).*?(<!-- /e)",
    )
    for quoted in code, number, table:
        emptied = re.sub(f"(?s){quoted}", r"\1\2", page)
        assert emptied != page and generate.fill(emptied) == page  # whatever stands there
    assert len(page.splitlines()) <= 350
    assert set(re.findall(r"<!-- number ([^>]+?) -->", page)) <= generate.NUMBERS.keys()
    assert not re.search(r"(?m)^<!-- number", page)  # there, a comment ends the paragraph


def test_each_exercise_fits_the_script():
    assert len(json.loads((FOLDER / "exercises.json").read_text())) == len(EXERCISES) >= 7
    for exercise in EXERCISES:
        compile(changed(exercise.script, exercise.changes), exercise.name, "exec")


def test_pictures_are_there_and_small():
    page = generate.PAGE.read_text()
    pictures = re.findall(r"!\[(.+?)\]\((.+?)\)", page)
    assert len(pictures) >= 6
    for alternative, name in pictures:
        path = FOLDER / name
        assert len(alternative) > 20 and path.stat().st_size < 400_000
        assert ElementTree.parse(path).getroot().tag.endswith("svg")


def test_links_lead_somewhere():
    prose = re.sub(r"(?s)\$\$.*?\$\$|\$.*?\$", "", generate.PAGE.read_text())
    for target in re.findall(r"\]\((?!http)([^)#]+)", prose):
        assert (FOLDER / target).exists(), target

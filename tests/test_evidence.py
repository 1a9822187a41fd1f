"""The numbers in the documentation, and the rows that they come from."""

import importlib
import json
import re
import shutil
import subprocess
from pathlib import Path

import pytest
from conftest import ROOT


@pytest.fixture
def benchmarks(monkeypatch):
    """The modules of benchmarks/ by name."""
    monkeypatch.syspath_prepend(ROOT / "benchmarks")
    return importlib.import_module


@pytest.fixture
def results(benchmarks, monkeypatch, tmp_path):
    """A copy of the rows, which a test may change."""
    launcher = benchmarks("launcher")
    for path in launcher.RESULTS.glob("*.jsonl"):
        (tmp_path / path.name).write_text(path.read_text())
    monkeypatch.setattr(launcher, "RESULTS", tmp_path)
    return tmp_path


def test_every_block_of_the_documentation_is_made_of_the_rows(benchmarks):
    report = benchmarks("report")
    pages = [page.read_text() for page in report.PAGES]
    assert [report.fill(page) for page in pages] == pages
    blocks = re.findall(r"<!-- ([\w ]+) -->.*?<!-- /\1 -->", "".join(pages), re.DOTALL)
    assert sorted(blocks) == sorted(report.BLOCKS)


def test_a_digit_that_changes_does_not_go_unnoticed(benchmarks):
    report = benchmarks("report")
    page = report.PAGES[0].read_text()
    number = re.search(r"<!-- learning -->.*?LunarLander-v3 \| 500,000 \| (\d)", page, re.DOTALL)
    changed = page[: number.start(1)] + str(9 - int(number[1])) + page[number.end(1) :]
    assert report.fill(changed) == page


def test_a_row_that_changes_or_is_missing_does_not_go_unnoticed(benchmarks, results):
    learning, path = benchmarks("learning"), results / "learning.jsonl"
    summary, text = learning.summary(), path.read_text()
    for number, (_, rows) in enumerate(learning.results()):
        worse = json.dumps(rows[0] | {"greedy": rows[0]["greedy"] | {"mean": rows[0]["greedy"]["mean"] - 9}})
        path.write_text(text.replace(json.dumps(rows[0]), worse))
        changed = [old != new for old, new in zip(summary.splitlines(), learning.summary().splitlines(), strict=True)]
        assert [line - 2 for line, differs in enumerate(changed) if differs] == [number]  # after the header
        path.write_text(text.replace(json.dumps(rows[0]) + "\n", ""))
        with pytest.raises(SystemExit, match="results/learning.jsonl has no row of"):
            learning.summary()
        path.write_text(text)


def test_no_table_may_be_empty(benchmarks, results):
    report = benchmarks("report")
    for name in report.BLOCKS:
        files = {"every seed": "learning", "headline": "peers", "ablations again": "ablations_again"}
        file = files.get(name, name.split()[0])
        text = (results / f"{file}.jsonl").read_text()
        (results / f"{file}.jsonl").write_text("")
        with pytest.raises(SystemExit, match=r"results/\w+.jsonl has no row of"):
            report.BLOCKS[name]()
        (results / f"{file}.jsonl").write_text(text)
    with pytest.raises(KeyError):
        report.fill("<!-- spede -->\n<!-- /spede -->")


def test_the_pictures_show_the_rows(benchmarks):
    curves, ablations = benchmarks("curves"), benchmarks("ablations")
    pictures = {"curves": curves.rows_over_steps(), "peers": curves.rows_over_seconds()}
    pictures |= {f"ablations_{script}": ablations.rows(ablations.pairs_of(script)) for script in ablations.SCRIPTS}
    for name, rows in pictures.items():
        assert f"rows {curves.checksum(rows)}" in (ROOT / "benchmarks" / f"{name}.svg").read_text()


def test_a_named_detail_gets_its_line_of_the_table(benchmarks):
    ablations = benchmarks("ablations")
    marginal = ("normalized observations not clipped", "Adam's epsilon 1e-8")  # bold or not by a hair
    for detail in (detail for detail in ablations.DETAILS if detail.name in marginal):
        _, _, line, *_ = ablations.summary("ppo_discrete", [detail]).splitlines()
        assert line.startswith(f"| {detail.name} |") and line in ablations.summary("ppo_discrete")


def test_the_ablations_fit_the_scripts(benchmarks):
    ablations, launcher = benchmarks("ablations"), benchmarks("launcher")
    assert len(ablations.pairs_again()) == 12
    for detail, env_id in ablations.pairs():
        script = ablations.ENVIRONMENTS[env_id][0]
        with launcher.changed_copy(script, detail.changes) as folder:
            compile(Path(folder, f"{script}.py").read_text(), detail.name, "exec")


def test_the_candidates_fit_the_scripts(benchmarks):
    tune, launcher = benchmarks("tune"), benchmarks("launcher")
    for path in tune.CANDIDATES.glob("*.json"):
        file = json.loads(path.read_text())
        for name, candidate in file["candidates"].items():
            with launcher.changed_copy(file["script"], candidate.get("changes", [])) as folder:
                compile(Path(folder, f"{file['script']}.py").read_text(), name, "exec")


def test_the_prose_holds_no_results(benchmarks):
    report = benchmarks("report")
    result = r"\d (?:s|seconds|steps/s|k steps|% of)\b|\d times (?:as )?fast"
    result += r"|(?:return|mean|worst seed)s? (?:of )?-?\d[\d.]*\b(?! episodes)"
    for page in report.PAGES:
        prose = re.sub(r"<!-- ([\w ]+) -->.*?<!-- /\1 -->|```.*?```", "", page.read_text(), flags=re.DOTALL)
        assert not re.findall(f".*(?:{result}).*", prose)


def test_what_counts_as_the_same_numbers(benchmarks):
    compare = benchmarks("verify").compare
    row = {"losses/approx_kl": [0.01, 0.02], "charts/episodic_return": [-150.0]}
    rounded = {"losses/approx_kl": [0.01 * (1 + 1e-9), 0.02], "charts/episodic_return": [-150.0]}
    near = {"losses/approx_kl": [0.0101, 0.09], "charts/episodic_return": [-150.0]}
    far = {"losses/approx_kl": [0.02, 0.02], "charts/episodic_return": [-150.0]}
    fewer = {"losses/approx_kl": [0.01, 0.02], "charts/episodic_return": []}
    assert not compare(rounded, row, same_processor=True)
    assert "approx_kl number 1" in compare(near, row, same_processor=True)
    assert not compare(near, row, same_processor=False)
    assert compare(far, row, same_processor=False)
    assert compare(fewer, row, same_processor=True) and compare(fewer, row, same_processor=False)


@pytest.mark.process
def test_verify_notices_a_change_of_the_numbers_and_no_other(benchmarks, monkeypatch, tmp_path):
    learning, verify, launcher = benchmarks("learning"), benchmarks("verify"), benchmarks("launcher")
    setting = launcher.Setting(
        "ppo_discrete", "CartPole-v1", 480, "--num-envs 4 --num-steps 8 --update-epochs 2 --eval-episodes 1"
    )
    row, _ = learning.train(setting, seed=1)
    row["processor"] = launcher.processor()
    text = (ROOT / "ppo_discrete.py").read_text()
    monkeypatch.setattr(launcher, "ROOT", tmp_path)
    (tmp_path / "ppo_discrete.py").write_text(text.replace("log_ratio", "log_of_ratio"))
    assert not verify.difference(row)
    (tmp_path / "ppo_discrete.py").write_text(text.replace("0.5  # weight of the value", "0.25  # weight of the value"))
    assert "in the row" in verify.difference(row)
    (tmp_path / "ppo_discrete.py").write_text("1 / 0")
    assert "training fails" in verify.difference(row)


@pytest.mark.skipif(not shutil.which("git"), reason="needs git")
def test_campaigns_refuse_uncommitted_changes(benchmarks, monkeypatch, tmp_path):
    launcher = benchmarks("launcher")
    monkeypatch.setattr(launcher, "ROOT", tmp_path)
    (tmp_path / "ppo_discrete.py").write_text("1")
    git = ["git", "-c", "user.name=a", "-c", "user.email=a@b.c"]
    for words in (["init", "-q"], ["add", "."], ["commit", "-qm", "first"]):
        subprocess.run([*git, *words], cwd=tmp_path, check=True)
    assert re.fullmatch("[0-9a-f]{40}", launcher.provenance()["commit"])
    (tmp_path / "ppo_discrete.py").write_text("2")
    with pytest.raises(SystemExit, match="commit the changes"):
        launcher.provenance()

"""The numbers in the documentation, and the rows that they come from."""

import json
import re
import shutil
import subprocess
from pathlib import Path

import ablations
import curves
import launcher
import learning
import pytest
import report
import tune
import verify
from conftest import ROOT
from verify import compare


@pytest.fixture
def results(monkeypatch, tmp_path):
    """A copy of the rows, which a test may change."""
    copied = Path(shutil.copytree(launcher.RESULTS, tmp_path / "results"))
    monkeypatch.setattr(launcher, "RESULTS", copied)
    return copied


def test_every_block_of_the_documentation_is_made_of_the_rows():
    pages = [page.read_text() for page in report.PAGES]
    blocks = re.compile(r"(<!-- ([\w ]+) -->\n).*?(<!-- /\2 -->)", re.DOTALL)
    assert [report.fill(blocks.sub(r"\1\3", page)) for page in pages] == pages  # whatever stands in them
    assert sorted(name for _, name, _ in blocks.findall("".join(pages))) == sorted(report.BLOCKS)


def test_a_row_that_changes_or_is_missing_does_not_go_unnoticed(results):
    path = results / "learning.jsonl"
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


def test_no_table_may_be_empty(results):
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


def test_the_pictures_show_the_rows():
    pictures = {"curves": curves.rows_over_steps(), "peers": curves.rows_over_seconds()}
    pictures |= {f"ablations_{script}": ablations.rows(ablations.pairs_of(script)) for script in ablations.SCRIPTS}
    for name, rows in pictures.items():
        assert f"rows {curves.checksum(rows)}" in (ROOT / "benchmarks" / f"{name}.svg").read_text()


def test_a_named_detail_gets_its_line_of_the_table():
    marginal = ("normalized observations not clipped", "Adam's epsilon 1e-8")  # bold or not by a hair
    for detail in (detail for detail in ablations.DETAILS if detail.name in marginal):
        _, _, line, *_ = ablations.summary("ppo_discrete", [detail]).splitlines()
        assert line.startswith(f"| {detail.name} |") and line in ablations.summary("ppo_discrete")


def test_the_ablations_and_the_candidates_fit_the_scripts():
    assert len(ablations.pairs_again()) == 12
    changes = [(ablations.ENVIRONMENTS[env_id][0], detail.changes) for detail, env_id in ablations.pairs()]
    for path in tune.CANDIDATES.glob("*.json"):
        file = json.loads(path.read_text())
        changes += [(file["script"], candidate.get("changes", [])) for candidate in file["candidates"].values()]
    for script, change in changes:
        with launcher.changed_copy(script, change) as folder:
            compile(Path(folder, f"{script}.py").read_text(), f"{change}", "exec")


def test_the_prose_holds_no_results():
    result = r"\d (?:s|seconds|steps/s|k steps|% of)\b|\d times (?:as )?fast"
    result += r"|(?:return|mean|worst seed)s? (?:of )?-?\d[\d.]*\b(?! episodes)"
    for page in report.PAGES:
        prose = re.sub(r"<!-- ([\w ]+) -->.*?<!-- /\1 -->|```.*?```", "", page.read_text(), flags=re.DOTALL)
        assert not re.findall(f".*(?:{result}).*", prose)


def test_what_counts_as_the_same_numbers():
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
def test_verify_notices_a_change_of_the_numbers_and_no_other(monkeypatch, tmp_path):
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
def test_campaigns_refuse_uncommitted_changes(monkeypatch, tmp_path):
    monkeypatch.setattr(launcher, "ROOT", tmp_path)
    (tmp_path / "ppo_discrete.py").write_text("1")
    git = ["git", "-c", "user.name=a", "-c", "user.email=a@b.c"]
    for words in (["init", "-q"], ["add", "."], ["commit", "-qm", "first"]):
        subprocess.run([*git, *words], cwd=tmp_path, check=True)
    assert re.fullmatch("[0-9a-f]{40}", launcher.provenance()["commit"])
    (tmp_path / "ppo_discrete.py").write_text("2")
    with pytest.raises(SystemExit, match="commit the changes"):
        launcher.provenance()

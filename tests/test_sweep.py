"""A sweep's table compared with single audits, and its runs with a script of known results."""

from __future__ import annotations

import dataclasses
import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import textwrap
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from torch import nn

import cbsurgeon as cbs
from cbsurgeon.errors import CBSurgeonError, CheckFailed
from cbsurgeon.integrations import ray_cluster
from cbsurgeon.report import render_html, render_text
from cbsurgeon.sweeps import storage, study
from cbsurgeon.sweeps.result import SweepTable
from cbsurgeon.sweeps.runs import Result, Runs

ROOT = Path(__file__).parents[1]

# Accuracy is 10 for the baseline, 12 for cb and 11 for se, plus the seed, plus 0.5 for cb at an odd seed; every run
# leaves a line in the log beside it.
SCRIPT = """
import json, sys, time
from pathlib import Path
model, seed, out, log = Path(sys.argv[1]), int(sys.argv[2]), Path(sys.argv[3]), Path(sys.argv[4])
assert model.stat().st_size > 1000
cell = out.parent.name
with log.open("a") as file:
    file.write(f"{cell} {seed}\\n")
time.sleep(float(sys.argv[5]) if len(sys.argv) > 5 else 0)
value = {"baseline": 10.0}.get(cell, 12.0 if cell.startswith("cb-") else 11.0) + seed
value += 0.5 * (cell.startswith("cb-") and seed % 2)
(out / "metrics.json").write_text(json.dumps({"accuracy": value, "epochs": 3}))
"""


def encoder(blocks: int = 3) -> cbs.Model:
    torch.manual_seed(0)
    layer = nn.TransformerEncoderLayer(8, 2, 16, batch_first=True, norm_first=True)
    return cbs.Model(nn.TransformerEncoder(layer, blocks, enable_nested_tensor=False).eval(), (torch.randn(2, 5, 8),))


def command(tmp_path: Path, script: str = SCRIPT, *more: str) -> str:
    file = tmp_path / "train.py"
    file.write_text(textwrap.dedent(script))
    return f"{sys.executable} {file} {{model}} {{seed}} {{out}} {tmp_path / 'log'} {' '.join(more)}"


def started(tmp_path: Path) -> list[str]:
    return sorted((tmp_path / "log").read_text().splitlines())


@pytest.mark.wide
def test_each_cell_costs_what_an_audit_of_that_model_says(tmp_path: Path) -> None:
    model = encoder()
    table = cbs.sweep(model, tmp_path / "s", op=("cb", "cb_s", "se"), pos=("front", "end"), layers=("0,2",))
    assert [row.name for row in table.rows][:2] == ["baseline", "cb-front-mlp-0_2"] and len(table.rows) == 7
    found = cbs.inspect(model)
    for row in table.rows[1:]:
        recipe = cbs.plan(found, **row.cell)
        audited = cbs.audit(model, cbs.insert(model, recipe)).to_dict()
        assert row.blocks == recipe.indices
        for name in ("params", "flops", "bytes"):
            assert getattr(row, name) == audited[name]["b"], (row.name, name)
            assert getattr(table.rows[0], name) == audited[name]["a"]
    assert json.loads((tmp_path / "s" / "sweep.json").read_text()) == table.to_dict()
    assert "cb_s-end-mlp-0_2" in render_text(table.to_dict())


def test_a_cell_that_does_not_exist_is_listed_with_the_reason(tmp_path: Path) -> None:
    table = cbs.sweep(encoder(), tmp_path / "s", at=("msa",), pos=("mid", "end"), layers=("all",))
    mid, end = table.rows[1:]
    assert "CB-LOCATE-04" in mid.refused and not end.refused
    assert mid.refused.split(" [")[0] in " ".join(render_text(table.to_dict(), width=400).split())


@pytest.mark.wide
def test_runs_are_compared_with_the_baseline_seed_by_seed(tmp_path: Path) -> None:
    how = {"op": ("cb", "se"), "layers": ("all",), "seeds": (0, 1), "run": command(tmp_path), "metric": "accuracy"}
    table = cbs.sweep(encoder(), tmp_path / "s", **how)
    assert table and table.best == "cb-end-mlp-all"
    assert table.values("baseline") == {0: 10.0, 1: 11.0}
    cb = table.summary("cb-end-mlp-all")
    assert cb is not None and cb["mean"] == 12.75 and cb["difference"]["value"] == 2.25
    # Two differences, 2.0 and 2.5: half of the interval is t(1) · s / sqrt(2) = 12.706 · 0.3536 / 1.4142.
    assert cb["difference"]["ci95"] == pytest.approx([2.25 - 3.1765, 2.25 + 3.1765], abs=1e-3)
    assert len(started(tmp_path)) == 6
    again = cbs.sweep(encoder(), tmp_path / "s", **how)
    assert again.to_dict()["rows"] == table.to_dict()["rows"]
    assert len(started(tmp_path)) == 6, "a finished run is never repeated"


def test_the_page_has_the_table_and_its_plots(tmp_path: Path) -> None:
    pytest.importorskip("matplotlib", reason="the page draws with it")
    how = {"op": ("cb", "se"), "pos": ("end", "mid"), "at": ("both",), "layers": ("all",), "seeds": (0, 1)}
    table = cbs.sweep(encoder(), tmp_path / "s", run=command(tmp_path), metric="accuracy", **how)
    page = render_html([table.to_dict()])
    for row in table.rows:
        assert row.name in page
    assert "plot-sweep-costs" in page and "plot-sweep-metric" in page
    assert (
        f"<strong>{table.best}</strong>" in page
        and "not distinguishable from the baseline" in page
        and "CB-LOCATE-04" in page
    )


def test_the_edited_model_of_a_cell_is_the_file_that_the_command_gets(tmp_path: Path) -> None:
    model = encoder()
    cbs.sweep(model, tmp_path / "s", layers=("all",), run=command(tmp_path), metric="accuracy")
    by_hand = cbs.insert(model, cbs.plan(cbs.inspect(model), layers="all"))
    recipe = json.loads((tmp_path / "s/models/cb-end-mlp-all.recipe.json").read_text())
    assert recipe["sites"] == [site.to_dict() for site in cbs.plan(cbs.inspect(model), layers="all").sites]
    from safetensors.torch import load_file

    held = load_file(tmp_path / "s/models/cb-end-mlp-all.safetensors")
    assert by_hand.module is not None
    assert all(torch.equal(held[name], value) for name, value in by_hand.module.state_dict().items())


ONCE = """
import sys
from pathlib import Path
out = Path(sys.argv[3])
if not (out / "tried").exists():
    (out / "tried").touch()
    sys.exit(7)
(out / "metrics.json").write_text('{"accuracy": 1}')
"""


def test_a_failed_run_is_repeated_and_one_that_keeps_failing_is_reported(tmp_path: Path) -> None:
    table = cbs.sweep(encoder(), tmp_path / "s", layers=("all",), run=command(tmp_path, ONCE), metric="accuracy")
    assert table and {one.attempts for one in table.results} == {2}
    how = {"layers": ("all",), "run": command(tmp_path, SCRIPT), "metric": "f1", "retries": 1}
    table = cbs.sweep(encoder(), tmp_path / "t", **how)
    assert not table and {one.attempts for one in table.results} == {2}
    with pytest.raises(CheckFailed, match="no number 'f1'; it has accuracy, epochs") as raised:
        table.raise_if_failed()
    assert raised.value.code == "CB-SWEEP-07"


@pytest.mark.wide
def test_two_workers_share_the_runs(tmp_path: Path) -> None:
    how = {"op": ("cb", "se"), "layers": ("all",), "seeds": (0, 1, 2), "metric": "accuracy"}
    table = cbs.sweep(encoder(), tmp_path / "s", run=command(tmp_path, SCRIPT, "0.2"), workers=2, **how)
    assert table.summary("cb-end-mlp-all")["mean"] == pytest.approx(13 + 0.5 / 3)  # type: ignore[index]
    assert len(started(tmp_path)) == len(set(started(tmp_path))) == 9


def test_a_killed_sweep_resumes_without_losing_or_repeating_a_finished_run(tmp_path: Path) -> None:
    run = command(tmp_path, SCRIPT, "0.3")
    code = f"""
from pathlib import Path
import cbsurgeon as cbs
from cbsurgeon.sweeps import storage
from tests.test_sweep import encoder
storage.HEARTBEAT, storage.GRACE = 1, 3
cbs.sweep(encoder(), {str(tmp_path / "s")!r}, layers=("all",), seeds=(0, 1, 2), run={run!r}, metric="accuracy")
"""
    process = subprocess.Popen([sys.executable, "-c", code], cwd=ROOT, start_new_session=True)
    while not (tmp_path / "log").exists() or len(started(tmp_path)) < 2:
        assert process.poll() is None
        time.sleep(0.05)
    os.killpg(process.pid, signal.SIGKILL)
    process.wait()
    before = started(tmp_path)
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, timeout=200)
    assert done.returncode == 0, done.stderr
    after = started(tmp_path)
    assert len(set(after)) == 6, "every run is there"
    assert len(after) - 6 <= 1 and set(before) <= set(after), "only the run that was killed is repeated"


def test_a_sweep_without_time_left_stops_and_continues_seed_by_seed(tmp_path: Path) -> None:
    how = {"op": ("cb", "se"), "layers": ("all",), "seeds": (2, 0), "run": command(tmp_path), "metric": "accuracy"}
    table = cbs.sweep(encoder(), tmp_path / "s", budget=1e-6, **how)
    assert table and table.left == table.to_dict()["left"] == 6 and not (tmp_path / "log").exists()
    assert "6 runs; the same command continues" in render_text(table.to_dict())
    table = cbs.sweep(encoder(), tmp_path / "s", **how)
    assert table.left == 0 and len(table.results) == 6
    seeds = [line.split()[1] for line in (tmp_path / "log").read_text().splitlines()]
    assert seeds == ["2", "2", "2", "0", "0", "0"], "every cell has its first seed before one has its second"


PROGRAMS = sorted(Path("/usr/lib/postgresql").glob("*/bin"))


@pytest.fixture
def postgresql(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """A database server of its own on the loopback address; its URL."""
    if not PROGRAMS and shutil.which("initdb") is None:
        pytest.skip("PostgreSQL is not installed (apt-get install postgresql)")
    pytest.importorskip("psycopg2", reason="psycopg2, which Optuna reaches PostgreSQL with, is not installed")
    programs = PROGRAMS[-1] if PROGRAMS else Path(str(shutil.which("initdb"))).parent
    folder = tmp_path_factory.mktemp("postgresql")
    root = os.geteuid() == 0  # whom the server refuses
    if root:
        shutil.chown(folder, "postgres")
        for parent in list(folder.parents)[:3]:
            parent.chmod(parent.stat().st_mode | 0o011)
    user = ["runuser", "-u", "postgres", "--"] if root else []
    with socket.socket() as found:
        found.bind(("127.0.0.1", 0))
        port = found.getsockname()[1]
    data = str(folder / "data")
    control = [*user, str(programs / "pg_ctl"), "-D", data, "-w"]
    options = f"-p {port} -c listen_addresses=127.0.0.1 -c unix_socket_directories={folder}"
    made = [*user, str(programs / "initdb"), "-D", data, "-U", "sweeper", "--auth=trust", "-N"]
    subprocess.run(made, check=True, capture_output=True, cwd="/")
    log = str(folder / "log")
    subprocess.run([*control, "-o", options, "-l", log, "start"], check=True, stdout=subprocess.DEVNULL, cwd="/")
    try:
        yield f"postgresql+psycopg2://sweeper:secret@127.0.0.1:{port}/postgres"
    finally:
        ended = subprocess.run([*control, "-m", "immediate", "stop"], capture_output=True, text=True, cwd="/")
        state = subprocess.run([*control[:-1], "status"], capture_output=True, cwd="/")
        assert state.returncode == 3, f"the server still runs: {ended.stderr}"  # 3: no server is running


def test_two_sweeps_share_a_postgresql_database(tmp_path: Path, postgresql: str) -> None:
    """Two folders on the same storage, as two machines have them: one table, every run once."""
    how = {"op": ("cb", "se"), "layers": ("all",), "seeds": (0, 1), "metric": "accuracy", "storage": postgresql}
    run = command(tmp_path, SCRIPT, "0.3")
    code = f"""
import sys
import cbsurgeon as cbs
from tests.test_sweep import encoder
cbs.sweep(encoder(), sys.argv[1], run={run!r}, **{how!r})
"""
    places = [str(tmp_path / name) for name in ("one", "two")]
    processes = [
        subprocess.Popen([sys.executable, "-c", code, place], cwd=ROOT, stderr=subprocess.PIPE) for place in places
    ]
    for process in processes:
        _, said = process.communicate(timeout=250)
        assert process.returncode == 0, said.decode()
    tables = [json.loads((Path(place) / "sweep.json").read_text()) for place in places]
    assert tables[0]["runs"] == tables[1]["runs"]
    assert len(started(tmp_path)) == len(set(started(tmp_path))) == 6


def test_a_database_that_is_gone_is_named_without_its_password(tmp_path: Path) -> None:
    pytest.importorskip("psycopg2", reason="psycopg2, which Optuna reaches PostgreSQL with, is not installed")
    with pytest.raises(CBSurgeonError, match="CB-SWEEP-03") as raised:
        gone = "postgresql+psycopg2://user:hunter2@127.0.0.1:1/name"
        cbs.sweep(encoder(), tmp_path / "s", layers=("0",), run="true", metric="a", storage=gone)
    assert "hunter2" not in str(raised.value)


@pytest.mark.parametrize(
    ("how", "code"),
    [
        ({"op": ("cb", "cb")}, "CB-SWEEP-01"),
        ({"op": ("cbb",)}, "CB-OP-01"),
        ({"pos": ("ende",)}, "CB-PLAN-01"),
        ({"run": "python t.py {modle}", "metric": "a"}, "CB-SWEEP-05"),
        ({"run": "python 't.py", "metric": "a"}, "CB-SWEEP-05"),
        ({"run": "python t.py"}, "CB-SWEEP-08"),
        ({"run": "true", "metric": "a", "storage": "sqlite:////nowhere/at/all.db"}, "CB-SWEEP-03"),
    ],
)
def test_grids_and_commands_that_are_refused(tmp_path: Path, how: dict[str, object], code: str) -> None:
    with pytest.raises(CBSurgeonError, match=code):
        cbs.sweep(encoder(), tmp_path / "s", **how)


def test_machines_do_not_share_a_file() -> None:
    """The number of machines of a Ray cluster is checked before a worker starts; a database as storage is accepted."""
    nodes = [{"Alive": True, "NodeManagerHostname": name} for name in ("one", "two")]
    cluster = SimpleNamespace(nodes=lambda: nodes)
    ray_cluster.refuse_a_file(cluster, SimpleNamespace(storage="postgresql://user@host/name"))
    with pytest.raises(CBSurgeonError, match="CB-SWEEP-10"):
        ray_cluster.refuse_a_file(cluster, SimpleNamespace(storage="sqlite:////shared/runs.db"))
    nodes[1]["Alive"] = False
    ray_cluster.refuse_a_file(cluster, SimpleNamespace(storage="sqlite:////shared/runs.db"))


def test_another_sweep_does_not_get_into_a_folder_or_a_storage(tmp_path: Path) -> None:
    shared = f"sqlite:///{tmp_path / 'shared.db'}"
    cbs.sweep(encoder(), tmp_path / "s", layers=("all",))
    with pytest.raises(CBSurgeonError, match="CB-SWEEP-09"):
        cbs.sweep(encoder(), tmp_path / "s", layers=("0",))
    with pytest.raises(CBSurgeonError, match="CB-SWEEP-09"):
        cbs.sweep(encoder(2), tmp_path / "s", layers=("all",))
    (tmp_path / "other").mkdir()
    (tmp_path / "other" / "thesis.tex").touch()
    with pytest.raises(CBSurgeonError, match="CB-SWEEP-09"):
        cbs.sweep(encoder(), tmp_path / "other")
    cbs.sweep(encoder(), tmp_path / "t", layers=("all",), run=command(tmp_path), metric="accuracy", storage=shared)
    runs = Runs.read(tmp_path / "t")
    with pytest.raises(CBSurgeonError, match="CB-SWEEP-04"):
        storage.open_study(dataclasses.replace(runs, digest="another"))
    with pytest.raises(CBSurgeonError, match="CB-SWEEP-02"):
        Runs.read(tmp_path)


@pytest.mark.wide
def test_workers_that_all_fail_are_a_failed_check(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(study.sys, "executable", "/bin/false")
    with pytest.raises(CheckFailed, match="CB-SWEEP-06"):
        cbs.sweep(encoder(), tmp_path / "s", layers=("0",), run="true", metric="a", workers=2)


def test_a_best_cell_is_compared_with_the_baseline_by_an_interval_for_all_cells(tmp_path: Path) -> None:
    from scipy import stats

    table = cbs.sweep(encoder(), tmp_path / "s", op=("cb", "se"), layers=("all",))
    assert table.best is None and table.finding == "" and table.to_dict()["finding"] is None

    def with_values(gain: float) -> SweepTable:
        values = {"baseline": (5.0, 6.0, 4.0, 5.5), "cb-end-mlp-all": (5.2, 6.1, 4.0, 5.3), "se-end-mlp-all": ()}
        values["se-end-mlp-all"] = tuple(
            one + gain + extra for one, extra in zip(values["baseline"], (0, 0.1, -0.1, 0.05), strict=True)
        )
        runs = [Result(cell, seed, value, 1) for cell, own in values.items() for seed, value in enumerate(own)]
        return replace(table, results=tuple(runs), metric="accuracy")

    clear, unclear, worse = with_values(1.0), with_values(0.1), with_values(-1.0)
    # Differences 1 + (0, 0.1, -0.1, 0.05), two cells compared: 97.5 % for one is 95 % for both.
    interval = stats.t.interval(0.975, 3, loc=1.0125, scale=stats.sem((0, 0.1, -0.1, 0.05)))
    assert clear.best == "se-end-mlp-all"
    assert clear.finding == (
        f"se-end-mlp-all is better than the baseline: accuracy {1.0125:+.4g} "
        f"(95 % interval {interval[0]:+.4g} to {interval[1]:+.4g}, corrected for 2 cells)"
    )
    assert "not distinguishable from the baseline" in unclear.finding
    assert "cb-end-mlp-all is best by its mean" in worse.finding
    assert replace(clear, minimize=True).finding.startswith("no cell has a better mean accuracy")
    assert clear.finding in " ".join(render_text(clear.to_dict(), width=400).split())


def test_one_seed_shows_no_difference(tmp_path: Path) -> None:
    table = cbs.sweep(encoder(), tmp_path / "s", layers=("all",))
    runs = (Result("baseline", 0, 1.0, 1), Result("cb-end-mlp-all", 0, 2.0, 1))
    assert "run several seeds" in replace(table, results=runs, metric="accuracy").finding

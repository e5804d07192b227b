"""The runner with small notebooks of its own: results, failures, a killed run, a cluster."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import nbformat
import psutil
import pytest
from nbformat.v4 import new_code_cell, new_markdown_cell, new_notebook

from sarnb.graph import verify
from sarnb.settings import repository

pytestmark = pytest.mark.slow

PARAMETERS = "PROFILE = 'quick'  # profile\nSEED = 0  # seed\nRESULTS = 'results/quick'  # folder"
RECORD = """import pandas as pd
from sarnb.results import Record
record = Record('{name}', RESULTS, PROFILE, SEED, {{'SEED': SEED}})
record.table(pd.DataFrame({{'seed': [SEED]}}), '{name}_table', 'the seed')
record.close()"""


def _write(folder: Path, name: str, *code: str) -> None:
    cells = [new_markdown_cell("# Title"), new_code_cell(PARAMETERS, metadata={"tags": ["parameters"]}), *map(new_code_cell, code)]
    nbformat.write(new_notebook(cells=cells), folder / f"{name}.ipynb")


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """A folder with a space, a graph of two notebooks, the second built on the first."""
    notebooks = tmp_path / "my notebooks"
    notebooks.mkdir()
    monkeypatch.setenv("SARNB_NOTEBOOKS", str(notebooks))
    (notebooks / "graph.yaml").write_text("00_one: []\n01_two: [00_one]\n")
    for name in ("00_one", "01_two"):
        _write(notebooks, name, RECORD.format(name=name))
    return tmp_path


def _start(folder: Path, *words: str, environment: dict[str, str] | None = None, **options) -> subprocess.Popen:
    variables = {**os.environ, "SARNB_RESULTS": str(folder / "res {ults}"), "PYTHONPATH": str(repository()), **(environment or {})}
    return subprocess.Popen(
        [sys.executable, "-m", "sarnb", "run", "--profile", "smoke", *words],
        env=variables,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        **options,
    )


def _run(folder: Path, *words: str, environment: dict[str, str] | None = None) -> tuple[int, str, str]:
    process = _start(folder, *words, environment=environment)
    out, err = process.communicate(timeout=600)
    return process.returncode, out, err


def test_runs_records_fails_clearly_and_continues(folder):
    results = folder / "res {ults}" / "smoke"
    code, out, err = _run(folder, "--seed", "5")
    assert code == 0, err
    assert "00_one  started" in out and "01_two  done in" in out
    assert verify(results) == [] and "5,smoke: not a result" in (results / "tables/01_two_table.csv").read_text()
    copy = json.loads((results / "notebooks/01_two.ipynb").read_text())
    assert copy["metadata"]["papermill"]["input_path"] == "notebooks/01_two.ipynb"
    assert str(folder) not in json.dumps(copy["metadata"])

    _write(folder / "my notebooks", "01_two", "x = 1", "# why\nx / 0")
    before = {path: path.read_bytes() for part in ("tables", "notebooks", "manifest") for path in (results / part).glob("*")}
    code, out, err = _run(folder, "--seed", "5")
    assert code == 1
    assert err.splitlines()[-3] == "01_two failed in cell 4 of 4: ZeroDivisionError: division by zero"
    assert err.splitlines()[-1] == f"  executed copy with the traceback: {results}/notebooks/01_two.failed.ipynb"
    assert "ZeroDivisionError" in (results / "notebooks/01_two.failed.ipynb").read_text()
    assert {path: path.read_bytes() for path in before} == before

    _write(folder / "my notebooks", "01_two", "x = 2", RECORD.format(name="01_two"))
    code, out, err = _run(folder, "--seed", "5")
    assert code == 0 and "00_one" not in out
    assert not (results / "notebooks/01_two.failed.ipynb").exists() and verify(results) == []


def test_a_killed_run_stops_and_the_next_one_continues(folder):
    started = folder / "started"
    slow = f"import pathlib, time\nstarted = pathlib.Path({str(started)!r})\n"
    slow += "if not started.exists():\n    started.touch(); time.sleep(300)"
    _write(folder / "my notebooks", "01_two", slow, RECORD.format(name="01_two"))
    process = _start(folder)
    while not started.exists():
        assert process.poll() is None, process.communicate()
        time.sleep(0.1)
    os.kill(process.pid, signal.SIGKILL)
    process.communicate(timeout=200)  # its notebook, which holds the other end of the pipe, stops long before it has slept
    code, out, err = _run(folder)
    assert code == 0, err
    assert "00_one" not in out and verify(folder / "res {ults}" / "smoke") == []


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_to_the_parent_alone_ends_all_within_seconds(folder, number):
    """As systemd and containers send it. The notebook does not listen: it ignores signals and cells of it take for ever."""
    started = folder / "started"
    stubborn = f"import pathlib, os, signal, time\nsignal.signal(signal.SIGTERM, signal.SIG_IGN)\npathlib.Path({str(started)!r})"
    stubborn += ".write_text(str(os.getpid()))\nwhile True:\n    try:\n        time.sleep(300)\n    except KeyboardInterrupt:\n        pass"
    _write(folder / "my notebooks", "01_two", stubborn, RECORD.format(name="01_two"))
    process = _start(folder, start_new_session=True)
    while not (started.exists() and started.read_text()):
        assert process.poll() is None, process.communicate()
        time.sleep(0.1)
    begun = time.monotonic()
    os.kill(process.pid, number)
    _, err = process.communicate(timeout=60)  # until every holder of the pipe is gone
    assert time.monotonic() - begun < 10 and process.returncode == 130
    assert "stopped by a signal after 00:0" in err and "the next call continues from here" in err
    while psutil.pid_exists(kernel := int(started.read_text())) and psutil.Process(kernel).status() != psutil.STATUS_ZOMBIE:
        assert time.monotonic() - begun < 10
    assert [path for path in (folder / "res {ults}").rglob(".*") if path.name not in (".state", ".snakemake")] == []


def test_a_run_is_the_same_in_any_shell(folder):
    """A home that is no folder, a foreign kernel of the same name, start-up files of a user and of a system, a backend, optimised
    Python, ASCII, libraries that say more or less, a profile of Snakemake's that runs nothing."""
    draw = "import sys, matplotlib, matplotlib.pyplot as plt\nassert sys.flags.optimize == 0 or False, 'asserts are off'\n"
    draw += "print('µ', 1 / 3, matplotlib.rcParams['figure.figsize'], matplotlib.get_backend(), sys.executable, 'mine' in globals())\n"
    draw += "import tqdm, diffusers\nprint(diffusers.logging.get_verbosity(), tqdm.tqdm([]).disable)\n"
    draw += "plt.plot([0, 1]); plt.show()"
    _write(folder / "my notebooks", "00_one", draw, RECORD.format(name="00_one"))
    copies = []
    for hostile in (False, True):
        mine, variables = folder / "mine", {}
        if hostile:
            for name, text in {
                "jupyter/kernels/python3/kernel.json": '{"argv": ["/bin/false"], "display_name": "x", "language": "python"}',
                "ipython/profile_default/startup/00.py": "mine = 1",
                "startup.py": "mine = 1",
                "system/startup/00.py": "mine = 1",
                "site/sitecustomize.py": f"import IPython.core.application as a; a.SYSTEM_CONFIG_DIRS.append({str(mine / 'system')!r})",
                "profile/config.yaml": "dry-run: true",
                "mpl/matplotlibrc": "figure.figsize: 1, 1",
            }.items():
                (mine / name).parent.mkdir(parents=True, exist_ok=True)
                (mine / name).write_text(text)
            variables = {"HOME": "/", "JUPYTER_PATH": str(mine / "jupyter"), "IPYTHONDIR": str(mine / "ipython"), "MPLBACKEND": "tkagg"}
            variables |= {"MPLCONFIGDIR": str(mine / "mpl"), "PYTHONSTARTUP": str(mine / "startup.py"), "PYTHONOPTIMIZE": "1"}
            variables |= {"PYTHONIOENCODING": "ascii", "LC_ALL": "C", "COLUMNS": "20", "HF_HOME": str(mine / "hub")}
            variables |= {"PYTHONPATH": f"{repository()}:{mine / 'site'}", "SNAKEMAKE_PROFILE": str(mine / "profile")}
            variables |= {"TQDM_DISABLE": "1", "DIFFUSERS_VERBOSITY": "debug"}
        code, out, err = _run(folder, "--only", "00", "--seed", str(int(hostile)), environment=variables)
        assert code == 0, err
        cells = json.loads((folder / "res {ults}/smoke/notebooks/00_one.ipynb").read_text())["cells"]
        copies.append([cell["outputs"] for cell in cells if cell["cell_type"] == "code" and "plt" in "".join(cell["source"])])
    assert copies[0] == copies[1] and "[6.4, 4.8]" in json.dumps(copies) and "False" in json.dumps(copies)


def test_a_run_in_which_nothing_ran_is_not_called_finished(folder):
    code, out, err = _run(folder, "--", "--dry-run")
    assert code == 1 and "did not run 00_one, 01_two" in err and "finished in" not in out
    assert not (folder / "res {ults}/smoke/notebooks").exists()


SLURM = f"""#!{sys.executable} -IS
# Slurm's commands for a cluster of one node without a queue: a job starts at once, and its state lies in a file.
import argparse, os, signal, subprocess, sys
from pathlib import Path

tool, words, jobs = Path(sys.argv[0]).name, sys.argv[1:], Path(__file__).resolve().parent / "jobs"
parser = argparse.ArgumentParser(allow_abbrev=False)
for option in ("--wrap", "--output", "-D", "--name", "-j"):
    parser.add_argument(option)
given, rest = parser.parse_known_args()
if tool == "sbatch":
    number = len(list(jobs.glob("*.state"))) + 1
    state, own = jobs / f"{{number}}.state", os.environ | {{"SLURM_JOB_ID": str(number)}}
    (jobs / f"{{number}}.call").write_text("\\n".join(words))
    state.write_text("RUNNING")
    script = f'({{given.wrap}}) && echo COMPLETED > "{{state}}" || echo FAILED > "{{state}}"'
    log = open(given.output.replace("%j", str(number)), "w")
    streams = {{"stdout": log, "stderr": log, "stdin": subprocess.DEVNULL}}
    job = subprocess.Popen(["sh", "-c", script], cwd=given.D, env=own, start_new_session=True, **streams)
    (jobs / f"{{number}}.pid").write_text(str(job.pid))
    print(number)
elif tool == "srun":
    command = words[next(place for place, word in enumerate(words) if not word.startswith("-")) :]
    os.execvp(command[0], command)
elif tool == "scancel":
    for number in words:
        (jobs / f"{{number}}.state").write_text("CANCELLED")
        os.killpg(int((jobs / f"{{number}}.pid").read_text()), signal.SIGKILL)
elif tool == "sacct" and given.name:
    for state in jobs.glob("*.state"):
        print(state.stem, state.read_text().strip(), sep="|")
elif tool == "sacctmgr":
    print("radar")
elif tool == "sinfo":
    print("gpu*")
"""


@pytest.fixture
def cluster(folder):
    """The variables of a shell that finds Slurm's commands, and the folder of the jobs."""
    commands = folder / "bin"
    (commands / "jobs").mkdir(parents=True)
    (commands / "slurm").write_text(SLURM)
    (commands / "slurm").chmod(0o755)
    for name in ("sbatch", "srun", "scancel", "sacct", "sacctmgr", "sinfo", "scontrol"):
        (commands / name).symlink_to("slurm")
    return {"PATH": f"{commands}:{os.environ['PATH']}"}, commands / "jobs"


ON_SLURM = ("--executor", "slurm", "--", "--slurm-init-seconds-before-status-checks", "1")


def test_on_slurm_every_notebook_is_a_job_and_a_failed_one_is_named(folder, cluster):
    variables, jobs = cluster
    results = folder / "res {ults}" / "smoke"
    resources = ("--default-resources", "mem_mb=64000", "gpu=1", "runtime=90", "slurm_account=radar")
    code, out, err = _run(folder, *ON_SLURM, *resources, environment=variables)
    assert code == 0, err
    assert verify(results) == [] and {path.read_text().strip() for path in jobs.glob("*.state")} == {"COMPLETED"}
    first, second = ((jobs / f"{number}.call").read_text() for number in (1, 2))
    assert "rule_notebook_00_one" in first and "rule_notebook_01_two" in second
    assert all(words in first.replace("\n", " ") for words in ("--mem 64000", "-t 90", "-p gpu", "-A radar", "--cpus-per-task="))

    _write(folder / "my notebooks", "01_two", "1 / 0")
    code, out, err = _run(folder, *ON_SLURM, environment=variables)
    assert code == 1 and "01_two failed in cell 3 of 3: ZeroDivisionError: division by zero" in err
    assert len(list(jobs.glob("*.state"))) == 3 and "--mem\n6000" in (jobs / "3.call").read_text()  # 00_one did not run again


def test_a_signal_cancels_the_jobs_on_slurm(folder, cluster):
    variables, jobs = cluster
    started = folder / "started"
    sleeper = f"import os, pathlib, time\npathlib.Path({str(started)!r}).write_text(str(os.getpid()))\ntime.sleep(300)"
    _write(folder / "my notebooks", "00_one", sleeper)
    process = _start(folder, *ON_SLURM, environment=variables)
    while not (started.exists() and started.read_text()):
        assert process.poll() is None, process.communicate()
        time.sleep(0.1)
    process.send_signal(signal.SIGINT)
    process.communicate(timeout=120)
    assert process.returncode == 130 and (jobs / "1.state").read_text() == "CANCELLED"
    begun = time.monotonic()
    while psutil.pid_exists(int(started.read_text())) and psutil.Process(int(started.read_text())).status() != psutil.STATUS_ZOMBIE:
        assert time.monotonic() - begun < 10

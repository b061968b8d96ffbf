import importlib.util
import json
import shlex
import statistics
import subprocess
import sys
from pathlib import Path

import pytest

from jaxcnn.errors import UsageError
from jaxcnn.report.results import Measured, read_results, record, render

ROOT = Path(__file__).parents[2]
SCRIPT = ROOT / "scripts" / "record_result.py"


@pytest.fixture(scope="module")
def script():
    spec = importlib.util.spec_from_file_location("record_result", SCRIPT)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def make_run(root, hash="aa11", seed=0, accuracy=0.99, name="lenet_mnist", status="finished", lr=0.1, **environment):
    """Write the small JSON files of a made-up run and return its folder."""
    folder = root / "runs" / name / hash
    folder.mkdir(parents=True, exist_ok=True)
    files = {
        "experiment": {
            "seed": seed,
            "paper": "LeCun et al. 1998, Proc. IEEE 86(11)",
            "published": "test error 0.95 %",
            "data": {"name": "mnist", "path": f"{root}/data"},
            "optim": {"learning_rate": lr},
        },
        "environment": {
            "commit": "0123456789abcdef0123",
            "dirty": False,
            "platform": "cpu",
            "device_kind": "cpu",
            "device_count": 1,
            "process_count": 1,
            "cpu": "Some CPU @ 2 GHz",
        }
        | environment,
        "result": {
            "status": status,
            "name": name,
            "seed": seed,
            "step": 100,
            "metrics": {"test/accuracy": accuracy, "test/loss": 1 - accuracy},
            "examples_per_second": 1000.0,
            "wall_seconds": 60.0 + seed,
            "examples": {"train": 45_000, "test": 1_000},
            "note": "test is only the first 1,000.",
            "params_sha256": "ab" * 32,
            "command": f"jaxcnn train experiments/{name}.py --optim.learning-rate {lr} --seed {seed} --quiet"
            f" --runs-dir {root}/runs",
        },
    }
    for file, content in files.items():
        (folder / f"{file}.json").write_text(json.dumps(content))
    (folder / "metrics.jsonl").write_text("{}")
    return folder


def edit(path, **values):
    path.write_text(json.dumps(json.loads(path.read_text()) | values))


def test_recorded_results_and_their_page_agree(script):
    assert script.main(["--check"]) == 0, "run python scripts/record_result.py"


def test_runs_that_differ_in_their_seed_alone_make_one_row(tmp_path):
    accuracies = [0.9912, 0.9921, 0.9908]
    runs = [make_run(tmp_path, f"a{seed}", seed, accuracy) for seed, accuracy in enumerate(accuracies)]
    runs.append(make_run(tmp_path, "b0", 0, 0.5, lr=0.2))
    runs.append(make_run(tmp_path, "a0", 0, 0.6, name="alexnet"))
    record(runs[::-1], tmp_path / "results")
    alexnet, first, second = read_results(tmp_path / "results")
    assert (alexnet.name, alexnet.seeds) == ("alexnet", [0])
    assert (first.name, first.seeds) == ("lenet_mnist", [0, 1, 2])
    assert first.metrics["test/accuracy"].mean == pytest.approx(statistics.mean(accuracies), rel=1e-12)
    assert first.metrics["test/accuracy"].spread == pytest.approx(statistics.stdev(accuracies), rel=1e-12)
    assert first.commands == ["jaxcnn train experiments/lenet_mnist.py --optim.learning-rate 0.1 --quiet"]
    assert first.wall_seconds == 61
    assert (second.seeds, second.metrics["test/accuracy"]) == ([0], Measured(0.5, None, 1))


def test_the_page_shows_paper_values_command_commit_and_hardware(tmp_path):
    runs = [make_run(tmp_path, f"a{seed}", seed, accuracy) for seed, accuracy in enumerate((0.991, 0.993))]
    record(runs, tmp_path / "results")
    page = render(read_results(tmp_path / "results"))
    assert page.startswith("<!-- Generated from results/ by `python scripts/record_result.py`.")
    assert (
        "| lenet_mnist | LeCun et al. 1998, Proc. IEEE 86(11) | test error 0.95 % "
        "| test accuracy 99.20 ± 0.14 % (n=2), error 0.80 % |" in page
    )
    assert "| test loss | 0.008 ± 0.001414 (n=2) |" in page
    assert "\njaxcnn train experiments/lenet_mnist.py --optim.learning-rate 0.1 --quiet\n" in page
    assert "- seeds: 0, 1 (`--seed`)" in page
    assert "- images: 45,000 train, 1,000 test\n- data: test is only the first 1,000.\n" in page
    assert str(tmp_path) not in page
    assert not any(str(tmp_path) in path.read_text() for path in (tmp_path / "results").rglob("*.json"))
    assert "- commit: 0123456789ab\n" in page
    assert "- hardware: Some CPU @ 2 GHz (cpu)\n" in page
    assert "- speed: 1,000 images/s, 1 min 00 s a run" in page


def test_a_single_seed_shows_no_spread_and_says_so(tmp_path):
    record([make_run(tmp_path)], tmp_path / "results")
    page = render(read_results(tmp_path / "results"))
    assert "test accuracy 99.00 % (n=1), error 1.00 %" in page
    assert "| test loss | 0.01 (n=1) |" in page


def test_commits_and_hardware_are_told_apart(tmp_path):
    record(
        [
            make_run(tmp_path, "a0", 0, dirty=True),
            make_run(tmp_path, "a1", 1, commit=None),
            make_run(tmp_path, "a2", 2, platform="gpu", device_kind="NVIDIA H200", device_count=4, process_count=2),
            make_run(tmp_path, "a3", 3, device_count=4, cpu_count=2),
        ],
        tmp_path / "results",
    )
    page = render(read_results(tmp_path / "results"))
    assert "- commit: 0123456789ab (dirty), unknown, 0123456789ab\n" in page
    assert (
        "- hardware: Some CPU @ 2 GHz (cpu); 4 x NVIDIA H200 (gpu, 2 processes); "
        "4 devices on Some CPU @ 2 GHz, 2 cores (cpu)\n" in page
    )


def test_descriptions_do_not_split_a_row_and_may_be_missing(tmp_path):
    runs = [make_run(tmp_path, "a0", 0), make_run(tmp_path, "a1", 1)]
    experiment = json.loads((runs[0] / "experiment.json").read_text())
    del experiment["paper"], experiment["published"]
    (runs[0] / "experiment.json").write_text(json.dumps(experiment))
    record(runs, tmp_path / "results")
    (row,) = read_results(tmp_path / "results")
    assert row.paper.startswith("LeCun")
    record(runs[:1], tmp_path / "other")
    assert "| lenet_mnist | none | none |" in render(read_results(tmp_path / "other"))


def test_recording_copies_the_small_files_alone_and_replaces_the_same_run(tmp_path):
    results = tmp_path / "results"
    (folder,) = record([make_run(tmp_path, accuracy=0.9)], results)
    assert folder == results / "lenet_mnist" / "aa11"
    assert sorted(path.name for path in folder.iterdir()) == [
        "environment.json",
        "experiment.json",
        "result.json",
    ]
    record([make_run(tmp_path, accuracy=0.95)], results)
    (row,) = read_results(results)
    assert row.metrics["test/accuracy"] == Measured(0.95, None, 1)


def test_the_same_seed_under_two_hashes_is_refused(tmp_path):
    record([make_run(tmp_path, "aa"), make_run(tmp_path, "bb")], tmp_path / "results")
    with pytest.raises(UsageError, match="results/lenet_mnist: aa and bb are one experiment and seed"):
        read_results(tmp_path / "results")


def test_a_command_is_kept_as_a_shell_reads_it_without_where_things_lay(tmp_path):
    run, results = make_run(tmp_path), tmp_path / "repository" / "results"
    values = json.loads((run / "result.json").read_text())
    own, other = tmp_path / "repository/experiments/it's.py", "/home/somebody/it's mine/x.npz"
    words = ["jaxcnn", "train", str(own), "--seed=0", f"--data.path={other}", "--quiet"]
    words += [
        "--data.path",
        other,
        "--paper",
        "LeCun's",
        "--runs_dir",
        other,
        "--model.weights",
        other,
        "--code",
        other,
    ]
    values |= {"command": shlex.join(words), "continued": {"run": str(run), "step": 3}}
    (run / "result.json").write_text(json.dumps(values))
    experiment = json.loads((run / "experiment.json").read_text()) | {"model": {"weights": other}}
    (run / "experiment.json").write_text(json.dumps(experiment))
    (folder,) = record([run], results)
    found = json.loads((folder / "result.json").read_text())
    expected = ["jaxcnn", "train", "experiments/it's.py", "--seed=0", "--quiet"]
    assert shlex.split(found["command"]) == [*expected, "--paper", "LeCun's", "--model.weights", "x.npz"]
    assert found["continued"] == {"run": run.name, "step": 3}
    assert json.loads((folder / "experiment.json").read_text())["model"] == {"weights": "x.npz"}
    (row,) = read_results(results)
    assert shlex.split(row.commands[0]) == [word for word in shlex.split(found["command"]) if word != "--seed=0"]
    assert not any("somebody" in path.read_text() for path in results.rglob("*.json"))


def test_a_pipe_in_a_paper_does_not_break_the_table(tmp_path):
    run = make_run(tmp_path)
    text = (run / "experiment.json").read_text()
    (run / "experiment.json").write_text(text.replace("LeCun et al.", "A | B"))
    record([run], tmp_path / "results")
    assert r"| A \| B 1998" in render(read_results(tmp_path / "results"))


def test_the_script_records_regenerates_and_checks(script, tmp_path, capsys):
    root = tmp_path / "repository"
    runs = [str(make_run(tmp_path, f"a{seed}", seed)) for seed in range(2)]
    assert script.main(["--check"], root) == 1
    assert "does not agree" in capsys.readouterr().err
    assert script.main(runs, root) == 0
    assert "recorded results/lenet_mnist/a0" in capsys.readouterr().out
    assert "(n=2)" in (root / "docs" / "results.md").read_text()
    assert script.main(["--check"], root) == 0
    with (root / "docs" / "results.md").open("a") as page:
        page.write("a line by hand\n")
    assert script.main(["--check"], root) == 1
    assert script.main([], root) == 0
    assert script.main(["--check"], root) == 0


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (lambda run: (run / "result.json").unlink(), "is not a finished run: it has no result.json"),
        (lambda run: (run / "result.json").write_text('{"status": "stop'), "is not valid JSON"),
        (lambda run: edit(run / "result.json", status="stopped"), "its status is 'stopped'"),
        (lambda run: (run / "result.json").write_text("[]"), "result.json holds a list: expected values by name"),
        (lambda run: edit(run / "result.json", name="../../x"), "name is '../../x': expected that of an experiment"),
        (lambda run: edit(run / "result.json", name=3), "result.json: name is 3: expected text"),
        (lambda run: edit(run / "result.json", metrics=[]), "result.json: metrics is []: expected values by name"),
        (lambda run: edit(run / "result.json", seed="0"), "result.json: seed is '0': expected a whole number"),
        (lambda run: edit(run / "environment.json", device_count=None), "device_count is None: expected a whole numb"),
        (lambda run: edit(run / "experiment.json", data=3), "experiment.json: data is 3: expected values by name"),
    ],
)
def test_unfinished_runs_are_refused_in_one_line_and_nothing_is_recorded(script, tmp_path, capsys, spoil, message):
    good, bad = make_run(tmp_path, "a0", 0), make_run(tmp_path, "a1", 1)
    spoil(bad)
    root = tmp_path / "repository"
    assert script.main([str(good), str(bad)], root) == 2
    error = capsys.readouterr().err
    assert message in error and str(bad) in error and error.count("\n") == 1
    assert not root.exists()


def test_the_script_runs_as_a_command_and_exits_with_2(tmp_path):
    done = subprocess.run([sys.executable, SCRIPT, tmp_path / "nowhere"], capture_output=True, text=True)
    assert done.returncode == 2
    assert done.stderr == f"{tmp_path / 'nowhere'} is not a finished run: it has no experiment.json\n"

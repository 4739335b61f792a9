"""The command line's promises: its option set, its exit codes, one line per error, and a light start."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import typer

from osler.cli import main
from osler.cli.commands import app
from osler.cli.output import Interrupted, Output, Terminated
from osler.errors import BadInput

# The frozen set. It grows only by a commit that says why; nothing is removed without a word in CHANGELOG.
OPTIONS = {
    "osler": ["--help", "--version"],
    # --calibration: a model on the hub has no folder to keep its own in.
    "osler ask": [
        "--calibration", "--choices", "--help", "--json", "--max-completion-tokens", "--template",
        "IMAGE", "MODEL", "QUESTION",
    ],
    # Apart from evaluate: fits in seconds from what an evaluation stored, for several risks if wanted.
    "osler calibrate": ["--help", "--json", "--method", "--risk", "--test-set", "RUN"],
    "osler compare": ["--help", "--json", "--margin", "--out", "RUN_A", "RUN_B"],
    "osler audit": [
        "--help", "--images", "--json", "--no-images", "--out", "--skip-bad", "TEST", "TRAIN",
    ],
    "osler data check": [
        "--group", "--help", "--images", "--json", "--modality", "--no-images", "--skip-bad", "DATA",
    ],
    "osler data convert": [
        "--fractions", "--group", "--help", "--images", "--json", "--keep", "--modality", "--no-images",
        "--one-stem", "--rebuild-choices", "--seed", "--skip-bad", "--split", "--yes-no", "DATA", "OUT",
    ],
    "osler demo": ["--help", "--json", "--out", "--seed"],
    "osler doctor": ["--help", "--json", "KEY=VALUE", "RECIPE"],
    "osler evaluate": [
        # --confidence and --samples: two sources of confidence, which cost differently.
        "--ablate", "--attempts", "--batch-size", "--blind-from", "--calibration", "--concurrency",
        "--confidence", "--data", "--help", "--images", "--json", "--key-variable", "--limit",
        "--limit-parameter", "--limit-per", "--max-completion-tokens", "--max-pixels", "--min-pixels",
        "--modality", "--model", "--only", "--out", "--precision", "--prices", "--rotate",
        "--sample-temperature", "--samples", "--scorer", "--seed", "--skip-bad", "--temperature",
        "--template", "--thinking", "--timeout",
    ],
    "osler grpo": ["--help", "--json", "--out", "--resume", "KEY=VALUE", "RECIPE"],
    "osler phantom": ["--help", "--images", "--json", "--modalities", "--plant", "--seed", "DIR"],
    "osler phantom-base": ["--help", "--json", "OUT"],
    "osler report": ["--help", "--json", "--out", "--title", "RUN_OR_STUDY..."],
    "osler study": [
        "--dry-run", "--help", "--json", "--launcher", "--out", "--print-commands", "--workers",
        "KEY=VALUE", "RECIPE",
    ],
    "osler sft": ["--help", "--json", "--out", "--resume", "KEY=VALUE", "RECIPE"],
}  # fmt: skip


def option_set() -> dict[str, list[str]]:
    """Every command with the names of its options and arguments, read from the program itself."""
    found: dict[str, list[str]] = {}

    def walk(command: object, path: str) -> None:
        context = command.make_context(path, [], resilient_parsing=True)  # type: ignore[attr-defined]
        children = getattr(command, "commands", {})
        names = []
        for parameter in command.get_params(context):  # type: ignore[attr-defined]
            if parameter.param_type_name == "argument":
                names.append(parameter.metavar or parameter.name)
            else:
                names += [o for o in parameter.opts if o.startswith("--")]
        if not children or path == "osler":
            found[path] = sorted(names)
        for name, child in children.items():
            walk(child, f"{path} {name}")

    walk(typer.main.get_command(app), "osler")
    return found


def test_option_set_is_frozen() -> None:
    assert option_set() == OPTIONS


@pytest.mark.parametrize("command", sorted(OPTIONS))
def test_every_command_explains_itself(command: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main([*command.split()[1:], "--help"]) == 0
    out = capsys.readouterr().out
    assert "Usage" in out
    for name in OPTIONS[command]:
        assert name.removesuffix("...") in out, name


@pytest.mark.parametrize("arguments", ["--help", "grpo --help", "evaluate --help", "nope", "report"])
def test_help_and_usage_errors_import_nothing_heavy(arguments: str) -> None:
    program = (
        "import sys\nfrom osler.cli import main\n"
        f"main({arguments.split()!r})\n"
        "heavy = {'torch', 'transformers', 'sklearn', 'scipy', 'matplotlib', 'peft', 'PIL'}\n"
        "sys.exit(9 if heavy & set(sys.modules) else 0)\n"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, (done.stdout, done.stderr)


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        ("nope", "No such command"),
        ("grpo", "RECIPE"),
        ("grpo medvlm_r1_mri", "--out"),
        ("evaluate --model m --data d --out o --limit many", "--limit"),
        ("evaluate --model m --data d --out o --scorer paper-strict", "paper-strict:med"),
        ("report somewhere --out p --bogus", "--bogus"),
        ("report /nowhere --out page.html", "/nowhere"),
        ("data check /nowhere", "/nowhere"),
        ("data convert /nowhere /tmp/x --split sideways", "sideways"),
        ("data convert /nowhere /tmp/x --fractions half", "half"),
        ("phantom /proc/nowhere --images -1", "-1"),
        ("evaluate --model m --data d --out o --samples 1", "--samples 1"),
        ("evaluate --model m --data d --out o --calibration c", "--confidence"),
        ("calibrate /nowhere", "/nowhere"),
        ("compare /nowhere/a /nowhere/b", "/nowhere/a: no predictions"),
        ("ask phantom-base /nowhere.png Which? --choices one", "1 choices"),
        ("grpo no_such_recipe --out o", "no_such_recipe"),
    ],
)
def test_bad_input_is_one_line_and_exit_code_2(
    arguments: str, said: str, capfd: pytest.CaptureFixture[str]
) -> None:
    assert main(arguments.split()) == 2
    out, err = capfd.readouterr()
    assert out == ""
    lines = err.strip().splitlines()
    assert len(lines) == 1 and lines[0].startswith("osler: ") and said in lines[0], err


def test_no_command_shows_the_help_and_is_a_usage_error(capsys: pytest.CaptureFixture[str]) -> None:
    assert main([]) == 2
    captured = capsys.readouterr()
    assert captured.out == "" and "Commands" in captured.err


def test_version(capsys: pytest.CaptureFixture[str]) -> None:
    from osler import __version__

    assert main(["--version"]) == 0
    assert capsys.readouterr().out == f"osler {__version__}\n"


def test_json_is_one_object_on_stdout_and_the_rest_on_stderr(
    tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    assert main(["phantom", str(tmp_path / "ph"), "--images", "10", "--json"]) == 0
    out, err = capfd.readouterr()
    assert json.loads(out)["out"] == str(tmp_path / "ph") and "80/80" in err
    assert main(["data", "check", str(tmp_path / "ph" / "test"), "--json"]) == 0
    out, _ = capfd.readouterr()
    assert json.loads(out)["ok"] is True
    assert main(["data", "convert", str(tmp_path / "ph" / "test"), str(tmp_path / "mine"), "--json"]) == 0
    out, _ = capfd.readouterr()
    assert json.loads(out)["num_questions"] == 48


def test_bad_rows_exit_2_unless_skipped(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    rows = [
        {"id": "a", "text": "Which?", "choices": ["x", "y"], "answer_index": 0},
        {"id": "b", "text": "Which?", "choices": ["x", "y"], "answer": "z"},
    ]
    (tmp_path / "questions.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    assert main(["data", "check", str(tmp_path)]) == 2
    out, err = capfd.readouterr()
    assert "questions.jsonl row 2" in out and "--skip-bad" in err
    assert main(["data", "check", str(tmp_path), "--skip-bad"]) == 0
    out, _ = capfd.readouterr()
    assert "questions.jsonl row 2" in out


def test_there_is_no_bar_where_no_image_is_read(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    row = {"id": "a", "text": "Which?", "choices": ["x", "y"], "answer_index": 0, "images": ["a.png"]}
    (tmp_path / "questions.jsonl").write_text(json.dumps(row) + "\n")
    assert main(["data", "check", str(tmp_path), "--no-images"]) == 0
    assert capfd.readouterr().err == ""


def test_what_a_command_prints_while_working_stays_off_stdout(capfd: pytest.CaptureFixture[str]) -> None:
    with Output(as_json=True) as output:
        print("a library talks")
        output.result({"a": 1})
    out, err = capfd.readouterr()
    assert json.loads(out) == {"a": 1} and "a library talks" in err


def test_only_the_first_of_several_processes_speaks(
    capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("RANK", "1")
    with Output(as_json=True) as output:
        output.result({"a": 1})
    assert capfd.readouterr().out == ""


@pytest.mark.parametrize(
    ("raised", "code"),
    [
        (KeyboardInterrupt(), 130),
        (Terminated(), 143),
        (BadInput("file.json row 3: no answer"), 2),
        (OSError(28, "No space left on device", "/full"), 1),
        (RuntimeError("surprise"), 1),
        (Interrupted(143), 143),
    ],
)
def test_exit_codes(
    raised: BaseException, code: int, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    def fail(*_: object, **__: object) -> None:
        raise raised

    monkeypatch.setattr("osler.report.page.write_report", fail)
    assert main(["report", "x", "--out", "y"]) == code
    out, err = capfd.readouterr()
    assert out == "" and err.strip().splitlines()[-1].startswith("osler: ")
    assert ("Traceback" in err) == isinstance(raised, RuntimeError)


def test_a_training_stopped_by_a_signal_keeps_its_exit_code(
    monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    from osler.signals import Stop

    def stop(*_: object, **__: object) -> None:
        raise Stop(signal.SIGTERM)

    monkeypatch.setattr("osler.report.page.write_report", stop)
    assert main(["report", "x", "--out", "y"]) == 143
    assert len(capfd.readouterr().err.strip().splitlines()) == 1


@pytest.mark.parametrize(("number", "code"), [(signal.SIGTERM, 143), (signal.SIGINT, 130)])
def test_signals_end_a_real_command_cleanly(tmp_path: Path, number: int, code: int) -> None:
    out = tmp_path / "ph"
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    process = subprocess.Popen(
        [sys.executable, "-m", "osler", "phantom", str(out), "--images", "5000"],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        env=environment,
        # Tests that a shell started in the background ignore SIGINT, and so would their children.
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
    )
    deadline = time.monotonic() + 60
    while not list(tmp_path.glob(".ph*")) and time.monotonic() < deadline:
        time.sleep(0.05)
    time.sleep(0.5)
    process.send_signal(number)
    _, err = process.communicate(timeout=60)
    assert process.returncode == code, err
    assert list(tmp_path.iterdir()) == [], "an unfinished benchmark was left behind"

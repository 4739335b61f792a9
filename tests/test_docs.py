"""The pages against the code: what they list exists, and what exists is listed."""

from __future__ import annotations

import dataclasses
import re
from pathlib import Path
from typing import Any

import pytest

from osler.cli.commands import app, data_app
from osler.config import TrainConfig, recipe_names
from osler.prompts import TEMPLATES
from osler.rewards import REWARDS
from osler.tracking import METRIC_FAMILIES, METRICS

ROOT = Path(__file__).resolve().parents[1]
README = (ROOT / "README.md").read_text(encoding="utf-8")
PIPELINE = (ROOT / "docs" / "pipeline.md").read_text(encoding="utf-8")


def section(page: str, title: str) -> str:
    return page.split(f"\n## {title}\n", 1)[1].split("\n## ", 1)[0]


def listed_files() -> set[str]:
    """Paths of the tree in the README: folders by their indent, files below them."""
    tree = section(README, "Files").split("```")[1]
    folders: list[str] = []
    found = set()
    for line in tree.strip("\n").split("\n"):
        name = line.split()[0]
        depth = (len(line) - len(line.lstrip())) // 2
        folders = folders[:depth]
        found.add("".join(folders) + name)
        if name.endswith("/"):
            folders.append(name)
    return found


def test_the_tree_lists_every_file_and_no_other() -> None:
    patterns = ("src/osler/**/*.py", "tests/*.py", "benchmarks/**/*.py", "docs/*.md")
    files = {p.relative_to(ROOT).as_posix() for pattern in patterns for p in ROOT.glob(pattern)}
    listed = listed_files()
    # The line of a folder stands for its __init__.py.
    wanted = {f.removesuffix("__init__.py") if f.count("/") > 2 else f for f in files}
    missing = sorted(wanted - listed)
    assert not missing, f"add to the tree in README.md: {missing}"
    files_listed = [name for name in listed if not name.endswith("/") and "*" not in name]
    gone = sorted(name for name in files_listed if not (ROOT / name).exists())
    assert not gone, f"the tree in README.md lists what does not exist: {gone}"


def test_every_command_is_in_the_tour_and_no_other() -> None:
    commands = {c.name or c.callback.__name__ for c in app.registered_commands if c.callback}
    shown = set(re.findall(r"\bosler ([a-z][a-z-]+)", README))
    data_commands = {
        (c.name or c.callback.__name__).split("_")[-1] for c in data_app.registered_commands if c.callback
    }
    assert shown == commands | {"data"}
    assert set(re.findall(r"osler data ([a-z]+)", README)) == data_commands


def recipes_of_the_table() -> set[str]:
    names = set()
    for pattern in re.findall(r"^\| `((?:medvlm|med)_r1[^`]*)` \|", README, re.MULTILINE):
        before, brace, inside = pattern.partition("{")
        names |= {before + part for part in inside.rstrip("}").split(",")} if brace else {before}
    return names


def test_the_recipes_are_those_of_the_table() -> None:
    papers = recipes_of_the_table()
    assert len(papers) == 14
    every = papers | {f"phantom_{name}" for name in papers}
    every |= {f"sft_{name}" for name in every}
    # What several recipes share stands in a file of its own.
    assert set(recipe_names()) - every == {"med_r1", "phantom", "sft_med_r1", "sft_phantom"}
    assert every <= set(recipe_names())


def default_of(key: str) -> Any:
    value: Any = TrainConfig()
    for part in key.split("."):
        value = getattr(value, part)
    return value


def test_the_keys_of_the_table_have_the_defaults_it_states() -> None:
    table = section(README, "Recipes").split("| GRPO key (default) |", 1)[1].split("\n\n", 1)[0]
    rows = re.findall(r"`([a-z]+\.[a-z_]+)`(?:, `([a-z]+\.[a-z_]+)`)? \(([^ )]+)", table)
    assert len(rows) > 20
    for *keys, shown in rows:
        for key in filter(None, keys):
            default = default_of(key)
            if isinstance(default, bool):
                assert str(default).lower() == shown, key
            else:
                assert type(default)(shown) == default, key
    listed = {key for *keys, _ in rows for key in keys}
    every_grpo_key = {f"grpo.{f.name}" for f in dataclasses.fields(TrainConfig().grpo)}
    assert every_grpo_key <= listed


def test_templates_and_rewards_that_the_readme_names_exist() -> None:
    text = section(README, "Recipes")
    for name in ("think", "nothink", "think_after", "plain"):
        assert f"`{name}`" in text and name in TEMPLATES
    for name in ("format", "accuracy", "length"):
        assert f"`{name}`" in text and name in REWARDS


def test_every_metric_has_a_line_and_no_line_is_without_one() -> None:
    shown = set(re.findall(r"^\| `([a-z]+/\w+)` \|", section(PIPELINE, "Logged metrics"), re.MULTILINE))
    families = {name for name in shown if name.split("/")[-1].isupper()}
    families |= set(re.findall(r"^\| `((?:reward|eval)/[a-z_/]*[A-Z]+)` \|", PIPELINE, re.MULTILINE))
    assert {name.rpartition("/")[0] + "/" for name in families} == set(METRIC_FAMILIES)
    assert shown - families == set(METRICS)


@pytest.mark.parametrize(
    "page", [*sorted((ROOT / "docs").rglob("*.md")), ROOT / "README.md", ROOT / "CONTRIBUTING.md"]
)
def test_links_between_pages_lead_somewhere(page: Path) -> None:
    for target in re.findall(r"\]\(([^)#:]+)\)", page.read_text(encoding="utf-8")):
        assert (page.parent / target).exists(), f"{page.name} links to {target}"

"""From a template to one HTML file: no script, no network, nothing outside the file."""

from __future__ import annotations

import base64
import hashlib
import os
from importlib import resources
from pathlib import Path
from typing import Any

from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup

from osler import __version__
from osler.report.examples import visible


def render(template: str, styles: tuple[str, ...], values: dict[str, Any]) -> str:
    """A template of this package with its style sheets inside; the page's own policy lets in nothing else."""
    folder = resources.files("osler.report") / "templates"
    style = "".join((folder / name).read_text(encoding="utf-8") for name in styles)
    environment = Environment(
        loader=PackageLoader("osler.report"),
        autoescape=True,
        undefined=StrictUndefined,
        finalize=_shown,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.globals["svg"] = Markup  # only our own drawings pass through it
    return environment.get_template(template).render(
        version=__version__,
        style=Markup(style),
        style_hash=base64.b64encode(hashlib.sha256(style.encode()).digest()).decode(),
        **values,
    )


def write_whole(html: str, out: Path) -> Path:
    """Write the page; it appears complete or not at all."""
    out.parent.mkdir(parents=True, exist_ok=True)
    partial = out.with_name(out.name + ".partial")
    partial.write_text(html, encoding="utf-8")
    os.replace(partial, out)
    return out


def _shown(value: object) -> object:
    """Whatever text the template prints goes through `visible`; our own markup does not need to."""
    return visible(value) if isinstance(value, str) and not isinstance(value, Markup) else value

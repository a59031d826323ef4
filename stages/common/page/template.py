"""Pages that need no other file and no network: templates with autoescape, and their common look, common.css."""

from __future__ import annotations

from pathlib import Path

import jinja2


def template(file: Path) -> jinja2.Template:
    """A page's template, which may include `common.css` and files beside it. A name that is not given is an error."""
    loader = jinja2.FileSystemLoader([file.parent, Path(__file__).parent])
    environment = jinja2.Environment(
        loader=loader, autoescape=True, undefined=jinja2.StrictUndefined, trim_blocks=True, lstrip_blocks=True
    )
    return environment.get_template(file.name)

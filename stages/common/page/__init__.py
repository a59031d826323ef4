"""Pages that need no other file and no network: templates with their common look, common.css, and small pictures."""

import base64
import io
from pathlib import Path

import jinja2
from PIL import Image

QUALITY = 60  # of JPEG: about 5 KB for 192 pixels


def template(file: Path) -> jinja2.Template:
    """A page's template, which may include `common.css` and files beside it. A name that is not given is an error."""
    loader = jinja2.FileSystemLoader([file.parent, Path(__file__).parent])
    environment = jinja2.Environment(
        loader=loader, autoescape=True, undefined=jinja2.StrictUndefined, trim_blocks=True, lstrip_blocks=True
    )
    return environment.get_template(file.name)


def data_uri(image: Image.Image, side: int) -> str:
    """A JPEG of at most `side` pixels a side as a data: URI; `image` is made small."""
    image.thumbnail((side, side), Image.Resampling.BILINEAR)
    buffer = io.BytesIO()
    image.save(buffer, "JPEG", quality=QUALITY)
    return "data:image/jpeg;base64," + base64.b64encode(buffer.getvalue()).decode()

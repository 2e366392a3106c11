"""Small photographs, and files with their captions."""

import json

from PIL import Image as PILImage

from flamingo.data.readers import Location
from flamingo.data.transforms.pictures import open_image


def photographs(folder, *names):
    """Each of one colour, which is a function of its name's last letter before the suffix."""
    for name in names:
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        PILImage.new("RGB", (4, 3), colour(name)).save(path)
    return folder


def colour(name):
    return (10 * (ord(name.rsplit(".", 1)[0][-1]) % 25), 7, 200)


def shows(image, name):
    """Whether a captioned image's picture is the photograph of this name."""
    return open_image(image.image.frames[0]).getpixel((0, 0)) == colour(name)


def reading(reader):
    """A reader of files of captions as :func:`flamingo.data.sources.open_source` calls it."""

    def read(file, images=None):
        return reader(Location((file,), images))

    return read


def write(file, content):
    """Text as it is, lists as lines of JSON, all else as JSON."""
    if isinstance(content, list):
        content = "".join(json.dumps(row) + "\n" for row in content)
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text(content if isinstance(content, str) else json.dumps(content), encoding="utf-8")
    return file

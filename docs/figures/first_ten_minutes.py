"""docs/images/first-8.png and first-28.png: the run of docs/first-ten-minutes.md, anew.

It makes the folder of photos from CIFAR-10 and gives the commands of the page: 28 minutes of a CPU.

python docs/figures/first_ten_minutes.py --cifar cifar10-train.zip
"""

from __future__ import annotations

import io
import os
import random
import shutil
import tempfile
import zipfile
from pathlib import Path, PurePosixPath

from drawing import ddpm, options
from PIL import Image

OUTPUTS = ("first-8.png", "first-28.png")

CLASSES = {"automobile": "cars", "horse": "horses", "ship": "ships"}
SIDES, ASPECTS, EACH = (96, 160, 240, 320, 480), (1, 1, 4 / 3, 3 / 4, 3 / 2), 400
TURNED = 6  # the EXIF orientation of a camera held upright


def make_photos(archive: zipfile.ZipFile, folder: Path) -> None:
    """Photos of mixed sizes, shapes and formats, some turned; one twice, one cut short."""
    random.seed(1)
    names: dict[str, list[str]] = {}
    for name in archive.namelist():
        if name.endswith(".jpg"):
            names.setdefault(PurePosixPath(name).parent.name, []).append(name)
    for label in ("horse", "ship", "automobile"):
        inside = folder / CLASSES[label]
        inside.mkdir(parents=True)
        for i, name in enumerate(random.sample(names[label], EACH)):
            image = Image.open(io.BytesIO(archive.read(name))).convert("RGB")
            side, aspect = random.choice(SIDES), random.choice(ASPECTS)
            size = int(side * aspect**0.5), int(side / aspect**0.5)
            save(image.resize(size, Image.Resampling.BICUBIC), inside, i)
    ships = sorted((folder / "ships").glob("DSC*"))
    shutil.copy(ships[0], ships[0].with_name(f"copy of {ships[0].name}"))
    half = ships[1].read_bytes()
    (folder / "horses" / "DSC09999.jpg").write_bytes(half[: len(half) // 3])
    (folder / "notes.txt").write_text("from the camera\n")


def save(image: Image.Image, folder: Path, i: int) -> None:
    """One photo in one of four formats."""
    if i % 10 == 0:
        image.save(folder / f"{i:03}.png")
    elif i % 10 == 1:
        exif = Image.Exif()
        exif[0x0112] = TURNED
        turned = image.rotate(90, expand=True)
        turned.save(folder / f"IMG_{i:04}.JPG", "JPEG", quality=88, exif=exif)
    elif i % 10 == 2:
        image.save(folder / f"{i:03}.webp")
    else:
        image.save(folder / f"DSC{i:05}.jpg", quality=random.choice((75, 85, 92)))


def main() -> None:
    """Make the photos, give the page's commands and keep the two grids."""
    given = options(__doc__, cifar="CIFAR-10's training images: cifar10-train.zip")
    archive, out = zipfile.ZipFile(given.cifar), given.out.resolve()
    with tempfile.TemporaryDirectory() as folder:
        os.chdir(folder)
        make_photos(archive, Path("photos"))
        data = ("--data", "photos/", "--size", 32, "--holdout", 60)
        for minutes, name in zip((8, 28), OUTPUTS, strict=True):
            given_data = data if minutes == 8 else ("--out", "runs/photos-32")
            ddpm("train", *given_data, "--skip-bad", "--minutes", minutes)
            ddpm("sample", "--guidance", 2, "-n", 24, "--out", f"after-{minutes}")
            shutil.copy(Path(f"after-{minutes}", "grid.png"), out / name)


if __name__ == "__main__":
    main()

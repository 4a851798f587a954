"""Which files are images, by their names, and what to do about those that are not read.

The list is fixed, so that a folder gives the same images on every machine: whatever Pillow decodes
by itself into one raster image. Not among them are what runs another program (EPS, PDF), drawings
(SVG, WMF), projects beside their exports (PSD), measurements (FITS, HDF5, PFM) and videos.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from pathlib import PurePosixPath

SUFFIXES_OF = {  # by Pillow's name of the format, in the order in which formats are tried
    "PNG": (".png", ".apng"),
    "JPEG": (".jpg", ".jpeg", ".jpe", ".jfif", ".mpo"),
    "WEBP": (".webp",),
    "GIF": (".gif",),
    "BMP": (".bmp", ".dib"),
    "TIFF": (".tif", ".tiff"),
    "PPM": (".ppm", ".pgm", ".pbm", ".pnm"),
    "AVIF": (".avif", ".avifs"),
    "HEIF": (".heic", ".heif", ".hif"),  # by the package pillow-heif
    "JPEG2000": (".jp2", ".j2k", ".j2c", ".jpc", ".jpf", ".jpx"),
    "QOI": (".qoi",),
    "DDS": (".dds",),
    "SUN": (".ras",),
    "ICO": (".ico",),
    "SGI": (".sgi",),
    "PCX": (".pcx",),
    "TGA": (".tga",),
}
FILMS = (".gif", ".webp", ".mp4", ".png")  # that are written
FRAMES_PER_SECOND = 50  # of a film, at most: viewers of GIFs slow down where there are more
NO_SIGNATURE = frozenset({"SGI", "PCX", "TGA"})  # whose files begin with none that is sure

_HEIF = "pip install pillow-heif reads them"
_PILLOW = "pip install --upgrade pillow reads them"
_RAW = "raw camera files: export them as .jpg or .png"
_DRAWING = "drawings: export them as .png"
_PROJECT = "projects: export them as .png"
_VIDEO = "videos: extract their frames with ffmpeg"
_ARCHIVE = "archives are not looked into: unpack them"
_TAR = "give the .tar itself, or move it to a folder of its own"
_SHEET = "spreadsheets: save them as .csv"
_PARQUET = "give the .parquet itself, or move it to a folder of its own"
_ARRAY = "arrays: give the file itself"
_TABLE = "data sets in files: unpack their images into a folder"
REMEDIES = {
    suffix: remedy
    for remedy, suffixes in {
        _HEIF: ".heic .heif .hif",
        _PILLOW: ".avif .avifs .webp .jp2 .j2k .j2c .jpc .jpf .jpx",
        _RAW: ".3fr .arw .cr2 .cr3 .crw .dng .erf .nef .nrw .orf .pef .raf .raw .rw2 .srw .x3f",
        _DRAWING: ".ai .cdr .drawio .emf .eps .pdf .ps .svg .svgz .wmf",
        _PROJECT: ".afphoto .blend .clip .kra .ora .psb .psd .xcf",
        _VIDEO: ".avi .flv .m4v .mkv .mov .mp4 .mpeg .mpg .ogv .webm .wmv",
        _ARCHIVE: ".7z .bz2 .gz .rar .xz .zip .zst",
        _TAR: ".tar .tgz",
        _SHEET: ".ods .xls .xlsx",
        _PARQUET: ".parquet",
        _ARRAY: ".npy .npz",
        _TABLE: ".arrow .h5 .hdf5 .lmdb .mat .mdb .pkl .tfrecord .tfrecords",
    }.items()
    for suffix in suffixes.split()
}


def suffix_of(name: str) -> str:
    """The suffix in lower case, ".heic"; "" without one."""
    return PurePosixPath(name).suffix.lower()


def count_suffixes(names: Iterable[str]) -> Counter[str]:
    """How many files have each suffix."""
    return Counter(map(suffix_of, names))


def describe_left_out(counts: Counter[str], kinds: int | None = None) -> str:
    """In words, at most `kinds` of them: "40 .heic (pip install pillow-heif reads them), 3 .svg".

    A remedy is named once, behind the last of the suffixes that it is for; "" for no files.
    """
    shown = sorted(counts.items(), key=lambda item: (-item[1], item[0]))
    rest = len(shown[kinds:]) if kinds is not None else 0
    by_remedy: dict[str, list[str]] = {}
    for suffix, count in shown[:kinds]:
        remedy = REMEDIES.get(suffix, "")
        by_remedy.setdefault(remedy, []).append(f"{count:,} {suffix or 'without suffix'}")
    groups = [
        ", ".join(parts) + (f" ({remedy})" if remedy else "") for remedy, parts in by_remedy.items()
    ]
    return ", ".join(groups) + (", …" if rest else "")

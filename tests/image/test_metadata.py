"""What came with a photograph's pixels goes with those of the result, in every format that can carry it."""

from __future__ import annotations

import io
import struct
import zlib
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image, ImageCms
from PIL.ExifTags import IFD

from diffusers_sr.image.exif import read_exif
from diffusers_sr.image.reader import Photo, read_photo
from diffusers_sr.image.writer import unkept, write_photo
from tests.image.files import IPTC, PHOTO, RESOURCE, XMP, chunk, exif, jpeg, png, segment, text

TEXTS = {270: text("Café Zürich, 夕焼け"), 315: text("José Muñoz"), 33432: text("© 2024 José Muñoz")}
SUFFIXES = (".jpg", ".png", ".webp", ".tif")


def enlarged(source: Path, suffix: str, factor: int = 2) -> tuple[Photo, Path]:
    """Read a file, and write its pixels, enlarged, to a file of another format."""
    photo = read_photo(source)
    target = source.with_name(f"{source.stem}_result{suffix}")
    size = photo.image.width * factor, photo.image.height * factor
    write_photo(target, Image.fromarray(np.asarray(photo.image.resize(size))), photo)
    with Image.open(target) as image:
        image.load()
        assert image.size == size
    return photo, target


def info(path: Path) -> dict[Any, Any]:
    with Image.open(path) as image:
        image.load()
        return dict(image.info)


@pytest.mark.parametrize("suffix", SUFFIXES)
@pytest.mark.parametrize("source", SUFFIXES)
def test_exif_texts_are_kept_in_utf8(tmp_path: Path, source: str, suffix: str) -> None:
    jpeg(tmp_path / "exif.jpg", exif=exif(TEXTS))
    _, first = enlarged(tmp_path / "exif.jpg", source)
    _, second = enlarged(first, suffix)
    for _, _, value in TEXTS.values():
        assert value in second.read_bytes()


@pytest.mark.parametrize("order", ["<", ">"])
@pytest.mark.parametrize("suffix", SUFFIXES)
def test_exif_data_of_either_byte_order_is_read_in_any_format(tmp_path: Path, suffix: str, order: str) -> None:
    def numbers(kind: str, *values: int) -> bytes:
        return struct.pack(f"{order}{len(values)}{kind}", *values)

    entries = {
        271: text("Maker"),
        282: (5, 1, numbers("I", 300, 1)),
        283: (5, 1, numbers("I", 300, 1)),
        296: (3, 1, numbers("H", 2)),
        40091: (1, 8, "Zürich".encode("utf-16-le")[:8]),
    }
    png(tmp_path / "photo.png", [(b"eXIf", exif(entries, order)[6:])])
    _, target = enlarged(tmp_path / "photo.png", suffix)
    with Image.open(target) as image:
        data = image.getexif()
        assert (data[271], data[282], data[283], data[296]) == ("Maker", 300, 300, 2)
        assert data[40091] == "Zürich".encode("utf-16-le")[:8]


@pytest.mark.parametrize("suffix", SUFFIXES)
def test_tags_that_say_how_pixels_were_stored_are_not_kept(tmp_path: Path, suffix: str) -> None:
    data = Image.Exif()
    data.update({256: 16, 257: 12, 258: (8, 8, 8), 259: 6, 262: 6, 271: "Maker", 277: 3, 274: 6, 531: 1})
    data.get_ifd(0x8769).update({0xA002: 16, 0xA003: 12, 0x829A: 0.005, 0x9214: (8, 6), 0x927C: b"note of the maker"})
    data.get_ifd(0x8825).update({1: "N", 2: (48.0, 8.0, 0.0)})
    jpeg(tmp_path / "scan.jpg", exif=data.tobytes())
    _, target = enlarged(tmp_path / "scan.jpg", suffix)
    with Image.open(target) as image:
        kept = image.getexif()
        assert image.size == (24, 32)
        assert {tag: kept.get(tag) for tag in (259, 262, 274, 271)} == {
            259: 1 if suffix == ".tif" else None,
            262: 2 if suffix == ".tif" else None,
            274: None,
            271: "Maker",
        }
        assert (kept.get(256), kept.get(257)) == ((24, 32) if suffix == ".tif" else (None, None))
        assert kept.get_ifd(0x8769) == {0xA002: 24, 0xA003: 32, 0x829A: 0.005, 0x927C: b"note of the maker"}
        assert kept.get_ifd(0x8825) == {1: "N", 2: (48.0, 8.0, 0.0)}


@pytest.mark.parametrize("suffix", [".jpg", ".png", ".webp"])
def test_a_makers_note_stays_where_it_was(tmp_path: Path, suffix: str) -> None:
    """It may say where its parts are, from the start of the EXIF data."""
    data = Image.Exif()
    data.update({256: 16, 271: "Maker", 305: "a program"})
    data.get_ifd(0x8769).update({0x9003: "2020:01:02 03:04:05", 0x927C: b"note of the maker " * 9})
    jpeg(tmp_path / "photo.jpg", exif=data.tobytes())
    _, target = enlarged(tmp_path / "photo.jpg", suffix)
    with Image.open(target) as image:
        written = image.info["exif"].removeprefix(b"Exif\0\0")
    assert written.index(b"note of") == data.tobytes()[6:].index(b"note of")


def test_a_preview_in_exif_data_is_not_kept(tmp_path: Path) -> None:
    preview = exif({271: text("Maker")})
    end = struct.pack("<H", 1) + struct.pack("<HHII", 513, 4, 1, 0) + bytes(4)
    at = len(preview) - 6
    place = 6 + 8 + 2 + 12
    jpeg(tmp_path / "photo.jpg", exif=preview[:place] + struct.pack("<I", at) + preview[place + 4 :] + end)
    with Image.open(tmp_path / "photo.jpg") as image:
        assert 513 in image.getexif().get_ifd(IFD.IFD1)
    _, target = enlarged(tmp_path / "photo.jpg", ".jpg")
    with Image.open(target) as image:
        assert image.getexif()[271] == "Maker"
        assert image.getexif().get_ifd(IFD.IFD1) == {}


def test_entries_of_exif_data_that_are_damaged_cost_only_themselves() -> None:
    sound, fraction = text("Maker"), struct.pack("<II", 1, 3)
    for tag, entry in {
        33432: (5, 1, fraction),  # a fraction where a text stands
        305: (99, 1, b"x"),  # an unknown type
        306: (2, 1 << 31, b"\0\0\0\1"),  # longer than the file
        0x8769: (4, 1, struct.pack("<I", 8)),  # the directory in itself
        0xA005: (4, 1, struct.pack("<I", 8)),
    }.items():
        read = read_exif(exif({271: sound, tag: entry}))
        assert read.damaged, tag
        assert read.exif is not None
        assert set(read.exif.main) - {0x8769} == {271}


def test_exif_data_too_large_to_be_that_is_left_out() -> None:
    rows = struct.pack("<HHII", 271, 3, 1, 1) * 60000
    assert read_exif(b"II*\0" + struct.pack("<IH", 8, 60000) + rows + bytes(4)) == (None, True, None, None, None, ())


@pytest.mark.parametrize("suffix", SUFFIXES)
@pytest.mark.parametrize("source", ["a.jpg", "a.png", "a.webp", "a.tif", "a.avif"])
def test_xmp_is_kept_in_any_format(tmp_path: Path, source: str, suffix: str) -> None:
    path = tmp_path / source
    if path.suffix == ".png":
        png(path, [(b"iTXt", b"XML:com.adobe.xmp\0\0\0\0\0" + XMP)])
    elif path.suffix == ".jpg":
        jpeg(path, segment(0xE1, b"http://ns.adobe.com/xap/1.0/\0" + XMP))
    elif path.suffix == ".tif":
        PHOTO.save(path, tiffinfo={700: XMP})
    else:
        PHOTO.save(path, xmp=XMP)
    photo, target = enlarged(path, suffix)
    assert XMP in target.read_bytes()
    assert (photo.notes, unkept(photo, target, 32, 24)) == ([], [])


def test_xmp_says_nothing_wrong_of_the_result(tmp_path: Path) -> None:
    wrong = (
        b'<x:xmpmeta><rdf:Description tiff:Orientation="6" exif:PixelXDimension="16" exif:PixelYDimension = \'12\' >'
        b"<tiff:Orientation>6</tiff:Orientation><tiff:ImageWidth>16</tiff:ImageWidth>"
        b"<xmp:Thumbnails><rdf:Alt>AAAA</rdf:Alt></xmp:Thumbnails><dc:subject>Orientation 6</dc:subject></x:xmpmeta>"
    )
    data = Image.Exif()
    data[274] = 6
    for orientation in (b"", data.tobytes()):
        jpeg(tmp_path / "a.jpg", segment(0xE1, b"http://ns.adobe.com/xap/1.0/\0" + wrong), exif=orientation)
        photo, target = enlarged(tmp_path / "a.jpg", ".jpg")
        assert photo.image.size == (12, 16)
        assert info(target)["xmp"] == (
            b'<x:xmpmeta><rdf:Description tiff:Orientation="1" exif:PixelXDimension="24" exif:PixelYDimension '
            b"= '32' >"
            b"<tiff:Orientation>1</tiff:Orientation><tiff:ImageWidth>24</tiff:ImageWidth>"
            b"<dc:subject>Orientation 6</dc:subject></x:xmpmeta>"
        )
        assert read_photo(target).image.size == (24, 32)


def test_hostile_xmp_takes_no_time(tmp_path: Path) -> None:
    for content in (b"<" + b"a" * (1 << 20), b"<xmp:Thumbnails " * (1 << 16), b"<:Orientation" + b" " * (1 << 20)):
        png(tmp_path / "a.png", [(b"iTXt", b"XML:com.adobe.xmp\0\0\0\0\0" + content)])
        enlarged(tmp_path / "a.png", ".png")


def test_extended_xmp_stays_in_a_jpeg(tmp_path: Path) -> None:
    more = b"http://ns.adobe.com/xmp/extension/\0" + bytes(40) + b"more of it"
    jpeg(tmp_path / "a.jpg", segment(0xE1, b"http://ns.adobe.com/xap/1.0/\0" + XMP), segment(0xE1, more))
    photo, target = enlarged(tmp_path / "a.jpg", ".jpg")
    assert more in target.read_bytes()
    said = unkept(photo, Path("a.png"), 32, 24)
    assert said == ["its extended XMP data: not kept, because PNG cannot hold that"]


@pytest.mark.parametrize(
    ("source", "suffix"),
    [(source, suffix) for source in ("a.jpg", "a.tif", "b.tif", "a.png") for suffix in (".jpg", ".tif", ".png")],
)
def test_iptc_data_is_kept(tmp_path: Path, source: str, suffix: str) -> None:
    if source == "a.jpg":
        other = b"8BIM\x04\x0c\x03abc" + struct.pack(">I", 3) + b"xyz\0"  # a preview, with a name
        jpeg(tmp_path / source, segment(0xED, b"Photoshop 3.0\0" + other + RESOURCE))
    elif source == "a.png":
        written = f"\niptc\n{len(RESOURCE):8}\n{RESOURCE.hex()}\n".encode()
        png(tmp_path / source, [(b"zTXt", b"Raw profile type iptc\0\0" + zlib.compress(written))])
    else:
        PHOTO.save(tmp_path / source, tiffinfo={33723: IPTC} if source == "a.tif" else {34377: RESOURCE})
    photo, target = enlarged(tmp_path / source, suffix)
    assert photo.metadata.iptc == IPTC
    if suffix != ".png":
        assert IPTC in target.read_bytes()
    assert read_photo(target).metadata.iptc == IPTC
    assert photo.notes == []
    assert unkept(photo, Path("a.webp"), 32, 24) == ["its IPTC data: not kept, because WEBP cannot hold that"]


def test_comments_are_kept(tmp_path: Path) -> None:
    jpeg(tmp_path / "a.jpg", segment(0xFE, b"one"), segment(0xFE, "zwei ü".encode()))
    photo, target = enlarged(tmp_path / "a.jpg", ".jpg")
    assert read_photo(target).metadata.comments == [b"one", "zwei ü".encode()]
    _, target = enlarged(tmp_path / "a.jpg", ".png")
    assert read_photo(target).metadata.texts == [
        (b"tEXt", b"Comment\0one"),
        (b"tEXt", b"Comment\0zwei \xfc"),
    ]
    _, target = enlarged(tmp_path / "a.jpg", ".tif")
    assert b"one\nzwei \xc3\xbc\0" in target.read_bytes()
    said = "its comment: not kept, because WEBP cannot hold that"
    assert unkept(photo, Path("a.webp"), 32, 24) == [said]
    PHOTO.save(tmp_path / "b.gif", comment="Grüße")
    _, target = enlarged(tmp_path / "b.gif", ".png")
    assert info(target)["Comment"] == "Grüße"


def test_texts_of_a_png_are_kept_as_they_are(tmp_path: Path) -> None:
    texts = [
        (b"tEXt", b"Author\0somebody"),
        (b"tEXt", b"Comment\0one"),
        (b"tEXt", b"Comment\0two"),
        (b"zTXt", b"Software\0\0" + zlib.compress(b"a program")),
        (b"iTXt", "Titel\0\0\0de\0Überschrift\0Zürich, 夕焼け".encode()),
        (b"iTXt", b"Long\0\1\0\0\0" + zlib.compress(b"a" * 1000)),
    ]
    png(tmp_path / "a.png", texts[:3], last=texts[3:])
    photo, target = enlarged(tmp_path / "a.png", ".png")
    assert photo.notes == []
    assert [chunk(*each) in target.read_bytes() for each in texts] == [True] * 6
    _, target = enlarged(tmp_path / "a.png", ".jpg")
    assert read_photo(target).metadata.comments == [b"one", b"two"]
    said = "its texts (Author, Software, Titel, Long): not kept, because JPEG cannot hold that"
    assert unkept(photo, target, 32, 24) == [said]


@pytest.mark.parametrize("suffix", [*SUFFIXES, ".bmp"])
@pytest.mark.parametrize("source", [".jpg", ".png", ".tif", ".bmp"])
def test_resolution_is_kept(tmp_path: Path, source: str, suffix: str) -> None:
    path = tmp_path / f"a{source}"
    PHOTO.save(path, dpi=(300, 150))
    _, target = enlarged(path, suffix)
    with Image.open(target) as image:
        data = image.getexif()
        found = (data[282], data[283]) if suffix == ".webp" else image.info["dpi"]
        assert suffix not in (".webp", ".tif") or data[296] == 2
    assert tuple(map(float, found)) == pytest.approx((300, 150), abs=0.02)


def test_resolution_is_turned_with_the_photo(tmp_path: Path) -> None:
    data = Image.Exif()
    data.update({274: 6, 282: 300.0, 283: 150.0, 296: 2})
    PHOTO.save(tmp_path / "a.jpg", dpi=(300, 150), exif=data)
    _, target = enlarged(tmp_path / "a.jpg", ".jpg")
    with Image.open(target) as image:
        assert image.info["dpi"] == (150, 300)
        assert (image.getexif()[282], image.getexif()[283]) == (150, 300)


def test_a_resolution_that_nobody_wrote_is_not_made_up(tmp_path: Path) -> None:
    for name in ("a.png", "a.tif", "a.jpg"):
        PHOTO.save(tmp_path / name, exif=exif({271: text("Maker")}))
        _, target = enlarged(tmp_path / name, ".png")
        assert "dpi" not in info(target)


def test_pixels_that_are_not_square_are_said(tmp_path: Path) -> None:
    png(tmp_path / "a.png", [(b"pHYs", struct.pack(">IIB", 1, 2, 0))])
    assert read_photo(tmp_path / "a.png").notes == ["has pixels that are not square (1:2), which is not kept"]


def colours(*values: int) -> bytes:
    return struct.pack(f">{len(values)}I", *values)


SRGB_PRIMARIES = (31270, 32900, 64000, 33000, 30000, 60000, 15000, 6000)
ADOBE_PRIMARIES = (31270, 32900, 64000, 33000, 21000, 71000, 15000, 6000)


def in_srgb(path: Path) -> np.ndarray[Any, Any]:
    """Pixels as a viewer that honours profiles shows them."""
    with Image.open(path) as image:
        assert "icc_profile" in image.info
        profile = ImageCms.ImageCmsProfile(io.BytesIO(image.info["icc_profile"]))
        shown = ImageCms.profileToProfile(image, profile, ImageCms.createProfile("sRGB"), outputMode="RGB")
        assert shown is not None
        return np.asarray(shown).astype(float)


def shown_srgb(linear: np.ndarray[Any, Any]) -> np.ndarray[Any, Any]:
    return 255 * np.where(linear <= 0.0031308, 12.92 * linear, 1.055 * linear ** (1 / 2.4) - 0.055)


@pytest.mark.parametrize("suffix", SUFFIXES)
@pytest.mark.parametrize("gamma", [100000, 55556])
def test_the_gamma_of_a_png_becomes_a_profile(tmp_path: Path, gamma: int, suffix: str) -> None:
    flat = np.full((12, 16, 3), (200, 120, 60), np.uint8)
    png(tmp_path / "a.png", [(b"gAMA", colours(gamma))], flat.tobytes())
    photo, target = enlarged(tmp_path / "a.png", suffix)
    assert np.asarray(photo.image).tolist() == flat.tolist()
    expected = shown_srgb((np.array([200, 120, 60]) / 255) ** (100000 / gamma))
    assert np.abs(in_srgb(target) - expected).max() < 4
    if suffix == ".png":
        assert info(target)["gamma"] == gamma / 100000


def test_primaries_of_a_png_become_a_profile(tmp_path: Path) -> None:
    flat = np.full((12, 16, 3), (180, 200, 120), np.uint8)
    png(tmp_path / "a.png", [(b"gAMA", colours(45455)), (b"cHRM", colours(*ADOBE_PRIMARIES))], flat.tobytes())
    _, target = enlarged(tmp_path / "a.png", ".png")
    # From the primaries of Adobe RGB to those of sRGB, of one white.
    matrix = np.array([[1.3982, -0.3982, 0], [0, 1, 0], [0, -0.0429, 1.0429]])
    expected = shown_srgb(np.clip(matrix @ (np.array([180, 200, 120]) / 255) ** 2.2, 0, 1))
    assert np.abs(in_srgb(target) - expected).max() < 3


def test_grey_gets_a_profile_of_grey(tmp_path: Path) -> None:
    png(tmp_path / "a.png", [(b"gAMA", colours(100000))], bytes([120]) * 192, kind=0)
    _, target = enlarged(tmp_path / "a.png", ".jpg")
    with Image.open(target) as image:
        assert image.mode == "L"
    assert np.abs(in_srgb(target) - shown_srgb(np.array(120 / 255))).max() < 4


@pytest.mark.parametrize(
    "chunks",
    [
        [(b"gAMA", colours(45455))],
        [(b"gAMA", colours(45455)), (b"cHRM", colours(*SRGB_PRIMARIES))],
        [(b"sRGB", b"\1"), (b"gAMA", colours(100000))],
    ],
)
def test_what_says_srgb_needs_no_profile_and_stays(tmp_path: Path, chunks: list[tuple[bytes, bytes]]) -> None:
    png(tmp_path / "a.png", chunks)
    photo, target = enlarged(tmp_path / "a.png", ".png")
    assert photo.icc_profile is None
    assert all(chunk(*each) in target.read_bytes() for each in chunks)


@pytest.mark.parametrize(
    ("chunks", "last", "note"),
    [
        ([(b"zTXt", b"Big\0\0" + zlib.compress(bytes(8 << 20)))], [], "zTXt"),
        ([], [(b"zTXt", b"Big\0\0" + zlib.compress(bytes(8 << 20)))], "zTXt"),
        ([(b"iTXt", b"Big\0\1\0\0\0" + zlib.compress(bytes(8 << 20)))], [], "iTXt"),
        ([(b"iCCP", b"Big\0\0" + zlib.compress(bytes(8 << 20)))], [], "iCCP"),
        ([(b"zTXt", b"Author\0\0no zlib")], [], "zTXt"),
        ([(b"zTXt", b"Author\0\7" + zlib.compress(b"me"))], [], "zTXt"),
        ([(b"tEXt", b"\0no keyword")], [], "tEXt"),
        ([(b"tEXt", b"a" * 80 + b"\0a long one")], [], "tEXt"),
        ([(b"gAMA", b"\0")], [], "gAMA"),
        ([(b"pHYs", b"\0")], [], "pHYs"),
        ([(b"cHRM", b"\0")], [], "cHRM"),
        ([(b"sRGB", b"")], [], "sRGB"),
    ],
)
def test_damaged_chunks_do_not_cost_the_picture(
    tmp_path: Path, chunks: list[tuple[bytes, bytes]], last: list[tuple[bytes, bytes]], note: str
) -> None:
    png(tmp_path / "a.png", [(b"tEXt", b"Author\0me"), *chunks], last=last)
    photo, target = enlarged(tmp_path / "a.png", ".png")
    assert photo.notes == [f"has damaged or huge PNG chunks ({note}), which are not kept"]
    assert np.array_equal(np.asarray(photo.image), np.asarray(PHOTO))
    assert info(target)["Author"] == "me"
    assert target.stat().st_size < 3000  # without 8 MiB of zeros, which are 8 kB


def test_a_wrong_checksum_of_a_text_does_not_cost_the_picture(tmp_path: Path) -> None:
    png(tmp_path / "a.png", [(b"tEXt", b"Author\0me")])
    content = (tmp_path / "a.png").read_bytes()
    (tmp_path / "a.png").write_bytes(content.replace(b"Author", b"author"))
    assert read_photo(tmp_path / "a.png").notes == ["has damaged or huge PNG chunks (tEXt), which are not kept"]


@pytest.mark.parametrize("values", [(0,), (1 << 31,)])
def test_a_gamma_that_cannot_be_is_left_out(tmp_path: Path, values: tuple[int, ...]) -> None:
    png(tmp_path / "a.png", [(b"gAMA", colours(*values))])
    photo, target = enlarged(tmp_path / "a.png", ".png")
    assert photo.notes == ["has a damaged gamma or primaries, which are not kept"]
    assert "gamma" not in info(target)
    png(tmp_path / "b.png", [(b"gAMA", colours(50000)), (b"cHRM", bytes(32))])
    assert read_photo(tmp_path / "b.png").notes == ["has a damaged gamma or primaries, which are not kept"]


@pytest.mark.parametrize(
    ("damaged", "note"),
    [
        (segment(0xE0, b"JFIF"), "has damaged metadata, which is not kept"),
        (segment(0xED, b"Photoshop 3.0\x008BIM\4\4"), "has damaged metadata, which is not kept"),
        (segment(0xE2, b"ICC_PROFILE\0"), "has damaged metadata, which is not kept"),
        (segment(0xEE, b"Adobe"), "has damaged metadata, which is not kept"),
        (segment(0xED, b"Photoshop 3.0\0" + RESOURCE[:-3]), "has damaged IPTC data, which is not kept"),
        (segment(0xE1, b"http://ns.adobe.com/xap/1.0/\0<\xff\xfe"), "has damaged or huge XMP data, which is not kept"),
    ],
)
def test_damaged_segments_do_not_cost_the_picture(tmp_path: Path, damaged: bytes, note: str) -> None:
    data = Image.Exif()
    data.update({271: "Maker", 274: 6})
    jpeg(tmp_path / "a.jpg", damaged, exif=data.tobytes())
    photo, target = enlarged(tmp_path / "a.jpg", ".jpg")
    assert photo.notes == [note]
    assert photo.image.size == (12, 16)
    with Image.open(target) as image:
        assert image.getexif()[271] == "Maker"


def test_metadata_too_long_for_a_jpeg_is_said(tmp_path: Path) -> None:
    png(
        tmp_path / "a.png",
        [
            (b"eXIf", exif({270: text("x" * 70000)})[6:]),
            (b"iTXt", b"XML:com.adobe.xmp\0\0\0\0\0" + XMP + b" " * 70000),
            (b"tEXt", b"Comment\0" + b"y" * 70000),
        ],
    )
    photo, target = enlarged(tmp_path / "a.png", ".jpg")
    said = "its XMP data, comment, EXIF data: not kept, because JPEG cannot hold that"
    assert unkept(photo, target, 32, 24) == [said]
    _, target = enlarged(tmp_path / "a.png", ".webp")
    with Image.open(target) as image:
        assert image.getexif()[270] == "x" * 70000


def test_a_bmp_says_what_it_cannot_hold(tmp_path: Path) -> None:
    png(tmp_path / "a.png", [(b"tEXt", b"Author\0me"), (b"iTXt", b"XML:com.adobe.xmp\0\0\0\0\0" + XMP)])
    photo, target = enlarged(tmp_path / "a.png", ".bmp")
    assert unkept(photo, target, 32, 24) == ["its XMP data, texts (Author): not kept, because BMP cannot hold that"]


def test_private_tags_of_a_tiff_are_said(tmp_path: Path) -> None:
    PHOTO.save(tmp_path / "map.tif", tiffinfo={33550: (1.0, 1.0, 0.0), 270: "a map"})
    photo, target = enlarged(tmp_path / "map.tif", ".tif")
    assert photo.notes == ["has private TIFF tags (33550), which are not kept"]
    with Image.open(target) as image:
        assert image.getexif()[270] == "a map"
        assert 33550 not in image.getexif()


def test_bigtiff_is_read(tmp_path: Path) -> None:
    PHOTO.save(tmp_path / "a.tif", big_tiff=True, description="a photo", dpi=(300, 300))
    photo, target = enlarged(tmp_path / "a.tif", ".tif")
    assert photo.notes == []
    with Image.open(target) as image:
        assert (image.getexif()[270], image.info["dpi"]) == ("a photo", (300, 300))


@pytest.mark.parametrize("suffix", [".png", ".tif"])
def test_16_bit_grey_with_transparency_stays_grey(tmp_path: Path, suffix: str) -> None:
    png(tmp_path / "a.png", pixels=struct.pack(">384H", *[25700, 65535] * 192), depth=16, kind=4)
    photo, target = enlarged(tmp_path / "a.png", suffix)
    assert (photo.mode, photo.is_grey) == ("L", True)
    with Image.open(target) as image:
        assert image.mode == "LA"
        assert image.getpixel((0, 0)) == (100, 255)


def test_pictures_of_an_mpo_besides_the_first_are_said(tmp_path: Path) -> None:
    PHOTO.save(tmp_path / "a.mpo", format="MPO", save_all=True, append_images=[PHOTO])
    photo, _ = enlarged(tmp_path / "a.mpo", ".png")
    assert photo.notes == ["has 2 frames; only the first is taken"]


def test_metadata_of_formats_where_pillow_does_not_look(tmp_path: Path) -> None:
    PHOTO.save(tmp_path / "a.gif")
    content = (tmp_path / "a.gif").read_bytes()
    end = b"\x01" + bytes(range(255, -1, -1)) + b"\0"
    (tmp_path / "a.gif").write_bytes(content[:-1] + b"\x21\xff\x0bXMP DataXMP" + XMP + end + content[-1:])
    photo, target = enlarged(tmp_path / "a.gif", ".png")
    assert XMP in target.read_bytes()
    PHOTO.save(tmp_path / "b.jp2")
    with (tmp_path / "b.jp2").open("ab") as file:
        for name, packet in (
            (b"\xbe\x7a\xcf\xcb\x97\xa9\x42\xe8\x9c\x71\x99\x94\x91\xe3\xaf\xac", XMP),
            (b"JpgTiffExif->JP2", exif(TEXTS)[6:]),
            (b"\x33\xc7\xa4\xd2\xb8\x1d\x47\x23\xa0\xba\xf1\xa3\xe0\x97\xad\x38", IPTC),
        ):
            file.write(struct.pack(">I4s", 24 + len(packet), b"uuid") + name + packet)
    photo, target = enlarged(tmp_path / "b.jp2", ".tif")
    assert photo.metadata.iptc == IPTC
    assert [each in target.read_bytes() for each in (XMP, IPTC, TEXTS[270][2])] == [True] * 3


def test_content_credentials_are_said_to_be_left_out(tmp_path: Path) -> None:
    note = "has content credentials (C2PA), which are not kept: they are those of the pixels as they were"
    jpeg(tmp_path / "a.jpg", segment(0xEB, b"JP jumb c2pa"), segment(0xEB, b"JP jumb c2pa"))
    png(tmp_path / "a.png", [(b"caBX", b"jumb c2pa")])
    for name in ("a.jpg", "a.png"):
        assert read_photo(tmp_path / name).notes == [note]

"""Folders of images: what is found, its pixels against Pillow and NumPy, and what is refused."""

import io
import os
import struct
import sys
import zlib

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

import xpnet.data.files
import xpnet.data.images
from xpnet.data import read, read_parts
from xpnet.errors import BackendError, DataError

Image = pytest.importorskip("PIL.Image", reason="Pillow is not installed")


def pixels(seed=0, shape=(6, 5), dtype=np.uint8):
    return np.random.default_rng(seed).integers(0, np.iinfo(dtype).max, shape).astype(dtype)


@pytest.fixture
def save(tmp_path):
    def save(name, image, **options):
        path = tmp_path / "photos" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        image = Image.fromarray(image) if isinstance(image, np.ndarray) else image
        image.save(path, **options)
        return tmp_path / "photos"

    return save


def fails(path, message, **options):
    with pytest.raises(DataError) as caught:
        read_parts(path, **options)
    assert message in str(caught.value), str(caught.value)
    assert "\n" not in str(caught.value)
    return caught.value


def said(dataset):
    return "\n".join(dataset.columns.lines(dataset.classes))


# --- what is found


def test_each_folder_is_a_class_in_the_order_of_their_names(save):
    images = {"dog/2.png": 0, "dog/10.png": 1, "cat/b.png": 2, "cat/a.png": 3, "cat/sub/c.png": 4}
    for name, seed in images.items():
        folder = save(name, pixels(seed))
    got = read(folder)
    assert (got.classes, got.y.tolist(), got.name) == (("cat", "dog"), [0, 0, 0, 1, 1], "photos")
    np.testing.assert_array_equal(got.x, [pixels(seed) for seed in (3, 2, 4, 1, 0)])
    assert got.x.dtype == np.uint8
    assert "label: the folder (2 classes: cat, dog)" in said(got)
    assert "images: 5 of 6 x 5, grey" in said(got)
    again = read(folder, label=None)  # all of them, to predict
    np.testing.assert_array_equal(again.x, got.x)
    assert again.y is None


def test_a_folder_may_be_divided_into_parts(save):
    for p, part in enumerate(("Train", "valid", "test")):
        for k, name in enumerate(("a", "b")):
            folder = save(f"{part}/{name}/x.png", pixels(2 * p + k))
    got = read_parts(folder)
    for p, part in enumerate((got.train, got.validation, got.test)):
        np.testing.assert_array_equal(part.x, [pixels(2 * p), pixels(2 * p + 1)])
        assert (part.y.tolist(), part.classes) == ([0, 1], ("a", "b"))
    assert read(folder, part="test").name == "photos test"
    assert (
        said(got.train).splitlines()[2]
        == "folders of parts: train Train, validation valid, test test"
    )
    again = read(folder, like=got.train.columns, classes=got.train.classes)
    assert "test test; of them, train is read" in said(again)
    save("test/c/x.png", pixels())
    fails(folder, "photos/test/c/x.png: label 'c' is not among the 2 known classes")
    assert len(read(folder, label=None)) == 7


def test_folders_that_only_seem_to_be_parts(save):
    for name in ("train/1.png", "car/1.png", "bus/1.png"):  # a train is a vehicle
        folder = save(name, pixels())
    assert read(folder).classes == ("bus", "car", "train")


def test_images_without_classes_have_no_labels_and_can_be_predicted(save):
    for name in ("train/1.png", "test/1.png"):
        folder = save(name, pixels())
    fails(folder, "'test', 'train' have no folders of classes; put the images of each class")
    fails(folder / "train", "train: its images have no labels; put the images of each class into")
    assert read(folder / "train", label=None).x.shape == (1, 6, 5)
    one = read(folder / "train" / "1.png", label=None)
    np.testing.assert_array_equal(one.x, [pixels()])
    fails(folder / "train" / "1.png", "1.png: one image has no label; put")
    fails(folder / "train" / "2.png", "2.png: no such file", label=None)
    fails(folder, "no folder for a test part with folders of classes", part="test")


def test_a_folder_around_the_folder_is_named(save):
    for name in ("archive/a/1.png", "archive/b/1.png"):
        folder = save(name, pixels())
    fails(folder, f"all images are in archive; name {folder / 'archive'}")
    assert read(folder / "archive").classes == ("a", "b")


def test_what_is_skipped_is_counted(save, tmp_path):
    outside = tmp_path / "secret.png"
    Image.fromarray(pixels(9)).save(outside)
    for name in ("a/1.PNG", "b/1.png", "loose.png", ".hidden/c.png"):
        folder = save(name, pixels())
    for name in ("a/notes.txt", "a/Thumbs.db", "readme.md", "a/.DS_Store", "b/._1.png"):
        (folder / name).write_text("x")
    (folder / "empty").mkdir()
    (folder / "a" / "link.png").symlink_to(outside)
    (folder / "a" / "inside.png").symlink_to(folder / "b" / "1.png")
    (folder / "a" / "gone.png").symlink_to("nowhere.png")
    (folder / "a" / "loop").symlink_to(folder)
    (folder / "a" / "itself.png").symlink_to("itself.png")
    (folder / "c").symlink_to(folder / "a")
    os.mkfifo(folder / "b" / "pipe.png")
    got = read(folder)
    assert (got.classes, got.y.tolist()) == (("a", "b"), [0, 0, 1])
    for words in (
        "2 hidden files",
        "5 files that are no images",  # also the pipe and the link to nowhere
        "4 links out of the folder or to folders",
        "1 images outside the folders of classes",
        "folders without images, which are no classes: 'empty'",
    ):
        assert words in said(got)


def test_a_folder_without_images_is_refused(tmp_path):
    (tmp_path / "a" / "b").mkdir(parents=True)
    for label in ("auto", None):
        fails(tmp_path, "is a folder without images (.bmp .gif .jpeg", label=label)
    fails(tmp_path / "no", "no such file")


def test_a_label_for_images_is_refused(save):
    save("a/1.png", pixels())
    folder = save("b/1.png", pixels())
    fails(folder, "the label of an image is the folder that it is in; got 'age'", label="age")


def test_what_is_asked_of_columns_is_refused_for_images(save):
    folder = save("a/1.png", pixels())
    for name in ("numeric", "category", "ignore"):
        fails(folder, f"photos: {name} is for tables", **{name: ["a"]})
    fails(folder, "photos: weight is for tables", weight="a")


def test_two_folders_of_one_part_are_refused(save):
    for name in ("train", "val", "validation"):
        for of_class in "ab":
            folder = save(f"{name}/{of_class}/1.png", pixels())
    fails(folder, "val and validation are both the validation part")


def test_folders_of_numbers_are_targets_of_a_regression(save):
    save("31.5/1.png", pixels())
    folder = save("7/1.png", pixels())
    assert read(folder, task="regression").y.tolist() == [31.5, 7.0]


# --- pixels


@pytest.mark.parametrize("suffix", ["png", "bmp", "gif", "webp", "jpg"])
@pytest.mark.parametrize("shape", [(6, 5), (6, 5, 3)])
def test_pixels_are_those_that_pillow_reads(save, suffix, shape):
    for seed, name in enumerate("abc"):
        array = pixels(seed, shape) // 64 * 85  # few colours, for a palette
        folder = save(
            f"{name}/1.{suffix}", array, **({"lossless": True} if suffix == "webp" else {})
        )
    got = read(folder)
    colour = len(shape) == 3 or suffix == "webp"  # WebP has no grey images
    assert got.x.shape == (3, 6, 5, 3)[: 4 if colour else 3]
    for row, name in zip(got.x, "abc", strict=True):
        with Image.open(folder / name / f"1.{suffix}") as image:
            np.testing.assert_array_equal(row, image.convert("RGB" if colour else "L"))
    if suffix not in ("jpg", "gif") and len(shape) == 3:
        np.testing.assert_array_equal(got.x[2], pixels(2, shape) // 64 * 85)


def test_grey_and_colour_together_are_colour(save):
    save("a/1.png", pixels())
    folder = save("b/1.png", pixels(1, (6, 5, 3)))
    got = read(folder)
    np.testing.assert_array_equal(got.x[0], np.repeat(pixels()[..., None], 3, axis=2))
    np.testing.assert_array_equal(got.x[1], pixels(1, (6, 5, 3)))
    assert "2 of 6 x 5, colour" in said(got)


def test_black_and_white_and_grey_palettes_are_grey(save):
    bits = pixels() > 100
    save("a/1.png", Image.fromarray(bits))
    folder = save("b/1.png", Image.fromarray(pixels()).convert("P"))
    got = read(folder)
    np.testing.assert_array_equal(got.x, [bits * np.uint8(255), pixels()])


def test_a_run_of_grey_or_colour_images_reads_others_as_its_own(save):
    folder = save("a/1.png", pixels())
    grey = read(folder / "a", label=None).columns
    other = save("b/1.png", pixels(1, (6, 5, 3)))
    got = read(other / "b" / "1.png", label=None, like=grey)
    with Image.open(other / "b" / "1.png") as image:
        np.testing.assert_array_equal(got.x[0], image.convert("L"))
    assert "colour, read as grey as the images of the run: 1" in said(got)
    colour = read(other / "b", label=None).columns
    assert read(folder / "a" / "1.png", label=None, like=colour).x.shape == (1, 6, 5, 3)


def test_what_is_transparent_is_laid_on_white(save):
    clear = pixels(0, (6, 5, 4))
    clear[0, 0] = (0, 0, 0, 0)  # black ink under no opacity
    clear[..., 3] = np.where(pixels(1) > 99, 255, 0)
    save("a/1.png", Image.fromarray(clear))
    folder = save("b/1.png", Image.fromarray(pixels()), transparency=3)
    got = read(folder)
    expected = np.where(clear[..., 3:] == 255, clear[..., :3], 255)
    np.testing.assert_array_equal(got.x[0], expected)
    grey = np.where(pixels() == 3, 255, pixels())
    np.testing.assert_array_equal(got.x[1], np.repeat(grey[..., None], 3, axis=2))
    assert "transparent, laid on white: 2" in said(got)


@pytest.mark.parametrize("suffix", ["jpg", "png", "webp"])
@pytest.mark.parametrize("orientation", range(1, 9))
def test_images_are_upright(save, suffix, orientation):
    array = np.zeros((16, 24, 3), np.uint8)
    array[:8, :8], array[:8, 8:] = (250, 0, 0), (0, 0, 250)
    upright = {
        1: lambda a: a,
        2: np.fliplr,
        3: lambda a: np.rot90(a, 2),
        4: np.flipud,
        5: lambda a: a.transpose(1, 0, 2),
        6: lambda a: np.rot90(a, -1),
        7: lambda a: np.rot90(a, 2).transpose(1, 0, 2),
        8: np.rot90,
    }[orientation](array)
    exif = Image.Exif()
    exif[0x0112] = orientation
    folder = save(f"a/1.{suffix}", array, exif=exif, quality=100)
    got = read(folder / "a", label=None)
    assert got.x.shape[1:3] == upright.shape[:2]
    assert np.abs(got.x[0].astype(int) - upright).mean() < 12  # JPEG blurs colours
    assert ("turned or mirrored as their EXIF data say: 1" in said(got)) == (orientation > 1)
    sized = read(folder / "a", label=None, image_size=upright.shape[:2])
    np.testing.assert_array_equal(sized.x, got.x)


def test_the_first_frame_of_an_animation_is_read(save):
    frames = [Image.fromarray(pixels(seed) // 64 * 85) for seed in range(3)]
    folder = save("a/1.gif", frames[0], save_all=True, append_images=frames[1:], loop=0)
    got = read(folder / "a", label=None)
    np.testing.assert_array_equal(got.x[0], pixels(0) // 64 * 85)
    assert "animated, of which the first frame is read: 1" in said(got)


def test_16_bits_of_grey_stay_16_bits(save):
    values = pixels(3, (6, 5), np.uint16)
    folder = save("a/1.png", Image.fromarray(values))
    got = read(folder / "a", label=None)
    assert got.x.dtype == np.uint16
    np.testing.assert_array_equal(got.x[0], values)
    small = read(folder / "a", label=None, image_size=(3, 5)).x[0]
    exact = Image.fromarray(values.astype(np.float32)).resize((5, 3), Image.Resampling.LANCZOS)
    assert np.abs(small - np.clip(np.asarray(exact), 0, 65535)).max() <= 0.5
    save("b/1.png", pixels())
    fails(folder, "b/1.png: is grey, where ")
    like = read(folder / "b", label=None).columns
    message = "is grey of 16 bits, where the images of the run are grey; save all"
    fails(folder / "a", message, label=None, like=like)


def png(width, height, depth, colour, rows):
    def chunk(kind, data):
        return (
            struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))
        )

    head = struct.pack(">IIBBBBB", width, height, depth, colour, 0, 0, 0)
    body = zlib.compress(rows)
    start = b"\x89PNG\r\n\x1a\n"
    return start + chunk(b"IHDR", head) + chunk(b"IDAT", body) + chunk(b"IEND", b"")


def test_16_bits_a_colour_are_read_as_8_and_it_is_said(tmp_path):
    values = np.arange(12).reshape(2, 2, 3) * 5000
    rows = b"".join(b"\0" + row.astype(">u2").tobytes() for row in values)
    (tmp_path / "a.png").write_bytes(png(2, 2, 16, 2, rows))
    got = read(tmp_path / "a.png", label=None)
    np.testing.assert_array_equal(got.x[0], values >> 8)
    assert "of 16 bits a colour, of which 8 are read: 1" in said(got)


# --- sizes


def test_images_of_other_sizes_are_refused_or_resized(save):
    save("a/1.png", pixels(0, (6, 5, 3)))
    folder = save("b/1.png", pixels(1, (9, 20, 3)))
    error = fails(folder, "b/1.png: 9 x 20 pixels (height x width), where ")
    assert "a/1.png has 6 x 5" in str(error)
    assert str(error).endswith("image_size=[6, 5] resizes them")
    assert error.at_command_line.endswith("--set data.image_size=[6,5] resizes them")
    got = read(folder, image_size=[4, 8])
    assert got.x.shape == (2, 4, 8, 3)
    for row, name in zip(got.x, "ab", strict=True):
        with Image.open(folder / name / "1.png") as image:
            np.testing.assert_array_equal(row, image.resize((8, 4), Image.Resampling.LANCZOS))
    assert "resized to 4 x 8, whatever their proportions: 2" in said(got)
    np.testing.assert_array_equal(read(folder, image_size=[6, 5]).x[0], pixels(0, (6, 5, 3)))


@pytest.mark.parametrize("size", [(5,), (5, 5, 3), (0, 5), (5, -1)])
def test_a_size_that_is_none_is_refused(save, size):
    folder = save("a/1.png", pixels())
    fails(folder / "a", "image_size is height and width", label=None, image_size=size)


def test_a_large_jpeg_is_resized_well_and_fast(save):
    y, x = np.mgrid[:2000, :3000]
    array = np.stack([x / 3000, y / 2000, (x + y) / 5000], 2) * 255
    folder = save("a/1.jpg", array.astype(np.uint8), quality=95)
    got = read(folder / "a", label=None, image_size=(20, 30)).x[0]
    exact = Image.fromarray(array.astype(np.uint8)).resize((30, 20), Image.Resampling.LANCZOS)
    assert np.abs(got.astype(int) - np.asarray(exact).astype(int)).max() <= 4


def test_images_above_the_limit_are_refused_before_they_are_read(save, monkeypatch):
    save("a/1.png", pixels(0, (10, 10)))
    folder = save("b/1.png", pixels(0, (10, 10)))
    monkeypatch.setattr(xpnet.data.files, "MAX_BYTES", 199)
    error = fails(folder, "2 images of 10 x 10 pixels take 200 bytes, more than 199")
    assert "--set data.image_size=[H,W]" in error.at_command_line
    assert len(read(folder, image_size=(5, 5))) == 2


@pytest.mark.parametrize("threads", [1, 2, 5])
def test_threads_change_neither_the_order_nor_which_damage_is_named(save, monkeypatch, threads):
    monkeypatch.setattr(xpnet.data.images, "LARGE", 1)
    monkeypatch.setattr(xpnet.data.images, "_cores", lambda: threads)
    for seed in range(11):
        folder = save(f"a/{seed:02}.png", pixels(seed))
    got = read(folder / "a", label=None)
    np.testing.assert_array_equal(got.x, [pixels(seed) for seed in range(11)])
    for name in ("04", "07", "09"):
        path = folder / "a" / f"{name}.png"
        path.write_bytes(path.read_bytes()[:-40])
    fails(folder / "a", "a/04.png: damaged: ", label=None)


# --- damage


@pytest.mark.parametrize("suffix", ["png", "bmp", "gif", "webp", "jpg"])
def test_a_damaged_image_is_named(save, suffix):
    save(f"a/1.{suffix}", pixels(0, (60, 50, 3)))
    folder = save(f"b/1.{suffix}", pixels(1, (60, 50, 3)))
    path = folder / "b" / f"1.{suffix}"
    content = path.read_bytes()
    for damaged in (b"", b"x", content[:10], content[: len(content) // 2], b"PK" + content):
        path.write_bytes(damaged)
        assert str(fails(folder, "")).startswith(f"{path}: ")


def test_a_format_that_is_not_an_image_is_not_opened(save):
    folder = save("a/1.png", pixels())
    for suffix in ("tiff", "ppm", "eps", "ico"):
        file = io.BytesIO()
        Image.fromarray(pixels(0, (16, 16, 3))).save(file, suffix.upper())
        (folder / "a" / "1.png").write_bytes(file.getvalue())
        fails(folder / "a", "1.png: not an image: cannot identify", label=None)


@pytest.mark.parametrize("side", [9500, 14000, 2**31 - 1])
def test_a_decompression_bomb_is_refused_before_it_is_unpacked(tmp_path, side):
    (tmp_path / "a.png").write_bytes(png(side, side, 8, 2, b"\0" * 100))
    error = fails(tmp_path / "a.png", "a.png: ", label=None)
    assert f"Image size ({side * side} pixels) exceeds limit" in str(error)


def test_a_bomb_of_text_is_refused(tmp_path):
    from PIL import PngImagePlugin

    info = PngImagePlugin.PngInfo()
    info.add_text("a", "x" * (PngImagePlugin.MAX_TEXT_CHUNK + 1), zip=True)
    Image.fromarray(pixels()).save(tmp_path / "a.png", pnginfo=info)
    fails(tmp_path / "a.png", "a.png: ", label=None)


def test_reading_images_without_pillow_says_how_to_install_it(save, monkeypatch):
    folder = save("a/1.png", pixels())
    monkeypatch.setitem(sys.modules, "PIL", None)
    with pytest.raises(BackendError, match="pip install 'pillow>="):
        read(folder / "a", label=None)


TURNED = Image.Exif()
TURNED[0x0112] = 6
SEEDS = {}
for form, options in (
    ("PNG", {}),
    ("BMP", {}),
    ("GIF", {"save_all": True, "append_images": [Image.fromarray(pixels(1))]}),
    (
        "JPEG",
        {"exif": TURNED},
    ),
    ("WEBP", {}),
):
    file = io.BytesIO()
    Image.fromarray(pixels()).save(file, form, **options)
    SEEDS[form] = file.getvalue()


@pytest.mark.parametrize("form", SEEDS)
@settings(max_examples=60, suppress_health_check=list(HealthCheck))
@given(
    edits=st.lists(
        st.tuples(st.floats(0, 1), st.integers(0, 4), st.binary(max_size=4)), max_size=3
    ),
    size=st.sampled_from([None, (3, 4)]),
)
def test_damaged_bytes_give_pixels_or_a_data_error(tmp_path_factory, form, edits, size):
    content = SEEDS[form]
    for where, cut, new in edits:
        at = int(where * len(content))
        content = content[:at] + new + content[at + cut :]
    path = tmp_path_factory.getbasetemp() / "f.png"
    path.write_bytes(content)
    try:
        result = read(path, label=None, image_size=size)
    except DataError as error:
        result = str(error)
    if isinstance(result, str):
        assert result.startswith(f"{path}: ")
        assert "\n" not in result
    else:
        assert result.x.dtype in (np.uint8, np.uint16)

"""What pip and an index get: the wheel, the sdist, their metadata and the page of the index."""

import email
import re
import tarfile
import tomllib
import zipfile
from pathlib import Path

import pytest

TOP = Path(__file__).parents[1]
PROJECT = tomllib.loads((TOP / "pyproject.toml").read_text("utf-8"))["project"]

# A machine with a GPU runs the tests from a checkout, without what builds packages.
hatchling = pytest.importorskip("hatchling.builders.wheel", reason="no hatchling: pip install it")
pytest.importorskip(
    "hatch_fancy_pypi_readme", reason="no hatch-fancy-pypi-readme: pip install '.[test]'"
)
if not (TOP / "xpnet").is_dir():
    pytest.skip("the tests of an image, which has no checkout", allow_module_level=True)

RELATIVE = re.compile(r"\]\((?!https?:|#)")
FENCED = re.compile(r"^```.*?^```$", re.MULTILINE | re.DOTALL)


def files_of(path):
    """The files of a wheel, by name."""
    with zipfile.ZipFile(path) as wheel:
        return {name: wheel.read(name) for name in wheel.namelist()}


def built(folder, into):
    """The one wheel of a checkout or an sdist."""
    (path,) = hatchling.WheelBuilder(str(folder)).build(directory=str(into))
    return Path(path)


@pytest.fixture(scope="module")
def wheel(tmp_path_factory):
    return files_of(built(TOP, tmp_path_factory.mktemp("wheel")))


@pytest.fixture(scope="module")
def metadata(wheel):
    name = next(name for name in wheel if name.endswith(".dist-info/METADATA"))
    return email.message_from_bytes(wheel[name])


def test_the_wheel_has_all_of_the_package_and_nothing_else(wheel):
    package = {
        str(path.relative_to(TOP))
        for path in (TOP / "xpnet").rglob("*")
        if path.is_file() and path.suffix not in (".pyc", ".nbc", ".nbi")
    }
    assert {name for name in wheel if ".dist-info/" not in name} == package
    assert {"xpnet/py.typed", "xpnet/__init__.pyi", "xpnet/page/templates/base.html"} <= package
    assert sum(map(len, wheel.values())) < 8e6


def test_the_sdist_gives_the_same_wheel_and_has_what_its_tests_read(wheel, tmp_path):
    from hatchling.builders.sdist import SdistBuilder

    (path,) = SdistBuilder(str(TOP)).build(directory=str(tmp_path))
    with tarfile.open(path) as archive:
        safe = {"filter": "data"} if hasattr(tarfile, "data_filter") else {}
        archive.extractall(tmp_path, **safe)
    (unpacked,) = (folder for folder in tmp_path.iterdir() if folder.is_dir())
    assert files_of(built(unpacked, tmp_path / "again")) == wheel
    for name in (".ci/run", "tests/conftest.py", "scripts/mutants.toml", "docker/Dockerfile.cpu"):
        assert (unpacked / name).read_bytes() == (TOP / name).read_bytes()


def test_both_licences_go_with_it(metadata, wheel):
    assert metadata["License-Expression"] == "MIT AND CC-BY-4.0"
    texts = [
        next(wheel[n] for n in wheel if n.endswith(f"licenses/{name}")).decode()
        for name in metadata.get_all("License-File")
    ]
    assert "MIT License" in texts[0]
    assert "CC BY 4.0" in texts[1]


def test_the_classifiers_are_those_of_the_index(metadata):
    trove = pytest.importorskip("trove_classifiers", reason="no trove-classifiers")
    named = metadata.get_all("Classifier")
    assert set(named) <= trove.classifiers
    assert named == sorted(set(named))
    assert not [name for name in named if name.startswith("License ::")]  # PEP 639


def test_the_page_of_the_index_has_no_link_to_a_file(metadata):
    page = metadata.get_payload(decode=True).decode()
    readme = (TOP / "README.md").read_text("utf-8")
    assert RELATIVE.search(FENCED.sub("", readme))
    assert not RELATIVE.search(FENCED.sub("", page))
    assert FENCED.findall(page) == FENCED.findall(readme)
    assert re.findall(r"^#.*$", page, re.M) == re.findall(r"^#.*$", readme, re.M)


def test_the_page_keeps_its_words():
    """Each substitution, on a line of its own."""
    steps = tomllib.loads((TOP / "pyproject.toml").read_text("utf-8"))["tool"]["hatch"]["metadata"]
    steps = steps["hooks"]["fancy-pypi-readme"]["substitutions"]

    def on_the_index(text):
        for step in steps:
            text = re.sub(step["pattern"], step["replacement"], text)
        return text

    for before, after in {
        "[`nn`](xpnet/nn) and ([`a`](a/b.py))": "`nn` and (`a`)",
        "to it ([its\nlast run](r/a.md), [drawn](r/a.svg)).": "to it.",
        "![a picture](r/a.png)\n\nText": "Text",
        "[NumPy](https://numpy.org)": "[NumPy](https://numpy.org)",
        "below ([here](#use-it))": "below ([here](#use-it))",
        'x["a"](1), layers[0](x)': 'x["a"](1), layers[0](x)',
    }.items():
        assert on_the_index(before) == after

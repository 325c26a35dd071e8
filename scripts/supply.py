"""Check xpnet's dependencies: their pins, licences and known vulnerabilities.

    scripts/supply-check              in an environment with xpnet and its extras
    scripts/supply-check --write      renew the pins: constraints.txt from that environment, and
                                      docker/cuda-*.txt, NVIDIA's libraries in the GPU image, from
                                      what pip chooses for its Python and each release of CUDA

Exit codes: 0 no findings; 1 a finding; 3 no finding, but a check could not run, because pip-audit
is not installed, or its vulnerability service or the index of packages cannot be reached. A check
that did not run has not passed.
"""

import argparse
import importlib.util
import json
import re
import subprocess
import sys
import tomllib
from collections.abc import Iterator
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path

from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

TOP = Path(__file__).parents[1]
CONSTRAINTS = TOP / "constraints.txt"
HEADER = """\
# The versions that CI and the containers install: pip install -c constraints.txt ...
# Renewed by scripts/supply-check --write, in an environment that passes the tests.
"""
CUDA_HEADER = """\
# NVIDIA's libraries for CUDA {} in the GPU image, and for nothing else.
# Renewed by scripts/supply-check --write.
"""
# What the image of docker/Dockerfile.gpu runs: Ubuntu 24.04 on x86-64.
IMAGE = ["--python-version=3.12", "--implementation=cp", "--only-binary=:all:", "--target=unused"]
IMAGE += [f"--platform=manylinux_2_{n}_x86_64" for n in range(39, 4, -1)]
IMAGE += ["--platform=manylinux2014_x86_64"]
PERMISSIVE = re.compile(
    r"MIT|BSD|Apache|ISC|PSF|Python Software Foundation|MPL|Mozilla|Unlicense|Zlib|HPND|CNRI|0BSD"
    r"|Public Domain",
    re.IGNORECASE,
)
# Licences of packages whose metadata is incomplete, with the source.
KNOWN: dict[str, str] = {
    "mpich": "mpich2, in the manner of BSD",  # LICENSE in its wheel; libraries in it: MIT and BSD
    "namex": "Apache-2.0",  # LICENSE in its wheel
    "selenium-axe-python": "MPL-2.0",  # LICENSE.txt in its wheel; that of axe-core, too
}


@dataclass(frozen=True)
class Found:
    """An installed package that xpnet depends on, directly or indirectly."""

    name: str
    version: str
    licence: str


def needed() -> Iterator[Found]:
    """Yield the installed dependencies of xpnet and all its extras."""
    project = tomllib.loads((TOP / "pyproject.toml").read_text())["project"]
    extras = project["optional-dependencies"].values()
    lines = [*project["dependencies"], *(line for extra in extras for line in extra)]
    pending, seen = [Requirement(line) for line in lines], set[str]()
    done: set[tuple[str, frozenset[str]]] = set()
    while pending:
        requirement = pending.pop()
        name, chosen = canonicalize_name(requirement.name), frozenset(requirement.extras)
        if (name, chosen) in done:
            continue
        done.add((name, chosen))
        try:
            found = metadata.distribution(name)
        except metadata.PackageNotFoundError:
            continue  # it belongs to an extra that is not installed
        if name not in seen:
            seen.add(name)
            yield Found(name, found.version.partition("+")[0], licence(found))
        for inner in map(Requirement, found.requires or ()):
            if not inner.marker or any(inner.marker.evaluate({"extra": e}) for e in ("", *chosen)):
                pending.append(inner)


def licence(found: metadata.Distribution) -> str:
    """Return the licence in a package's metadata, on one line."""
    about = found.metadata
    texts = [about.get("License-Expression")]
    classifiers = about.get_all("Classifier") or ()
    texts += [c.rpartition(" :: ")[2] for c in classifiers if c.startswith("License")]
    texts.append((about.get("License") or "").strip().partition("\n")[0])
    known = KNOWN.get(canonicalize_name(about["Name"]))
    return known or next((text for text in texts if text and text != "OSI Approved"), "unknown")


def pins(path: Path = CONSTRAINTS) -> dict[str, str]:
    """Return the pinned versions, by package."""
    lines = path.read_text().splitlines() if path.exists() else []
    pairs = (re.fullmatch(r"([A-Za-z0-9._-]+)==([^ ;]+).*", line) for line in lines)
    return {canonicalize_name(pair[1]): pair[2] for pair in pairs if pair}


def write(packages: list[Found]) -> None:
    """Update the constraints; pins of packages that are not installed stay."""
    versions = {**pins(), **{p.name: p.version for p in packages}}
    lines = [f"{name}=={version}\n" for name, version in sorted(versions.items())]
    CONSTRAINTS.write_text(HEADER + "".join(lines))


def check_pins(packages: list[Found]) -> list[str]:
    """Return the packages that are not pinned or whose installed version differs."""
    pinned = pins()
    return [
        f"{p.name} {p.version} is installed, but {pinned.get(p.name, 'no version')} is pinned"
        for p in packages
        if pinned.get(p.name) != p.version
    ]


def check_licences(packages: list[Found]) -> list[str]:
    """Return the packages whose licence is not known to be permissive."""
    return [
        f"{p.name}: licence {p.licence!r}" for p in packages if not PERMISSIVE.search(p.licence)
    ]


def image_files() -> dict[str, Path]:
    """Return the files of pins for the GPU image, by release of CUDA, such as 13.0."""
    return {p.stem.removeprefix("cuda-"): p for p in sorted((TOP / "docker").glob("cuda-*.txt"))}


def in_image(cuda: str, *constraints: Path) -> dict[str, str]:
    """Return the versions that pip chooses for CuPy and the libraries of a release of CUDA.

    Raises RuntimeError with pip's message where it finds none.
    """
    chosen = subprocess.run(
        ["sh", TOP / "docker" / "cupy-extra", cuda], capture_output=True, text=True, check=True
    )
    project = tomllib.loads((TOP / "pyproject.toml").read_text())["project"]
    # The toolkit leaves this one open: what is newest is of another release.
    linker = "nvidia-nvjitlink-cu12" if cuda.startswith("12.") else "nvidia-nvjitlink"
    wanted = project["optional-dependencies"][chosen.stdout.strip()]
    wanted = [*wanted, f"cuda-toolkit=={cuda}.*", f"{linker}=={cuda}.*"]
    options = ["--dry-run", "--quiet", "--ignore-installed", "--report=-", *IMAGE]
    options += [f"--constraint={path}" for path in constraints]
    command = [sys.executable, "-m", "pip", "install", *options, *wanted]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        errors = [line for line in done.stderr.splitlines() if line.startswith("ERROR")]
        raise RuntimeError((errors or ["ERROR: no message"])[-1].removeprefix("ERROR: ")[:200])
    found = [each["metadata"] for each in json.loads(done.stdout)["install"]]
    return {canonicalize_name(each["name"]): each["version"] for each in found}


def write_image(cuda: str, path: Path) -> None:
    """Renew the pins of NVIDIA's libraries of a release of CUDA."""
    versions = in_image(cuda, CONSTRAINTS)
    lines = [f"{name}=={v}\n" for name, v in sorted(versions.items()) if name not in pins()]
    path.write_text(CUDA_HEADER.format(cuda) + "".join(lines))


def check_images() -> tuple[list[str], str | None]:
    """Return what of the GPU image is not pinned, or cannot be, and why it was not checked."""
    findings: list[str] = []
    for cuda, path in image_files().items():
        try:
            versions = in_image(cuda, CONSTRAINTS, path)
        except RuntimeError as error:
            if "conflict" in str(error) or "ResolutionImpossible" in str(error):
                findings.append(f"CUDA {cuda}: {error}")
                continue
            return findings, f"pip cannot resolve what CUDA {cuda} needs: {error}"
        pinned = pins() | pins(path)
        findings += [
            f"{path.name}: {name} {version} is not pinned"
            for name, version in versions.items()
            if name not in pinned
        ]
    return findings, None


def vulnerabilities() -> tuple[list[str], str | None]:
    """Return pip-audit's findings, and the reason if it could not check."""
    if importlib.util.find_spec("pip_audit") is None:
        return [], "pip-audit is not installed: pip install pip-audit"
    options = ["--requirement", str(CONSTRAINTS), "--no-deps", "--disable-pip", "--format", "json"]
    command = [sys.executable, "-m", "pip_audit", *options, "--progress-spinner", "off"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    try:
        report = json.loads(done.stdout)["dependencies"]
    except (ValueError, LookupError, TypeError):
        last = (done.stderr.strip().splitlines() or ["no message"])[-1]
        return [], f"the vulnerability service cannot be reached, or pip-audit failed: {last[:200]}"
    skipped = [d for d in report if "skip_reason" in d]
    found = [f"{d['name']} {d['version']}: {v['id']}" for d in report for v in d.get("vulns", ())]
    if not skipped:
        return found, None
    first = skipped[0]["skip_reason"]
    return found, f"{len(skipped)} of {len(report)} packages, such as: {first}"


def main() -> int:
    """Run the checks and print their results."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--write", action="store_true", help="renew the pins first")
    parser.add_argument("--list", action="store_true", help="print packages and licences")
    options = parser.parse_args()
    packages = sorted(needed(), key=lambda p: p.name)
    if options.write:
        write(packages)
        for cuda, path in image_files().items():
            write_image(cuda, path)
    for p in packages if options.list else ():
        print(f"{p.name} {p.version}: {p.licence}")
    results = {
        "pins": (check_pins(packages), None),
        "pins of the GPU image": check_images(),
        "licences": (check_licences(packages), None),
        "vulnerabilities": vulnerabilities(),
    }
    for name, (findings, not_done) in results.items():
        for finding in findings:
            print(f"{name}: {finding}")
        if not_done:
            print(f"{name}: NOT CHECKED: {not_done}")
        elif not findings:
            print(f"{name}: none found" if name == "vulnerabilities" else f"{name}: all correct")
    print(f"{len(packages)} packages")
    if any(findings for findings, _ in results.values()):
        return 1
    return 3 if any(not_done for _, not_done in results.values()) else 0


if __name__ == "__main__":
    sys.exit(main())

"""The package as others see it: what is installed, the door to the part folders, and the wheel."""

import fnmatch
import json
import os
import shutil
import subprocess
import sys
import tomllib
import zipfile
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
SETUP = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["tool"]["setuptools"]
ROOTS = ("mmlm", "encoders", "aligners", "decoders", "configs", "demo")
LICENSED = 77  # the first setuptools that knows `license = "Apache-2.0"`
DOORS = ("encoders", "aligners", "decoders")


def python(code: str, cwd: Path, *flags: str, path: Path | None = None) -> subprocess.CompletedProcess[str]:
    """Run `code` in a fresh interpreter that stands in `cwd`, with `path` as PYTHONPATH."""
    env = {k: v for k, v in os.environ.items() if k != "PYTHONPATH"} | ({"PYTHONPATH": str(path)} if path else {})
    return subprocess.run(
        [sys.executable, *flags, "-c", code], cwd=cwd, env=env, capture_output=True, text=True, timeout=120, check=False
    )


def files() -> list[Path]:
    """What belongs to the package: every file below its folders, as paths below the repository."""
    found = [p for r in ROOTS for p in (ROOT / r).rglob("*") if p.is_file() and not {"__pycache__"} & set(p.parts)]
    return sorted(p.relative_to(ROOT) for p in found if p.suffix != ".pyc" and not p.name.startswith("."))


def package_of(folder: Path) -> str:
    """The package that a folder is: encoders is mmlm.encoders."""
    return ".".join(folder.parts if folder.parts[0] == "mmlm" else ("mmlm", *folder.parts))


def test_every_folder_is_listed() -> None:
    folders = {package_of(p.parent) for p in files() if p.suffix in {".py", ".yaml"}}
    assert not (missed := sorted(folders - set(SETUP["packages"]))), f"add to [tool.setuptools] packages: {missed}"
    held = {package_of(folder) for p in files() for folder in p.parents if folder.parts}
    gone = sorted(set(SETUP["packages"]) - held)
    assert not gone, f"[tool.setuptools] packages lists folders that hold nothing: {gone}"


def test_every_folder_of_the_top_is_mapped() -> None:
    for package in SETUP["packages"]:
        top = package.split(".")[1] if package.count(".") else ""
        if top in ROOTS:
            assert SETUP["package-dir"].get(f"mmlm.{top}") == top, f"map mmlm.{top} in [tool.setuptools.package-dir]"


def test_every_python_folder_has_a_sign() -> None:
    folders = {p.parent for p in files() if p.suffix == ".py" and p.parts[0] != "configs"}
    assert not [str(f) for f in sorted(folders) if not (ROOT / f / "__init__.py").is_file()]


def test_every_file_of_data_is_listed() -> None:
    missed = []
    for path in files():
        patterns = SETUP["package-data"].get(package_of(path.parent), [])
        if path.suffix != ".py" and not any(fnmatch.fnmatch(path.name, p) for p in patterns):
            missed.append(str(path))
    assert not missed, f"add to [tool.setuptools.package-data]: {missed}"


LOOK = (
    "import mmlm, mmlm.registry as r; import mmlm.configs, mmlm.decoders\n"
    "assert all(len(r.entries(k)) >= 0 for k in ('encoders', 'aligners', 'decoders', 'backbones', 'grafts'))\n"
    "print(mmlm.__file__)"
)


def test_the_door_needs_no_installation(tmp_path: Path) -> None:
    """`-S` leaves every installed package out, this one too, so only the door can find the part folders."""
    for cwd, path in ((ROOT, None), (tmp_path, ROOT)):
        got = python(LOOK, cwd, "-S", path=path)
        assert got.returncode == 0, got.stderr
        assert Path(got.stdout.strip()) == ROOT / "mmlm" / "__init__.py"


def test_a_stranger_of_the_same_name_does_no_harm(tmp_path: Path) -> None:
    (tmp_path / "encoders.py").write_text("raise RuntimeError('not this one')\n", encoding="utf-8")
    got = python("from mmlm.registry import entries; entries('encoders')", tmp_path, "-S", path=ROOT)
    assert got.returncode == 0, got.stderr


@pytest.mark.parametrize("folder", DOORS)
def test_a_part_folder_is_refused_under_its_own_name(folder: str) -> None:
    """Otherwise a class could exist twice, and be equal to itself only sometimes."""
    got = python(f"import {folder}", ROOT, "-S")
    assert got.returncode != 0
    assert f"this folder is the package mmlm.{folder}; import it by that name" in got.stderr


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The wheel, built from a copy of the sources, so that nothing is left in the checkout."""
    try:
        have = int(version("setuptools").split(".")[0])
    except PackageNotFoundError:
        have = 0
    if have < LICENSED:
        pytest.skip(f"building a wheel here needs setuptools {LICENSED} or newer, found {have or 'none'}")
    copy = tmp_path_factory.mktemp("source") / "mmlm"
    for folder in ROOTS:
        if (ROOT / folder).is_dir():
            shutil.copytree(ROOT / folder, copy / folder, ignore=shutil.ignore_patterns("__pycache__", ".*"))
    for name in ("pyproject.toml", "README.md", "LICENSE"):
        shutil.copy(ROOT / name, copy / name)
    out = tmp_path_factory.mktemp("wheel")
    command = [
        sys.executable,
        "-m",
        "pip",
        "wheel",
        "--no-deps",
        "--no-build-isolation",
        "--no-index",
        "-q",
        "-w",
        str(out),
        str(copy),
    ]
    done = subprocess.run(command, capture_output=True, text=True, timeout=300, check=False)
    assert done.returncode == 0, done.stderr
    (built,) = out.glob("*.whl")
    return built


@pytest.mark.slow
def test_the_wheel_holds_one_name_and_every_file(wheel: Path) -> None:
    held = set(zipfile.ZipFile(wheel).namelist())
    tops = {n.partition("/")[0] for n in held}
    assert {t for t in tops if not t.endswith(".dist-info")} == {"mmlm"}
    wanted = {str(p) if p.parts[0] == "mmlm" else f"mmlm/{p}" for p in files()}
    assert not (missed := sorted(wanted - held)), f"the wheel lacks {missed}"
    surplus = {n for n in held if ".dist-info/" not in n} - wanted
    assert not surplus, f"the wheel holds {sorted(surplus)}"


@pytest.mark.slow
def test_the_wheel_works(wheel: Path, tmp_path: Path) -> None:
    """Where it is installed, it finds every part and every config that the checkout finds."""
    installed = tmp_path / "installed"
    zipfile.ZipFile(wheel).extractall(installed)
    code = (
        "import json, mmlm\n"
        "from mmlm.registry import KINDS, entries\n"
        "from mmlm.config import load, shipped\n"
        "names = {k: sorted(entries(k)) for k in KINDS} | {'systems': sorted(shipped())}\n"
        "[load(name) for name in names['systems']]\n"
        "print(json.dumps([mmlm.__file__, names]))"
    )
    found = []
    for path in (installed, ROOT):
        got = python(code, tmp_path, path=path)
        assert got.returncode == 0, got.stderr
        file, names = json.loads(got.stdout)
        assert Path(file) == path / "mmlm" / "__init__.py"
        found.append(names)
    assert found[0] == found[1] and found[0]["systems"] and found[0]["encoders"]

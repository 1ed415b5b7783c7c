"""From a name to a class: exact names, entry points of other distributions, "module:Class", and what is said of the rest."""

import subprocess
import sys
from importlib import import_module
from importlib.metadata import distribution
from pathlib import Path

import pytest
from systems import tiny

from mmlm.assemble import assemble
from mmlm.config import load
from mmlm.errors import InputError
from mmlm.registry import KINDS, Entry, component, entries, locate

ALIGNER = '''
from torch import nn
from mmlm.interfaces import InputAligner


class Mean(InputAligner):
    """One token for each unit."""

    def __init__(self, shape, width: int, *, bias: bool = True) -> None:
        super().__init__()
        self.width = width
        self.linear = nn.Linear(shape.channels, width, bias=bias)

    def tokens(self, units: int) -> int:
        return units

    def forward(self, features):
        return self.linear(features.values.mean(1))


number = 3
'''


@pytest.fixture
def site(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder where distributions are installed."""
    monkeypatch.syspath_prepend(tmp_path)
    return tmp_path


def install(site: Path, name: str, module: str, text: str | None, **points: str) -> None:
    """Put a distribution there as pip would: a module (none where `text` is None), its metadata, its entry points for
    aligners."""
    if text is not None:
        (site / f"{module}.py").write_text(text, encoding="utf-8")
    info = site / f"{name.replace('-', '_')}-1.2.dist-info"
    info.mkdir()
    (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {name}\nVersion: 1.2\n", encoding="utf-8")
    lines = "".join(f"{n} = {target}\n" for n, target in points.items())
    (info / "entry_points.txt").write_text(f"[mmlm.aligners]\n{lines}", encoding="utf-8")
    (info / "RECORD").write_text(f"{module}.py,,\n{info.name}/METADATA,,\n", encoding="utf-8")
    assert distribution(name).version == "1.2"


@pytest.mark.parametrize("kind", KINDS)
def test_every_name_of_ours_is_exact(kind: str) -> None:
    found = entries(kind)
    own = {n: e for n, e in found.items() if e.source == "mmlm"}
    assert own.keys() == import_module(KINDS[kind]).PARTS.keys()
    for name, entry in own.items():
        assert entry.target.startswith(KINDS[kind] + ".")
        assert locate(kind, name) == entry
        for near in (name.upper(), name + " ", name[:-1]):
            if near not in found:
                with pytest.raises(InputError, match=f"there is no {kind[:-1]} named"):
                    locate(kind, near)


def test_names_are_listed_without_importing_what_they_name() -> None:
    code = (
        "import sys\nfrom mmlm.registry import KINDS, entries\n"
        "assert all(entries(k) is not None for k in KINDS)\n"
        "print([m for m in ('torch', 'transformers', 'timm', 'open_clip') if m in sys.modules])"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=Path(__file__).parents[1], capture_output=True, text=True, check=False
    )
    assert done.stdout == "[]\n", done.stderr


def test_an_unknown_name_gets_the_nearest_and_all_there_are() -> None:
    with pytest.raises(InputError) as e:
        component("aligners", "resampller")
    said = str(e.value)
    assert said.startswith("there is no aligner named 'resampller'; did you mean 'resampler'? Known: ")
    assert "mlp, " in said and said.endswith("or write module:Class")
    with pytest.raises(InputError, match=r"named 'q'\s*Known: "):
        component("aligners", "q")


def test_an_entry_point_is_as_good_as_a_name_of_ours(site: Path) -> None:
    install(site, "mean-aligner", "mean_aligner", ALIGNER, mean="mean_aligner:Mean")
    assert entries("aligners")["mean"] == Entry("mean", "mean_aligner:Mean", "mean-aligner")
    assert "mean" not in entries("encoders")
    cls = component("aligners", "mean")
    assert cls.__name__ == "Mean" and cls is component("aligners", "mean_aligner:Mean")
    assert component("aligners", "mlp").__module__ == "mmlm.aligners.mlp"
    with pytest.raises(InputError, match="did you mean 'mean'"):
        component("aligners", "meann")


def test_a_config_may_name_it(site: Path) -> None:
    install(site, "mean-aligner", "mean_aligner", ALIGNER, mean="mean_aligner:Mean")
    aligner = "inputs.image.aligner={type: %s, bias: false}"
    assert load("llava-1.5-7b", [aligner % "mean"]).inputs["image"].aligner.type == "mean"
    assert load("llava-1.5-7b", [aligner % "'mean_aligner:Mean'"]).inputs["image"].aligner.options == {"bias": False}
    with pytest.raises(InputError, match="bais"):
        load("llava-1.5-7b", [(aligner % "mean").replace("bias", "bais")])


@pytest.mark.parametrize("name", ["mlp", "mean"])
def test_a_name_given_twice_is_an_error_that_names_both(name: str, site: Path) -> None:
    install(site, "first-aligner", "first_aligner", ALIGNER, mean="first_aligner:Mean")
    install(site, "second-aligner", "second_aligner", ALIGNER, **{name: "second_aligner:Mean"})
    with pytest.raises(InputError) as e:
        entries("aligners")
    said = str(e.value)
    assert f"the aligners name {name!r} is taken by " in said and "uninstall one of them" in said
    assert ("mmlm" if name == "mlp" else "first-aligner") in said and "second-aligner" in said


BROKEN = {
    "a module that is not there": (None, "broken_aligner:Mean", r"cannot be imported: No module named 'broken_aligner'"),
    "a package that is not there": ("import no_such_package\n", "broken_aligner:Mean", r"No module named 'no_such_package'"),
    "a class that is not there": (ALIGNER, "broken_aligner:Median", r"broken_aligner has no class 'Median'"),
    "no class": (ALIGNER, "broken_aligner:number", r"broken_aligner has no class 'number'"),
    "a module alone": (ALIGNER, "broken_aligner", r"expected module:Class, got 'broken_aligner' \(from broken-aligner\)"),
}  # fmt: skip


@pytest.mark.parametrize("case", BROKEN)
def test_a_broken_entry_point_is_named_and_harms_no_other(
    case: str, site: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    text, target, message = BROKEN[case]
    monkeypatch.delitem(sys.modules, "broken_aligner", raising=False)
    install(site, "broken-aligner", "broken_aligner", text, broken=target)
    install(site, "mean-aligner", "mean_aligner", ALIGNER, mean="mean_aligner:Mean")
    assert {"broken", "mean", "mlp"} <= entries("aligners").keys()
    assert component("aligners", "mean").__name__ == "Mean" and component("aligners", "mlp").__name__ == "Mlp"
    with pytest.raises(InputError, match=r"aligner 'broken'.*" + message):
        component("aligners", "broken")
    monkeypatch.delitem(sys.modules, "broken_aligner", raising=False)


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("math:pi", "math has no class 'pi'"),
        ("math:Pi", "math has no class 'Pi'"),
        ("no.such:Thing", r"aligner 'no.such:Thing' \(no.such:Thing\) cannot be imported: No module named 'no'"),
        (":Thing", "expected module:Class, got ':Thing'"),
        ("math:", "expected module:Class, got 'math:'"),
        ("..math:Thing", "expected module:Class"),
    ],
)
def test_a_place_that_holds_no_class(name: str, message: str) -> None:
    with pytest.raises(InputError, match=message):
        component("aligners", name)


def test_a_class_of_another_kind_is_refused_where_parts_meet(tmp_path: Path) -> None:
    """The registry finds any class; what it must be is known where it is used, and there the config's key can be named."""
    config = tiny("mlp", tmp_path, "inputs.image.aligner={type: 'mmlm.blocks.mlp:MLP'}")
    with pytest.raises(
        InputError, match=r"inputs.image.aligner: 'mmlm.blocks.mlp:MLP' is a MLP, which is no InputAligner"
    ):
        assemble(config)

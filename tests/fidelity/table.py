"""The closing table of `make fidelity`: from the lines that the checks wrote to what is shown, and to docs/fidelity.md."""

import json
import sys
from importlib.metadata import version
from pathlib import Path

HEAD = """# Fidelity

What mmlm computes is what the published systems compute, and what it promises of its own batches, labels and slots holds.
Every line is a check that passed: `cases` are its comparisons (a test that compares only what must be equal counts as one),
`difference` is the largest that was found, in absolute numbers and fp32, and `allowed` what would have failed. A difference of
0 means equal, to the last bit or character. The last digits differ from one machine to the next. Where more than rounding is
allowed, the test of that name says why: frames of clips, which published processors resize by another library; 16-bit grey.

    make fidelity

runs the checks in full and writes this page. `make test` runs a share of the same. Last run with {versions}.

"""
PACKAGES = ("torch", "transformers", "tokenizers", "timm", "open_clip_torch")


def rows(lines: list[str]) -> list[tuple[str, str, str, str, str]]:
    """One row for each family and check, sorted: cases added up, the largest difference kept."""
    found: dict[tuple[str, str], tuple[int, float, float]] = {}
    for line in map(json.loads, lines):
        key = line["family"], line["check"]
        cases, difference, allowed = found.get(key, (0, 0.0, 0.0))
        found[key] = cases + line["cases"], max(difference, line["difference"]), max(allowed, line["allowed"])
    return [(*k, f"{n:,}", _short(d), _short(a)) for k, (n, d, a) in sorted(found.items())]


def _short(number: float) -> str:
    return f"{number:.1e}" if number else "0"


def table(lines: list[str]) -> str:
    """The table as Markdown, its columns aligned, so that it reads well in a terminal too."""
    titles = ("family", "check", "cases", "difference", "allowed")
    body = [titles, *rows(lines)]
    widths = [max(len(row[k]) for row in body) for k in range(len(titles))]
    rule = [("-" * w if k < 2 else "-" * (w - 1) + ":") for k, w in enumerate(widths)]
    aligned = [
        [c.ljust(w) if k < 2 else c.rjust(w) for k, (c, w) in enumerate(zip(r, widths, strict=True))] for r in body
    ]
    return "\n".join(f"| {' | '.join(row)} |" for row in [aligned[0], rule, *aligned[1:]]) + "\n"


def main(ledger: Path, out: Path) -> None:
    """Show the table, and write the page."""
    shown = table(ledger.read_text(encoding="utf-8").splitlines())
    out.parent.mkdir(exist_ok=True)
    versions = ", ".join(f"{p} {version(p)}" for p in PACKAGES)
    out.write_text(HEAD.format(versions=versions) + shown, encoding="utf-8")
    sys.stdout.write(shown)


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2]))

"""Kill training at random moments, start it again, and compare the end with that of a run nobody disturbed.

    python benchmarks/kill.py --kills 20

Each trial trains a small system through both stages in a child process, kills it with SIGKILL at a random moment (every
third trial: while a checkpoint is being written), runs the same command again, and compares every byte of the last
checkpoint (weights, optimiser, RNGs, cursor) and of metrics.jsonl with the undisturbed run.
"""

import argparse
import hashlib
import json
import os
import random
import signal
import sys
import tempfile
import time
from pathlib import Path

os.environ.setdefault("OMP_NUM_THREADS", "1")

import torch

from mmlm.assemble import assemble
from mmlm.config import load
from mmlm.data import scenes
from mmlm.training import loop, train  # noqa: F401 - `loop` for the same reason
from mmlm.training.checkpoint import newest

CONFIG = """
name: kill
scale: tiny
template: chat
length: 256
inputs: {{image: {{encoder: {{type: clip, weights: openai/clip-vit-base-patch32}}, aligner: {{type: mlp, depth: 2}}}}}}
backbone:
  type: causal
  weights: HuggingFaceTB/SmolLM2-135M-Instruct
  grafts: {{lora: {{type: lora, dropout: 0.1}}}}
stages:
  - name: align
    data: [{{reader: messages, path: {data}/train.jsonl}}]
    train: {{inputs.image.aligner: {{lr: 1e-2}}}}
    batch: 4
    micro_batch: 2
    steps: 24
    save_every: 2
    log_every: 1
  - name: tune
    data:
      - {{reader: messages, path: {data}/train.jsonl, ratio: 0.5}}
      - {{reader: qa, path: {data}/qa-train.jsonl, ratio: 1.5}}
    train: {{inputs.image.aligner: {{lr: 1e-3}}, backbone.grafts.lora: {{lr: 1e-2}}, inputs.image.encoder: {{lr: 1e-4}}}}
    batch: 6
    pack: true
    steps: 16
    save_every: 3
    log_every: 1
"""


def start(config: Path, out: Path) -> int:
    """Train in a forked child; its process id."""
    if pid := os.fork():
        return pid
    sys.stderr = open(os.devnull, "w")  # noqa: SIM115
    code = 1
    try:
        train(load(config), out)
        code = 0
    finally:
        os._exit(code)


def ending(out: Path) -> dict[str, str]:
    """Hashes of everything that must be equal."""
    found, _ = newest(out / "checkpoints")
    if found is None:
        return {}
    files = [*sorted(found.path.glob("*.safetensors")), out / "metrics.jsonl"]
    hashes = {f.name: hashlib.sha256(f.read_bytes()).hexdigest() for f in files}
    state = found.state
    state["files"].pop("timings")
    return hashes | {"state": hashlib.sha256(json.dumps(state, sort_keys=True).encode()).hexdigest()}


def kill(pid: int, out: Path, moment: float, in_save: bool) -> str:
    """Kill the child at `moment` seconds, or in the first save after it; what it was doing."""
    began, folder = time.monotonic(), out / "checkpoints"
    while True:
        if os.waitpid(pid, os.WNOHANG)[0]:
            return "ended before"
        drafts = list(folder.glob(".*.draft")) if folder.is_dir() else []
        if time.monotonic() - began > moment and (drafts or not in_save):
            os.kill(pid, signal.SIGKILL)
            os.waitpid(pid, 0)
            drafts = list(folder.glob(".*.draft")) if folder.is_dir() else []
            whole, _ = newest(folder)
            after = whole.path.name if whole else "nothing"
            return f"after {after}" + (f", inside the save of {drafts[0].name[1:-6]}" if drafts else "")
        time.sleep(0.0005)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--kills", type=int, default=20)
    parser.add_argument("--seed", type=int, default=0)
    args = parser.parse_args()
    torch.set_num_threads(1)
    draw = random.Random(args.seed)
    with tempfile.TemporaryDirectory() as folder:
        root = Path(folder)
        scenes(root / "data", 60, 0)
        config = root / "kill.yaml"
        config.write_text(CONFIG.format(data=root / "data"), encoding="utf-8")
        assemble(load(config))  # whatever is imported on the way is imported once, and not in every child
        began = time.monotonic()
        if os.waitpid(start(config, root / "undisturbed"), 0)[1]:
            print("the undisturbed run failed")
            return 1
        whole = time.monotonic() - began
        expected = ending(root / "undisturbed")
        equal = 0
        for trial in range(args.kills):
            out = root / f"trial-{trial}"
            where = kill(start(config, out), out, draw.uniform(0.02, 0.95) * whole, trial % 3 == 2)
            status = os.waitpid(start(config, out), 0)[1]
            got = ending(out)
            same = not status and got == expected
            equal += same
            differs = "" if same else f" DIFFERS in {[k for k in expected if got.get(k) != expected[k]]}"
            print(f"kill {trial + 1:3d}: {where}{differs}", flush=True)
        print(f"{equal} of {args.kills} end bit-identical to the undisturbed run ({whole:.1f} s)")
        return int(equal != args.kills)


if __name__ == "__main__":
    raise SystemExit(main())

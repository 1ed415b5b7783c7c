"""Make the files of data/ that hold 200 cases per metric with the numbers of reference programs.

    python tests/evaluation/metrics/make_cases.py --sources FOLDER

Needs, in an environment of its own, what the numbers come from: anls 0.0.2, editdistance, jiwer 4.0, lmms-eval 0.7.3 (with nltk and
pandas), scikit-learn, scipy, torchmetrics 1.9, transformers 5; and in FOLDER two files that no package carries: m4c_evaluator.py of
LLaVA (2024-05) and matching_util.py of VLMEvalKit (2026-08-18). None of them is needed to run the tests, and nothing of
them stands in this project. Cases are drawn with fixed seeds, so a second run writes the same files.
"""

import argparse
import importlib.util
import json
import random
import re
import sys
import types
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

CASES = 200
DATA = Path(__file__).parent / "data"
WORDS = tuple(
    re.findall(
        r"\w+", "the a cat dog red blue bus on mat sat two three big small tree house in under lion sleeps man walks"
    )
)


def sentence(rng: random.Random, low: int = 1, high: int = 9) -> str:
    return " ".join(rng.choices(WORDS, k=rng.randint(low, high)))


def damaged(rng: random.Random, text: str, alphabet: str) -> str:
    """`text` with a few characters exchanged, left out or put in."""
    for _ in range(rng.randint(0, 4)):
        i = rng.randrange(len(text) + 1)
        text = text[:i] + rng.choice(["", rng.choice(alphabet)]) + text[i + rng.randint(0, 1) :]
    return text


def write(name: str, how: str, **content: Any) -> None:
    text = json.dumps({"_how": how, **content}, ensure_ascii=False, separators=(",", ":"))
    (DATA / f"{name}.json").write_text(text.replace("],[", "],\n[") + "\n", encoding="utf-8")
    sys.stdout.write(f"{name}: {len(text)} characters\n")


def anls(sources: Path) -> None:
    from anls import anls_score
    from lmms_eval.api.metrics import anls as raw

    evaluator = loaded(sources / "m4c_evaluator.py").STVQAANLSEvaluator()
    rng, cases = random.Random(1), []
    for _ in range(CASES):
        golds = [
            rng.choice([sentence(rng, 1, 4), str(rng.randint(0, 99999)), "Total: $4.50"])
            for _ in range(rng.randint(1, 3))
        ]
        said = damaged(rng, rng.choice([*golds, sentence(rng, 1, 3)]), "ab 1.,")
        said = rng.choice([said, said.upper(), f" {said}", said.replace(" ", "  ")]) or "x"
        stvqa = evaluator.eval_pred_list([{"pred_answer": said, "gt_answers": golds}])
        cases.append([said, golds, anls_score(said, golds), stvqa, raw(golds, [said])["anls"]])
    write(
        "anls",
        "answer, references, then: anls 0.0.2; ST-VQA's evaluator in LLaVA 2024-05; lmms-eval 0.7.3",
        cases=cases,
    )


def chartqa(sources: Path) -> None:
    from lmms_eval.tasks.chartqa.utils import relaxed_correctness

    rng, cases = random.Random(2), []
    for _ in range(CASES):
        value = rng.choice([rng.randint(0, 3000), round(rng.uniform(-5, 100), 2), 0, rng.choice([20, 100, 400])])
        gold = rng.choice([str(value), f"{value}%", "Yes", "blue", "United States", "2.10", f"{value:,}"])
        near = [
            str(value),
            f"{value * rng.choice([0.94, 0.95, 0.96, 1.04, 1.05, 1.06]):g}",
            f"{value}%",
            f"{value / 100:g}",
        ]
        said = rng.choice(
            [*near, gold, gold.lower(), gold.upper(), f"{gold} ", f"{gold}.", f"${value}", "nan", "inf", "1e3"]
        )
        cases.append([said, gold, bool(relaxed_correctness(said, gold))])
    write("chartqa", "answer, reference, right by lmms-eval 0.7.3's relaxed accuracy", cases=cases)


OPTIONS = (
    ["a cat", "a dog", "a bird", "a fish"],
    ["12 cm", "2 cm", "0.5"],
    ["red", "dark red", "blue", "green", "The Hague"],
)


def lettered(rng: random.Random, options: list[str]) -> str:
    """A reply to a question with options, in one of the ways models have."""
    letter, other, text = rng.choice("ABCDEF"), rng.choice("ABCD"), rng.choice(options)
    forms = [
        f"{letter}", f"{letter}.", f"({letter})", f"{letter.lower()}", f"Answer: {letter}", f"The answer is {letter}.", f"{letter}. {text}",
        text, f"{text} is shown", f"I think it is {text} because of the colour", f"{letter} or {other}", f"**{letter}**", "",
        f"The correct answer is **{letter}** because {other} is wrong", f"Option {letter})",
        f"<answer>{letter}</answer>", f"{letter}: {text}",
        f"Both ({letter}) and ({other}) hold", f"A man walks. So {letter} .", f"Cannot determine the answer, {letter}",
        "Z", sentence(rng, 6, 12),
        f"not {text} but {rng.choice(options)} as the picture shows", f" {letter}\n",
        f"{letter},{other}", f"'{letter}'", f"answer is {letter}",
    ]  # fmt: skip
    return rng.choice(forms)


def letters(sources: Path) -> None:
    from lmms_eval.tasks._task_utils import mmmu_mcq_utils as mmmu
    from lmms_eval.tasks.seedbench.utils import seed_process_result

    mmmu.random.choice = lambda choices: ""  # where the program would draw an answer
    kit = matching(sources)
    rng, cases = random.Random(3), []
    for _ in range(CASES):
        which = rng.randrange(len(OPTIONS))
        options = OPTIONS[which]
        text = lettered(rng, options)
        index, choices = mmmu.get_multi_choice_info(options)
        own = kit.can_infer(text, dict(zip("ABCDE", options, strict=False)))
        doc = {"answer": "A", "data_type": "image", "question_id": 0}
        first = seed_process_result(doc, [text])["seed_all"]["pred"].upper()
        found = [mmmu.parse_mmmu_multi_choice_response(text, choices, index), "" if own in (False, "Z") else own]
        cases.append([which, text, *found, first if first and first in choices else ""])
    how = (
        "options, reply, letter ('' for none) by: MMMU's parse in lmms-eval 0.7.3 without its draw; "
        "VLMEvalKit 2026-08-18; SEED-Bench in lmms-eval 0.7.3"
    )
    write("letters", how, options=OPTIONS, cases=cases)


def mmmu(sources: Path) -> None:
    from lmms_eval.tasks.mmmu.utils import eval_open, parse_open_response

    rng, cases = random.Random(4), []
    for _ in range(CASES):
        value = rng.choice([rng.randint(-5, 5000), round(rng.uniform(-9, 999), 3), 1234567])
        gold = rng.choice([f"{value}", f"{value:,}", "photosynthesis", "x", "Na", f"{value} cm", "6.02e23"])
        right = rng.choice([gold, gold.upper(), f"{value:.2f}", f"{value:,}", f"{value:e}", sentence(rng, 1, 3)])
        forms = [
            right, f"{right}.", f"The answer is {right}", f"so we get {right}. It is so", f"a = b\nx = {right}", f"a = {right}\nthus it is",
            f"It could be {right}, or final result {sentence(rng, 1, 2)}", f"Step 1. Take 5,000.\nStep 2: {right}\nfinal answer: {right}",
            f"is {sentence(rng, 1, 3)} is ", f"{right}e5", f"-{right}", f"{sentence(rng)} {right} {sentence(rng)}",
            "", "answer is :", f"1,2,{right}",
        ]  # fmt: skip
        said = rng.choice(forms)
        golds = rng.choice([gold, [gold, "zebra"]])
        cases.append(
            [said, golds if isinstance(golds, list) else [golds], bool(eval_open(golds, parse_open_response(said)))]
        )
    write("mmmu", "reply, references, right by MMMU's open questions in lmms-eval 0.7.3", cases=cases)


def mme(sources: Path) -> None:
    from lmms_eval.tasks.mme.utils import mme_aggregate_results, parse_pred_ans

    rng, texts, sets = random.Random(5), [], []
    forms = [
        "yes",
        "no",
        "y",
        "n",
        "not",
        "none",
        "nothing",
        "there is no",
        "it is",
        "x",
        "",
        "yes and no",
        "no yes",
        "eyes",
        "a no",
    ]
    for _ in range(CASES):
        text = rng.choice(forms) + rng.choice(["", ".", ", there is", " indeed", "!", " . "])
        text = rng.choice([text, text.upper(), text.capitalize(), f" {text}", f"The answer: {text}", f".{text}"])
        texts.append([text, parse_pred_ans(text).replace("other", "")])
        whole = [
            [s, i, [rng.randint(0, 1), rng.randint(0, 1)]]
            for s in rng.sample(["existence", "count", "OCR"], 2)
            for i in range(rng.randint(1, 4))
        ]
        rows = [{"question_id": i, "score": float(c), "category": s} for s, i, both in whole for c in both]
        sets.append([whole, mme_aggregate_results(rows)])
    write(
        "mme",
        "lmms-eval 0.7.3. texts: answer, what it says; sets: [subtask, picture, right of its two questions], score",
        texts=texts,
        sets=sets,
    )


def mmbench(sources: Path) -> None:
    from lmms_eval.tasks.mmbench.mmbench_evals import MMBench_Evaluator

    judge = MMBench_Evaluator()
    rng, cases = random.Random(6), []
    for _ in range(CASES):
        questions, rows = [], []
        for index in range(rng.randint(1, 4)):
            size = rng.randint(2, 4)
            right = [rng.random() < 0.8 for _ in range(size)]
            questions.append([int(r) for r in right])
            for k, good in enumerate(right):
                options = {c: f"option {c}" for c in "ABCD"[:size]} | {c: float("nan") for c in "ABCD"[size:]}
                answer = "ABCD"[(1 - k) % size]
                said = answer if good else "ABCD"[(2 - k) % size]
                rows.append(
                    {"index": index + k * 1_000_000, "answer": answer, "prediction": said, "category": "c", **options}
                )
        cases.append([questions, float(judge.eval_result(rows, "static")[0])])
    write(
        "mmbench",
        "right or not of each rotation of each question, then the circular accuracy of lmms-eval 0.7.3 without a judge",
        cases=cases,
    )


def asr(sources: Path) -> None:
    import jiwer
    from transformers.models.whisper.english_normalizer import BasicTextNormalizer

    rng, cases, texts = random.Random(7), [], []
    normalise = BasicTextNormalizer()
    for _ in range(CASES):
        pairs = []
        for _ in range(rng.randint(1, 3)):
            reference = rng.choice([sentence(rng, 1, 8), " ".join(rng.choices("abc", k=rng.randint(1, 9)))])
            words = reference.split()
            for _ in range(rng.randint(0, 5)):
                i = rng.randrange(len(words) + 1)
                words[i : i + rng.randint(0, 1)] = rng.choice(
                    [[], [rng.choice(reference.split())], [rng.choice(WORDS)]]
                )
            pairs.append([" ".join(words), reference])
        said, references = [p[0] for p in pairs], [p[1] for p in pairs]
        by_word, by_character = jiwer.process_words(references, said), jiwer.process_characters(references, said)
        own = [by_word.substitutions, by_word.deletions, by_word.insertions, by_word.hits]
        cases.append(
            [pairs, own, by_word.wer, by_character.cer, by_word.mer, by_word.wil, [jiwer.wer(r, s) for s, r in pairs]]
        )
        text = "".join(
            rng.choices(
                [
                    *WORDS,
                    " ",
                    " ",
                    ", ",
                    "!",
                    "[noise]",
                    "(aside) ",
                    "<b>",
                    "É",
                    "ﬁ",
                    "½",
                    "'s",
                    "-",
                    "\n",
                    "Ünder",
                    "5%",
                ],
                k=8,
            )
        )
        texts.append([text, " ".join(normalise(text).split())])
    how = (
        "jiwer 4.0.0. cases: [said, reference] ..., S D I H, WER, CER, MER, WIL, WER of each; "
        "texts: text, the basic Whisper normaliser of transformers 5.23"
    )
    write("asr", how, cases=cases, texts=texts)


def calibration(sources: Path) -> None:
    import torch
    from sklearn.calibration import calibration_curve
    from sklearn.metrics import brier_score_loss
    from torchmetrics.functional.classification import binary_calibration_error

    rng, cases, edges = random.Random(8), [], []
    for _ in range(CASES):
        sure = [rng.randint(1, 998) / 1000 + 0.0005 for _ in range(rng.randint(2, 14))]
        right = [int(rng.random() < c) for c in sure]
        bins = rng.choice([5, 10, 15])
        told = torch.tensor(sure, dtype=torch.float64), torch.tensor(right)
        ece, mce = (float(binary_calibration_error(*told, n_bins=bins, norm=n)) for n in ("l1", "max"))
        accuracy, confidence = calibration_curve(right, sure, n_bins=bins)
        curve = [list(map(float, confidence)), list(map(float, accuracy))]
        cases.append([sure, right, bins, ece, mce, float(brier_score_loss(right, sure)), curve])
        bins, sure = rng.choice([4, 8]), [rng.randint(0, 7) / 8 for _ in range(8)]
        right = [int(rng.random() < 0.5) for _ in sure]
        accuracy, confidence = calibration_curve(right, sure, n_bins=bins)
        lower = binary_calibration_error(torch.tensor(sure, dtype=torch.float64), torch.tensor(right), n_bins=bins)
        edges.append([sure, right, bins, [list(map(float, confidence)), list(map(float, accuracy))], float(lower)])
    how = (
        "cases: confidences, right, bins, ECE and MCE of torchmetrics 1.9.0, Brier score and curve of scikit-learn; "
        "edges: confidences on edges, right, bins, curve of scikit-learn (our 'upper'), ECE of torchmetrics (our 'lower')"
    )
    write("calibration", how, cases=cases, edges=edges)


def frechet(sources: Path) -> None:
    import torch
    from scipy.linalg import sqrtm
    from torchmetrics.image.fid import _compute_fid

    rng, cases = np.random.default_rng(9), []
    for _ in range(CASES):
        d = int(rng.integers(1, 5))
        sets = [np.round(rng.normal(rng.normal(), 2.0, (int(rng.integers(2, 9)), d)), 2) for _ in range(2)]
        means = [s.mean(0) for s in sets]
        covariances = [np.atleast_2d(np.cov(s, rowvar=False)) for s in sets]
        root = np.trace(sqrtm(covariances[0] @ covariances[1])).real
        scipy = float(np.sum((means[0] - means[1]) ** 2) + np.trace(covariances[0] + covariances[1]) - 2 * root)
        theirs = [torch.tensor(x) for pair in zip(means, covariances, strict=True) for x in pair]
        full = bool(min(np.linalg.matrix_rank(c) for c in covariances) == d)
        cases.append([*(s.tolist() for s in sets), full, scipy, float(_compute_fid(*theirs))])
    write("frechet", "two sets of features, full rank, d^2 with scipy's sqrtm, d^2 of torchmetrics 1.9.0", cases=cases)


def chair(sources: Path) -> None:
    from lmms_eval.tasks.coco_cap_chair import utils

    rng, cases = random.Random(10), []
    names = ["person", "dog", "cat", "bus", "car", "dining table"]
    for _ in range(CASES):
        rows = [
            [rng.choices(names, k=rng.randint(0 if i else 1, 4)), rng.sample(names, rng.randint(1, 4))]
            for i in range(rng.randint(1, 4))
        ]
        told = [{"pred": m, "answer": p} for m, p in rows]
        parts = ("chair_i", "chair_s", "recall")
        cases.append([rows, *(getattr(utils, f"coco_cap_chair_aggregate_results_{p}")(told) / 100 for p in parts)])
    write(
        "chair",
        "[objects mentioned, objects present] of each caption, then CHAIRi, CHAIRs, recall of lmms-eval 0.7.3",
        cases=cases,
    )


def exact(sources: Path) -> None:
    from lmms_eval.api.metrics import exact_match_hf_evaluate

    rng, cases, gqa = random.Random(11), [], []
    for _ in range(CASES):
        gold = rng.choice(["Yes", "a dog", "U.S.A.", "left side", "3.5", sentence(rng, 1, 3)])
        said = rng.choice(
            [gold, gold.upper(), gold + ".", gold.replace(" ", ""), gold + "!", damaged(rng, gold, "a.-'")]
        )
        flags = ({}, {"ignore_case": True}, {"ignore_case": True, "ignore_punctuation": True})
        cases.append([said, gold, *(int(exact_match_hf_evaluate([said], [gold], **f)["exact_match"]) for f in flags)])
        text = rng.choice([said, f" {said} ", f"{said}..", f"{said}. "])
        short = text.strip()
        while short.endswith("."):
            short = short[:-1]
        gqa.append([text, gold, int(short.lower() == gold.strip().removesuffix(".").lower())])
    how = (
        "cases: answer, reference, equal / but for case / but for case and punctuation by lmms-eval 0.7.3; "
        "gqa: by a second program written from the rule, not by a reference program"
    )
    write("exact", how, cases=cases, gqa=gqa)


def loaded(path: Path) -> Any:
    """A module from a file of its own."""
    spec = importlib.util.spec_from_file_location(path.stem, path)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def matching(sources: Path) -> Any:
    """VLMEvalKit's matching, whose only import of its own is a logger."""
    log = types.ModuleType("vlmeval.smp.log")
    log.get_logger = lambda name: None  # type: ignore[attr-defined]
    sys.modules |= {
        "vlmeval": types.ModuleType("vlmeval"),
        "vlmeval.smp": types.ModuleType("vlmeval.smp"),
        "vlmeval.smp.log": log,
    }
    return loaded(sources / "matching_util.py")


MAKERS: tuple[Callable[[Path], None], ...] = (
    anls,
    chartqa,
    letters,
    mmmu,
    mme,
    mmbench,
    asr,
    calibration,
    frechet,
    chair,
    exact,
)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--sources", type=Path, required=True)
    parser.add_argument("--only", nargs="*", default=[m.__name__ for m in MAKERS])
    given = parser.parse_args()
    DATA.mkdir(exist_ok=True)
    for make in MAKERS:
        if make.__name__ in given.only:
            make(given.sources)


if __name__ == "__main__":
    main()

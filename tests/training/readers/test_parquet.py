"""The reader of Parquet files."""

from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from training.readers.records import chat, picture, read, sound, talk

from mmlm.errors import InputError
from mmlm.training.readers.parquet import Parquet

RED, GREEN = picture("red"), picture("green", "JPEG")
R, G = f"[{len(RED)}]", f"[{len(GREEN)}]"


def save(path: Path, *rows: dict[str, Any], group: int = 2) -> Path:
    pq.write_table(pa.Table.from_pylist(list(rows)), path, row_group_size=group)
    return path


def test_captions(home: Path) -> None:
    rows = [
        {"image": {"bytes": RED, "path": "ignored.png"}, "text": " Red."},
        {"image": {"bytes": None, "path": "b.png"}, "text": "Green."},
        {"image": {"bytes": GREEN, "path": None}, "text": "Green too."},
    ]
    reader = Parquet(save(home / "t.parquet", *rows))
    assert [read(s) for s in reader] == [[[R], [" Red."]], [["[b.png]"], ["Green."]], [[G], ["Green too."]]]
    assert reader[0].items[0].source == RED
    assert [s.origin.rpartition("/")[2] for s in reader] == [f"t.parquet#{i}" for i in range(3)]
    assert reader.record(2) == {"text": "Green too.", "id": "t#2", "answers": ["Green too."]}


def test_questions(home: Path) -> None:
    rows = [
        {"id": 5, "image": RED, "question": "What?", "answers": ["b", "a", "a"], "choices": ["a", "b"]},
        {"id": 6, "image": None, "question": "Which?", "answers": ["b"], "choices": ["b", "c"]},
    ]
    path = save(home / "t.parquet", *rows)
    assert [read(s) for s in Parquet(path)] == [[[R, "\nWhat?"], ["a"]], [["Which?"], ["b"]]]
    assert read(Parquet(path, prompt="{items}{question}\n{choices}")[1])[0] == ["Which?\nA. b\nB. c"]
    assert Parquet(path).record(0)["answers"] == ["b", "a", "a"] and Parquet(path)[0].id == "t#0/5"


def test_conversations_messages_and_texts(home: Path) -> None:
    said = ("<image>What, <image>?", "A.", "And?", "B.")
    one = Parquet(save(home / "a.parquet", talk(*said, images=[RED, GREEN])))
    two = Parquet(save(home / "b.parquet", chat(*said, images=[RED, GREEN])))
    assert read(one[0]) == read(two[0]) == [[R, "What, ", G, "?"], ["A."], ["And?"], ["B."]]
    typed = chat([{"type": "image", "text": None}, {"type": "text", "text": "What?"}], [{"type": "text", "text": "A."}])
    assert read(Parquet(save(home / "c.parquet", {**typed, "images": [RED]}))[0]) == [[R, "What?"], ["A."]]
    texts = {
        "images": [RED, GREEN],
        "texts": [{"user": "What?", "assistant": "A."}, {"user": "And?", "assistant": "B."}],
    }
    reader = Parquet(save(home / "d.parquet", texts))
    assert read(reader[0]) == [[R, G, "\nWhat?"], ["A."], ["And?"], ["B."]] and reader.record(0)["answers"] == ["B."]


def test_sounds(home: Path) -> None:
    reader = Parquet(save(home / "t.parquet", {"audio": {"bytes": sound(), "path": "s.wav"}, "text": "A hum."}))
    assert reader[0].items[0].modality == "audio" and reader[0].items[0].source == sound()


def test_several_files_and_row_groups(home: Path) -> None:
    rows = [{"image": RED, "caption": str(i)} for i in range(12)]
    (home / "p").mkdir()
    save(home / "p/part-0.parquet", *rows[:5])
    save(home / "p/part-1.parquet", *rows[5:], group=3)
    for path in (home / "p", home / "p/part-{0..1}.parquet"):
        reader = Parquet(path)
        assert [reader[i].turns[1].text for i in (11, 0, 4, 5, 7, 8, 1)] == ["11", "0", "4", "5", "7", "8", "1"]
        assert reader.where(5).endswith("part-1.parquet#0") and len(reader.cache) == 2


def test_rows_that_differ_and_files_that_cannot_be_read(home: Path) -> None:
    (home / "p").mkdir()
    save(home / "p/a.parquet", {"image": RED, "caption": "x"})
    save(home / "p/b.parquet", {"image": RED, "text": "x"})
    with pytest.raises(InputError, match="a difference in caption, text"):
        Parquet(home / "p")
    with pytest.raises(InputError, match="expected a column"):
        Parquet(save(home / "t.parquet", {"image": RED}))
    with pytest.raises(InputError, match="holds no row"):
        pq.write_table(pa.table({"text": pa.array([], pa.string())}), home / "t.parquet")
        Parquet(home / "t.parquet")
    whole = save(home / "t.parquet", {"image": RED, "text": "x"}).read_bytes()
    for damaged in (b"", b"PAR1", whole[:-20], whole[:100] + b"\0" * 30):
        (home / "t.parquet").write_bytes(damaged)
        with pytest.raises(InputError, match="cannot be read as Parquet"):
            Parquet(home / "t.parquet")


def test_a_damaged_row_group_is_named(home: Path) -> None:
    path = save(home / "t.parquet", *[{"image": RED, "text": "x" * 50}] * 4)
    reader = Parquet(path)
    data = bytearray(path.read_bytes())
    data[4:200] = b"\xff" * 196
    path.write_bytes(data)
    with pytest.raises(InputError, match=r"t.parquet: row group 0 cannot be read"):
        reader[0]

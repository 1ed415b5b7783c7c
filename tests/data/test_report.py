"""A report as a table and as JSON."""

import json

from mmlm.data import Report
from mmlm.data.report import Row


def test_table_and_json() -> None:
    rows = (
        Row({"data": "a.json", "records": 10, "share": 0.5}, ("a:1: x", "a:2: y", "a:3: z", "a:4: w"), ("a remark",)),
        Row({"data": "long-name.json", "records": 7, "share": None}),
    )
    report = Report("data", rows, ("the end",))
    assert report.table().splitlines() == [
        "data",
        "data            records  share",
        "a.json               10  50.0%",
        "    a:1: x",
        "    a:2: y",
        "    a:3: z",
        "    and 1 more",
        "    a remark",
        "long-name.json        7      -",
        "the end",
    ]
    found = json.loads(json.dumps(report.as_json()))
    assert found["rows"][0]["reasons"] == ["a:1: x", "a:2: y", "a:3: z", "a:4: w"]
    assert found["rows"][1] == {"data": "long-name.json", "records": 7, "share": None, "reasons": [], "notes": []}
    assert not report.ok and Report("x", ()).ok and Report("x", ()).table() == "x\n"

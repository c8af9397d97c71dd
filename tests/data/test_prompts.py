"""Loading prompts: every source gives the same rows, and every malformed input says where and why."""

import json
from pathlib import Path
from typing import Any

import pytest

from rlvis.data import json_array, shapes
from rlvis.data.prompts import ASSETS, PromptSet, describe, load_prompts
from rlvis.data.world import language
from rlvis.schema import DataConfig

ROWS = [("a red fox", {"tag": "one", "count": 1}), ("a blue owl", {"tag": "two", "count": 2})]


def load(source: str, path: Path | str | None = None, **changes: Any) -> PromptSet:
    path = None if path is None else str(path)
    return load_prompts(
        DataConfig(source=source, path=path, prompts_per_step=1, samples_per_prompt=2, **changes)
    )


def written(folder: Path, name: str, content: str | bytes) -> Path:
    path = folder / name
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    return path


def jsonl(rows: list[tuple[str, dict]]) -> str:
    return "".join(json.dumps({"prompt": text, **extra}) + "\n" for text, extra in rows)


def parquet(path: Path, columns: dict) -> Path:
    pa = pytest.importorskip("pyarrow")
    import pyarrow.parquet as pq

    pq.write_table(pa.table(columns), path)
    return path


COLUMNS = {
    "prompt": ["a red fox", "a blue owl", "a red fox", None],
    "tag": ["one", "two", "one", "one"],
    "count": [1, 2, 1, 1],
    "image": [{"bytes": b"x", "path": None}] * 4,
}


def test_text_lines_are_stripped_and_counted(tmp_path: Path) -> None:
    prompts = load(
        "txt", written(tmp_path, "p.txt", "\ufeffa red fox \r\n\n  \na blue owl\na red fox\nlast\u2028line")
    )
    assert prompts.texts == ("a red fox", "a blue owl", "last\u2028line")
    assert (prompts.empty, prompts.duplicates, len(prompts)) == (2, 1, 3)
    assert prompts.metadata == ({}, {}, {})


def test_json_lines_keep_other_columns(tmp_path: Path) -> None:
    prompts = load("jsonl", written(tmp_path, "p.jsonl", jsonl(ROWS) + "\n" + jsonl(ROWS[:1])))
    assert list(zip(prompts.texts, prompts.metadata, strict=True)) == ROWS
    assert (prompts.empty, prompts.duplicates) == (1, 1)


@pytest.mark.parametrize("chunk", [1, 7, 2**20])
def test_a_json_array_is_read_piece_by_piece(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, chunk: int
) -> None:
    monkeypatch.setattr(json_array, "CHUNK", chunk)
    rows = [{"prompt": text, **extra} for text, extra in ROWS]
    for text in (json.dumps(rows), json.dumps(rows, indent=4), "\ufeff " + json.dumps(rows) + "\n"):
        prompts = load("json", written(tmp_path, "p.json", text))
        assert list(zip(prompts.texts, prompts.metadata, strict=True)) == ROWS
    plain = load("json", written(tmp_path, "p.json", '["a \\"red\\" fox, [1]",\n "\u00e9t\u00e9" ]'))
    assert plain.texts == ('a "red" fox, [1]', "\u00e9t\u00e9")


@pytest.mark.parametrize("source", ["jsonl", "json", "csv", "parquet"])
def test_keep_chooses_columns(tmp_path: Path, source: str) -> None:
    """What is not kept does not tell rows apart either."""
    rows = [{"prompt": "a fox", "id": "1", "tag": "x"}, {"prompt": "a fox", "id": "2", "tag": "x"}]
    path = tmp_path / f"p.{source}"
    if source == "parquet":
        parquet(path, {name: [row[name] for row in rows] for name in rows[0]})
    else:
        text = {
            "json": json.dumps(rows),
            "jsonl": "".join(json.dumps(row) + "\n" for row in rows),
            "csv": "prompt,id,tag\na fox,1,x\na fox,2,x\n",
        }[source]
        path.write_text(text, encoding="utf-8")
    assert len(load(source, path)) == 2
    assert load(source, path, keep=["id"]).metadata == ({"id": "1"}, {"id": "2"})
    for keep, metadata in (([], {}), (["tag"], {"tag": "x"})):
        prompts = load(source, path, keep=keep)
        assert (prompts.texts, prompts.metadata, prompts.duplicates) == (("a fox",), (metadata,), 1)
    with pytest.raises(ValueError, match=r"no column 'tagg', only .*tag.*type data\.keep=\[tag\]"):
        load(source, path, keep=["tagg"])


def test_equal_text_with_other_metadata_is_another_prompt(tmp_path: Path) -> None:
    rows = [("make it red", {"image": "1.png"}), ("make it red", {"image": "2.png"})]
    prompts = load("jsonl", written(tmp_path, "p.jsonl", jsonl(rows)))
    assert list(zip(prompts.texts, prompts.metadata, strict=True)) == rows
    assert prompts.duplicates == 0


def test_csv_reads_quotes_and_line_breaks_inside_cells(tmp_path: Path) -> None:
    text = 'id,caption\n1,"a fox, red"\n\n2,"two\r\nlines"\r\n3,\n'
    prompts = load("csv", written(tmp_path, "p.csv", text), column="caption")
    assert prompts.texts == ("a fox, red", "two\nlines")
    assert prompts.metadata == ({"id": "1"}, {"id": "2"})
    assert prompts.empty == 2


def test_parquet_keeps_json_columns_only(tmp_path: Path) -> None:
    prompts = load("parquet", parquet(tmp_path / "p.parquet", COLUMNS))
    assert list(zip(prompts.texts, prompts.metadata, strict=True)) == ROWS
    assert (prompts.empty, prompts.duplicates, prompts.left_out) == (1, 1, ("image",))
    assert json.loads(json.dumps(prompts.metadata)) == list(prompts.metadata)
    assert "image" in describe(prompts)


def test_hub_loads_what_datasets_loads(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    datasets = pytest.importorskip("datasets")
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "cache")
    folder = tmp_path / "set"
    folder.mkdir()
    parquet(folder / "train.parquet", COLUMNS)
    prompts = load("hub", folder)
    assert list(zip(prompts.texts, prompts.metadata, strict=True)) == ROWS
    assert prompts.left_out == ("image",)
    with pytest.raises(ValueError, match=r"no column 'promt', only .*type data\.column=prompt"):
        load("hub", folder, column="promt")


def test_hub_failure_says_what_did_not_load(tmp_path: Path) -> None:
    pytest.importorskip("datasets")
    with pytest.raises(ValueError, match=r"nothing\[train\] did not load: .*data\.source=parquet"):
        load("hub", tmp_path / "nothing")


@pytest.mark.parametrize("split", language.SPLITS)
@pytest.mark.parametrize("source", shapes.SOURCES)
def test_shapes_are_the_worlds_prompts(source: str, split: str) -> None:
    prompts = load(source, split=split)
    assert list(prompts.texts) == language.prompts(split, clips=source != "shapes")
    assert (prompts.frames is None) == (source != "shapes_i2v")
    assert json.loads(json.dumps(prompts.metadata)) == list(prompts.metadata)
    for text, extra in zip(prompts.texts, prompts.metadata, strict=True):
        assert extra["kind"] == language.parse(text).kind
        assert extra["clear"] == (extra["kind"] not in ("underspecified", "ambiguous"))


def test_shapes_of_chosen_kinds() -> None:
    prompts = load("shapes", kinds=["relation", "size"])
    assert {extra["kind"] for extra in prompts.metadata} == {"relation", "size"}
    assert all(extra["clear"] for extra in prompts.metadata)
    vague = load("shapes_video", kinds=["ambiguous"])
    assert "it moves" in vague.texts
    assert not any(extra["clear"] for extra in vague.metadata)


def test_a_folder_holds_one_file_for_each_split(tmp_path: Path) -> None:
    written(tmp_path, "train.txt", "a\n")
    written(tmp_path, "test.txt", "b\n")
    assert load("txt", tmp_path).texts == ("a",)
    assert load("txt", tmp_path, split="test").texts == ("b",)
    with pytest.raises(
        ValueError, match=r"heldout\.txt, which is not in it \(it holds test\.txt, train\.txt\)"
    ):
        load("txt", tmp_path, split="heldout")


@pytest.mark.parametrize("path", sorted(ASSETS.glob("*.*")), ids=lambda p: p.name)
def test_own_prompt_files_load_whole(path: Path) -> None:
    prompts = load(path.suffix[1:], f"asset:{path.name}")
    assert (len(prompts), prompts.empty, prompts.duplicates) == (20, 0, 0)


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("p.txt", "", r"p\.txt has no prompt: it is empty"),
        ("p.txt", "\n \n", r"no prompt: all of its 2 rows are empty"),
        ("p.txt", b"fine\ncaf\xe9\n", r"p\.txt:2: not UTF-8 \(byte 0xe9 at position 3\)"),
        ("p.jsonl", '{"prompt": "a"}\n{"prompt": \n', r"p\.jsonl:2: not JSON: Expecting value at column"),
        ("p.jsonl", '{"prompt": "a"}\n["b"]\n', r"p\.jsonl:2: wanted a JSON object .* got list"),
        ("p.jsonl", '{"promt": "a", "id": 3}\n', r"jsonl:1: .* only promt, id; type data\.column=promt"),
        ("p.jsonl", '{"prompt": 7}\n', r"p\.jsonl:1: the prompt is not text but int '7'"),
        ("p.csv", "", r"p\.csv has no prompt"),
        ("p.csv", "text,id\na,1\n", r"p\.csv:1: there is no column 'prompt', only text, id"),
        ("p.csv", "prompt,id\na,1\nb, or c,2\n", r"p\.csv:3: the row has 3 cells and the header 2"),
        ("p.csv", "prompt,id,id\na,1,2\n", r"p\.csv:1: a column name stands twice"),
        ("p.csv", 'prompt\n"a\n', r"p\.csv:\d: not CSV: unexpected end of data"),
        ("p.json", '["a", "b" "c"]', r"p\.json row 3: not JSON: no comma before .\"c\""),
        ("p.json", '[{"prompt": "a"}, {"prompt": ]', r"p\.json row 2: not JSON: Expecting value"),
        ("p.json", '[{"prompt": "a"}', r"p\.json row 2: not JSON"),
        ("p.json", '{"prompt": "a"}', r"p\.json: not a JSON array .*data\.source=jsonl"),
        ("p.json", '[["a"]]', r"p\.json row 1: wanted a JSON object .* got list"),
        ("p.json", b'["\xe9"]', r"p\.json: not UTF-8 \(byte 0xe9\)"),
        ("p.json", " ", r"p\.json has no prompt"),
        ("p.parquet", "not parquet", r"p\.parquet: not a Parquet file"),
    ],
)  # fmt: skip
def test_malformed_input_names_file_line_and_reason(
    tmp_path: Path, name: str, content: str | bytes, message: str
) -> None:
    if name.endswith("parquet"):
        pytest.importorskip("pyarrow")
    with pytest.raises(ValueError, match=message):
        load(name.split(".")[1], written(tmp_path, name, content))


def test_parquet_prompt_of_another_type(tmp_path: Path) -> None:
    path = parquet(tmp_path / "p.parquet", {"prompt": [1, 2]})
    with pytest.raises(ValueError, match=r"p\.parquet row 1: the prompt is not text but int '1'"):
        load("parquet", path)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"source": "jsnl", "path": "x"}, r"data\.source='jsnl': .* did you mean jsonl\?"),
        ({"source": "txt"}, r"data\.path is not set, and data\.source=txt needs a file"),
        ({"source": "txt", "path": "absent.txt"}, r"data\.path=absent\.txt: there is no such file"),
        ({"source": "txt", "path": "x", "column": "text"}, r"data\.column=text does nothing"),
        ({"source": "shapes", "path": "x"}, r"data\.path=x does nothing with data\.source=shapes"),
        ({"source": "shapes", "split": "test"}, r"no split 'test'"),
        ({"source": "shapes", "kinds": ["speed"]}, r"kinds=\[speed\].*the kinds single, .*type data\.kinds="),
        ({"source": "shapes_video", "kinds": ["sped"]}, r"type data\.kinds=\[speed\]"),
        ({"source": "shapes_i2v", "kinds": []}, r"type data\.kinds=\[direction\]"),
        ({"source": "shapes_video", "path": "x"}, r"does nothing with data\.source=shapes_video"),
        ({"source": "txt", "path": "x", "kinds": ["speed"]}, r"whose prompts have no kinds"),
        ({"source": "txt", "path": "asset:../scenes.txt"}, r"no such prompt file .* it has .*scenes\.txt"),
        ({"source": "txt", "path": "asset:scenes.txt", "split": "test"}, r"split=test, but .* one file"),
    ],
)  # fmt: skip
def test_wrong_options_say_what_to_type(options: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        load(**options)

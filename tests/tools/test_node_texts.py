"""The nodes' texts: the generated files are up to date, and the Chinese translation is complete."""

import json
import re
import subprocess
import sys
from pathlib import Path

import pytest

from tools import node_texts

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture(scope="module")
def nodes():
    return node_texts.schemas()


def read(language: str) -> dict:
    return json.loads((ROOT / "locales" / language / "nodeDefs.json").read_text(encoding="utf-8"))


def leaves(tree: dict | str) -> list[str]:
    return [tree] if isinstance(tree, str) else [leaf for branch in tree.values() for leaf in leaves(branch)]


@pytest.mark.slow
def test_the_generated_texts_are_up_to_date():
    command = [sys.executable, "tools/node_texts.py", "--check"]
    result = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    assert (result.returncode, result.stdout) == (0, ""), result.stderr


def test_every_node_has_a_help_page_and_every_help_page_a_node(nodes):
    assert {node.node_id for node in nodes} == {page.stem for page in (ROOT / "web" / "docs").iterdir()}


def test_help_pages_have_no_tables_which_the_narrow_panel_would_cut():
    pages = sorted((ROOT / "web" / "docs").rglob("*.md"))
    assert len(pages) > 40  # English and Chinese
    assert [page.name for page in pages if re.search(r"^\s*\||<table", page.read_text(encoding="utf-8"), re.M)] == []


def test_reading_the_schemas_leaves_no_stub_behind(nodes):
    found = {name.split(".")[0] for name in sys.modules}
    assert found.isdisjoint({node_texts.PACK, *node_texts.STAND_INS} - {"aiohttp"})  # aiohttp may be a real one


def test_chinese_has_every_text_of_the_nodes_and_no_other():
    english, chinese = read("en"), read("zh")
    assert chinese.keys() == english.keys()
    for name, texts in english.items():
        assert chinese[name].keys() == texts.keys(), name
        for sockets in ("inputs", "outputs"):
            assert chinese[name][sockets].keys() == texts[sockets].keys(), name
            assert all(text.keys() == {"name", "tooltip"} for text in chinese[name][sockets].values()), name
    assert all(text.strip() for text in leaves(chinese))


def parts(text: str) -> list[str]:
    """What a help page's blocks are: headings, items, code, texts; without the generated lists."""
    text = re.sub(r"<!-- (\w+): generated.*?<!-- end of \1 -->", "", text, flags=re.DOTALL)
    code = re.compile(r"```.*?```", re.DOTALL)
    blocks = re.split(r"\n\n+|\n(?=- )", code.sub("CODE", text).strip())
    return ["code" if block == "CODE" else re.match(r"#* ?|- ", block).group().strip() or "text" for block in blocks]


def test_every_help_page_is_there_in_chinese_whole(nodes):
    chinese = read("zh")
    for node in nodes:
        english, translated = (
            (ROOT / "web" / "docs" / page).read_text(encoding="utf-8")
            for page in (f"{node.node_id}.md", f"{node.node_id}/zh.md")
        )
        assert parts(translated) == parts(english), node.node_id
        assert translated.splitlines()[0] == f"# {chinese[node.node_id]['display_name']}"
        prose = re.sub(r"```.*?```|<!--.*?-->", "", translated, flags=re.DOTALL).split("\n\n")[1:]
        plain = [block for block in prose if block.strip() and not re.search(r"[\u4e00-\u9fff]", block)]
        assert not plain, f"{node.node_id}: not translated: {plain}"


def test_no_text_has_characters_that_comfyuis_translations_interpret():
    assert [text for text in leaves(read("en")) + leaves(read("zh")) if re.search(r"[{}|@]", text)] == []


def test_every_tooltip_is_made_of_whole_sentences(nodes):
    for node in nodes:
        for field in [*node.inputs, *node.outputs]:
            assert re.fullmatch(r"([A-Z]|embedded: ).*\.", field.tooltip), f"{node.node_id}: {field.tooltip}"


def test_a_help_page_follows_its_schema(nodes):
    node = next(node for node in nodes if node.node_id == "SeAdaColorize")
    page = (ROOT / "web" / "docs" / "SeAdaColorize.md").read_text(encoding="utf-8")
    changed = page.replace("Denoising steps", "Other").replace("\n- **seed**", "\n- **gone** (INT): Gone.\n- **seed**")
    assert changed != page == node_texts.help_page(changed, node_texts.lists(node), "SeAdaColorize.md")


def test_a_help_page_without_markers_is_an_error(nodes):
    with pytest.raises(ValueError, match=r"SeAdaColorize\.md: expected <!-- inputs"):
        node_texts.help_page("# SeAda Colorize\n", node_texts.lists(nodes[0]), "SeAdaColorize.md")


def test_an_input_is_described_by_type_default_and_range(nodes):
    described = {field.id: node_texts.describe(field) for node in nodes for field in node.inputs}
    assert described["token_steps"].startswith("- **token_steps** (INT, default 0, 0 to 100): ")
    assert described["temperature"].startswith("- **temperature** (FLOAT, default 1, 0.05 to 5): ")
    assert described["scheme"].startswith("- **scheme** (choice, default automatic): ")
    assert described["mask_color"].startswith("- **mask_color** (STRING, default `#d0a070`): ")
    assert described["tiled"].startswith("- **tiled** (BOOLEAN, default false): ")
    assert described["seed"].startswith("- **seed** (INT, default 0): ")
    chinese = {"name": "步数", "tooltip": "多少步。"}
    (steps,) = (field for field in nodes[0].inputs if field.id == "steps")
    translated = node_texts.describe(steps, node_texts.CHINESE, chinese)
    assert translated == "- **步数**（`steps`，INT，默认 0，0 至 1000）：多少步。"
    assert described["mask"].startswith("- **mask** (MASK, optional): ")

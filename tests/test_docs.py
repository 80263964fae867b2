"""The pages of the docs are true: commands, settings, links, tables of columns and reasons."""

import re
from collections.abc import Iterator
from pathlib import Path

import pyarrow as pa
import pytest

from normpipe.manifests import schema, vocabularies

from .test_house import ROOT, commands, name_of, tracked


def pages() -> list[Path]:
    """Return README, CONTRIBUTING and every page under docs."""
    return [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted((ROOT / "docs").rglob("*.md"))]


def lines_of_pages() -> Iterator[tuple[Path, bool, str]]:
    """Yield (page, whether in a block of code, line) of every page."""
    for page in pages():
        code = False
        for line in page.read_text(encoding="utf-8").splitlines():
            code ^= line.startswith("```")
            yield page, code, line


@pytest.mark.parametrize("command", commands())
def test_docs_name_every_command(command: str) -> None:
    text = (ROOT / "docs/commands.md").read_text(encoding="utf-8")
    assert re.search(rf"^\| `normpipe {command}[ `]", text, re.MULTILINE)


def test_docs_name_no_other_command() -> None:
    used: dict[str, str] = {}
    for page, code, line in lines_of_pages():
        pattern = r"(?:^|[/`( ])normpipe ([a-z][a-z-]*)" if code else r"`normpipe ([a-z][a-z-]*)"
        for command in re.findall(pattern, line.partition("#")[0] if code else line):
            used.setdefault(command, f"{name_of(page)}: {line.strip()}")
    wrong = [where for command, where in used.items() if command not in commands()]
    assert not wrong, "\n".join(wrong)


def test_index_of_the_docs_names_every_page() -> None:
    index = ROOT / "docs/README.md"
    targets = re.findall(r"\]\(([^)#\s]+)", index.read_text(encoding="utf-8"))
    linked = {(index.parent / target).resolve() for target in targets if "://" not in target}
    found = {page.resolve() for page in (ROOT / "docs").rglob("*.md")} - {index.resolve()}
    assert found <= linked, sorted(path.name for path in found - linked)


def test_pages_stay_short() -> None:
    longest = {ROOT / "README.md": 160}
    longest |= dict.fromkeys((ROOT / "docs/models").glob("*.md"), 200)
    lines = {page: len(page.read_text(encoding="utf-8").splitlines()) for page in longest}
    assert not {name_of(page): n for page, n in lines.items() if n > longest[page]}


def test_docs_name_settings_that_exist() -> None:
    from normpipe.pipeline.config import RunConfig
    from normpipe.stages import CONFIGS

    models = {"run": RunConfig, **CONFIGS}
    settings = "|".join(models)
    for page, _, line in lines_of_pages():
        for stage, key in re.findall(rf"\b({settings})\.([a-z_]+)(?==)", line):
            assert key in models[stage].model_fields, f"{stage}.{key} in {name_of(page)}: {line}"


def test_links_of_the_docs_lead_somewhere() -> None:
    pages = [path for path in tracked() if path.suffix == ".md"]
    assert pages
    for page in pages:
        for target in re.findall(r"\]\(([^)#\s]+)", page.read_text(encoding="utf-8")):
            if "://" not in target and not target.startswith("mailto:"):
                assert (page.parent / target).exists(), f"{name_of(page)} → {target}"


def anchors(page: Path) -> set[str]:
    """Return the anchors of a page's headings, as code hosts make them."""
    text = re.sub(r"^```.*?^```", "", page.read_text(encoding="utf-8"), flags=re.M | re.S)
    headings = re.findall(r"^#+ (.+)$", text, re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", head.lower()).strip().replace(" ", "-") for head in headings}


def test_links_to_headings_lead_somewhere() -> None:
    for page in pages():
        for target, anchor in re.findall(
            r"\]\(([^)#\s]*)#([^)\s]+)\)", page.read_text(encoding="utf-8")
        ):
            if "://" not in target:
                other = page.parent / target if target else page
                assert anchor in anchors(other), f"{name_of(page)} → {target}#{anchor}"


def section(page: str, heading: str) -> str:
    text = (ROOT / page).read_text(encoding="utf-8")
    match = re.search(rf"^## {re.escape(heading)}$(.*?)(?=^## |\Z)", text, re.MULTILINE | re.DOTALL)
    assert match, f"{page} has no section '{heading}'"
    return match[1]


def table_words(text: str) -> list[str]:
    """Return the words in backticks that rows of a Markdown table start with."""
    return re.findall(r"^\| `([^`]+)`", text, re.MULTILINE)


def test_docs_know_every_reason() -> None:
    text = section("docs/data.md", "Reasons")
    assert table_words(text) == list(vocabularies.REASONS)
    for reason, (status, words) in vocabularies.REASONS.items():
        assert f"| `{reason}` | {status} | {words} |" in text


@pytest.mark.parametrize(
    ("heading", "table"),
    [
        ("Columns of every row", schema.schema([])),
        ("manifest", schema.MANIFEST),
        ("aligned", schema.ALIGNED_UPRIGHT),
        ("normalized", schema.NORMALIZED),
        ("pairs", schema.PAIRS),
        ("Labels", pa.schema(schema.LABEL_COLUMNS)),
    ],
)
def test_docs_know_every_column(heading: str, table: pa.Schema) -> None:
    common = [name for name, _ in schema.COMMON]
    wanted = [
        name for name in table.names if heading == "Columns of every row" or name not in common
    ]
    if heading == "Labels":
        wanted = table.names
    assert table_words(section("docs/data.md", heading))[: len(wanted)] == wanted


def test_docs_know_every_emotion() -> None:
    text = section("docs/data.md", "Labels")
    for emotion in vocabularies.EMOTIONS:
        assert f"`{emotion}`" in text

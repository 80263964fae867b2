"""What docs/tools.md shows is run: other people's tools on a real job."""

import re
from pathlib import Path

import pytest

PAGE = Path(__file__).resolve().parents[2] / "docs/tools.md"
BLOCKS = re.findall(
    r"^## (.+?)$.*?^```python\n(.*?)^```", PAGE.read_text(), re.MULTILINE | re.DOTALL
)


def test_the_page_has_blocks() -> None:
    assert [title for title, _ in BLOCKS] == [
        "DuckDB", "polars and pandas", "Hugging Face datasets", "torch and Lightning",
    ]  # fmt: skip


@pytest.mark.filterwarnings("ignore")  # of Lightning: few workers, no validation
@pytest.mark.parametrize(("title", "code"), BLOCKS, ids=[title for title, _ in BLOCKS])
def test_a_block_runs(
    title: str, code: str, samples_job: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "OUT").symlink_to(samples_job)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HF_HOME", str(tmp_path / "hf"))
    names: dict[str, object] = {"__name__": "page"}
    exec(code, names)
    if "picture" in names:
        assert names["picture"].size == (192, 192)  # type: ignore[attr-defined]
    if "trainer" in names:
        assert names["trainer"].global_step == 2  # type: ignore[attr-defined]

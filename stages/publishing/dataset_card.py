"""The card of an export: README.md with a head that the Hugging Face Hub and ``datasets`` read."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import jinja2

from .export_files import FORMATS, exported_pictures, hub_features
from .export_plan import UNASSIGNED, ExportPlan, reason_meaning
from .licence_gate import PARTS, Grant
from .made_by import Maker

#: Licences by the names that the Hub knows; any other is stated as it is.
_KNOWN = frozenset(
    [
        *("apache-2.0", "mit", "bsd-3-clause", "unlicense", "odbl", "odc-by", "pddl", "cc0-1.0"),
        *("cc-by-3.0", "cc-by-4.0", "cc-by-sa-4.0", "cc-by-nd-4.0"),
        *("cc-by-nc-4.0", "cc-by-nc-sa-4.0", "cc-by-nc-nd-4.0"),
    ]
)
_SIZES = ((1_000, "n<1K"), (10_000, "1K<n<10K"), (100_000, "10K<n<100K"), (1_000_000, "100K<n<1M"))


@dataclass(frozen=True)
class CardFacts:
    """What a card says besides the plan.

    Attributes:
        grant: under which terms it is exported.
        makers: what made the pictures.
        version: of normpipe.
    """

    grant: Grant
    makers: list[Maker]
    version: str


def dataset_card(plan: ExportPlan, facts: CardFacts, layout: str, sizes: Mapping[str, int]) -> str:
    """Return the text of README.md; ``sizes``: split → bytes of its files."""
    environment = jinja2.Environment(
        loader=jinja2.PackageLoader("normpipe.stages.publishing", "templates"),
        autoescape=False,  # Markdown: texts go through the filters below
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
    )
    environment.filters["md"] = markdown_text
    head = json.dumps(card_head(plan, facts, layout, sizes), indent=1, ensure_ascii=False)
    return environment.get_template("dataset_card.md").render(
        head=head,
        plan=plan,
        request=plan.request,
        facts=facts,
        grant=facts.grant,
        needed=[PARTS[part] for part in facts.grant.needed],
        layout=layout,
        about=FORMATS[layout].about,
        pictures=exported_pictures(plan),
        left_out={name: (count, reason_meaning(name)) for name, count in plan.left_out.items()},
        unassigned=UNASSIGNED,
        non_commercial=is_non_commercial(facts),
    )


def markdown_text(text: object) -> str:
    """Return a text for a line or a cell of Markdown, in which nothing of it has a meaning."""
    plain = " ".join(str(text).split())
    escaped = "".join(f"\\{c}" if c in "\\`*_[]|#" else c for c in plain)
    return escaped.replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")


def is_non_commercial(facts: CardFacts) -> bool:
    """Return whether the dataset or what made the pictures forbids commercial use."""
    return facts.grant.non_commercial == "yes" or any(one.non_commercial for one in facts.makers)


def card_head(
    plan: ExportPlan, facts: CardFacts, layout: str, sizes: Mapping[str, int]
) -> dict[str, Any]:
    """Return the head of the card. It is written as JSON, which is YAML, too."""
    licence = facts.grant.licence.lower()
    head: dict[str, Any] = {"pretty_name": plan.request.name}
    # A free licence would hide that what made the pictures is not for commercial use.
    if licence in _KNOWN and ("-nc" in licence or not is_non_commercial(facts)):
        head["license"] = licence
    else:
        name = re.sub(r"[^a-z0-9.]+", "-", licence).strip("-")[:64]
        head |= {"license": "other", "license_name": name or "see-card"}
    head["tags"] = ["normpipe", "facial-expression"]
    if plan.classes:
        head["task_categories"] = ["image-classification"]
    words = (word for most, word in _SIZES if plan.exported < most)
    head["size_categories"] = [next(words, "n>1M")]
    if layout != "parquet":
        paths = {
            "hub": "data/{}-*.parquet",
            "webdataset": plan.request.name + "-{}-*.tar",
            "folder": "{}/**",
        }
        files = [{"split": one, "path": paths[layout].format(one)} for one in plan.splits]
        head["configs"] = [{"config_name": "default", "data_files": files}]
    if layout == "hub":
        head["dataset_info"] = _dataset_info(plan, sizes)
    return head


def _dataset_info(plan: ExportPlan, sizes: Mapping[str, int]) -> dict[str, Any]:
    features: list[dict[str, Any]] = []
    for name, kind in hub_features(plan).items():
        if kind["_type"] == "ClassLabel":
            names = {str(number): one for number, one in enumerate(kind["names"])}
            features.append({"name": name, "dtype": {"class_label": {"names": names}}})
        else:
            features.append({"name": name, "dtype": kind.get("dtype", "image")})
    splits = [
        {"name": name, "num_bytes": sizes[name], "num_examples": count}
        for name, count in plan.splits.items()
    ]
    total = sum(sizes.values())
    return {"features": features, "splits": splits, "download_size": total, "dataset_size": total}

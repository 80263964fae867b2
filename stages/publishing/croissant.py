"""Croissant: a description of an export as JSON-LD, which search engines and loaders read.

https://docs.mlcommons.org/croissant/docs/croissant-spec.html
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pyarrow as pa

from .export_files import WrittenOfPart, exported_pictures

if TYPE_CHECKING:
    from .dataset_card import CardFacts
    from .export_plan import ExportPlan

_CONTEXT: dict[str, Any] = {
    "@language": "en",
    "@vocab": "https://schema.org/",
    "citeAs": "cr:citeAs",
    "column": "cr:column",
    "conformsTo": "dct:conformsTo",
    "cr": "http://mlcommons.org/croissant/",
    "data": {"@id": "cr:data", "@type": "@json"},
    "dataType": {"@id": "cr:dataType", "@type": "@vocab"},
    "dct": "http://purl.org/dc/terms/",
    "equivalentProperty": "cr:equivalentProperty",
    "examples": {"@id": "cr:examples", "@type": "@json"},
    "extract": "cr:extract",
    "field": "cr:field",
    "fileObject": "cr:fileObject",
    "fileProperty": "cr:fileProperty",
    "fileSet": "cr:fileSet",
    "format": "cr:format",
    "includes": "cr:includes",
    "isLiveDataset": "cr:isLiveDataset",
    "jsonPath": "cr:jsonPath",
    "key": "cr:key",
    "md5": "cr:md5",
    "parentField": "cr:parentField",
    "path": "cr:path",
    "rai": "http://mlcommons.org/croissant/RAI/",
    "recordSet": "cr:recordSet",
    "references": "cr:references",
    "regex": "cr:regex",
    "repeated": "cr:repeated",
    "replace": "cr:replace",
    "samplingRate": "cr:samplingRate",
    "sc": "https://schema.org/",
    "separator": "cr:separator",
    "source": "cr:source",
    "subField": "cr:subField",
    "transform": "cr:transform",
}
_PARQUET = "application/x-parquet"


def croissant_of(plan: ExportPlan, facts: CardFacts, written: WrittenOfPart) -> dict[str, Any]:
    """Return the description of an export as Parquet; ``written`` returns the files of a part."""
    files = [one for part in plan.parts for one in written(part)]
    request = plan.request
    objects = [
        {
            "@type": "cr:FileObject",
            "@id": one.path,
            "name": one.path,
            "contentUrl": one.path,
            "contentSize": f"{one.bytes} B",
            "encodingFormat": _PARQUET,
            "sha256": one.sha256,
        }
        for one in files
    ]
    sets = [
        {
            "@type": "cr:FileSet",
            "@id": f"{split}-files",
            "encodingFormat": _PARQUET,
            "includes": f"data/{split}-*.parquet",
        }
        for split in plan.splits
    ]
    return {
        "@context": _CONTEXT,
        "@type": "sc:Dataset",
        "name": request.name,
        "description": f"Faces normalized by normpipe {facts.version}: one face with the "
        f"expressions of many. {plan.exported} of {plan.rows} rows.",
        "conformsTo": "http://mlcommons.org/croissant/1.0",
        "license": facts.grant.licence or "not stated",
        "isLiveDataset": False,
        "distribution": [*objects, *sets],
        "recordSet": [_records(plan, split) for split in plan.splits],
    }


def _records(plan: ExportPlan, split: str) -> dict[str, Any]:
    kinds = {column.name: _data_type(column.type) for column in plan.columns}
    kinds |= {c.name: "sc:Integer" for c in plan.columns if c.classes}
    fields: list[dict[str, Any]] = []
    for name, kind in [
        *kinds.items(),
        *((name, "sc:ImageObject") for name in exported_pictures(plan)),
    ]:
        source: dict[str, Any] = {"fileSet": {"@id": f"{split}-files"}, "extract": {"column": name}}
        if kind == "sc:ImageObject":
            source["transform"] = {"jsonPath": "bytes"}
        fields.append(
            {
                "@type": "cr:Field",
                "@id": f"{split}/{name}",
                "name": name,
                "dataType": kind,
                "source": source,
            }
        )
    return {"@type": "cr:RecordSet", "@id": split, "name": split, "field": fields}


def _data_type(kind: pa.DataType) -> str:
    if pa.types.is_boolean(kind):
        return "sc:Boolean"
    if pa.types.is_integer(kind):
        return "sc:Integer"
    return "sc:Float" if pa.types.is_floating(kind) else "sc:Text"

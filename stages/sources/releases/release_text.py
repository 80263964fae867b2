"""What ``normpipe releases`` prints: the known releases, and one of them in full."""

from __future__ import annotations

from pathlib import Path

from ....manifests.datasets import Description, described, load_description
from ....manifests.layouts import ReleaseLayout
from .release import open_description


def release_table() -> list[str]:
    """Return lines that list every known release: name, title, layouts, needs, sources."""
    lines: list[str] = []
    for name in described():
        description = load_description(name)
        lines.append(f"{name}: {description.title}")
        lines += [f"    {_layout_line(*item)}" for item in description.layouts.items()]
        lines += [f"    source: {source}" for source in description.sources]
    lines.append("")
    lines.append("normpipe run --release NAME --input FOLDER --output OUT reads one; normpipe")
    lines.append("releases NAME shows it in full; --release my.toml is a description of your own")
    return lines


def release_lines(name: str, as_json: bool) -> list[str]:
    """Return lines that show one release; ``name`` may be a file.

    Raises InputError if there is none, or the file is no description.
    """
    own = name.endswith(".toml")
    description = open_description(name, Path(name) if own else None)
    if as_json:
        return [description.model_dump_json(indent=2, exclude_defaults=True)]
    lines = [f"{name}: {description.title or 'a description without a title'}"]
    lines += [f"source: {source}" for source in description.sources]
    lines.append(_terms(description))
    if description.note:
        lines.append(description.note.strip())
    lines += _labels(description)
    for layout, what in description.layouts.items():
        lines += ["", f"layout {_layout_line(layout, what)}"]
        lines += [f"    pictures: {one}" for one in what.pictures]
        if what.pixels:
            lines.append("    pictures: numbers in the first file of labels")
        for one in what.labels:
            columns = f" ({', '.join(one.header)})" if one.header else ""
            lines.append(f"    labels: {one.files}{columns}{', if there' if one.optional else ''}")
        if what.match:
            lines.append(f"    joined by: {', '.join(what.match)}")
        if what.counts:
            counts = ", ".join(f"{number:,} {split}" for split, number in what.counts.items())
            lines.append(f"    published: {counts}")
    return lines


def _terms(description: Description) -> str:
    """Return what may be given to others; ``unknown`` counts as no (``normpipe export``)."""
    terms = description.terms
    said = f"its pictures {terms.originals}, pictures made from them {terms.derived_pictures}, "
    said += f"its labels {terms.labels}; non-commercial use only: {terms.non_commercial}"
    return f"may be given to others: {said}" + "".join(f"\n    {one}" for one in terms.sources)


def _layout_line(name: str, layout: ReleaseLayout) -> str:
    needs = ", ".join(one.replace("|", "or") for one in layout.needs)
    return f"{name}: {layout.about}{' – ' if layout.about and needs else ''}{needs}"


def _labels(description: Description) -> list[str]:
    lines: list[str] = []
    if description.class_numbers:
        numbers = [f"{n} {name}" for n, name in description.class_numbers.items()]
        numbers += [f"{n} ({what})" for n, what in description.other_numbers.items()]
        lines.append(f"classes: {', '.join(numbers)}")
    if description.class_names:
        named = (f"{word} {name or '(none)'}" for word, name in description.class_names.items())
        lines.append(f"class names: {', '.join(named)}")
    if description.missing_numbers:
        lines.append(f"not coded: {', '.join(f'{n:g}' for n in description.missing_numbers)}")
    if description.valence_arousal_missing is not None:
        lines.append(f"no valence or arousal: {description.valence_arousal_missing:g}")
    if description.splits:
        lines.append("splits: " + ", ".join(f"{w} is {s}" for w, s in description.splits.items()))
    for name, task in description.tasks.items():
        folds = f"; folds test {', '.join(task.folds)}" if task.folds else ""
        level = "" if task.present_from is None else f", from level {task.present_from:g} on"
        lines.append(f"task {name}: {', '.join(task.names)}{level}{folds}")
    return lines

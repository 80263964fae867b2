"""ablate: measures whether normalizing helps, and which part of it does, in one table.

All runs share recipe, faces and steps; they differ in the views, the head, the seed, the number of
training faces and the weights that the encoder starts from. Finished runs are kept, so after a
kill the same command resumes.
"""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from ...manifests.arrays import Rows
from ...pipeline.errors import InputError
from ...pipeline.store.lock import locked
from ..classify import plan_partitions, train
from .classifiers import build_classifier
from .early_checks import check_partition, check_training
from .evaluate import evaluate_partition, leaves_out
from .listing import Listing
from .protocol import Partition, foreign_part, list_elsewhere
from .scores.ablation import Ablation, Run, tabulate
from .scores.figure_text import from_start, start_name
from .scores.groups import GROUPED, group_columns
from .scores.score_files import ScoreFile, read_scores
from .settings import AblateConfig, ClassifyConfig, EvaluateConfig
from .tasks import Task
from .views import PLANS, ViewPool

if TYPE_CHECKING:
    from ...pipeline.read.dataset import ShardDataset

log = logging.getLogger(__name__)


class _Tested(NamedTuple):
    """What all runs are scored on.

    Attributes:
        elsewhere: another dataset and its split; None for the test part of the same one.
        faces: all that are tested.
        pool: their pictures.
    """

    elsewhere: tuple[Listing, str] | None
    faces: Listing
    pool: ViewPool

    @property
    def name(self) -> str:
        """Return the name of another dataset, or an empty string."""
        return self.elsewhere[0].name if self.elsewhere else ""


def ablate(
    config: AblateConfig,
    recipe: ClassifyConfig,
    data: ShardDataset,
    output: Path,
    overwrite: bool = False,
    test: tuple[ShardDataset, str] | None = None,
    scoring: EvaluateConfig | None = None,
) -> Ablation:
    """Train and score all combinations, and write the table.

    The same trainings can be scored on several datasets: those that are finished are kept.

    Args:
        recipe: settings that all runs share.
        data: output of ``normpipe run``, opened as ``list_faces`` requires.
        output: for models and table.
        overwrite: replace models made with other settings or data.
        test: another dataset to test on, opened likewise, and its split (empty: all of it).
        scoring: how that one is read, and how all are scored, but for ``views``; None: by the
            defaults.

    Raises:
        InputError: as ``classify``, or a size larger than the training set.
        OutputError: the folder holds models of other settings or data.
    """
    # All arms use the same faces: those with both views.
    both = recipe.model_copy(update={"views": "original+normalized"})
    scoring = (scoring or EvaluateConfig.model_validate({})).model_copy(update={"views": None})
    listing, task, parts = plan_partitions(both, data, test, scoring)
    if len(parts) > 1:
        raise InputError("ablate takes one split: leave classify.folds empty")
    part = parts[0]
    usable = listing.usable
    candidates = part.train[usable[part.train]]
    sizes = config.sizes or (len(candidates),)
    if max(sizes) > len(candidates) or min(sizes) < 1:
        wrong = max(sizes) if max(sizes) > len(candidates) else min(sizes)
        raise InputError(
            f"ablate.sizes asks for {wrong} faces, but {len(candidates)} are usable for training"
        )
    if recipe.devices > 1:
        raise InputError("ablate trains in one process: set classify.devices = 1")
    for size in sizes:  # before hours of training
        for seed in config.seeds:
            some = replace(part, train=subset(candidates, size, seed))
            if test is None:
                check_partition(task, listing, some, recipe.shared_subjects)
            else:
                check_training(task, listing, some)
    held = np.concatenate([candidates, part.test[usable[part.test]]])
    pool = ViewPool(listing, np.unique(held), recipe.memory_gb, recipe.threads or 1)
    tested = _Tested(None, listing.take(part.test), pool)
    if test is not None:
        tested = _tested_elsewhere(recipe, task, test, scoring)
    plan = _plan(config, recipe, sizes)
    for start in {run.start for run in plan}:  # before hours of training
        build_classifier(recipe.model_copy(update={"encoder": start, "views": "original"}), task)
    groups = None
    if config.by:
        columns = group_columns(tested.faces.labels, [config.by])
        groups = columns[GROUPED + config.by].to_pylist()
    with locked(output):
        found: dict[Run, ScoreFile] = {}
        for place, run in enumerate(plan, 1):
            size, arm, head, seed, start = run
            log.info(
                "%d of %d: %d faces%s, %s, %s, seed %d",
                place, len(plan), size, from_start(start), arm, head, seed,
            )  # fmt: skip
            change = {"views": arm, "head": head, "seed": seed, "encoder": start}
            one = recipe.model_copy(update=change)
            some = replace(part, train=subset(candidates, size, seed))
            name = f"{size}-{arm}-{head}-seed{seed}"
            if start != recipe.encoder:
                name += f"-{start_name(start) or 'default'}"
            folder = output / "runs" / name
            what = (listing, task, some)
            found[run] = _run(one, scoring, what, folder, pool, tested, overwrite)
        result = tabulate(config, task, found, groups, tested.name)
        result.write(output)
    return result


def _tested_elsewhere(
    recipe: ClassifyConfig, task: Task, test: tuple[ShardDataset, str], scoring: EvaluateConfig
) -> _Tested:
    """Return the faces of another dataset, or of its split, that all runs are scored on."""
    data, split = test
    other = list_elsewhere(data, PLANS["original+normalized"].reads, task, scoring)
    rows = foreign_part(other, task, split, leaves_out(scoring, recipe.labels)).test
    pool = ViewPool(other, rows[other.usable[rows]], recipe.memory_gb, recipe.threads or 1)
    return _Tested((other, split), other.take(rows), pool)


def _plan(config: AblateConfig, recipe: ClassifyConfig, sizes: Sequence[int]) -> list[Run]:
    """Return all runs; sizes that are not to be full have the first seed and head alone."""
    if strange := {*config.full_sizes} - {*sizes}:
        raise InputError(f"ablate.full_sizes names {min(strange)}, which ablate.sizes does not")
    names = Counter(map(start_name, dict.fromkeys(config.starts)))
    if twice := [name for name, count in names.items() if count > 1]:
        raise InputError(f"ablate.starts has several files '{twice[0]}': name them differently")
    found: list[Run] = []
    for size in sizes:
        full = not config.full_sizes or size in config.full_sizes
        count = None if full else 1
        found += [
            Run(size, arm, head, seed, start)
            for start in config.starts or (recipe.encoder,)
            for seed in config.seeds[:count]
            for arm in config.arms
            for head in config.heads[:count]
        ]
    return found


def subset(rows: Rows, size: int, seed: int) -> Rows:
    """Draw ``size`` of the rows (N,) by the seed; a larger set contains each smaller one."""
    order = np.random.default_rng([seed, 51]).permutation(len(rows))
    return np.sort(rows[order[:size]])


def _run(
    recipe: ClassifyConfig,
    scoring: EvaluateConfig,
    what: tuple[Listing, Task, Partition],
    folder: Path,
    pool: ViewPool,
    tested: _Tested,
    overwrite: bool,
) -> ScoreFile:
    listing, task, part = what
    # A time limit would stop a run early, and the table needs them all.
    recipe = recipe.model_copy(update={"minutes": None, "paper_style": False})
    train(recipe, listing, task, part, folder, pool=pool, overwrite=overwrite)
    evaluate_partition(scoring, listing, part, folder, tested.elsewhere, tested.pool)
    return read_scores(folder / (f"scores-{tested.name}" if tested.name else "scores"))

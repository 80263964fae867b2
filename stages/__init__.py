"""What each stage does: here one module per stage, named as on the command line."""

from ..pipeline.config import Job
from ..pipeline.errors import InputError
from ..pipeline.stage import Stage, StageConfig
from ..pipeline.store.shards import ShardFolder
from .align import Align, AlignConfig
from .classification.settings import ClassifyConfig, EvaluateConfig
from .ingest import Ingest, IngestConfig
from .normalize import Normalize, NormalizeConfig
from .pair import Pair, PairConfig

#: Settings of every stage of the job, by the name of its table in the job file.
CONFIGS: dict[str, type[StageConfig]] = {
    "ingest": IngestConfig,
    "align": AlignConfig,
    "normalize": NormalizeConfig,
    "pair": PairConfig,
    "classify": ClassifyConfig,
    "evaluate": EvaluateConfig,
}

#: The order in which ``normpipe run`` runs them.
FLOW: tuple[str, ...] = ("ingest", "align", "normalize", "pair", "classify", "evaluate")

#: The last ones write no dataset; they run if there are labels.
SINKS: tuple[str, ...] = ("classify", "evaluate")


def build_flow(job: Job) -> list[Stage]:
    """Return the job's stages, in order, not yet open."""
    if job.input is None:
        raise InputError("no input: give --input PHOTOS, or input = '…' in the job file")
    decoding = job.stage("align").decoding()
    ingest = Ingest(job.stage("ingest"), job.input, job.dataset, decoding)
    normalize = Normalize(job.stage("normalize"), job.run.threads)
    pair_config: PairConfig = job.stage("pair")
    if not pair_config.variants:
        pair_config = pair_config.model_copy(
            update={"variants": (job.stage("normalize").variant_name,)}
        )
    if pair_config.materialize and pair_config.origins is None:
        begun = ShardFolder(job.output / Pair.writes).description()
        if begun is None or begun.get("settings", {}).get("origins"):
            pair_config = pair_config.model_copy(update={"origins": True})
    align_config: AlignConfig = job.stage("align")
    align_config = align_config.for_shards(ShardFolder(job.output / Align.writes).description())
    return [
        ingest,
        Align(align_config, ingest.root, job.run.threads, job.stage("ingest").allow_urls),
        normalize,
        Pair(pair_config, job.output / "labels.parquet"),
    ]

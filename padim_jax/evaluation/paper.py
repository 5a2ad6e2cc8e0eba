"""PaDiM's tables of comparison (arXiv 2011.08785, Tables III to VIII): their rows, and what is measured of them."""

import statistics
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from padim_jax.config import PaperTableName, ProtocolName
from padim_jax.evaluation.published import Published, published
from padim_jax.evaluation.results import COSTS, MEANS, OBJECTS, TEXTURES, Summary, costs_of

MVTEC, STC = "mvtec_ad", "shanghaitech_campus"  # names of the builders
PAPER = "arXiv 2011.08785"
_GROUPS = {MVTEC: (*MEANS, "mean"), STC: ("all",)}  # lines that a table has of a whole data set
_LOCALISATION = {"pixel_auroc": "pixel AUROC", "pro": "PRO"}


@dataclass(frozen=True)
class PaperRow:
    """A model as a row of a table.

    Attributes:
      label: what the paper calls it.
      published: its name in ``published.json``; "" for what the paper does not have.
      preset: the preset that it is, or whose network a method takes; None for what is not here.
      method: the method with its settings, as ``padim evaluate --method`` takes it; None for a preset of PaDiM.
      backbone: the network of the published figures; None where they are of no frozen one, or the preset's.
      remark: in what a measured figure differs from the published one, whatever the settings.
      paper_method: the method with the paper's settings, where its default ones learn in minutes.
    """

    label: str
    published: str
    preset: str | None = None
    method: str | None = None
    backbone: str | None = None
    remark: str = ""
    paper_method: str | None = None


@dataclass(frozen=True)
class PaperTable:
    """A table of comparison.

    Attributes:
      name: as ``padim evaluate --table`` takes it.
      title: what it is, with its number in the paper.
      data: names of the data sets that it is of.
      protocol: how images are placed.
      metrics: headings by the metrics' names, of rates or of costs.
      rows: in the paper's order.
    """

    name: PaperTableName
    title: str
    data: tuple[str, ...]
    protocol: ProtocolName
    metrics: Mapping[str, str]
    rows: tuple[PaperRow, ...]

    @property
    def is_of_costs(self) -> bool:
        """Whether it says what methods cost, and not what they find."""
        return set(self.metrics) <= set(COSTS)

    def compare(
        self,
        rows: Sequence[tuple[PaperRow, str | None]],
        planned: Mapping[str, Sequence[str]],
        summary: Sequence[Summary],
        runs: Iterable[Mapping[str, Any]],
        notes: Mapping[str, str],
    ) -> list[Summary]:
        """The table's lines: what was measured, beside what has been published of the same data.

        Of a data set that is there as a whole, lines are of the paper's groups, else of what there is; where nothing
        is planned, they are the published ones. A mean over fewer categories than are planned is left out.

        Args:
          rows: with the name under which runs measure each; None for those that are not measured.
          planned: names of categories that are measured, by the data set's name.
          summary: of :func:`padim_jax.evaluation.results.summarise`, as far as runs are done.
          runs: what ``run.json`` holds of each.
          notes: for the lines of rows, by label.
        """
        measured = _costs(runs, planned) if self.is_of_costs else summary
        lines = []
        for row, name in rows:
            n_before = len(lines)
            for data in planned or self.data:
                names = planned.get(data)
                own = {line.category: line for line in measured if (line.data, line.preset) == (data, name)}
                if not self.is_of_costs and not own.keys() >= set(names or ()):
                    own.pop("mean", None)
                for category in self._categories(data, names):
                    line = own.get(category)
                    figures = self._published(row, data, category, names, line)
                    if line or figures or name is not None:
                        line = line or self._unmeasured(data, category)
                        label = {"preset": row.label, "method": row.method or "padim", "settings": {}}
                        lines.append(replace(line, published=figures, note=notes.get(row.label, ""), **label))
            if not planned and len(lines) == n_before:
                label = {"preset": row.label, "method": row.method or "padim"}
                note = "its published figures are not known here"
                lines.append(replace(self._unmeasured(self.data[0], "mean"), note=note, **label))
        return lines

    def _categories(self, data: str, planned: Sequence[str] | None) -> Sequence[str]:
        if planned is None or self.is_of_costs or _is_whole(data, planned):
            return ("mean",) if self.is_of_costs else _GROUPS[data]
        return (*planned, "mean") if len(planned) > 1 else planned

    def _published(
        self, row: PaperRow, data: str, category: str, planned: Sequence[str] | None, line: Summary | None
    ) -> dict[str, Published]:
        if not row.published:
            figures = line.published if line else {}
            return {name: figure for name, figure in figures.items() if name in self.metrics}
        if category == "mean" and not self.is_of_costs and planned is not None and not _is_whole(data, planned):
            return {}
        figures = published(row.published, data, self.protocol, category, row.backbone)
        return {name: figure for name, figure in figures.items() if name in self.metrics}

    def _unmeasured(self, data: str, category: str) -> Summary:
        nothing = dict.fromkeys(self.metrics)
        return Summary(data, self.protocol, "", category, (), nothing, nothing, {})


def _is_whole(data: str, categories: Sequence[str]) -> bool:
    """Whether published means are over these categories."""
    whole = {*TEXTURES, *OBJECTS} if data == MVTEC else {"all"} if data == STC else {*categories, ""}
    return set(categories) == whole


def _costs(runs: Iterable[Mapping[str, Any]], planned: Mapping[str, Sequence[str]]) -> list[Summary]:
    """A line of costs for each preset or method on each data set: means over its runs.

    None where a planned category has not been measured, or a run's cost is not known.
    """
    groups: dict[tuple[str, str, str], list[Mapping[str, Any]]] = {}
    for run in runs:
        groups.setdefault((run["data"], run["protocol"]["name"], run["preset"]), []).append(run)
    lines = []
    for (data, protocol, name), own in groups.items():
        is_whole = {run["category"] for run in own} >= set(planned.get(data, ()))
        mean: dict[str, float | None] = dict.fromkeys(COSTS)
        for cost in COSTS if is_whole else ():
            values = [value for value in (costs_of(run)[cost] for run in own) if value is not None]
            mean[cost] = statistics.fmean(values) if len(values) == len(own) else None
        seeds = tuple(sorted({run["seed"] for run in own}))
        lines.append(Summary(data, protocol, name, "mean", seeds, mean, dict.fromkeys(COSTS), {}))
    return lines


_AE = PaperRow("AE-SSIM", "ae", "lite0", "ae", paper_method="ae:published")
_AE_L2 = PaperRow("AE-L2", "ae-l2", "lite0", "ae:loss=l2", paper_method="ae:published,loss=l2")
_VAE = PaperRow(
    "VAE",
    "padim-vae",
    "lite0",
    "vae",
    remark="published of a VAE whose encoder is a ResNet18, measured with a smaller one",
)
_PATCH_SVDD = PaperRow("Patch-SVDD", "patch-svdd", "lite0", "patch-svdd", paper_method="patch-svdd:published")
_GANOMALY = PaperRow("GANomaly", "ganomaly", "lite0", "ganomaly", paper_method="ganomaly:published")
_SPADE = PaperRow("SPADE", "spade", "wr50-rd550", "spade", "wide_resnet50_2")
_MAHALANOBIS = PaperRow("MahalanobisAD", "mahalanobis-ad", "efficientnet-b5", "mahalanobis-ad", "efficientnet_b4")
_R18 = PaperRow("PaDiM-R18-Rd100", "r18-rd100", "r18-rd100")
_WR50 = PaperRow("PaDiM-WR50-Rd550", "wr50-rd550", "wr50-rd550")
_B5 = PaperRow("PaDiM-EfficientNet-B5", "efficientnet-b5", "efficientnet-b5")
_COSTS = (_SPADE, _VAE, _R18, _WR50)

TABLES: Mapping[PaperTableName, PaperTable] = {
    table.name: table
    for table in (
        PaperTable(
            "localisation",
            "anomaly localisation on MVTec AD (Table III)",
            (MVTEC,),
            "standard",
            _LOCALISATION,
            (_AE, _AE_L2, _VAE, _PATCH_SVDD, _SPADE, _R18, _WR50),
        ),
        PaperTable(
            "detection",
            "anomaly detection on MVTec AD (Table V)",
            (MVTEC,),
            "standard",
            {"image_auroc": "image AUROC"},
            (_GANOMALY, _PATCH_SVDD, _SPADE, _MAHALANOBIS, _WR50, _B5),
        ),
        PaperTable(
            "stc",
            "anomaly localisation on ShanghaiTech Campus (Table IV)",
            (STC,),
            "standard",
            {"pixel_auroc": "pixel AUROC"},
            (PaperRow("CAVGA-RU", "cavga-ru"), _SPADE, _R18),
        ),
        PaperTable(
            "non-aligned",
            "anomaly localisation on Rd-MVTec AD, rotated and cropped at random (Table VI)",
            (MVTEC,),
            "rotated",
            _LOCALISATION,
            (_VAE, _SPADE, _WR50),
        ),
        PaperTable(
            "time",
            "seconds that an image takes (Table VII, which has those of a score alone)",
            (MVTEC,),
            "standard",
            {"score_seconds": "score, s", "fit_seconds": "fit, s"},
            _COSTS,
        ),
        PaperTable(
            "memory",
            "10⁹ bytes of a model with its network (Table VIII)",
            (MVTEC, STC),
            "standard",
            {"model_gb": "model, GB"},
            _COSTS,
        ),
    )
}

"""``padim demo``."""

import tempfile
from dataclasses import replace
from pathlib import Path

from padim_jax.artifact import Updatable, save_updatable
from padim_jax.artifact.folder import check_writable
from padim_jax.artifact.ownership import claim
from padim_jax.backbones import load_backbone
from padim_jax.commands.terminal import progress_bar, tell
from padim_jax.commands.watching import watching
from padim_jax.data.elpv import demo_split
from padim_jax.lazy import extra
from padim_jax.presets import preset
from padim_jax.runs.calibrate import Terms, calibrate_model
from padim_jax.runs.engines import OneDevice
from padim_jax.runs.fold import fit_moments
from padim_jax.runs.outputs import write_heatmap
from padim_jax.runs.score import score_files
from padim_jax.runs.spool import ResultSpool

_RATE = 0.05


def demo_command(out: Path, batch_size: int) -> None:
    """Do what ``padim demo`` says it does."""
    split = demo_split()
    with extra("demo"):
        from sklearn.metrics import roc_auc_score

    check_writable(out / "model")
    claim(out, ("best-finds", "missed", "false-alarms"), "demo")
    backbone, config = load_backbone("efficientnet_lite0"), preset("lite0").members[0]
    engine = OneDevice(backbone)
    with watching(f"{out} holds nothing yet") as watch:
        fold = fit_moments(engine, split.fit, config, batch_size, watch)
        model = engine.finalize(fold.state, None)
        terms = Terms(false_alarm_rate=_RATE)
        reference = calibrate_model(engine, model, split.fit, fold.images, terms, batch_size, watch)
    calibration, standard = reference.calibration, reference.standard
    model = replace(model, calibration=calibration, standard=standard)
    stored = Updatable(backbone, fold.state, fold.images, calibration, standard=standard)
    save_updatable(stored, out / "model")

    paths = [*split.good, *split.defective]
    scores: dict[Path, float] = {}
    alarms: dict[Path, bool | None] = {}
    with tempfile.TemporaryFile(dir=out, buffering=0) as file:
        spool = ResultSpool(file)
        with progress_bar("score", len(paths)) as advance:
            for item in score_files(model, paths, batch_size=batch_size, advance=advance):
                scores[item.path] = item.score
                alarms[item.path] = item.anomalous
                spool.add(item)
        auroc = roc_auc_score([path in split.defective for path in scores], list(scores.values()))
        descending = sorted(scores, key=lambda path: -scores[path])
        pictured = {
            "best-finds": [path for path in descending if path in split.defective][:6],
            "missed": [path for path in reversed(descending) if path in split.defective][:6],
            "false-alarms": [path for path in descending if path in split.good][:6],
        }
        scale = float(calibration.colour_scale[0]), float(calibration.colour_scale[1])
        for item in spool:
            for kind, kind_paths in pictured.items():
                if item.path in kind_paths:
                    target = out / kind / f"{kind_paths.index(item.path) + 1}-{item.path.name}"
                    write_heatmap(target, item, scale, config=config, threshold=float(calibration.threshold))
    counts = len(split.fit), len(split.good), len(split.defective)
    tell("fitted on {} good cells; scored {} good and {} defective ones".format(*counts))
    tell(f"image AUROC {auroc:.3f}")
    false, true = (sum(bool(alarms[path]) for path in paths) for paths in (split.good, split.defective))
    tell(
        f"at a false-alarm rate of {_RATE:.0%}, set from the cells fitted on: {false} of {counts[1]} good cells called "
        f"anomalous ({false / counts[1]:.1%}), {true} of {counts[2]} defective ones found"
    )
    tell(f"{out}: model, and heat maps of best finds, missed defects and false alarms")

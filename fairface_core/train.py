"""`python -m fairface_core.train`: one run, no Ray. The original script's flags, defaults and outputs."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence

from fairface_core.config.flags import add_flags, config_from_flags
from fairface_core.config.train_config import TrainConfig
from fairface_core.console import Parser, go_on_without_stdout, progress_bar, run_door
from fairface_core.trial.reports import skips


def make_parser() -> argparse.ArgumentParser:
    """Return the parser; its flags are generated from TrainConfig."""
    parser = Parser(prog="python -m fairface_core.train", description=__doc__)
    add_flags(parser)
    parser.add_argument("--debug", action="store_true", help="show tracebacks")
    return parser


def main(argv: Sequence[str] | None = None) -> int:
    """Train, print one line an epoch and the test metrics; return the exit code."""
    return run_door(make_parser(), lambda flags: _train(config_from_flags(flags)), argv)


def _train(config: TrainConfig) -> int:
    # Imported late: a wrong flag is told in milliseconds, not after torch has loaded.
    from fairface_core.dataset.prepare import prepare_data
    from fairface_core.training.checks import check_config
    from fairface_core.training.fit import fit
    from fairface_core.trial.reports import EpochReport

    check_config(config)
    with progress_bar("decoding images") as progress:
        data = prepare_data(config, progress=progress)
    go_on_without_stdout()
    counts = ", ".join(f"{name} {count:,}" for name, count in data.counts["rows"].items())
    averaged = "the weights' moving average" if config.ema_decay else ""
    scored_by = "; ".join(filter(None, [f"protocol {config.protocol}", averaged, skips(data.counts)]))
    print(f"{config.backbone}: {counts}; {scored_by}; outputs in {config.out_dir}", flush=True)

    def show(epoch: EpochReport) -> None:
        star = " *" if epoch.best_epoch == epoch.epoch else ""
        print(
            f"epoch {epoch.epoch}/{config.epochs}  loss {epoch.train_loss:.4f}  val: loss {epoch.val_loss:.4f}  "
            f"age {epoch.val_age_acc:.4f} (F1 {epoch.val_age_f1m:.4f})  gender {epoch.val_gen_acc:.4f} "
            f"(F1 {epoch.val_gen_f1m:.4f})  mean_f1 {epoch.mean_f1:.4f}  {epoch.images_per_s:.0f} images/s{star}",
            flush=True,
        )

    report = fit(config, on_epoch=show, data=data)
    test = report.test_metrics
    print(f"best epoch {report.best_epoch}: validation mean_f1 {report.mean_f1:.4f} ({scored_by})")
    print(
        f"test ({scored_by}): loss {test['loss']:.4f}  age {test['age_acc']:.4f} (F1 {test['age_f1m']:.4f})  "
        f"gender {test['gen_acc']:.4f} (F1 {test['gen_f1m']:.4f})"
    )
    return 0


if __name__ == "__main__":
    sys.exit(main())

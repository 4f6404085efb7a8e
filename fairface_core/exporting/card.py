"""What stands beside the weights: config.json, the model card and, for the official protocol, the hub's results file."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

import yaml

from fairface_core.exporting.graph import INPUT, OUTPUTS, Kind
from fairface_core.labels import AGE_GROUPS, GENDERS
from fairface_core.prediction.models import Member

# FairFace's val images: what the hub's data set calls `validation`.
_HUB_DATASET, _HUB_IMAGES = "HuggingFaceM4/FairFace", 10_954
_REFIT = (
    "It was trained on training and validation images together, for a length that was chosen before: **no selection is\n"
    "left in it, and no validation score and no prediction sets**. The test images had no part in it.\n\n"
)
_METRICS = ("age_acc", "age_f1m", "gen_acc", "gen_f1m")


def config_of(member: Member, backbone: str, dropout: float, kind: Kind, facts: Mapping[str, Any]) -> dict[str, Any]:
    """Return config.json: all that a program needs to build the network and to prepare a picture.

    Args:
        member: The model.
        backbone: The name of its backbone.
        dropout: Of both heads; of no effect when it answers.
        kind: What the exported graphs take.
        facts: `metrics`, `intervals`, `num_images`, `protocol` and the like: how it scored on the test images.
    """
    side = member.decoded_px
    shapes = {"uint8": ["batch", side, side, 3], "float": ["batch", 3, side, side]}
    return {
        "architectures": ["AgeGenderModel"],
        "model_type": "fairface-age-gender",
        "backbone": backbone,
        "image_size": member.image_size,
        "dropout": dropout,
        "age_loss": member.network.age_loss,
        "labels": {"age": list(AGE_GROUPS), "gender": list(GENDERS)},
        "preprocessing": {
            "size_px": side,
            "resample": "bilinear, antialiased, to a square (Pillow's Image.Resampling.BILINEAR)",
            "mode": "RGB",
            "enlarged_to_px": member.image_size,
            "mean": list(member.network.normalization.mean),
            "std": list(member.network.normalization.std),
        },
        "graph": {
            "input": {
                "name": INPUT,
                "dtype": {"uint8": "uint8", "float": "float32, 0..1"}[kind],
                "shape": shapes[kind],
            },
            "outputs": list(OUTPUTS),
            "inside": "resizing where enlarged_to_px is not size_px, mean and std, softmax",
        },
        "test": dict(facts),
        "conformal": member.report.get("conformal"),
    }


def card_of(name: str, config: Mapping[str, Any], files: Mapping[str, str]) -> str:
    """Return README.md, a model card with the hub's metadata.

    Args:
        name: What to call the model.
        config: config.json.
        files: File name to what was proved of it.
    """
    test = config["test"]
    words = f"{test['num_images']:,} test images, protocol {test['protocol']}"
    entries = [
        {
            "task": {"type": "image-classification", "name": task},
            "dataset": {"type": "fairface", "name": "images with FairFace's labels", "split": words},
            "metrics": [
                {"type": kind, "name": metric, "value": round(test["metrics"][metric], 4)}
                for kind, metric in (("accuracy", f"{short}_acc"), ("f1", f"{short}_f1m"))
            ],
        }
        for task, short in (("Age group", "age"), ("Gender", "gen"))
    ]
    head = {
        "library_name": "pytorch",
        "pipeline_tag": "image-classification",
        "tags": ["fairface", "age", "gender", config["backbone"]],
        "metrics": ["accuracy", "f1"],
        "model-index": [{"name": name, "results": entries}],
    }
    rows = "\n".join(_score_row(metric, test) for metric in (*_METRICS, "mean_f1"))
    listed = "\n".join(f"- `{file}`: {proved}" for file, proved in files.items())
    return f"""---
{yaml.safe_dump(head, sort_keys=False, allow_unicode=True)}---
# {name}

Which of 9 age groups and which of 2 genders people would ascribe to a cropped face. Backbone {config["backbone"]},
{config["image_size"]} px.

**Use**: research on face attributes. **Not for** decisions about a person, for identifying anyone, or as somebody's true
age or gender identity: the labels are what annotators saw in a photograph, in coarse groups, and some are wrong.

## Scores on {words}

| metric | value | 95 % interval over images |
|---|---|---|
{rows}

`_acc` is accuracy, `_f1m` macro-F1, `mean_f1` the mean of both macro-F1. By gender, age group and race: `config.json`,
under `test.subgroups`.

{_REFIT if test.get("refit") else ""}## Files

{listed}

{_snippet(config) if "model.onnx" in files else ""}The columns of the answers are, in order: {", ".join(config["labels"]["age"])}; {", ".join(config["labels"]["gender"])}.
"""


def _snippet(config: Mapping[str, Any]) -> str:
    side = config["preprocessing"]["size_px"]
    return f"""## How to ask it

```python
import numpy as np
import onnxruntime
from PIL import Image

session = onnxruntime.InferenceSession("model.onnx")
face = Image.open("face.jpg").convert("RGB").resize(({side}, {side}), Image.Resampling.BILINEAR)
{_prepare(config)}
age, gender = session.run(["{OUTPUTS[0]}", "{OUTPUTS[1]}"], {{"{INPUT}": images}})
```

"""


def _prepare(config: Mapping[str, Any]) -> str:
    if config["graph"]["input"]["dtype"] == "uint8":
        return "images = np.asarray(face)[None]"
    return "images = (np.asarray(face, np.float32) / 255).transpose(2, 0, 1)[None]"


def _score_row(metric: str, test: Mapping[str, Any]) -> str:
    low, high = test["intervals"].get(metric, (None, None))
    interval = "" if low is None else f"{low:.4f} to {high:.4f}"
    return f"| `{metric}` | {test['metrics'][metric]:.4f} | {interval} |"


def hub_results(config: Mapping[str, Any]) -> str | None:
    """Return `.eval_results/fairface.yaml`; None unless it was scored on all of FairFace's val images.

    Source of the format: https://huggingface.co/docs/hub/eval-results. The hub shows it once the data set is a benchmark.
    """
    test = config["test"]
    if test["protocol"] != "official" or test["num_images"] != _HUB_IMAGES:
        return None
    results = [
        {"dataset": {"id": _HUB_DATASET, "task_id": metric}, "value": round(100 * test["metrics"][metric], 2)}
        for metric in _METRICS
    ]
    return yaml.safe_dump(results, sort_keys=False)


def json_text(value: Any) -> str:
    """Return JSON text that is equal for equal values."""
    return json.dumps(value, indent=2, ensure_ascii=False) + "\n"

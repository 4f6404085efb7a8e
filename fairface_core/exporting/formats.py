"""The formats: how each file is written, and how its own runtime reads it."""

from __future__ import annotations

import copy
import importlib.util
import json
import sys
import warnings
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

from fairface_core.backbones import Normalization
from fairface_core.errors import ConfigError, ExportError
from fairface_core.exporting.graph import INPUT, OUTPUTS, Graph, Kind, input_of
from fairface_core.model.network import AgeGenderModel

OPSET = 24
CONFIG = "config.json"
# Prepared inputs to age and gender probabilities, as the graph itself.
Runtime = Callable[[np.ndarray], tuple[np.ndarray, np.ndarray]]


@dataclass(frozen=True)
class Format:
    """One kind of file.

    Attributes:
        file: Its name in the folder.
        write: Writes it.
        open: Reads it with its own runtime, and with nothing of the model in memory.
        packages: What both need, beyond torch.
    """

    file: str
    write: Callable[[Graph, Path], None]
    open: Callable[[Path, Kind], Runtime]
    packages: tuple[str, ...] = ()


def _write_safetensors(graph: Graph, path: Path) -> None:
    from safetensors.torch import save_file

    weights = {name: tensor.contiguous() for name, tensor in graph.network.state_dict().items()}
    save_file(weights, path, metadata={"format": "pt"})
    path.chmod(0o644)  # it makes the file for its owner alone


def _open_safetensors(path: Path, kind: Kind) -> Runtime:
    from safetensors.torch import load_file

    config = json.loads((path.parent / CONFIG).read_text())
    mean, std = (tuple(config["preprocessing"][key]) for key in Normalization._fields)
    network = AgeGenderModel(
        config["backbone"], config["image_size"], config["dropout"], age_loss=config["age_loss"],
        normalization=Normalization(mean, std),
    )  # fmt: skip
    network.load_state_dict(load_file(path))
    return run_graph(Graph(network, config["image_size"], config["preprocessing"]["size_px"], kind).eval())


def _program(graph: Graph) -> Any:
    side = graph.source_px
    images = (
        torch.zeros((2, side, side, 3), dtype=torch.uint8) if graph.kind == "uint8" else torch.zeros((2, 3, side, side))
    )
    return torch.export.export(graph, (images,), dynamic_shapes={"images": {0: torch.export.Dim("batch")}})


def _write_pt2(graph: Graph, path: Path) -> None:
    torch.export.save(_program(graph), path)


def _open_pt2(path: Path, kind: Kind) -> Runtime:
    return run_graph(torch.export.load(path).module())


def write_onnx(graph: Graph, path: Path) -> None:
    """Write a graph as ONNX: a dynamic batch, one file."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # the exporter's own deprecations
        try:
            program = torch.onnx.export(
                _program(graph), opset_version=OPSET, input_names=[INPUT], output_names=list(OUTPUTS), verbose=False
            )
        except torch.onnx.errors.OnnxExporterError as error:
            raise ExportError(
                f"{path.name}: torch's exporter cannot write this network as ONNX ({type(error).__name__}); leave it out: "
                "--to safetensors --to pt2"
            ) from error
    assert program is not None
    program.save(path, external_data=False)


def open_onnx(path: Path, kind: Kind) -> Runtime:
    """Return onnxruntime's own run of a file, on the CPU."""
    import onnxruntime

    session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])

    def run(images: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        age, gender = session.run(list(OUTPUTS), {INPUT: images})
        return age, gender

    return run


ONNX_PACKAGES = ("onnx", "onnxscript", "onnxruntime")
FORMATS = {
    "safetensors": Format("model.safetensors", _write_safetensors, _open_safetensors, ("safetensors",)),
    "pt2": Format("model.pt2", _write_pt2, _open_pt2),
    "onnx": Format("model.onnx", write_onnx, open_onnx, ONNX_PACKAGES),
}


def write_half(graph: Graph, path: Path) -> None:
    """Write the graph as ONNX with float16 weights; preprocessing and softmax stay in float32."""
    half = copy.deepcopy(graph)
    half.network.half()
    write_onnx(half, path)


def write_int8(graph: Graph, path: Path, calibration: Sequence[np.ndarray]) -> None:
    """Write the graph as ONNX whose convolutions and matrix products take 8-bit numbers, their ranges fixed beforehand.

    Args:
        graph: The model.
        path: The file.
        calibration: Batches of decoded images, uint8 [B, S, S, 3], that show the ranges.
    """
    from onnxruntime import quantization
    from onnxruntime.quantization.shape_inference import quant_pre_process

    whole, prepared = (path.with_name(f".{path.name}.{step}") for step in ("whole", "prepared"))
    try:
        write_onnx(graph, whole)
        quant_pre_process(whole, prepared, skip_symbolic_shape=True)
        quantization.quantize_static(
            prepared, path, _Reader(calibration, graph.kind), quant_format=quantization.QuantFormat.QDQ,
            op_types_to_quantize=["Conv", "Gemm", "MatMul"], per_channel=True,
            activation_type=quantization.QuantType.QUInt8, weight_type=quantization.QuantType.QInt8,
        )  # fmt: skip
    finally:
        for step in (whole, prepared):
            step.unlink(missing_ok=True)


class _Reader:
    """Hands calibration batches to onnxruntime, one a call, then None: its CalibrationDataReader."""

    def __init__(self, batches: Sequence[np.ndarray], kind: Kind) -> None:
        self._batches: Iterator[np.ndarray] = iter(batches)
        self._kind = kind

    def get_next(self) -> dict[str, np.ndarray] | None:
        batch = next(self._batches, None)
        return None if batch is None else {INPUT: input_of(batch, self._kind)}


def run_graph(graph: torch.nn.Module) -> Runtime:
    """Return a graph's own run in torch, on the CPU."""

    def run(images: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        with torch.inference_mode():
            age, gender = graph(torch.from_numpy(images))
        return age.numpy(), gender.numpy()

    return run


def check_packages(packages: Sequence[str]) -> None:
    """Raise ConfigError for packages that are not installed."""
    missing = [name for name in dict.fromkeys(packages) if importlib.util.find_spec(name) is None]
    if missing:
        newer = " on Python 3.11 or newer" if "onnxruntime" in missing and sys.version_info < (3, 11) else ""
        raise ConfigError(
            f"export: not installed: {', '.join(missing)}; run: pip install 'fairface-sweep[export]'{newer}"
        )

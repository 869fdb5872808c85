"""A builder for small ONNX graphs, and the parts that champion and challenger share: the input's and outputs' contract.

Both graphs take `features` float32 [N, 5] and give `anomaly` bool [N], `score` float32 [N], `forecast` float32 [N].
"""

from dataclasses import dataclass
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper

from training import __version__
from training.config import FEATURES, OUTPUTS

OPSET = 17
ML_OPSET = 3
IR_VERSION = 8
"""Opset 17, ai.onnx.ml 3 and IR 8 load on every ONNX Runtime of the last years."""
ML_DOMAIN = "ai.onnx.ml"
PRODUCER = "onnxd-training"


class GraphBuilder:
    """Collects nodes and constants in order; the names count up, so equal calls give equal bytes."""

    def __init__(self) -> None:
        """Starts empty."""
        self._nodes: list[onnx.NodeProto] = []
        self._constants: list[onnx.TensorProto] = []

    def constant(self, name: str, value: NDArray[Any]) -> str:
        """Adds an initializer; float64 becomes float32. Returns its name."""
        array = np.asarray(value)
        array = array.astype(np.float32) if array.dtype == np.float64 else array
        self._constants.append(numpy_helper.from_array(array, name))
        return name

    def number(self, name: str, value: float) -> str:
        """Adds a float32 scalar. Returns its name."""
        return self.constant(name, np.array(value, dtype=np.float32))

    def node(self, op: str, *inputs: str, output: str, domain: str = "", **attributes: object) -> str:
        """Adds a node with one output, in the domain `ai.onnx` unless told otherwise. Returns the output's name."""
        self._nodes.append(
            helper.make_node(op, list(inputs), [output], name=output, domain=domain or None, **attributes)
        )
        return output

    def split(self, value: str, sizes: list[int], outputs: list[str]) -> list[str]:
        """Cuts [N, sum(sizes)] into columns [N, size]. Returns their names."""
        parts = self.constant(f"{value}_sizes", np.array(sizes, dtype=np.int64))
        self._nodes.append(helper.make_node("Split", [value, parts], outputs, name=f"{value}_split", axis=1))
        return outputs

    def model(
        self, name: str, inputs: dict[str, list[str | int]], outputs: dict[str, int], metadata: dict[str, str]
    ) -> onnx.ModelProto:
        """The checked model.

        Args:
            name: Of the graph.
            inputs: Shape of each float32 input.
            outputs: Element type of each [N] output.
            metadata: `metadata_props`.

        Raises:
            onnx.checker.ValidationError: The graph is not valid ONNX.
        """
        graph = helper.make_graph(
            self._nodes,
            name,
            [helper.make_tensor_value_info(i, TensorProto.FLOAT, shape) for i, shape in inputs.items()],
            [helper.make_tensor_value_info(o, kind, ["N"]) for o, kind in outputs.items()],
            self._constants,
        )
        domains = {node.domain for node in self._nodes}
        opsets = [helper.make_opsetid("", OPSET)]
        opsets += [helper.make_opsetid(ML_DOMAIN, ML_OPSET)] if ML_DOMAIN in domains else []
        model = helper.make_model(
            graph,
            opset_imports=opsets,
            ir_version=IR_VERSION,
            producer_name=PRODUCER,
            producer_version=__version__,
        )
        helper.set_model_props(model, metadata)
        onnx.checker.check_model(model, full_check=True)
        return model


@dataclass(frozen=True)
class Limits:
    """What the graph does to raw inputs before anything else, column by column.

    Attributes:
        default: float32 [5], the value of a missing (NaN) feature.
        limit: z-scores are clipped to +-this, baseline and scale to 0..this.
    """

    default: NDArray[np.float32]
    limit: float

    @property
    def low(self) -> NDArray[np.float32]:
        """The least value of each feature, float32 [5]."""
        return np.array([-self.limit] * 3 + [0.0] * 2, dtype=np.float32)

    def prepare(self, features: NDArray[np.float32]) -> NDArray[np.float32]:
        """The graph's front in numpy, step by step in float32, so that tree thresholds see the same bits.

        Args:
            features: float32 [N, 5], any values.

        Returns:
            float32 [N, 6]: the features without NaN, clipped, and the CPU level `baseline + scale * z` in percent.
        """
        x = np.where(np.isnan(features), self.default, features)
        x = np.minimum(np.maximum(x, self.low), np.float32(self.limit))
        level = x[:, 4] * x[:, 0] + x[:, 3]
        return np.column_stack([x, level]).astype(np.float32)


def add_defaults(g: GraphBuilder, limits: Limits) -> str:
    """Adds the node that replaces NaN in the input `features` by the defaults, float32 [N, 5]."""
    values = limits.default.tolist()
    return g.node(
        "Imputer",
        "features",
        output="filled",
        domain=ML_DOMAIN,
        imputed_value_floats=values,
        replaced_value_float=float("nan"),
    )


@dataclass(frozen=True)
class Prepared:
    """Names of what `Limits.prepare` gives, as values of a graph.

    Attributes:
        columns: [N, 5], the features without NaN, clipped.
        z_cpu: [N, 1], the first of them.
        baseline: [N, 1], percent.
        scale: [N, 1], percent.
        level: [N, 1], `baseline + scale * z_cpu`, percent.
    """

    columns: str
    z_cpu: str
    baseline: str
    scale: str
    level: str


def add_prepared(g: GraphBuilder, limits: Limits) -> Prepared:
    """Adds `Limits.prepare`, step by step with the same bits."""
    raised = g.node("Max", add_defaults(g, limits), g.constant("low", limits.low), output="raised")
    x = g.node("Min", raised, g.number("limit", limits.limit), output="clipped")
    z_cpu, _, baseline, scale = g.split(x, [1, 2, 1, 1], ["z_cpu", "z_rest", "baseline", "scale"])
    level = g.node("Add", g.node("Mul", scale, z_cpu, output="rise"), baseline, output="level")
    return Prepared(x, z_cpu, baseline, scale, level)


def add_outputs(g: GraphBuilder, logit: str, percent: str) -> None:
    """Adds the outputs: `score = sigmoid(logit)`, `anomaly = score >= 0.5`, `forecast = clip(percent, 0, 100)`.

    Args:
        g: The graph.
        logit: float32 [N, 1], 0 at the operating point.
        percent: float32 [N, 1], the forecast.
    """
    flat = g.constant("flat", np.array([-1], dtype=np.int64))
    score = g.node("Reshape", g.node("Sigmoid", logit, output="score_column"), flat, output="score")
    g.node("GreaterOrEqual", score, g.number("threshold", 0.5), output="anomaly")
    clipped = g.node("Clip", percent, g.number("zero", 0.0), g.number("hundred", 100.0), output="forecast_column")
    g.node("Reshape", clipped, flat, output="forecast")


def finish(g: GraphBuilder, name: str) -> onnx.ModelProto:
    """The model with the contract's input, outputs and metadata."""
    kinds = {"anomaly": TensorProto.BOOL, "score": TensorProto.FLOAT, "forecast": TensorProto.FLOAT}
    return g.model(
        name,
        {"features": ["N", len(FEATURES)]},
        {output: kinds[output] for output in OUTPUTS},
        {"onnxd.features": ",".join(FEATURES), "onnxd.name": name},
    )


def to_bytes(model: onnx.ModelProto) -> bytes:
    """The file's content: the same model gives the same bytes."""
    return model.SerializeToString(deterministic=True)

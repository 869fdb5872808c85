"""ONNX Runtime's own answers: [[model, {input: nested lists}], ..] to [{output: nested lists}, ..], both as JSON."""

import json
import sys

import numpy as np
import onnxruntime

TYPES = {"float": np.float32, "double": np.float64, "string": object}


def shown(value: object) -> object:
    """A tensor as nested lists; a sequence of maps as it is. JSON has no infinity."""
    if isinstance(value, list):
        return value
    array = np.asarray(value)
    if array.dtype == np.float16:
        array = array.astype(np.float32)
    return np.where(np.isfinite(array), array, None).tolist() if array.dtype.kind == "f" else array.tolist()


def main() -> None:
    """Runs each model on its inputs."""
    answers = []
    for path, given in json.load(sys.stdin):
        options = onnxruntime.SessionOptions()
        options.log_severity_level = 4
        session = onnxruntime.InferenceSession(path, options, providers=["CPUExecutionProvider"])
        kinds = {port.name: port.type.removeprefix("tensor(").removesuffix(")") for port in session.get_inputs()}
        feed = {name: np.array(value, TYPES.get(kinds[name], kinds[name])) for name, value in given.items()}
        names = [output.name for output in session.get_outputs()]
        values = session.run(names, feed)
        answers.append({name: shown(value) for name, value in zip(names, values, strict=True)})
    json.dump(answers, sys.stdout)


if __name__ == "__main__":
    main()

"""`onnx:FILE`: a classifier as an ONNX graph, run by ONNX Runtime."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from leep.errors import Invalid, Missing
from leep.execution.processes import n_cores
from leep.files import file_digest
from leep.models.model import IMAGENET_MEAN, IMAGENET_STD, Guess, Model, check_is_file, digest
from leep.models.settings import preprocessing, read_settings

_HEADS = ("Gemm", "MatMul", "Conv")
_NO_WAY_BACK = ("TopK", "ArgMax", "ArgMin", "NonMaxSuppression")  # what they give cannot be followed to a classifier
_DTYPES = {"tensor(float)": np.float32, "tensor(float16)": np.float16, "tensor(uint8)": np.uint8}


def open_model(name: str, file: Path | None, *, device: str, download: bool, threads, options) -> Model:
    """A classifier in an ONNX file. Its features are the input of its last `Gemm`, `MatMul` or `Conv`.

    That tensor is found by going back from the output, and made an output. A convolution's is averaged over positions.
    """
    import onnx
    import onnxruntime

    path = Path(f"{name}={file}" if file else name).expanduser()
    check_is_file(path)
    settings = read_settings(path, options)
    try:
        graph = onnx.load(path)
    except FileNotFoundError as error:
        raise Missing(f"{path}: its weights lie in another file, which is missing: {error}") from error
    except Exception as error:
        raise Invalid(f"{path}: not an ONNX file, or damaged: {_first_line(error)}") from error
    if not graph.graph.node:
        raise Invalid(f"{path}: not an ONNX file, or damaged: it has no operations")
    output = _choose_output(graph.graph, settings)
    features, axis = (None, 0) if settings.get("head") is False else _find_features(graph.graph, output, settings)
    source, layout, size, batch = _read_input(graph.graph)
    defaults = {"size": size or 224, **_guess(layout)}
    if size and settings.get("size", size) != size:
        raise Invalid(f"its input has {size} × {size} pixels, and size={settings['size']} is given")
    arguments, flip = preprocessing(settings, defaults)
    guess = None
    if not settings.keys() & {"mean", "std", "scale"}:
        guess = Guess.of_file(f"mean {defaults['mean']}, std {defaults['std']} of pixels in [0, 1]", path)
    notes = [] if size or "size" in settings else ["size guessed: 224 pixels"]
    if features and features not in {o.name for o in graph.graph.output}:
        graph.graph.output.append(onnx.ValueInfoProto(name=features))
    n_parameters, n_bytes = _count(onnx, graph.graph)
    session = _open_session(onnxruntime, graph, path, device, threads)
    run = _Run(session, source, [features or output, output], axis, layout, batch, flip)
    if run.dtype == np.uint8:  # takes pixels as they are
        arguments |= {"mean": (0.0,) * 3, "std": (1 / 255,) * 3}
        guess = None
    outside = [file_digest(p) for p in _outside_files(onnx, path)]
    return Model(
        f"onnx:{path.name}",
        run,
        **arguments,
        parameters=n_parameters,
        weight_bytes=n_bytes,
        outputs="either" if features else "none",
        no_probs=f"head is false in {path.with_suffix('.json').name}",
        sha256=digest("onnx", onnxruntime.__version__, file_digest(path), *outside, features, output, flip),
        notes=notes,
        guess=guess,
        device=device,
    )


class _Run:
    """Images → features and outputs, in batches of the size that the graph takes."""

    def __init__(self, session, source: str, targets: list[str], axis: int, layout: str, batch: int | None, flip: bool):
        self.session, self.source, self.targets = session, source, targets
        self.axis, self.layout, self.batch, self.flip = axis, layout, batch, flip
        kind = session.get_inputs()[0].type
        if kind not in _DTYPES:
            raise Invalid(f"its input {source!r} is a {kind}, expected {', '.join(_DTYPES)}")
        self.dtype = _DTYPES[kind]

    def __call__(self, batch: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        x = batch[:, ::-1] if self.flip else batch
        x = x.transpose(0, 2, 3, 1) if self.layout == "NHWC" else x
        x = np.rint(x) if self.dtype == np.uint8 else x
        x = np.ascontiguousarray(x, self.dtype)
        try:
            parts = self._run_all(x, self.batch or len(x))
        except Exception:
            if self.batch or len(x) == 1:
                raise
            parts, self.batch = self._run_all(x, 1), 1  # says that it takes any number, and does not
        features, outputs = (np.concatenate(part) for part in zip(*parts))
        if features.ndim > 2:  # the axis of the features is the second of a convolution, else the last
            features = features.mean(tuple(k for k in range(1, features.ndim) if k != self.axis % features.ndim))
        return features, outputs

    def _run_all(self, x: np.ndarray, step: int) -> list[list[np.ndarray]]:
        return [self._run(x[i : i + step], step) for i in range(0, len(x), step)]

    def _run(self, x: np.ndarray, step: int) -> list[np.ndarray]:
        n = len(x)
        if n < step:
            x = np.concatenate([x, np.repeat(x[-1:], step - n, 0)])
        outputs = self.session.run(list(dict.fromkeys(self.targets)), {self.source: x})
        outputs = [np.asarray(o, np.float32) for o in outputs]
        for array in outputs:
            if array.ndim == 0 or len(array) != len(x):
                raise Invalid(f"it gives an array of the shape {array.shape} for {len(x)} images")
        return [array[:n] for array in (outputs if len(outputs) == 2 else outputs * 2)]


def _open_session(onnxruntime, graph, path: Path, device: str, threads: int | None):
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 4
    options.intra_op_num_threads = threads or n_cores()  # its own default also ties threads to cores
    kind, _, number = device.partition(":")
    providers: list = ["CPUExecutionProvider"]
    if kind == "cuda":
        if "CUDAExecutionProvider" not in onnxruntime.get_available_providers():
            raise Invalid("device=cuda: this ONNX Runtime has no CUDA; pip install onnxruntime-gpu")
        providers.insert(0, ("CUDAExecutionProvider", {"device_id": int(number or 0)}))
    elif kind != "cpu":
        raise Invalid(f"device must be cpu, cuda or cuda:1, got {device!r}")
    try:
        return onnxruntime.InferenceSession(graph.SerializeToString(), options, providers)
    except Exception as error:  # its own exceptions, and protobuf's of a graph above 2 GB
        raise Invalid(f"{path}: ONNX Runtime cannot run it: {_first_line(error)}") from error


def _read_input(graph) -> tuple[str, str, int | None, int | None]:
    """Name, layout, size and batch of the input; size and batch are None where the graph leaves them open."""
    weights = {t.name for t in graph.initializer}
    inputs = [i for i in graph.input if i.name not in weights]
    if len(inputs) != 1:
        raise Invalid(f"it has {len(inputs)} inputs ({', '.join(i.name for i in inputs)}), expected images alone")
    shape = _shape(inputs[0])
    name = inputs[0].name
    if len(shape) != 4 or 3 not in (shape[1], shape[3]):
        raise Invalid(
            f"its input {name!r} has the shape {_text(shape)}, expected (n, 3, size, size) or (n, size, size, 3)"
        )
    layout = "NCHW" if shape[1] == 3 else "NHWC"
    height, width = shape[2:] if layout == "NCHW" else shape[1:3]
    if height and width and height != width:
        raise Invalid(f"its input {name!r} has the shape {_text(shape)}: images that are not square are not supported")
    return name, layout, height or width, shape[0]


def _guess(layout: str) -> dict:
    """What most networks take: ImageNet's mean and deviation; from TensorFlow, [−1, 1]."""
    if layout == "NHWC":
        return {"mean": [0.5] * 3, "std": [0.5] * 3}
    return {"mean": list(IMAGENET_MEAN), "std": list(IMAGENET_STD)}


def _choose_output(graph, settings: dict) -> str:
    """The classifier's output: `(n, k)`, or with further axes of length 1."""
    outputs = {o.name: _shape(o) for o in graph.output}
    said = "; ".join(f"{name} {_text(shape)}" for name, shape in outputs.items())
    if (name := settings.get("output")) is not None:
        if name not in outputs:
            raise Invalid(f"it has no output {name!r}, it has {said}")
        return name
    flat = [
        name for name, shape in outputs.items()
        if not shape or (len(shape) >= 2 and sum(n != 1 for n in shape[1:]) == 1)
    ]  # fmt: skip
    if len(outputs) == 1 and flat:
        return flat[0]
    if not flat or len(flat) < len(outputs):
        raise Invalid(f"no classifier: its outputs are {said}, expected (n, classes)")
    raise Invalid(f'it has several outputs: {said}; say which is the classifier\'s by "output"')


def _find_features(graph, output: str, settings: dict) -> tuple[str, int]:
    """The tensor that goes into the classifier, and the axis of its features."""
    producers = {name: node for node in graph.node for name in node.output}
    if (name := settings.get("features")) is not None:
        if name not in producers:
            raise Invalid(f"its graph has no tensor {name!r}")
        return name, -1
    constants = {t.name for t in graph.initializer}
    for node in graph.node:  # in the order in which they run
        if all(name in constants or not name for name in node.input):
            constants.update(node.output)
    tensor, passed = output, []
    while (node := producers.get(tensor)) is not None and node.op_type not in _NO_WAY_BACK:
        variable = list(dict.fromkeys(name for name in node.input if name and name not in constants))
        if len(variable) != 1:
            passed.append(node.op_type)
            break
        if node.op_type in _HEADS:
            return variable[0], 1 if node.op_type == "Conv" else -1
        passed.append(node.op_type)
        tensor = variable[0]
    way = " ← ".join([output, *passed, *([node.op_type] if node is not None and node.op_type in _NO_WAY_BACK else [])])
    raise Invalid(
        f'no classifier was found before its output ({way}); if it is one, say by "features" what goes into it'
    )


def _count(onnx, graph) -> tuple[int, int]:
    """Weights and their bytes: constants of more than one axis or value, wherever the graph keeps them."""
    constants = [a.t for node in graph.node if node.op_type == "Constant" for a in node.attribute if a.name == "value"]
    tensors = [t for t in [*graph.initializer, *constants] if t.dims and np.prod(t.dims) > 1]
    sizes = [(int(np.prod(t.dims)), onnx.helper.tensor_dtype_to_np_dtype(t.data_type).itemsize) for t in tensors]
    return sum(n for n, _ in sizes), sum(n * item for n, item in sizes)


def _outside_files(onnx, path: Path) -> list[Path]:
    graph = onnx.load(path, load_external_data=False).graph
    places = {e.value for t in graph.initializer for e in t.external_data if e.key == "location"}
    return [path.parent / place for place in sorted(places)]


def _shape(value) -> tuple[int | None, ...]:
    return tuple(d.dim_value or None for d in value.type.tensor_type.shape.dim)


def _text(shape: tuple) -> str:
    return f"({', '.join('n' if n is None else str(n) for n in shape)})"


def _first_line(error: Exception) -> str:
    return str(error).strip().partition("\n")[0][:200] or type(error).__name__

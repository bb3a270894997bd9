"""What people hold outputs and labels in: tensors and tables of other libraries, few digits, floats for labels."""

import numpy as np
import pytest

from leep import explain, h_score, leep_score, nce_score, rank
from leep.measures import score_class_tasks
from leep.measures._check import as_array

PROBS = np.array([[0.9, 0.1], [0.6, 0.4], [0.2, 0.8], [0.3, 0.7]], np.float32)  # −0.47403: docstring of leep_score
LABELS = np.array([0, 0, 1, 1])
LEEP = -0.47403


class Foreign:
    """An array of another library. Reading it element by element is an error."""

    def __init__(self, array):
        self.array, self.shape = array, array.shape

    def __len__(self):
        return len(self.array)

    def __getitem__(self, key):
        raise AssertionError("element by element")


class MXNet(Foreign):
    def asnumpy(self):
        return self.array


class Torch(Foreign):
    """On a GPU with a gradient: only a copy of what was detached can be read."""

    dtype = "torch.float32"

    def detach(self):
        return type("Detached", (Foreign,), {"dtype": self.dtype, "cpu": lambda s: s.array})(self.array)

    def cpu(self):
        raise RuntimeError("it needs a gradient: detach")

    def __array__(self, *args, **kwargs):
        raise TypeError("can't convert cuda:0 device type tensor to numpy")


class DLPack(Foreign):
    def __dlpack__(self, **kwargs):
        return self.array.__dlpack__(**kwargs)

    def __dlpack_device__(self):
        return self.array.__dlpack_device__()


class Interface(Foreign):
    def __array__(self, *args, **kwargs):
        return self.array


def torch_tensor(array):
    return pytest.importorskip("torch").from_numpy(array)


def torch_with_gradient(array):
    tensor = torch_tensor(array)
    return tensor.clone().requires_grad_() if tensor.is_floating_point() else tensor


def jax_array(array):
    return pytest.importorskip("jax").numpy.asarray(array)


def tensorflow_tensor(array):
    return pytest.importorskip("tensorflow").constant(array)


def rows_of_tensors(array):
    return [DLPack(row) for row in array]


def column_of_lists(array):
    column = np.empty(len(array), object)
    column[:] = array.tolist()
    return column


def data_frame(array):
    import pandas as pd

    return pd.DataFrame(array) if array.ndim == 2 else pd.Series(array).astype("Int64")


def arrow_column(array):
    arrow = pytest.importorskip("pyarrow")
    return arrow.chunked_array([arrow.array(array.tolist())])


KINDS = [MXNet, Torch, DLPack, Interface, rows_of_tensors, column_of_lists, data_frame, arrow_column]
KINDS += [jax_array, tensorflow_tensor, np.ndarray.tolist]
KINDS += [pytest.param(kind, marks=pytest.mark.torch) for kind in (torch_tensor, torch_with_gradient)]


@pytest.mark.parametrize("kind", KINDS)
def test_arrays_of_every_library_give_the_score_of_numpys(kind):
    labels = LABELS if kind is rows_of_tensors else kind(LABELS)
    assert leep_score(kind(PROBS), labels) == pytest.approx(LEEP, abs=1e-6)
    assert h_score(kind(PROBS), LABELS) == pytest.approx(h_score(PROBS, LABELS), rel=1e-6)


@pytest.mark.parametrize("kind", [MXNet, Torch, DLPack, data_frame])
def test_rank_and_explain_take_them_too(kind):
    rng = np.random.default_rng(0)
    probs, features, labels = PROBS.repeat(6, axis=0), rng.normal(size=(24, 3)), LABELS.repeat(6)
    given = rank({"a": (kind(probs), kind(features))}, kind(labels), n_resamples=100)
    assert given.to_dict() == rank({"a": (probs, features)}, labels, n_resamples=100).to_dict()
    assert explain(kind(probs), kind(labels)).to_dict() == explain(probs, labels).to_dict()


def test_tasks_of_a_measure_without_a_batched_form():
    given, known = (
        {"features": MXNet(PROBS), "target_labels": MXNet(LABELS)},
        {"features": PROBS, "target_labels": LABELS},
    )
    assert score_class_tasks("lfc", given, [[0, 1]]) == score_class_tasks("lfc", known, [[0, 1]])


@pytest.mark.torch
def test_bfloat16_of_pytorch_becomes_float32():
    torch = pytest.importorskip("torch", reason="the torch engine needs the extra `torch`: make test-torch")
    array = as_array("features", torch.tensor([[1.0, 3.140625]], dtype=torch.bfloat16, requires_grad=True))
    assert array.dtype == np.float32 and array.tolist() == [[1.0, 3.140625]]


def test_bfloat16_of_jax_becomes_float32():
    jax = pytest.importorskip("jax")
    array = as_array("features", jax.numpy.array([[1.0, 3.140625]], dtype="bfloat16"))
    assert array.dtype == np.float32 and array.tolist() == [[1.0, 3.140625]]


@pytest.mark.parametrize(
    ("values", "message"),
    [
        (type("csr_matrix", (Foreign,), {"toarray": None})(PROBS), r"sparse; give values\.toarray\(\)"),
        (type("cupy", (Foreign,), {"__array__": Torch.__array__})(PROBS), "features must be an array, got .*cuda:0"),
        ([[1, 2], [3, 4], [5]], "features must be"),
        ({"a": 1}, "features must have shape"),
        (np.array([None, 1.0], object), "features must have shape"),
        (np.array([["a", "b"]]), "features must be real numbers"),
    ],
)
@pytest.mark.filterwarnings("ignore:Creating an ndarray from ragged")
def test_what_is_no_array_is_said(values, message):
    with pytest.raises(ValueError, match=message):
        h_score(values, LABELS)


# Few digits


def to_bfloat16(x):
    """Rounded to the nearest, as float32."""
    bits = np.asarray(x, np.float32).view(np.uint32)
    return ((bits + 0x7FFF + ((bits >> 16) & 1)) & 0xFFFF0000).astype(np.uint32).view(np.float32)


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize(
    ("value", "columns"),
    [
        (to_bfloat16(1 / 3), 3),  # 0.333984: rows sum to 1.00195
        (to_bfloat16(1 / 12), 12),  # 0.083496: 1.00195
        (0.167, 6),  # 1/6 with three digits: 1.002
        (0.0033, 300),  # four digits: 0.99
        (0.001, 970),  # three digits: 0.97
    ],
)
def test_rounded_rows_are_divided_by_their_sums(dtype, value, columns):
    """Uniform rows say nothing: LEEP is −log 2 of two classes of one size. Undivided ones would give log(sum / 2)."""
    probs = np.full((4, columns), value, dtype)
    assert abs(probs.sum(1, dtype=float) - 1).min() > 1e-3
    assert leep_score(probs, LABELS) == pytest.approx(-np.log(2), abs=1e-12)
    assert explain(probs, LABELS).leep == pytest.approx(-np.log(2), abs=1e-12)


@pytest.mark.parametrize("round_to", [to_bfloat16, lambda probs: np.round(probs, 3)])
@pytest.mark.parametrize("n_classes", [10, 5000])  # the second is scored by the compiled loops
def test_rounding_of_a_softmax_moves_the_score_little(round_to, n_classes):
    probs = np.random.default_rng(0).dirichlet(np.append(np.full(10, 0.3), np.zeros(n_classes - 10) + 1e-9), 300)
    labels = np.arange(300) % 5
    rounded = round_to(probs)
    assert np.abs(rounded.sum(1) - 1).max() > 1e-3
    assert leep_score(rounded, labels) == pytest.approx(leep_score(probs, labels), abs=5e-5)


@pytest.mark.parametrize(
    ("row", "why"),
    [
        ([0.51, 0.498], "two columns of three digits may be off by 0.001"),
        ([0.1699, 0.1667, 0.1667, 0.1667, 0.1667, 0.1667], "four digits of six columns by 0.0003"),
        ([0.375, 0.375, 0.375], "bfloat16 by 2⁻⁷, here by 1/8"),
        ([0.5 + 1e-5, 0.5 + 0.0031], "more digits: not at all"),
        ([0.0] * 500 + [0.94], "three digits by 0.05 at most"),
        ([0.0, 3.25], "what a ReLU leaves of logits"),
        ([0.0, 0.0], "nothing"),
    ],
)
def test_what_rounding_does_not_explain_is_refused(row, why):
    probs = np.array([[1.0] + [0.0] * (len(row) - 1), row])
    with pytest.raises(ValueError, match=r"must sum to 1 in each row, .* in row 1 "):
        leep_score(probs, [0, 1])
    with pytest.raises(ValueError, match=r"must sum to 1 in each row, .* in row 1 "):
        explain(probs, [0, 1])


def test_rows_that_nearly_sum_to_one_are_used_as_they_come():
    """P̂(y|z) = 1/2 for both classes, and each row sums to 1.0005."""
    assert leep_score([[0.5, 0.5005]] * 2, [0, 1]) == pytest.approx(np.log(1.0005 / 2), abs=1e-15)


# Labels


@pytest.mark.parametrize(
    "labels",
    [
        LABELS.astype(np.float32),
        LABELS.astype(np.float64)[:, None],
        LABELS[:, None],
        LABELS.astype(object),
        LABELS.astype(np.float16),
        [0.0, 0.0, 1.0, 1.0],
    ],
)
def test_whole_floats_and_columns_are_labels(labels):
    assert leep_score(PROBS, labels) == leep_score(PROBS, LABELS)
    assert nce_score(labels, [0, 1, 1, 1]) == nce_score(LABELS, [0, 1, 1, 1])
    assert explain(PROBS, labels).to_dict() == explain(PROBS, LABELS).to_dict()


@pytest.mark.parametrize("missing", [None, float("nan")])
def test_a_missing_label_is_named(missing):
    import pandas as pd

    with pytest.raises(ValueError, match="target_labels must be integers"):
        leep_score(PROBS, pd.Series([0, 1, missing, 1]))
    with pytest.raises(ValueError, match="target_labels must be integers"):
        leep_score(PROBS, pd.Series([0, 1, pd.NA, 1], dtype="Int64"))


@pytest.mark.parametrize("kind", [list, "category", "object", "string", "bytes", "column"])
def test_text_labels_are_sorted(kind):
    import pandas as pd

    names = np.array(["sparrow", "crow"]).repeat(6)
    given = {"bytes": names.astype(bytes), "column": names[:, None], list: names.tolist()}.get(kind)
    given = pd.Series(names).astype(kind) if given is None else given
    features = np.arange(24.0).reshape(12, 2)
    ranking = rank({"a": (None, features)}, given, n_resamples=100, curve=False)
    assert ranking.classes == ("crow", "sparrow")
    assert ranking.by_class["n_images"].tolist() == [6, 6]
    assert explain(np.tile(PROBS[0], (12, 1)), given).table["class"].tolist() == ["crow", "sparrow"]

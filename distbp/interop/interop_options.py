"""The options of `distbp export` and `distbp import-model`, and of their functions in Python."""

from argparse import ArgumentTypeError
from dataclasses import dataclass, fields

from distbp.network.activations import HIDDEN
from distbp.network.costs import COSTS, OUTPUTS
from distbp.network.network import DTYPES
from distbp.options import check_option, flag, option
from distbp.storage.preprocessing import UNKNOWN_CHOICES

TASKS = ("classification", "multilabel", "regression")
OUTPUT_NAMES = tuple(dict.fromkeys(name for names in OUTPUTS.values() for name in names))


def parse_names(text: str) -> tuple[str, ...]:
    """Return the names in text such as `a,b,c`."""
    names = tuple(text.split(","))
    if not all(names):
        raise ArgumentTypeError(f"{text!r}; expected names such as a,b,c")
    return names


class _Checked:
    """Checks the values of a dataclass's options when it is made."""

    def __post_init__(self) -> None:
        for one in fields(self):  # type: ignore[arg-type]
            value = getattr(self, one.name)
            if isinstance(value, list):
                object.__setattr__(self, one.name, tuple(value))
            check_option(flag(one.name), value, one.metadata)


@dataclass(frozen=True)
class ExportOptions(_Checked):
    """How to write a model for other programs; see `distbp export --help`."""

    input_dtype: str | None = option(
        None, "ONNX: type of the numbers that the model takes", group="ONNX", choices=DTYPES,
        default_text="float64 for a model of a table, else the type of the network",
    )  # fmt: skip
    unknown: str = option(
        "error", "ONNX: categories that the model does not know: an error, or all inputs of the "
        "column 0",
        group="ONNX", choices=UNKNOWN_CHOICES,
    )  # fmt: skip
    layers: tuple[str, ...] | None = option(
        None, "safetensors: names of the layers, such as net.0,net.2", parse_names,
        group="safetensors", metavar="LIST", default_text="0,2,4 …, as in torch.nn.Sequential",
    )  # fmt: skip


@dataclass(frozen=True)
class ImportModelOptions(_Checked):
    """What a file does not say of a model; see `distbp import-model --help`."""

    activation: str | None = option(
        None, "activation function of the hidden layers", group="model", choices=HIDDEN,
        default_text="as in the file; a state_dict does not say",
    )  # fmt: skip
    output: str | None = option(
        None, "activation function of the output layer; softmax also for a model that returns "
        "logits",
        group="model", choices=OUTPUT_NAMES, default_text="as in the file, or by the cost",
    )  # fmt: skip
    cost: str | None = option(
        None, "cost function", group="model", choices=tuple(COSTS),
        default_text="by the output: log-likelihood, cross-entropy or quadratic",
    )  # fmt: skip
    task: str | None = option(
        None, "what the outputs are", group="model", choices=TASKS,
        default_text="by the output: softmax and one sigmoid are classification, several "
        "sigmoids multilabel, linear outputs regression",
    )  # fmt: skip
    classes: tuple[str, ...] | None = option(
        None, "names of the classes or labels, in order", parse_names, group="model",
        metavar="LIST", default_text="as in the file, or numbers from 0",
    )  # fmt: skip
    layers: tuple[str, ...] | None = option(
        None, "names of the layers in the file, in order", parse_names, group="model",
        metavar="LIST", default_text="by the numbers in the names",
    )  # fmt: skip
    data: str | None = option(
        None, "data set that the model was trained on: task, classes, columns and scaling are "
        "taken from it",
        group="model", metavar="FILE",
    )  # fmt: skip

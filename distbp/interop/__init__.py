"""Models of other programs: written for them, and taken from them.

`distbp.export` writes a trained model for others, by the name of the file:

    .onnx          raw rows, or named columns, go in; labels and probabilities come out: scaling,
                   categories, class names and the user's units are inside (`onnx_writer`)
    .safetensors   the state_dict of a torch.nn.Sequential of linear layers (`safetensors_file`)
    .npz           arrays of NumPy under the names of a checkpoint (`npz_file`)

`distbp.import_model` reads these three again, with the same digest, and models of others:

    .onnx          Gemm, or MatMul and Add, with activations that distbp has (`onnx_reader`)
    .safetensors   a state_dict of PyTorch (`state_dict`)
    .keras, .h5    Dense, Activation, Normalization, Dropout of Keras 3 or 2 (`keras_file`)

`from_sklearn` takes a fitted MLPClassifier or MLPRegressor of scikit-learn, and returns a
checkpoint: `distbp.Model(from_sklearn(estimator))`.

What is read is a checkpoint like any other, for `predict`, `evaluate` and `train --init-from`.
A model of another program takes rows as it always did; with `data`, rows as that data set has
them. A PyTorch module that distbp trains on, and that goes back to PyTorch:

    save_file(module.state_dict(), "net.safetensors")           # safetensors.torch
    distbp.import_model("net.safetensors", "net.h5", activation="relu", output="softmax")
    distbp.train(distbp.Config(data="digits.h5", out="run", hidden=(50,), init_from="net.h5"))
    distbp.export("run", "trained.safetensors")
    module.load_state_dict(load_file("trained.safetensors"))    # takes scaled rows

Everything that is read is untrusted: see `untrusted`. No pickle is loaded, and no code in a file
is run: .pt, .pth, .pkl and .joblib files are refused with what to do instead.

Modules in reading order: `untrusted` (limits), `dense_model` (layers of others),
`interop_options`, `conversion` (layers to a checkpoint), `model_arrays` (a checkpoint as arrays),
`npz_file`, `safetensors_file`, `state_dict`, `keras_config`, `keras_file`, `layer_steps` (products
and sums to layers), `onnx_graph`, `onnx_writer`, `onnx_tensors`, `onnx_reader`, `sklearn_model`,
`model_export`, `model_import`.
"""

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from distbp.interop.sklearn_model import from_sklearn

__all__ = ["from_sklearn"]


def __getattr__(name: str) -> Any:
    # Imported when it is first used, so that the package itself loads nothing.
    if name != "from_sklearn":
        raise AttributeError(f"module 'distbp.interop' has no attribute {name!r}")
    from distbp.interop import sklearn_model

    return sklearn_model.from_sklearn

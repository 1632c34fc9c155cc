"""What `distbp evaluate` prints for people."""

from distbp.cli.score_table import score_lines

CLASSES = {
    "rows": 1200, "cost": 0.25, "accuracy": 0.5, "balanced_accuracy": 0.625, "f1": 0.75,
    "f1_micro": 0.5, "f1_weighted": 0.25, "roc_auc": None, "log_loss": 0.0001,
    "roc_auc_error": 2e-7, "confusion_matrix": [[600, 0], [600, 0]],
    "classes": [
        {"name": "no", "rows": 600, "predicted": 1200, "f1": 0.75, "roc_auc": 0.5},
        {"name": "yes", "rows": 600, "predicted": 0, "f1": None, "roc_auc": None},
    ],
}  # fmt: skip


def test_classes():
    """One line on all rows, one of other numbers, a table, and the confusion matrix."""
    assert score_lines("test", CLASSES) == [
        "test: 1,200 rows, cost 0.250000, accuracy 50.00%",
        "balanced accuracy 0.6250, log loss 0.0001, ROC AUC to within 2e-07",
        "",
        "classes            rows      F1  ROC AUC",
        "no                  600  0.7500   0.5000",
        "yes                 600       –        –",
        "macro average     1,200  0.7500        –",
        "micro average     1,200  0.5000        –",
        "weighted average  1,200  0.2500        –",
        "",
        "class \\ predicted   no  yes",
        "no                 600    0",
        "yes                600    0",
    ]


def test_many_classes():
    """They are not listed; --json has them."""
    many = CLASSES | {"classes": CLASSES["classes"] * 11}
    lines = score_lines("test", many)
    assert [line.partition(" ")[0] for line in lines[3:]] == [
        "classes", "macro", "micro", "weighted", "22",
    ]  # fmt: skip
    assert lines[-1] == "22 classes: --json prints each of them"


def test_targets():
    """R², and errors in the targets' units, however large or small."""
    parts = [
        {"name": "price", "mae": 57_878.5, "rmse": 76_215.25, "r2": 0.5},
        {"name": "ratio", "mae": 0.00937, "rmse": 2e-9, "r2": -1.0},
    ]
    found = {"rows": 101, "cost": 2.9e9, "r2": -0.25, "mae": 28_939.25, "rmse": 38_107.625}
    assert score_lines("new.csv", found | {"targets": parts}) == [
        "new.csv: 101 rows, cost 2.9e+09, R² -0.2500",
        "",
        "targets       R²         MAE        RMSE",
        "price     0.5000  57878.5000  76215.2500",
        "ratio    -1.0000     0.00937       2e-09",
        "mean     -0.2500  28939.2500  38107.6250",
    ]
    one = score_lines("test", found | {"targets": parts[:1]})
    assert [line.split()[0] for line in one[2:]] == ["targets", "price"]
    (line, *_) = score_lines("test", found | {"targets": parts, "cost_of": "ln price"})
    assert line == "test: 101 rows, cost 2.9e+09 of ln price, R² -0.2500"


def test_what_is_not_finite():
    """A model may have diverged, or never have been trained."""
    part = {"name": "price", "mae": None, "rmse": None, "r2": None}
    found = {"rows": 1, "cost": None, "r2": None, "mae": None, "rmse": None, "targets": [part]}
    assert score_lines("test", found) == [
        "test: 1 rows, cost undefined, R² –", "",
        "targets  R²  MAE  RMSE", "price     –    –     –",
    ]  # fmt: skip

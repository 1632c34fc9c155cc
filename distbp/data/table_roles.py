"""What the columns of a table are used for, by the options of an import."""

from dataclasses import dataclass

from distbp.data.table_options import find_columns
from distbp.data.table_reader import TableReader
from distbp.data.tables import ImportOptions
from distbp.errors import ConfigError, DataError

_KEYS = ("group", "time", "split", "weight")


@dataclass(frozen=True)
class ColumnRoles:
    """Which columns of a table are used, and for what."""

    features: list[str]
    labels: list[str]
    keys: dict[str, str]  # column by option
    categorical: set[str]

    @property
    def names(self) -> list[str]:
        return list(dict.fromkeys([*self.features, *self.labels, *self.keys.values()]))

    @property
    def roles(self) -> dict[str, str]:
        """What each column is used for."""
        roles = dict.fromkeys(self.features, "feature") | dict.fromkeys(self.labels, "label")
        return roles | {name: key for key, name in self.keys.items()}


def choose_columns(reader: TableReader, options: ImportOptions) -> ColumnRoles:
    """Return what the columns are used for."""
    keys = {}
    for key in _KEYS:
        given = getattr(options, key)
        if given is not None:
            found = find_columns(reader.name, reader.all_names, f"--{key}", given)
            if len(found) > 1:
                raise ConfigError(f"`--{key} {given}` names several columns. Name one.")
            keys[key] = found[0]
    taken = set(keys.values())
    free = [name for name in reader.names if name not in taken]
    if options.label is not None:
        labels = find_columns(reader.name, reader.all_names, "--label", options.label)
        both = [name for name in labels if name in taken]
        if both:
            raise ConfigError(
                f"{both[0]!r} cannot be a label and be used by --group, --time, --split or "
                "--weight."
            )
    else:
        labels = free[-1:]
    features = [name for name in free if name not in labels]
    if not features or not labels:
        raise DataError(
            f"{reader.name} has no columns besides the labels; expected at least one feature. "
            "Name the labels with --label, or what separates the columns with --separator."
        )
    categorical = set[str]()
    if options.categorical is not None:
        words = options.categorical
        categorical = set(find_columns(reader.name, reader.all_names, "--categorical", words))
    return ColumnRoles(features, labels, keys, categorical)

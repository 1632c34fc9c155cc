"""Event files of TensorBoard: the numbers of each epoch's record, as scalars.

A file is a sequence of records (TFRecord: length, data, and a masked CRC-32C of each), whose data
is an `Event` message of protobuf. The few fields that are needed are encoded here: the package
`tensorboard` has a writer, too, but takes seconds to import on each start of a run.

A run that is resumed writes a new file, which TensorBoard reads after the older ones. It starts
with an event that has TensorBoard forget what follows its step: epochs that were recorded and
lost, because the run goes on from an older checkpoint, are not shown twice. So does a roll-back.
"""

import errno
import math
import os
import platform
import struct
import time
from collections.abc import Mapping, Sequence
from functools import cache
from pathlib import Path
from typing import Any

from distbp.errors import CheckpointError
from distbp.storage.atomic import failure_reason

FOLDER = "tensorboard"
_PREFIX = "events.out.tfevents."

# Numbers of the fields of the messages Event, Summary, Summary.Value and SessionLog.
_WALL_TIME, _STEP, _FILE_VERSION, _SUMMARY, _SESSION_LOG = 1, 2, 3, 5, 7
_VALUE, _TAG, _SIMPLE_VALUE, _STATUS, _START = 1, 1, 2, 1, 1


class TensorBoardFile:
    """The event file that a run writes.

    Parameters
    ----------
    run : Path
        The run's directory.
    """

    def __init__(self, run: Path) -> None:
        self._folder = run / FOLDER
        self._path = self._folder
        self._pending = b""
        self._last_epoch = 0

    def start(self, records: Sequence[Mapping[str, Any]]) -> None:
        """Begin a new file after the records of a run's history, which is empty for a new run.

        Raises
        ------
        CheckpointError
            It cannot be written.
        """
        try:
            self._folder.mkdir(exist_ok=True)
            names = [path.name.removeprefix(_PREFIX) for path in self._folder.glob(f"{_PREFIX}*")]
        except OSError as failure:
            raise _write_error(self._folder, failure) from failure
        # Files are read in the order of their names, and two may be begun within a second.
        stamps = [int(name[:10]) for name in names if name[:10].isdecimal()]
        stamp = max(int(time.time()), *(one + 1 for one in stamps), 0)
        self._path = self._folder / f"{_PREFIX}{stamp:010d}.{platform.node()}.{os.getpid()}"
        self._last_epoch = len(records)
        self._pending = _event(_bytes_field(_FILE_VERSION, b"brain.Event:2")) + _restart(
            len(records) + 1
        )
        if not names:  # a run that was begun without --tensorboard
            self._pending += b"".join(map(_scalars, records))
        self._write()

    def append(self, record: Mapping[str, Any]) -> None:
        """Write the record of an epoch.

        Raises
        ------
        CheckpointError
            It cannot be written; the next call tries again.
        """
        if record["epoch"] <= self._last_epoch:  # the run was rolled back
            self._pending += _restart(record["epoch"])
        self._last_epoch = record["epoch"]
        self._pending += _scalars(record)
        self._write()

    def _write(self) -> None:
        """Write what is pending, all or nothing: an incomplete record would end the file."""
        try:
            with self._path.open("ab", buffering=0) as file:
                end = file.tell()
                try:
                    if file.write(self._pending) != len(self._pending):
                        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
                except OSError:
                    file.truncate(end)
                    raise
        except OSError as failure:
            raise _write_error(self._path, failure) from failure
        self._pending = b""


def _write_error(path: Path, failure: OSError) -> CheckpointError:
    return CheckpointError(f"{path} cannot be written: {failure_reason(failure)}.")


def _scalars(record: Mapping[str, Any]) -> bytes:
    """Return the event with the numbers of an epoch's record, but for the epoch: it is the step."""
    values = b""
    for key, value in record.items():
        if isinstance(value, int | float) and not isinstance(value, bool) and key != "epoch":
            tag = _bytes_field(_TAG, key.encode())
            values += _bytes_field(_VALUE, tag + _float_field(_SIMPLE_VALUE, value))
    return _event(_int_field(_STEP, record["epoch"]) + _bytes_field(_SUMMARY, values))


def _restart(epoch: int) -> bytes:
    """Return the event by which what was recorded of this epoch, and later ones, is forgotten."""
    log = _bytes_field(_SESSION_LOG, _int_field(_STATUS, _START))
    return _event(_int_field(_STEP, epoch) + log)


def _event(fields: bytes) -> bytes:
    """Return the record of an Event of now."""
    data = _tag(_WALL_TIME, 1) + struct.pack("<d", time.time()) + fields
    length = struct.pack("<Q", len(data))
    return length + _masked_crc(length) + data + _masked_crc(data)


# Fields of protobuf: a tag of number and type, and the value.


def _tag(number: int, wire_type: int) -> bytes:
    return bytes([number << 3 | wire_type])


def _varint(value: int) -> bytes:
    """Return a number in groups of 7 bits, the lowest first."""
    groups = bytearray()
    while value > 0x7F:
        groups.append(value & 0x7F | 0x80)
        value >>= 7
    groups.append(value)
    return bytes(groups)


def _int_field(number: int, value: int) -> bytes:
    return _tag(number, 0) + _varint(value)


def _float_field(number: int, value: float) -> bytes:
    try:
        content = struct.pack("<f", value)
    except OverflowError:  # beyond float32, which is all that TensorBoard has
        content = struct.pack("<f", math.copysign(math.inf, value))
    return _tag(number, 5) + content


def _bytes_field(number: int, content: bytes) -> bytes:
    return _tag(number, 2) + _varint(len(content)) + content


# CRC-32C (Castagnoli), masked as TFRecord has it, so that the CRC of a CRC is none.


@cache
def _crc_table() -> list[int]:
    table = []
    for byte in range(256):
        crc = byte
        for _ in range(8):
            crc = crc >> 1 ^ (0x82F63B78 if crc & 1 else 0)
        table.append(crc)
    return table


def crc32c(data: bytes) -> int:
    """Return the CRC-32C of some bytes."""
    table, crc = _crc_table(), 0xFFFFFFFF
    for byte in data:
        crc = crc >> 8 ^ table[(crc ^ byte) & 0xFF]
    return crc ^ 0xFFFFFFFF


def _masked_crc(data: bytes) -> bytes:
    crc = crc32c(data)
    return struct.pack("<I", ((crc >> 15 | crc << 17) + 0xA282EAD8) & 0xFFFFFFFF)

"""The tables of a store of decisions, and how a file becomes one, or an older one is brought up to date."""

import sqlite3
import time
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path

APPLICATION = 0x7061444D  # "paDM": SQLite's mark of whose a file is
PATIENCE = 30.0  # seconds to wait for another process that writes
_PAUSE = 0.02
_OLDEST = (3, 37)  # SQLite with STRICT tables
_FIRST = """
CREATE TABLE decisions (
    sequence INTEGER PRIMARY KEY AUTOINCREMENT,
    id TEXT NOT NULL UNIQUE,
    time TEXT NOT NULL,
    source TEXT NOT NULL,
    item TEXT NOT NULL,
    stamp TEXT NOT NULL,
    image_digest TEXT NOT NULL,
    model TEXT NOT NULL,
    model_digest TEXT NOT NULL,
    score REAL,
    p_value REAL,
    verdict TEXT NOT NULL CHECK (verdict IN ('good', 'look', 'bad', 'unreadable')),
    reason TEXT NOT NULL,
    regions TEXT
) STRICT;
CREATE INDEX decisions_item ON decisions (source, item);
CREATE INDEX decisions_time ON decisions (time);
CREATE INDEX decisions_verdict ON decisions (verdict, sequence);
CREATE INDEX decisions_model ON decisions (model, sequence);
CREATE INDEX decisions_stamp ON decisions (stamp);
CREATE TABLE corrections (
    number INTEGER PRIMARY KEY AUTOINCREMENT,
    decision TEXT NOT NULL REFERENCES decisions (id),
    time TEXT NOT NULL,
    who TEXT NOT NULL,
    verdict TEXT NOT NULL CHECK (verdict IN ('good', 'look', 'bad', 'unreadable')),
    note TEXT NOT NULL,
    undone_at TEXT NOT NULL DEFAULT '',
    undone_by TEXT NOT NULL DEFAULT ''
) STRICT;
CREATE INDEX corrections_decision ON corrections (decision, number);
CREATE TABLE outbox (
    output TEXT NOT NULL,
    sequence INTEGER NOT NULL REFERENCES decisions (sequence),
    attempts INTEGER NOT NULL DEFAULT 0,
    due REAL NOT NULL DEFAULT 0,
    error TEXT NOT NULL DEFAULT '',
    PRIMARY KEY (output, sequence)
) STRICT, WITHOUT ROWID;
CREATE INDEX outbox_sequence ON outbox (sequence);
CREATE TABLE retired (
    id TEXT PRIMARY KEY,
    source TEXT NOT NULL,
    item TEXT NOT NULL,
    stamp TEXT NOT NULL
) STRICT, WITHOUT ROWID;
CREATE INDEX retired_stamp ON retired (stamp);
CREATE TABLE dropped (
    sequence INTEGER PRIMARY KEY AUTOINCREMENT,
    time TEXT NOT NULL,
    source TEXT NOT NULL,
    item TEXT NOT NULL,
    stamp TEXT NOT NULL,
    reason TEXT NOT NULL
) STRICT;
CREATE INDEX dropped_item ON dropped (source, item);
"""
_SECOND = """
ALTER TABLE retired ADD COLUMN image_digest TEXT NOT NULL DEFAULT '';
ALTER TABLE retired ADD COLUMN model TEXT NOT NULL DEFAULT '';
ALTER TABLE retired ADD COLUMN sequence INTEGER NOT NULL DEFAULT 0;
CREATE INDEX retired_item ON retired (source, item);
CREATE INDEX retired_sequence ON retired (sequence);
ALTER TABLE dropped ADD COLUMN model TEXT NOT NULL DEFAULT '';
CREATE TABLE deleted (number INTEGER PRIMARY KEY CHECK (number = 1), last INTEGER NOT NULL) STRICT;
INSERT INTO deleted SELECT 1, coalesce(max(sequence) - 1, 0) FROM decisions AS later
WHERE NOT EXISTS (SELECT 1 FROM decisions WHERE sequence = later.sequence - 1);
CREATE TABLE outputs (name TEXT PRIMARY KEY) STRICT, WITHOUT ROWID;
"""  # deleted: the highest sequence of a decision that retention has deleted; of older stores, the last gap
_THIRD = """
ALTER TABLE decisions ADD COLUMN appearance BLOB;
CREATE TABLE alarms (
    sequence INTEGER PRIMARY KEY,
    time TEXT NOT NULL,
    model TEXT NOT NULL,
    model_digest TEXT NOT NULL,
    event TEXT NOT NULL
) STRICT;
"""  # alarms: drift that was told, as JSON, by the last decision that was looked at
_FOURTH = """
CREATE TABLE changes (
    number INTEGER PRIMARY KEY AUTOINCREMENT,
    time TEXT NOT NULL,
    who TEXT NOT NULL,
    model TEXT NOT NULL,
    kind TEXT NOT NULL CHECK (kind IN ('learn', 'forget', 'undo')),
    before TEXT NOT NULL,
    after TEXT NOT NULL DEFAULT '',
    calibration TEXT NOT NULL,
    images TEXT NOT NULL
) STRICT;
CREATE INDEX changes_model ON changes (model, number);
"""  # changes: of models, by people, with the digests of images that came in or went out; after: empty until it is made
_FIFTH = """
ALTER TABLE alarms ADD COLUMN source TEXT NOT NULL DEFAULT '';
"""  # source: empty of alarms of older versions, which followed all sources of a state of a model together
_SIXTH = """
ALTER TABLE changes ADD COLUMN gone TEXT;
"""  # gone: of the images of an undo, those that went out; NULL of older versions, which did not note it
_SEVENTH = """
CREATE INDEX decisions_count ON decisions (model, verdict);
"""  # verdicts of a model are counted, as its page does every other second, without reading its decisions
_EIGHTH = """
CREATE TABLE told (
    teller TEXT NOT NULL,
    model TEXT NOT NULL,
    model_digest TEXT NOT NULL,
    quantity TEXT NOT NULL,
    sequence INTEGER NOT NULL,
    PRIMARY KEY (teller, model, model_digest, quantity)
) STRICT, WITHOUT ROWID;
"""  # told: where each teller's last alarm of a quantity of a source, as JSON, was seen; older services forgot it
# each leads from its index's schema to the next one
MIGRATIONS = (_FIRST, _SECOND, _THIRD, _FOURTH, _FIFTH, _SIXTH, _SEVENTH, _EIGHTH)


class StoreError(OSError):
    """A store can't be read or written; the message says why and what to do."""


class NotAStore(StoreError, ValueError):
    """A file that is no store of decisions, or one that a newer version wrote."""


@contextmanager
def in_words(path: Path) -> Iterator[None]:
    """Turn SQLite's errors into those of a store.

    Raises:
      StoreError: naming the store.
    """
    try:
        yield
    except sqlite3.Error as error:
        text = str(error)
        if "not a database" in text:
            raise NotAStore(f"store: {path} is no store of decisions; name another file") from error
        if "locked" in text or "busy" in text:
            why = f"another process has been writing it for {PATIENCE:g} s; try again, or end that process"
        elif "full" in text:
            why = "the disk is full; make room, nothing that was recorded is lost"
        elif "unable to open" in text:
            why = "it can't be opened; is its folder there, and may you write to it?"
        elif "readonly" in text:
            why = "it may not be written; ask for the right to, it and its folder"
        elif "malformed" in text:
            why = "it is damaged; keep a copy, and what can be saved is by: sqlite3 STORE .recover"
        else:
            why = text
        raise StoreError(f"store: {path}: {why}") from error


def connect(path: Path, *, create: bool) -> sqlite3.Connection:
    """A connection to the store at ``path``, of this version's schema.

    Raises:
      FileNotFoundError: it is not there, and not to be created.
      NotAStore: another file, or a store of a newer schema.
      StoreError: as :func:`in_words`.
    """
    if sqlite3.sqlite_version_info < _OLDEST:
        raise StoreError(f"store: Python has SQLite {sqlite3.sqlite_version}, wanted 3.37 or later")
    if not create and not path.is_file():
        raise FileNotFoundError(f"store: there is no store at {path}; padim watch --store writes one")
    if path.is_dir():
        raise NotAStore(f"store: {path} is a folder; a store is a file, choose another name")
    with in_words(path):
        connection = sqlite3.connect(path, timeout=PATIENCE, isolation_level=None, check_same_thread=False)
        try:
            _prepare_patiently(path, connection)
        except BaseException:
            connection.close()
            raise
    return connection


def _prepare_patiently(path: Path, connection: sqlite3.Connection) -> None:
    """Prepare a connection; where several processes make the store at once, SQLite does not wait by itself."""
    end = time.monotonic() + PATIENCE
    while True:
        try:
            return _prepare(path, connection)
        except sqlite3.OperationalError as error:
            if "locked" not in str(error) or time.monotonic() > end:
                raise
            time.sleep(_PAUSE)


def _prepare(path: Path, connection: sqlite3.Connection) -> None:
    connection.execute("PRAGMA trusted_schema = OFF")  # nothing that a file brings along is run
    _check(path, connection)
    if _number(connection, "user_version") < len(MIGRATIONS):
        if not _names(connection):
            connection.execute("PRAGMA auto_vacuum = INCREMENTAL")  # so that what retention deletes frees the disk
        connection.execute("PRAGMA journal_mode = WAL")  # readers don't wait for writers
        connection.execute("BEGIN IMMEDIATE")
        try:
            _check(path, connection)  # another process may have been faster
            for version in range(_number(connection, "user_version"), len(MIGRATIONS)):
                for statement in MIGRATIONS[version].split(";\n"):
                    connection.execute(statement)
                connection.execute(f"PRAGMA user_version = {version + 1}")
            connection.execute(f"PRAGMA application_id = {APPLICATION}")
            connection.execute("COMMIT")
        except BaseException:
            connection.execute("ROLLBACK")
            raise
    # a decision that was handed on must not be lost with the power: every commit waits for the disk
    connection.execute("PRAGMA synchronous = FULL")
    connection.execute("PRAGMA foreign_keys = ON")


def _check(path: Path, connection: sqlite3.Connection) -> None:
    """Refuse what is not ours, or newer than this version."""
    version, application = _number(connection, "user_version"), _number(connection, "application_id")
    names = _names(connection)
    if application != APPLICATION and (names or version or application):
        found = f" but a database of {', '.join(sorted(names)[:3])}" if names else ""
        raise NotAStore(f"store: {path} is no store of decisions{found}; name another file")
    if version > len(MIGRATIONS):
        raise NotAStore(
            f"store: {path} has schema {version}, this version reads up to {len(MIGRATIONS)}; "
            "upgrade with pip install -U padim-jax"
        )


def _names(connection: sqlite3.Connection) -> set[str]:
    rows = connection.execute("SELECT name FROM sqlite_schema WHERE name NOT LIKE 'sqlite_%'")
    return {str(name) for (name,) in rows}


def _number(connection: sqlite3.Connection, pragma: str) -> int:
    with closing(connection.execute(f"PRAGMA {pragma}")) as cursor:
        return int(cursor.fetchone()[0])

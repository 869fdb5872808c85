"""Files in a folder or under an S3 prefix, by one interface; the steps of a pipeline need not run on one machine."""

import json
import os
from pathlib import Path
from typing import Any

from pyarrow import fs

from training.errors import PipelineError, TransientError

S3 = "s3://"
ENDPOINTS = ("AWS_ENDPOINT_URL_S3", "AWS_ENDPOINT_URL")
"""Another S3 server than Amazon's, as AWS's own tools name it."""
DEADLINE = 10
"""Seconds for a connection and for an answer of S3."""


def s3_endpoint() -> str | None:
    """The S3 server that the environment names, or None for Amazon's."""
    return next((os.environ[name] for name in ENDPOINTS if os.environ.get(name)), None)


def open_filesystem(uri: str) -> tuple[fs.FileSystem, str]:
    """The file system of `s3://bucket/prefix` or a folder, and the path in it.

    Raises:
        PipelineError: The URI is of another kind.
    """
    if uri.startswith(S3):
        s3 = fs.S3FileSystem(endpoint_override=s3_endpoint(), connect_timeout=DEADLINE, request_timeout=DEADLINE)
        return s3, uri.removeprefix(S3).rstrip("/")
    if "://" in uri:
        msg = f"{uri}: name a folder or s3://bucket/prefix"
        raise PipelineError(msg)
    return fs.LocalFileSystem(), str(Path(uri).absolute())


class Storage:
    """Whole files under a root, a folder or an S3 prefix. A file appears whole or not at all.

    Every method raises `TransientError` when the place does not answer.
    """

    def __init__(self, uri: str) -> None:
        """Opens the root; nothing is read or made.

        Raises:
            PipelineError: The URI is of another kind.
        """
        self.uri = uri.rstrip("/")
        self._files, self._root = open_filesystem(uri)

    def under(self, name: str) -> "Storage":
        """The storage of a folder in this one."""
        return Storage(f"{self.uri}/{name}")

    def read(self, name: str) -> bytes | None:
        """A file's content; None if there is no such file."""
        try:
            with self._files.open_input_file(f"{self._root}/{name}") as file:
                return file.read()
        except FileNotFoundError:
            return None
        except OSError as error:
            raise self._transient(name, error) from error

    def write(self, name: str, content: bytes) -> None:
        """Writes a file, in the place of an earlier one."""
        path = f"{self._root}/{name}"
        try:
            if isinstance(self._files, fs.LocalFileSystem):
                self._files.create_dir(str(Path(path).parent))
                with self._files.open_output_stream(f"{path}.part") as file:
                    file.write(content)
                self._files.move(f"{path}.part", path)
            else:
                with self._files.open_output_stream(path) as file:
                    file.write(content)
        except OSError as error:
            raise self._transient(name, error) from error

    def read_json(self, name: str) -> Any | None:  # noqa: ANN401 - JSON is anything
        """A file of JSON; None if there is no such file."""
        content = self.read(name)
        return None if content is None else json.loads(content)

    def write_json(self, name: str, value: Any) -> None:  # noqa: ANN401 - JSON is anything
        """Writes a value as JSON."""
        self.write(name, (json.dumps(value, indent=1, ensure_ascii=False, allow_nan=False) + "\n").encode())

    def _transient(self, name: str, error: OSError) -> TransientError:
        return TransientError(f"{self.uri}/{name}: {error}")

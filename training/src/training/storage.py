"""Files in a folder or under an S3 prefix, by one interface; the steps of a pipeline need not run on one machine."""

import json
import os
from pathlib import Path
from typing import Any

from pyarrow import fs

from training.data.days import DataError
from training.errors import TransientError

ENDPOINTS = ("AWS_ENDPOINT_URL_S3", "AWS_ENDPOINT_URL")
"""Another S3 server than Amazon's, as AWS's own tools name it."""


def s3_endpoint() -> str | None:
    """The S3 server that the environment names, or None for Amazon's."""
    return next((os.environ[name] for name in ENDPOINTS if os.environ.get(name)), None)


def open_filesystem(where: str) -> tuple[fs.FileSystem, str]:
    """The file system and the path of `s3://bucket/prefix` or of a folder.

    S3 credentials and region come from where AWS tools look for them.

    Raises:
        DataError: Another scheme, or no bucket.
    """
    scheme, separator, rest = where.partition("://")
    if not separator:
        return fs.LocalFileSystem(), str(Path(where).absolute())
    if scheme != "s3" or not rest.strip("/"):
        msg = f"{where!r} is neither a folder nor s3://bucket/prefix"
        raise DataError(msg)
    region = os.environ.get("AWS_REGION") or os.environ.get("AWS_DEFAULT_REGION")
    options: dict[str, str] = {"region": region} if region else {}
    if endpoint := s3_endpoint():
        options |= {"endpoint_override": endpoint, "region": region or "us-east-1"}
    retry = fs.AwsStandardS3RetryStrategy(max_attempts=4)
    s3 = fs.S3FileSystem(connect_timeout=10, request_timeout=60, retry_strategy=retry, **options)
    return s3, rest.strip("/")


class Storage:
    """Whole files under a root, a folder or an S3 prefix. A file appears whole or not at all.

    Every method raises `TransientError` when the place does not answer.
    """

    def __init__(self, uri: str) -> None:
        """Opens the root; nothing is read or made.

        Raises:
            DataError: The URI is of another kind.
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

    def folders(self) -> list[str]:
        """The names of the folders right under the root, in order."""
        try:
            found = self._files.get_file_info(fs.FileSelector(self._root, allow_not_found=True))
        except OSError as error:
            raise self._transient(self._root, error) from error
        return sorted(one.base_name for one in found if one.type == fs.FileType.Directory)

    def read_json(self, name: str) -> Any | None:  # noqa: ANN401 - JSON is anything
        """A file of JSON; None if there is no such file."""
        content = self.read(name)
        return None if content is None else json.loads(content)

    def write_json(self, name: str, value: Any) -> None:  # noqa: ANN401 - JSON is anything
        """Writes a value as JSON."""
        self.write(name, (json.dumps(value, indent=1, ensure_ascii=False, allow_nan=False) + "\n").encode())

    def _transient(self, name: str, error: OSError) -> TransientError:
        return TransientError(f"{self.uri}/{name}: {error}")

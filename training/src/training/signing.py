"""The private key that signs manifests: a file, or a secret of AWS Secrets Manager, a file only while it is used."""

import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from training.errors import PipelineError, TransientError

ARN = "arn:"
PARTS = 7
"""Of a secret's ARN: `arn:aws:secretsmanager:eu-west-1:111122223333:secret:NAME-AbCdEf`."""
SECONDS = {"connect_timeout": 10, "read_timeout": 10}
"""For Secrets Manager, twice at most. A function has 300 for its step."""
FAILS = 500
"""HTTP statuses from this one on are the service's own."""


@contextmanager
def flags(named: str) -> Iterator[list[str | Path]]:
    """What `onnxd push` is told, so that it signs; nothing where no key is named.

    Args:
        named: A file, or the ARN of a secret with the key as text.

    Raises:
        PipelineError: The secret is not there, is empty, or may not be read.
        TransientError: Secrets Manager does not answer.
    """
    if not named.startswith(ARN):
        yield ["--sign-with", named] if named else []
        return
    # Its mode is 0600. A pipe would not do: the program reads the key before it writes anything, and then once more.
    with tempfile.NamedTemporaryFile("w", prefix=f"{named.rpartition(':')[2]}-") as file:
        file.write(_secret(named))
        file.flush()
        yield ["--sign-with", Path(file.name)]


def _secret(arn: str) -> str:
    """A secret's text. What is said of failures never has it."""
    import boto3  # noqa: PLC0415 - a third of a second, and only one function needs it
    from botocore import exceptions as failures  # noqa: PLC0415
    from botocore.config import Config  # noqa: PLC0415

    parts = arn.split(":")
    if len(parts) != PARTS or parts[2] != "secretsmanager":
        msg = f"TRAINING_SIGN_WITH is {arn!r}: name a file, or the ARN of a secret of Secrets Manager"
        raise PipelineError(msg)
    config = Config(**SECONDS, retries={"mode": "standard", "total_max_attempts": 2})
    try:
        found = boto3.client("secretsmanager", region_name=parts[3], config=config).get_secret_value(SecretId=arn)
    except failures.ClientError as error:
        message = f"the key in {arn}: {error}"
        said = error.response
        if said["ResponseMetadata"]["HTTPStatusCode"] >= FAILS or "Throttling" in said["Error"]["Code"]:
            raise TransientError(message) from error
        msg = f"{message}; docs/deploy.md says how the key is put in, and who may read it"
        raise PipelineError(msg) from error
    except (failures.ConnectionError, failures.HTTPClientError) as error:
        msg = f"the key in {arn}: {error}"
        raise TransientError(msg) from error
    except failures.BotoCoreError as error:
        msg = f"the key in {arn}: {error}"
        raise PipelineError(msg) from error
    if not found.get("SecretString"):
        msg = f"the key in {arn}: the secret holds no text; docs/deploy.md says how the key is put in"
        raise PipelineError(msg)
    return found["SecretString"]

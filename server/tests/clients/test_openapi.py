"""What `/openapi.json` says is what the server does: requests made up from its schemas, and from what they forbid."""

from collections.abc import Iterator

import pytest
import schemathesis
from hypothesis import HealthCheck, given, settings
from schemathesis import GenerationMode
from schemathesis.checks import not_a_server_error
from schemathesis.specs.openapi.checks import (
    content_type_conformance,
    negative_data_rejection,
    positive_data_acceptance,
    response_schema_conformance,
    status_code_conformance,
)

import repository
from repository import Export
from running import Server

# With a manifest, one input a column with text, token ids, rows of a fixed number, no rows at all, maps of classes.
MODELS = ["anomaly", "sklearn-pipeline", "tokens", "fixed-batch", "unlike-axes", "sklearn-zipmap", "type-bool"]

# A schema cannot say that rows must be of one size, or that a model knows only some words.
OWN_RULES = {"sklearn-pipeline", "tokens", "unlike-axes"}

ANSWERED = [
    content_type_conformance,
    response_schema_conformance,
    status_code_conformance,
]
EXACT = [*ANSWERED, not_a_server_error, negative_data_rejection, positive_data_acceptance]
ENOUGH = settings(
    max_examples=40,
    deadline=None,
    derandomize=True,
    database=None,
    suppress_health_check=list(HealthCheck),
)


@pytest.fixture(scope="module")
def small(models: dict[str, Export], tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    root = tmp_path_factory.mktemp("openapi")
    repository.copy(models, [name for name in MODELS if name in models], root)
    # A schema cannot say what about now is: any time is taken.
    arguments = ["--default-model", "anomaly", "--max-rows", "64", "--event-time"]
    with Server(tmp_path_factory.mktemp("openapi-server"), root, *arguments) as started:
        yield started.ready()


@pytest.fixture(scope="module")
def api(small: Server) -> schemathesis.BaseSchema:
    return schemathesis.openapi.from_url(f"http://{small.http}/openapi.json")


def ask(api: schemathesis.BaseSchema, path: str, checks: list) -> None:
    """Makes requests up that the schema allows, and others that it forbids."""
    for mode in GenerationMode.POSITIVE, GenerationMode.NEGATIVE:

        @ENOUGH
        @given(case=api[path]["POST"].as_strategy(generation_mode=mode))
        def made_up(case: schemathesis.Case) -> None:
            case.call_and_validate(checks=checks)

        made_up()


@pytest.mark.parametrize("name", MODELS)
def test_named_json(api: schemathesis.BaseSchema, name: str) -> None:
    """Named JSON is described exactly: what fits is answered, what does not is refused."""
    ask(api, f"/models/{name}/predict", [*ANSWERED, negative_data_rejection] if name in OWN_RULES else EXACT)


def test_feedback(api: schemathesis.BaseSchema) -> None:
    """What fits is taken, but for a window that ends before it begins, which a schema cannot forbid."""
    ask(api, "/models/anomaly/feedback", [*ANSWERED, not_a_server_error, negative_data_rejection])


def test_default_model(api: schemathesis.BaseSchema) -> None:
    ask(api, "/predict", EXACT)


@pytest.mark.parametrize("name", MODELS)
@pytest.mark.parametrize("path", ["/v2/models/{}/infer", "/v1/models/{}:predict"])
def test_other_dialects(api: schemathesis.BaseSchema, path: str, name: str) -> None:
    """Shapes and data must agree in the others, which a schema cannot say: whatever comes is answered as described."""
    ask(api, path.format(name), ANSWERED if name in OWN_RULES else [*ANSWERED, not_a_server_error])


def test_invocations(api: schemathesis.BaseSchema) -> None:
    ask(api, "/invocations", [*ANSWERED, not_a_server_error])


def test_examples(small: Server) -> None:
    """Each example of the document is answered."""
    document = small.call("GET", "/openapi.json").json
    asked = 0
    for path, methods in document["paths"].items():
        content = methods["post"]["requestBody"]["content"]["application/json"]
        for example in content["examples"].values():
            reply = small.call("POST", path, example["value"])
            expected = 202 if path.endswith("/feedback") else 200
            assert reply.status == expected, f"{path} {example['value']}: {reply.text}"
            asked += 1
    # Named, feedback, Open Inference Protocol and KServe v1 of each model; the default one at three paths more.
    assert asked == 4 * len(MODELS) + 3


def test_one_model(small: Server) -> None:
    everything = small.call("GET", "/openapi.json").json
    one = small.call("GET", "/models/tokens/openapi.json").json
    assert [tag["name"] for tag in one["tags"]] == ["tokens"]
    assert one["components"]["schemas"]["tokens.Row"] == everything["components"]["schemas"]["tokens.Row"]
    assert small.call("GET", "/models/nobody/openapi.json").status == 404


def test_page(small: Server) -> None:
    """The page and what it needs come from the server, and may come from nowhere else."""
    page = small.call("GET", "/docs")
    assert page.status == 200
    assert page.headers["content-security-policy"].startswith("default-src 'none'")
    for path, kind in [("/docs/page.js", "text/javascript"), ("/docs/page.css", "text/css")]:
        assert path in page.text
        reply = small.call("GET", path)
        assert reply.headers["content-type"].startswith(kind)

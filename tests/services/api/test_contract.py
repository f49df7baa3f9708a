"""The HTTP interface against its own description, by requests that schemathesis makes up.

Its plugin for pytest is not used: it hangs on internals of pytest.
"""

import copy

import pytest
import schemathesis
from hypothesis import HealthCheck, given, settings
from schemathesis.generation import GenerationMode
from schemathesis.specs.openapi.checks import positive_data_acceptance

from services.supervisor.actions import action_functions
from services.supervisor.plan_list import PLANS
from tests.services.api.lab import TOKENS
from tests.services.api.test_app import ROUTES

# The first does not end, and the second is not described.
OPERATIONS = [route for route in ROUTES if route[1] not in {"/events", "/openapi.json"}]
CASES = [
    (method, path, mode)
    for method, path in OPERATIONS
    for mode in GenerationMode
    # Where there are no parameters, none can be wrong.
    if mode.is_positive or method != "GET" or path == "/history"
]
PATH_OF = dict.fromkeys((name for name, _ in PLANS), "/commands") | dict.fromkeys(
    (function.__name__ for function in action_functions()), "/immediate"
)
TOKEN = {"Authorization": f"Bearer {TOKENS['ann']}"}  # staff: nothing is forbidden
EXAMPLES = settings(
    max_examples=10,
    deadline=None,
    derandomize=True,
    database=None,
    suppress_health_check=list(HealthCheck),
)


@pytest.fixture(scope="module")
def document(server):
    """Give what the server says of itself; tokens are tested elsewhere."""
    document = copy.deepcopy(server.app.openapi())
    for operations in document["paths"].values():
        for operation in operations.values():
            operation.pop("security", None)
    return document


@pytest.fixture(scope="module")
def described(document):
    return schemathesis.openapi.from_dict(document)


@pytest.fixture
def staff(server):
    """A client of staff; no session of it has control at first."""
    client = server.client("ann")
    for verb in ("take", "release"):
        assert client.post(f"/control/{verb}").status_code == 200
    return client


@pytest.fixture
def known(staff):
    """The path to a request that waits, at first."""
    answer = staff.post("/commands", json={"function": "snap", "held": True})
    assert answer.status_code == 202
    return {"id": answer.json()["id"]}


@pytest.mark.usefixtures("staff")
@pytest.mark.parametrize(("method", "path", "mode"), CASES)
def test_answers_are_as_described(server, described, method, path, mode):
    check(server, described[path][method].as_strategy(generation_mode=mode))


@pytest.mark.parametrize(("method", "path"), [one for one in OPERATIONS if "{id}" in one[1]])
def test_answers_about_a_request_that_there_is_are_as_described(
    server, described, known, method, path
):
    check(server, described[path][method].as_strategy(path_parameters=known))


@pytest.mark.usefixtures("staff")
@pytest.mark.parametrize("mode", GenerationMode)
@pytest.mark.parametrize(("function", "path"), PATH_OF.items())
def test_answers_to_each_command_are_as_described(server, document, function, path, mode):
    narrowed = copy.deepcopy(document)
    content = narrowed["paths"][path]["post"]["requestBody"]["content"]["application/json"]
    parameters = _moved(server.desk.registry[function].signature.parameters, narrowed)
    content["schema"] = {
        "type": "object",
        "properties": {"function": {"const": function}, "kwargs": parameters},
        "required": ["function", *(["kwargs"] if "required" in parameters else [])],
        "additionalProperties": False,
    }
    operation = schemathesis.openapi.from_dict(narrowed)[path]["POST"]
    check(server, operation.as_strategy(generation_mode=mode))


def _moved(schema, document):
    """Move the definitions of a schema to where OpenAPI has them."""
    if isinstance(schema, list):
        return [_moved(one, document) for one in schema]
    if not isinstance(schema, dict):
        return schema
    for key, definition in schema.get("$defs", {}).items():
        document["components"]["schemas"][key] = _moved(definition, document)
    if "$ref" in schema:
        return {"$ref": schema["$ref"].replace("#/$defs/", "#/components/schemas/")}
    return {key: _moved(one, document) for key, one in schema.items() if key != "$defs"}


def check(server, strategy):
    """Check that answers have a status, headers and a form that are described, and none is 5xx.

    What fits a schema may be refused all the same: not all rules can be said in one.
    """

    @EXAMPLES
    @given(strategy)
    def check_one(case):
        case.call_and_validate(
            base_url=server.uri, headers=TOKEN, excluded_checks=[positive_data_acceptance]
        )

    check_one()

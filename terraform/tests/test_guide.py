"""What docs/deploy.md tells a user to type and to expect, as far as it is of Terraform."""

import re

import pytest

from stack import REPOSITORY, ROOT

GUIDE = (REPOSITORY / "docs/deploy.md").read_text()

def test_the_guide_has_every_variable_with_its_default():
    guide = (REPOSITORY / "docs/deploy.md").read_text()
    table = guide[guide.index("| variable | default |") :].split("\n\n")[0]
    rows = dict(re.findall(r"^\| `(\w+)` \| `?([^|`]+)`? \|", table, re.MULTILINE))
    text = (ROOT / "variables.tf").read_text()
    blocks = dict(re.findall(r'^variable "(\w+)" {\n(.*?)^}', text, re.MULTILINE | re.DOTALL))
    assert rows.keys() == blocks.keys()
    for name, body in blocks.items():
        found = re.search(r"^  default +=+ (.+)$", body, re.MULTILINE)
        default = found[1].strip('"') if found and found[1] != "null" else "none"
        assert rows[name] == ("3, 3, 6" if default == "{ min = 3, desired = 3, max = 6 }" else default), name


def test_the_guide_asks_for_outputs_and_secrets_that_are_there(outputs):
    guide = (REPOSITORY / "docs/deploy.md").read_text()
    asked = set(re.findall(r"output -raw (\w+)", guide))
    assert asked == {"model_repository", "experiment_template_id", "state_machine_arn"}
    assert asked <= outputs.keys()
    assert set(re.findall(r"ml-anomaly/[a-z-]+", guide)) <= set(outputs["secret_names"])
    properties = set(re.findall(r"key: ml-anomaly/alertmanager, property: ([\w-]+)", TEXT))
    assert properties == set(re.findall(r'"([a-z-]+)": \$[sp]', guide))

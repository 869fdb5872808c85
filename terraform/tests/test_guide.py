"""What docs/deploy.md and the pages that it leads to tell a user to type, held to the code."""

import base64
import os
import re
import subprocess
from pathlib import Path

import pytest

from stack import REPOSITORY, ROOT

DOCS = REPOSITORY / "docs"
GUIDE = (DOCS / "deploy.md").read_text()
PAGES = [
    DOCS / f"{name}.md" for name in ("deploy", "gitops", "install", "kubernetes", "images", "operations", "training")
]
TEXT = "\n".join(page.read_text() for page in PAGES)
SECRETS = (REPOSITORY / "k8s/overlays/production/secrets/secrets.yaml").read_text()
VARIABLES = dict(
    re.findall(r'^variable "(\w+)" {\n(.*?)^}', (ROOT / "variables.tf").read_text(), re.MULTILINE | re.DOTALL)
)


@pytest.fixture(scope="module")
def outputs(applied) -> dict:
    return {name: one["value"] for name, one in applied.shown()["values"]["outputs"].items()}


def table(head: str) -> dict[str, str]:
    """The first two columns of the table that begins so."""
    lines = GUIDE[GUIDE.index(head) :].split("\n\n")[0]
    return dict(re.findall(r"^\| `(.+?)` \| (.+?) \|", lines, re.MULTILINE))


def commands(beginning: str) -> list[str]:
    """The guide's lines of commands that begin so."""
    return re.findall(rf"^{beginning}.*$", GUIDE, re.MULTILINE)


def anchors(page: Path) -> set[str]:
    """What links may name in a page."""
    headings = re.findall(r"^#+ (.*)$", page.read_text(), re.MULTILINE)
    return {re.sub(r"[^\w -]", "", heading.lower()).replace(" ", "-") for heading in headings}


def test_the_guide_has_every_variable_with_its_default():
    rows = table("| variable | default |")
    assert rows.keys() == VARIABLES.keys()
    for name, body in VARIABLES.items():
        found = re.search(r"^  default +=+ (.+)$", body, re.MULTILINE)
        default = found[1].strip('"') if found and found[1] != "null" else "none"
        assert rows[name].strip("`") == ("3, 3, 6" if default == "{ min = 3, desired = 3, max = 6 }" else default), name


def test_the_guide_has_every_module():
    assert table("| module | what it makes |").keys() == {path.name for path in (ROOT / "modules").iterdir()}


def test_the_guide_names_outputs_variables_and_resources_that_are_there(outputs, made):
    asked = set(re.findall(r"output -raw (\w+)", TEXT))
    assert len(asked) >= 6
    assert all(isinstance(outputs[name], str) for name in asked), "-raw tells texts only"
    assert {"account_id", "region", "services_cidr"} <= outputs.keys()  # what goes into the manifests
    assert set(re.findall(r"-var (\w+)=", TEXT)) <= VARIABLES.keys()
    addresses = {one.address for one in made}
    named = re.findall(r"-target=([\w.]+)|import '([^']+)'|state rm ([\w.]+)", GUIDE)
    assert len(named) == 4
    for name in ("".join(one) for one in named):
        assert any(address == name or address.startswith(f"{name}.") for address in addresses), name


def test_the_guide_asks_for_secrets_that_are_there(outputs):
    assert set(re.findall(r"ml-anomaly/[a-z-]+", GUIDE)) <= set(outputs["secret_names"])
    properties = set(re.findall(r"key: ml-anomaly/alertmanager, property: ([\w-]+)", SECRETS))
    assert properties == set(re.findall(r'"([a-z-]+)": \$[sp]', GUIDE))


def test_the_guide_puts_values_into_secrets_that_are_empty(made):
    filled = {one.values["secret_id"] for one in made if one.type == "aws_secretsmanager_secret_version"}
    empty = {
        one.values["name"] for one in made if one.type == "aws_secretsmanager_secret" and one.values["id"] not in filled
    }
    assert set(re.findall(r"put-secret-value --secret-id (\S+)", GUIDE)) == empty


def test_the_guide_makes_a_key_that_signs_the_first_model(tmp_path):
    """Its commands as they stand, with a folder for the bucket and a file for the secret."""
    built = [REPOSITORY / "target" / profile / "onnxd" for profile in ("release", "debug")]
    program = next((path for path in [Path(os.environ.get("ONNXD_BINARY", "")), *built] if path.is_file()), None)
    if program is None:
        pytest.skip("onnxd is not built: cargo build -p onnxd")
    (commands,) = re.findall(r"^```\n(key=.*?)^```$", GUIDE, re.MULTILINE | re.DOTALL)
    overlay = tmp_path / "k8s/overlays/production/anomaly-api"
    for folder in (overlay, tmp_path / "target/release", tmp_path / "bucket", tmp_path / "temporary"):
        folder.mkdir(parents=True)
    (tmp_path / "target/release/onnxd").symlink_to(program.resolve())
    (tmp_path / "models").symlink_to(REPOSITORY / "models")
    theirs = """
      aws() { stat --format %a "${6#file://}" > mode; cat "${6#file://}" > "secret-$4"; }
      terraform() { echo "$PWD/bucket"; }
    """
    environment = os.environ | {"TMPDIR": str(tmp_path / "temporary")}
    words = ["bash", "-euc", theirs + commands]
    done = subprocess.run(words, cwd=tmp_path, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert (tmp_path / "mode").read_text() == "600\n"
    assert "PRIVATE KEY" in (tmp_path / "secret-ml-anomaly-signing-key").read_text()
    assert list((tmp_path / "temporary").iterdir()) == []
    version = tmp_path / "bucket/anomaly/1"
    (tmp_path / "signature").write_bytes(base64.b64decode((version / "manifest.json.sig").read_text()))
    check = ["openssl", "pkeyutl", "-verify", "-pubin", "-inkey", str(overlay / "trusted.pem"), "-rawin"]
    check += ["-in", str(version / "manifest.json"), "-sigfile", str(tmp_path / "signature")]
    subprocess.run(check, check=True, capture_output=True)


def test_the_line_that_turns_signatures_off_is_there():
    overlay = (REPOSITORY / "k8s/overlays/production/anomaly-api/kustomization.yaml").read_text()
    (name,) = re.findall(
        r"take the line `(\w+)` out of `k8s/overlays/production/anomaly-api/kustomization.yaml`", GUIDE
    )
    assert len(re.findall(rf"^ +- {name}=", overlay, re.MULTILINE)) == 1


def test_the_guide_sets_the_variables_that_workflows_read():
    workflows = "\n".join(path.read_text() for path in (REPOSITORY / ".github/workflows").glob("*.yml"))
    read = set(re.findall(r"\bvars\.(\w+)", workflows))
    assert read == set(re.findall(r"^gh variable set (\w+)", GUIDE, re.MULTILINE))
    assert all(f"`{name}`" in (DOCS / "install.md").read_text() for name in read)


def test_the_commands_that_write_files_write_what_terraform_takes(spoilt):
    lines = commands('sed "s/') + commands("echo '")
    assert len(lines) == 4
    theirs = "curl() { echo 198.51.100.9; }; account=999900001111; AWS_REGION=eu-north-1"
    script = "\n".join([theirs, *lines])
    subprocess.run(["bash", "-eu"], input=script, cwd=spoilt.root.parent, text=True, check=True)
    backend = (spoilt.root / "backend.tf").read_text()
    assert re.findall(r'= "(.+)"', backend) == [
        "ml-anomaly-terraform-999900001111",
        "ml-anomaly-eks/terraform.tfstate",
        "eu-north-1",
    ]
    # Terraform would ask AWS for it.
    (spoilt.root / "backend.tf").unlink()
    values = spoilt.root / "terraform.tfvars"
    values.write_text(values.read_text().replace("OWNER@ID/NAME@ID", "octocat@1/onnxd@2"))
    spoilt.given = {}
    spoilt.terraform("init", "-backend=false")
    given = {name: one["value"] for name, one in spoilt.plan()["variables"].items()}
    assert given["region"] == "eu-north-1"
    assert given["api_cidrs"] == ["198.51.100.9/32"]
    assert (given["training_image_tag"], given["github_repository"]) == ("0.1.0", "octocat@1/onnxd@2")


def test_the_guide_pushes_the_images_under_the_tag_that_manifests_name(outputs):
    (names,) = re.findall(r"^for image in (.*); do\n  skopeo", GUIDE, re.MULTILINE)
    assert set(names.split()) == outputs["image_repositories"].keys()
    (tag,) = re.findall(r"skopeo copy \S+ docker://\$registry/\$image:(\S+)", GUIDE)
    images = (REPOSITORY / "k8s/overlays/production/images/kustomization.yaml").read_text()
    assert set(re.findall(r"newTag: (\S+)", images)) == {tag}


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.stem)
def test_links_lead_somewhere(page):
    links = re.findall(r"\]\((?!https?:)([^)\s]+)\)", page.read_text())
    assert links
    for link in links:
        path, _, anchor = link.partition("#")
        target = (page.parent / path).resolve() if path else page
        assert target.exists(), link
        assert not anchor or anchor in anchors(target), link


@pytest.mark.parametrize("name", ["deploy", "gitops", "install", "operations"])
def test_commands_are_bash(name):
    fenced = re.findall(r"^```(\w*)\n(.*?)^```$", (DOCS / f"{name}.md").read_text(), re.MULTILINE | re.DOTALL)
    blocks = [block for language, block in fenced if not language]
    assert blocks
    for block in blocks:
        done = subprocess.run(["bash", "-n"], input=block, capture_output=True, text=True, check=False)
        assert done.returncode == 0, block + done.stderr

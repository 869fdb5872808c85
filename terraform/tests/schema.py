"""Rebuilds the providers' schemas, as far as `terraform/` uses them, from the npm packages of CDK for Terraform.

The packages `@cdktf/provider-*` are generated from the output of `terraform providers schema -json`, and carry their
TypeScript source in the source maps. It names each argument, its type, and whether it is required, optional or
computed; this script turns that back into the same JSON. What the packages do not tell: defaults, which arguments
conflict, the provider's own checks of values, which change replaces a resource, and ephemeral resources, which are
derived from their like (`ephemeral` below).

    npm pack @cdktf/provider-aws@21.22.1 @cdktf/provider-helm@12.1.2 @cdktf/provider-random@12.0.1
    python terraform/tests/schema.py cdktf-provider-*.tgz

writes `schemas.json` anew, after a resource of another kind was added, or a provider's version was raised.
"""

import base64
import json
import re
import sys
import tarfile
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
SCHEMAS = Path(__file__).with_name("schemas.json")
SOURCES = "registry.terraform.io/hashicorp/"

# Written with protocol 6 and its nested attributes, `kubernetes = {..}`; AWS has blocks, `kubernetes {..}`.
NESTED = {"helm"}
SIMPLE = {"string": "string", "number": "number", "boolean": "bool", "any": "dynamic"}
GETTERS = {
    "getStringAttribute": "string",
    "getNumberAttribute": "number",
    "getBooleanAttribute": "bool",
    "getListAttribute": ["list", "string"],
    "getNumberListAttribute": ["list", "number"],
    "getStringMapAttribute": ["map", "string"],
    "getNumberMapAttribute": ["map", "number"],
    "getBooleanMapAttribute": ["map", "bool"],
}
MAPS = {
    "cdktf.StringMap": ["map", "string"],
    "cdktf.NumberMap": ["map", "number"],
    "cdktf.BooleanMap": ["map", "bool"],
}

Block = dict[str, Any]


def used() -> dict[str, set[tuple[str, str]]]:
    """The provider's resources and data sources that the modules name, as (kind, type) by provider."""
    found: dict[str, set[tuple[str, str]]] = {}
    for path in ROOT.rglob("*.tf"):
        for kind, name in re.findall(r'^(resource|data|ephemeral) "(\w+)"', path.read_text(), re.MULTILINE):
            if not name.startswith("terraform_"):
                found.setdefault(name.split("_")[0], set()).add((kind, name))
    return found


class Source:
    """The TypeScript of one resource, data source or provider."""

    def __init__(self, javascript: str, provider: str) -> None:
        """Takes the source out of the map at the end of the file."""
        found = re.search(r"sourceMappingURL=data:application/json;base64,(\S+)", javascript)
        if found is None:
            msg = "a package without source maps: this script knows how to read no other"
            raise ValueError(msg)
        self.text: str = json.loads(base64.b64decode(found[1]))["sourcesContent"][0]
        self.nested = provider in NESTED
        version = re.search(r"providerVersion: '([^']+)'", self.text)
        self.version = version[1] if version else ""

    def body(self, start: str) -> str:
        """From the line that begins with `start` to the closing brace in the first column; "" if there is none."""
        found = re.search(rf"^{re.escape(start)}\b.*?^\}}", self.text, re.MULTILINE | re.DOTALL)
        return found[0] if found else ""

    def main(self) -> str:
        """The name of the class of the resource, the data source or the provider."""
        found = re.search(
            r"^export class (\w+) extends cdktf\.Terraform(Resource|DataSource|Provider)\b", self.text, re.MULTILINE
        )
        if found is None:
            msg = "a package without the class that it is for"
            raise ValueError(msg)
        return found[1]

    def block(self, name: str) -> Block:
        """The schema of one structure, with all that is in it."""
        main = name == self.main()
        text = self.body(f"export class {name}") if main else self.body(f"export class {name}OutputReference")
        written = text if main else self.body(f"export function {name[0].lower()}{name[1:]}ToHclTerraform")
        parts = re.split(r"^  // (\w+) - computed: (\w+), optional: (\w+), required: (\w+)$", text, flags=re.MULTILINE)[
            1:
        ]
        flags = {
            parts[i]: (*(p == "true" for p in parts[i + 1 : i + 4]), parts[i + 4]) for i in range(0, len(parts), 5)
        }
        entries = {m[1]: m[2] for m in re.finditer(r"^ +(\w+): \{\n((?: +\w+: .*\n)+?) +\},?$", written, re.MULTILINE)}
        if not flags:  # a provider's structures have no class: whether something is required is in the interface only
            shape = self.body(f"export interface {name}")
            optional = {m[1]: m[2] == "?" for m in re.finditer(r"#(\w+) \w+#.*?readonly \w+(\??):", shape, re.DOTALL)}
            flags = {k: (False, optional[k], not optional[k], "") for k in entries}
        block: Block = {"attributes": {}, "block_types": {}}
        for attribute, (computed, optional, required, code) in sorted(flags.items()):
            if main and attribute == "alias":  # Terraform's own
                continue
            said = {k: True for k, v in (("required", required), ("optional", optional), ("computed", computed)) if v}
            if attribute.endswith("_wo") and not computed:
                said["write_only"] = True
            self._add(block, attribute, said, entries.get(attribute, ""), code)
        return {k: v for k, v in block.items() if v}

    def _add(self, block: Block, attribute: str, said: dict[str, bool], entry: str, code: str) -> None:
        kind = re.search(r'type: "(\w+)"', entry)
        inner = re.search(r"(\w+)ToHclTerraform[,(]", entry)
        if entry and "isBlock: true" not in entry:
            storage = re.search(r'storageClassType: "(\w+)"', entry)
            assert kind, attribute
            assert storage, attribute
            block["attributes"][attribute] = {"type": _type(kind[1], storage[1]), **said}
        elif not entry:  # computed only
            block["attributes"][attribute] = {"type": self._computed(code), **said}
        else:
            assert kind, attribute
            assert inner, attribute
            name = inner[1][0].upper() + inner[1][1:]
            mode = "single" if kind[1] == "struct" else kind[1]
            one = "listMapperHcl" not in entry
            if self.nested and attribute != "timeouts":
                attributes = self.block(name)["attributes"]
                block["attributes"][attribute] = {
                    "nested_type": {"attributes": attributes, "nesting_mode": mode},
                    **said,
                }
            elif said.get("computed"):  # an attribute that is written like a block, or not at all
                block["attributes"][attribute] = {"type": [mode, self._object(self.block(name))], **said}
            else:
                limits = {"min_items": 1} if said.get("required") else {}
                if one and mode != "single":
                    limits["max_items"] = 1
                block["block_types"][attribute] = {"nesting_mode": mode, "block": self.block(name), **limits}

    def _computed(self, code: str) -> Any:
        made = re.search(r"= new ([\w.]+)\(this, \"\w+\"(?:, (true|false))?\)", code)
        if made and made[1] in MAPS:
            return MAPS[made[1]]
        if made:
            name = re.sub(r"(OutputReference|List)$", "", made[1])
            shape = self._object(self.block(name))
            return shape if made[1].endswith("OutputReference") else ["set" if made[2] == "true" else "list", shape]
        got = re.search(r"this\.(get\w+Attribute)\(", code)
        assert got, code
        kind = GETTERS[got[1]]
        return ["set", kind[1]] if "cdktf.Fn.tolist(" in code and isinstance(kind, list) else kind

    def _object(self, block: Block) -> Any:
        shape = {k: v["type"] for k, v in block.get("attributes", {}).items()}
        for name, inner in block.get("block_types", {}).items():
            shape[name] = [inner["nesting_mode"], self._object(inner["block"])]
        return ["object", shape]


def _type(kind: str, storage: str) -> Any:
    if kind == "simple":
        return SIMPLE[storage]
    of = re.fullmatch(r"(string|number|boolean|any)(List|Map)", storage)
    if of is None:
        msg = f"{kind} of {storage} is not known here"
        raise ValueError(msg)
    return [kind, SIMPLE[of[1]]]


def ephemeral(name: str, schemas: Block) -> Block:
    """Schemas of ephemeral resources, which the packages lack, from those of what they are the ephemeral form of.

    By the documentation of the providers: the arguments are the same; random's has no `keepers` nor `id`, AWS' of a
    secret's value is the data source.
    """
    like = {
        "random_password": ("resource_schemas", "random_password", {"keepers", "id", "bcrypt_hash"}),
        "aws_secretsmanager_secret_version": ("data_source_schemas", "aws_secretsmanager_secret_version", {"id"}),
    }
    part, of, without = like[name]
    attributes = {k: v for k, v in schemas[part][of]["block"]["attributes"].items() if k not in without}
    return {"version": 0, "block": {"attributes": attributes}}


def read(archive: Path) -> tuple[str, str, Block]:
    """The provider's name, the package's version, and the schemas of what is used."""
    with tarfile.open(archive) as tar:

        def file(path: str) -> str:
            member = tar.extractfile(f"package/{path}")
            assert member is not None
            return member.read().decode()

        package = json.loads(file("package.json"))
        provider = package["name"].split("provider-")[1]
        source = Source(file("lib/provider/index.js"), provider)
        schemas: Block = {
            "provider": {"version": 0, "block": source.block(source.main())},
            "resource_schemas": {},
            "data_source_schemas": {},
            "ephemeral_resource_schemas": {},
        }
        wanted = used().get(provider, set())
        for kind, name in sorted(wanted, key=lambda pair: pair[0] == "ephemeral"):
            if kind == "ephemeral":
                of, part = ("data", "data_source_schemas") if provider == "aws" else ("resource", "resource_schemas")
            else:
                of, part = kind, "resource_schemas" if kind == "resource" else "data_source_schemas"
            folder = ("data-" if of == "data" else "") + (provider + "-" if of == "data" else "")
            path = f"lib/{folder}{name.removeprefix(provider + '_').replace('_', '-')}/index.js"
            one = Source(file(path), provider)
            schemas[part][name] = {"version": 0, "block": one.block(one.main())}
            if kind == "ephemeral":
                schemas["ephemeral_resource_schemas"][name] = ephemeral(name, schemas)
        return (
            provider,
            f"{package['name']} {package['version']}, {package['license']}, provider {source.version}",
            schemas,
        )


def dump(found: list[tuple[str, str, Block]]) -> str:
    """The JSON of `terraform providers schema -json`, a resource a line."""

    def line(value: Any) -> str:
        return json.dumps(value, sort_keys=True, separators=(",", ":"))

    lines = ['{"format_version": "1.0",', ' "provenance": {']
    lines.append(",\n".join(f'  "{name}": "{note}"' for name, note, _ in found))
    lines.append(' },\n "provider_schemas": {')
    providers = []
    for name, _, schemas in found:
        parts = [f'   "provider": {line(schemas["provider"])}']
        for part in ("resource_schemas", "data_source_schemas", "ephemeral_resource_schemas"):
            rows = ",\n".join(f'    "{k}": {line(v)}' for k, v in sorted(schemas[part].items()))
            parts.append(f'   "{part}": {{\n{rows}\n   }}' if rows else f'   "{part}": {{}}')
        providers.append(f'  "{SOURCES}{name}": {{\n' + ",\n".join(parts) + "\n  }")
    return "\n".join([*lines, ",\n".join(providers), " }\n}"]) + "\n"


if __name__ == "__main__":
    if not sys.argv[1:]:
        sys.exit(__doc__)
    text = dump(sorted(read(Path(p)) for p in sys.argv[1:]))
    json.loads(text)
    SCHEMAS.write_text(text)

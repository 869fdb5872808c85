"""Providers for tests: real Terraform runs over our modules with the real providers' schemas, and without AWS.

They speak Terraform's plugin protocol 6 and serve `schemas.json`. Terraform itself then finds unknown or missing
arguments, wrong types, wrong references and wrong values of ours. "Applying" makes nothing: what a provider would
compute is made up, by the rules in `made_up.py`, so that references, policies and outputs can be seen in the state.

They know neither the real providers' own checks of values, nor what AWS accepts, nor which change replaces a resource.
"""

import contextlib
import json
import os
import shutil
import tempfile
from collections.abc import Iterator
from concurrent import futures
from dataclasses import dataclass, field
from typing import Any

import grpc
import msgpack
from pyvider.protocols.tfprotov6.protobuf import tfplugin6_pb2 as pb
from pyvider.protocols.tfprotov6.protobuf import tfplugin6_pb2_grpc as rpc

from made_up import made_up
from schema import SCHEMAS

UNKNOWN = msgpack.ExtType(0, b"\0")
MODES = {"single": 1, "list": 2, "set": 3, "map": 4}  # the same for blocks and for nested attributes

Block = dict[str, Any]


def _attribute(name: str, said: Block) -> pb.Schema.Attribute:
    found = pb.Schema.Attribute(
        name=name, **{k: said.get(k, False) for k in ("required", "optional", "computed", "write_only")}
    )
    if nested := said.get("nested_type"):
        found.nested_type.nesting = MODES[nested["nesting_mode"]]
        found.nested_type.attributes.extend(_attribute(k, v) for k, v in nested["attributes"].items())
    else:
        found.type = json.dumps(said["type"]).encode()
    return found


def _block(block: Block) -> pb.Schema.Block:
    return pb.Schema.Block(
        attributes=[_attribute(k, v) for k, v in block.get("attributes", {}).items()],
        block_types=[
            pb.Schema.NestedBlock(
                type_name=k,
                block=_block(v["block"]),
                nesting=MODES[v["nesting_mode"]],
                min_items=v.get("min_items", 0),
                max_items=v.get("max_items", 0),
            )
            for k, v in block.get("block_types", {}).items()
        ],
    )


def _schema(schema: Block) -> pb.Schema:
    return pb.Schema(version=schema["version"], block=_block(schema["block"]))


def _pack(value: Any) -> pb.DynamicValue:
    return pb.DynamicValue(msgpack=msgpack.packb(value))


def _unpack(value: pb.DynamicValue) -> Any:
    return msgpack.unpackb(value.msgpack, strict_map_key=False) if value.msgpack else None


def _is_unknown(value: Any) -> bool:
    return isinstance(value, msgpack.ExtType)


def _nested(block: Block, values: Block) -> Iterator[tuple[Block, Block]]:
    """The blocks in a block, with their values."""
    for name, inner in block.get("block_types", {}).items():
        value = values.get(name)
        if value is None or _is_unknown(value):
            continue
        for one in (
            [value] if inner["nesting_mode"] == "single" else value.values() if isinstance(value, dict) else value
        ):
            if one is not None and not _is_unknown(one):
                yield inner["block"], one


def planned(block: Block, values: Block) -> Block:
    """What is computed and not given is known after the apply only; what is only written is never kept."""
    for name, said in block.get("attributes", {}).items():
        if said.get("write_only"):
            values[name] = None
        elif said.get("computed") and values.get(name) is None:
            values[name] = UNKNOWN
    for inner, value in _nested(block, values):
        planned(inner, value)
    return values


def refused(block: Block, values: Block, path: str) -> Iterator[pb.Diagnostic]:
    """What is set though only AWS sets it: Terraform leaves that to providers to find."""
    for name, said in block.get("attributes", {}).items():
        if values.get(name) is not None and not (said.get("optional") or said.get("required")):
            yield pb.Diagnostic(severity=pb.Diagnostic.ERROR, summary=f"{path}.{name} is set by AWS alone: remove it")
    for name, inner in block.get("block_types", {}).items():
        for _, value in _nested({"block_types": {name: inner}}, values):
            yield from refused(inner["block"], value, f"{path}.{name}")


def applied(block: Block, values: Block, kind: str, path: str = "") -> Block:
    """Everything that was unknown gets a value."""
    for name, said in block.get("attributes", {}).items():
        if said.get("write_only"):
            values[name] = None
        elif _is_unknown(values.get(name)):
            values[name] = made_up(kind, path + name, said["type"], values)
    for name, inner in block.get("block_types", {}).items():
        for _, value in _nested({"block_types": {name: inner}}, values):
            applied(inner["block"], value, kind, f"{path}{name}.")
    return values


class Provider(rpc.ProviderServicer):
    """One provider, by its part of `schemas.json`."""

    def __init__(self, schemas: Block, running: "Running") -> None:
        """Serves these schemas, and nothing else, and tells there what was written only, and what was opened."""
        self.schemas = schemas
        self.running = running

    def GetProviderSchema(self, request, context):
        """All that this provider knows."""
        parts = {
            part: {k: _schema(v) for k, v in self.schemas[part].items()}
            for part in ("resource_schemas", "data_source_schemas", "ephemeral_resource_schemas")
        }
        return pb.GetProviderSchema.Response(provider=_schema(self.schemas["provider"]), **parts)

    def ValidateProviderConfig(self, request, context):
        """Terraform has checked it against the schema."""
        return pb.ValidateProviderConfig.Response()

    def ValidateResourceConfig(self, request, context):
        """The same, but for one thing."""
        block = self.schemas["resource_schemas"][request.type_name]["block"]
        found = refused(block, _unpack(request.config), request.type_name)
        return pb.ValidateResourceConfig.Response(diagnostics=found)

    def ValidateDataResourceConfig(self, request, context):
        """As a provider's."""
        return pb.ValidateDataResourceConfig.Response()

    def ValidateEphemeralResourceConfig(self, request, context):
        """As a provider's."""
        return pb.ValidateEphemeralResourceConfig.Response()

    def ConfigureProvider(self, request, context):
        """Nothing is asked, so nobody has to log in."""
        return pb.ConfigureProvider.Response()

    def GetResourceIdentitySchemas(self, request, context):
        """None has one."""
        return pb.GetResourceIdentitySchemas.Response()

    def UpgradeResourceState(self, request, context):
        """The state is of this version."""
        return pb.UpgradeResourceState.Response(upgraded_state=_pack(json.loads(request.raw_state.json)))

    def ReadResource(self, request, context):
        """Everything is as it was left."""
        return pb.ReadResource.Response(new_state=request.current_state)

    def PlanResourceChange(self, request, context):
        """As proposed, with what is computed unknown when it is made."""
        values = _unpack(request.proposed_new_state)
        if values is not None:
            values = planned(self.schemas["resource_schemas"][request.type_name]["block"], values)
        return pb.PlanResourceChange.Response(planned_state=_pack(values))

    def ApplyResourceChange(self, request, context):
        """As planned, with what is computed made up."""
        values = _unpack(request.planned_state)
        if values is not None:
            block = self.schemas["resource_schemas"][request.type_name]["block"]
            given = _unpack(request.config)
            for name, said in block["attributes"].items():
                if said.get("write_only") and given[name] is not None:
                    self.running.written.append((request.type_name, name, given[name]))
            values = applied(block, values, request.type_name)
        return pb.ApplyResourceChange.Response(new_state=_pack(values))

    def ReadDataSource(self, request, context):
        """Made up too."""
        block = self.schemas["data_source_schemas"][request.type_name]["block"]
        state = applied(block, planned(block, _unpack(request.config)), f"data.{request.type_name}")
        return pb.ReadDataSource.Response(state=_pack(state))

    def OpenEphemeralResource(self, request, context):
        """Made up too."""
        self.running.opened.append(request.type_name)
        block = self.schemas["ephemeral_resource_schemas"][request.type_name]["block"]
        state = applied(block, planned(block, _unpack(request.config)), f"ephemeral.{request.type_name}")
        return pb.OpenEphemeralResource.Response(result=_pack(state))

    def CloseEphemeralResource(self, request, context):
        """There is nothing to close."""
        return pb.CloseEphemeralResource.Response()

    def StopProvider(self, request, context):
        """It goes on, for the next command."""
        return pb.StopProvider.Response()


@dataclass
class Running:
    """The providers, while they run.

    Attributes:
        environment: what makes Terraform take them in the place of its own.
        written: resource type, argument and value of all that was written without being kept.
        opened: types of the ephemeral resources, one each time that one was opened.
    """

    environment: dict[str, str] = field(default_factory=dict)
    written: list[tuple[str, str, Any]] = field(default_factory=list)
    opened: list[str] = field(default_factory=list)


@contextlib.contextmanager
def serve() -> Iterator[Running]:
    """Runs the providers."""
    folder = tempfile.mkdtemp(prefix="tf")  # a socket's path is short
    servers, attach, running = [], {}, Running()
    try:
        for source, schemas in json.loads(SCHEMAS.read_text())["provider_schemas"].items():
            socket = f"{folder}/{source.rsplit('/', 1)[1]}"
            server = grpc.server(futures.ThreadPoolExecutor(max_workers=16))
            rpc.add_ProviderServicer_to_server(Provider(schemas, running), server)
            server.add_insecure_port(f"unix:{socket}")
            server.start()
            servers.append(server)
            attach[source] = {
                "Protocol": "grpc",
                "ProtocolVersion": 6,
                "Pid": os.getpid(),
                "Test": True,  # so that Terraform leaves this process alone when it is done
                "Addr": {"Network": "unix", "String": socket},
            }
        running.environment["TF_REATTACH_PROVIDERS"] = json.dumps(attach)
        yield running
    finally:
        for server in servers:
            server.stop(grace=None).wait()
        shutil.rmtree(folder)

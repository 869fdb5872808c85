"""What IAM makes of policies: allowed or not, by the rules of AWS' documentation, as far as our policies use them.

Not known here: boundaries, policies of organisations and of resources, sessions. What no statement allows is denied;
what one denies is denied whatever the others say.
"""

import re
from collections.abc import Iterable, Mapping
from typing import Any

Policy = Mapping[str, Any]
Context = Mapping[str, str | list[str]]


def many(value: Any) -> list[Any]:
    """A list, where a document may have one thing in its place."""
    return value if isinstance(value, list) else [value]


def matches(pattern: str, text: str, *, case: bool = True) -> bool:
    """Whether a pattern with * and ? is of the text."""
    regex = re.escape(pattern).replace(r"\*", ".*").replace(r"\?", ".")
    return re.fullmatch(regex, text, re.DOTALL if case else re.DOTALL | re.IGNORECASE) is not None


OPERATORS = {
    "StringEquals": lambda wanted, got: wanted == got,
    "StringLike": matches,
    "ArnEquals": matches,  # the same as ArnLike, by the documentation
    "ArnLike": matches,
    "Bool": lambda wanted, got: wanted.lower() == got.lower(),
}


def holds(conditions: Mapping[str, Mapping[str, Any]], context: Context) -> bool:
    """Whether all conditions hold. A key that the request lacks holds for no operator but ForAllValues."""
    for name, keys in conditions.items():
        operator = OPERATORS[name.removeprefix("ForAllValues:")]
        for key, wanted in keys.items():
            got = many(context.get(key, []))
            hits = [any(operator(one, value) for one in many(wanted)) for value in got]
            if not (all(hits) if name.startswith("ForAllValues:") else any(hits)):
                return False
    return True


def allowed(policies: Iterable[Policy], action: str, resource: str, context: Context | None = None) -> bool:
    """Whether the policies of a role allow an action on a resource."""
    found = False
    for policy in policies:
        for statement in many(policy["Statement"]):
            if (
                any(matches(one, action, case=False) for one in many(statement["Action"]))
                and any(matches(one, resource) for one in many(statement["Resource"]))
                and holds(statement.get("Condition", {}), context or {})
            ):
                if statement["Effect"] == "Deny":
                    return False
                found = True
    return found


def trusted(trust: Policy, principal: tuple[str, str], context: Context | None = None) -> bool:
    """Whether a role's trust lets a principal, such as ("Service", "states.amazonaws.com"), take it."""
    kind, name = principal
    action = "sts:AssumeRoleWithWebIdentity" if kind == "Federated" else "sts:AssumeRole"
    return any(
        statement["Effect"] == "Allow"
        and action in many(statement["Action"])
        and name in many(statement["Principal"].get(kind, []))
        and holds(statement.get("Condition", {}), context or {})
        for statement in many(trust["Statement"])
    )

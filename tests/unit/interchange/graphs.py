"""Graphs that no policy gives, for what draws them: names that mean something elsewhere, and very long ones."""

from shamon_host.interchange.flow_graph import (
    Conflict,
    Direction,
    Flow,
    FlowGraph,
    LabelNode,
    Owner,
    OwnerKind,
    TypeNode,
)

HOSTILE = '<script>alert("1")</script>&amp;\\"]; //%s\N{BULLET}'


def hostile_graph() -> FlowGraph:
    """Every name is text that would do something if it were not escaped."""
    return FlowGraph(
        coalition=HOSTILE,
        version=1,
        owners=(Owner(name=HOSTILE, kind=OwnerKind.ORGANISATION),),
        types=(TypeNode(name=f"{HOSTILE}/a", owner=HOSTILE), TypeNode(name=f"{HOSTILE}/b", owner=HOSTILE)),
        labels=(LabelNode(key=HOSTILE, name=HOSTILE, walls=(HOSTILE,), vms=(HOSTILE,), downgrades=True),),
        flows=(
            Flow(type=f"{HOSTILE}/a", label=HOSTILE, direction=Direction.IN),
            Flow(type=f"{HOSTILE}/b", label=HOSTILE, direction=Direction.OUT),
        ),
        conflicts=(Conflict(name=HOSTILE, members=(f"{HOSTILE}/a", f"wall {HOSTILE}")),),
        walls=(f"wall {HOSTILE}",),
    )


def long_names_graph(depth: int = 40) -> FlowGraph:
    """Names as long as they may be, and departments in departments."""
    organisation, part = "o" * 63, "p" * 63
    owners = [Owner(name=organisation, kind=OwnerKind.ORGANISATION)]
    for number in range(depth):
        owners.append(Owner(name=f"{organisation}/{part}{number}", kind=OwnerKind.DEPARTMENT, above=owners[-1].name))
    types = tuple(
        TypeNode(name=f"{organisation}/{'/'.join([part] * 6)}/t{number}", owner=owner.name, confidentiality=15)
        for number, owner in enumerate(owners)
    )
    labels = tuple(LabelNode(key=f"{'l' * 60}{number}", name=f"{'l' * 60}{number}") for number in range(3))
    return FlowGraph(
        coalition="c" * 63,
        version=(1 << 63) - 1,
        owners=tuple(owners),
        types=types,
        labels=labels,
        flows=tuple(
            Flow(type=each.name, label=label.key, direction=direction)
            for each, label in zip(types, labels * len(types), strict=False)
            for direction in (Direction.BOTH,)
        ),
        conflicts=tuple(
            Conflict(name="k" * 63 + str(number), members=(organisation, types[number].name)) for number in (1, 2)
        ),
    )


def empty_graph() -> FlowGraph:
    """Nothing but a name."""
    return FlowGraph(coalition="none", version=1, owners=(), types=(), labels=(), flows=(), conflicts=())

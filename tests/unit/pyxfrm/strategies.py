"""hypothesis strategies for whatever pyxfrm packs and unpacks."""

from ipaddress import IPv4Interface, IPv6Interface

from hypothesis import strategies as st

from shamon_host.pyxfrm import (
    Action,
    Address,
    Algorithm,
    AsyncEvent,
    AsyncEventFlag,
    Direction,
    Encapsulation,
    EncapsulationType,
    ExtraFlag,
    IpTfs,
    KeyManagerAddresses,
    Lifetime,
    Mark,
    Migration,
    Mode,
    Move,
    Offload,
    OffloadFlag,
    Policy,
    PolicyFlag,
    PolicyType,
    PortMatch,
    Prefix,
    Replay,
    SaDirection,
    SaFlag,
    SaId,
    SecurityAssociation,
    Selector,
    Template,
    Usage,
)

U8, U32, U64 = st.integers(0, 0xFF), st.integers(0, 0xFFFFFFFF), st.integers(0, 2**64 - 1)
PORTS = st.none() | st.builds(PortMatch, port=st.integers(1, 0xFFFF), mask=st.integers(0, 0xFFFF))
CONTEXTS = st.none() | st.text("abc_é:0", min_size=1, max_size=60)
MARKS = st.none() | st.builds(Mark, value=U32, mask=U32)
AMOUNTS = st.none() | st.integers(0, 2**64 - 2)
SECONDS = st.none() | st.integers(1, 2**63)
LIFETIMES = st.builds(
    Lifetime,
    soft_bytes=AMOUNTS,
    hard_bytes=AMOUNTS,
    soft_packets=AMOUNTS,
    hard_packets=AMOUNTS,
    soft_add_s=SECONDS,
    hard_add_s=SECONDS,
    soft_use_s=SECONDS,
    hard_use_s=SECONDS,
)
NAMES = st.text("abcdefghijklmnopqrstuvwxyz0123456789()-", min_size=1, max_size=63)
KEYS = st.binary(max_size=64)
PLAIN_ALGORITHMS = st.none() | st.builds(Algorithm, name=NAMES, key=KEYS)
OPTIONAL_U32 = st.none() | U32
IPTFS = st.builds(
    IpTfs,
    drop_time_us=OPTIONAL_U32,
    reorder_window=st.integers(0, 0xFFFF),
    dont_fragment=st.booleans(),
    init_delay_us=OPTIONAL_U32,
    max_queue_bytes=OPTIONAL_U32,
    packet_bytes=OPTIONAL_U32,
)
OFFLOADS = st.none() | st.builds(
    Offload, interface_index=st.integers(0, 2**31 - 1), flags=st.integers(0, 7).map(OffloadFlag)
)
ICV_ALGORITHMS = st.none() | st.builds(Algorithm, name=NAMES, key=KEYS, icv_bits=st.integers(0, 512))


def addresses(version: int) -> st.SearchStrategy[Address]:
    return st.ip_addresses(v=4) if version == 4 else st.ip_addresses(v=6)


def prefixes(version: int) -> st.SearchStrategy[Prefix]:
    if version == 4:
        return st.builds(lambda a, n: IPv4Interface((a, n)), st.ip_addresses(v=4), st.integers(0, 32))
    return st.builds(lambda a, n: IPv6Interface((a, n)), st.ip_addresses(v=6), st.integers(0, 128))


def selectors(version: int) -> st.SearchStrategy[Selector]:
    return st.builds(
        Selector,
        source=prefixes(version),
        destination=prefixes(version),
        protocol=U8,
        source_port=PORTS,
        destination_port=PORTS,
        interface_index=st.integers(0, 2**31 - 1),
        user=U32,
    )


def encapsulations(version: int) -> st.SearchStrategy[Encapsulation]:
    return st.builds(
        Encapsulation,
        type=st.sampled_from(EncapsulationType),
        source_port=st.integers(0, 0xFFFF),
        destination_port=st.integers(0, 0xFFFF),
        original_address=st.none() | addresses(version).filter(lambda address: int(address) != 0),
    )


def replays(esn_window: int) -> st.SearchStrategy[Replay]:
    """With a whole bitmap, as the kernel tells it: of the window, or without one a single word."""
    words = (esn_window + 31) // 32 or 1
    numbers = U64 if esn_window else U32
    bitmaps = st.lists(U32, min_size=words, max_size=words).map(tuple)
    return st.builds(Replay, sent=numbers, received=numbers, bitmap=bitmaps)


def templates(version: int) -> st.SearchStrategy[Template]:
    some = st.none() | addresses(version).filter(lambda address: int(address) != 0)
    return st.builds(
        Template,
        source=some,
        destination=some,
        spi=U32,
        protocol=U8,
        mode=st.sampled_from(Mode),
        reqid=U32,
        optional=st.booleans(),
        share=U8,
        auth_algorithms=U32,
        cipher_algorithms=U32,
        compression_algorithms=U32,
    )


@st.composite
def policies(draw: st.DrawFn) -> Policy:
    version = draw(st.sampled_from((4, 6)))
    return Policy(
        selector=draw(selectors(version)),
        direction=draw(st.sampled_from(Direction)),
        action=draw(st.sampled_from(Action)),
        priority=draw(U32),
        templates=tuple(draw(st.lists(templates(version), max_size=6))),
        security_context=draw(CONTEXTS),
        lifetime=draw(LIFETIMES),
        flags=PolicyFlag(draw(st.integers(0, 7))),
        share=draw(U8),
        type=draw(st.sampled_from(PolicyType)),
        mark=draw(MARKS),
        interface_id=draw(U32),
        offload=draw(OFFLOADS),
        index=draw(U32),
    )


@st.composite
def associations(draw: st.DrawFn) -> SecurityAssociation:
    version = draw(st.sampled_from((4, 6)))
    selector = draw(st.none() | selectors(version))
    flags = SaFlag(draw(U8))
    window = draw(st.integers(1, 4096))
    esn = bool(flags & SaFlag.ESN) or window > 32
    return SecurityAssociation(
        source=draw(addresses(version)),
        destination=draw(addresses(version)),
        spi=draw(U32),
        protocol=draw(U8),
        mode=draw(st.sampled_from(Mode)),
        reqid=draw(U32),
        selector=None if selector == Selector.any(version) else selector,
        aead=draw(ICV_ALGORITHMS),
        auth=draw(ICV_ALGORITHMS),
        cipher=draw(PLAIN_ALGORITHMS),
        compression=draw(PLAIN_ALGORITHMS),
        flags=flags,
        extra_flags=ExtraFlag(draw(U32)),
        replay_window=window,
        replay=draw(st.none() | replays(window if esn else 0)),
        lifetime=draw(LIFETIMES),
        security_context=draw(CONTEXTS),
        mark=draw(MARKS),
        output_mark=draw(MARKS),
        interface_id=draw(U32),
        direction=draw(st.none() | st.sampled_from(SaDirection)),
        encapsulation=draw(st.none() | encapsulations(version)),
        care_of_address=draw(st.none() | addresses(version)),
        offload=draw(OFFLOADS),
        tfc_padding=draw(U32),
        nat_keepalive_s=draw(U32),
        mapping_threshold_s=draw(U32),
        cpu=draw(OPTIONAL_U32),
        iptfs=draw(st.none() | IPTFS),
        replay_threshold=draw(OPTIONAL_U32),
        timer_threshold=draw(OPTIONAL_U32),
        sequence=draw(U32),
    )


@st.composite
def async_events(draw: st.DrawFn) -> AsyncEvent:
    version = draw(st.sampled_from((4, 6)))
    window = draw(st.integers(0, 4096))
    return AsyncEvent(
        sa_id=SaId(destination=draw(addresses(version)), spi=draw(U32), protocol=draw(U8), mark=draw(MARKS)),
        source=draw(addresses(version)),
        reqid=draw(U32),
        flags=AsyncEventFlag(draw(st.integers(0, 127))),
        replay=draw(replays(window)),
        replay_window=window,
        usage=draw(st.none() | st.builds(Usage, bytes=U64, packets=U64, add_time=U64, use_time=U64)),
        replay_threshold=draw(OPTIONAL_U32),
        timer_threshold=draw(OPTIONAL_U32),
    )


@st.composite
def moves(draw: st.DrawFn) -> Move:
    old, new = draw(st.sampled_from((4, 6))), draw(st.sampled_from((4, 6)))
    return Move(
        old_source=draw(addresses(old)),
        old_destination=draw(addresses(old)),
        new_source=draw(addresses(new)),
        new_destination=draw(addresses(new)),
        protocol=draw(U8),
        mode=draw(st.sampled_from(Mode)),
        reqid=draw(U32),
    )


@st.composite
def migrations(draw: st.DrawFn) -> Migration:
    version = draw(st.sampled_from((4, 6)))
    managers = st.builds(KeyManagerAddresses, local=addresses(version), remote=addresses(version))
    return Migration(
        selector=draw(selectors(version)),
        direction=draw(st.sampled_from(Direction)),
        moves=tuple(draw(st.lists(moves(), min_size=1, max_size=6))),
        type=draw(st.sampled_from(PolicyType)),
        key_manager=draw(st.none() | managers),
        encapsulation=draw(st.none() | encapsulations(version)),
        interface_id=draw(U32),
    )

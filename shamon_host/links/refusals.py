"""What the kernel refused, in words: the counters of /proc/net/xfrm_stat and those of the nft guard.

Source of the former: Documentation/networking/xfrm_proc.rst and include/uapi/linux/snmp.h. They count packets of the
whole host, so one that rises need not be about the link in question.
"""

from collections.abc import Mapping

from shamon_host.links.doctor_facts import Facts, rose
from shamon_host.links.path_report import Part, Stage, Verdict

_MEANINGS: Mapping[str, str] = {
    "XfrmInError": "a packet came in that IPsec could not process",
    "XfrmInBufferError": "there was no memory for a packet that came in",
    "XfrmInHdrError": "an IPsec packet came in with a broken header",
    "XfrmInNoStates": "a packet came in under an SPI of which there is no SA: the peer still sends with an old one",
    "XfrmInStateProtoError": "a packet came in that its SA could not decrypt: another key, or it was tampered with",
    "XfrmInStateModeError": "a packet came in that is not of its SA's mode",
    "XfrmInStateSeqError": "a packet came in that was seen before, or too late: a replay, or heavy reordering",
    "XfrmInStateExpired": "a packet came in through an SA whose lifetime is over",
    "XfrmInStateMismatch": "a packet came in that its SA is not for",
    "XfrmInStateInvalid": "a packet came in through an SA that is not ready, or just goes",
    "XfrmInStateDirError": "a packet came in through an SA that is for sending",
    "XfrmInTmplMismatch": "a packet came in by another SA than its SPD entry demands, or in clear",
    "XfrmInNoPols": "a packet came in through IPsec for which no SPD entry is there",
    "XfrmInPolBlock": "a packet came in that a block entry dropped: no labelled entry was there for its label",
    "XfrmInPolError": "a packet came in whose SPD entry could not be applied",
    "XfrmFwdHdrError": "a packet that was to be forwarded has a broken header",
    "XfrmOutError": "a packet could not be sent through IPsec",
    "XfrmOutBundleGenError": "no route through IPsec could be made for a packet to send",
    "XfrmOutBundleCheckError": "a route through IPsec was no longer good for a packet to send",
    "XfrmOutNoStates": "a packet was to be sent and no SA with its label is there",
    "XfrmOutStateProtoError": "a packet could not be encrypted",
    "XfrmOutStateModeError": "a packet was to be sent that does not suit its SA's mode",
    "XfrmOutStateSeqError": "a packet was to be sent and the SA's sequence numbers are used up",
    "XfrmOutStateExpired": "a packet was to be sent through an SA whose lifetime is over",
    "XfrmOutStateInvalid": "a packet was to be sent through an SA that is not ready, or just goes",
    "XfrmOutStateDirError": "a packet was to be sent through an SA that is for receiving",
    "XfrmOutPolBlock": "a packet was to be sent that a block entry dropped: no labelled entry was there for its label",
    "XfrmOutPolDead": "a packet was to be sent by an SPD entry that just goes",
    "XfrmOutPolError": "a packet was to be sent whose SPD entry could not be applied",
    "XfrmAcquireError": "the kernel asked for an SA and nobody could be told",
    "guard_out": "a link packet was to leave without IPsec, and the guard dropped it",
    "guard_in": "a link packet came in without IPsec, and the guard dropped it",
    "gate_out": "a link packet was to leave to a peer whose gate is closed",
    "gate_in": "a link packet came in from a peer whose gate is closed",
    "host_in": "a frame of a type's bridge was not let in to this host, as none is: each broadcast is one",
    "host_out": "a frame of this host was not let out into a type's bridge, as none is",
    "host_forward": "a packet was not forwarded to or from a type's bridge, as none is",
}
_SPOOFED = "spoofed "
_EVERY_DAY = frozenset({"host_in", "host_out", "host_forward"})
"""They keep a type's bridge and its host apart, which has nothing to do with links."""


def meaning(counter: str) -> str:
    """One plain sentence for a counter, without a full stop."""
    if counter.startswith(_SPOOFED):
        return "the VM behind this tap sent from an address that is not its own"
    return _MEANINGS.get(counter, "a packet was refused for a reason that this program does not know")


def refused(facts: Facts) -> Stage:
    """What the counters say of the time between the two looks."""
    name, looked_at = "counters", "what IPsec, guard and gate refused on this host, of any link"
    before, after = facts.before.counters, facts.after.counters
    if before is None or after is None:
        return facts.unread(Part.REFUSED, name, looked_at)
    moved = {counter: by for counter, by in rose(before, after).items() if counter not in _EVERY_DAY}
    if moved:
        return facts.stage(
            Part.REFUSED, name, looked_at, Verdict.WRONG,
            "; ".join(f"{counter} rose by {by}: {meaning(counter)}" for counter, by in sorted(moved.items())),
            expected="nothing is refused",
            remedy=f"If the stages above are as they should be, look at {facts.peer}, and at the other links.",
            moved=moved,
        )  # fmt: skip
    total = sum(count for counter, count in after.items() if counter not in _EVERY_DAY)
    found = f"nothing in {facts.interval_s:g} s" + (f" ({total} since the boot)" if total else "")
    return facts.stage(Part.REFUSED, name, looked_at, Verdict.OK, found)

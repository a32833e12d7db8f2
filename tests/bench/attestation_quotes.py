"""What a Verifier spends on a quote, against the check of its signature alone; and how many quotes a host makes."""

import asyncio
from collections import Counter
from collections.abc import Iterator, Mapping

from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec, utils

from shamon_host.attestation.pcr import Bank, PcrSelection
from shamon_host.attestation.ports import QUOTED_PCRS
from shamon_host.attestation.quote import verify_quote
from shamon_host.attestation.tpm_public import TpmPublic
from shamon_host.attestation.tpm_structures import TpmSignature
from shamon_host.testing.clock import run_virtual
from shamon_host.testing.crowd import Crowd
from shamon_host.testing.tpm import MemoryTpm
from tests.bench.answers import WrongAnswer
from tests.bench.measuring import Measurement, Unit, Work, measured

_SELECTION = PcrSelection.of({Bank.SHA256: QUOTED_PCRS})
_AT_ONCE = 500
_NONCE = bytes(range(32))


def verifying(rounds: int) -> Iterator[Measurement]:
    """Quotes by a P-256 key, as hosts make them."""
    tpm = MemoryTpm()
    area = TpmPublic.parse(tpm.ak_public())
    quote = tpm.quote(_NONCE)
    values = {Bank.SHA256: quote.pcr_values}
    key = area.key
    if not isinstance(key, ec.EllipticCurvePublicKey):
        raise WrongAnswer("the AK is no ECC key")
    r, s = (int.from_bytes(part, "big") for part in TpmSignature.parse(quote.signature).parts)
    der = utils.encode_dss_signature(r, s)
    scheme = ec.ECDSA(hashes.SHA256())

    def verify(_none: None) -> None:
        for _ in range(_AT_ONCE):
            verify_quote(quote.attest, quote.signature, area, _NONCE, _SELECTION, values)

    def check(_none: None) -> None:
        for _ in range(_AT_ONCE):
            key.verify(der, quote.attest, scheme)

    work = Work(name="verify a quote, P-256", prepare=lambda: None, run=verify, operations=_AT_ONCE)
    baseline = Work(name="its signature alone", prepare=lambda: None, run=check, operations=_AT_ONCE)
    yield measured(work, baseline, unit=Unit.RATE, rounds=rounds, goal=5000, ratio_goal=1.3)


def quotes_of_a_crowd(hosts: int, *, periods: int = 4) -> Mapping[str, float]:
    """TPM2_Quote commands that a host carries out, the most of any host: in a quiet period, and for one event.

    Every host of the coalition is a whole one, in memory and on virtual time.
    """

    async def play() -> Mapping[str, float]:
        async with Crowd(hosts, latency_s=0.001) as crowd:
            for host in crowd.hosts.values():
                await host.boot()
            await asyncio.sleep(3 * crowd.period_s)
            crowd.require_all_admitted()
            before = crowd.quotes()
            await asyncio.sleep(periods * crowd.period_s)
            quiet = crowd.quotes() - before
            await asyncio.sleep(2.0)
            before = crowd.quotes()
            changed = next(iter(crowd.hosts.values()))
            if changed.daemon is None:
                raise WrongAnswer(f"the daemon of {changed.name} ended")
            changed.daemon.schedule.wake_all()
            await asyncio.sleep(2.5)
            crowd.require_all_admitted()
            event: Counter[str] = crowd.quotes() - before
            return {
                "peers": hosts - 1,
                "quotes in a quiet period": max(quiet.values()) / periods,
                "quotes for a change of its own": event[changed.name],
                "quotes of a peer for that change": max(event[name] for name in event if name != changed.name),
            }

    return run_virtual(play())

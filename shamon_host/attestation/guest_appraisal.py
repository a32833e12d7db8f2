"""The Verifier of guests: what a VM answered to its host, appraised. Pure: no clock, no I/O, no TPM.

The same claims as of a host, as far as a guest has them: `binding`, `boot-chain`, `ima-policy`, `software`,
`shamon-code` (its agent's), and `selinux` where its Reference Values have that. The log is walked by the same code, and
what must be remembered is the same `VerifierState`.

What a guest's TPM is, nobody outside of the host can tell, and the host need not ask: it runs that TPM. So the AK is
the one that the VM showed when its TPM was new (`hypervisor.guest_tpms`).
"""

from dataclasses import dataclass, replace

from shamon_host.attestation.appraisal import SELECTION, VerifierState, appraise_quoted, require_forward
from shamon_host.attestation.claims.making import absent, failed, passed
from shamon_host.attestation.claims.measurements import log_is_vouched
from shamon_host.attestation.guest_messages import EvidenceRequest, GuestEvidence
from shamon_host.attestation.guest_reference import GuestBoot, GuestReference
from shamon_host.attestation.pcr import Bank
from shamon_host.attestation.quote import verify_quote
from shamon_host.domain.errors import ShamonError
from shamon_host.domain.policy import Demands
from shamon_host.domain.results import Claim, ClaimName, ClaimStatus

_DEMANDS = Demands(empty_pcrs=())
"""Of a guest's PCRs, those that must be empty are so in its Reference Values."""


@dataclass(frozen=True, slots=True, kw_only=True)
class GuestResult:
    """All claims about one VM from one answer."""

    claims: tuple[Claim, ...]
    bound: bool
    """The answer was made for the question, by the AK that it was compared with."""

    @property
    def trusted(self) -> bool:
        return bool(self.claims) and all(claim.status is ClaimStatus.PASS for claim in self.claims)

    @property
    def failures(self) -> tuple[Claim, ...]:
        return tuple(claim for claim in self.claims if claim.status is not ClaimStatus.PASS)

    @property
    def transient(self) -> bool:
        """All that fails is that the log does not lead to its quote: it may have been read too early."""
        of_log = {ClaimName.IMA_POLICY, ClaimName.SELINUX, ClaimName.SOFTWARE, ClaimName.SHAMON_CODE}
        return (
            bool(self.failures)
            and not log_is_vouched(self.claims)
            and all(claim.name in of_log and not claim.sticky for claim in self.failures)
        )


def demanded_claims(reference: GuestReference) -> tuple[ClaimName, ...]:
    """The claims that a guest with these Reference Values has to meet, in order."""
    return tuple(
        name
        for name in ClaimName
        if name not in {ClaimName.RUNNING_LABELS, ClaimName.NETWORK_STATE, ClaimName.TPM_KIND}
        and (name is not ClaimName.SELINUX or reference.values.selinux.demanded)
    )


def appraise_guest(
    answer: GuestEvidence,
    *,
    request: EvidenceRequest,
    ak_public: bytes,
    boot: GuestBoot,
    reference: GuestReference,
    state: VerifierState | None,
) -> tuple[GuestResult, VerifierState | None]:
    """The result, and the state for the next appraisal of this AK.

    `boot`: what the host digested before it started the VM. `state`: what the last appraisal of the AK returned, None
    for the first one; it is returned as it was where the answer is not bound. Never raises: whatever the guest says is
    its own result.
    """
    evidence = answer.evidence
    demanded = demanded_claims(reference)
    try:
        quoted = verify_quote(
            evidence.quote.attest,
            evidence.quote.signature,
            ak_public,
            request.qualifying_data,
            SELECTION,
            {Bank.SHA256: evidence.quote.pcr_values},
        )
        require_forward(state, quoted)
    except ShamonError as error:
        binding = failed(
            ClaimName.BINDING,
            error.what,
            where=error.where or "quote",
            expected=error.expected,
            found=error.found,
        )
        others = (_unbound(name, state) for name in demanded if name is not ClaimName.BINDING)
        return GuestResult(claims=(binding, *others), bound=False), state
    claims, following = appraise_quoted(quoted, evidence, demands=_DEMANDS, reference=reference.values, state=state)
    found = {claim.name: claim for claim in claims}
    found[ClaimName.BINDING] = passed(ClaimName.BINDING, "a fresh quote by the AK of its TPM, made for this question")
    found[ClaimName.BOOT_CHAIN] = _boot_chain(found[ClaimName.BOOT_CHAIN], boot, reference)
    return GuestResult(claims=tuple(found[name] for name in demanded), bound=True), following


def _unbound(name: ClaimName, state: VerifierState | None) -> Claim:
    stuck = None if state is None else state.sticky.get(name)
    return stuck or absent(name, "the answer is not bound to the question")


def _boot_chain(of_pcrs: Claim, boot: GuestBoot, reference: GuestReference) -> Claim:
    """What the host started, then what the guest's firmware and kernel measured."""
    if boot in reference.boots:
        return (
            replace(
                of_pcrs,
                reason="its host started the known kernel, initrd and command line; PCR 0-9 and 11-14 are as recorded",
            )
            if of_pcrs.status is ClaimStatus.PASS
            else of_pcrs
        )
    closest = max(reference.boots, key=lambda known: _same(known, boot))
    name = next(each for each in ("kernel", "initrd", "cmdline") if getattr(closest, each) != getattr(boot, each))
    return failed(
        ClaimName.BOOT_CHAIN,
        f"the VM was started with another {'command line' if name == 'cmdline' else name}",
        where=name,
        expected=getattr(closest, name) or "none",
        found=getattr(boot, name) or "none",
    )


def _same(one: GuestBoot, other: GuestBoot) -> int:
    return sum(getattr(one, name) == getattr(other, name) for name in ("kernel", "initrd", "cmdline"))

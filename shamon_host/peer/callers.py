"""Who may ask what: whose certificate a request came with, before anybody looks at the request.

Everything is for the hosts that are enrolled here with the very certificate that TLS saw, except the exchange of signed
records: that is how others become known here, so there a certificate of the coalition's CA is enough.
"""

from shamon_host.domain.errors import NotTrusted
from shamon_host.peer.ports import PeerDirectory, PeerIdentity
from shamon_host.peer.wire import REGISTRY


def known_caller(directory: PeerDirectory, shown: PeerIdentity, path: str) -> PeerIdentity:
    """Who calls. `shown`: the name in the certificate, which the CA has issued, and its digest. Raises NotTrusted."""
    if path == REGISTRY:
        known = directory.get(shown.host)
        if known is not None and known.expelled:
            raise NotTrusted("the host is expelled from the coalition", where=shown.host)
        return shown
    enrolled = directory.by_certificate(shown.certificate_sha256)
    return PeerIdentity(host=enrolled.host, certificate_sha256=enrolled.certificate_sha256)

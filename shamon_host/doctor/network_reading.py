"""Sysctls, ports, addresses and packet filters of this host."""

import json
import re
from collections.abc import Container, Iterator, Mapping
from ipaddress import IPv4Address, IPv6Address
from typing import Any

from shamon_host.doctor.bounded import Run
from shamon_host.doctor.facts import FilterChain, KernelFacts, NetworkFacts, PortUser
from shamon_host.doctor.host_files import HostFiles
from shamon_host.doctor.look import Look, T
from shamon_host.links.model import NFT_TABLES, PORT_BLOCK
from shamon_host.links.network_state import SYSCTLS, sysctl_value
from shamon_host.selinux.labelled_host import UNIT_PROCESSES

_NET = "/proc/sys/net"
_LISTEN = "0A"
_BYTES = 8 << 20
_MAX_DESCRIPTORS = 200_000
_HOOKS = ("input", "output")
_LOCAL = re.compile(r"\|-- (\d{1,3}(?:\.\d{1,3}){3})\s*$")

_Chain = tuple[str, str, str]
"""Family, table, name."""


def read_network(files: HostFiles, run: Run, kernel: KernelFacts, *, peer_port: int) -> NetworkFacts:
    """`peer_port`: TCP port of the peer service."""
    owners = _Owners(files)
    return NetworkFacts(
        sysctls={name: sysctl(files, name) for name in SYSCTLS},
        listening=_users(files, owners, "tcp", {peer_port}),
        bound=_users(files, owners, "udp", PORT_BLOCK),
        local_ports=files.text(f"{_NET}/ipv4/ip_local_port_range"),
        reserved_ports=files.text(f"{_NET}/ipv4/ip_local_reserved_ports"),
        addresses=addresses(files),
        chains=_chains(run, kernel),
    )


class _Unread(Exception):
    """Ends `sysctl`: `look` says why."""

    def __init__(self, look: Look[Any]) -> None:
        super().__init__(look.unread or look.bad)
        self.look = look


def sysctl(files: HostFiles, name: str) -> Look[str]:
    """Of `network_state.SYSCTLS`."""

    def checked(look: Look[T]) -> T | None:
        if look.unread or look.bad:
            raise _Unread(look)
        return look.value

    try:
        return Look(
            sysctl_value(
                name,
                read=lambda path: checked(files.text(f"{_NET}/{path}")),
                interfaces=lambda path: checked(files.names(f"{_NET}/{path}")) or (),
            )
        )
    except _Unread as error:
        return Look(bad=error.look.bad, unread=error.look.unread)


def addresses(files: HostFiles) -> Look[frozenset[str]]:
    """Those of this host's interfaces, in their canonical form."""
    trie = files.text("/proc/net/fib_trie", _BYTES)
    if trie.value is None:
        return Look(unread=trie.unread or "/proc/net/fib_trie is not there", bad="")
    found = set(_local_ipv4(trie.value))
    six = files.text("/proc/net/if_inet6", _BYTES)
    if six.unread:
        return Look(unread=six.unread)
    for line in (six.value or "").splitlines():
        digits = line.split(" ", 1)[0]
        if re.fullmatch("[0-9a-f]{32}", digits):
            found.add(str(IPv6Address(int(digits, 16))))
    return Look(frozenset(found))


def _local_ipv4(text: str) -> Iterator[str]:
    """Linux net/ipv4/fib_trie.c (fib_trie_seq_show): an address, and below it what it is."""
    last = ""
    for line in text.splitlines():
        match = _LOCAL.search(line)
        if match is not None:
            last = match[1]
        elif "/32 host LOCAL" in line and last:
            try:
                yield str(IPv4Address(last))
            except ValueError:
                continue


class _Owners:
    """Whose a socket is, by its inode. Reads the descriptors of all processes when it is first asked."""

    def __init__(self, files: HostFiles) -> None:
        self._files = files
        self._known: dict[int, int] | None = None

    def of(self, inode: int) -> str:
        """As `PortUser.owner`."""
        if self._known is None:
            self._known = dict(self._all())
        process = self._known.get(inode)
        if process is None:
            return ""
        if process == 1:
            return "systemd"
        if str(process) in (self._files.text(UNIT_PROCESSES).value or "").split():
            return "shamon"
        return f"process {process} ({self._files.text(f'/proc/{process}/comm').value or 'unnamed'})"

    def _all(self) -> Iterator[tuple[int, int]]:
        """Inode and process. Of several processes that hold one socket the one with the highest number counts, so that
        systemd, which holds the daemon's, is named only where it is alone."""
        left = _MAX_DESCRIPTORS
        for process in sorted(int(name) for name in self._files.names("/proc").value or () if _is_number(name)):
            for name in self._files.names(f"/proc/{process}/fd").value or ():
                left -= 1
                if left < 0:
                    return
                match = re.fullmatch(r"socket:\[(\d{1,19})\]", self._files.link(f"/proc/{process}/fd/{name}"))
                if match is not None:
                    yield int(match[1]), process


def _users(files: HostFiles, owners: _Owners, protocol: str, wanted: Container[int]) -> Look[tuple[PortUser, ...]]:
    """From /proc/net/tcp and its like (Linux net/ipv4/tcp_ipv4.c, tcp4_seq_show)."""
    found: dict[tuple[int, str], None] = {}
    for name in (protocol, f"{protocol}6"):
        text = files.text(f"/proc/net/{name}", _BYTES)
        if text.unread or text.bad or (text.absent and name == protocol):
            return Look(unread=text.unread or text.bad or f"/proc/net/{name} is not there")
        for line in (text.value or "").splitlines()[1:]:
            words = line.split()
            if len(words) < 10 or (protocol == "tcp" and words[3] != _LISTEN):
                continue
            port, inode = words[1].rpartition(":")[2], words[9]
            if re.fullmatch("[0-9A-F]{4}", port) and _is_number(inode) and int(port, 16) in wanted:
                found[int(port, 16), owners.of(int(inode))] = None
    return Look(tuple(PortUser(port=port, owner=owner) for port, owner in sorted(found)))


def _is_number(text: str) -> bool:
    return text.isascii() and text.isdecimal() and len(text) < 20


def _chains(run: Run, kernel: KernelFacts) -> Look[tuple[FilterChain, ...]]:
    """nft is asked only where the kernel has nf_tables already: to ask would load it."""
    if kernel.modules.value is not None and not kernel.loaded("nf_tables", "NF_TABLES"):
        return Look(())
    listed = run(["nft", "--json", "list", "ruleset"])
    return listed.then(filter_chains)


def filter_chains(text: str) -> Look[tuple[FilterChain, ...]]:
    """Chains at the hooks for packets to and from this host, of what `nft --json list ruleset` prints
    (libnftables-json(5)); without Shamon's own tables."""
    try:
        items = json.loads(text)["nftables"]
        return Look(tuple(_filter_chains(items)))
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        return Look(bad=f"what nft prints cannot be understood: {type(error).__name__}")


def _filter_chains(items: Any) -> Iterator[FilterChain]:
    chains = [item["chain"] for item in items if "chain" in item]
    rules: dict[_Chain, list[Any]] = {}
    for item in items:
        if "rule" in item:
            rule = item["rule"]
            rules.setdefault((str(rule["family"]), str(rule["table"]), str(rule["chain"])), []).append(rule["expr"])
    for chain in chains:
        family, table, hook = str(chain["family"]), str(chain["table"]), str(chain.get("hook", ""))
        if hook not in _HOOKS or table in NFT_TABLES or family not in ("ip", "ip6", "inet"):
            continue
        reached = _reached(rules, (family, table, str(chain["name"])))
        accepting = [json.dumps(rule) for rule in reached if _verdict(rule, "accept")]
        yield FilterChain(
            name=f"{family} {table} {chain['name']}",
            hook=hook,
            policy=str(chain.get("policy", "accept")),
            rules=len(reached),
            drops=any(_verdict(rule, "drop") or _verdict(rule, "reject") for rule in reached),
            esp=any('"esp"' in rule or re.search(r'"right": 50\b', rule) for rule in accepting),
        )


def _reached(rules: Mapping[_Chain, list[Any]], start: _Chain) -> list[Any]:
    """Rules of a chain and of those that it leads to, each once."""
    found: list[Any] = []
    waiting, seen = [start], {start}
    while waiting:
        for rule in rules.get(waiting.pop(), ()):
            found.append(rule)
            for statement in rule:
                for verb in ("jump", "goto"):
                    if isinstance(statement, dict) and isinstance(statement.get(verb), dict):
                        target = (start[0], start[1], str(statement[verb].get("target")))
                        if target not in seen:
                            seen.add(target)
                            waiting.append(target)
    return found


def _verdict(rule: Any, name: str) -> bool:
    return any(isinstance(statement, dict) and name in statement for statement in rule)

# SPDX-License-Identifier: Apache-2.0
"""The packet filter of the appliance, a table of its own beside the gateway's (gateway/net/nft.py).

Rule: management (SSH, the stats endpoint) comes from the management side only, whatever listens where; the WAN reaches
the VPN's UDP ports and nothing else. The box routes between the tunnel and the rest, never between WAN and LAN.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Final, NamedTuple

TABLE: Final = "appliance"
SSH_PORT: Final = 22
# The first of these in which no port of the VPN lies; a gateway has at most a handful.
NAT_PORTS: Final = tuple(range(start, start + 4000) for start in range(20000, 60000, 4000))

_TEMPLATE: Final = """\
#!/usr/sbin/nft -f
# Made by jvpn-appliance. Rules of your own: /data/network/*.nft, read after these.
table inet {table}
delete table inet {table}
table inet {table} {{
    chain raw_in {{
        type filter hook prerouting priority raw; policy accept;
        # The tunnel's own datagrams are not tracked: whoever floods the port must not fill the table of connections.
        {untracked_in}
    }}
    chain raw_out {{
        type filter hook output priority raw; policy accept;
        {untracked_out}
    }}
{nat}    chain input {{
        type filter hook input priority filter; policy drop;
        iifname "lo" accept
        {vpn}
        # Before the state is asked: errors about untracked datagrams belong to no connection; path MTU needs them.
        icmp type {{ destination-unreachable, time-exceeded, parameter-problem }} limit rate 200/second accept
        icmpv6 type {{ 1, 2, 3, 4 }} limit rate 200/second accept
        icmpv6 type {{ nd-neighbor-solicit, nd-neighbor-advert, nd-router-advert, mld-listener-query }} accept
        icmp type echo-request limit rate 50/second accept
        icmpv6 type echo-request limit rate 50/second accept
        ct state established,related accept
        ct state invalid counter drop
        udp sport 67 udp dport 68 accept
        ip6 saddr fe80::/10 udp sport 547 udp dport 546 accept
        {management}
        counter drop
    }}
    chain forward {{
        type filter hook forward priority filter; policy drop;
        iifname "{tunnel}" accept
        oifname "{tunnel}" ct state established,related accept
        {from_lan}
        counter drop
    }}
}}
{include}
"""


class Sides(NamedTuple):
    """What the policy is made of."""

    tunnel: str
    lan: Sequence[str]
    management: Sequence[str]
    vpn_ports: Sequence[int]
    stats_ports: Sequence[int]
    nat: bool = True
    nat_out: str = ""


def ruleset(sides: Sides, own_rules: str = "") -> str:
    """The text for ``nft -f``. ``own_rules``: a pattern of files to include, '' for none."""
    ports = _set(map(str, sides.vpn_ports))
    guarded = _set(map(str, (SSH_PORT, *sides.stats_ports)))
    sources, lan = _names(sides.management), _names(sides.lan)
    return _TEMPLATE.format(
        table=TABLE,
        tunnel=sides.tunnel,
        untracked_in=f'iifname != "{sides.tunnel}" udp dport {ports} notrack' if ports else "",
        untracked_out=f"udp sport {ports} notrack" if ports else "",
        nat=_nat(sides),
        vpn=f"udp dport {ports} accept" if ports else "",
        management=f"iifname {sources} tcp dport {guarded} accept" if sources else "",
        from_lan=f'iifname {lan} oifname "{sides.tunnel}" accept' if lan else "",
        include=f'include "{own_rules}"' if own_rules else "",
    )


def _nat(sides: Sides) -> str:
    """A client inside of the tunnel may send from the very ports of the VPN: answers to these would not be tracked."""
    if not sides.nat or not sides.vpn_ports:
        return ""
    free = next(span for span in NAT_PORTS if not any(port in span for port in sides.vpn_ports))
    out = f'oifname "{sides.nat_out}"' if sides.nat_out else f'oifname != "{sides.tunnel}"'
    ports = _set(map(str, sides.vpn_ports))
    return f"""\
    chain nat_out {{
        # Before the gateway's own translation, which would keep such a port.
        type nat hook postrouting priority srcnat - 1; policy accept;
        iifname "{sides.tunnel}" {out} udp sport {ports} masquerade to :{free.start}-{free.stop - 1} random
    }}
"""


def _names(interfaces: Sequence[str]) -> str:
    return _set(f'"{name}"' for name in interfaces)


def _set(members: Iterable[str]) -> str:
    texts = sorted(set(members))
    return "{ " + ", ".join(texts) + " }" if texts else ""
